"""What tests of training's report start from."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from raymill.training.pack.corpus_files import PreparedRun
from raymill.training.records.job import Job, TrainingFolder
from tests.support import training_report as made


@pytest.fixture
def finished(tmp_path) -> tuple[Job, Any, Any]:
    """What a run leaves, as far as the report reads it."""
    root = tmp_path / "run"
    (root / "attempts").mkdir(parents=True)
    (root / "export").mkdir()
    (root / "steps.jsonl").write_text("".join(json.dumps(record) + "\n" for record in made.records()))
    for attempt in made.ATTEMPTS:
        (root / "attempts" / f"{attempt['attempt']}.json").write_text(json.dumps(attempt))
    (root / "evaluation.json").write_text(json.dumps(made.EVALUATION))
    manifest = {
        "made_from": "f" * 32,
        "base": {"name": f"{root}/export/base", "revision": None},
        "folders": {"adapter": "adapter", "base": "base"},
        "files": [
            {"path": path, "bytes": size, "sha256": "a"}
            for path, size in (("adapter/a", 100), ("adapter/b", 23), ("base/a", 9))
        ],
    }  # fmt: skip
    (root / "export" / "manifest.json").write_text(json.dumps(manifest))
    config = made.config(output=str(root), track={"mlflow": "https://me:password@host"})
    job = Job(config, TrainingFolder(config.store, str(root), {}), str(root / "packed"), (), 300)
    packed = SimpleNamespace(
        has_chat_turns=lambda forms: False,
        passed_over={"notes": "1 file is passed over (1 .csv)"},
        prepared={"faq": PreparedRun("helpdesk", "/data/helpdesk", "d1ge57", "0.1.0")},
        corpora=dict.fromkeys(("notes", "faq"), dict.fromkeys(("train", "validation", "test"))),
        tokenised=lambda name: {"documents": 100, "text_bytes": 5000, "left_out/empty": 7, "left_out/no_label": 0},
        packed=lambda name: {
            "documents/train": 80, "rows/train": 10, "tokens/train": 2000, "label_tokens/train": 1900,
            "documents_split": 4, "tokens_repeated": 4,
        },
    )  # fmt: skip
    outcome: Any = {
        "fingerprint": "f", "ended": "steps", "steps": 300, "best_step": 275, "checkpoint": "c", "best_checkpoint": "b",
        "trainable_parameters": 8192, "all_parameters": 140_000, "unmoved": [], "skipped": [77], "restarts": 1,
        "seconds": 75.25,
    }  # fmt: skip
    return job, packed, outcome
