"""Near-duplicate removal equals, document by document, a loop over datasketch with verification.

Two short documents are verified by the Jaccard similarity of their shingle sets, as Python's sets compute it, and all
others by datasketch; with `exact_short: false` every pair by datasketch.
"""

import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.readers.inputs import Input
from raymill.pipelines.dedup.candidates import shared_keys
from raymill.pipelines.dedup.documents import scopes
from raymill.pipelines.dedup.greedy import remove_near_duplicates
from raymill.pipelines.text.normalize import normalize
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.tokens import count_tokens
from tests.support.dedup_loops import BANDS, ROWS, A, B, close_pairs, jaccard, our_loop, signatures
from tests.support.shingles import shingle_hashes

words = st.sampled_from(["one", "two", "three", "Four", "five", "über", "中文", "ไทย", "7", "-", "a", "b"])
documents = st.lists(words, max_size=30).map(" ".join)


def datasketch_signature(hashes: np.ndarray) -> MinHash:
    sketch = MinHash(BANDS * ROWS, seed=1, hashfunc=int, scheme="affine32")
    sketch.update_batch(hashes.tolist())
    return sketch


def datasketch_loop(texts: list[str], threshold: float, exact_short: bool = True) -> dict[int, tuple[int, float]]:
    """removed -> (kept partner, similarity): query, verify, insert."""
    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    kept: dict[int, MinHash] = {}
    sets = [set(shingle_hashes(text, 5).tolist()) for text in texts]
    removed = {}
    for number, text in enumerate(texts):
        hashes = shingle_hashes(text, 5)
        if not len(hashes):
            continue
        sketch = datasketch_signature(hashes)

        def similarity_to(other: int, number: int = number, sketch: MinHash = sketch) -> float:
            if exact_short and max(len(sets[number]), len(sets[other])) < BANDS * ROWS:
                return jaccard(sets[number], sets[other])
            return sketch.jaccard(kept[other])

        near = [(similarity_to(other), -other) for other in index.query(sketch)]
        near = [entry for entry in near if entry[0] >= threshold]
        if near:
            similarity, other = max(near)
            removed[number] = (-other, similarity)
        else:
            index.insert(number, sketch)
            kept[number] = sketch
    return removed


def variations(seed: int, count: int) -> list[str]:
    """Documents of a few families, each a copy of an earlier one with some words changed."""
    generator = np.random.default_rng(seed)
    vocabulary = np.array([f"word{n}" for n in range(200)])
    texts = [" ".join(generator.choice(vocabulary, generator.integers(6, 120))) for _ in range(5)]
    while len(texts) < count:
        copied = texts[generator.integers(len(texts))].split(" ")
        for _ in range(generator.integers(0, 6)):
            copied[generator.integers(len(copied))] = str(generator.choice(vocabulary))
        texts.append(" ".join(copied))
    return texts


@given(documents)
@settings(max_examples=200)
def test_a_signature_is_the_one_datasketch_computes(text):
    found, tokens = signatures(Texts.from_strings([text]), 5, A, B)
    hashes = shingle_hashes(text, 5)
    assert len(hashes) == max(0, tokens[0] - 4)
    assert (found[0] == datasketch_signature(hashes).hashvalues).all()


@given(documents, st.integers(1, 6))
@settings(max_examples=200)
def test_shingles_are_equal_where_their_tokens_are_and_only_there(text, ngram_words):
    """The hash of a shingle depends on its own tokens only."""
    tokens = re.findall(r"[中文]|ไ|ท|ย|[^\W中文]+", text.lower())
    grams = [tuple(tokens[at : at + ngram_words]) for at in range(len(tokens) - ngram_words + 1)]
    hashes = shingle_hashes(text, ngram_words).tolist()
    alone = [shingle_hashes(" ".join(gram), ngram_words).tolist() for gram in grams]
    assert [[h] for h in hashes] == alone
    assert len(set(hashes)) == len(set(grams))


@given(st.lists(documents, max_size=8), st.integers(1, 7))
@settings()
def test_signatures_do_not_depend_on_how_documents_are_cut_into_tables(texts, cut):
    whole, tokens = signatures(Texts.from_strings(texts), 5, A, B)
    parts = [signatures(Texts.from_strings(texts[at : at + cut]), 5, A, B) for at in range(0, len(texts), cut)]
    if texts:
        assert (np.concatenate([found for found, _ in parts]) == whole).all()
        assert (count_tokens(Texts.from_strings(texts)) == tokens).all()


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("The quick brown fox jumps over", "the QUICK, brown fox -- jumps over!", True),  # case, punctuation
        ("The quick brown fox jumps over", "the quick brown fox leaps over", False),
        ("中文没有空格的文字", "中 文 没 有 空 格 的 文 字", True),  # a character is a word
        ("ÜBER ÉCOLE straße vier fünf sechs", "über école STRAßE vier fünf sechs", True),
        ("price 10 units of 5 items", "price 1 units of 5 items", False),
    ],
)
def test_shingles_depend_on_words_and_not_on_case_or_punctuation(one, other, equal):
    assert np.array_equal(shingle_hashes(one, 5), shingle_hashes(other, 5)) is equal


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("exact_short", [True, False])
def test_the_greedy_loop_removes_what_the_datasketch_loop_removes(seed, threshold, exact_short):
    """Of families of 2 to 115 shingles: some documents are short, and some pairs are of a short one and another."""
    texts = variations(seed, 150)
    ours = our_loop(texts, threshold, exact_short)
    assert ours == datasketch_loop(texts, threshold, exact_short)
    assert ours, "no document was removed: the test shows nothing"


def test_short_documents_are_removed_by_their_true_similarity_and_not_by_an_estimate():
    texts = [text for seed in range(4) for text in variations(seed, 150)]
    sets = [set(shingle_hashes(text, 5).tolist()) for text in texts]

    def too_far(removed: dict[int, tuple[int, float]]) -> int:
        return sum(jaccard(sets[at], sets[other]) < 0.8 for at, (other, _) in removed.items())

    assert max(map(len, sets)) < BANDS * ROWS * 1.1
    texts = [text for text, one in zip(texts, sets, strict=True) if len(one) < BANDS * ROWS]
    sets = [one for one in sets if len(one) < BANDS * ROWS]
    assert too_far(our_loop(texts, 0.8)) == 0
    assert too_far(our_loop(texts, 0.8, exact_short=False)) > 0


def test_in_a_chain_of_similar_documents_each_removed_one_has_a_similar_kept_one():
    """Each document resembles the next; the first and the last share nothing. Connected components would keep one."""
    base = [f"w{n}" for n in range(400)]
    chain = [" ".join([f"x{n}" for n in range(12 * link)] + base[12 * link :]) for link in range(30)]
    removed = our_loop(chain, 0.8)
    kept = [number for number in range(30) if number not in removed]
    assert 5 < len(kept) < 30
    assert all(partner in kept for partner, _ in removed.values())


@pytest.mark.parametrize("columns", [1, 8, 255, 256, 600])
@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_the_loop_equals_one_that_compares_whole_columns(columns, threshold):
    """For any number of columns, some of which have equal lowest bytes alone. All documents share one key."""
    generator = np.random.default_rng(columns)
    found = np.repeat(generator.integers(0, 1 << 32, (4, columns), dtype=np.uint32), 30, axis=0)
    share = generator.choice([0, 1 - threshold, 0.6], 120)[:, None]
    is_changed = generator.random(found.shape) < share
    found[is_changed] ^= generator.choice(np.array([1, 256, 1 << 31], np.uint32), found.shape)[is_changed]
    order = generator.permutation(120)
    starts, keys = np.arange(121), np.zeros(120, np.int64)
    none = np.empty(0, np.uint32), np.zeros(121, np.int64)
    kept: list[int] = []
    wanted = {}
    for at in order.tolist():
        alike = [((found[at] == found[other]).sum() / columns, -place, other) for place, other in enumerate(kept)]
        best = max((one for one in alike if one[0] >= threshold), default=None)
        if best:
            wanted[at] = (best[2], best[0])
        else:
            kept.append(at)
    partner, similarity = remove_near_duplicates(order, starts, keys, 1, found, *none, threshold)
    assert {int(at): (partner[at], similarity[at]) for at in np.flatnonzero(partner >= 0)} == wanted
    assert wanted, "no document was removed: the test shows nothing"


@given(st.lists(st.just([]) | st.lists(st.integers(0, 20), min_size=3, max_size=3), max_size=30))
@settings()
def test_shared_keys_are_those_of_two_documents_or_more(rows):
    keys = np.array([row or [0] * 3 for row in rows], np.uint64).reshape(len(rows), 3) * np.uint64(0x9E3779B97F4A7C15)
    numbers = np.array([number for number in range(len(rows)) if rows[number]], np.int64)
    starts, ids, count = shared_keys(keys[numbers], numbers, len(rows))
    found: dict[int, set[int]] = {}
    for document, (start, end) in enumerate(pairwise(starts.tolist())):
        for key in ids[start:end].tolist():
            assert document not in found.setdefault(key, set())
            found[key].add(document)
    assert sorted(found) == list(range(count))
    wanted = {}
    for document, row in enumerate(rows):
        for key in row:
            wanted.setdefault(key, set()).add(document)
    assert sorted(map(sorted, found.values())) == sorted(sorted(h) for h in wanted.values() if len(h) > 1)


@pytest.mark.parametrize(
    ("scope", "numbers"),
    [
        ("all", dict.fromkeys("ab", 0x141CFC9842C4B0E3)),
        ("source", {"a": 0xCABD1BCA128197CA, "b": 0x4A59390016E8233E}),
        ("snapshot", {"a": 0x2B3199E49A514E59, "b": 0x141CFC9842C4B0E3}),
    ],
)
def test_the_number_of_a_scope_is_the_hash_of_its_name(scope, numbers):
    """So it stays the same in every process, and in runs with other sources."""
    inputs = [Input(source=name, path=name, snapshot=snapshot) for name, snapshot in (("a", "z"), ("b", None))]
    assert scopes(scope, inputs) == numbers


@pytest.mark.parametrize(
    ("name", "count"), [("peps", 150), *(pytest.param(name, None, marks=pytest.mark.slow) for name in ("peps", "udhr"))]
)
def test_on_real_texts_the_removed_are_similar_and_no_close_pair_is_left(shared_data, name, count):
    """At most 0.2% of the removed under threshold - 0.1 true Jaccard; at most one kept pair above 0.9 per 5,000."""
    column = pq.read_table(shared_data / f"{name}.parquet", columns=["text"])["text"]
    texts = normalize(Texts.from_arrow(column.slice(0, count)))
    strings = texts.to_arrow().to_pylist()
    ours = our_loop(strings, 0.8)
    assert ours == datasketch_loop(strings, 0.8)
    shingles = [set(shingle_hashes(text, 5).tolist()) for text in strings]
    far = sum(jaccard(shingles[at], shingles[other]) < 0.7 for at, (other, _) in ours.items())
    assert far <= 0.002 * len(ours)
    kept = [at for at in range(len(strings)) if at not in ours and shingles[at]]
    assert close_pairs([shingles[at] for at in kept], 0.9) <= max(1, len(strings) // 5000)


def test_close_pairs_counts_pairs_of_the_similarity():
    first = set(range(100))
    assert close_pairs([first, set(range(1, 101)), set(range(500, 600))], 0.9) == 1


def test_signatures_of_arrow_slices_are_those_of_the_whole():
    column = pa.array(["one two three four five six", "zwei", "eins zwei drei vier fünf"], pa.large_string())
    whole, _ = signatures(Texts.from_arrow(column), 5, A, B)
    part, _ = signatures(Texts.from_arrow(column.slice(2)), 5, A, B)
    assert (part[0] == whole[2]).all()
