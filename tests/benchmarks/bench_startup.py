"""How long `raymill --help` takes, as a process."""

import subprocess
import sys
import time
from statistics import median

from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import RUNS, machine


def run(texts: Texts) -> None:
    print(machine("typer"))
    taken = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "raymill.cluster.cli", "--help"], check=True, capture_output=True)
        taken.append(time.perf_counter() - start)
    print(f"raymill --help: {median(taken):.2f} s")
