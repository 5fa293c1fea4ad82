"""`raymill demo` on a fresh machine, with compiled kernels, and on its finished run: python -m tests.benchmarks demo

A fresh machine is this one with an empty cache of kernels: NUMBA_CACHE_DIR names a new folder. Every run is a process
of its own, Ray's start included, and collects the text of this machine anew. Each case is repeated; DEMO_RUNS says how
often.

Predicted 2026-11-24, two quiet cores: the measure stage 14 s with an empty cache (the goal is under 20) and
3 s with a full one; the whole command 40 s and 28 s; the second call 1.4 s (goal 1.5).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine

RUNS = int(os.environ.get("DEMO_RUNS", 3))
AGAIN = "the same command on the finished run"


def run(texts: Texts) -> None:
    print(machine("ray", "numba", "pyarrow"))
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as folder:
            for case in ("demo, empty kernel cache", "demo, full kernel cache"):
                output = Path(folder, case.split()[1])
                found.setdefault(case, []).append(_demo(output, Path(folder, "kernels")))
            found.setdefault(AGAIN, []).append(_demo(output, Path(folder, "kernels"), finished=True))
    for case, runs in found.items():
        for name in runs[0]:
            taken = [one[name] for one in runs]
            print(f"{case:<38}{name:<20}median {median(taken):6.2f} s of {', '.join(f'{s:.2f}' for s in taken)}")


def _demo(output: Path, kernels: Path, finished: bool = False) -> dict[str, float]:
    """Seconds of the whole command; `measure.wall_s` and the seconds that its units took, unless it was finished."""
    command = [sys.executable, "-m", "raymill.cluster.cli", "demo", "--output", str(output)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NUMBA_CACHE_DIR": str(kernels)})
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"demo failed:\n{done.stdout}\n{done.stderr}")
    if finished:
        return {"whole command": took}
    stages = json.loads((output / "report.json").read_text())["stages"]
    (measure,) = [stage for stage in stages if stage["stage"] == "measure"]
    return {"whole command": took, "measure.wall_s": measure["wall_s"], "measure.core_s": measure["core_s"]}
