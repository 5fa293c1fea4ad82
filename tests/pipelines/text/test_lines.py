"""Lines of documents and white space at their ends, compared with str.split and str.strip."""

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raymill.pipelines.text.lines import Pieces, find_pieces, split_lines, strip_each, without_pieces
from raymill.pipelines.text.texts import Texts

# Short and long runs of few characters: equal lines at different places, and line feeds at every place of eight bytes.
PIECES = ["\n", "\n\n", "a", "ab", "é", "漢", "😀", "\x0b", "\r", "eight by", "seven b", "sixteen bytes..."]
documents = st.lists(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), max_size=6)


@given(documents)
@example(["eight by\neight by", "eight by"])
@example(["", "\n", "seven b\nseven b"])
def test_lines_are_those_of_str_split_and_equal_lines_have_equal_hashes(strings: list[str]) -> None:
    texts = Texts.from_strings(strings)
    lines = split_lines(texts)
    data = texts.data.tobytes()
    found = [data[begin:end].decode() for begin, end in zip(lines.begins, lines.ends, strict=True)]
    assert [found[a:b] for a, b in zip(lines.starts, lines.starts[1:], strict=False)] == [
        string.split("\n") for string in strings
    ]
    assert lines.characters.tolist() == [len(line) for line in found]
    hashes = dict(zip(found, lines.hashes.tolist(), strict=True))
    assert [hashes[line] for line in found] == lines.hashes.tolist()
    assert len(set(hashes.values())) == len(hashes)


# Every character that str.strip() removes, and neighbours that it does not: zero-width space, word joiner, BOM.
SPACES = [chr(point) for point in range(0x10000) if chr(point).isspace()]
ENDS = st.text(st.sampled_from([*SPACES, "\u200b", "\u2060", "\ufeff", "a", "é", "漢", "😀"]), max_size=8)


@given(st.lists(ENDS, max_size=6))
@example([f"{space}é{space}" for space in SPACES])
@example([*SPACES, "", "a", " a", "a ", "漢\u3000", "\u3000漢"])
def test_what_is_stripped_is_what_str_strip_removes(strings: list[str]) -> None:
    stripped = strip_each(Texts.from_strings(strings))
    assert stripped.to_arrow().to_pylist() == [string.strip() for string in strings]


# --- Lines and paragraphs of documents: what they are, which are equal, and documents without some of them.


WORDS = ["Log", "in", "log", "IN!", "été", "中文", "7", "--", "…", "a b", "x" * 9]
pages = st.lists(st.lists(st.sampled_from([*WORDS, "\n", "\n\n", " "]), max_size=20).map("".join), max_size=6)
# As normalisation leaves them: no white space at the ends of lines and of the text.
normal = pages.map(lambda texts: [re.sub(r" *\n *", "\n", text).strip() for text in texts])


def strings(texts: Texts, pieces: Pieces) -> list[list[str]]:
    """The pieces of each document."""
    found = [
        texts.data[b:e].tobytes().decode() for b, e in zip(pieces.begins.tolist(), pieces.ends.tolist(), strict=True)
    ]
    return [found[a:b] for a, b in zip(pieces.starts.tolist(), pieces.starts.tolist()[1:], strict=False)]


def split(text: str, paragraphs: bool) -> list[str]:
    return [piece for piece in re.split(r"\n\n+" if paragraphs else r"\n+", text.strip("\n")) if piece]


def tokens(text: str) -> list[str]:
    return re.findall(r"[中文]|[^\W_中文]+", text.lower())


@pytest.mark.parametrize("paragraphs", [False, True])
@given(normal)
def test_pieces_are_the_lines_and_paragraphs_and_their_keys_are_equal_if_their_words_are(paragraphs, given_texts):
    texts = Texts.from_strings(["a first one", *given_texts])
    pieces = find_pieces(Texts(texts.data, texts.offsets[1:]), paragraphs=paragraphs)  # a slice of a table
    found = strings(texts, pieces)
    assert found == [split(text, paragraphs) for text in given_texts]
    flat = [piece for of_document in found for piece in of_document]
    keys = list(zip(pieces.keys.tolist(), pieces.checks.tolist(), strict=True))
    assert pieces.words.tolist() == [len(tokens(piece)) for piece in flat]
    for one, key in zip(flat, keys, strict=True):
        for other, its_key in zip(flat, keys, strict=True):
            assert (key == its_key) == (tokens(one) == tokens(other))
            assert (key[0] == its_key[0]) == (key[1] == its_key[1])


@pytest.mark.parametrize("paragraphs", [False, True])
@given(normal, st.randoms(use_true_random=False))
def test_what_stays_is_joined_by_the_longest_break_between(paragraphs, given_texts, random):
    texts = Texts.from_strings(given_texts)
    pieces = find_pieces(texts, paragraphs=paragraphs)
    is_cut = np.array([random.random() < 0.5 for _ in pieces.keys], bool)
    expected, at = [], 0
    for text in given_texts:
        parts = re.split(r"(\n\n+)" if paragraphs else r"(\n+)", text)
        left, feeds = "", ""
        for piece, after in zip(parts[::2], [*parts[1::2], ""], strict=True):
            if piece:
                if not is_cut[at]:
                    left, feeds = left + (feeds if left else "") + piece, ""
                at += 1
            feeds = max(feeds, after)
        expected.append(left)
    cut = without_pieces(texts, pieces, is_cut)
    assert [cut[index] for index in range(len(cut))] == expected


def test_a_cut_line_leaves_the_break_of_the_paragraph_in_which_it_stood():
    text = "A page.\nShare this\n\nA paragraph.\n\nShare this\n\nThe last one.\nShare this"
    texts = Texts.from_strings([text])
    pieces = find_pieces(texts, paragraphs=False)
    cut = without_pieces(texts, pieces, pieces.keys == pieces.keys[1])
    assert cut[0] == "A page.\n\nA paragraph.\n\nThe last one."
