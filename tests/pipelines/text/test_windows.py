"""Windows and anchors: equal windows have equal keys and anchors; documents without spans of tokens."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.windows import find_anchors, hash_windows, locate_tokens, without_spans

documents = st.lists(st.lists(st.sampled_from("abc"), max_size=40).map(" ".join), min_size=1, max_size=4)


@given(documents)
def test_tokens_lie_where_they_are_read(strings):
    texts = Texts.from_strings(["(first)", *strings])
    tokens = locate_tokens(Texts(texts.data, texts.offsets[1:]))  # a slice of a table
    data = texts.data.tobytes()
    found = [data[b:e].decode() for b, e in zip(tokens.begins.tolist(), tokens.ends.tolist(), strict=True)]
    expected = [re.findall(r"\w", text) for text in strings]
    assert [found[a:b] for a, b in zip(tokens.starts.tolist(), tokens.starts.tolist()[1:], strict=False)] == expected
    assert tokens.documents_of(np.arange(len(found))).tolist() == [d for d, of in enumerate(expected) for _ in of]


@given(documents, st.integers(2, 9))
def test_equal_windows_have_equal_keys_and_the_same_anchor(strings, length):
    texts = Texts.from_strings(strings)
    tokens = locate_tokens(texts)
    keys, checks = hash_windows(tokens, length)
    anchors = find_anchors(tokens, length)
    anchor_of: dict[int, int] = {}
    for number, (first, last) in enumerate(zip(anchors.firsts.tolist(), anchors.lasts.tolist(), strict=True)):
        for window in range(first, last + 1):
            assert window not in anchor_of
            anchor_of[window] = number
    split = [re.findall(r"\w", text) for text in strings]
    windows = {}  # by first token
    for of, start in zip(split, tokens.starts.tolist(), strict=False):
        windows |= {start + at: tuple(of[at : at + length]) for at in range(len(of) - length + 1)}
    assert anchor_of.keys() == windows.keys()
    seen: dict[tuple, tuple] = {}
    for at, window in windows.items():
        number = anchor_of[at]
        place = int(anchors.grams[number]) - at
        assert 0 <= place <= length - length // 2, "the anchor is a part of the window"
        hashed = (keys[at], checks[at], place, anchors.keys[number], anchors.checks[number])
        assert seen.setdefault(window, hashed) == hashed
    assert len({one[:2] for one in seen.values()}) == len(seen), "different windows have different keys"
    assert len(set(anchors.grams.tolist())) == len(anchors.grams), "each anchor is there once"


@pytest.mark.parametrize(
    ("text", "first", "last", "left"),
    [
        ("One two, three four.", 1, 2, "One four."),
        ("One two, three four.", 0, 1, "three four."),
        ("One two, three four.", 2, 3, "One two,"),
        ("One two (three) four.", 1, 1, "One (three) four."),
        ("One\n\ntwo three.\n\nfour", 1, 2, "One\n\nfour"),
        ("One\ntwo three.\n\nfour", 1, 2, "One\n\nfour"),
        ("One two\nthree\nfour", 1, 2, "One\nfour"),
        ("One two\nthree four", 1, 2, "One four"),
        ("one two\n\nthree", 0, 1, "three"),
        ("one\n\ntwo three!", 1, 2, "one"),
        ("one two", 0, 1, ""),
        ("中文書。文字", 0, 2, "文字"),
        ("One,\ttwo\t three.\t four", 1, 2, "One,\tfour"),
        ("One \t two three.\nfour", 1, 2, "One\nfour"),
        ("One\n\ntwo three.\nfour", 1, 2, "One\n\nfour"),
        ("One two,\t\nthree", 1, 1, "One\nthree"),
    ],
)
@pytest.mark.parametrize(("before", "behind"), [("before", "behind"), ("before \n\n", "\n (behind)")])
def test_what_is_left_without_a_span(text, first, last, left, before, behind):
    texts = Texts.from_strings([before, text, behind])
    tokens = locate_tokens(texts)
    start = tokens.starts[1]
    cut = without_spans(texts, tokens, np.array([start + first]), np.array([start + last]))
    assert [cut[at] for at in range(3)] == [before, left, behind]


@given(documents, st.randoms(use_true_random=False))
def test_the_tokens_that_are_left_are_those_outside_of_the_spans(strings, random):
    texts = Texts.from_strings([text.replace(" c", "\nc").replace("a b", "a\n\nb") for text in strings])
    tokens = locate_tokens(texts)
    is_cut = np.array([random.random() < 0.5 for _ in tokens.hashes], bool)
    of = tokens.documents_of(np.arange(len(is_cut)))
    edges = np.flatnonzero(np.diff(of, prepend=-1) | np.diff(is_cut, prepend=False))
    runs = [(a, b - 1) for a, b in zip(edges.tolist(), [*edges.tolist()[1:], len(is_cut)], strict=False) if is_cut[a]]
    firsts, lasts = np.array(runs, np.int64).reshape(-1, 2).T
    cut = without_spans(texts, tokens, firsts, lasts)
    left = locate_tokens(cut)
    assert left.hashes.tolist() == tokens.hashes[~is_cut].tolist()
    assert left.documents_of(np.arange(len(left.hashes))).tolist() == of[~is_cut].tolist()
    for at in range(len(strings)):
        if any(is_cut[of == at]):
            assert cut[at] == cut[at].strip()
            assert " \n" not in cut[at] and "\n\n\n" not in cut[at]
