"""Numbers, dates and names of a record, replaced by others of their kind.

A value is replaced by the same new one in all texts of the record. Numbers keep their number of digits, their order by
size and their separators; all dates move by the same number of days. One-digit numbers, years and protected parts stay.
A record has no variant if its answer has a number that the question lacks (it may be computed from others), or if a
value also occurs where it cannot be replaced.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from typing import Literal

from raymill.pipelines.prepare.augment.draws import Draws
from raymill.pipelines.prepare.augment.pieces import Keep

_NUMBER = re.compile(r"(?<![\w.,:/-])\d+(?:[.,]\d+)*(?![\w:/-])")
_YEAR = re.compile(r"(?:19|20)\d\d")
_ANY_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_DIGITS = re.compile(r"\d+")
_LIST_MARK = re.compile(r"^\s{0,8}\d{1,3}[.)](?=\s)", re.MULTILINE)
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_MONTH_NAMES = {form.lower(): at for at, name in enumerate(_MONTHS, 1) for form in (name, name[:3])}
_MONTH = rf"(?P<name>{'|'.join((*_MONTHS, *(name[:3] for name in _MONTHS)))})"
_DATES = (
    re.compile(r"(?<![\w/-])(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)(?![\w/-])"),
    re.compile(r"(?<![\w.])(?P<day>\d{1,2})\.(?P<month>\d{1,2})\.(?P<year>\d{4})(?!\w)"),
    re.compile(rf"(?<![\w.,-])(?P<day>\d{{1,2}}) {_MONTH} (?P<year>\d{{4}})(?!\w)"),
    re.compile(rf"(?<!\w){_MONTH} (?P<day>\d{{1,2}}), (?P<year>\d{{4}})(?!\w)"),
)
_WEEKDAY = re.compile(r"\b(?:mon|tues|wednes|thurs|fri|satur|sun)days?\b", re.IGNORECASE)
_MOST_DAYS = 365
_MOST_DIGITS = 40  # of a number that is changed; Python writes none of over 4,300
_ATTEMPTS = 20
_State = Literal["free", "stays", "new"]


class Dependent(Exception):
    """The values of a record cannot be replaced consistently."""


def replaced(
    texts: Sequence[str],
    answers: Sequence[bool],
    keep: Keep,
    draws: Draws,
    *,
    numbers: bool,
    dates: bool,
    names: Sequence[Sequence[str]],
) -> list[str]:
    """The texts of a record with other values; unchanged if they have none.

    Args:
        answers: whether each text is an answer.
        keep: protected parts of the texts.
        names: lists of interchangeable names.

    Raises:
        Dependent: the answer may depend on a number, or a value occurs where it cannot be replaced.
    """
    edited = [_EditedText(text, keep.spans(text)) for text in texts]
    if dates and not any(_WEEKDAY.search(text) for text in texts):
        _move_dates(edited, draws)
    if numbers:
        _change_numbers(edited, answers, draws)
    for some in names:
        _change_names(edited, some, draws)
    return [one.text for one in edited]


class _EditedText:
    """A text as a list of parts, which are free, protected (`stays`) or replaced (`new`)."""

    def __init__(self, text: str, spans: Sequence[tuple[int, int]]) -> None:
        self._parts: list[tuple[str, _State]] = []
        at = 0
        for start, end in spans:
            self._parts += [(text[at:start], "free"), (text[start:end], "stays")]
            at = end
        self._parts.append((text[at:], "free"))

    @property
    def text(self) -> str:
        return "".join(part for part, _ in self._parts)

    def found(self, pattern: re.Pattern[str]) -> Iterator[str]:
        """The matches in the free parts."""
        return (match.group() for part, state in self._parts if state == "free" for match in pattern.finditer(part))

    def left(self, pattern: re.Pattern[str]) -> Iterator[str]:
        """The matches in the parts that are not replaced."""
        return (match.group() for part, state in self._parts if state != "new" for match in pattern.finditer(part))

    def replace(self, pattern: re.Pattern[str], value: Callable[[re.Match[str]], str | None]) -> None:
        """Replace the matches in the free parts by `value`; a match for which it is None stays free."""
        parts, self._parts = self._parts, []
        for part, state in parts:
            at = 0
            for match in pattern.finditer(part) if state == "free" else ():
                if (new := value(match)) is not None:
                    self._parts += [(part[at : match.start()], "free"), (new, "new")]
                    at = match.end()
            self._parts.append((part[at:], state))


# --- dates


def _move_dates(edited: Sequence[_EditedText], draws: Draws) -> None:
    """Move all dates by the same number of days. Impossible dates such as 31 February stay."""
    days = (1 + draws.below(_MOST_DAYS)) * draws.choice((-1, 1))
    for pattern in _DATES:
        for one in edited:
            one.replace(pattern, lambda match: _moved(match, days))


def _moved(match: re.Match[str], days: int) -> str | None:
    """The date moved by `days`, in the same format."""
    parts = match.groupdict()
    month = _MONTH_NAMES[parts["name"].lower()] if parts.get("name") else int(parts["month"])
    try:
        new = date(int(parts["year"]), month, int(parts["day"])) + timedelta(days)
    except (ValueError, OverflowError):
        return None
    values = {"year": f"{new.year:04}", "month": f"{new.month:0{len(parts.get('month') or '')}}"}
    values["day"] = f"{new.day:0{len(parts['day']) if parts['day'].startswith('0') or 'month' in parts else 1}}"
    if name := parts.get("name"):
        values["name"] = _MONTHS[new.month - 1] if len(name) > 3 or name == "May" else _MONTHS[new.month - 1][:3]
    text, start = match.group(), match.start()
    for group in sorted(values.keys() & parts.keys(), key=match.start, reverse=True):
        text = text[: match.start(group) - start] + values[group] + text[match.end(group) - start :]
    return text


# --- numbers


def _change_numbers(edited: Sequence[_EditedText], answers: Sequence[bool], draws: Draws) -> None:
    for one in edited:
        one.replace(_LIST_MARK, re.Match.group)
    found = {_digits(number) for one in edited for number in one.found(_NUMBER) if _changes(number)}
    if not found:
        return
    in_questions = {
        digits for one, answer in zip(edited, answers, strict=True) if not answer for digits in _all_digits(one)
    }
    in_answers = {digits for one, answer in zip(edited, answers, strict=True) if answer for digits in _all_digits(one)}
    if any(answers) and in_answers - in_questions:
        raise Dependent
    by_length = defaultdict[tuple[int, int], list[str]](list)
    for digits in found:
        zeros = len(digits) - len(digits.lstrip("0"))
        by_length[zeros, len(digits)].append(digits)
    new: dict[str, str] = {}
    for (zeros, length), values in sorted(by_length.items()):
        low, high = 10 ** max(length - zeros - 1, 0), 10 ** (length - zeros) - 1
        drawn = set[int]()
        for _ in range(_ATTEMPTS * len(values)):
            number = low + draws.below(high - low + 1)
            if f"{number:0{length}}" not in found and len(drawn) < len(values):
                drawn.add(number)
        if len(drawn) == len(values):
            others = (f"{number:0{length}}" for number in sorted(drawn))
            new |= dict(zip(sorted(values), others, strict=True))
    for one in edited:
        one.replace(_NUMBER, lambda match: _with_digits(match.group(), new))
        if new.keys() & _all_digits(one):
            raise Dependent


def _changes(number: str) -> bool:
    return 1 < len(_digits(number)) <= _MOST_DIGITS and not _YEAR.fullmatch(number) and bool(_digits(number).strip("0"))


def _digits(number: str) -> str:
    return "".join(_DIGITS.findall(number))


def _all_digits(one: _EditedText) -> set[str]:
    """The digits of each number of a text that is not replaced."""
    return {_digits(number) for number in one.left(_ANY_NUMBER)}


def _with_digits(number: str, new: dict[str, str]) -> str | None:
    """The number with its digits replaced and its separators kept; None if it stays."""
    digits = new.get(_digits(number)) if _changes(number) else None
    if digits is None:
        return None
    left = iter(digits)
    return "".join(next(left) if one.isdigit() else one for one in number)


# --- names


def _change_names(edited: Sequence[_EditedText], names: Sequence[str], draws: Draws) -> None:
    one_of = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(?:{one_of})(?!\w)")
    found = {name for one in edited for name in one.found(pattern)}
    others = [name for name in names if name not in found]
    if not found or len(others) < len(found):
        return
    new = dict(zip(sorted(found), draws.shuffled(others), strict=False))
    old = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, new))})(?!\w)", re.IGNORECASE)
    for one in edited:
        one.replace(pattern, lambda match: new[match.group()])
        if any(one.left(old)):
            raise Dependent
