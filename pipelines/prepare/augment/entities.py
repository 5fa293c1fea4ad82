"""Numbers, dates and names of a record, replaced by others of their kind.

A value is replaced by the same one in all texts of the record. Numbers keep their digits' count, their order by size
and their separators; dates are all moved by the same number of days. One-digit numbers, years, and what must stay are
left as they are. An answer whose numbers do not all stand in its question may be computed from those, and a value that
also stands where it cannot be replaced would be there twice: such records have no variant.
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
_ATTEMPTS = 20
_State = Literal["free", "stays", "new"]


class Dependent(Exception):
    """Part of the record cannot be changed in the same way."""


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
    """The texts of a record with other values; as they are if they have none.

    Args:
        answers: whether each text is an answer.
        keep: what must stay; its numbers are replaced all the same.
        names: lists of names, of which each can stand for the others.

    Raises:
        Dependent: the answer may depend on a number, or a value cannot be replaced everywhere.
    """
    rest = [_Rest(text, keep.spans(text)) for text in texts]
    if dates and not any(_WEEKDAY.search(text) for text in texts):
        _move_dates(rest, draws)
    if numbers:
        _change_numbers(rest, answers, draws)
    for some in names:
        _change_names(rest, some, draws)
    return [one.text for one in rest]


class _Rest:
    """A text that is replaced in part: its parts are free, must stay, or are replaced."""

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
        """The matches in all that is not replaced."""
        return (match.group() for part, state in self._parts if state != "new" for match in pattern.finditer(part))

    def replace(self, pattern: re.Pattern[str], value: Callable[[re.Match[str]], str | None]) -> None:
        """Replace the matches in the free parts by `value`; None: the match stays free."""
        parts, self._parts = self._parts, []
        for part, state in parts:
            at = 0
            for match in pattern.finditer(part) if state == "free" else ():
                if (new := value(match)) is not None:
                    self._parts += [(part[at : match.start()], "free"), (new, "new")]
                    at = match.end()
            self._parts.append((part[at:], state))


# --- dates


def _move_dates(rest: Sequence[_Rest], draws: Draws) -> None:
    """Move all dates by the same number of days. Those that are no days of a calendar stay."""
    days = (1 + draws.below(_MOST_DAYS)) * draws.one((-1, 1))
    for pattern in _DATES:
        for one in rest:
            one.replace(pattern, lambda match: _moved(match, days))


def _moved(match: re.Match[str], days: int) -> str | None:
    """The date after some days, in the same form."""
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


def _change_numbers(rest: Sequence[_Rest], answers: Sequence[bool], draws: Draws) -> None:
    for one in rest:
        one.replace(_LIST_MARK, re.Match.group)
    found = {_digits(number) for one in rest for number in one.found(_NUMBER) if _changes(number)}
    if not found:
        return
    asked = {digits for one, answer in zip(rest, answers, strict=True) if not answer for digits in _all_digits(one)}
    said = {digits for one, answer in zip(rest, answers, strict=True) if answer for digits in _all_digits(one)}
    if any(answers) and said - asked:
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
    for one in rest:
        one.replace(_NUMBER, lambda match: _with_digits(match.group(), new))
        if new.keys() & _all_digits(one):
            raise Dependent


def _changes(number: str) -> bool:
    return len(_digits(number)) > 1 and not _YEAR.fullmatch(number) and bool(_digits(number).strip("0"))


def _digits(number: str) -> str:
    return "".join(_DIGITS.findall(number))


def _all_digits(one: _Rest) -> set[str]:
    """The numbers of a text, also those that stay, without dates and marks of lists."""
    return {_digits(number) for number in one.left(_ANY_NUMBER)}


def _with_digits(number: str, new: dict[str, str]) -> str | None:
    """The number with other digits at the places of its own; None if it stays."""
    digits = new.get(_digits(number)) if _changes(number) else None
    if digits is None:
        return None
    left = iter(digits)
    return "".join(next(left) if one.isdigit() else one for one in number)


# --- names


def _change_names(rest: Sequence[_Rest], names: Sequence[str], draws: Draws) -> None:
    one_of = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(?:{one_of})(?!\w)")
    found = {name for one in rest for name in one.found(pattern)}
    others = [name for name in names if name not in found]
    if not found or len(others) < len(found):
        return
    new = dict(zip(sorted(found), draws.ordered(others), strict=False))
    old = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, new))})(?!\w)", re.IGNORECASE)
    for one in rest:
        one.replace(pattern, lambda match: new[match.group()])
        if any(one.left(old)):
            raise Dependent
