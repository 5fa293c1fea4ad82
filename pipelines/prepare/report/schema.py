"""The content of report.json of a data set. A key that ends with `?` may be missing."""

from typing import Any

PrepareReport = dict[str, Any]

# stage -> what the report calls its removed records.
STAGES = {
    "collect": "not readable",
    "table": "rows dropped",
    "validate": "fail a rule",
    "relevance": "unrelated",
    "duplicates": "duplicates",
    "contradictions": "contradictory",
    "outliers": "outliers",
    "mixture": "over a share",
    "balance": "over a class",
}
LEFT_OUT_STAGES = ("relevance", "contradictions", "outliers", "mixture", "balance")
ANSWER_SHOWN = 300  # characters
EXAMPLE_SHOWN = 600  # characters of a removed record

# stage: a key of STAGES; collect is quarantine. example: the first record, none of listed ones; its value and limit are
# as in the ledger, of quarantine where it was; its text is the beginning.
_REASONS = [{
    "stage": str, "reason": str, "meaning": str, "records": int,
    "example?": {
        "id": str | None, "source": str, "value": str | None, "limit": str | None, "partner": str | None, "text": str,
    },
}]  # fmt: skip

REPORT = {
    "name": str, "finished": str, "version": str, "output": str, "shape": str,
    "totals": dict[str, int],
    "splits": dict[str, int],
    # records: that were read and are records; passed: of these, those that meet all rules.
    "sources": [{
        "source": str, "licence": str | None, "quarantined": int, "records": int, "passed": int,
        "splits": dict[str, int],
    }],
    "reasons": _REASONS,
    # Texts that readers and cleaning took out of records. example: the beginning of one.
    "cut": [{"source": str, "kind": str, "meaning": str, "pieces": int, "characters": int, "example": str}],
    "listed": _REASONS,  # records of the splits that were found and stay
    "contradictions": [{"question": str, "answers": [{"id": str, "answer": str}]}],  # examples
    "straddling": dict[str, int],  # group -> number of values that are in more than one split
    # Records for validation or testing that are older than the newest training record; null without `split.by_time`.
    "older?": int | None,
    "stages?": dict[str, int],  # of the curriculum -> records
    "assigned?": dict[str, int],  # records of each split before balancing
    "personal_data?": dict[str, int],  # findings that were replaced, by place
    "classes?": dict[str, list],  # of each field that has few values: stages.classes.ClassCounts
    "warnings": [str],
    "notes": [str],
    "config": dict[str, Any],
}  # fmt: skip
REQUIRED = tuple(key for key in REPORT if not key.endswith("?"))


def counts_below(counters: dict[str, float], prefix: str) -> dict[str, int]:
    """The counters whose names begin with a prefix, by the rest of their names."""
    return {key.removeprefix(prefix): int(value) for key, value in counters.items() if key.startswith(prefix)}
