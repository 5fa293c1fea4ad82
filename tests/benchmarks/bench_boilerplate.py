"""Counting lines over documents: the speed of each step on one core, bytes, memory, and what would be cut.

    python -m tests.benchmarks.bench_boilerplate [PATH]

PATH is a Parquet file with a column `text`; the default is timing.load_texts's.
"""

import resource
import sys
import time
from functools import partial

import numpy as np

from raymill.pipelines.curate.stages.boilerplate import Boilerplate, source_key
from raymill.pipelines.curate.stages.kept_texts import CutTexts
from raymill.pipelines.curate.stages.shared_keys import COUNTED, KeyCounter, shared_keys
from raymill.pipelines.text.lines import find_pieces
from raymill.pipelines.text.normalize import normalize
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import load_texts, machine, processor_seconds

UNITS = 16
SLICE_KEYS = 1 << 23  # twice as many as planned
DOCUMENTS_OF_A_TABLE = 500


def run(texts: Texts) -> None:
    print(machine("numba", "numpy"))
    megabytes = texts.byte_lengths.sum() / 1e6
    texts = normalize(texts)
    print(f"normalise {megabytes / processor_seconds(lambda: normalize(texts)):,.0f} MB/s of text on one core")
    for cut in ("lines", "paragraphs"):
        _print_speeds(texts, Boilerplate(cut=cut), megabytes)
    _share()


def _print_speeds(texts: Texts, settings: Boilerplate, megabytes: float) -> None:
    tables = [_part(texts, first) for first in range(0, len(texts), DOCUMENTS_OF_A_TABLE)]
    find = partial(find_pieces, paragraphs=settings.cut == "paragraphs")
    pieces = [find(table) for table in tables]
    counted = _count(pieces)
    shared = shared_keys([counted], [0], settings.max_documents)[0]
    whole = sum(len(one.keys) for one in pieces)
    left = sum(len(_cut(settings, table, shared).texts.data) for table in tables)
    print(f"\n{settings.cut}: {whole:,}, {len(counted):,} different, {len(shared):,} of these shared; ", end="")
    print(f"{left / megabytes / 1e6:.0%} of the text is left")
    for name, work in (
        ("find", lambda: [find(table) for table in tables]),
        ("count", lambda: _count(pieces)),
        ("cut", lambda: [_cut(settings, table, shared) for table in tables]),
    ):
        print(f"  {name:8} {megabytes / processor_seconds(work):6,.0f} MB/s of text on one core")
    print(f"  {counted.nbytes / whole:.1f} bytes written for a piece of {megabytes * 1e6 / whole:.0f} bytes")


def _cut(settings: Boilerplate, texts: Texts, shared: np.ndarray) -> CutTexts:
    return settings.cut_out("s", texts, np.arange(len(texts)), shared)


def _part(texts: Texts, first: int) -> Texts:
    return Texts(texts.data, texts.offsets[first : first + DOCUMENTS_OF_A_TABLE + 1])


def _count(tables: list) -> np.ndarray:
    counter = KeyCounter()
    for number, pieces in enumerate(tables):
        counter.add(pieces.keys ^ source_key("s"), pieces.checks, number * DOCUMENTS_OF_A_TABLE + pieces.documents)
    return counter.slices(1)[0]


def _share() -> None:
    """One slice, twice as large as planned, of units that have a third of their keys in common."""
    generator = np.random.default_rng(1)
    common = np.sort(generator.integers(0, 1 << 63, SLICE_KEYS // UNITS // 3, dtype=np.uint64))
    counted = []
    for _ in range(UNITS):
        own = generator.integers(0, 1 << 63, SLICE_KEYS // UNITS - len(common), dtype=np.uint64)
        unit = np.zeros(SLICE_KEYS // UNITS, COUNTED)
        unit["key"], unit["documents"] = np.sort(np.concatenate([own, common])), 1
        counted.append(unit)
    size = sum(one.nbytes for one in counted)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    found = shared_keys(counted, [0] * UNITS, 6)
    took = time.process_time() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"\none slice of {SLICE_KEYS:,} keys, {size / 1e6:.0f} MB: {took / SLICE_KEYS * 1e9:.0f} ns a key, ", end="")
    print(f"{sum(map(len, found)):,} shared; {memory / 1e6:.2f} GB at most, {before / 1e6:.2f} GB before")


if __name__ == "__main__":
    run(load_texts(sys.argv[1] if len(sys.argv) > 1 else None))
