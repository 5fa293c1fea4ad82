"""The values of a JSON file, read in blocks of any size."""

import json

import pytest

from cluster.readers.files import json_values as module
from cluster.readers.files.compression import UnreadableRest
from cluster.readers.files.json_values import BrokenRest, json_values

VALUES = [
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
    each = [json.dumps(value, ensure_ascii=ascii, indent=indent) for value in VALUES]
    assert values_of(f"[{', '.join(each)}]\n".encode()) == VALUES
    beside = [text for text, value in zip(each, VALUES, strict=True) if not isinstance(value, list)]
    assert values_of("\n".join(beside).encode()) == [value for value in VALUES if not isinstance(value, list)]


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
