"""Duplicates: of whole records, of questions, and of answers.

    group            of whole records                                         -> _work/groups
    verdicts, group  of questions, of the records that stay                   -> _work/questions
    verdicts, group  of answers, of the records that still stay               -> _work/answers

The result is the same for any number of workers and units.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.readers.inputs import Input
from cluster.stage import Output, RunStageIn, Scratch, Stage
from cluster.store.store import Store
from pipelines.dedup.group import GROUPS, files_of, group_stage
from pipelines.dedup.settings import Dedup
from pipelines.prepare.config import Found, PrepareConfig
from pipelines.prepare.stages.collect import ANSWERS, ATTRIBUTES, QUESTIONS

_REMOVED = "verdicts"


@dataclass(frozen=True)
class DuplicateGroups:
    """Groups of records that are alike. attributes: of all records that were compared."""

    groups: Artifact
    attributes: Artifact
    found: Found

    @property
    def removes(self) -> bool:
        return self.found == "remove"

    def files_by_unit(self, units: int) -> list[list[str]]:
        """The files that can have records of each unit of input; they have records of others too."""
        counts = np.array(self.attributes.rows_by_unit(units), np.int64)
        return list(files_of(self.groups, zip((np.cumsum(counts) - counts).tolist(), counts.tolist(), strict=True)))


def find_repeats(
    config: PrepareConfig,
    inputs: Sequence[Input],
    artifacts: dict[str, Artifact],
    removed: Artifact,
    units: int,
    run: RunStageIn,
) -> dict[str, DuplicateGroups]:
    """The groups of records (key `record`), questions and answers that the config asks for.

    artifacts: of `collect`. removed: rows of each unit that are not compared, as VERDICTS has them. run: makes or finds
    the artifacts of a stage.
    """
    dedup, verdicts = config.dedup or Dedup(), removed
    sides: list[tuple[str, str, Found, str]] = []
    if config.dedup:
        sides.append(("record", ATTRIBUTES, "remove" if config.dedup.remove else "list", ""))
    sides.append(("question", QUESTIONS, config.duplicates.questions, "_work/questions"))
    sides.append(("answer", ANSWERS, config.duplicates.answers, "_work/answers"))
    repeats: dict[str, DuplicateGroups] = {}
    for name, output, found, folder in sides:
        if found == "ignore":
            continue
        removing = [one for one in repeats.values() if one.removes]
        if removing:
            verdicts = run(verdicts_stage(removing, removed, artifacts[output], units), folder)[_REMOVED]
        # Records that stay are in one split if they are alike directly or over others.
        stage = group_stage(dedup, inputs, artifacts[output], verdicts, units, chained=found != "remove")
        repeats[name] = DuplicateGroups(run(stage, folder)[GROUPS], artifacts[output], found)
    return repeats


@dataclass(frozen=True)
class UnitGroups:
    """A unit of `verdicts`: the number of a unit of input, its records, the files with its duplicates, and those with
    rows that were removed before.
    """

    number: int
    records: int
    files: list[str]
    removed: list[str]


def verdicts_stage(removing: Sequence[DuplicateGroups], removed: Artifact, attributes: Artifact, units: int) -> Stage:
    """The stage that writes the rows of each unit that are removed as duplicates, as VERDICTS has them.

    removed: rows that were removed before, which are written too. attributes: whose records are compared next.
    """
    store, counts = attributes.store, attributes.rows_by_unit(units)
    files = zip(*(one.files_by_unit(units) for one in removing), strict=True)
    parts = [
        UnitGroups(number, rows, list(chain(*of_unit)), before)
        for number, (rows, of_unit, before) in enumerate(zip(counts, files, removed.files_by_unit(units), strict=True))
    ]
    found = (*(one.groups for one in removing), removed, attributes)
    made_from = fingerprint([one.manifest.fingerprint for one in found])
    outputs = (Output(_REMOVED, pa.schema([("row", pa.int64())])),)
    return Stage("verdicts", outputs, parts, FindRemoved(store), made_from, store)


@dataclass(frozen=True)
class FindRemoved:
    """The work of the stage `verdicts`."""

    store: Store

    def __call__(self, unit: UnitGroups, scratch: Scratch) -> Counters:
        """Counters: `passed`, at least the records that are compared next."""
        for table in read_tables(self.store, unit.removed):
            scratch.write(_REMOVED, table)
        for table in read_tables(self.store, unit.files):
            own = table.filter(pc.and_(pc.equal(table["unit"], unit.number), table["reason"].is_valid()))
            if own.num_rows:
                scratch.write(_REMOVED, own.select(["row"]))
        return {"passed": float(unit.records)}
