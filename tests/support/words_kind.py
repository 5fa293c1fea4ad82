"""A kind of run in one file: counts the words of text files. Plan, dry run, report, gc, submit and continuing are the
frame's.

    count   the words of a unit of files   -> words
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from raymill.cluster.artifact import Counters, fingerprint
from raymill.cluster.entry import Entry
from raymill.cluster.frame.execution import Execution
from raymill.cluster.frame.files import FilesJob
from raymill.cluster.frame.job import Made, Making, Run, digests_of
from raymill.cluster.frame.kind import Kind
from raymill.cluster.output import Output
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.listing import InputListing, list_inputs
from raymill.cluster.readers.units import Reading, Unit, read_unit
from raymill.cluster.stage import RunStageIn, Scratch, Stage
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.store import Store
from raymill.cluster.submit.work import GIB, Machines

WORDS = Kind(
    name="words",
    text="count the words of text files",
    config=Entry("tests.support.words_kind:WordsConfig"),
    job=Entry("tests.support.words_kind:WordsJob"),
    files=("inputs.json", "inputs.parquet"),
)

_SCHEMA = pa.schema([("word", pa.string()), ("count", pa.int64())])


class WordsExecution(Execution):
    unit_bytes: int | None = None
    max_bad_files: float = 0.0


class WordsConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["words"]
    name: str
    inputs: tuple[Input, ...]
    output: str
    lower: bool = False
    execution: WordsExecution = WordsExecution()
    storage: StorageOptions = StorageOptions()

    @property
    def store(self) -> Store:
        return Store(self.storage)


@dataclass(frozen=True)
class CountWords:
    """The work of the stage `count`."""

    reading: Reading
    lower: bool

    def __call__(self, unit: Unit, scratch: Scratch) -> Counters:
        found = Counter[str]()
        for table in read_unit(unit, self.reading, Limits()):
            for text in table["text"].to_pylist():
                found.update((text.lower() if self.lower else text).split())
        scratch.write("words", pa.table([[*found], [*found.values()]], schema=_SCHEMA))
        return {"words": found.total()}


class WordsRun(Run):
    """The words of text files."""

    @property
    def summary(self) -> str:
        return f"{self.report['words']:,.0f} words"


class WordsJob(FilesJob[WordsConfig]):
    """Count the words of text files."""

    kind, run_type = "words", WordsRun

    @cached_property
    def listing(self) -> InputListing:
        return list_inputs(self.store, self.config.inputs)

    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json", include={"inputs", "lower"})

    def stages(self, run: RunStageIn) -> dict[str, Any]:
        work = CountWords(self.frozen.reading, self.config.lower)
        made_from = fingerprint([self.frozen.fingerprint, self.config.lower])
        return run(
            Stage("count", (Output("words", _SCHEMA),), self.frozen.units, work, made_from, self.store, memory=GIB)
        )

    def make(self, making: Making) -> Made:
        self.record_inputs()
        artifacts = self.stages(making.run)
        manifest = artifacts["words"].manifest
        return Made({"words": manifest.counters["words"]}, digests_of(artifacts), {"finished": manifest.made})

    def machines(self, seconds: float | None) -> Machines:
        return Machines("cpu", cpus=2, memory=4 * GIB, disk=4 * GIB, largest_task=GIB)
