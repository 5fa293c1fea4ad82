"""What the golden files hold, computed by the program as it is now.

Inputs that a person wrote and can read: documents.yaml, duplicates.yaml. What is made of them, in the same folder:

    verdicts.json   ten documents: every signal, every check that fails, the decision, and the text where it changed
    ledger.json     twelve documents of one family: what is kept, with its group, and the ledger row of each other
    losses.json     a training of ten steps of a tiny Llama on documents that count upwards
    defaults.json   every setting of a config of curate and of train that gives only what it must. A run is refused at
                    the output of another one if a default changed in between

`make golden` (python -m tests.golden) writes these four anew. Read the difference before it is committed: each line of
it is a change of meaning. (report.json is written by hand, and so are records.yaml and records_arc.yaml, what
becomes of each record of the web archives records.warc and records.arc.)
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymill.cluster.artifact import Artifact
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.rules.filters import check_results
from raymill.training.config import TrainConfig
from tests.support.fit_jobs import fit_alone, lines, pack_tiny, tiny_job
from tests.support.inline import curate_inline

FOLDER = Path(__file__).parent


def verdicts(scratch: Path) -> dict[str, Any]:
    documents, settings = _documents("documents.yaml", scratch)
    settings |= {"dedup": None, "language": {"keep": ["en"]}}
    run = curate_inline(settings, pytest.MonkeyPatch())
    attributes = Artifact.load(Store(), f"{run.uri}/attributes").table()
    config = CurateConfig.model_validate({"kind": "curate", "name": "golden"} | settings)
    removed = {row["id"]: row for row in Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()}
    kept = {row["id"]: row["text"] for row in run.corpus.table().to_pylist()}
    failing: dict[str, list[str]] = {id: [] for id in documents}
    for check in check_results(attributes, config.filters):
        for row in check.fails.nonzero()[0]:
            failing[attributes["id"][row].as_py()].append(f"{check.rule}/{check.reason}")
    found: dict[str, Any] = {}
    for row in attributes.to_pylist():
        id = row.pop("id")
        entry: dict[str, Any] = {"about": documents[id]["about"], "verdict": "kept", "fails": failing[id]}
        if id in removed:
            entry["verdict"] = {name: removed[id][name] for name in ("stage", "reason", "value", "threshold")}
        elif kept[id] != documents[id]["text"].rstrip():
            entry["text"] = kept[id]
        signals = {name: value for name, value in row.items() if name not in ("row", "source", "text_hash")}
        found[id] = entry | {"signals": signals}
    return _rounded(found, 6)


def ledger(scratch: Path) -> dict[str, Any]:
    documents, settings = _documents("duplicates.yaml", scratch)
    settings |= {"language": None, "rules": None, "personal_data": None, "dedup": {"threshold": 0.8}}
    run = curate_inline(settings, pytest.MonkeyPatch())
    found: dict[str, Any] = {}
    for row in run.corpus.table().to_pylist():
        entry = {name: row[name] for name in ("duplicate_count", "group_id")}
        found[row["id"]] = {"about": documents[row["id"]]["about"], "verdict": "kept"} | entry
    for row in Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist():
        entry = {name: row[name] for name in ("stage", "reason", "value", "threshold", "partner", "similarity")}
        found[row["id"]] = {"about": documents[row["id"]]["about"], "verdict": "removed"} | entry
    return _rounded({id: found[id] for id in documents}, 6)


def losses(scratch: Path) -> dict[str, Any]:
    pack_tiny(str(scratch))
    job = tiny_job(str(scratch), steps=10, evaluate={"every_steps": 5}, checkpoint={"every_steps": 10})
    outcome = fit_alone(job)
    names = ("step", "tokens", "label_tokens", "samples", "learning_rate", "loss", "grad_norm", "validation")
    steps = [{name: line[name] for name in names if name in line} for line in lines(job)]
    found = {"trainable_parameters": outcome["trainable_parameters"], "best_step": outcome["best_step"], "steps": steps}
    return _rounded(found, 7)


def defaults(scratch: Path) -> dict[str, Any]:
    required = {"name": "golden", "output": "/output"}
    curate = CurateConfig.model_validate(required | {"kind": "curate", "inputs": [{"path": "/texts"}]})
    train = TrainConfig.model_validate(required | {"kind": "train", "corpus": "/corpus", "model": "/model", "steps": 1})
    return {config.kind: config.model_dump(mode="json") for config in (curate, train)}


# The relative difference allowed. Losses are float32 sums of libraries that differ between processors.
CASES: dict[str, tuple[Callable[[Path], dict[str, Any]], float]] = {
    "verdicts.json": (verdicts, 1e-5),
    "ledger.json": (ledger, 1e-5),
    "losses.json": (losses, 1e-4),
    "defaults.json": (defaults, 0),
}


def _documents(name: str, scratch: Path) -> tuple[dict[str, dict[str, str]], dict[str, Any]]:
    """The documents of a file by id, and settings of a run that reads them."""
    documents = yaml.safe_load((FOLDER / name).read_text())
    path = scratch / "documents.jsonl"
    path.write_text("".join(json.dumps({"id": one["id"], "text": one["text"]}) + "\n" for one in documents))
    settings: dict[str, Any] = {"inputs": [{"source": "golden", "path": str(path), "id": "id"}]}
    return {one["id"]: one for one in documents}, settings | {"output": str(scratch / "run")}


def _rounded(value: Any, digits: int) -> Any:
    """Every float to `digits` significant digits; a whole one as a whole number."""
    if isinstance(value, dict):
        return {name: _rounded(one, digits) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one, digits) for one in value]
    if isinstance(value, float):
        value = float(f"{value:.{digits}g}")
        return int(value) if value.is_integer() else value
    return value
