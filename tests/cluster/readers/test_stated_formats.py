"""Files whose format or encoding the config states."""

import gzip
import json

import pytest
from pydantic import ValidationError

from raymill.cluster.errors import DataError
from raymill.cluster.readers.inputs import Input
from raymill.cluster.readers.listing import find_files
from raymill.cluster.store.store import Store
from tests.support.input_rows import rows_of

CHATS = [
    {"text": "Gr\u00fc\u00dfe \u201eA\u201c", "id": "a", "more": {"x": [1]}},
    {"text": "\u20ac 5, bitte", "id": "b"},
]


def read_texts(path, content: bytes, **settings) -> list[str | None]:
    path.write_bytes(content)
    return [row["text"] or row["problem"] for row in rows_of(path, **settings)]


@pytest.mark.parametrize("encoding", ["windows-1252", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("mark", [True, False])
def test_files_of_a_stated_encoding_are_read(tmp_path, encoding, mark):
    def encoded(text: str) -> bytes:
        return text.encode(encoding if mark or "utf" not in encoding else f"{encoding.removesuffix('-le')}-be")

    if encoding == "utf-16-le" and not mark:
        return
    texts = [one["text"] for one in CHATS]
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in CHATS)
    table = "id;text\n" + "".join(f'{one["id"]};"{one["text"]}"\n' for one in CHATS)
    assert read_texts(tmp_path / "a.jsonl", encoded(lines), encoding=encoding) == texts
    for path, delimiter in (("a.csv", ";"), ("b.csv", None)):
        content = table if delimiter else f"sep=;\n{table}"
        found = read_texts(tmp_path / path, encoded(content), encoding=encoding, delimiter=delimiter, id="id")
        assert found == texts
    assert read_texts(tmp_path / "a.txt", encoded(texts[0]), encoding=encoding) == texts[:1]
    array = json.dumps(CHATS, ensure_ascii=False, indent=1)
    assert read_texts(tmp_path / "a.json", encoded(array), encoding=encoding, format="json") == texts


def test_what_is_not_of_the_stated_encoding_is_no_text(tmp_path):
    line = b'{"text": "ok"}\n{"text": "\x81"}\n{"text": "too"}\n'
    assert read_texts(tmp_path / "a.jsonl", line, encoding="windows-1252") == ["ok", "bad_utf8", "too"]
    cut = 'id,text\na,b\nc,"d'.encode("utf-16")[:-1]
    assert "truncated" in read_texts(tmp_path / "a.csv", cut, encoding="utf-16", id="id")
    for name in ("nope", "base64_codec", "hex", "bz2", "undefined"):
        with pytest.raises(ValidationError, match=f"{name}: is no encoding"):
            Input(path="x", encoding=name)


@pytest.mark.parametrize("format", ["jsonl", "json"])
def test_a_broken_value_in_a_file_of_a_stated_encoding_is_broken_json_and_no_other_encoding(tmp_path, format):
    content = '{"text": "a"}\n{"text" "b"}\n'.encode("utf-16")
    found = read_texts(tmp_path / f"a.{format}", content, encoding="utf-16", format=format)
    assert found == ["a", "broken_json"]


def test_a_declared_delimiter_of_excel_is_no_record(tmp_path):
    content = b"\xef\xbb\xbfsep=;\r\nid;text\r\na;one, two\r\n"
    assert read_texts(tmp_path / "a.csv", content, id="id") == ["one, two"]
    assert read_texts(tmp_path / "b.csv", content, id="id", delimiter=";") == ["one, two"]
    assert read_texts(tmp_path / "c.csv", b"text\nsep=;\n") == ["sep=;"]


JSON_FILES = {
    "an array": (json.dumps(CHATS), ["Gr\u00fc\u00dfe \u201eA\u201c", "\u20ac 5, bitte"]),
    "objects over several lines": ("\n".join(json.dumps(one, indent=2) for one in CHATS), 2),
    "an array of other things": ('[{"text": "a"}, 7, "b", null, [{"text": "c"}]]', ["a", *["not_an_object"] * 4]),
    "an empty array": ("[ ]", []),
    "one that is cut off": ('[{"text": "a"}, {"text": "b', ["a", "broken_json"]),
    "one that ends after a value": ('[{"text": "a"},', ["a", "truncated"]),
    "one broken value": ('[{"text": "a"}, {"text" "b"}, {"text": "c"}]', ["a", "broken_json"]),
    "a long one": (json.dumps([{"text": "x" * 50_000}] * 5), 5),
    "a key that is nested deeply": (f'[{{"x": {"[" * 3000 + "]" * 3000}, "text": "a"}}, {{"text": "b"}}]', ["a", "b"]),
    "a deep value without an end": (f'[{{"text": "a"}}, {{"x": {"[" * 3000}', ["a", "broken_json"]),
}


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_json_file_is_read_if_the_config_says_so(tmp_path, name):
    content, wanted = JSON_FILES[name]
    found = read_texts(tmp_path / "a.json", content.encode(), format="json")
    assert len(found) == wanted if isinstance(wanted, int) else found == wanted


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (json.dumps(CHATS, ensure_ascii=False).encode("utf-16"), ["utf16"]),
        (
            '[{"text": "äöü"}, {"text": "a"}, {"text": "é à"}, {"text": "a"}]'.encode("latin-1"),
            ["other_encoding", "a", "other_encoding", "a"],
        ),
        (b'[{"text": "\xfc"}, {"text": "a"}]', ["bad_utf8", "a"]),
        (rb'[{"text": "\ud800"}, {"text": "a"}]', ["lone_surrogate", "a"]),
    ],
)
def test_a_json_file_of_another_encoding_is_named_as_such(tmp_path, content, problems):
    assert read_texts(tmp_path / "a.json", content, format="json") == problems


def test_a_json_value_or_line_over_the_bound_is_too_long_in_any_encoding(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "raymill.cluster.readers.inputs.OTHER_BYTES", -30_000_000
    )  # with the default limits no byte is left
    array = json.dumps([{"text": "a"}, {"text": "x" * 3_000_000}])
    assert read_texts(tmp_path / "a.json", array.encode(), format="json") == ["a", "long_line"]
    assert read_texts(tmp_path / "a.jsonl", b'{"text": "a"}\n', encoding="windows-1252") == ["long_line"]


def test_a_json_value_that_is_no_document_is_named_by_its_number(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "a"}, 5, {"text" "b"}]')
    rows = rows_of(tmp_path / "a.json", format="json")
    places = [row["where"] and row["where"].rpartition("a.json")[2] for row in rows]
    assert places == [None, " value 2", " after value 2"]


def test_a_folder_gives_its_json_files_to_the_stated_format_alone(tmp_path):
    for name in ("a.json", "b.jsonl", "c.json.gz"):
        content = json.dumps(CHATS[:1]).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    found = find_files(Store(), Input(path=str(tmp_path), format="json")).files
    assert [file.uri.rpartition("/")[2] for file, _ in found] == ["a.json", "c.json.gz"]
    with pytest.raises(DataError, match="set `format: json`"):
        find_files(Store(), Input(path=str(tmp_path / "a.json")))
