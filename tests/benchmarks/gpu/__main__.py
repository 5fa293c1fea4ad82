"""python -m tests.benchmarks.gpu: checks that the packages it needs are installed, then runs command.py."""

import sys
from collections.abc import Sequence

from raymill.cluster.entry import Entry
from tests.support.versions import BENCH_NEEDS, missing

_main = Entry("tests.benchmarks.gpu.command:main")  # imports the packages that are checked here


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark of the command line. Returns the exit status; 2 if packages that it needs are missing."""
    if lacking := missing(BENCH_NEEDS):
        print(
            f"tests.benchmarks.gpu: {', '.join(lacking)} not installed here. pip install {' '.join(lacking)} (wheels "
            "of this Python's version do, on a machine without a network).",
            file=sys.stderr,
        )
        return 2
    return _main(words)


if __name__ == "__main__":
    sys.exit(main())
