"""Personal data in text: find it, count it, replace it by typed placeholders. Defined in spans.py and spellings.py."""

from raymill.pipelines.text.personal_data.spans import (
    KINDS,
    PERSONAL_DATA_VERSION,
    PLACEHOLDERS,
    Spans,
    count,
    find,
    redact,
)
from raymill.pipelines.text.personal_data.spellings import find_spellings

__all__ = ["KINDS", "PERSONAL_DATA_VERSION", "PLACEHOLDERS", "Spans", "count", "find", "find_spellings", "redact"]
