"""Sentences and numbers about what packing left out, cut or found changed, against plain counts."""

import dataclasses
import io
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from raymill.cluster.errors import ConfigError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.readers.streams import Span
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Columns, Corpus, Split
from raymill.training.data.packed import EXAMPLES
from raymill.training.job import _summary as job_summary
from raymill.training.job import report_overflow
from raymill.training.pack import corpus as corpus_module
from raymill.training.pack import packed_run, packing, tokenise
from raymill.training.pack import summary as notes_module
from raymill.training.pack.corpus import freeze_corpus
from raymill.training.pack.documents import Document
from raymill.training.pack.encode import Example, Misfit
from raymill.training.pack.job import packing_rule
from raymill.training.pack.packed_run import changed_files_text, listing_for_manifest
from raymill.training.pack.split import Cuts, survey_here
from raymill.training.pack.summary import summary
from raymill.training.tokenizer import load_tokenizer
from raymill.training.tokenizer.load_tokenizer import pad_id
from raymill.training.tokenizer.preview import Preview, Segment, ShownExample, print_previews, segments_of
from raymill.training.tokenizer.preview import _overflow as overflow_text
from raymill.training.tokenizer.preview import _text as preview_text
from tests.support.packed_examples import config, document
from tests.support.tiny_tokenizers import tiny

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
    assert notes_module.overflow(WHOLE, counted, 1024) == [(words, share)]
    assert notes_module.overflow(WHOLE, dict.fromkeys(counted, 0), 1024) == []


def test_each_way_has_a_note_of_its_own_and_one_percent_is_no_warning():
    counted = dict.fromkeys(notes_module.COUNTERS, 2)
    assert len(notes_module.overflow(WHOLE, counted, 8)) == 4
    for documents, warned in ((1, False), (2, False), (3, True)):
        (note,) = notes_module.overflow(WHOLE, {"documents_dropped": documents}, 8)
        assert note.warned is warned
    (note,) = notes_module.overflow(dict.fromkeys(WHOLE, 0), {"documents_dropped": 1}, 8)
    assert note.share == 0


def test_left_out_documents_are_reported_by_reason_the_most_frequent_first():
    counters = {"documents": 90, "left_out/empty": 2, "left_out/null": 8, "left_out/none": 0, "examples": 500}
    (note,) = notes_module.left_out(counters)
    assert note == ("10 of 100 documents (10.0%) are left out: 8 null, 2 empty", 0.1)
    assert notes_module.left_out({"documents": 90, "left_out/empty": 0}) == []


def test_what_is_left_out_has_the_place_of_one():
    places = ("null/a.jsonl line 12", "null/a.jsonl line 9", "broken_json/b/c.jsonl line 3")
    counters = {"documents": 90, "left_out/null": 8, "left_out/broken_json": 1}
    counters |= {f"first_left_out/{place}": 1 for place in places}
    (note,) = notes_module.left_out(counters)
    seen = "8 null (such as a.jsonl line 9), 1 broken_json (b/c.jsonl line 3)"
    assert note.words == f"9 of 99 documents (9.1%) are left out: {seen}"


def test_totals_are_over_the_splits_and_count_examples_or_else_documents():
    counters = {f"{name}/{split}": base + at for base, name in ((10, "tokens"), (20, "label_tokens"))
                for at, split in enumerate(("train", "validation", "test"))}  # fmt: skip
    assert notes_module.totals(counters | {"documents": 4, "examples": 7}) == {
        "examples": 7, "tokens": 33, "label_tokens": 63,
    }  # fmt: skip
    assert notes_module.totals({"documents": 4}) == {"examples": 4, "tokens": 0, "label_tokens": 0}


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


# --- counts of packing as they are shown


def test_a_summary_has_each_splits_numbers_and_its_notes_in_order():
    settings = config(sequence_length=100, tokens_per_step=400)
    kinds = ("documents", "rows", "tokens", "label_tokens", "padding")
    counted = {f"{kind}/{split}": 1000 * at + base for at, split in enumerate(SPLITS, start=1)
               for base, kind in enumerate(kinds, start=1)}  # fmt: skip
    tokenised = {"documents": 5000, "examples": 200, "left_out/empty": 2, "special_tokens_as_text": 3}
    packed = SimpleNamespace(
        sets={},
        corpora=["c"],
        uri="U",
        tokenizer_uri="T",
        rows=lambda split: counted[f"rows/{split}"],
        tokenised=lambda name: tokenised | {f"tokens/{split}": 5000 for split in SPLITS},
        packed=lambda name: counted | {"pieces_without_label": 4, "tokens_without_label": 50, "documents_split": 2},
        passed_over={"c": "1 file is skipped"},
    )
    lines = summary(settings, packed).splitlines()
    assert lines[0] == f"c: 5,000 documents, 6,009 tokens, {6012 / 6009:.1%} of them trained on"
    for at, split in enumerate(SPLITS, start=1):
        documents, rows, tokens, trained, padding = (1000 * at + base for base in range(1, 6))
        shares = [f"{trained / tokens:.1%}", f"{tokens / (tokens + padding):.1%}"]
        assert lines[1 + at].split() == [split, f"{documents:,}", f"{rows:,}", f"{tokens:,}", *shares]
    assert lines[5] == "  1 file is skipped"
    assert lines[6].startswith("  2 of 5,002 documents") and lines[7].startswith("  2 of 200 examples (1.0%)")
    assert lines[8] == "  4 pieces without a token to train on, left out: 50 tokens"
    assert lines[9] == "  3 documents have control tokens in their messages, which are text there"
    assert lines[10] == "one epoch is 250.5 steps of 4 rows, 400 tokens"


@pytest.mark.parametrize(("count", "size"), [(1, 7), (3, 8), (4, 9)])
def test_documents_are_encoded_in_lists_bounded_in_bytes_and_in_number(monkeypatch, count, size):
    monkeypatch.setattr(tokenise, "_TABLE_BYTES", 24)
    monkeypatch.setattr(tokenise, "_TABLE_DOCUMENTS", count)
    documents = [Document(str(n), "", size, 0, "", None) for n in range(10)]
    tables = list(tokenise._tables(iter(documents)))
    assert [one for table in tables for one in table] == documents
    full = min(count, -(-24 // size))
    assert [len(table) for table in tables[:-1]] == [full] * (len(tables) - 1) and 1 <= len(tables[-1]) <= full


@pytest.mark.parametrize(("failed", "documents", "refused"), [(31, 0, False), (32, 0, True), (32, 1, False)])
def test_a_template_is_refused_when_it_failed_for_enough_documents_and_for_all(failed, documents, refused):
    misfits = [Misfit(1, "no_end_of_turn", "first"), *(Misfit(at, "doubled_bos", "x") for at in range(2, 40))]
    try:
        tokenise._refuse_template(documents, misfits[:failed], 32)
        assert not refused
    except ConfigError as error:
        assert refused and "of the first 32 documents none is an example (no_end_of_turn)" in str(error)
        assert "reads:\nfirst\n" in str(error)


@pytest.mark.parametrize(("pad", "eos", "wanted"), [(3, 5, 3), (None, 5, 5), (None, None, 0), (0, 5, 0)])
def test_padding_is_the_tokenizers_own_token_else_the_end_of_text(pad, eos, wanted):
    assert pad_id(SimpleNamespace(pad_token_id=pad, eos_token_id=eos)) == wanted


def test_files_of_a_tokenizer_are_those_of_its_kinds_in_the_folder_itself():
    names = {"tokenizer.json": 1, "a.txt": 1, "merges.model": 256 << 20, "additional_chat_templates/x.jinja": 1,
             "model.safetensors": 0, "model.safetensors.index.json": 0, "sub/tokenizer.json": 0, "prepared.json": 0,
             "README.md": 0}  # fmt: skip
    for name, belongs in names.items():
        assert load_tokenizer._belongs(FileInfo(f"/r/{name}", belongs or 1, ""), "/r") is bool(belongs), name
    assert not load_tokenizer._belongs(FileInfo("/r/vocab.json", (256 << 20) + 1, ""), "/r")


def test_a_fitted_tokenizer_reads_of_each_unit_its_share_and_of_the_train_split_alone(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n:084}"}) + "\n" for n in range(200)))
    frozen = freeze_corpus(Store(), Corpus(path=str(path)), Columns(text="text"), 1000)
    split = Split(train=0.5, validation=0.25, test=0.25)
    cuts = [survey_here(frozen, split).cuts]
    whole = [*load_tokenizer._sample([frozen], cuts)]
    assert len(whole) == 100
    monkeypatch.setattr(load_tokenizer, "SAMPLE_BYTES", 5000)
    some = [*load_tokenizer._sample([frozen], cuts)]
    assert set(some) < set(whole) and 20 <= len(some) <= 50, "5,000 of 19,400 bytes are read, half of them to train on"
    assert {int(text) // 20 for text in some} == set(range(10)), "from all over the corpus"
    monkeypatch.setattr(load_tokenizer, "_SAMPLED_UNITS", 4)
    monkeypatch.setattr(load_tokenizer, "SAMPLE_BYTES", 1 << 20)
    few = [*load_tokenizer._sample([frozen], cuts)]
    assert set(few) < set(whole) and len({int(text) // 10 for text in few}) <= 8


@pytest.mark.parametrize("length", [1, 239, 240, 241, 500])
def test_segments_of_a_preview_have_all_tokens_and_the_text_of_those_that_are_shown(length):
    tokenizer = tiny()
    plain = next(number for number in range(len(tokenizer)) if number not in tokenizer.added_tokens_decoder)
    ids = np.array([plain] * length + [tokenizer.eos_token_id])
    found = list(segments_of(ids, np.arange(len(ids)) > 0, tokenizer))
    assert sum(segment.tokens for segment in found) == length + 1
    assert sum(segment.tokens for segment in found if segment.trained) == length
    shown = sum(segment.tokens for segment in found if segment.text)
    assert shown == (length + 1 if length <= 241 else 242), "the first token, 240 of the others, the special one"
    assert [segment.special for segment in found][-1] and not any(segment.special for segment in found[:-1])


# --- the text of a preview


def example_shown(**changes) -> ShownExample:
    parts = (
        Segment("read\n", 3, trained=False, special=False),
        Segment("answer", 4, trained=True, special=False),
        Segment("", 1500, trained=True, special=False),
        Segment("<end>", 1, trained=True, special=True),
        Segment("<s>", 1, trained=False, special=True),
        Segment("last", 2, trained=True, special=False),
    )
    plain = ShownExample("d1", "text", None, 4000, 1000, "", parts)
    return dataclasses.replace(plain, **changes)


def printed(*previews: Preview, terminal: bool = False) -> list[str]:
    stream = io.StringIO()
    colours = "standard" if terminal else None
    print_previews(
        [*previews], Console(file=stream, width=80, highlight=False, force_terminal=terminal, color_system=colours)
    )
    return [line.rstrip("─ ") for line in stream.getvalue().splitlines()]


def test_a_preview_has_every_number_of_its_examples_and_of_what_is_left_out():
    second = example_shown(document="d2", form="turns: user", tokens=1500, trained_tokens=750, overflow="split into 2")
    refused = {"empty": ("file, line 3", ""), "no_label": ("document d9", "x" * 1000)}
    left_out = Counter({"empty": 1200, "no_label": 1})
    notes = (notes_module.Note("a little is cut", 0.01), notes_module.Note("much is cut", 0.5))
    one = Preview("c", (example_shown(), second), refused, left_out, 2500, notes, "1 file is skipped")
    text = "read↵\n⟦answer ... 1,500 tokens more ... <end>⟧<s>⟦last⟧".splitlines()
    assert printed(one) == [
        "⟦trained on⟧  context",
        "c: document d1",
        "text; 1,000 of 4,000 tokens trained on (25%)",
        *text,
        "c: document d2",
        "turns: user; 750 of 1,500 tokens trained on (50%); longer than a row: split into 2",
        *text,
        "c: file, line 3",
        "left out: empty, the first of 1,200.",
        "c: document d9",
        "left out: no_label, the first of 1. It reads:",
        "x" * 960,
        "",
        "c: 1,750 of 5,500 tokens are trained on (32%)",
        "c, its first 2,500 documents: a little is cut",
        "warning: c, its first 2,500 documents: much is cut",
        "c, its first 2,500 documents: left out: 1,200 empty, 1 no_label",
        "c: 1 file is skipped",
    ]


def test_a_preview_of_a_probe_has_classes_and_no_trained_tokens():
    parts = (Segment("read", 4, trained=False, special=False),)
    shown = [example_shown(label=label, tokens=1200, trained_tokens=0, segments=parts) for label in ("a", "b")]
    lines = printed(Preview("c", (*shown,), {}, Counter(), 2, (), ""))
    assert [line for line in lines if "class" in line] == [
        "text; 1,200 tokens; class a",
        "text; 1,200 tokens; class b",
        "c: 2,400 tokens, none trained on: a probe predicts the class of each document",
    ]
    assert "its first" not in "".join(lines)


def test_a_preview_without_examples_has_no_share():
    assert printed(Preview("c", (), {}, Counter(), 2, (), ""))[-1] == "c: 0 of 0 tokens are trained on (0%)"


def test_each_kind_of_token_has_its_own_style_on_a_terminal():
    spans = {text.plain[at.start : at.end]: at.style for text in [preview_text(example_shown().segments, True)]
             for at in text.spans}  # fmt: skip
    assert spans == {
        "read↵\n": "dim", "answer": "green", " ... 1,500 tokens more ... ": "green", "<end>": "bold green underline",
        "<s>": "magenta", "last": "green",
    }  # fmt: skip
    assert preview_text(example_shown().segments[:1], False).plain == "read↵\n"
    legend = printed(Preview("c", (), {}, Counter(), 2, (), ""), terminal=True)[0]
    assert "trained on" in legend and "context" in legend and "⟦" not in legend


@pytest.mark.parametrize(
    ("way", "length", "said"),
    [
        ("split", 8, ""), ("split", 9, "split into 2"), ("split", 15, "split into 2"), ("split", 16, "split into 3"),
        ("truncate", 8, ""), ("truncate", 9, "truncated after 8 tokens"), ("truncate", 20, "truncated after 8 tokens"),
        ("drop", 8, ""), ("drop", 9, "left out"),
    ],
)  # fmt: skip
def test_an_example_longer_than_a_row_is_shown_with_what_becomes_of_it(way, length, said):
    rule = packing_rule(config(sequence_length=8, tokens_per_step=8, packing={"overflow": way}), "text")
    trained = np.arange(length) > 0
    assert overflow_text(Example(0, 0, np.arange(length), trained), rule) == said


# --- lines of a run, and counters


class Said:
    def __init__(self) -> None:
        self.lines = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_a_run_prints_what_packing_left_out_of_each_corpus_with_its_share():
    tokens = {f"tokens/{split}": 100 for split in SPLITS}
    tokenised = {"a": {"documents": 98, "left_out/empty": 2}, "b": {"documents": 99, "left_out/null": 1}, "c": {}}
    packed = SimpleNamespace(
        sets={},
        corpora=["a", "b", "c"],
        passed_over={"b": "1 file is skipped"},
        tokenised=lambda name: tokenised[name] | tokens,
        packed=lambda name: {"a": {}, "b": {"documents_dropped": 1}, "c": {"documents_dropped": 0}}[name],
    )
    progress = Said()
    report_overflow(packed, 64, progress)
    hint = "; `raymill pack CONFIG --preview 1` shows one of each"
    assert progress.lines == [
        f"warning: a: 2 of 100 documents (2.0%) are left out: 2 empty{hint}",
        "b: 1 file is skipped",
        "b: 1 of 100 documents (1.0%) are left out: 1 null",
        "warning: b: 1 of 99 examples (1.0%) are longer than a row of 64 tokens and left out, with 0 of 300 tokens "
        "(0.0%)",
    ]


@pytest.mark.parametrize(
    ("validation", "steps", "lines"),
    [
        ([], (1200, 1200), {"steps": "1,200"}),
        ([], (1200, 1201), {"steps": "1,200 of 1,201"}),
        ([7.5, 3.5, 2.25], (3, 3), {"steps": "3", "loss": "validation 7.500 -> 3.500 at step 1,000"}),
    ],
)
def test_a_runs_summary_has_its_steps_and_the_loss_of_what_is_exported(validation, steps, lines):
    one = {
        "recipe": {"method": "lora, rank 4", "base_model": "b"},
        "totals": {"steps": steps[0], "planned_steps": steps[1]},
        "validation": [{"step": 1000 * at, "loss": loss} for at, loss in enumerate(validation)],
        "best_step": 1000 if validation else None,
        "folders": [{"kind": "adapter"}, {"kind": "merged"}],
    }
    assert job_summary(one) == {"method": "lora, rank 4", "base": "b", "exported": "adapter, merged"} | lines


@pytest.mark.parametrize(("units", "failures"), [(1, 1), (2, 32), (5, 32)])
def test_one_failed_document_refuses_the_template_of_a_single_unit_alone(tmp_path, units, failures):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n:040}"}) + "\n" for n in range(100)))
    frozen = freeze_corpus(Store(), Corpus(path=str(path)), Columns(text="text"), -(-path.stat().st_size // units))
    assert len(frozen.units) == units
    place = tokenise.TokenizerAt(Store(), str(tmp_path), "f" * 32)
    assert tokenise.tokenise_stage("a", frozen, place, Split(), Cuts((0, 0)), 1).work.failures_of_template == failures


def test_skipped_files_are_counted_by_ending_the_most_frequent_first(tmp_path):
    names = ["a.txt", "b.csv", "c.txt", "d", "e.jsonl", ".hidden.txt", "_sub/x.txt", "sub/y.md", "sub/z.parquet.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": "t"}) + "\n")
    frozen = freeze_corpus(Store(), Corpus(path=str(tmp_path)), Columns(text="text"), 1000)
    assert list(frozen.skipped.items()) == [(".txt", 3), (".csv", 1), (".md", 1), ("without ending", 1)]
    assert frozen.note.startswith("6 files are skipped (3 .txt, 1 .csv, 1 .md, 1 without ending); to read them, ")
    assert dataclasses.replace(frozen, skipped={".txt": 1}).note.startswith("1 file is skipped (1 .txt)")
    assert dataclasses.replace(frozen, skipped={}).note == ""
    assert [(name, size) for name, size, _ in frozen.listing] == [("e.jsonl", 14)]


def test_spans_are_grouped_up_to_the_bytes_of_a_unit_and_those_that_touch_are_one():
    def span(uri: str, start: int, end: int) -> Span:
        return Span(uri, 100, "v", "parquet", start, end)

    pieces = [
        (span("a", 0, 2), 4),
        (span("a", 2, 5), 6),
        (span("b", 5, 6), 1),
        (span("b", 8, 9), 9),
        (span("c", 0, 1), 20),
    ]
    assert list(corpus_module._group(pieces, 10)) == [
        ((span("a", 0, 5),), 10), ((span("b", 5, 6), span("b", 8, 9)), 10), ((span("c", 0, 1),), 20),
    ]  # fmt: skip


def test_cutting_a_slice_of_a_table_gives_the_pieces_of_its_documents():
    rows = [document(f"d{n}", size) for n, size in enumerate((3, 9, 0, 20, 8, 4))]
    rows[3]["weights"] = [n / 20 for n in range(20)]
    table = pa.Table.from_pylist(rows, EXAMPLES)
    for start, stop in ((0, 6), (1, 6), (3, 5), (2, 4)):
        for way in ("split", "truncate", "drop"):
            pieces, _ = packing.cut(table.slice(start, stop - start), 8, way, False)
            alone = [packing.cut(pa.Table.from_pylist([row], EXAMPLES), 8, way, False)[0] for row in rows[start:stop]]
            ids, trained, weights = pieces.tokens()
            if start <= 3 < stop:
                each = [piece.tokens()[2] for piece in alone]
                ones = [np.ones(piece.sizes.sum()) for piece in alone]
                assert (
                    weights.tolist()
                    == np.concatenate([o if w is None else w for w, o in zip(each, ones, strict=True)]).tolist()
                )
            else:
                assert weights is None
            assert ids.tolist() == [token for one in alone for token in one.tokens()[0].tolist()]
            assert trained.tolist() == [flag for one in alone for flag in one.tokens()[1].tolist()]
            assert pieces.sizes.tolist() == [size for one in alone for size in one.sizes.tolist()]


def test_turns_that_are_not_trained_on_are_counted_by_reason_and_warned_of_above_one_percent():
    counted = {"turns": 200, "turns_not_trained/empty_turn": 1, "turns_not_trained/prompt_is_no_prefix": 3}
    (lost,) = notes_module.turns(counted)
    assert lost.words == "4 of 200 assistant turns (2.0%) are not trained on: 3 prompt_is_no_prefix, 1 empty_turn"
    assert lost.warned
    (bare,) = notes_module.turns({"turns": 200, "turns_without_reasoning": 2})
    assert bare.words.startswith("2 of 200 assistant turns (1.0%) are trained on without their reasoning")
    assert not bare.warned
    assert notes_module.turns({"turns": 200, "turns_without_reasoning": 0}) == notes_module.turns({}) == []
