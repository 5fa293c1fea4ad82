"""Personal data in text: found, counted, replaced by typed placeholders (spans.py says what is what)."""

from pipelines.text.personal_data.spans import KINDS, PERSONAL_DATA_VERSION, PLACEHOLDERS, Spans, count, find, redact

__all__ = ["KINDS", "PERSONAL_DATA_VERSION", "PLACEHOLDERS", "Spans", "count", "find", "redact"]
