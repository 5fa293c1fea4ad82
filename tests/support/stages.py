"""A small stage for tests of the ground, and the loop that runs one without Ray."""

import os
import sys

import pyarrow as pa

from raymill.cluster import cli
from raymill.cluster import stage as stages
from raymill.cluster.artifact import Artifact, Counters
from raymill.cluster.engine import Engine
from raymill.cluster.entry import Entry
from raymill.cluster.frame.kind import Verb
from raymill.cluster.progress import ProgressLines
from raymill.cluster.session import Session
from raymill.cluster.stage import Output, Scratch, Stage
from raymill.cluster.store.store import Store

NUMBERS = pa.schema([("unit", pa.int64()), ("number", pa.int64())])


def count_up(unit: int, scratch: Scratch) -> Counters:
    """Unit n leaves n rows, in two files if there are more than one; unit 0 leaves no file."""
    for number in range(unit):
        scratch.write("numbers", pa.table({"unit": [unit], "number": [number]}))
    scratch.write("squares", pa.table({"unit": [unit], "number": [unit * unit]}))
    return {"documents": unit, "text_bytes": 1000 * unit}


def counting_stage(units: int, work=count_up, fingerprint: str = "f" * 32, store: Store | None = None) -> Stage:
    outputs = (Output("numbers", NUMBERS, file_bytes=16, row_group_bytes=16), Output("squares", NUMBERS))
    return Stage("count", outputs, list(range(units)), work, fingerprint, store or Store())


def run_inline(stage: Stage, root: str) -> dict[str, Artifact]:
    """What the engine does, one unit after the other in this process."""
    if (done := stages.published(stage, root)) is not None:
        for artifact in done.values():
            stages.sweep(artifact)
        return done
    records, stage = stages.committed(stage, root), stage.set_up()
    for index, unit in enumerate(stage.units):
        if index not in records:
            records[index] = stages.run_unit(stage, root, index, unit)
    return stages.publish(stage, root, records)


def digests(artifacts: dict[str, Artifact]) -> dict[str, str]:
    return {name: artifact.manifest.digest for name, artifact in artifacts.items()}


def blocked_from_two_on(unit: int, scratch: Scratch) -> Counters:
    """Units 2 and later wait for a writer of the gate, a FIFO: a job that can be hit in the middle of its work."""
    if unit >= 2:
        with open(os.environ["GATE"]) as gate:
            gate.read()
    return count_up(unit, scratch)


def count(root: str, gated: bool = False) -> None:
    """A verb of a `raymill` for tests."""
    with Session(cpus=2) as session:
        made = Engine(root, session, ProgressLines()).run(counting_stage(6, blocked_from_two_on if gated else count_up))
    print(made["numbers"].manifest.digest, "with Ray" if "ray" in sys.modules else "without Ray")


if __name__ == "__main__":
    cli.VERBS["count"] = Verb(Entry("tests.support.stages:count"), "count")
    cli.command()
