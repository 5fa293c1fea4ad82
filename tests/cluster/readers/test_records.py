"""Values of JSON Lines and of JSON files, read in blocks of any size, and the reasons why a line has none."""

import gzip
import json

import pytest

from raymill.cluster.readers.formats import READERS
from raymill.cluster.readers.formats import records as module
from raymill.cluster.readers.formats.records import BrokenRest, json_value, json_values
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import BLANK, DeepJson
from raymill.cluster.readers.streams import Span, UnreadableRest
from raymill.cluster.store.store import Store

LINES = [b'{"a": 1}', b"", b"\xff", b"{", b" \r", b"[1]\r", b'"' + b"x" * 70_000 + b'"']
VALUES = [{"a": 1}, "blank", "bad_utf8", "broken_json", "blank", [1], "long_line"]


def test_every_line_has_a_value_or_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.cluster.readers.inputs.OTHER_BYTES", 65_536)
    limits = Limits(max_document_bytes=1000)
    for name, data in (("a.jsonl", b"\n".join(LINES)), ("a.jsonl.gz", gzip.compress(b"\n".join(LINES)))):
        (tmp_path / name).write_bytes(data)
        span = Span(str(tmp_path / name), len(data), "", "jsonl", 0, len(data))
        found = list(READERS["jsonl"].values(Store(), span, Input(path=span.uri), limits, None))
        assert [value for _, _, value in found] == VALUES
        assert [line for _, line, _ in found] == [*LINES[:-1], None]
    assert [place for place, _, _ in found] == [f"line {number}" for number in range(1, 8)], "of a compressed file"


def test_a_value_that_is_nested_deeply_keeps_its_json_and_a_hook_sees_the_objects():
    deep = "[" * 100_000 + "]" * 100_000
    found = json_value(f' {{"a": [1, "]"], "\\u0062" : {deep}, "c": {{"d": "\\"}}"}}}}'.encode())
    assert found == {"a": [1, "]"], "b": DeepJson(deep), "c": {"d": '"}'}}
    assert json_value(b"[" * 100_000) == json_value(b'{"a": ' + b"[" * 100_000 + b"}") == "broken_json"
    assert json_value(b" \t\n") is BLANK
    assert json_value(b'{"a": 1}', lambda text: len(text)) == 8


IN_ARRAY = [
    {"text": 'a "quoted" \\ \n é🦊', "n": [1, -2.5e-3, 1e400, True, False, None], "deep": {"a": {"b": []}}},
    [[], {}, "x"], "alone", 12345, -0.25, True, None, {},
]  # fmt: skip


@pytest.fixture(params=[1, 2, 5, 1 << 16])
def least_read(request, monkeypatch):
    """Characters that are read at once, so that every value is cut off in all places."""
    monkeypatch.setattr(module, "_LEAST_READ", request.param)


def values_of(data: bytes, max_chars: int = 1000, block: int = 1):
    return [value for value, _ in json_values((data[at : at + block] for at in range(0, len(data), block)), max_chars)]


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_values_of_an_array_and_of_no_array_are_those_of_json(least_read, ascii, indent):
    each = [json.dumps(value, ensure_ascii=ascii, indent=indent) for value in IN_ARRAY]
    assert values_of(f"[{', '.join(each)}]\n".encode()) == IN_ARRAY
    beside = [text for text, value in zip(each, IN_ARRAY, strict=True) if not isinstance(value, list)]
    assert values_of("\n".join(beside).encode()) == [value for value in IN_ARRAY if not isinstance(value, list)]


@pytest.mark.parametrize("between", ["", "\n", " ,\n"])
def test_several_arrays_one_after_the_other_are_read_as_one(least_read, between):
    arrays = ['[{"a": 1}, [2]]', "[]", '[{"a": 3}]', '{"a": 4}']
    assert values_of(between.join(arrays).encode()) == [{"a": 1}, [2], {"a": 3}, {"a": 4}]
    with pytest.raises(UnreadableRest, match="truncated"):
        values_of(b'[{"a": 1}]\n[{"a": 2}')


def test_an_array_after_any_number_of_blank_lines_is_one(least_read):
    assert values_of("\ufeff".encode() + b"\n" * 100_000 + b'[{"a": 1}]', block=50_000) == [{"a": 1}]


def test_the_text_of_each_value_is_given_as_it_is(least_read):
    assert [text for _, text in json_values([b'[ {"a" : 1},', b" 2.50 ]"], 100)] == ['{"a" : 1}', "2.50"]


@pytest.mark.parametrize("broken", ['{"a": tow}', '{"a" 1}', '{"a": 1,}', "{a: 1}", '"\\x"', '{"a": "1\n2"}', "nul"])
def test_a_broken_value_ends_the_reading_there_without_reading_on(least_read, broken):
    rest = b', {"text": "next"}' * 100
    read = iter([b'["one", ', broken.encode(), *[rest] * 100_000])
    found = []
    with pytest.raises(BrokenRest, match="broken_json") as caught:
        found += [value for value, _ in json_values(read, 10_000_000)]
    assert caught.value.rest.startswith(broken)
    assert sum(1 for _ in read) > 99_900


def test_a_value_over_the_bound_is_too_large_and_one_without_an_end_is_broken(least_read):
    with pytest.raises(BrokenRest, match="too_large"):
        values_of(json.dumps(["a", "x" * 500_000, "b"]).encode(), 100_000, block=1000)
    with pytest.raises(BrokenRest, match="broken_json"):
        values_of(b'["a", {"b": "x')
    with pytest.raises(UnreadableRest, match="truncated"):
        values_of(b'["a", "b"')


def test_a_deep_value_that_a_block_cuts_within_a_string_is_read_to_its_end():
    first = b'[{"x": ' + b"[" * 3000 + b'"' + b"]" * 70_000
    second = b'"' + b"]" * 3000 + b', "text": "a"}, {"text": "b"}]'
    found = [value["text"] for value, _ in json_values([first, second], 1 << 20)]
    assert found == ["a", "b"]
