"""Findings as files: candidates for `annotate`, seeds for `generate`, and patches for `prepare`.

    findings/NAME/candidates.jsonl   id, prompt, answer, expected, error       `inputs` of `annotate`
    findings/NAME/seeds.jsonl        id, text, expected                        `inputs` of `generate`
    findings/NAME/patch.jsonl        a correction of a record a line           to be applied by `prepare`

A line of a patch has:

    id          id of the record, as `prepare` writes it
    field       what is corrected, as `columns` of `prepare` name it: completion, labels ...
    old         the value that is replaced; a record with another value is not corrected
    new         the value in its place
    edited_by   who corrected it: a name, or `raymill errors` for a suspicion
    reason      user_correction or label_error
    source      name of the run of `errors` and the finding: RUN/NAME
    status      accepted (a person corrected it) or proposed (a person has to accept it first)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raymill.pipelines.errors.items import EvaluatedItem
from raymill.pipelines.errors.runs import TrainingRecord

FOLDER = "findings"
EDITOR = "raymill errors"
_MOST = 10_000  # lines of a file


@dataclass(frozen=True)
class Finding:
    """Something to do about errors.

    Attributes:
        name: of its folder. kind: slice, confusion, label_error, contradictory, missing or correction.
        title: what was found, in words.
        candidates, seeds, patch: lines of its files; without any there is no file.
    """

    name: str
    kind: str
    title: str
    candidates: Sequence[Mapping[str, Any]] = ()
    seeds: Sequence[Mapping[str, Any]] = ()
    patch: Sequence[Mapping[str, Any]] = ()
    examples: Sequence[Mapping[str, Any]] = field(default_factory=list)

    @property
    def files(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """The name of each file -> its lines."""
        named = {"candidates.jsonl": self.candidates, "seeds.jsonl": self.seeds, "patch.jsonl": self.patch}
        return {name: lines[:_MOST] for name, lines in named.items() if lines}


def candidate(item: EvaluatedItem) -> dict[str, Any]:
    """An item as a candidate for `annotate`."""
    return {
        "id": item.id,
        "prompt": item.prompt,
        "answer": item.answer,
        "expected": item.expected,
        "error": item.error,
    }


def candidate_record(record: TrainingRecord) -> dict[str, Any]:
    """A training record as a candidate for `annotate`: no model answered it."""
    return {"id": record.id, "prompt": record.question, "answer": None, "expected": record.answer, "error": None}


def seeds(items: Sequence[EvaluatedItem]) -> list[dict[str, Any]]:
    """The items that `generate` can start from: those with a prompt."""
    return [{"id": one.id, "text": one.prompt, "expected": one.expected} for one in items if one.prompt.strip()]


def corrections(run: str, name: str, items: Sequence[EvaluatedItem], of_answer: str) -> Iterator[dict[str, Any]]:
    """The lines of a patch for answers that users corrected. of_answer: the field of a record that is its answer."""
    for one in items:
        by = one.edited_by or "user"
        yield _line(run, name, one.id, of_answer, one.answer, one.expected or "", by, "user_correction", "accepted")


def relabelled(run: str, name: str, labels: Sequence[tuple[str, str, str]], of_answer: str) -> Iterator[dict[str, Any]]:
    """The lines of a patch for suspected label errors. labels: (id, label, suspected right one) of each."""
    for id, old, new in labels:
        yield _line(run, name, id, of_answer, old, new, EDITOR, "label_error", "proposed")


def _line(
    run: str, name: str, id: str, of: str, old: str, new: str, edited_by: str, reason: str, status: str
) -> dict[str, Any]:
    return {
        "id": id,
        "field": of,
        "old": old,
        "new": new,
        "edited_by": edited_by,
        "reason": reason,
        "source": f"{run}/{name}",
        "status": status,
    }
