"""The measure stage of this tree beside another commit's, part by part, in turns:

    python -m tests.benchmarks.bench_pairs COMMIT [FILE.parquet]
    PAIRS=21 PAIRS_MB=8 python -m tests.benchmarks.bench_pairs HEAD~3

Both trees have a process of their own with the same texts. In each round both do the same part one right after the
other, so that whatever slows the machine slows both. Printed is the ratio of the medians of processor time, this tree
divided by the other (below 1: this tree is faster), and the quartiles of the pairs' ratios. A tree beside itself shows
what the machine can resolve: give the commit that is checked out.

PAIRS: rounds of each part. PAIRS_MB: megabytes of texts of each length.

Predicted 2026-11-24: a tree beside itself 0.99 to 1.01 in every row on a quiet machine, quartiles within 0.97 to 1.03.
Beside ce27208~1 (the last commit before kernels were compiled for less time): rule packs and signatures 0.95 to 1.03,
the goal; 0.5 kB may be further off, as other changes since then are in it.
"""

import os
import sys
from statistics import median

from raymill.pipelines.text.texts import Texts
from tests.benchmarks.measure_parts import PARTS
from tests.benchmarks.other_trees import HERE, in_turns, ratio, tree_of
from tests.benchmarks.timing import load_texts, machine
from tests.benchmarks.web_texts import by_length, spread

ROUNDS = int(os.environ.get("PAIRS", 15))
MEGABYTES = float(os.environ.get("PAIRS_MB", 8))


def main(arguments: list[str]) -> None:
    commits = [word for word in arguments if not word.endswith(".parquet")]
    if len(commits) != 1:
        raise SystemExit("python -m tests.benchmarks.bench_pairs COMMIT [FILE.parquet]: give one commit")
    path = next((word for word in arguments if word.endswith(".parquet")), None)
    print(machine("numba", "pyarrow"))
    run(load_texts(path), commits[0])


def run(texts: Texts, commit: str) -> None:
    some = {name: spread(one, MEGABYTES) for name, one in by_length(texts).items()}
    with tree_of(commit) as tree:
        found = in_turns((tree, HERE), some, PARTS, ROUNDS)
    print(f"this tree beside {commit}, {ROUNDS} pairs, {MEGABYTES:g} MB of each length; processor time")
    print("| texts | part | MB/s there | MB/s here | ratio of medians | quartiles of pairs |")
    print("|---|---|---|---|---|---|")
    for (name, part), (before, after) in found.items():
        size = int(some[name].byte_lengths.sum()) / 1e6
        middle, low, high = ratio(before, after)
        speeds = f"{size / median(before):.1f} | {size / median(after):.1f}"
        print(f"| {name} | {part} | {speeds} | {middle:.3f} | {low:.3f} to {high:.3f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
