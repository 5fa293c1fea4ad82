"""Finding runs of words that several documents have: the speed of each step on one core, bytes, and what is found.

    python -m tests.benchmarks.bench_repeats [PATH]

PATH is a Parquet file with a column `text`; the default is timing.load_texts's. One document in eight is taken, so that
not all of the text is repeated.
"""

import sys
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pyarrow as pa

from raymill.pipelines.curate.stages.repeats import Runs, find_runs, windows_between
from raymill.pipelines.curate.stages.shared_keys import KeyCounter, find_shared, shared_keys
from raymill.pipelines.text.normalize import normalize
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.windows import Anchors, Tokens, find_anchors, hash_windows, locate_tokens, without_spans
from tests.benchmarks.timing import load_texts, machine, processor_seconds

LENGTH = 50
EVERY = 8


def run(texts: Texts) -> None:
    print(machine("numba", "numpy"))
    texts = normalize(Texts.from_arrow(texts.to_arrow().take(pa.array(np.arange(0, len(texts), EVERY)))))
    megabytes = texts.byte_lengths.sum() / 1e6
    positions = np.arange(len(texts))
    tokens, anchors, shared_anchors, windows, shared = _found(texts)
    runs = find_runs(tokens, LENGTH, positions, shared)
    later = ~runs.is_first
    print(f"{len(texts):,} texts, {megabytes:.1f} MB, {len(tokens.hashes):,} words; windows of {LENGTH}")
    print(f"  {len(anchors.grams):,} anchors, a word in {len(tokens.hashes) / len(anchors.grams):.1f}; ", end="")
    print(f"{len(shared_anchors):,} shared; {len(windows):,} windows with one; {len(runs.firsts):,} runs, ", end="")
    print(f"{int((runs.lasts - runs.firsts + 1)[later].sum()):,} words in {int(later.sum()):,} later ones")
    print(f"  a loop over all windows finds {'the same' if _plain(tokens) == _listed(runs) else 'others'}")
    for name, work in (
        ("tokens", lambda: locate_tokens(texts)),
        ("anchors", lambda: find_anchors(tokens, LENGTH)),
        ("count anchors", lambda: _counted(anchors.keys, anchors.checks, tokens.documents_of(anchors.grams))),
        ("windows", lambda: _windows(tokens, anchors, shared_anchors)),
        ("count windows", lambda: _counted(*_windows(tokens, anchors, shared_anchors))),
        ("runs", lambda: find_runs(tokens, LENGTH, positions, shared)),
        ("cut", lambda: without_spans(texts, tokens, runs.firsts[later], runs.lasts[later])),
    ):
        print(f"  {name:14} {megabytes / processor_seconds(work):6,.0f} MB/s of text on one core")


def _plain(tokens: Tokens) -> set[tuple[int, bool]]:
    """(word, whether its document is the first) of all words in a window that several documents have."""
    holders = defaultdict(list)
    windows = []
    for document, (start, end) in enumerate(pairwise(tokens.starts.tolist())):
        data = tokens.hashes[start:end].tobytes()
        for at in range(end - start - LENGTH + 1):
            window = data[8 * at : 8 * (at + LENGTH)]
            windows.append((start + at, document, hash(window)))
            if not holders[hash(window)] or holders[hash(window)][-1] != document:
                holders[hash(window)].append(document)
    found = [(at, holders[window][0] == document) for at, document, window in windows if len(holders[window]) > 1]
    return {(word, is_first) for at, is_first in found for word in range(at, at + LENGTH)}


def _listed(runs: Runs) -> set[tuple[int, bool]]:
    spans = zip(runs.firsts.tolist(), runs.lasts.tolist(), runs.is_first.tolist(), strict=True)
    return {(word, is_first) for first, last, is_first in spans for word in range(first, last + 1)}


def _found(texts: Texts) -> tuple:
    """The result of each step, of one unit."""
    tokens = locate_tokens(texts)
    anchors = find_anchors(tokens, LENGTH)
    counted = _counted(anchors.keys, anchors.checks, tokens.documents_of(anchors.grams))
    shared_anchors = shared_keys([counted], [0], 1)[0]
    keys, checks, documents = _windows(tokens, anchors, shared_anchors)
    return tokens, anchors, shared_anchors, keys, shared_keys([_counted(keys, checks, documents)], [0], 1)[0]


def _counted(keys: np.ndarray, checks: np.ndarray, documents: np.ndarray) -> np.ndarray:
    counter = KeyCounter()
    counter.add(keys, checks, documents)
    return counter.slices(1)[0]


def _windows(tokens: Tokens, anchors: Anchors, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = find_shared(shared, anchors.keys, anchors.checks) >= 0
    at = windows_between(anchors.firsts[found], anchors.lasts[found])
    keys, checks = hash_windows(tokens, LENGTH)
    return keys[at], checks[at], tokens.documents_of(at)


if __name__ == "__main__":
    run(load_texts(sys.argv[1] if len(sys.argv) > 1 else None))
