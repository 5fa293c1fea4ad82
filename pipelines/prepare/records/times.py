"""Times of records: ISO 8601, the usual written forms, and seconds from 1970."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Digits of a time since 1970, from 1973 on -> its units of a second.
_UNITS = {9: 1, 10: 1, 12: 1_000, 13: 1_000, 15: 1_000_000, 16: 1_000_000, 18: 1_000_000_000, 19: 1_000_000_000}
_NUMBER = re.compile(r"(\d{9,19})(\.\d*)?")

_MONTHS = {
    name: number
    for names in (
        "jan feb mar apr may jun jul aug sep oct nov dec",
        "january february march april may june july august september october november december",
        "januar februar märz april mai juni juli august september oktober november dezember",
        "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
        "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
        "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
        "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
        "januari februari maart april mei juni juli augustus september oktober november december",
    )
    for number, name in enumerate(names.split(), 1)
} | {"sept": 9, "mär": 3, "okt": 10, "dez": 12}
_MONTH = rf"(?P<name>{'|'.join(sorted(_MONTHS, key=len, reverse=True))})\.?"
_CLOCK = (
    r"(?:[\s,T]+(?:at\s+|um\s+|à\s+)?(?P<hour>\d{1,2})[:.](?P<minute>\d{2})(?:[:.](?P<second>\d{2})(?:[.,]\d+)?)?"
    r"\s*(?P<half>[ap]\.?m\.?)?(?:\s*(?:uhr|h))?\s*(?P<zone>z|utc|gmt|(?:utc|gmt)?[+-]\d{2}:?\d{2})?)?"
)
_WEEKDAY = r"(?:[^\W\d_]{2,10}\.?,?\s+)?"
_FORMS = tuple(
    re.compile(form + _CLOCK, re.IGNORECASE)
    for form in (
        rf"{_WEEKDAY}(?P<day>\d{{1,2}})(?:st|nd|rd|th|\.|º)?[\s-]+(?:of\s+|de\s+)?{_MONTH},?[\s-]+(?:de\s+)?(?P<year>\d{{4}})",
        rf"{_WEEKDAY}{_MONTH}[\s-]+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?[\s-]+(?P<year>\d{{4}})",
        r"(?P<year>\d{4})[./-](?P<month>\d{1,2})[./-](?P<day>\d{1,2})",
        r"(?P<day>\d{1,2})\.\s?(?P<month>\d{1,2})\.\s?(?P<year>\d{4})",
        r"(?P<first>\d{1,2})(?P<mark>[/-])(?P<other>\d{1,2})(?P=mark)(?P<year>\d{4})",
    )
)


def microseconds(value: str | None) -> int | None:
    """Microseconds from 1970 to a date or time in ISO 8601, which is UTC without an offset; None if it is none."""
    try:
        time = datetime.fromisoformat((value or "").strip())
    except ValueError:
        return None
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def in_iso(value: str | None, day_first: bool | None = None) -> str | None:
    """A date or time in ISO 8601: a text that is one as it is, other known forms as that; None if it is none.

    Known are seconds from 1970, with milli-, micro- and nanoseconds; days with names of months, in English, German,
    French, Spanish, Italian, Portuguese and Dutch; RFC 5322; and numbers, of which the day is first with dots.

    Args:
        day_first: the order of the numbers in `03/04/2026`; None: it is no date, unless one of them is above 12.
    """
    text = " ".join((value or "").split())
    if number := _NUMBER.fullmatch(text):
        unit = _UNITS.get(len(number[1]))
        if unit is None:
            return None
        fraction = float(f"0{number[2] or ''}") * 1_000_000 / unit
        micro = int(number[1]) * 1_000_000 // unit + round(fraction)
        return (_EPOCH + timedelta(microseconds=micro)).isoformat()
    try:
        datetime.fromisoformat(text)
        return text
    except ValueError:
        pass
    for form in _FORMS:
        if found := form.fullmatch(text):
            return _of_parts(found.groupdict(), day_first)
    try:
        return parsedate_to_datetime(text).isoformat()  # Mon, 2 Nov 2026 10:00:00 +0100 (CET), Mon Nov 2 10:00:00 2026
    except (ValueError, TypeError, OverflowError):
        return None


def _of_parts(found: dict[str, str | None], day_first: bool | None) -> str | None:
    day, month = int(found.get("day") or 0), int(found.get("month") or 0)
    if name := found.get("name"):
        month = _MONTHS[name.lower()]
    if found.get("first"):
        first, other = int(found["first"] or 0), int(found["other"] or 0)
        if day_first is None and first != other and max(first, other) <= 12:
            return None
        is_day_first = first > 12 or (other <= 12 and bool(day_first))
        day, month = (first, other) if is_day_first else (other, first)
    hour, half = int(found["hour"] or 0), (found["half"] or "")[:1].lower()
    if half and not 1 <= hour <= 12:
        return None
    hour = hour % 12 + 12 * (half == "p") if half else hour
    zone = (found["zone"] or "").lower().removeprefix("utc").removeprefix("gmt")
    try:
        time = datetime(int(found["year"] or 0), month, day, hour, int(found["minute"] or 0), int(found["second"] or 0))
    except ValueError:
        return None
    if found["hour"] is None:
        return time.date().isoformat()
    offset = "" if not found["zone"] else "+00:00" if zone in ("", "z") else f"{zone[:3]}:{zone[-2:]}"
    return f"{time.isoformat()}{offset}"
