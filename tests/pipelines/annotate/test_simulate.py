"""Simulated rounds of active learning."""

import numpy as np
import pytest
from pydantic import ValidationError

from raymill.pipelines.annotate.config import AnnotateConfig
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.rounds import next_round
from raymill.pipelines.annotate.simulate import KnownRecords, interval, labels_to_reach, simulate, summary
from tests.support.annotate_inline import annotate_inline, settings_of, simulated_answers, write_records


def rows_of(strategy: str, seed: int, accuracies: list[float], stability: float = 0.5) -> list[dict]:
    return [
        {"strategy": strategy, "seed": seed, "round": at + 1, "labels": 10 * (at + 1), "accuracy": one, "macro_f1": one,
         "stability": stability if at else None}
        for at, one in enumerate(accuracies)
    ]  # fmt: skip


def test_differences_are_paired_by_seed_and_have_intervals():
    rows = [row for seed in range(3) for row in rows_of("random", seed, [0.5, 0.6 + seed / 10, 0.7 + seed / 10])]
    rows += [row for seed in range(3) for row in rows_of("margin", seed, [0.5, 0.7 + seed / 10, 0.8 + seed / 10])]
    rows += [row for seed in range(3) for row in rows_of("entropy", seed, [0.5, 0.5, 0.6 + (seed == 0) / 2])]
    found = {one["strategy"]: one for one in summary(rows)["strategies"]}
    margin = found["margin"]
    assert margin["difference"] == pytest.approx(0.1)
    assert (margin["low"], margin["high"]) == pytest.approx((0.1, 0.1))
    assert margin["verdict"] == "better than random"
    # Random ends at 0.8 with 30 labels; margin has 0.8 with 20.
    assert (margin["labels_to_reach_random"], margin["labels_saved"]) == (20, 10)
    assert found["entropy"]["verdict"] == "no difference"
    assert found["entropy"]["labels_saved"] is None


def test_interval_by_students_t():
    assert interval([1.0]) == (1.0, None, None)
    mean, low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])  # t(4) is 2.776, the standard error .7071
    assert (mean, low, high) == pytest.approx((3, 3 - 1.9634, 3 + 1.9634), abs=1e-3)


def test_labels_are_counted_between_points():
    curve = [{"labels": 10, "accuracy": 0.5}, {"labels": 20, "accuracy": 0.7}]
    assert labels_to_reach(curve, 0.6) == 15
    assert labels_to_reach(curve, 0.4) == 10
    assert labels_to_reach(curve, 0.8) is None


def test_stable_predictions_stop_and_say_what_was_lost():
    rows = rows_of("random", 0, [0.5, 0.7, 0.8, 0.8, 0.9], stability=0.995) + rows_of("margin", 0, [0.5] * 5)
    stopping = {one["strategy"]: one for one in summary(rows)["stopping"]}
    assert stopping["random"]["labels"] == 40
    assert stopping["random"]["accuracy_lost"] == pytest.approx(0.1)
    assert stopping["margin"]["labels"] is None


def test_strategies_of_a_seed_begin_alike_and_never_label_a_record_twice():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200)
    texts = [f"{'good' if label else 'bad'} number {random.integers(0, 50)}" for label in labels]
    records = KnownRecords(texts, labels, ["no", "yes"], np.arange(200, dtype=np.uint64))
    found = {name: simulate(records, name, 1, 20, 10, 0.3) for name in ("random", "margin", "diversity")}
    assert len({rows[0]["accuracy"] for rows in found.values()}) == 1
    for rows in found.values():
        assert [row["labels"] for row in rows] == list(range(10, 141, 10))
        assert rows[-1]["accuracy"] == 1.0
    assert found["margin"] == simulate(records, "margin", 1, 20, 10, 0.3)


def test_a_simulation_is_a_run_with_curves_and_a_page(tmp_path, monkeypatch):
    path = write_records(tmp_path / "in.parquet", 150, known=lambda number: "rare" if number == 7 else "login")
    given = {"label": "label", "rounds": 3, "seeds": 2, "strategies": ["random", "entropy"]}
    settings = settings_of(path, tmp_path / "out", choose={"count": 10}, simulate=given)
    run = annotate_inline(settings, monkeypatch)
    assert run.report["records"] == 150
    assert run.artifact("curves").rows == 2 * 2 * 3
    assert "entropy" in str(run) and "beside random" in run.table[0]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Learning curves" in page and "<svg" in page and "Labels saved" in page
    wrong = annotate_inline(settings | {"simulate": given | {"label": "known"}, "output": str(tmp_path / "b")},
                            monkeypatch)  # fmt: skip
    assert wrong.warnings == ["1 record without one of the labels: left out."]
    with pytest.raises(ValidationError, match="random is compared"):
        AnnotateConfig.model_validate(settings | {"simulate": {"label": "x", "strategies": ["margin", "entropy"]}})


def test_rounds_follow_each_other_and_show_what_the_classifier_is_worth(tmp_path, monkeypatch):
    path = write_records(tmp_path / "in.parquet", 300)
    choose = {"count": 30, "uncertainty": 0.5}
    settings = settings_of(path, tmp_path / "rounds", choose=choose)
    config = AnnotateConfig.model_validate(settings)

    def make(one):
        return annotate_inline(one.model_dump(), monkeypatch)

    for number in (1, 2, 3):
        found = next_round(config, make)
        assert (found["round"], found["left"]) == (number, 30)
        again = next_round(config, make)
        assert (again["round"], again["left"]) == (number, 30)  # nothing is labelled yet
        round = Round.at(config.store, found["output"])
        round.answers.add(simulated_answers(round, {"a1": 1, "a2": 1, "a3": 1}))
    found = next_round(config, make)
    assert [row["labels"] for row in found["learning"]] == [0, 30, 60]
    assert found["learning"][1]["accuracy"] > 0.9 and found["learning"][1]["tasks"] == 15
    assert "round 2: trained on 30 labels" in found.text
    ids = [row.id for number in (1, 2, 3, 4) for row in Round.at(config.store, f"{tmp_path}/rounds/{number}").tasks]
    assert len(set(ids)) == len(ids) == 120
