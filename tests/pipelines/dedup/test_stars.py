"""Rounds of stars make the batches of a plain search, for any cut into files, spans and units."""

import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.artifact import fingerprint
from raymill.cluster.engine import RetryLimits
from raymill.cluster.output import write_slices
from raymill.cluster.progress import Progress
from raymill.cluster.stage import Output, Stage
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.group import Sizes
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.dedup.stars import PositionSpans, Stars, memory_of_stars
from tests.support.graphs import MOST, graphs, plainly
from tests.support.grouped import SETTINGS, chain, cliques, grouped, templates
from tests.support.inline import InlineEngine, NoRay


class Connected:
    """What Stars makes of edges in several files. batch: of each position. most: edges that a unit of `move` had."""

    def __init__(self, edges: list[np.ndarray], positions: int, size: int, documents: int, most: int = 50) -> None:
        with tempfile.TemporaryDirectory() as folder:
            files = [f"{folder}/{number}.slices" for number in range(len(edges))]
            for file, some in zip(files, edges, strict=True):
                write_slices(Path(file), [some])
            self.engine = InlineEngine(folder, NoRay(), Progress(), RetryLimits(1, 900, 0))
            spans = PositionSpans(documents, 3, -(-positions // (3 * documents)))
            found, counts = Stars(Store(), spans, most, size, 0)(self.engine.run, _stage, files)
            self.counts, self.batch = counts.tolist(), dict[int, int]()
            for number in range(-(-positions // documents)):
                numbers, batches = found.of_range(Store(), number)
                self.batch |= dict(zip((numbers + number * documents).tolist(), batches.tolist(), strict=True))

    @property
    def moves(self) -> int:
        """The stars that were made."""
        return sum(name.endswith(".move") for name in self.engine.units)


def _stage(name, outputs, units, work, memory) -> Stage:
    sliced = tuple(Output(output, pa.schema([])) for output in outputs)
    return Stage(name, sliced, units, work, fingerprint([name]), Store(), memory=memory)


@settings(max_examples=4)
@given(
    edges=graphs().filter(len), size=st.integers(1, 40), documents=st.sampled_from([16, 100, 512]),
    files=st.integers(1, 4), most=st.sampled_from([1, 10, 1000]),
)  # fmt: skip
def test_batches_are_those_of_a_plain_search(edges, size, documents, files, most):
    some = np.array_split(np.array(edges, np.int64), files)
    found = Connected(some, MOST, size, documents, most)
    assert (found.batch, found.counts) == plainly(edges, size)


def shuffled(edges: list[tuple[int, int]], positions: int) -> list[tuple[int, int]]:
    """The same graph with its positions in another order."""
    order = np.random.default_rng(positions).permutation(positions)
    return [(int(order[one]), int(order[other])) for one, other in edges]


COUNT = 1 << 9
CHAIN = list(pairwise(range(COUNT)))


@pytest.mark.parametrize(
    ("edges", "moves"),
    [
        (CHAIN, 2 * 9 + 2),
        (shuffled(CHAIN, COUNT), 2 * 9 + 2),
        ([(COUNT - 1, other) for other in range(COUNT - 1)], 6),  # the largest position is the centre
        ([(at // 2, at) for at in range(1, COUNT)], 2 * 9 + 2),  # a tree
        ([(at, at + COUNT // 2) for at in range(COUNT // 2)], 2),  # pairs: both stars leave them as they are
    ],
    ids=["chain", "shuffled-chain", "star", "tree", "pairs"],
)
def test_the_stars_are_few(edges, moves):
    found = Connected(np.array_split(np.array(edges, np.int64), 2), COUNT, 100, 100, 200)
    assert (found.batch, found.counts) == plainly(edges, 100)
    assert found.moves <= moves


@pytest.mark.parametrize("corpus", [chain, cliques, templates])
def test_the_rows_of_groups_are_those_of_one_task(tmp_path, corpus):
    values = corpus()
    whole, _ = grouped(values, tmp_path / "whole", Dedup(**SETTINGS), Sizes())
    sizes = Sizes(documents=16, block=7, batch=4, span=2, edges=20)
    dedup = Dedup(connected_at_once=1, component_documents=10, **SETTINGS)
    stars, units = grouped(values, tmp_path / "stars", dedup, sizes)
    assert stars == whole and whole.num_rows > 5
    stages = {name for name, _ in units}
    assert "group.star.0002.move" in stages and "group.components" not in stages


EDGES, SPANS = 1 << 20, PositionSpans(1 << 17, 8, 4)
PEAK = f"""
import numpy as np
import pyarrow as pa
from pathlib import Path
from raymill.cluster.stage import Output, Scratch
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.stars import Deal, Least, Move, PositionSpans

spans = {SPANS!r}
def peak():  # since it was called before
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.partition("VmHWM:")[2].split()[0]) << 10
def bytes_of(work):
    peak()
    before = peak()
    work()
    return peak() - before
edges = np.random.default_rng(1).integers(0, spans.width, ({EDGES}, 2))  # all of the first span
edges[:, 1] += spans.width
names = "file", "edges", "nearest", "least", "moved", "next"
with Scratch([Output(name, pa.schema([])) for name in names]) as scratch:
    def file(name):
        return str(scratch.folder / f"{{name}}.slices")
    scratch.write_slices("file", [edges])
    del edges
    dealt = bytes_of(lambda: Deal(Store(), spans, "edges", "nearest")((file("file"),), scratch))
    least = bytes_of(lambda: Least(Store(), spans, (file("nearest"),), "least")(0, scratch))
    unit = 0, file("least"), (file("edges"),)
    moved = bytes_of(lambda: Move(Store(), spans, "moved", "next", True)(unit, scratch))
print(dealt, least, moved)
"""


def test_units_state_the_memory_that_they_use():
    printed = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True).stdout
    dealt, least, moved = map(int, printed.split())
    stated = memory_of_stars(SPANS.width, EDGES)
    assert 0.5 * stated < max(dealt, least, moved) < stated, (dealt, least, moved, stated)
