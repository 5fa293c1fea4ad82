"""Scores, parts and gates that follow from findings and from a cross-validated training."""

import json

import pytest

from raymill.cluster.errors import DataError
from raymill.cluster.report.sections import join
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.assess.fixes import FixContext, fix_of
from raymill.pipelines.prepare.assess.score import assessment_of, metrics_of, parts_of, read_trained
from raymill.pipelines.prepare.assess.settings import Assess, Gates
from raymill.pipelines.prepare.report.page import assessment_section, assessment_text, gate_value, number
from tests.support.assessments import findings, gate, metric, some
from tests.support.inline import prepare_inline
from tests.support.queues import rows, settings_of

NO_GATES = dict.fromkeys(Gates.model_fields) | {"trained": {}}
OUT = FixContext("/out")
SIX = {"distinct": 6, "evenness": 0.5, "shown": {"x": 5, "": 4, "y": 3, "z": 2, "u": 1, "v": 1}}
PAIR = {"value": "s", "records": 30, "ratio": 0.5, "low": 0.4, "high": 0.6, "mean": 0.2, "difference": -0.25}
ONE = {"distinct": 1, "evenness": 0.0, "shown": {"a": 10}}


def seen(name: str, asked: Assess | None = None, **changes) -> tuple[float | None, str]:
    """(value, what was seen) of the metric."""
    (found,) = [one for one in metrics_of(findings(**changes), asked or Assess()) if one["name"] == name]
    return found["value"], found["seen"]


def labels(errors: int | None = 2, **scores: list[float]) -> dict:
    of = {"records": 8, "left_out": 0, "rare": {}, "rare_ids": [], "classes": 2, "most_frequent": 0.625,
          "scores": scores, "missed": 0, "hardest": [], "judged": 8, "errors": errors, "suspects": []}  # fmt: skip
    return {"groups": [6, 3, 1], "largest": ["a"], "similar": {"records": 10, "mean": 0.25, "ids": []},
            "relevant": {"records": 9, "mean": 0.625, "ids": ["a", "b"]}, "labels": {"queue": of}}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes", "value", "shown"),
    [
        ("completeness", {"incomplete": some(3), "missing": {"queue": 2, "content": 1}}, 0.7,
         "empty: queue 2, content 1"),
        ("completeness", {}, 1.0, ""),
        ("consistency", {"inconsistent": 4, "contradictory": some(3), "not_allowed": some(2)}, 0.6,
         "contradictory 3, not allowed 2, in another format 0"),
        ("consistency", {"inconsistent": 1, "terms": some(1)}, 0.9,
         "contradictory 0, not allowed 0, in another format 0, with a replaced term 1"),
        ("format_consistency", {"other_format": some(2), "forms": {"text": 8, "JSON": 2}, "dates": {"2026-11-23": 3}},
         0.8, "text 8, JSON 2, 2026-11-23 3"),
        ("terminology_consistency", {"terms": some(3)}, 0.7, "with a term 3"),
        ("terminology_consistency", {}, None, "no `clean.terminology`"),
        ("domain_diversity", {"values": findings()["values"] | {"domain": SIX}}, 0.5, "x 5, none 4, y 3, z 2, +2 more"),
        ("domain_diversity",
         {"values": findings()["values"] | {"domain": {"distinct": 2, "evenness": 0.9, "shown": {"x": 5, "": 5}}}},
         None,
         "fewer than two `domain`s"),
        ("duplication", {"questions": {"compared": 8, "exact": 1, "near": 3, "ids": []}}, 0.5, "exact 1, near 3 of 8"),
        ("duplication_of_answers", {"answers": {"compared": 0, "exact": 0, "near": 0, "ids": []}}, None,
         "exact 0, near 0 of 0"),
        ("language_quality", {"poor_language": 3, "languages": dict.fromkeys("abcdef", 2), "damaged": some(1)}, 0.7,
         "a 2, b 2, c 2, d 2, e 2; damaged 1"),
        ("coverage", {"topics": {"a": 3, "b": 0}}, 0.5, "of 2 topics"),
        ("coverage", {}, None, "no `assess.topics`"),
        ("relevance", {"topics": {"a": 3}, "on_topic": 3}, 0.3, "3"),
        ("relevance", {}, None, "no `assess.topics`"),
        ("source_diversity", {"values": findings()["values"] | {"source": SIX}}, 0.5,
         "x 5, none 4, y 3, z 2, +2 more"),
        ("source_diversity",
         {"values": findings()["values"] | {"source": {"distinct": 1, "evenness": 0.0, "shown": {"a": 10}}}}, None,
         "one source"),
        ("mtld", {}, 0.6, "MTLD 60; 100 words"),
        ("mtld", {"words": {"records": 1, "tokens": 1, "distinct_1": 1.0, "distinct_2": None, "mtld": 130.0}}, 1.0,
         "MTLD 130; 1 word"),
        ("mtld", {"words": {"records": 0, "tokens": 0, "distinct_1": None, "distinct_2": None, "mtld": None}}, None,
         "MTLD 0; 0 words"),
        ("lexical_diversity", {}, pytest.approx((0.5 + 0.7 + 0.6) / 3), ""),
        ("structural_diversity", {}, 1.0, ""),
        ("structural_diversity", {"values": findings()["values"] | {"turns": ONE, "length": SIX}}, 0.75,
         "of length and task_type"),
        ("structural_diversity",
         {"values": findings()["values"] | dict.fromkeys(("turns", "length", "task_type"), ONE)}, None,
         "one value of each"),
        ("balance_turns", {}, 1.0, "a 5, b 5"),
        ("agreement", {"agreement": {"records": 1, "alpha": -0.4, "differing": some(1)}}, 0.0, "1 of 1 record differ"),
        ("agreement", {"agreement": {"records": 9, "alpha": None, "differing": some(0)}}, None,
         "0 of 9 records differ"),
        ("rule_conformity", {"rules": {"short": 3, "long": 1}, "violating": some(4)}, 0.6, "short 3, long 1"),
        ("representation_region",
         {"represented": {"region": {"likeness": 0.8, "wanted": {}, "shown": {}}},
          "values": findings()["values"] | {"region": SIX}}, 0.8, "x 5, none 4, y 3, z 2, +2 more"),
        ("length_parity_region", {"lengths": {"region": {"against": "n", "ratios": [PAIR] * 5}}}, 0.5,
         "times the length of n: " + ", ".join(["s 0.50 (0.40 to 0.60)"] * 4)),
        ("length_parity_region", {"lengths": {"region": None}}, None, ""),
        ("sentiment_parity_region",
         {"sentiments": {"region": {"against": "n", "mean": 0.45,
                                    "differences": [PAIR | {"low": -0.3, "high": -0.2}] * 5}}}, 0.75,
         "beside n 0.450: " + ", ".join(["s -0.250 (-0.300 to -0.200)"] * 4)),
        ("sentiment_parity_region", {"sentiments": {"region": None}}, None, ""),
        ("representation_period", {"periods": {"evenness": 0.9, "records": {"2026-01": 1, "2026-02": 0, "2026-03": 2}}},
         0.9, "2026-01 to 2026-03, 3 periods"),
        ("representation_period", {"periods": {"evenness": None, "records": {}}}, None, "no date"),
    ],
)  # fmt: skip
def test_a_metric_and_the_counts_behind_it(name, changes, value, shown):
    found = seen(name, **changes)
    assert found == (value if value is None else pytest.approx(value), shown)


def test_a_topic_needs_as_many_records_as_the_setting_says():
    asked = Assess(topics=["a", "b"], topic_records=3)
    (found,) = [one for one in metrics_of(findings(topics={"a": 3, "b": 2}), asked) if one["name"] == "coverage"]
    assert (found["value"], found["meaning"]) == (0.5, "topics that at least 3 records mention")


def test_groups_of_like_texts_are_as_even_as_the_records_allow():
    asked = Assess(embeddings={"groups": 20})
    value, shown = seen("semantic_diversity", asked, learned=labels() | {"groups": [1] * 10})
    assert value == pytest.approx(1) and shown == "10 groups, the largest 1"  # ten records make ten groups at most
    value, _ = seen("semantic_diversity", Assess(embeddings={"groups": 4}), learned=labels() | {"groups": [5, 5]})
    assert value == pytest.approx(0.5), "1 bit of 2"
    assert seen("semantic_diversity", asked, learned=labels() | {"groups": []})[1] == ""
    assert seen("similarity_to_examples", Assess(examples=["a", "b"]), learned=labels()) == (0.25, "of 2 examples")
    assert seen("answer_relevance", asked, learned=labels()) == (0.625, "least: a, b")
    plain = labels() | {"relevant": {"records": 0, "mean": None, "ids": []}}
    assert seen("answer_relevance", asked, learned=plain) == (None, "no question and answer")
    assert "similarity_to_examples" not in {one["name"] for one in metrics_of(findings(learned=labels()), asked)}


def test_labels_are_judged_by_their_errors_and_by_folds():
    label, extrinsic = Assess(label="queue"), Assess(extrinsic="queue")
    made = labels(accuracy=[0.5, 0.75], f1=[0.5])
    assert seen("label_quality", label, learned=made) == (0.75, "probably wrong 2 of 8")
    given = Assess(label="queue", predictions="model")
    assert seen("label_quality", given, learned=made) == (0.75, "probably wrong 2 of 8, by `assess.predictions`")
    assert seen("label_quality", label, learned=labels(None)) == (None, "predicted no better than by chance")
    spread = "standard deviation 0.177 over 2 folds; most frequent value 0.625"
    assert seen("extrinsic_accuracy", label, learned=made) == (0.625, spread)
    assert seen("extrinsic_f1", extrinsic, learned=made) == (0.5, "")
    assert seen("extrinsic_recall", extrinsic, learned=made) == (None, "")
    assert "label_quality" not in {one["name"] for one in metrics_of(findings(learned=made), extrinsic)}


MEASURED = {
    "completeness": 0.5, "consistency": None, "relevance": 0.2, "similarity_to_examples": 0.4,
    "lexical_diversity": 0.3, "structural_diversity": 0.6, "semantic_diversity": 0.9, "label_quality": 0.8,
    "agreement": 0.4, "rule_conformity": 0.6, "representation_source": 0.1, "length_parity_source": 0.3,
    "sentiment_parity_source": 0.5, "representation_period": None, "balance_source": 0.9,
}  # fmt: skip
WEIGHTS = {"accuracy": 2.0, "completeness": 1.0, "consistency": 5.0, "relevance": 1.0, "diversity": 0.0, "bias": 1.0}


def test_parts_are_means_of_their_metrics_with_the_weights_of_those_that_are_measured():
    parts = {one["name"]: one for one in parts_of(MEASURED, WEIGHTS)}
    values = {"accuracy": 0.6, "completeness": 0.5, "consistency": None, "relevance": 0.3, "diversity": 0.6,
              "bias": 0.3}  # fmt: skip
    assert {name: one["value"] for name, one in parts.items()} == {
        name: value if value is None else pytest.approx(value) for name, value in values.items()
    }
    weights = {"accuracy": 0.4, "completeness": 0.2, "consistency": 0, "relevance": 0.2, "diversity": 0, "bias": 0.2}
    assert {name: one["weight"] for name, one in parts.items()} == weights
    assert parts["accuracy"]["of"] == "mean of label_quality, agreement and rule_conformity"
    assert parts["completeness"]["of"] == ""
    nothing = parts_of(dict.fromkeys(MEASURED), WEIGHTS)
    assert {one["weight"] for one in nothing} == {0.0}
    assert [one["of"] for one in nothing if one["name"] == "relevance"] == ["no `assess.topics` or `assess.examples`"]


def test_gates_are_bounds_of_metrics_of_parts_and_of_the_score():
    asked = NO_GATES | {"completeness": 0.7, "duplication": 0.5, "score": 0.9, "relevance": 0.5, "coverage": None}
    repeated = {"compared": 10, "exact": 5, "near": 0, "ids": ["a"]}
    weights = dict.fromkeys(WEIGHTS, 0.0) | {"completeness": 3.0, "consistency": 1.0}
    made = findings(incomplete=some(3, "i"), missing={"queue": 3}, questions=repeated, inconsistent=2)
    found = assessment_of(made, Assess(weights=weights), Gates(**asked), OUT)
    assert found["score"] == pytest.approx(0.75 * 0.7 + 0.25 * 0.8)
    states = {one["name"]: (one["state"], one["seen"], bool(one["mend"])) for one in found["gates"]}
    assert states == {
        "completeness": ("passed", "empty: queue 3", False), "duplication": ("passed", "exact 5, near 0 of 10", False),
        "score": ("failed", "", True), "relevance": ("not measured", "no `assess.topics`", False),
    }  # fmt: skip
    more = assessment_of(
        made | {"questions": repeated | {"near": 1}},
        Assess(),
        Gates(**asked | {"completeness": 0.71}),
        FixContext("/out", questions_removed=True),
    )
    assert gate(more, "duplication")["state"] == gate(more, "completeness")["state"] == "failed"
    assert "threshold" in gate(more, "duplication")["mend"]
    # The lowest part with a weight, although `bias` and `diversity` are lower without one.
    assert gate(found, "score")["mend"] == "The lowest part is completeness (0.700). " + fix_of(
        "completeness", made, OUT
    )
    weightless = Assess(weights=dict.fromkeys(WEIGHTS, 0.0))
    assert assessment_of(made, weightless, Gates(), OUT)["score"] is None


def test_an_assessment_is_printed_with_its_gates_in_columns():
    asked = NO_GATES | {"coverage": 0.95, "duplication": 0.05, "completeness": 0.7}
    made = findings(incomplete=some(4, "i"), questions={"compared": 10, "exact": 0, "near": 0, "ids": []})
    found = assessment_of(made, Assess(), Gates(**asked), OUT)
    score, *lines = assessment_text(found).splitlines()
    assert score.startswith("score 0.") and score.endswith(" of 1, without accuracy, relevance, bias")
    assert lines == [
        "coverage           –  at least 0.95  not measured (no assess.topics)",
        "duplication    0.000  at most 0.05  passed",
        "completeness   0.600  at least 0.7  failed",
        "completeness: Records with empty fields: 4 records (i, ...). Fill these in the source, then `raymill prepare "
        "CONFIG --replace`.",
    ]
    assert assessment_text(found | {"gates": [], "parts": []}) == score.partition(",")[0]


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.9796, "0.980"), (0.97949, "0.979"), (0.29, "0.290"), (1.0, "1.000")]
)
def test_values_are_rounded(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "state", "shown"),
    [(0.9799999, "failed", "0.9799999"), (0.97962, "failed", "0.9796"), (0.5, "failed", "0.500"),
     (0.9800001, "passed", "0.980"), (None, "not measured", "–")],
)  # fmt: skip
def test_a_value_below_a_bound_is_not_shown_as_the_bound(value, state, shown):
    assert gate_value({"name": "coverage", "value": value, "bound": 0.98, "state": state}) == shown


def test_the_section_has_a_row_for_each_gate_part_group_and_suspect():
    suspect = {"id": "r7", "label": "it", "suggested": "hr", "probability": 0.125, "text": "Who pays?"}
    wrong = labels() | {"labels": {"queue": labels()["labels"]["queue"] | {"errors": 3, "suspects": [suspect] * 2},
                                   "tone": labels(None)["labels"]["queue"]}}  # fmt: skip
    made = findings(
        records=9, copies=1, learned=wrong,
        lengths={"team": {"against": "n", "ratios": [PAIR]}, "source": None},
        sentiments={"team": {"against": "n", "mean": 0.45, "differences": [PAIR | {"low": -0.3, "high": -0.2}]},
                    "source": None},
    )  # fmt: skip
    gates = Gates(**NO_GATES | {"coverage": 0.9, "completeness": 0.5, "accuracy": 0.9})
    section = assessment_section(assessment_of(made, Assess(label="queue"), gates, OUT))
    page = str(join(*section.content))
    assert (section.id, section.title) == ("assessment", "Assessment")
    for tile in (("Gates passed", "1", "of 3"), ("Gates failed", "1", "with what would fix them below")):
        assert "<dt>{}</dt><dd><strong>{}</strong><span>{}</span></dd>".format(*tile) in page
    assert page.count("<li><code>") == 1 and "<li><code>accuracy</code>: Values of queue" in page
    assert "not measured (no <code>assess.topics</code>)" in page
    assert "Metrics of 9 records, without repeated records and variants (1), from 0 to 1" in page
    assert "Values of queue that are probably wrong: 2 of 3 records" in page and "Values of tone" not in page
    assert page.count("<p>Who pays?</p>") == 2
    assert "Mean length by team, as a ratio to n, with 95% confidence" in page and page.count("Mean length by") == 1
    assert "Mean score by team, less 0.450 of n, with 95% confidence" in page and page.count("Mean score by") == 1
    for cell in ("0.125", "0.500", "0.400", "0.600", "0.200", "-0.250", "-0.300", "-0.200"):
        assert f">{cell}</td>" in page, cell
    without = assessment_section(assessment_of(findings(), Assess(), Gates(), OUT))
    assert "repeated record" not in str(join(*without.content)) and "Not measured: accuracy, relevance, bias." in str(
        join(*without.content)
    )


def folds(folder, datasets: dict[str, str], *accuracies: float) -> str:
    """What `raymill cross-validate` writes: its output."""
    folder.mkdir(exist_ok=True)
    made = [
        {
            "fold": n,
            "output": f"{folder}/fold-{n}",
            "documents": 9,
            "scores": {"accuracy": one, "loss": 2.5, "bleu": 31.0},
        }
        for n, one in enumerate(accuracies)
    ]
    spread = {
        "mean": sum(accuracies) / len(made),
        "deviation": 0.125,
        "least": min(accuracies),
        "most": max(accuracies),
    }
    scores = {"accuracy": spread, "loss": spread | {"mean": 2.5}, "bleu": spread | {"mean": 31.0}}
    found = {"name": "tiny", "datasets": datasets, "folds": made, "scores": scores}
    (folder / "folds.json").write_text(json.dumps(found))
    return str(folder)


def test_a_training_that_learns_too_little_fails_its_gate(tmp_path, monkeypatch, assess):
    gates = {"gates": {"trained": {"accuracy": 0.75, "recall": 0.5}, "coverage": None, "duplication": None}}
    plain = settings_of(tmp_path, rows(30)) | {"assess": {"embeddings": None}} | gates
    run = prepare_inline(plain, monkeypatch)
    without = gate(run.assessment, "trained_accuracy")
    assert (without["state"], without["seen"], without["bound"]) == ("not measured", "no `--folds`", 0.75)
    data = {run.uri: run.manifest["digest"]}

    def asked(*accuracies: float) -> tuple[int, dict, str]:
        code, shown, _ = assess(run.uri, "--gate", "--folds", folds(tmp_path / "cv", data, *accuracies))
        return code, json.loads(Store().read_bytes(f"{run.uri}/assessment.json")), shown

    code, found, shown = asked(0.75, 0.5, 0.75)
    assert code == 2 and metric(found, "trained_accuracy") == pytest.approx(2 / 3)
    failed = gate(found, "trained_accuracy")
    assert failed["seen"] == "standard deviation 0.125 over 3 folds"
    assert "Fold 1 has the least score" in failed["mend"] and f"{tmp_path}/cv/fold-1/report.html" in shown
    assert gate(found, "trained_recall")["seen"] == "its scores: accuracy"
    assert "trained_loss" not in {one["name"] for one in found["metrics"]}
    assert "trained_accuracy" in Store().read_bytes(f"{run.uri}/report.html").decode()
    code, found, _ = asked(0.75, 1.0, 0.75)
    assert code == 0 and gate(found, "trained_accuracy")["state"] == "passed"
    code, _, error = assess(run.uri, "--folds", folds(tmp_path / "old", {run.uri: "0" * 64}, 1.0))
    assert code == 2 and f"of a training on {run.uri} (000000000000); wanted {run.uri} as it is now" in error


def test_a_result_that_is_missing_or_damaged_is_refused(tmp_path):
    def refused(match: str) -> None:
        with pytest.raises(DataError, match=match):
            read_trained(Store(), str(tmp_path), "/data", "d")

    refused(
        r"folds.json: no result of a cross-validation\. Run `raymill.cross_validate\(CONFIG\)` with `corpus: /data`"
    )
    for text in ("", "[]", '{"datasets": {}}', '{"datasets": {}, "folds": [{"fold": 0}], "scores": {}}'):
        (tmp_path / "folds.json").write_text(text)
        refused(r"no result of `raymill.cross_validate` \(")
    at = folds(tmp_path / "cv", {"/data": "d"}, 0.5)
    assert read_trained(Store(), f"{at}/folds.json", "/data", "d")["accuracy"]["worst"] == 0
