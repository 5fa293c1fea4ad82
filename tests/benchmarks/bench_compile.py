"""Processor time to compile every kernel, in an empty cache: python -m tests.benchmarks compile

`own` is the time of a kernel without the kernels that it calls and compiles. The largest are listed. Goals: 12 s for
all of them, 2 s for the largest.

Predicted 2026-11-24, quiet machine: 17 s for all, 0.9 s for the largest.
"""

import json
import os
import subprocess
import sys
import tempfile

from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine

_SHOWN = 25
_CODE = """
import json, time
from collections import defaultdict
from numba.core import event

class Recorder(event.Listener):
    def __init__(self):
        self.stack, self.own = [], defaultdict(float)
    def on_start(self, one):
        self.stack.append([one.data["dispatcher"].py_func, time.process_time(), 0.0])
    def on_end(self, one):
        function, began, below = self.stack.pop()
        taken = time.process_time() - began
        self.own[f"{function.__module__.removeprefix('raymill.pipelines.')}.{function.__name__}"] += taken - below
        if self.stack:
            self.stack[-1][2] += taken

recorder = Recorder()
event.register("numba:compile", recorder)
from raymill.pipelines.all_kernels import compile_kernels
began = time.process_time()
compile_kernels()
print(json.dumps({"own": recorder.own, "run": time.process_time() - began}))
"""


def run(texts: Texts) -> None:
    print(machine("numba", "llvmlite"))
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        done = subprocess.run([sys.executable, "-c", _CODE], env=environment, capture_output=True, text=True)
        again = subprocess.run([sys.executable, "-c", _CODE], env=environment, capture_output=True, text=True)
    if done.returncode or again.returncode:
        raise SystemExit(done.stderr + again.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    own = found["own"]
    ordered = sorted(own.items(), key=lambda item: -item[1])
    for name, seconds in ordered[:_SHOWN]:
        print(f"  {name:<60}{seconds:7.2f} s")
    print(f"{len(own)} kernels: {sum(own.values()):.1f} s of processor time to compile; the run {found['run']:.1f} s, "
          f"and from the cache {json.loads(again.stdout.splitlines()[-1])['run']:.1f} s")  # fmt: skip
    print(f"the largest kernel: {ordered[0][0]}, {ordered[0][1]:.2f} s")
