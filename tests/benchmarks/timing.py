"""How every benchmark measures: medians of runs after a warm-up, processor time beside wall time, the machine named."""

import platform
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq

from raymill.pipelines.text.texts import Texts

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "peps.parquet"
RUNS = 5


def machine(*packages: str) -> str:
    """The line every benchmark begins with."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{date.today()}  {model}  Python {platform.python_version()}  {versions}"


def processor_seconds(work: Callable[[], object], runs: int = RUNS) -> float:
    """Median processor time of one thread's work: other programs on the machine disturb it little."""
    work()
    taken = []
    for _ in range(runs):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return median(taken)


def load_texts(path: str | None) -> Texts:
    """The documents of a Parquet file with a `text` column; by default the technical texts beside the checkout."""
    source = Path(path) if path else REAL
    if not source.is_file():
        raise SystemExit(f"{source}: no such file. Give one with a `text` column: make bench DATA=FILE.parquet")
    return Texts.from_arrow(pq.read_table(source, columns=["text"])["text"])


def memory_of_process(name: str) -> int:
    """Bytes that the kernel states for this process: `VmHWM`, its peak, or `VmRSS`, what it has now.

    The peak of getrusage is not this: a process begins with the peak of the one that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def forget_peak() -> None:
    """Begin the peak of this process's memory, `VmHWM`, anew from what it has now."""
    Path("/proc/self/clear_refs").write_text("5")
