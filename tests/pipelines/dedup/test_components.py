"""Components and their batches equal a plain search over random edges, in the memory that is stated."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster.errors import DataError
from raymill.pipelines.dedup.candidates import edges_between
from raymill.pipelines.dedup.components import Batches, mark_candidates, memory_to_connect, memory_to_mark
from raymill.pipelines.dedup.cost import memory_by_stage
from tests.support.graphs import MOST, graphs, plainly


def batches_of(edges: list[np.ndarray], documents: int, size: int) -> Batches:
    bits = mark_candidates(edges, documents)
    return Batches.of(edges, bits, int(np.bitwise_count(bits).sum()), size)


@given(edges=graphs(), size=st.integers(1, 40), step=st.sampled_from([7, 64, 100, 512, MOST]), cut=st.integers(0, 9))
def test_batches_are_those_of_a_plain_search(edges, size, step, cut):
    some = np.array(edges, np.int64).reshape(-1, 2)
    found = batches_of([some[:cut], some[cut:]], MOST, size)
    seen = {}
    for start in range(0, MOST, step):
        distances, batch = found.between(start, start + step)
        assert found.candidates_before(start) == len(seen)
        seen |= dict(zip((start + distances).tolist(), batch.tolist(), strict=True))
    assert found.candidates_before(2 * MOST) == len(seen)
    assert (seen, found.counts.tolist()) == plainly(edges, size)


def test_a_batch_ends_with_the_component_that_brings_it_to_its_size():
    """Pairs of documents, one component of five, and documents without an edge."""
    pairs = np.array([[0, 1], [2, 9], [4, 5], [6, 7], [10, 11]])
    large = np.array([[12, 13], [13, 14], [14, 15], [15, 16]])
    found = batches_of([pairs[:3], large, pairs[3:], pairs], 20, 4)
    positions, batch = found.between(0, 20)
    assert positions.tolist() == [0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16]
    assert batch.tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 2, 2, 2, 2, 2, 2, 2]
    assert found.counts.tolist() == [4, 4, 7]


@pytest.mark.parametrize("edge", [(0, 128), (-1, 0), (1 << 62, 0)])
def test_an_edge_of_a_changed_file_is_refused_before_a_kernel_writes_beyond_its_arrays(edge):
    edges = [np.array([(0, 127)]), np.array([edge])]
    with pytest.raises(DataError, match="_work/group was changed"):
        mark_candidates(edges, 128)
    bits = mark_candidates(edges[:1], 128)
    for some, candidates in (edges, 2), ([np.array([(0, 5)])], 2), (edges[:1], 1):
        with pytest.raises(DataError, match="_work/group was changed"):
            Batches.of(some, bits, candidates, 10)


@pytest.mark.parametrize("pair", [0, 0x3FFF << 50, 0x8000 << 48, 0xFFFF << 48])
def test_a_pair_of_another_slice_is_refused_before_a_kernel_writes_beyond_its_arrays(pair):
    of_slice = 0x4000 << 48  # the second of four slices begins here
    assert len(edges_between([np.array([of_slice], np.uint64)], np.array([0]), 1, 4)) == 0
    with pytest.raises(DataError, match="_work/group was changed"):
        edges_between([np.array([of_slice, pair], np.uint64)], np.array([0]), 1, 4)


def test_the_tasks_state_bits_for_a_document_and_six_bytes_for_a_candidate():
    found = memory_by_stage(1 << 33, 1 << 30)
    assert found["group.mark"] == (1 << 29) + (1 << 30)
    assert found["group.components"] == (1 << 29) + (3 << 29) + (6 << 30)
    assert memory_by_stage(1 << 33)["group.components"] == (1 << 29) + (1 << 31) + (12 << 33)


DOCUMENTS, CANDIDATES = 1 << 28, 1 << 25
PEAK = f"""
import numpy as np
from pathlib import Path
from raymill.cluster.errors import DataError
from raymill.pipelines.dedup.candidates import edges_between
from raymill.pipelines.dedup.components import Batches, mark_candidates

step = {DOCUMENTS // CANDIDATES}
def edges():  # pairs, the most components that there can be
    for start in range(0, {DOCUMENTS}, 1 << 22):
        yield np.arange(start, start + (1 << 22), step).reshape(-1, 2)
def peak():  # since it was called before
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.partition("VmHWM:")[2].split()[0]) << 10
Batches.of([np.array([[0, 1]])], mark_candidates([np.array([[0, 1]])], 2), 2, 1).between(0, 2)  # compiled
peak()
before = peak()
bits = mark_candidates(edges(), {DOCUMENTS})
marked = peak()
found = Batches.of(edges(), bits, {CANDIDATES}, 1 << 19)
for start in range(0, {DOCUMENTS}, 1 << 19):
    found.between(start, start + (1 << 19))
print(marked - before, peak() - before)
"""


def test_the_stated_memory_is_that_which_is_used():
    """2^28 documents, of which 2^25 share keys, in a process of its own; beside an array of edges of 8 MB."""
    printed = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True).stdout
    marked, connected = map(int, printed.split())
    edges = 16 << 20  # and copies of them
    assert marked == pytest.approx(memory_to_mark(DOCUMENTS), abs=edges)
    stated = memory_to_connect(DOCUMENTS, CANDIDATES)
    assert 0.95 * stated - edges < connected < stated + edges
