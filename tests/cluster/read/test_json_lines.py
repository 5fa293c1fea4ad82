"""Values of lines of JSON, and the reasons why a line has none."""

import gzip

from cluster.read.json_lines import BLANK, json_lines, json_value
from cluster.read.limits import Limits
from cluster.read.span import Span
from cluster.store.store import Store

LINES = [b'{"a": 1}', b"", b"\xff", b"{", b" \r", b"[1]\r", b'"' + b"x" * 70_000 + b'"']
VALUES = [{"a": 1}, "blank", "bad_utf8", "broken_json", "blank", [1], "too_large"]


def test_every_line_has_a_value_or_a_reason(tmp_path):
    limits = Limits(max_document_bytes=1000)
    for name, data in (("a.jsonl", b"\n".join(LINES)), ("a.jsonl.gz", gzip.compress(b"\n".join(LINES)))):
        (tmp_path / name).write_bytes(data)
        span = Span(str(tmp_path / name), len(data), "", "jsonl", 0, len(data))
        found = list(json_lines(Store(), span, limits))
        assert [value for _, _, value in found] == VALUES
        assert [line for _, line, _ in found] == [*LINES[:-1], None]
    assert [position for position, _, _ in found] == list(range(1, 8)), "lines of a compressed file are numbered"


def test_deep_nesting_is_broken_json_and_a_hook_sees_the_objects():
    assert json_value(b"[" * 100_000) == "broken_json"
    assert json_value(b" \t\n") is BLANK
    assert json_value(b'{"a": 1}', lambda text: len(text)) == 8
