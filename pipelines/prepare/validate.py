"""The rules that a record must meet, in the order in which they are checked. The first that fails is the reason."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

from pipelines.prepare.config import Validate
from pipelines.prepare.content import Content, question_and_answer
from pipelines.prepare.times import microseconds

# reason -> what it says of a record.
REASONS = {
    "missing_metadata": "a field that `validate.require` names is missing or empty",
    "not_allowed": "a field has a value that is not in `validate.allowed`",
    "too_old": "a date before `validate.since`, or none",
    "no_time": "no date or time in ISO 8601 in the field of `split.by_time`",
    "too_new": "a date after `validate.until`, or none",
    "licence_not_allowed": "a licence that is not in `validate.licences`, or none",
    "text_too_short": "fewer characters than `validate.text_chars`",
    "text_too_long": "more characters than `validate.text_chars`",
    "question_too_short": "fewer characters than `validate.question_chars`",
    "question_too_long": "more characters than `validate.question_chars`",
    "answer_too_short": "fewer characters than `validate.answer_chars`",
    "answer_too_long": "more characters than `validate.answer_chars`",
    "copied_answer": "the answer is the question again",
    "refusal": "a sentence of the answer begins like one of `validate.refusals`",
}

_SENTENCE_END = re.compile(r"[.!?\n]+\s*")
_WORD = re.compile(r"\w+")


class Failed(NamedTuple):
    """A rule that a record does not meet. reason: a key of REASONS. value: what was seen. limit: what was wanted."""

    reason: str
    value: str
    limit: str


@dataclass(frozen=True)
class Validator:
    """Checks records. by_time: metadata with the time that decides the split."""

    settings: Validate
    by_time: str | None = None

    def __call__(self, content: Content, metadata: Mapping[str, str | None]) -> Failed | None:
        """The first rule that a record does not meet; None if it meets all."""
        for name in self.settings.require:
            if not metadata.get(name):
                return Failed("missing_metadata", name, "a value")
        for name, values in self.settings.allowed.items():
            if (value := metadata.get(name)) is not None and value not in values:
                return Failed("not_allowed", f"{name}: {value}", ", ".join(values))
        for name, earliest in self.settings.since.items():
            if not (value := metadata.get(name) or "") or _date(value) < earliest:
                return Failed("too_old", f"{name}: {value}", earliest.isoformat())
        if self.by_time is not None and microseconds(metadata.get(self.by_time)) is None:
            return Failed(
                "no_time", f"{self.by_time}: {metadata.get(self.by_time) or ''}", "a date or time in ISO 8601"
            )
        for name, latest in self.settings.until.items():
            if not (value := metadata.get(name) or "") or not date.min < _date(value) <= latest:
                return Failed("too_new", f"{name}: {value}", latest.isoformat())
        if (allowed := self.settings.licences) is not None and metadata.get("licence") not in allowed:
            return Failed("licence_not_allowed", metadata.get("licence") or "", ", ".join(allowed))
        asked = question_and_answer(content)
        if asked is None:
            assert isinstance(content, str)
            return self._length("text", content, self.settings.text_chars)
        question, answer = asked
        lengths = self._length("question", question, self.settings.question_chars)
        if failed := lengths or self._length("answer", answer, self.settings.answer_chars):
            return failed
        if self.settings.copied_answer and _words(question) == _words(answer):
            return Failed("copied_answer", answer[:80], "another text than the question")
        return self._refusal(answer)

    def _length(self, name: str, text: str, bounds: tuple[int, int] | None) -> Failed | None:
        if bounds is None or bounds[0] <= len(text) <= bounds[1]:
            return None
        short = len(text) < bounds[0]
        return Failed(f"{name}_too_{'short' if short else 'long'}", str(len(text)), str(bounds[0 if short else 1]))

    def _refusal(self, answer: str) -> Failed | None:
        if not self.settings.refusals:
            return None
        plain = answer.lower().replace("\u2019", "'")
        for sentence in _SENTENCE_END.split(plain):
            for phrase in self.settings.refusals:
                if sentence.startswith(phrase.lower()):
                    return Failed("refusal", sentence[:80], phrase)
        return None


def _date(value: str) -> date:
    """The date at the beginning of a text in ISO 8601; the first of all dates if there is none."""
    try:
        return date.fromisoformat(value.strip()[:10])
    except ValueError:
        return date.min


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
