"""All stages of a preparation on a sample of its input, in this process and a temporary folder."""

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.artifact import Artifact
from cluster.examples.splits import SPLITS
from cluster.readers.freeze import freeze_listing
from cluster.stage import Stage, prefix_of, publish, run_unit
from cluster.store import paths
from pipelines.curate.plan.rates import column_bytes
from pipelines.curate.plan.sample import Sample
from pipelines.prepare.assess.job import assess
from pipelines.prepare.config import PrepareConfig, Source
from pipelines.prepare.job import listed_inputs, run_stages
from pipelines.prepare.sources import Fields
from pipelines.prepare.stages.collect import ATTRIBUTES, QUARANTINE, CollectSettings
from pipelines.prepare.stages.write import REMOVED


@dataclass
class Compared:
    """Texts that a stage compares. columns: bytes of each column of their attributes. duplicates: that it finds."""

    texts: int
    columns: dict[str, float]
    duplicates: int = 0


@dataclass
class Trial:
    """A preparation of a sample.

    rows: of the sample. seconds: processor seconds of each stage. units: its units. written: bytes of its outputs.
    memory: bytes that it states to Ray. Stages in a folder of the run have its name before theirs, as in the progress.
    compared: of each stage that groups, what it compares. reasons: of removed records, with their numbers. problems: of
    rows that are no records.
    """

    rows: int
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    units: dict[str, int] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    compared: dict[str, Compared] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    problems: Counter[str] = field(default_factory=Counter)
    kept: int = 0

    @property
    def quarantined(self) -> int:
        """Rows that are no records."""
        return self.problems.total()

    def run(self, stage: Stage, root: str, folder: str) -> dict[str, Artifact]:
        """Do a stage in a folder of the run, and count what it takes."""
        if stage.prepare is not None:
            units = stage.prepare(lambda inner: self.run(inner, root, folder))
            stage = replace(stage, units=units, prepare=None)
        root = paths.join(root, folder) if folder else root
        name, began = f"{prefix_of(folder)}{stage.name}", time.process_time()
        records = {index: run_unit(stage, root, index, unit) for index, unit in enumerate(stage.units)}
        self.seconds[name] += time.process_time() - began
        self.units[name] = len(stage.units)
        self.memory[name] = stage.memory
        made = publish(stage, root, records)
        self.written[name] = sum(artifact.manifest.bytes for artifact in made.values())
        for output, artifact in made.items():
            path = paths.join(folder, output) if folder else output
            if path == ATTRIBUTES:
                self.compared["group"] = Compared(artifact.manifest.rows, column_bytes(artifact))
            elif path.endswith("-attributes"):  # of questions or answers, whose duplicates are found in a folder
                group = f"{prefix_of(path.removesuffix('-attributes') + 's')}group"
                self.compared[group] = Compared(artifact.manifest.rows, column_bytes(artifact))
        if name in self.compared:
            (groups,) = made.values()
            self.compared[name].duplicates = sum(
                table["reason"].is_valid().to_numpy().sum() for table in groups.tables(["reason"])
            )
        return made


def try_out(config: PrepareConfig, settings: CollectSettings, sample: Sample, folder: str, every: int = 1) -> Trial:
    """Prepare every `every`-th row of a sample.

    settings: of the whole run, with the fields of its sources. folder: of files, on a local disk.

    Raises:
        UserError: as the run.
    """
    rows = sample.by_source(every)
    trial = Trial(sum(table.num_rows for table in rows.values()))
    sources = []
    for number, (source, fields) in enumerate(zip(config.inputs, settings.fields, strict=True)):
        if (table := rows.get(source.source)) is not None:
            path = f"{folder}/{number}.parquet"
            config.store.write_bytes(path, _parquet(table, source, fields))
            sources.append(source.model_copy(update=_changes(source, fields, path)))
    update: dict[str, Any] = {"inputs": tuple(sources), "output": f"{folder}/run"}
    update["split"] = config.split.model_copy(update={"keep": ()})
    update["execution"] = config.execution.model_copy(update={"max_bad_documents": 1.0})
    local = config.model_copy(update=update)
    root, of_sample, listing = listed_inputs(local)
    inputs = freeze_listing(listing, 1 << 40, config.execution.max_bad_files)

    def run(stage: Stage, folder: str = "") -> dict[str, Artifact]:
        return trial.run(stage, root, folder)

    artifacts = run_stages(local, of_sample, inputs, {}, run)
    splits = [artifacts[name] for name in SPLITS]
    assess(local, None, root, splits, run)
    for table in artifacts[QUARANTINE].tables(["problem"]):
        trial.problems.update(table["problem"].to_pylist())
    trial.kept = sum(split.manifest.rows for split in splits)
    for key, count in artifacts[REMOVED].manifest.counters.items():
        if key.startswith("removed/"):
            trial.reasons[key.rpartition("/")[2]] = int(count)
    return trial


def _parquet(table: pa.Table, source: Source, fields: Fields) -> bytes:
    """The rows as a Parquet file with the columns of the source by their names."""
    columns = {name: table["text"] if name == fields.main else table[name] for name in fields.columns.values()}
    if source.id is not None:
        columns.setdefault(source.id, table["id"])
    written = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), written)
    return written.getvalue().to_pybytes()


def _changes(source: Source, fields: Fields, path: str) -> dict[str, Any]:
    """The settings of a source that differ if its rows lie in such a file."""
    columns = source.columns if source.table else dict(fields.columns)
    connection = {"database": None, "api": None, "pages": None}
    return connection | {"path": path, "format": None, "exclude": (), "storage": None, "columns": columns}
