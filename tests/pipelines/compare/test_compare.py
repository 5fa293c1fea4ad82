"""Comparisons of planted models: verdicts, slices, the judge, the gate, and runs that are stopped."""

import hashlib
import json
import math
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.artifact import describe_schema
from raymill.cluster.config import load_values
from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.frame.calls import config_of
from raymill.cluster.frame.dry_run import dry_run_lines
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.pipelines.compare.config import CompareConfig, GateBounds
from raymill.pipelines.compare.gate import decided
from raymill.pipelines.compare.job import CompareJob
from raymill.pipelines.compare.plan import plan_comparison
from raymill.pipelines.paired import equal_groups, holm
from tests.support import inline
from tests.support.compare_inline import compare_inline as run
from tests.support.compare_inline import planted
from tests.support.generate_inline import rows


def score(made, at=0):
    return made.report["comparisons"][at]["measures"]["score"]


def test_a_better_model_is_found_and_a_worse_one(config, server, monkeypatch, tmp_path):
    made = run(config, monkeypatch)
    found = made.outcome
    assert found["verdict"] == "A" and found["low"] > 0 and found["p"] < 0.001
    assert found["items"] == made.report["items"] == 240
    answers = {name: rows(made, f"answers_of.{name}") for name in "AB"}
    right = {name: sum(one["content"] != "I do not know" for one in some) for name, some in answers.items()}
    assert found["difference"] == pytest.approx((right["A"] - right["B"]) / 240, abs=1e-9)
    assert server.stats()["requests"] == 480
    turned = config | {"models": config["models"][::-1], "output": str(tmp_path / "turned")}
    other = run(turned, monkeypatch).outcome
    assert (other["verdict"], other["low"], other["high"]) == (
        "B",
        pytest.approx(-found["high"]),
        pytest.approx(-found["low"]),
    )


def test_a_model_against_itself_is_undecided(config, server, monkeypatch):
    made = run(
        config | {"models": [planted(server, "right-90")] * 2, "gate": {"score": {"least_gain": 0}}}, monkeypatch
    )
    assert made.outcome["verdict"] == "undecided" and made.outcome["needed"] is None
    assert (made.report["decision"], made.report["passed"], made.exit_code) == ("undecided", False, 2)
    assert all(row["verdict"] == "undecided" for row in made.report["comparisons"][0]["slices"])


def test_three_models_are_corrected_for_two_comparisons(config, server, monkeypatch):
    made = run(config | {"models": [*config["models"], planted(server, "right-89")]}, monkeypatch)
    p = [score(made, at)["p"] for at in (0, 1)]
    assert [score(made, at)["p_corrected"] for at in (0, 1)] == pytest.approx([2 * p[0], max(2 * p[0], p[1])])
    assert made.outcome["comparisons"][1]["b"] == "C"
    comparisons = made.report["comparisons"]
    others = [row for one in comparisons for name, row in one["measures"].items() if name != "score"]
    for family in (others, [row for one in comparisons for row in one["slices"]]):
        assert [row["p_corrected"] for row in family] == pytest.approx(holm([row["p"] for row in family]))


def test_a_cheaper_model_that_is_not_decidedly_worse_is_recommended(config, server, monkeypatch, tmp_path):
    prices = [{"input": one, "output": one} for one in (9.0, 1.0, 0.1)]
    names = "right-90", "right-88", "right-60"
    models = [planted(server, name, prices=price) for name, price in zip(names, prices, strict=True)]
    made = run(config | {"models": models}, monkeypatch)
    found, rows_ = made.outcome["recommendation"], made.outcome["approaches"]
    assert found["model"] == "B" and any("C is decidedly worse than" in one for one in found["reasons"])
    assert [row["method"] for row in rows_] == ["endpoint"] * 3 and rows_[0]["stored_bytes"] is None
    answer = rows_[1]["answer"]
    assert answer["money"] == pytest.approx((answer["input_tokens"] + answer["output_tokens"]) * 1e-6)
    assert rows_[1]["training"] is None and rows_[1]["forgetting"] is None
    for said in ("recommended: B", *found["reasons"]):
        assert said in str(made)
    page = (tmp_path / "out/report.html").read_text()
    assert page.index("Recommendation") < page.index("Approaches") and found["reasons"][-1] in page


def test_pairs_of_models_beside_the_best_are_corrected_for_all_of_them(config, server, monkeypatch):
    """A is not the best: C is, and each of the three pairs counts."""
    models = [planted(server, f"right-{one}") for one in (60, 61, 90)]
    made = run(config | {"models": models}, monkeypatch)
    assert made.outcome["recommendation"]["reasons"][0].startswith("C has the highest score")
    beside = score(made, 1)  # A - C
    (reason,) = [one for one in made.outcome["recommendation"]["reasons"] if one.startswith("A is decidedly worse")]
    assert f"{beside['difference']:+.3f}" in reason and made.outcome["recommendation"]["model"] == "C"


def test_refusals_are_counted_and_bounded_by_the_gate(config, server, monkeypatch):
    gate = {"refused": {"least_gain": 0.1}}  # as on prompts that should be refused
    made = run(
        config | {"models": [planted(server, "refuses-30"), planted(server, "right-30")], "gate": gate}, monkeypatch
    )
    row = made.report["comparisons"][0]["measures"]["refused"]
    assert row["difference"] == pytest.approx(0.7, abs=0.1) and row["verdict"] == "A"
    assert made.report["passed"] is True


def test_slices_by_field_find_where_a_model_is_worse(config, server, monkeypatch, tmp_path):
    """The first model is wrong on the phone alone; the gate's guard of slices stops it."""
    models = [planted(server, "right-30-of-phone"), planted(server, "right-100")]
    gate = {"score": {"most_loss": 0.5, "most_slice_loss": 0.1}}
    made = run(config | {"models": models, "gate": gate, "gaps": ["channel"]}, monkeypatch)
    gaps = {(letter, row["measure"]): row for letter in "AB" for row in made.report["models"][letter]["gaps"]}
    assert gaps["A", "score"]["low"] > 0.4 and gaps["A", "score"]["groups"]["mail"] == 1
    assert gaps["A", "equalised odds of login"]["gap"] > 0.4 and gaps["B", "score"]["gap"] == 0
    assert "Gaps between groups" in (tmp_path / "out/report.html").read_text()
    first = made.report["comparisons"][0]["slices"][0]
    assert first["slice"] == "channel = phone" and first["verdict"] == "B" and first["high"] < -0.4
    (mail,) = [one for one in made.report["comparisons"][0]["slices"] if one["slice"] == "channel = mail"]
    assert mail["difference"] == 0 and mail["verdict"] == "undecided"
    loss, slices = made.report["gate"]
    assert (loss["state"], slices["state"], made.report["decision"]) == ("passed", "failed", "keep")
    assert "channel = phone" in slices["text"]


def test_regressions_have_their_texts(config, monkeypatch, tmp_path):
    made = run(config | {"models": config["models"][::-1]}, monkeypatch)
    found = made.report["comparisons"][0]
    assert found["regressed"] > found["improved"] and len(found["regressions"]) == 10
    worst = found["regressions"][0]
    assert (worst["a"], worst["b"], worst["score_a"], worst["score_b"]) == ("I do not know", worst["reference"], 0, 1)
    page = (tmp_path / "out/report.html").read_text()
    assert worst["prompt"].replace("'", "&#39;") in page and "Regressions A - B" in page


def test_groups_are_drawn_together(config, monkeypatch):
    made = run(config | {"group": "channel"}, monkeypatch)
    assert made.report["groups"] == 2 and score(made)["groups"] == 2
    assert made.outcome["verdict"] == "undecided", "two groups cannot decide: p is 0.5 at least"


def test_the_judge_is_asked_in_both_orders_and_a_flip_is_a_tie(config, server, monkeypatch, tmp_path):
    made = run(config | {"judge": {"model": planted(server, "judge")}}, monkeypatch)
    judge, row = made.report["comparisons"][0]["judge"], made.report["comparisons"][0]["measures"]["judge"]
    assert row["difference"] == pytest.approx(score(made)["difference"], abs=1e-9), "it prefers the right answer"
    assert (judge["flipped"], judge["unread"]) == (0, 0) and row["verdict"] == "A"
    assert judge["wins"] + judge["ties"] + judge["losses"] == 240
    asked = server.stats()["requests"] - 480
    assert asked == 2 * judge["asked"], "equal answers are not judged"
    seat = run(config | {"judge": {"model": planted(server, "first")}, "output": str(tmp_path / "seat")}, monkeypatch)
    judge = seat.report["comparisons"][0]["judge"]
    assert judge["flipped"] == judge["asked"] and judge["wins"] == judge["losses"] == 0
    assert judge["first_shown_wins"]["share"] == 1
    assert seat.report["comparisons"][0]["measures"]["judge"]["verdict"] == "undecided"


def test_a_gate_promotes_keeps_or_is_undecided_and_its_decision_is_a_file(config, monkeypatch, tmp_path):
    made = run(config | {"gate": {"score": {"least_gain": 0.0}}}, monkeypatch)
    assert (made.report["decision"], made.report["passed"], made.exit_code) == ("promote", True, 0)
    decision = json.loads((tmp_path / "out/decision.json").read_text())
    assert decision["passed"] is True and decision["gate"][0]["least"] == 0 and len(decision["data"]["digest"]) == 32
    more = run(config | {"gate": {"score": {"least_gain": 0.9}}, "output": str(tmp_path / "keep")}, monkeypatch)
    assert (more.report["decision"], more.exit_code) == ("keep", 2)
    for passed in ("false", 0, 1, None, []):
        assert replace(made, report=made.report | {"passed": passed}).exit_code == 2


@pytest.mark.parametrize(
    ("bounds", "row", "state"),
    [
        ({"least_gain": 0.0}, (0.01, 0.05), "passed"),
        ({"least_gain": 0.0}, (0.0, 0.05), "undecided"),
        ({"least_gain": 0.02}, (0.01, 0.05), "undecided"),
        ({"least_gain": 0.05}, (0.01, 0.05), "undecided"),
        ({"least_gain": 0.06}, (0.01, 0.05), "failed"),
        ({"most_loss": 0.01}, (-0.005, 0.02), "passed"),
        ({"most_loss": 0.01}, (-0.02, 0.02), "undecided"),
        ({"most_loss": 0.01}, (-0.05, -0.02), "failed"),
    ],
)
def test_bounds_of_a_gate_by_hand(bounds, row, state):
    low, high = row
    measure = measured(low, high)
    compared = [beside_b({"score": measure})]
    assert decided({"score": GateBounds(**bounds)}, compared)["gate"][0]["state"] == state


def measured(low, high, **more):
    found = {"difference": (low + high) / 2, "low": low, "high": high, "items": 100, "one_sided": 0, "p_corrected": 1.0}
    return found | more


def beside_b(measures, slices=(), **more):
    return {"b": "B", "measures": measures, "slices": slices, "fields_left_out": 0, "equal_groups": None} | more


def test_the_items_that_decide_a_bound_by_hand():
    """An interval of half-width 0.04 around 0.02, 0.01 above the bound: 100 (1.4294 x 0.04 / 0.01)^2 items."""
    compared = [beside_b({"score": measured(-0.02, 0.06)})]
    (row,) = decided({"score": GateBounds(least_gain=0.01)}, compared)["gate"]
    assert row["needed"] == 3270 - 100 and "; about 3,170 more items decide it" in row["text"]
    # 100 (1.4294 x 0.0355 / 0.06)^2 = 71.5, of an interval that is longer below than above
    compared = [beside_b({"score": measured(-0.01, 0.061, difference=0.06)})]
    (row,) = decided({"score": GateBounds(least_gain=0.0)}, compared)["gate"]
    assert (row["state"], row["needed"]) == ("undecided", 1)


@pytest.mark.parametrize(
    ("high", "p", "state"), [(-0.11, 0.05, "failed"), (-0.11, 0.06, "passed"), (-0.1, 0.05, "passed")]
)
def test_a_slice_stops_a_model_if_its_interval_is_beyond_the_bound_and_its_p_is_small(high, p, state):
    slices = [measured(-0.3, high, p_corrected=p, slice="channel = phone")]
    compared = [beside_b({"score": measured(0.1, 0.2)}, slices)]
    (row,) = decided({"score": GateBounds(most_slice_loss=0.1)}, compared)["gate"]
    assert row["state"] == state
    (row,) = decided({"score": GateBounds(most_slice_loss=0.1)}, [compared[0] | {"fields_left_out": 6}])["gate"]
    assert (
        row["state"] == {"passed": "undecided"}.get(state, state) and "6 metadata fields without slices" in row["text"]
    )


def test_few_groups_meet_no_bound():
    """With one group, the interval is the difference itself, from the model's gain to its loss."""
    assert equal_groups(["a"] * 103 + [*"bcdef"]) == pytest.approx(108**2 / (103**2 + 5))
    assert equal_groups("aabbcc") == 3
    for groups, state in ((1, "undecided"), (5.9, "undecided"), (6, "passed"), (None, "passed")):
        bounds = GateBounds(least_gain=0.0, most_slice_loss=0.1)
        found = decided({"score": bounds}, [beside_b({"score": measured(0.1, 0.2)}, equal_groups=groups)])["gate"]
        assert [row["state"] for row in found] == [state] * 2
        assert state == "passed" or f"as good as {groups} of equal size" in found[0]["text"]


def test_a_failed_bound_decides_beside_an_undecided_one():
    measures = {"score": measured(-0.2, -0.1), "f1": measured(-0.1, 0.1)}
    gate = {"f1": GateBounds(least_gain=0.0), "score": GateBounds(least_gain=0.0)}
    assert decided(gate, [beside_b(measures)])["decision"] == "keep"


def test_a_model_whose_server_counts_no_tokens_wins_no_gate_on_them(config, server, monkeypatch):
    """Zero tokens at zero cost were less than those of the other model."""
    prices = {"input": 1.0, "output": 2.0}
    models = [planted(server, name, prices=prices) for name in ("silent-90", "right-90")]
    gate = {name: {"least_gain": 0.0} for name in ("output_tokens", "cost")}
    made = run(config | {"models": models, "gate": gate}, monkeypatch)
    assert {row["state"] for row in made.report["gate"]} == {"undecided"} and made.exit_code == 2
    assert not {"output_tokens", "cost"} & made.report["models"]["A"]["measures"].keys()
    assert {"output_tokens", "cost"} <= made.report["models"]["B"]["measures"].keys()
    assert made.report["models"]["A"]["uncounted"] == 240 and made.report["models"]["B"]["uncounted"] == 0
    assert "A: 240 answers without the numbers of tokens" in made.warnings[0] and "output_tokens: no item" in str(made)


def test_a_bound_on_what_is_not_measured_is_undecided():
    bounds = GateBounds(least_gain=0.0, most_loss=0.1, most_slice_loss=0.2)
    found = decided({"cost": bounds}, [beside_b({})])
    assert [(row["bound"], row["state"]) for row in found["gate"]] == [
        (name, "undecided") for name in ("least_gain", "most_loss", "most_slice_loss")
    ]
    assert (found["decision"], found["passed"]) == ("undecided", False)


def test_a_bound_on_what_one_model_lacks_for_some_items_is_undecided():
    """A model has no value where its template fails, which may be where it is worse."""
    compared = [beside_b({"f1": measured(0.1, 0.2, one_sided=1)})]
    (row,) = decided({"f1": GateBounds(least_gain=0.0)}, compared)["gate"]
    assert row["state"] == "undecided" and row["text"].startswith("f1: 1 item with a finite value for one model only")


@pytest.mark.parametrize("first", [0, 1])
def test_a_large_number_in_an_answer_counts_as_a_large_one(config, server, monkeypatch, tmp_path, first):
    """Squares of 1e200 are infinite, and intervals of them no numbers."""
    (tmp_path / "nearness.py").write_text(
        "def near(record):\n    return -1e200 * record['generated'].startswith('I')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    models = [planted(server, name) for name in ("right-90", "right-10")]
    settings = config | {"models": models[::-1] if first else models, "custom": ["nearness:near"]}
    plain = load_values({"kind": "compare"} | settings | {"gate": {"near": {"least_gain": 0.0}}}, "compare")
    with monkeypatch.context() as patch:
        inline.without_ray(patch, None)
        made = CompareJob(plain).run(Session(), Progress())
    row = made.report["comparisons"][0]["measures"]["near"]
    assert any("values above 1e100 count as 1e100" in one and "near" in one for one in made.report["warnings"])
    assert row["verdict"] == "AB"[first] and math.isfinite(row["low"]) and made.report["passed"] is (first == 0)


@pytest.mark.parametrize("far", [1e-170, 1e100])
def test_items_beyond_all_bounds_are_not_stated(far):
    """The interval is 1e4 times as long as its distance from the bound, or more, of any size."""
    compared = [beside_b({"f1": measured(-far, far, difference=far * 1e-60)})]
    (row,) = decided({"f1": GateBounds(least_gain=0.0)}, compared)["gate"]
    assert (row["state"], row["needed"]) == ("undecided", None) and "more item" not in row["text"]


def test_without_a_gate_nothing_is_decided():
    compared = [beside_b({"score": measured(0.1, 0.2)})]
    assert decided({}, compared) == {"gate": [], "decision": None, "passed": None}


def test_of_seconds_less_is_a_gain():
    measure = measured(0.3, 0.5)
    compared = [beside_b({"seconds": measure})]
    (row,) = decided({"seconds": GateBounds(most_loss=0.2)}, compared)["gate"]
    assert (row["state"], row["gain"], row["low"], row["high"]) == ("failed", -0.4, -0.5, -0.3)


def test_the_same_command_and_another_gate_or_model_ask_nothing_twice(config, server, monkeypatch):
    run(config, monkeypatch)
    asked = server.stats()["requests"]
    assert run(config, monkeypatch).fresh is False
    made = run(config | {"gate": {"score": {"least_gain": 0.0}}}, monkeypatch, replace=True)
    assert made.fresh and made.report["passed"] and server.stats()["requests"] == asked
    run(config | {"models": [*config["models"], planted(server, "right-50")]}, monkeypatch, replace=True)
    assert server.stats()["requests"] == asked + 240


def test_a_run_that_was_stopped_ends_with_the_same_digest(config, server, monkeypatch, tmp_path):
    whole = run(config | {"output": str(tmp_path / "whole")}, monkeypatch)

    def stopped(*_):
        raise UserError("stopped")

    for at in ("raymill.pipelines.prompting.asking.AskModel", "raymill.pipelines.compare.job.decided"):
        with monkeypatch.context() as patch, pytest.raises(UserError, match="stopped"):
            patch.setattr(at, stopped)
            run(config, monkeypatch)
    made = run(config, monkeypatch)
    assert (
        made.manifest["artifacts"] == whole.manifest["artifacts"]
        and made.manifest["digest"] == whole.manifest["digest"]
    )


def test_examples_are_shown_to_one_model_alone(config, server, monkeypatch):
    models = [planted(server, "right-90", examples=3, by="random"), planted(server, "right-90")]
    made = run(config | {"models": models}, monkeypatch)
    shown = {(one["variant"], len(one["examples"])) for one in rows(made, "examples")}
    assert shown == {(0, 3), (1, 0)} and made.report["models"]["A"]["title"] == "right-90, 3 examples"


def test_an_item_without_an_answer_scores_0_and_is_a_warning(config, monkeypatch, server):
    server.share, server.faults = 0.2, ("refused",)
    made = run(config | {"models": [planted(server, "right-100"), planted(server, "right-99")]}, monkeypatch)
    one = made.report["models"]["A"]
    assert one["answered"] < 240 and one["measures"]["score"]["value"] == pytest.approx(one["answered"] / 240)
    assert any(warning.startswith("A: ") and "without an answer" in warning for warning in made.report["warnings"])


def test_a_plan_and_a_dry_run_ask_nothing(config, server):
    settings = CompareConfig.model_validate(
        {"kind": "compare"} | config | {"judge": {"model": planted(server, "judge")}}
    )
    plan = plan_comparison(settings)
    assert plan["models"]["A"]["requests"] == 240 and "judge: at most 480 requests" in str(plan)
    assert "to be made" in "\n".join(dry_run_lines(settings))
    assert server.stats()["requests"] == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gate": {"bleurt": {"least_gain": 0}}}, "bleurt is not measured of all models"),
        ({"gate": {"bits_per_byte": {"least_gain": 0}}}, "bits_per_byte is not measured of all models"),
        ({"gate": {"f1": {"most_slice_loss": 0.1}}}, "slices are compared by `score`"),
        ({"models": ["one"]}, "wanted at least 2 in the list"),
        ({"budget": 1}, "goes with `prices` of each model"),
    ],
)
def test_settings_that_cannot_be_used_are_named(config, changes, said):
    with pytest.raises(ConfigError, match=said):
        config_of(None, config | changes, None, "compare")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"group": "customer"}, "group: the items have no field customer. Their fields are .*channel"),
        ({"gaps": ["channel", "id"]}, "gaps.1: the items have no field id"),
    ],
)
def test_fields_that_the_items_do_not_have_are_refused_before_anything_is_asked(config, server, changes, said):
    settings = CompareConfig.model_validate({"kind": "compare"} | config | changes)
    with pytest.raises(ConfigError, match=said):
        list(dry_run_lines(settings))
    assert server.stats()["requests"] == 0


@pytest.mark.parametrize(
    "metadata",
    [pa.int64(), pa.string(), pa.list_(pa.string()), pa.struct([("channel", pa.string()), ("channel", pa.string())])],
)
def test_items_with_metadata_of_others_are_refused_before_anything_is_asked(config, server, tmp_path, metadata):
    shutil.copytree(config["on"], tmp_path / "on")
    folder = tmp_path / "on" / "test"
    manifest = json.loads((folder / "_manifest.json").read_text())
    for file in manifest["files"]:
        table = pq.read_table(folder / file["path"])
        at = table.schema.get_field_index("metadata")
        table = table.set_column(at, "metadata", pa.nulls(len(table), metadata))
        pq.write_table(table, folder / file["path"])
        content = (folder / file["path"]).read_bytes()
        file |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest |= describe_schema(table.schema) | {"digest": ""}
    (folder / "_manifest.json").write_text(json.dumps(manifest))
    settings = CompareConfig.model_validate({"kind": "compare"} | config | {"on": str(tmp_path / "on")})
    with pytest.raises(DataError, match="column metadata is none that"):
        list(dry_run_lines(settings))
    assert server.stats()["requests"] == 0


def test_one_model_or_a_config_with_a_data_set_beside_it_is_refused(run_cli):
    code, out, err = run_cli("compare", "compare.yaml", "--on", "data")
    assert code == 2 and "--on: goes with two models or more, and compare.yaml alone is given" in out + err


def test_the_command_with_models_and_data_prints_json(config, server, data, monkeypatch, tmp_path, run_cli):
    monkeypatch.chdir(tmp_path)
    inline.without_ray(monkeypatch)
    models = [json.dumps(one) for one in config["models"]]
    code, out, _ = run_cli("compare", *models, "--on", f"{data}/test", "-o", "answer=label", "--json")
    found = json.loads(out)
    assert code == 0 and found["verdict"] == "A"
    assert {"difference", "low", "high", "p", "items", "verdict"} <= found.keys()
    assert run_cli("compare", *models)[0] == 2
