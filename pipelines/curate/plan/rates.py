"""Rates of every stage, measured by a curation of the sample in this process.

The sample is stored as Parquet in a temporary folder, and curated there: once to load models and kernels, then three
times an eighth of it and three times all of it. Medians of the processor time give seconds of a unit and of a document.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.artifact import Artifact, open_parquet
from cluster.readers.freeze import freeze
from cluster.stage import Stage, publish, run_unit
from pipelines.curate.config import CurateConfig
from pipelines.curate.job import run_stages
from pipelines.curate.plan.sample import Sample
from pipelines.curate.stages.decide import VERDICTS
from pipelines.curate.stages.measure import ATTRIBUTES
from pipelines.curate.stages.write_corpus import CORPUS, REMOVED
from pipelines.dedup.group import GROUPS

_TIMES = 3
_PART = 8  # the smaller runs have every eighth document


@dataclass(frozen=True)
class Rates:
    """Seconds and bytes of a document and a unit in each stage.

    documents, text_bytes: of the sample. unreadable: share of its rows that cannot be read. passed: share of the
    documents that pass the rules. duplicates: share of those that are duplicates of others in the sample. unit_s:
    processor seconds by stage, of a unit of `measure`; for `duplicates` and `merge`, of a unit of theirs. document_s:
    of a document, by stage. read_s: of reading a byte of text, which the other seconds do not have. attribute_bytes: of
    each column of the attributes. corpus_bytes, removed_bytes, verdict_bytes: of a row, compressed. memory: bytes that
    each stage declares to Ray; 0 for none.
    """

    documents: int
    text_bytes: int
    unreadable: float
    passed: float
    duplicates: float
    unit_s: Mapping[str, float]
    document_s: Mapping[str, float]
    read_s: float
    attribute_bytes: Mapping[str, float]
    corpus_bytes: float
    removed_bytes: float
    verdict_bytes: float
    memory: Mapping[str, int]

    @property
    def document_bytes(self) -> float:
        """Mean text of a document."""
        return self.text_bytes / self.documents


@dataclass
class _Run:
    """A curation of the sample: by stage the processor seconds, units (see Rates), and memory declared to Ray."""

    documents: int
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    units: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)


def measure_rates(config: CurateConfig, sample: Sample) -> Rates:
    """The rates, from curations of the sample on local disk.

    Raises:
        UserError: a model or a list of the config is missing.
    """
    with tempfile.TemporaryDirectory(prefix="raymill-plan-") as folder:
        _curate(config, sample, f"{folder}/first", 1)
        parts = [_curate(config, sample, f"{folder}/part-{number}", _PART) for number in range(_TIMES)]
        wholes = [_curate(config, sample, f"{folder}/whole-{number}", 1) for number in range(_TIMES)]
        part, whole, made = parts[0], wholes[0], wholes[0].artifacts
        unit_s, document_s = {}, {}
        for stage in whole.seconds:
            few, many = (median(run.seconds[stage] for run in runs) for runs in (parts, wholes))
            unit_s[stage], document_s[stage] = line(whole.units[stage], (part.documents, few), (whole.documents, many))
        passed = made[VERDICTS].manifest.counters["passed"]
        groups = made[GROUPS].manifest.counters if GROUPS in made else {}
        duplicates = sum(count for name, count in groups.items() if name.startswith("reason/"))
        return Rates(
            documents=sample.documents,
            text_bytes=sample.text_bytes,
            unreadable=sample.unreadable_share,
            passed=passed / sample.documents,
            duplicates=duplicates / max(passed, 1),
            unit_s=unit_s,
            document_s=document_s,
            read_s=sample.read_s,
            attribute_bytes=column_bytes(made[ATTRIBUTES]),
            corpus_bytes=_row_bytes(made[CORPUS]),
            removed_bytes=_row_bytes(made[REMOVED]),
            verdict_bytes=_row_bytes(made[VERDICTS]),
            memory=whole.memory,
        )


def line(units: int, few: tuple[int, float], many: tuple[int, float]) -> tuple[float, float]:
    """(seconds of a unit, of a document) on the line through two (documents, seconds) of equally many units."""
    (less, short), (more, long) = few, many
    of_document = max(long - short, 0) / (more - less) if more > less else 0.0
    return max(long - more * of_document, 0) / units, of_document


def _curate(config: CurateConfig, sample: Sample, folder: str, every: int) -> _Run:
    documents = sample.by_source(every)
    found = _Run(sum(table.num_rows for table in documents.values()))
    inputs = []
    for number, entry in enumerate(config.inputs):
        if (table := documents.get(entry.source)) is None:
            continue
        names = dict.fromkeys(["id", "text", *entry.columns])
        written = pa.BufferOutputStream()
        pq.write_table(table.select(list(names)), written)
        path = f"{folder}/{number}.parquet"
        config.store.write_bytes(path, written.getvalue().to_pybytes())
        changed = {"path": path, "format": None, "text": "text", "id": entry.id and "id", "exclude": ()}
        inputs.append(entry.model_copy(update=changed | {"storage": None}))
    dedup = config.dedup and config.dedup.model_copy(update={"against": ()})
    local = config.model_copy(update={"inputs": tuple(inputs), "output": f"{folder}/run", "dedup": dedup})

    def run(stage: Stage) -> dict[str, Artifact]:
        if stage.prepare is not None:
            stage = replace(stage, units=stage.prepare(run), prepare=None)
        began = time.process_time()
        records = {index: run_unit(stage, local.output, index, unit) for index, unit in enumerate(stage.units)}
        found.seconds[stage.name] += time.process_time() - began
        found.units[stage.name] = len(stage.units) if stage.name in ("duplicates", "merge") else len(local.inputs)
        found.memory[stage.name] = stage.memory
        return publish(stage, local.output, records)

    found.artifacts = run_stages(local, freeze(local.store, local.inputs, 1 << 40), run)
    return found


def _row_bytes(artifact: Artifact) -> float:
    return artifact.manifest.bytes / max(artifact.manifest.rows, 1)


def column_bytes(artifact: Artifact) -> dict[str, float]:
    """Compressed bytes of each column for a row."""
    total: dict[str, float] = defaultdict(float)
    for uri in artifact.file_uris:
        with open_parquet(artifact.store, uri) as parquet:
            for group in range(parquet.num_row_groups):
                for name in parquet.schema_arrow.names:
                    chunks = parquet.column_chunks(group, [name])
                    total[name] += sum(chunk.total_compressed_size for chunk in chunks)
    return {name: size / max(artifact.manifest.rows, 1) for name, size in total.items()}
