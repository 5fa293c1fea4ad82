"""Exact copies: the first of each text over all ranges, for any order of keepers, and no key for any other."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster import output
from raymill.pipelines.dedup import candidates, group
from raymill.pipelines.dedup.documents import Keys
from raymill.pipelines.dedup.exact import TEXT, RangeTexts, edges_of_texts, first_of_text
from raymill.pipelines.dedup.group import Sizes
from raymill.pipelines.dedup.settings import Dedup
from tests.support.grouped import SETTINGS, copied, grouped, random_columns
from tests.support.sketch_cases import BANDS, KEEPERS

HALVES = {"one": (1, 1), "two": (1, 2), "three": (2, 1)}  # hashes that differ in one half alone
TEXTS = st.lists(st.sampled_from(list(HALVES)), max_size=14)


def words(texts: list[str]) -> np.ndarray:
    return np.array([HALVES[text] for text in texts], np.uint64).reshape(-1, 2)


RANKS = st.lists(st.sampled_from([-np.inf, 0.0, 1.5, np.inf]), min_size=14, max_size=14)


@given(TEXTS, RANKS)
def test_the_first_of_a_text_is_the_first_in_order(texts, ranks):
    first = first_of_text(words(texts), np.array(ranks[: len(texts)]))
    own = range(len(texts))
    assert first.tolist() == [min((o for o in own if texts[o] == text), key=lambda o: (ranks[o], o)) for text in texts]


@given(st.lists(st.tuples(st.sampled_from(list(HALVES)), st.sampled_from("ab")), max_size=12))
def test_a_text_of_another_scope_is_another_text(documents):
    keys = Keys(Dedup(), {"a": 7, "b": 8})
    hashes = [b"".join(half.to_bytes(8, "little") for half in HALVES[text]) for text, _ in documents]
    table = pa.table(
        {
            "text_hash": pa.chunked_array([hashes[:3], hashes[3:]], pa.binary(16)),
            "source": pa.array([source for _, source in documents], pa.string()),
        }
    )
    found = [tuple(row) for row in keys.texts(table).tolist()]
    assert len(set(zip(documents, found, strict=True))) == len(set(found)) == len(set(documents))


@given(TEXTS, RANKS, st.integers(1, 5))
def test_edges_over_ranges_and_slices_lead_from_the_first_to_each_copy(texts, ranks, slices):
    """Three ranges, and as many slices as are asked for."""
    positions, wanted = np.arange(len(texts)) * 10, set()
    for at, text in enumerate(texts):
        first = min((o for o in range(len(texts)) if texts[o] == text), key=lambda o: (ranks[o], o))
        if first != at:
            wanted.add((first, at))
    found, parts = set(), []
    for cut in np.array_split(np.arange(len(texts)), 3):
        own, rank = words([texts[at] for at in cut]), np.array(ranks)[cut]
        mixed = own * np.uint64(0x9E3779B97F4A7C15)
        one = RangeTexts(positions[cut], mixed, rank, first_of_text(mixed, rank))
        found |= {(a // 10, b // 10) for a, b in one.edges.tolist()}
        parts.append(one.slices(slices))
    within = dict.fromkeys(copy for _, copy in found)
    for number in range(slices):
        some = np.concatenate([np.empty(0, TEXT), *(of_range[number] for of_range in parts)])
        found |= {(a // 10, b // 10) for a, b in edges_of_texts(some).tolist()}
    copies = Counter(copy for _, copy in found)
    assert set(copies) == {copy for _, copy in wanted} and set(copies.values()) <= {1}
    roots = {copy: first for first, copy in found}
    for first, copy in wanted:
        assert roots[copy] == first or (copy in within and roots[roots[copy]] == first)


@pytest.mark.parametrize("keeper", KEEPERS)
def test_no_copy_has_a_key_and_its_signature_is_not_moved(tmp_path, monkeypatch, keeper):
    """Nine of ten documents are copies, in ranges of 16; the result equals the one of a single task."""
    values = np.concatenate([copied(), random_columns(5)])
    dedup = Dedup(**SETTINGS | {"keeper": keeper} | KEEPERS[keeper][0])
    whole, _ = grouped(values, tmp_path / "whole", dedup, Sizes())
    texts = len(np.unique(values, axis=0))
    keyed: list[np.ndarray] = []
    signed: list[int] = []

    def edges_within(tables, slices):
        keyed.extend(keys for keys, _ in tables)
        return candidates.edges_within(tables, slices)

    def table_slices(table, ends):
        if "signature" in table.column_names:
            signed.append(table.num_rows - table["signature"].null_count)
        return output.table_slices(table, ends)

    monkeypatch.setattr(group, "edges_within", edges_within)
    monkeypatch.setattr(group, "table_slices", table_slices)
    found, units = grouped(values, tmp_path / "run", dedup, Sizes(documents=16))
    assert found == whole and whole.num_rows > 40
    assert {keys.shape[1] for keys in keyed} == {BANDS} and sum(map(len, keyed)) == texts
    assert 0 < sum(signed) <= texts
    assert ("group.firsts", 0) in units


def test_a_run_of_copies_alone_has_one_key(tmp_path):
    values = np.repeat(random_columns(1), 50, axis=0)
    found, _ = grouped(values, tmp_path / "run", Dedup(**SETTINGS), Sizes(documents=16))
    assert found["duplicate_count"].to_pylist() == [50] * 50
    assert Counter(found["reason"].to_pylist()) == {None: 1, "exact_duplicate": 49}
