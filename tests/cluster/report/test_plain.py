"""Sections from facts alone: each number and each record is shown, and only as text."""

from markupsafe import escape

from cluster.report.page import page
from cluster.report.sections import DataTable, Items, Section, Tiles, plain_sections
from tests.support.report_cases import HOSTILE, Page, hostile

FACTS = {
    "files": 1234,
    "seconds": 0.25,
    "kept_words": {"a": 5, "the": 60_000},
    "skipped_files": [{"name": "a.png", "bytes": 12, "why": None}],
    "empty": [],
    "warnings": ["1 file was skipped"],
    "config": {"kind": "count"},
}


def test_facts_are_tiles_and_tables_with_their_names_as_titles():
    warned, result, kept, skipped, empty, config = plain_sections(FACTS)
    assert warned == Section("warnings", "1 warning", [Items(["1 file was skipped"])])
    assert result == Section("result", "Result", [Tiles([("Files", "1,234", ""), ("Seconds", "0.25", "")])])
    (table,) = [one for one in skipped.content if one]
    assert isinstance(table, DataTable) and table.columns == ["Name", ">Bytes", "Why"]
    assert (skipped.id, skipped.title) == ("skipped-files", "Skipped files")
    assert '<td class="n">60,000</td>' in escape(kept) and "None." in escape(empty) and config.id == "config"


def test_a_page_of_facts_shows_hostile_texts_as_texts():
    run = ("n", "2026-03-04T05:06:07+00:00", "1", "o")
    honest, attacked = (Page(page("Count report", *run, plain_sections(one))) for one in (FACTS, hostile(FACTS)))
    assert {tag for tag, _ in attacked.tags} == {tag for tag, _ in honest.tags}
    assert HOSTILE[:40] in attacked.text["warnings"] and "a.png" in honest.text["skipped-files"]
