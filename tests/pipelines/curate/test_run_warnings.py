"""The warnings of a report: each at, below and above its bound, with its numbers, and none without a cause."""

from types import SimpleNamespace
from typing import Any

import pytest

from raymill.cluster.readers.quarantine import LOSES_THE_REST
from raymill.cluster.readers.reader import PROBLEMS
from raymill.cluster.readers.streams import PROBLEMS_OF_WHOLE_FILES
from raymill.pipelines.curate.report.run_warnings import warnings


def amount(documents: int) -> dict[str, int]:
    return {"documents": documents, "characters": 10 * documents}


def source(name: str = "a", given: int = 10, kept: int = 10, **more: Any) -> dict[str, Any]:
    plain = {"reasons": [], "without_id": 0, "empty_texts": 0, "repeated_keys": 0, "without_newest_by": 0, "notes": {}}
    return {"source": name, "input": amount(given), "corpus": amount(kept)} | plain | more


def stage(name: str, left: int, removed: int) -> dict[str, Any]:
    return {"stage": name, "left": amount(left), "removed": amount(removed), "reasons": []}


def found(files=(), skipped=None, notes=(), loss: float = 0.9, keep=(), report_skipped=(), **parts: Any) -> list[str]:
    """The warnings of a report without anything unusual, but for these parts."""
    usual: dict[str, Any] = {
        "sources": [source()],
        "funnel": [stage("read", 10, 0), stage("c4", 9, 1), stage("corpus", 9, 0)],
        "totals": {"input": amount(10), "corpus": amount(9)},
        "languages": [],
        "quarantine": [],
        "duplicate_ids": [],
        "skipped": report_skipped,
    }
    inputs = SimpleNamespace(files=[SimpleNamespace(source=s) for s in files], skipped=skipped or {}, notes=notes)
    return warnings(usual | parts, inputs, loss, keep)  # type: ignore[arg-type]


def test_a_usual_run_has_none():
    assert found() == []


@pytest.mark.parametrize(
    ("given", "kept", "loss", "warned"),
    [(100, 25, 0.75, ""), (100, 24, 0.75, "76%"), (100, 26, 0.75, ""), (8, 0, 1.0, ""), (1, 0, 0.9, "100%")],
)
def test_a_source_that_loses_more_than_the_bound(given, kept, loss, warned):
    reasons = [
        {"reason": "few", "documents": 1},
        {"reason": "most", "documents": 60},
        {"reason": "some", "documents": 9},
    ]
    plural = "document" if given == 1 else "documents"
    sources = [source("b"), source("a", given, kept, reasons=reasons)]
    wanted = [f"Source a lost {warned} of its {given} {plural}, most to most."] if warned else []
    assert found(sources=sources, loss=loss) == wanted


@pytest.mark.parametrize(
    ("left", "removed", "warning"),
    [
        (1000, 0, "c4 removed nothing of 1,000 documents."),
        (999, 0, None),
        (999, 1, None),
        (0, 0, None),
        (5, 95, None),
        (4, 96, "c4 removed 96% of 100 documents."),
        (0, 1, "c4 removed 100% of 1 document."),
    ],
)
def test_a_stage_that_removes_nothing_or_almost_all(left, removed, warning):
    ends = (stage("read", 5000, 0), stage("corpus", 5000, 0))  # these have no checks
    assert found(funnel=[ends[0], stage("c4", left, removed), ends[1]]) == ([warning] if warning else [])


def test_an_empty_corpus_has_its_cause():
    nothing = amount(0)
    sources = [source(given=0, kept=0)]
    first, last = found(totals={"input": nothing, "corpus": nothing}, sources=sources, files=("b", "a", "a"))
    assert first == "Source a: no document in its 2 files."
    assert last == "The corpus is empty: no document could be read."
    assert found(totals={"input": amount(3), "corpus": nothing}) == ["The corpus is empty: every document was removed."]


def test_a_kept_language_without_a_document_in_the_corpus():
    counts = {"en": (5, 4), "de": (1234, 0), "fr": (0, 0), "it": (7, 0)}
    languages = [{"language": name, "input": amount(i), "corpus": amount(c)} for name, (i, c) in counts.items()]
    assert found(languages=languages, keep=("en", "de", "fr", "ja")) == [
        "Language de is in language.keep, but the corpus has no document in it; 1,234 in the input."
    ]


@pytest.mark.parametrize("problem", sorted(PROBLEMS))
@pytest.mark.parametrize("count", [1, 2])
def test_a_quarantined_document_is_counted_and_one_that_costs_others_is_named(problem, count):
    entry = {"source": "b", "problem": problem, "documents": count, "examples": ["in/x line 3", "in/y line 4"]}
    times = "1 time" if count == 1 else "2 times"
    wanted = []
    if problem == "corrupt_page":
        wanted.append(
            f"Source b: {'1 row was' if count == 1 else '2 rows were'} lost (corrupt_page, first in/x line 3)."
        )
    elif problem in LOSES_THE_REST:
        wanted.append(
            f"Source b: {times} the rest of a file was lost ({problem}, first in/x line 3); how many documents it held "
            "is not known."
        )
    if problem in PROBLEMS_OF_WHOLE_FILES:
        wanted.append(f"Source b: {PROBLEMS[problem]} (in/x line 3).")
    words = "1 document could not be read; it is" if count == 1 else "2 documents could not be read; they are"
    assert found(quarantine=[entry]) == [*wanted, f"{words} listed under quarantine."]


def test_unreadable_documents_of_all_problems_are_added():
    rows = [("a", "bad_utf8", 3), ("b", "bad_utf8", 4), ("b", "too_large", 5)]
    entries = [{"source": s, "problem": p, "documents": n, "examples": ["x"]} for s, p, n in rows]
    assert found(quarantine=entries) == ["12 documents could not be read; they are listed under quarantine."]
    only = found(quarantine=entries, sources=[source("b", 0, 0)])
    assert only[0] == "Source b: none of its 9 rows could be read (bad_utf8, too_large)."
    one = found(quarantine=[entries[0] | {"documents": 1}], sources=[source("a", 0, 0)])
    assert one[0] == "Source a: its only row could not be read (bad_utf8)."


@pytest.mark.parametrize(
    ("part", "one", "two"),
    [
        (
            "without_id",
            "1 document has no id (null, missing or empty) and is named by the hash of its text",
            "2 documents have no id (null, missing or empty) and are named by the hash of their text",
        ),
        ("empty_texts", "1 document has an empty text", "2 documents have an empty text"),
        (
            "repeated_keys",
            "1 record gives a key twice (the last value is used)",
            "2 records give a key twice (the last value is used)",
        ),
        (
            "without_newest_by",
            "1 document has no date, time or number in the column dedup.newest_by, and comes last among duplicates",
            "2 documents have no date, time or number in the column dedup.newest_by, and come last among duplicates",
        ),
    ],
)
def test_what_is_odd_about_the_rows_of_a_source(part, one, two):
    for count, words in ((1, one), (2, two)):
        assert found(sources=[source("a"), source("b", **{part: count})]) == [f"Source b: {words}."]


def test_ids_of_several_documents_notes_and_skipped_files():
    entries = [
        {"source": "a", "ids": 1, "documents": 2000, "examples": ["x"]},
        {"source": "b", "ids": 2, "documents": 5, "examples": ["y", "z"]},
    ]
    first, second, note, skipped = found(
        duplicate_ids=entries, notes=("A note.",), skipped={"a": {}, "b": {".png": 2, "hidden": 1}}
    )
    assert first.startswith("Source a: 1 id is used by more than one document, 2,000 documents in all (x). ")
    assert second.startswith("Source b: 2 ids are used by more than one document, 5 documents in all (y, z). ")
    assert (note, skipped) == ("A note.", "Source b: files were passed over: 2 .png, 1 hidden.")


def test_records_inside_files_that_are_no_documents_are_named_by_reason():
    reasons = {"record of kind request": 1200, "response with status 404": 1201, "b only": 1}
    rows = [{"source": "a", "inside": True, "reason": reason, "count": count} for reason, count in reasons.items()]
    rows[2]["source"] = "b"
    listed = {"source": "a", "inside": False, "reason": ".png", "count": 2}
    assert found(skipped={"a": {".png": 2}, "b": {}}, report_skipped=[*rows, listed]) == [
        "Source a: files were passed over: 2 .png.",
        "Source a: 2,401 items inside its files are no documents: 1,201 response with status 404, "
        "1,200 record of kind request.",
        "Source b: 1 item inside its files is no document: 1 b only.",
    ]
    many = [{"source": "a", "inside": True, "reason": f"r{at:02}", "count": 20 - at} for at in range(13)]
    (warning,) = found(skipped={"a": {}}, report_skipped=many)
    assert warning.endswith("9 r11 and 1 more reason.")
