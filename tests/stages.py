"""A small stage for tests of the ground, and the loop that runs one without Ray."""

import pyarrow as pa

from cluster import stage as stages
from cluster.artifact import Artifact, Counters
from cluster.stage import Output, Scratch, Stage

NUMBERS = pa.schema([("unit", pa.int64()), ("number", pa.int64())])


def count_up(unit: int, scratch: Scratch) -> Counters:
    """Unit n leaves n rows, in two files if there are more than one; unit 0 leaves no file."""
    for number in range(unit):
        scratch.write("numbers", pa.table({"unit": [unit], "number": [number]}))
    scratch.write("squares", pa.table({"unit": [unit], "number": [unit * unit]}))
    return {"documents": unit, "text_bytes": 1000 * unit}


def counting_stage(units: int, work=count_up, fingerprint: str = "f" * 32) -> Stage:
    outputs = (Output("numbers", NUMBERS, file_bytes=16, row_group_bytes=16), Output("squares", NUMBERS))
    return Stage("count", outputs, list(range(units)), work, fingerprint)


def run_inline(stage: Stage, root: str) -> dict[str, Artifact]:
    """What the engine does, one unit after the other in this process."""
    if (done := stages.published(stage, root)) is not None:
        for artifact in done.values():
            stages.sweep(artifact)
        return done
    records = stages.committed(stage, root)
    for index, unit in enumerate(stage.units):
        if index not in records:
            records[index] = stages.run_unit(stage, root, index, unit)
    return stages.publish(stage, root, records)
