"""Times of records."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(value: str | None) -> int | None:
    """Microseconds from 1970 to a date or time in ISO 8601, which is UTC without an offset; None if it is none."""
    try:
        time = datetime.fromisoformat((value or "").strip())
    except ValueError:
        return None
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)
