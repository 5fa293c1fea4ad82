"""What Ray costs the driver for each unit: python -m tests.benchmarks units

A stage of 2,000 units without work, on an embedded Ray with 2 CPUs.
"""

import tempfile
import time

from raymill.cluster.artifact import Counters
from raymill.cluster.engine import Engine
from raymill.cluster.output import Output
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.stage import Scratch, Stage
from raymill.cluster.store.store import Store
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine
from tests.support.stages import NUMBERS

UNITS = 2_000


def run(texts: Texts) -> None:
    print(machine("ray"))
    with tempfile.TemporaryDirectory() as folder, Session(cpus=2) as session:
        engine = Engine(folder, session, Progress())
        engine.run(_stage("first", 4))  # starts Ray
        began, processor = time.perf_counter(), time.process_time()
        engine.run(_stage("units", UNITS))
        wall, processor = time.perf_counter() - began, time.process_time() - processor
    print(
        f"a unit: {1000 * processor / UNITS:.1f} ms of the driver's processor time, {1000 * wall / UNITS:.1f} ms wall"
    )


def _stage(name: str, units: int) -> Stage:
    return Stage(name, (Output(name, NUMBERS),), range(units), _nothing, name * 8, Store())


def _nothing(unit: int, scratch: Scratch) -> Counters:
    return {"documents": 1}
