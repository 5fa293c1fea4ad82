"""Stopping rules of rounds, and what labels cost."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from raymill.cluster.errors import ConfigError, StorageError
from raymill.pipelines.annotate.config import AnnotateConfig, Rounds
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.rounds import next_round
from raymill.pipelines.annotate.stopping import is_stable, predicted_gain
from tests.support.annotate_inline import annotate_inline, settings_of, simulated_answers, write_records

_MANY = 10**8


def right_of(labels: int) -> int:
    """Right predictions of `_MANY` by an error rate of 2 / sqrt(labels)."""
    return round(_MANY * (1 - 2 / labels**0.5))


def test_the_gain_of_a_power_law_is_predicted():
    labels = [100, 400, 900]
    gain = predicted_gain(labels, [right_of(one) for one in labels], [_MANY] * 3, 1600, 900)
    assert gain is not None
    assert gain.value == pytest.approx(2 / 40 - 2 / 50, abs=1e-6)
    assert gain.low < gain.value < gain.high and gain.high - gain.low < 1e-4


def test_without_two_sizes_nothing_is_predicted():
    assert predicted_gain([0, 100], [5, 50], [10, 100], 200, 100) is None
    assert predicted_gain([100, 100], [50, 50], [100, 100], 200, 100) is None
    assert predicted_gain([], [], [], 200, 100) is None


def test_a_curve_that_falls_has_no_gain_and_one_without_an_error_a_small_one():
    falling = predicted_gain([100, 200], [900, 500], [1000, 1000], 300, 100)
    assert falling is not None and falling.value == 0
    perfect = predicted_gain([100, 200], [50, 50], [50, 50], 300, 100)
    assert perfect is not None and 0 <= perfect.value < 0.01


def test_measurements_with_few_labels_are_left_out_and_two_always_count():
    labels = [10, 20, 100, 120]
    right = [0, 5, right_of(100), right_of(120)]
    gain = predicted_gain(labels, right, [10, 10, _MANY, _MANY], 150, 50)
    assert gain is not None and gain.value == pytest.approx(2 / 150**0.5 - 2 / 200**0.5, abs=1e-6)
    assert predicted_gain([10, 1000], [5, 90], [10, 100], 1100, 100) is not None


def test_the_interval_holds_the_true_gain_in_about_95_of_100_samples():
    random, held = np.random.default_rng(1), 0
    labels, tested = [50, 100, 150, 200], [200] * 4
    truth = 2 / 250**0.5 - 2 / 300**0.5
    for _ in range(200):
        right = [int(random.binomial(200, 1 - 2 / one**0.5)) for one in labels]
        gain = predicted_gain(labels, right, tested, 250, 50)
        assert gain is not None
        held += gain.low <= truth <= gain.high
    assert 180 <= held <= 199


def test_three_kappas_are_needed_for_stable_predictions():
    assert is_stable([0.5, 0.99, 0.99, 0.99])
    assert not is_stable([0.99, 0.99]) and not is_stable([None, 0.99, 0.99]) and not is_stable([0.99, 0.98, 0.99])


def _rounds(tmp_path, monkeypatch, records: int = 400, **rounds):
    path = write_records(tmp_path / "in.parquet", records)
    settings = settings_of(path, tmp_path / "rounds", choose={"count": 30, "uncertainty": 0.5}, rounds=rounds)
    config = AnnotateConfig.model_validate(settings)

    def step():
        return next_round(config, lambda one: annotate_inline(one.model_dump(), monkeypatch))

    def label(found):
        round = Round.at(config.store, found["output"])
        round.answers.add(simulated_answers(round, {"a1": 1, "a2": 1, "a3": 1}))

    return step, label


def test_rounds_stop_when_the_budget_is_spent_and_the_ledger_is_kept(tmp_path, monkeypatch):
    step, label = _rounds(tmp_path, monkeypatch, price=0.5, budget=65)
    found = step()
    assert found["ledger"] == [] and found["stopping"] == []
    label(found)
    found = step()  # 30 tasks by two annotators
    first = {"round": 1, "labels": 60, "skipped": 0, "untimed": 0, "cost": 30.0}
    assert found["ledger"][0].items() >= first.items() and found["ledger"][0]["seconds"] > 300
    assert found["round"] == 2 and found["stopped"] is None
    assert "budget: 30 of 65 spent; the next round costs 30" in found.text
    label(found)
    found = step()
    assert (found["round"], found["left"], found["stopped"]) == (2, 0, "budget")
    assert "No further round: budget. To go on, change `rounds.budget`." in found.text
    assert "all rounds: 120 labels by annotators" in found.text and "cost 60" in found.text
    assert not (tmp_path / "rounds" / "3").exists()
    stored = json.loads((tmp_path / "rounds" / "rounds.json").read_text())
    assert stored == dict(found)


def test_rounds_stop_when_a_gain_is_worth_less_than_it_costs(tmp_path, monkeypatch):
    step, label = _rounds(tmp_path, monkeypatch, price=0.5, point_value=0.1)
    for _ in range(4):
        label(found := step())
        assert found["stopped"] is None
        if found["round"] == 3:
            (rule,) = [one for one in found["stopping"] if one["rule"] == "predicted gain"]
            assert rule["gain"] is None  # one round alone has predictions of a classifier that learned from labels
            assert found["learning"][1]["stability"] is not None
            break
    found = step()
    (rule,) = [one for one in found["stopping"] if one["rule"] == "predicted gain"]
    assert rule["low"] <= rule["gain"] <= rule["high"] < 3
    assert found["stopped"] == "predicted gain" and "at a cost of 30" in rule["evidence"]


def test_without_a_price_no_round_is_refused(tmp_path, monkeypatch):
    step, label = _rounds(tmp_path, monkeypatch)
    for number in (1, 2, 3, 4):
        found = step()
        assert (found["round"], found["stopped"]) == (number, None)
        label(found)
    assert [row["cost"] for row in found["ledger"]] == [None] * 3
    kappas = [row["stability"] for row in found["learning"]]
    assert kappas[0] is None and 0 <= kappas[1] < kappas[2] <= 1


@pytest.mark.parametrize("stops", [True, False])
def test_rounds_stop_when_predictions_are_stable_if_that_is_wanted(tmp_path, monkeypatch, stops):
    step, label = _rounds(tmp_path, monkeypatch, stop_when_stable=stops)
    for number in range(1, 9):
        found = step()
        (rule,) = [one for one in found["stopping"] if one["rule"] == "stable predictions"] or [{"stable": False}]
        if rule["stable"]:
            break
        assert found["stopped"] is None and found["round"] == number
        label(found)
    assert rule["stable"] and "stable from a mean of 0.99 on" in found.text and rule["stops"] == stops
    last = [row["stability"] for row in found["learning"]][-3:]
    assert sum(last) / 3 >= 0.99
    if stops:
        assert (found["round"], found["left"], found["stopped"]) == (number - 1, 0, "stable predictions")
        assert "No further round: stable predictions. To go on, change `rounds.stop_when_stable`." in found.text
        assert not (tmp_path / "rounds" / str(number)).exists()
    else:
        assert (found["round"], found["stopped"]) == (number, None) and "think about stopping" in found.text


def test_a_config_of_another_kind_is_refused_before_the_first_round(tmp_path, monkeypatch):
    (tmp_path / "curate.yaml").write_text("kind: curate\n")
    step, _ = _rounds(tmp_path, monkeypatch, train=str(tmp_path / "curate.yaml"))
    with pytest.raises(ConfigError, match=r"rounds\.train: .*curate\.yaml: kind is 'curate'; train was wanted"):
        step()
    assert not (tmp_path / "rounds").exists()


def test_a_budget_needs_a_price():
    for name in ("budget", "point_value"):
        with pytest.raises(ValidationError, match=f"{name}: needs `price`"):
            Rounds.model_validate({name: 5})


def test_a_round_that_is_a_link_out_of_the_folder_is_refused(tmp_path, monkeypatch):
    step, _ = _rounds(tmp_path, monkeypatch)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/report.json").write_text("MINE")
    (tmp_path / "rounds").mkdir()
    (tmp_path / "rounds/1").symlink_to(tmp_path / "mine")
    with pytest.raises(StorageError, match="a link to"):
        step()
    assert [one.read_text() for one in (tmp_path / "mine").iterdir()] == ["MINE"]
