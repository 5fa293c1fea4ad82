"""Scores of a cross-validated training are metrics of the data set that it was trained on, with gates."""

import json

import pytest

from cluster.errors import DataError
from cluster.store.store import Store
from pipelines.prepare.assess.score import read_trained
from tests.support.assessments import gate, metric
from tests.support.inline import prepare_inline
from tests.support.queues import rows, settings_of


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

    refused(r"folds.json: no result of a cross-validation\. Run `raymill cross-validate CONFIG` with `corpus: /data`")
    for text in ("", "[]", '{"datasets": {}}', '{"datasets": {}, "folds": [{"fold": 0}], "scores": {}}'):
        (tmp_path / "folds.json").write_text(text)
        refused(r"no result of `raymill cross-validate` \(")
    at = folds(tmp_path / "cv", {"/data": "d"}, 0.5)
    assert read_trained(Store(), f"{at}/folds.json", "/data", "d")["accuracy"]["worst"] == 0
