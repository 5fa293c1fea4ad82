"""Rounds of annotation without Ray, and simulated annotators."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.engine import Engine
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.pipelines.annotate.annotations import Annotation
from raymill.pipelines.annotate.config import AnnotateConfig
from raymill.pipelines.annotate.job import AnnotateJob, AnnotateRun
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.tasks import TaskRow
from tests.support import inline

LABELS = ("billing", "login", "other")
_TEXTS = {
    "billing": "I was charged twice for invoice {}",
    "login": "I cannot sign in since update {}",
    "other": "How do I export report {}",
}


def write_records(path: Path, count: int, seed: int = 0, **columns: Callable[[int], Any]) -> Path:
    """Tickets with columns id, prompt, label and channel. columns: further ones, by the number of the record."""
    chosen = random.Random(seed)
    rows = []
    for number in range(count):
        label = chosen.choice(LABELS)
        rows.append(
            {
                "id": f"r{number}",
                "prompt": _TEXTS[label].format(number)
                + " "
                + " ".join(chosen.choices(["please", "thanks", "now"], k=3)),
                "label": label,
                "channel": chosen.choice(["mail", "chat"]),
                **{name: of(number) for name, of in columns.items()},
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)
    return path


def true_label(row: TaskRow) -> str:
    """The label of a ticket, by its text."""
    text = row.record["prompt"] or ""
    return next(label for label, words in _TEXTS.items() if text.startswith(words.split("{")[0]))


def settings_of(records: Path, output: Path, **more: Any) -> dict[str, Any]:
    """A config that labels 40 of the tickets by three annotators, two each."""
    return {
        "kind": "annotate",
        "input": str(records),
        "task": {"type": "classify", "show": ["prompt"], "labels": list(LABELS)},
        "choose": {"count": 40},
        "annotators": ["a1", "a2", "a3"],
        "overlap": 2,
        "output": str(output),
        **more,
    }


def annotate_inline(
    settings: Mapping[str, Any],
    patch: pytest.MonkeyPatch,
    engine: type[Engine] | None = None,
    session: Session | None = None,
    **options: Any,
) -> AnnotateRun:
    """Make the round, with its stages in this process."""
    with patch.context() as within:
        inline.without_ray(within, engine, session)
        run = AnnotateJob(AnnotateConfig.model_validate(settings)).run(session or Session(), Progress(), **options)
    assert isinstance(run, AnnotateRun)
    return run


def simulated_answers(round: Round, skills: Mapping[str, float], seed: int = 0, **more: Any) -> list[Annotation]:
    """A label by each annotator of each task, right with the probability of their skill, one a minute."""
    chosen = random.Random(seed)
    found = []
    for number, row in enumerate(round.tasks):
        right = true_label(row)
        for name in row.annotators:
            others = [label for label in LABELS if label != right]
            value = right if chosen.random() < skills[name] else chosen.choice(others)
            at = f"2026-11-{1 + number // 1440:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00+00:00"
            found.append(Annotation(row.id, name, "labelled", value, seconds=5.0 + number % 7, at=at, **more))
    return found
