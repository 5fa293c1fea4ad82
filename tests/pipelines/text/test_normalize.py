"""Normalisation: each step on readable text, all steps against a slow reference, idempotence."""

import re
import unicodedata
from itertools import pairwise

import ftfy
import numpy as np
import pyarrow.parquet as pq
import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.pipelines.text.normalize import NORMALIZE_VERSION, characters, normalize, steps
from raymill.pipelines.text.texts import Texts


def normalized(text: str) -> str:
    return normalize(Texts.from_strings([text]))[0]


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("cafÃ© au lait", "café au lait"),
        ("itâ€™s", "it’s"),
        ("voilÃ\xa0 le travail", "voilà le travail"),
        ("naÃ¯ve â€œquotesâ€\x9d", "naïve “quotes”"),
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "привет"),  # UTF-8 read as Windows-1252
        ("РїСЂРёРІРµС‚", "привет"),  # UTF-8 read as Windows-1251
        ("ΞΊΞ±Ξ»Ξ·", "καλη"),  # UTF-8 read as Windows-1253
        ("schÃƒÂ¶n", "schön"),  # twice
        ("\x93dit-il\x94", "“dit-il”"),  # Windows-1252 read as Latin-1
        ("Ã…ngstrÃ¶m\nÅngström", "Ångström\nÅngström"),
        ("IRMÃ E CORAÇÃO, ÂNGELO", "IRMÃ E CORAÇÃO, ÂNGELO"),
        ("Il a dit «oui», l’œuvre", "Il a dit «oui», l’œuvre"),
        ("他说：“你好”“再见”", "他说：“你好”“再见”"),
    ],
)
def test_mojibake_is_repaired_and_other_text_is_unchanged(broken, whole):
    assert normalized(broken) == whole


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a\r\nb\rc\x85d\u2028e\u2029f\x0bg\x0ch", "a\nb\nc\nd\ne\nf\ng\nh"),
        ("a\r\r\nb", "a\n\nb"),
        ("nul\x00 bell\x07 escape\x1b[1m delete\x7f", "nul bell escape[1m delete"),
        ("zero\u200bwidth join\u2060er \ufeffmark soft\xadhyphen", "zerowidth joiner mark softhyphen"),
        ("a\xa0b\u2009c\u202fd\u205fe", "a b c d e"),
        ("全角\u3000空格", "全角\u3000空格"),
        ("می\u200cخواهم क्\u200dष \u200e\u202bx\u202c", "می\u200cخواهم क्\u200dष \u200e\u202bx\u202c"),
        ("👩\u200d👩\u200d👧 ❤\ufe0f", "👩\u200d👩\u200d👧 ❤\ufe0f"),
        ("ᠠ\u180eᠠ a\u180eb", "ᠠ\u180eᠠ ab"),  # the vowel separator shapes Mongolian letters only
        ("e\u0301 A\u030a \u1112\u1161\u11ab", "é Å 한"),
        ("e\u200b\u0301", "é"),  # composed after a character between them is removed
        ("\ufb01 ① ½ ﾊ", "\ufb01 ① ½ ﾊ"),  # compatibility forms stay: NFC, not NFKC
        ("tab\tstays", "tab\tstays"),
    ],
)
def test_characters_are_normalised_and_those_with_meaning_remain(text, clean):
    assert normalized(text) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("end  \nof\t \nline ", "end\nof\nline"),
        ("\n \n  indented first\nlast\n\n \n", "  indented first\nlast"),
        (" \n\t\n", ""),
        ("", ""),
        ("a\n\n\nb", "a\n\n\nb"),
    ],
)
def test_blank_ends_of_lines_and_documents_are_removed(text, clean):
    assert normalized(text) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("It is one.  It is two!  Is it?  Yes", "It is one. It is two! Is it? Yes"),
        ('He said "no."  (So did I.)  Then:  nothing', 'He said "no." (So did I.) Then: nothing'),
        ("It’s “done.”  Next", "It’s “done.” Next"),
        ("and so they would\nfail.  This line", "and so they would\nfail. This line"),
        ("It is a slip  of the thumb", "It is a slip of the thumb"),
        ("for a comma,  too\nand below", "for a comma, too\nand below"),
        ("a no-break\xa0 space", "a no-break space"),
    ],
)
def test_gaps_in_prose_become_one_space(text, clean):
    assert normalized(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "=====  =====\nab cd  wide\nab ef  wide\n=====  =====",  # an RST table: no cell is padded
        "======  ======\nit is.  It is.\n======  ======",  # with sentences in it
        "name     value\nalpha    1",
        "some words     apart",
        "x = 1  # a comment",
        "int a = 1;  // a comment",
        "1.  An item.  Two sentences",
        "-   An item",
        "Label:  value.  More",
        "vii.  An item",
        "1999.  A year",
        "    indented.  Twice  over",
        "def f():\n\treturn 'a.  b'",
        "a b\tc.  d",
        "two gaps  in one  line",
        "the slips  stand\nabove one  another",
        "|  a |  b |",
    ],
)
def test_layout_stays_as_it_is(text):
    assert normalized(text) == text


MARKS = ["\u0301", "\u0316", "\u0345", "\u0f73", "\u0344", "\u0338", "\u3099", "\u1161", "\u11ab", "한", "か", "a"]


@pytest.mark.parametrize("length", [31, 32, 33, 34, 500])
def test_long_runs_of_marks_are_composed_as_unicodedata_composes_them(length):
    draw = np.random.default_rng(length)
    texts = ["a" + "".join(draw.choice(MARKS, length, p=[0.11] * 9 + [0.01 / 3] * 3)) + " b" for _ in range(50)]
    assert normalize(Texts.from_strings(texts)).to_arrow().to_pylist() == [
        unicodedata.normalize("NFC", text) for text in texts
    ]


@pytest.mark.parametrize("marks", ["\u0301\u0316", "\u0f73", "\u0345\u0344", "x\u0301" + "\u0301\u0316" * 40])
def test_unicodedata_gets_long_runs_of_marks_in_order_so_that_its_time_is_linear(marks, monkeypatch):
    moves = []

    class Counting:
        combining = staticmethod(unicodedata.combining)

        @staticmethod
        def normalize(form: str, text: str) -> str:
            classes = [unicodedata.combining(one) for one in text]
            moves.append(sum(before > after > 0 for before, after in pairwise(classes)))
            return unicodedata.normalize(form, text)

    text = "a" + marks * 2000
    monkeypatch.setattr(steps, "unicodedata", Counting)
    assert normalize(Texts.from_strings([text]))[0] == unicodedata.normalize("NFC", text)
    assert sum(moves) == 0


def test_documents_already_normal_keep_their_buffers():
    texts = Texts.from_strings(["plain", "", "zwei Sätze. Noch einer", "ᠠ\u180eᠠ", "क्\u200dष"])
    assert normalize(texts) is texts
    empty = Texts.from_strings([])
    assert normalize(empty) is empty


def test_a_slice_of_a_table_is_read_from_its_own_start():
    column = Texts.from_strings(["x  \x00", "Ã©\r\ny. ", "e\u0301", "tail\x00"]).to_arrow()
    texts = Texts.from_arrow(column.slice(1, 2))
    assert normalize(texts).to_arrow().to_pylist() == ["é\ny.", "é"]


def test_the_version_names_unicode_and_ftfy():
    assert unicodedata.unidata_version in NORMALIZE_VERSION
    assert ftfy.__version__ in NORMALIZE_VERSION


# The reference: the same steps on one Python string.

DROPPED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u2060\ufeff]|(?<![\u1800-\u180d\u180f-\u18bf])\u180e"
)


def reference(text: str) -> str:
    for _ in range(9):
        before, text = text, once(text)
        if text == before:
            break
    return text


def once(text: str) -> str:
    text = "".join(ftfy.fix_encoding(part) for part in re.split("([\r\n])", text))
    text = DROPPED.sub("", re.sub("\r\n|[\r\x0b\x0c\x85\u2028\u2029]", "\n", text))
    text = unicodedata.normalize("NFC", re.sub("[\xa0\u2000-\u200a\u202f\u205f]", " ", text))
    lines = [line.rstrip(" \t") for line in text.split("\n")]
    kinds = ["none", *map(gap_kind, lines), "none"]
    for at, (above, here, below) in enumerate(zip(kinds, kinds[1:], kinds[2:], strict=False)):
        around = {above, below}
        if (here == "sentence" and around <= {"none", "sentence"}) or (here == "word" and around == {"none"}):
            lines[at] = re.sub(" +", " ", lines[at])
    return "\n".join(lines).strip("\n")


def gap_kind(line: str) -> str:
    runs = [run for run in re.finditer("[ \t]+", line) if run.start()]
    gaps = [(at, run) for at, run in enumerate(runs) if run.group() != " "]
    if not gaps:
        return "none"
    others = [run for _, run in gaps if not re.search(r"[.!?:][\"')\]*_`’”]*$", line[: run.start()])]
    first = line[: runs[0].start()]
    label = len(first.encode()) < 5 or not re.search("[^0-9][.!?]$", first)
    if line[0] in " \t" or any((at == 0 and label) or run.group() != "  " for at, run in gaps) or len(others) > 1:
        return "layout"
    if not others:
        return "sentence"
    before, after = line[others[0].start() - 1], line[others[0].end()]
    words = re.fullmatch("[A-Za-z,\x80-\U0010ffff][A-Za-z\x80-\U0010ffff]", before + after)
    return "word" if words else "layout"


# U+0085 is left out: alone it is a line end here and an ellipsis to ftfy.
NASTY = [
    *" \n\t.a:=,'\")9”",
    "  ",
    ".  ",
    "\r",
    "\x0c",
    "\xa0",
    "\u2003",
    "\u200b",
    "\xad",
    "\u180e",
    "\u1820",
    "\u0301",
]
NASTY += [
    *"ÃÂâ€™©¶é",
    "\x80",
    "\x99",
    "\u0338",
    "한",
    "\u11ab",
    "\u2028",
    "\ufeff",
    "\u3000",
    "Ð",
    "¿",
    "Р",
    "°",
    "\x1a",
    "?",
]
nasty_texts = st.lists(st.sampled_from(NASTY), max_size=40).map("".join)


@settings(max_examples=600)
@given(st.lists(nasty_texts, max_size=3))
def test_normalisation_equals_the_reference_and_is_idempotent(documents):
    texts = normalize(Texts.from_strings(documents))
    assert texts.to_arrow().to_pylist() == [reference(document) for document in documents]
    assert normalize(texts) is texts


@settings(max_examples=300)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_normalisation_of_any_text_is_idempotent(text):
    texts = normalize(Texts.from_strings([text]))
    assert normalize(texts) is texts


CHARACTERS = re.findall("[" + "".join(MOJIBAKE_CATEGORIES.values()) + "]", "".join(map(chr, range(0xD800))))


def marks(lines: list[str]) -> np.ndarray:
    marked = np.zeros(len(lines), bool)
    marked[characters.marked_lines(Texts.from_strings(lines))[:, 0]] = True
    return marked


def test_every_pair_of_characters_that_ftfy_calls_bad_marks_its_line():
    lines = [
        f"a{first}{second}b" for first in CHARACTERS for second in [*CHARACTERS, " "] if "\x85" not in first + second
    ]
    bad = np.array([is_bad(line) for line in lines])
    assert bad.sum() > 10_000
    assert not (bad & ~marks(lines)).any()


@settings(max_examples=500)
@given(st.lists(st.sampled_from([*CHARACTERS, *"a Z.", *"ØÙÃÂâВГРСΒΓΞΟœŒ", "ГўВЂВ"] * 2), max_size=8).map("".join))
def test_every_line_that_ftfy_calls_bad_is_marked(line):
    line = line.replace("\x85", "")
    assert marks([line])[0] or not is_bad(line)


def test_marked_lines_are_given_by_document_start_and_end():
    texts = Texts.from_strings(["sound", "ok\r\ncafÃ©\rÃ¼ber\nok", "", "â€™"])
    assert [(row[0], texts.data[row[1] : row[2]].tobytes().decode()) for row in characters.marked_lines(texts)] == [
        (1, "cafÃ©"),
        (1, "Ã¼ber"),
        (3, "â€™"),
    ]


def test_a_next_line_character_ends_a_line_unless_the_line_holds_mojibake():
    assert normalized("one\x85two\x85") == "one\ntwo"
    assert normalized("Ã\x85ngstrÃ¶m") == "Ångström"
    assert normalized("wait\x85 \x93what\x94") == "wait… “what”"


@pytest.mark.parametrize("encoding", ["latin-1", "sloppy-windows-1252"])  # ftfy's codec: every byte is a character
def test_real_texts_survive_being_read_in_the_wrong_encoding(shared_data, encoding):
    table = pq.read_table(shared_data / "udhr.parquet").to_pydict()
    for language in ("fra", "deu", "spa", "por_PT", "ces", "vie"):
        lines = [line.strip() for line in normalized(table["text"][table["id"].index(language)]).split("\n")]
        broken = [line.encode().decode(encoding) for line in lines]
        fixed = normalize(Texts.from_strings(broken)).to_arrow().to_pylist()
        wrong = [(line, new) for line, new in zip(lines, fixed, strict=True) if line != new]
        assert len(wrong) <= 0.02 * len(lines), (language, wrong)


def test_real_texts_equal_the_reference_and_do_not_depend_on_the_table(shared_data):
    column = pq.read_table(shared_data / "udhr.parquet")["text"]
    texts = normalize(Texts.from_arrow(column))
    assert normalize(texts) is texts
    for at in range(0, len(texts), 13):
        assert texts[at] == normalized(column[at].as_py())
    peps = normalize(Texts.from_arrow(pq.read_table(shared_data / "peps.parquet")["text"]))
    assert normalize(peps) is peps
    sources = pq.read_table(shared_data / "peps.parquet")["text"].to_pylist()
    assert [peps[at] for at in range(0, 4000, 250)] == [reference(source) for source in sources[::250]]


@pytest.mark.parametrize("length", [31, 32, 33, 64, 96, 128])
@pytest.mark.parametrize("first", ["\x0c", "\x00", "\u200b", "\u00a0", "\r\n"])
def test_a_document_ends_where_the_next_begins_whatever_its_length(length, first):
    """A kernel must not read the next document if its last block of bytes is full."""
    texts = ["a" * (length - 1) + "b", first + "next", "a" * length]
    assert normalize(Texts.from_strings(texts)).to_arrow().to_pylist() == [
        normalize(Texts.from_strings([text]))[0] for text in texts
    ]
