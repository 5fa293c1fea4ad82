"""Which tests `make test` runs: the short ones, and a sample of the long ones.

tests/durations.txt has the seconds of each test function that takes longer than BUDGET with all its cases, as `make
durations` measured them. Each of its cases is in the sample with the probability BUDGET / seconds. It is drawn by the
name of the case, so each run has the same sample. The others are marked `left_out`; `make test-rest` runs them. The few
tests on Ray all run.
"""

import hashlib
import re
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

FILE = Path(__file__).resolve().parents[1] / "durations.txt"
BUDGET = 0.3  # seconds of a function


def recorded() -> dict[str, float]:
    """The seconds of each long function, by FILE::NAME."""
    rows = (line.split() for line in FILE.read_text().splitlines())
    return {name: float(seconds) for seconds, name in rows}


def left_out(case: str, seconds: float) -> bool:
    """Whether the sample lacks a case. case: FILE::NAME[CASE]; seconds: of its function with all cases."""
    drawn = int.from_bytes(hashlib.sha256(case.encode()).digest()[:8], "big") / 2**64
    return drawn * seconds >= BUDGET


def measured(report: str) -> str:
    """The text of durations.txt, from the report of pytest in JUnit's form."""
    seconds: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        file = re.sub(r"/Test\w+$", "", case.attrib["classname"].replace(".", "/")) + ".py"
        seconds[f"{file}::{case.attrib['name'].partition('[')[0]}"] += float(case.attrib["time"])
    return "".join(f"{seconds[name]:.1f} {name}\n" for name in sorted(seconds) if seconds[name] > BUDGET)


if __name__ == "__main__":
    FILE.write_text(measured(sys.argv[1]))
