"""The measure stage on one core, whole and by part, for three lengths of text: as it is, as it was before fastText and
the packs were kernels without the binding, and beside datatrove 0.10.1. Prints one Markdown table.

    python -m tests.benchmarks measure
    BEFORE=HEAD~20 MEASURE_MB=8 python -m tests.benchmarks measure

Megabytes of text a second of processor time, medians of 5. Both trees do each part in turns in processes of their own,
on the same texts. datatrove runs the same four packs, its own signatures and its own language filter with the same
model (which reads the whole text, and not 1,000 characters), on a sample of the same documents, once.

BEFORE: the commit to compare with. MEASURE_MB: megabytes of texts of each length.

Predicted 2026-11-24, quiet machine (16, 3.3 and 0.5 kB): all together 57, 44, 30 now and 22, 12, 4.4 before; language
180, 70, 35 now and 110, 18, 5.9 before; four rule packs 85, 88, 84 now and 51, 36, 57 before; datatrove's rules and
signatures 0.19, 0.19, 0.18, with language 0.18, 0.18, 0.17: 300 times slower on 16 kB, 250 on 3.3, 200 on 0.5.
"""

import json
import os
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from raymill.cluster.store.store import Store
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.measure_parts import BESIDE_PEER, LANGUAGE, PACKS, PARTS, SIGNATURES
from tests.benchmarks.other_trees import HERE, in_history, in_turns, tree_of
from tests.benchmarks.timing import RUNS, machine
from tests.benchmarks.web_texts import by_length, spread

PEER = HERE / ".venv-peers" / "bin" / "python"
BEFORE = os.environ.get("BEFORE", "1160a28")  # the last commit that calls fastText's library
MEGABYTES = float(os.environ.get("MEASURE_MB", 32))
PEER_MEGABYTES = min(2.0, MEGABYTES)


def run(texts: Texts) -> None:
    print(machine("numba", "pyarrow", "fasttext-predict"))
    lengths = by_length(texts)
    some = {name: spread(one, MEGABYTES) for name, one in lengths.items()}
    with ExitStack() as stack:
        trees = [HERE]
        if in_history(BEFORE):
            trees.insert(0, stack.enter_context(tree_of(BEFORE)))
        else:
            print(f"  no column `before`: this clone has no commit {BEFORE}")
        found = in_turns(trees, some, PARTS, RUNS)
    peer = {name: _datatrove(spread(one, PEER_MEGABYTES)) for name, one in lengths.items()}
    print(f"MB/s per core, processor time; {MEGABYTES:g} MB of each length, datatrove {PEER_MEGABYTES:g} MB")
    for line in _table(some, found, peer):
        print(line)


def _table(
    some: dict[str, Texts], found: dict[tuple[str, str], list[list[float]]], peer: dict[str, dict[str, float]]
) -> list[str]:
    """The lines of a Markdown table: a row for each part, and before, now and datatrove for each length."""
    head = [f"{name}: before | now | datatrove | now / datatrove" for name in some]
    lines = [f"| part | {' | '.join(head)} |", f"|---|{'---|' * 4 * len(some)}"]
    for part in PARTS:
        cells = []
        for name, texts in some.items():
            taken = found.get((name, part), [])
            size = int(texts.byte_lengths.sum()) / 1e6
            speeds = [size / median(one) for one in taken]
            theirs = peer[name].get(part)
            cells.append(f"{speeds[0]:.1f}" if len(speeds) > 1 else "-")
            cells.append(f"{speeds[-1]:.1f}" if speeds else "-")
            cells += [f"{theirs:.2f}", f"{speeds[-1] / theirs:.0f} x"] if theirs and speeds else ["", ""]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return lines


def _datatrove(texts: Texts) -> dict[str, float]:
    """Part -> megabytes a second of datatrove; empty if it is not installed."""
    if not PEER.exists():
        print("  datatrove is not installed here: `make bench` does that")
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "texts.json")
        path.write_text(json.dumps(texts.to_arrow().to_pylist()))
        model = fasttext_classifier.load(Store(), None).path
        command = [str(PEER), str(Path(__file__).with_name("peer_datatrove.py")), str(path), str(model)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"datatrove failed:\n{done.stderr}")
    peer = json.loads(done.stdout)
    size = peer["bytes"] / 1e6
    seconds = {PACKS: peer["filter_s"], SIGNATURES: peer["signature_s"], LANGUAGE: peer["language_s"]}
    seconds[BESIDE_PEER] = sum(seconds.values())
    return {part: size / taken for part, taken in seconds.items()}
