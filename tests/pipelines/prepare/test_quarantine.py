"""Nothing is lost: quarantine has the beginning of what could not be read, of lines, of answers and of mails."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import ORIGINS, Input, Limits
from raymill.cluster.readers.units import read_unit
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.sources import RecordsInput
from tests.support.inline import prepare_inline
from tests.support.mails import ANN, mail, mbox
from tests.support.tickets import answer, question
from tests.support.web_server import as_json, web_server

GOOD = [{"q": question(n), "a": answer(n)} for n in range(4)]


@pytest.fixture
def quarantined(tmp_path, monkeypatch):
    """A function that prepares a source, and returns problem and content of each row in quarantine."""

    def run(source: dict, **settings) -> list[tuple[str, str | None]]:
        given = {"inputs": [source], "output": f"{tmp_path}/out", "execution": {"max_bad_documents": 1}} | settings
        done = prepare_inline(given, monkeypatch)
        rows = Artifact.load(Store(), f"{done.uri}/quarantine").table().to_pylist()
        return [(row["problem"], row["content"]) for row in rows]

    return run


LINES = [
    (b'{"q": "cut off', "broken_json", '{"q": "cut off'),
    (b'["q", "a"]', "not_an_object", '["q", "a"]'),
    (b'{"a": "without q", "x": 1}', "missing_text", '{"a": "without q", "x": 1}'),
    (b'{"q": null,  "a": "b"}', "null_text", '{"q": null,  "a": "b"}'),
    (b'{"q": 7, "a": "b"}', "not_a_string", '{"q": 7, "a": "b"}'),
    (b'{"id": 1.5, "q": "why?", "a": "so"}', "bad_id", '{"id": 1.5, "q": "why?", "a": "so"}'),
    (b'{"q": "gr\xfcn"}', "bad_utf8", '{"q": "gr\\xfcn"}'),
    (b'{"q": "\\ud83d", "a": "b"}', "lone_surrogate", '{"q": "\\ud83d", "a": "b"}'),
    (b'{"q": "' + b"\xc3\xa4" * 6_000 + b'", "a": 1', "broken_json", '{"q": "' + "ä" * 6_000 + '", "a": 1'),
    (b'"' + b"\xf0\x9f\x98\x80" * 12_000, "broken_json", '"' + "😀" * 9_999),
]


def test_of_json_lines_the_line(quarantined, tmp_path):
    lines = [json.dumps(row).encode() for row in GOOD] + [line for line, _, _ in LINES]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    source = {"path": str(tmp_path / "a.jsonl"), "columns": {"prompt": "q", "completion": "a"}, "id": "id"}
    assert quarantined(source) == [(problem, content) for _, problem, content in LINES]


RECORDS = [
    (b"why,so,more", "broken_csv", "why,so,more"),
    (b'"two\nlines",so,more', "broken_csv", '"two\nlines",so,more'),
    (b"q,a", "repeated_header", "q,a"),
    (b"gr\xfcn,so", "bad_utf8", "gr\\xfcn,so"),
    (b'"never closed,so', "broken_csv", '"never closed,so'),
    (b"alone", "broken_csv", "alone"),
]


def test_of_csv_the_lines_of_the_record(quarantined, tmp_path):
    good = [f"{row['q']},{row['a']}".replace(", ", " ").encode() for row in GOOD]
    (tmp_path / "a.csv").write_bytes(b"\n".join([b"q,a", *good, *(line for line, _, _ in RECORDS)]) + b"\n")
    source = {"path": str(tmp_path / "a.csv"), "columns": {"prompt": "q", "completion": "a"}}
    assert quarantined(source) == [(problem, content) for _, problem, content in RECORDS]


def test_of_an_api_the_value(quarantined, tmp_path):
    values = ["no object", None, [1, "ä"], "x" * 20_000]
    with web_server() as site:
        site.answers["/t"] = as_json([*GOOD[:2], *values, *GOOD[2:], {"q": 1, "a": "b"}])
        api = {"url": f"{site.url}/t", "allow_private": True}
        found = quarantined({"api": api, "columns": {"prompt": "q", "completion": "a"}})
    shown = ['"no object"', "null", '[1, "ä"]', '"' + "x" * 9_999]
    assert sorted(found) == sorted([("not_an_object", one) for one in shown] + [("not_a_string", '{"q": 1, "a": "b"}')])


def test_of_texts_and_mails_their_beginning(quarantined, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "in" / "b.vtt").write_text("WEBVTT\n\nno cue")
    (tmp_path / "in" / "c.mbox").write_bytes(mbox(b"no header at all", mail(1, ANN, "> a quote alone")))
    (tmp_path / "in" / "d.txt").write_text("Leave\n\nEverybody has thirty days of leave.\n")
    source = {"path": str(tmp_path / "in"), "columns": {"text": "text"}}
    assert quarantined(source) == [
        ("bad_utf8", "caf\\xe9"), ("no_cues", "WEBVTT\n\nno cue"), ("bad_message", "no header at all\n"),
        ("no_new_text", "Grüße Grüße Grüße 1\n\n> a quote alone"),
    ]  # fmt: skip


def test_of_other_formats_the_fields_that_could_be_read(quarantined, tmp_path):
    rows = [*GOOD, {"q": None, "a": "It is so."}, {"q": None, "a": None}, {"q": "x" * 3_000, "a": "y" * 20_000}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    source = {"path": str(tmp_path / "a.parquet"), "columns": {"prompt": "q", "completion": "a"}}
    found = quarantined(source, limits={"max_document_bytes": 2_000})
    cut = json.dumps({"completion": "y" * 20_000})[:10_000]
    assert found == [("null_text", '{"completion": "It is so."}'), ("null_text", None), ("too_large", cut)]


def test_a_document_over_the_bound_is_kept_in_part_and_a_line_over_the_bound_of_lines_is_not(
    quarantined, tmp_path, monkeypatch
):
    monkeypatch.setattr("raymill.cluster.readers.inputs.OTHER_BYTES", 65_536)
    long = {"q": "z" * 3_000, "a": "b"}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*GOOD, long, {"q": "z" * 80_000}]))
    source = {"path": str(tmp_path / "a.jsonl"), "columns": {"prompt": "q", "completion": "a"}}
    found = quarantined(source, limits={"max_document_bytes": 2_000})
    assert found == [("too_large", json.dumps(long)), ("long_line", None)]


def test_a_curation_does_not_carry_what_cannot_be_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{broken\n')
    for kind, wanted in ((Input, []), (RecordsInput, list(ORIGINS))):
        manifest = freeze(Store(), [kind(path=str(tmp_path / "a.jsonl"))])
        (table,) = read_unit(manifest.units[0], manifest.reading, Limits())
        assert [name for name in table.column_names if name in ORIGINS] == wanted


def test_bytes_of_a_field_that_are_no_text_are_in_quarantine(tmp_path, monkeypatch):
    answers = pa.array([b"In the menu, \xff.", "Im Menü, links.".encode()], pa.binary())
    pq.write_table(
        pa.table({"question": ["Where is it?", "Wo ist es denn?"], "answer": answers}), tmp_path / "a.parquet"
    )
    given = {"inputs": [{"source": "s", "path": f"{tmp_path}/a.parquet"}], "records": {"shape": "pairs"},
             "validate": {"answer_chars": [1, 99]}, "execution": {"max_bad_documents": 1.0}}  # fmt: skip
    run = prepare_inline(given | {"output": f"{tmp_path}/out"}, monkeypatch)
    assert [one["completion"] for one in run.split("train").table().to_pylist()] == ["Im Menü, links."]
    (reason,) = (one for one in run.report["reasons"] if one["stage"] == "collect")
    assert (reason["reason"], reason["records"]) == ("bytes_not_utf8", 1)
