"""Personal data in text: find it, count it, replace it by typed placeholders. Defined in spans.py."""

from pipelines.text.personal_data.spans import KINDS, PERSONAL_DATA_VERSION, PLACEHOLDERS, Spans, count, find, redact

__all__ = ["KINDS", "PERSONAL_DATA_VERSION", "PLACEHOLDERS", "Spans", "count", "find", "redact"]
