"""evaluation.json as it is read: whoever wrote it, measurements are numbers and answers are text."""

import copy
import json
from typing import Any

import pytest

from raymill.training.records.finished import parse_evaluation

MEASURED = {"loss": 1.5, "perplexity": float("inf"), "accuracy": 0, "label_tokens": 7}
RECORD: dict[str, Any] = {
    "before": {"test": MEASURED},
    "after": {"test": MEASURED},
    "best_step": None,
    "generation": {"f1": 0.5},
    "set_generation": {"a": {"f1": 1}},
    "answers": [{"document": "d", "prompt": "p", "reference": "r", "generated": "g", "confidence": 0.5}],
    "merged_check": None,
    "notes": ["n"],
}


def test_what_a_run_writes_is_read():
    assert parse_evaluation(json.dumps(RECORD).encode()) == RECORD


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("before", []),
        ("after.test", None),
        ("after.test.perplexity", None),
        ("after.test.loss", "1.5"),
        ("before.test", {"loss": 1}),
        ("generation.f1", [1]),
        ("generation", 7),
        ("set_generation.a", "x"),
        ("set_generation.a.f1", "x"),
        ("answers.0.generated", 7),
        ("answers.0.confidence", "x"),
        ("answers.0", "x"),
        ("notes", [{}]),
        ("notes", 7),
    ],
)
def test_values_of_another_type_are_refused(path, value):
    record = copy.deepcopy(RECORD)
    *holders, last = path.split(".")
    holder: Any = record
    for key in holders:
        holder = holder[int(key) if isinstance(holder, list) else key]
    holder[int(last) if isinstance(holder, list) else last] = value
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        parse_evaluation(json.dumps(record).encode())
