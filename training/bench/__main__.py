"""python -m training.bench: says at once which packages it needs and does not find, else runs command.py."""

import sys
from collections.abc import Sequence

from training.versions import BENCH_NEEDS, missing


def main(words: Sequence[str] | None = None) -> int:
    if lacking := missing(BENCH_NEEDS):
        print(
            f"training.bench: {', '.join(lacking)} not installed here. Use pip install {' '.join(lacking)} (wheels of "
            "this Python's version do, on a machine without a network).",
            file=sys.stderr,
        )
        return 2
    from training.bench.command import main

    return main(words)


if __name__ == "__main__":
    sys.exit(main())
