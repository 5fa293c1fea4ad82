"""Sentences and numbers about what packing left out, cut or found changed, against plain counts."""

import pytest

from training.pack import overflow, packed_run
from training.pack.packed_run import changed_files_text, listing_for_manifest

WHOLE = {"examples": 200, "tokens": 10_000, "label_tokens": 4_000}


@pytest.mark.parametrize(
    ("counted", "words", "share"),
    [
        ({"documents_dropped": 3, "tokens_dropped": 50},
         "3 of 200 examples (1.5%) are longer than a row of 1,024 tokens and left out, with 50 of 10,000 tokens (0.5%)",
         0.015),
        ({"documents_dropped": 1, "tokens_dropped": 500},
         "1 of 200 examples (0.5%) are longer than a row of 1,024 tokens and left out, with 500 of 10,000 tokens "
         "(5.0%)", 0.05),
        ({"documents_truncated": 2, "tokens_truncated": 900},
         "2 of 200 examples (1.0%) are longer than a row of 1,024 tokens and truncated: 900 of 10,000 tokens (9.0%) "
         "are lost", 0.09),
        ({"documents_all_question": 4, "tokens_all_question": 100},
         "4 of 200 examples (2.0%) have a question that fills a row of 1,024 tokens and are left out, with 100 of "
         "10,000 tokens (1.0%)", 0.02),
        ({"documents_split": 6}, "6 of 200 examples (3.0%) are longer than a row of 1,024 tokens and split", 0),
        ({"documents_split": 6, "label_tokens_apart": 1000},
         "6 of 200 examples (3.0%) are longer than a row of 1,024 tokens and split: 1,000 of 4,000 label tokens "
         "(25.0%) are in pieces without their question", 0.25),
    ],
)  # fmt: skip
def test_a_note_has_the_numbers_of_its_own_counters_and_the_larger_share(counted, words, share):
    assert overflow.notes(WHOLE, counted, 1024) == [(words, share)]
    assert overflow.notes(WHOLE, dict.fromkeys(counted, 0), 1024) == []


def test_each_way_has_a_note_of_its_own_and_one_percent_is_no_warning():
    counted = dict.fromkeys(overflow.COUNTERS, 2)
    assert len(overflow.notes(WHOLE, counted, 8)) == 4
    for documents, warned in ((1, False), (2, False), (3, True)):
        (note,) = overflow.notes(WHOLE, {"documents_dropped": documents}, 8)
        assert note.warned is warned
    (note,) = overflow.notes(dict.fromkeys(WHOLE, 0), {"documents_dropped": 1}, 8)
    assert note.share == 0


def test_left_out_documents_are_told_by_reason_the_most_frequent_first():
    counters = {"documents": 90, "left_out/empty": 2, "left_out/null": 8, "left_out/none": 0, "examples": 500}
    (note,) = overflow.left_out(counters)
    assert note == ("10 of 100 documents (10.0%) are left out: 8 null, 2 empty", 0.1)
    assert overflow.left_out({"documents": 90, "left_out/empty": 0}) == []


def test_totals_are_over_the_splits_and_count_examples_or_else_documents():
    counters = {f"{name}/{split}": base + at for base, name in ((10, "tokens"), (20, "label_tokens"))
                for at, split in enumerate(("train", "validation", "test"))}  # fmt: skip
    assert overflow.totals(counters | {"documents": 4, "examples": 7}) == {
        "examples": 7, "tokens": 33, "label_tokens": 63,
    }  # fmt: skip
    assert overflow.totals({"documents": 4}) == {"examples": 4, "tokens": 0, "label_tokens": 0}


FILES = (("a", 1000, "v1"), ("b", 2000, "v1"), ("c", 3, "v1"))


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (FILES, ""),
        (FILES[::-1], ""),
        (FILES[1:], "a is gone"),
        ((*FILES, ("d", 1, "v1")), "d is new"),
        ((("a", 1500, "v1"), *FILES[1:]), "a had 1,000 bytes, now 1,500"),
        ((("a", 1000, "v2"), *FILES[1:]), "a has the same size and another time stamp or ETag"),
        ((("d", 1, ""), ("e", 1, "")), "a is gone, b is gone, c is gone and 2 more"),
        ((("d", 1, ""),), "a is gone, b is gone, c is gone and 1 more"),
        ((*FILES[:2], ("d", 1, "")), "c is gone, d is new"),
        ((*FILES[2:], ("d", 1, "")), "a is gone, b is gone, d is new"),
        ((), ""),
    ],
)
def test_what_changed_among_files_is_named_with_how_and_at_most_three(now, said):
    assert changed_files_text(FILES, now) == said
    assert changed_files_text((), now) == ""


def test_a_listing_is_kept_up_to_its_limit(monkeypatch):
    monkeypatch.setattr(packed_run, "_LISTED_FILES", 3)
    assert listing_for_manifest(FILES) == [list(file) for file in FILES]
    assert listing_for_manifest((*FILES, ("d", 1, ""))) == []
