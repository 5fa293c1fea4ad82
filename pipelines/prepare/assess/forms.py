"""The form of answers: JSON or not, and how dates are written in them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.prepare.records.answers import parsed_json

JSON, TEXT = "JSON", "text"

_MONTH = (
    "(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep(?:t|tember)?|Oct(?:ober)?|"
    r"Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
# An example of each form in which a date with a year of four digits is written -> its pattern. Months are English.
DATES = {
    "2026-11-23": r"\b\d{4}-\d{2}-\d{2}(?:T\d|\b)",
    "23.11.2026": r"\b\d{1,2}\.\d{1,2}\.\d{4}\b",
    "11/23/2026": r"\b\d{1,2}/\d{1,2}/\d{4}\b",
    "23 November 2026": rf"\b{_DAY} {_MONTH},? \d{{4}}\b",
    "November 23, 2026": rf"\b{_MONTH} {_DAY},? \d{{4}}\b",
}


def form_of(answer: str) -> str:
    """JSON of an object or array in JSON, else TEXT."""
    if answer.lstrip()[:1] not in ("{", "["):
        return TEXT
    try:
        parsed_json(answer)
    except ValueError:
        return TEXT
    return JSON


def dates_in(answers: Sequence[str]) -> list[list[str]]:
    """The forms of DATES that each answer has, in the order of DATES."""
    column = pa.array(answers, pa.large_string())
    found = {name: pc.match_substring_regex(column, pattern).to_pylist() for name, pattern in DATES.items()}
    return [[name for name in DATES if found[name][at]] for at in range(len(answers))]


class Forms:
    """Records of each form, by task type."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}

    def add(self, task_types: Sequence[str], forms: Sequence[Sequence[str]]) -> None:
        """Add records. forms: of each record any number of different ones."""
        for task_type, of_record in zip(task_types, forms, strict=True):
            self.counts.setdefault(task_type, Counter()).update(of_record)

    @cached_property
    def usual(self) -> Mapping[str, str]:
        """Task type -> the form that most of its records have; of equally frequent ones the first by name."""
        return {name: min(of, key=lambda form: (-of[form], form)) for name, of in self.counts.items() if of}

    def unusual(self, task_types: Sequence[str], forms: Sequence[Sequence[str]]) -> pa.Array:
        """bool[N]: whether a record has a form besides the usual one of its task type."""
        pairs = zip(task_types, forms, strict=True)
        return pa.array([any(form != self.usual[name] for form in of_record) for name, of_record in pairs], pa.bool_())

    @property
    def total(self) -> dict[str, int]:
        """Records of each form, the most frequent first."""
        total = sum(self.counts.values(), Counter[str]())
        return dict(sorted(total.items(), key=lambda one: (-one[1], one[0])))
