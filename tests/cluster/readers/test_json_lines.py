"""Values of lines of JSON, and the reasons why a line has none."""

import gzip

from cluster.readers.files.json_lines import BLANK, DeepJson, json_lines, json_value
from cluster.readers.files.limits import Limits
from cluster.readers.files.span import Span
from cluster.store.store import Store

LINES = [b'{"a": 1}', b"", b"\xff", b"{", b" \r", b"[1]\r", b'"' + b"x" * 70_000 + b'"']
VALUES = [{"a": 1}, "blank", "bad_utf8", "broken_json", "blank", [1], "long_line"]


def test_every_line_has_a_value_or_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.readers.files.limits.OTHER_BYTES", 65_536)
    limits = Limits(max_document_bytes=1000)
    for name, data in (("a.jsonl", b"\n".join(LINES)), ("a.jsonl.gz", gzip.compress(b"\n".join(LINES)))):
        (tmp_path / name).write_bytes(data)
        span = Span(str(tmp_path / name), len(data), "", "jsonl", 0, len(data))
        found = list(json_lines(Store(), span, limits))
        assert [value for _, _, value in found] == VALUES
        assert [line for _, line, _ in found] == [*LINES[:-1], None]
    assert [position for position, _, _ in found] == list(range(1, 8)), "lines of a compressed file are numbered"


def test_a_value_that_is_nested_deeply_keeps_its_json_and_a_hook_sees_the_objects():
    deep = "[" * 100_000 + "]" * 100_000
    found = json_value(f' {{"a": [1, "]"], "\\u0062" : {deep}, "c": {{"d": "\\"}}"}}}}'.encode())
    assert found == {"a": [1, "]"], "b": DeepJson(deep), "c": {"d": '"}'}}
    assert json_value(b"[" * 100_000) == json_value(b'{"a": ' + b"[" * 100_000 + b"}") == "broken_json"
    assert json_value(b" \t\n") is BLANK
    assert json_value(b'{"a": 1}', lambda text: len(text)) == 8
