"""The stage `group`: keeper order, copies and shown pairs equal their definitions over random documents."""

import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster.output import table_of, table_slice
from raymill.cluster.readers.freeze import bytes_of_unit
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.compare import PAIRS_SCHEMA, keeper_ranks
from raymill.pipelines.dedup.cost import memory_to_group
from raymill.pipelines.dedup.group import CompareBatch, files_of
from raymill.pipelines.dedup.settings import Dedup

TEXTS = st.sampled_from(["one", "two", "three"])
DOCUMENTS = st.lists(
    st.tuples(
        TEXTS, st.integers(0, 2), st.integers(0, 3), st.sampled_from([0.1, 0.5, math.nan]), st.sampled_from("abc")
    ),
    max_size=12,
)


def table(documents) -> pa.Table:
    return pa.table(
        {
            "characters": pa.array([size for _, _, size, _, _ in documents], pa.int64()),
            "quality_score": pa.array([score for _, _, _, score, _ in documents], pa.float64()),
            "newest_by": pa.array([-score for _, _, _, score, _ in documents], pa.float64()),
            "source": pa.array([source for *_, source in documents], pa.string()),
        }
    )


RANKS = {
    "position": ({}, lambda document: 0),
    "longest": ({}, lambda document: -document[2]),
    "score": ({"keeper_score": "quality_score"}, lambda d: math.inf if math.isnan(d[3]) else -d[3]),
    "source": ({"sources": ("c", "a")}, lambda document: "ca".find(document[4]) % 3),
    "newest": ({"newest_by": "date"}, lambda d: math.inf if math.isnan(d[3]) else d[3]),
}


@pytest.mark.parametrize("keeper", RANKS)
@given(documents=DOCUMENTS)
def test_the_order_of_keepers_equals_the_one_of_the_setting_and_then_of_position(keeper, documents):
    settings, rank = RANKS[keeper]
    ranks = keeper_ranks(table(documents), Dedup(keeper=keeper, **settings))
    order = np.argsort(ranks, kind="stable")
    assert order.tolist() == sorted(range(len(documents)), key=lambda at: (rank(documents[at]), at))


@pytest.mark.parametrize(("bands", "rows"), [(14, 8), (9, 13), (1, 1), (32, 4)])
def test_the_share_of_pairs_that_are_compared_equals_the_one_of_independent_columns(bands, rows):
    """Of 4,000 pairs whose columns are equal with the probability of the similarity."""
    generator = np.random.default_rng(bands)
    dedup = Dedup(bands=bands, rows_per_band=rows, threshold=0.9 if rows > 1 else 0.6)
    assert dedup.banding == (bands, rows)
    for similarity in (0.6, 0.8, 0.95):
        equal = generator.random((4000, bands, rows)) < similarity
        assert dedup.caught(similarity) == pytest.approx(equal.all(axis=2).any(axis=1).mean(), abs=0.04)


@pytest.mark.parametrize(
    ("documents", "component", "candidates"),
    [
        (1000, 2_000_000, 1000),  # one task
        (1_000_000, 2_000_000, 1_000_000),  # all of them may be one component
        (9_000_000, 2_000_000, 2_000_000),  # which is compared in blocks if it is larger
    ],
)
def test_a_machine_has_memory_for_the_largest_component_in_one_task(documents, component, candidates):
    assert memory_to_group(documents, Dedup(component_documents=component)) == (1 << 29) + 1500 * candidates


def test_a_machine_has_memory_for_two_blocks_of_a_large_component():
    assert memory_to_group(9_000_000, Dedup(component_documents=600_000)) == 2 * ((1 << 29) + 1500 * (1 << 19) * 5 // 4)


def test_a_machine_has_memory_to_connect_no_more_than_one_task_does():
    """An edge has two candidates at most."""
    bits = 10**10 // 8 * 3 // 2
    assert memory_to_group(10**10, Dedup(connected_at_once=10**9)) == (1 << 29) + bits + 6 * 2 * 10**9
    assert memory_to_group(10**10, Dedup()) == (1 << 29) + bits + 6 * 4 * 10**8
    assert memory_to_group(10**10, Dedup(connected_at_once=10**6)) < 4 << 30


@given(st.integers(0, 20 << 19), st.integers(1, 1 << 19))
def test_a_unit_of_select_opens_at_most_two_files_of_groups(first, count):
    """A unit has at most 2^19 documents if they have 512 bytes: the units of inputs of up to 2.5 TB have 256 MiB."""
    assert bytes_of_unit(25 * 10**11) // 512 <= 1 << 19
    files = [SimpleNamespace(unit=number) for number in range(21)]
    groups = SimpleNamespace(file_uris=[f"g/{number}" for number in range(21)], manifest=SimpleNamespace(files=files))
    (found,) = files_of(groups, [(first, count)])
    assert found == [f"g/{at}" for at in range(21) if at << 19 < first + count and first < (at + 1) << 19]
    assert 1 <= len(found) <= 2


def test_a_batch_counts_its_candidates_and_writes_what_was_found_by_range():
    candidates = pa.table({"position": pa.array([0, 5, 6, 9], pa.int64())})
    of_slice = SimpleNamespace(read=lambda store, parse: [parse(table_slice(candidates).to_pybytes())])
    files = SimpleNamespace(slice=lambda number: of_slice)
    written = []
    scratch = SimpleNamespace(write_slices=lambda output, slices: written.extend(slices))
    compare = CompareBatch(Store(), lambda rows: (rows.slice(1), PAIRS_SCHEMA.empty_table()), files, firsts=(0, 6, 7))
    found = compare(0, scratch)
    assert found == {"documents": 4.0}, "also those of which no copy was found"
    *ranges, _ = [table_of(bytes(one)) for one in written]
    assert [rows["position"].to_pylist() if rows else [] for rows in ranges] == [[5], [6], [9]]
