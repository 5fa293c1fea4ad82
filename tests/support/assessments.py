"""Metrics and gates of an assessment by name; findings of ten records to change."""

from typing import Any


def metric(assessment, name: str) -> float | None:
    (found,) = (one["value"] for one in assessment["metrics"] if one["name"] == name)
    return found


def gate(assessment, name: str) -> dict:
    return next(one for one in assessment["gates"] if one["name"] == name)


def findings(**changes: Any) -> Any:
    """Findings of ten records without a problem. changes: other values of some."""
    none: dict = {"records": 0, "ids": []}
    repeats = {"compared": 10, "exact": 0, "near": 0, "ids": []}
    even = {"distinct": 2, "evenness": 1.0, "shown": {"a": 5, "b": 5}, "ids": {"a": ["a0"], "b": ["b0"]}}
    return {
        "records": 10, "copies": 0, "missing": {}, "incomplete": none, "not_allowed": none, "contradictory": none,
        "inconsistent": 0, "questions": repeats, "answers": repeats,
        "leaks": {"compared": 2, "validation": 0, "test": 0, "exact": 0, "ids": []},
        "languages": {"en": 10}, "expected": ["en"],
        "other_language": none, "damaged": none, "poor_language": 0, "topics": {}, "on_topic": 0,
        "values": dict.fromkeys(("source", "task_type", "length", "turns"), even), "forms": {"text": 10}, "dates": {},
        "other_format": none, "terms": None, "off_topic": none,
        "words": {"records": 10, "tokens": 100, "distinct_1": 0.5, "distinct_2": 0.7, "mtld": 60.0}, "rules": None,
        "violating": none, "agreement": None, "represented": {}, "lengths": {}, "sentiments": {}, "periods": None,
        "learned": None,
    } | changes  # fmt: skip


def some(records: int, *ids: str) -> dict:
    return {"records": records, "ids": list(ids)}
