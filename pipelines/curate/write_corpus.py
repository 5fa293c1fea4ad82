"""Stage 4, select: read the text a second time and write what stays; every document that does not gets a ledger row.

    units of input + attributes + verdicts + groups  ->  corpus, removed (the ledger), samples for the report

Nothing is deleted before this stage. A unit here is as many units of input as fill one corpus file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import cluster
from cluster.artifact import Artifact, Counters, fingerprint, open_parquet, read_tables
from cluster.errors import DataError
from cluster.page.formats import plural
from cluster.stage import Output, Scratch, Stage, files_from
from pipelines.curate.config import CurateConfig
from pipelines.curate.decide import VERDICTS_SCHEMA
from pipelines.curate.measure import attributes_schema, split_problems
from pipelines.curate.report_samples import SAMPLES, SAMPLES_SCHEMA, Sampler
from pipelines.curate.tallies import TALLIES_SCHEMA, add_tallies, tally
from pipelines.dedup.group import EXACT, GROUPS_SCHEMA, NEAR
from pipelines.readers import read_unit
from pipelines.readers.units import InputManifest, Reading, Unit
from pipelines.text import personal_data
from pipelines.text.normalize import NORMALIZE_VERSION, normalize
from pipelines.text.texts import Texts

CORPUS = "corpus"
REMOVED = "removed"
KEPT = "_work/kept"
SELECT_VERSION = "2"

# A position is a row of the attributes artifact, counted from 0: it names a document where two have one id.
LEDGER_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("position", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("language", pa.string()),  # as detected; null where languages are not identified
        ("language_score", pa.float32()),
        ("partner", pa.string()),
        ("partner_source", pa.string()),
        ("partner_position", pa.int64()),
        ("similarity", pa.float64()),
    ]
)

# A file is closed late rather than leaving a small one: the units below already add up to about one file.
_ROOM = 1.5

DEDUP_STAGES = {EXACT: "exact_duplicates", NEAR: "near_duplicates"}


def corpus_schema(config: CurateConfig, carried: pa.Schema) -> pa.Schema:
    columns = [("id", pa.string()), ("text", pa.large_string()), ("source", pa.string())]
    if config.language:
        columns += [("language", pa.string()), ("language_score", pa.float32())]
    columns += [(name, pa.float64()) for name in config.corpus.columns]
    if config.dedup:
        columns += [("duplicate_count", pa.int64()), ("group_id", pa.int64())]
    return pa.schema([*(pa.field(*column) for column in columns), *carried])


@dataclass(frozen=True)
class Source:
    """One unit of input with what the earlier stages left for it. `first`: position of its first document."""

    unit: Unit
    first: int
    attributes: list[str]
    verdicts: list[str]


# Why one row of a unit is removed: what the ledger says of it, by its row instead of its id and source.
_PARTNER_COLUMNS = [
    ("partner", pa.string()),
    ("partner_source", pa.string()),
    ("partner_position", pa.int64()),
    ("similarity", pa.float64()),
]
REMOVAL_SCHEMA = pa.schema([*VERDICTS_SCHEMA, *_PARTNER_COLUMNS])


@dataclass(frozen=True)
class Chosen:
    """What select needs of one unit of input. Every table has its columns, also where it has no rows."""

    attributes: pa.Table
    removed: pa.Table  # as REMOVAL_SCHEMA, sorted by row
    groups: pa.Table  # as GROUPS_SCHEMA


def select_stage(
    config: CurateConfig, inputs: InputManifest, attributes: Artifact, verdicts: Artifact, groups: Artifact | None
) -> Stage:
    file_bytes = config.corpus.file_mib << 20
    outputs = (
        Output(CORPUS, corpus_schema(config, inputs.carried), file_bytes=int(file_bytes * _ROOM)),
        Output(REMOVED, LEDGER_SCHEMA),
        Output(SAMPLES, SAMPLES_SCHEMA),
        Output(KEPT, TALLIES_SCHEMA),
    )
    made_from = fingerprint(
        {
            "version": [cluster.__version__, SELECT_VERSION, NORMALIZE_VERSION],
            "attributes": attributes.manifest.fingerprint,
            "verdicts": verdicts.manifest.fingerprint,
            "groups": groups and groups.manifest.fingerprint,
            "remove": config.dedup and config.dedup.remove,
            "personal_data": config.personal_data
            and [personal_data.PERSONAL_DATA_VERSION, *sorted(config.personal_data.redact)],
            "corpus": config.corpus.model_dump(),
            "samples": config.report.samples,
            "lines": [rule.name for rule in config.active_rules() if getattr(rule, "remove_lines", False)],
        }
    )
    count = len(inputs.units)
    documents = np.zeros(count, np.int64)
    for file in attributes.manifest.files:
        documents[file.unit] += file.rows
    firsts = (np.cumsum(documents) - documents).tolist()
    parts = zip(inputs.units, firsts, attributes.files_by_unit(count), verdicts.files_by_unit(count), strict=True)
    sources = [Source(*part) for part in parts]
    kept = _kept_bytes(verdicts, groups, inputs)
    group_files = groups.file_uris if groups else []
    work = Select(config, inputs.reading, group_files)
    return Stage("select", outputs, list(_fill(sources, kept, file_bytes)), work, made_from, config.store, _files)


def _files(sources: list[Source]) -> str:
    return files_from([uri for source in sources for uri in source.unit.uris])


def _kept_bytes(verdicts: Artifact, groups: Artifact | None, inputs: InputManifest) -> list[float]:
    """About how much text of each unit will be written."""
    removed = np.zeros(len(inputs.units))
    for file in verdicts.manifest.files:
        removed[file.unit] += file.rows
    if groups is not None:
        for table in groups.tables(["unit", "reason"]):
            units = table.filter(pc.is_valid(table["reason"]))["unit"].to_numpy()
            removed += np.bincount(units, minlength=len(removed))
    measured = np.array([unit.bytes for unit in inputs.units], float)
    documents = verdicts.manifest.counters.get("documents", 0)
    per_document = verdicts.manifest.counters.get("text_bytes", 0) / max(documents, 1)
    return list(np.maximum(measured - removed * per_document, 0))


def _fill(sources: Sequence[Source], kept: Sequence[float], file_bytes: int) -> Iterator[list[Source]]:
    """Neighbouring units until their text fills a file."""
    held: list[Source] = []
    size = 0.0
    for source, text_bytes in zip(sources, kept, strict=True):
        held.append(source)
        size += text_bytes
        if size >= file_bytes:
            yield held
            held, size = [], 0.0
    if held:
        yield held


@dataclass(frozen=True)
class Select:
    config: CurateConfig
    reading: Reading
    group_files: list[str]

    def __call__(self, sources: list[Source], scratch: Scratch) -> Counters:
        counters: Counters = {"documents": 0, "text_bytes": 0, "corpus_documents": 0, "corpus_characters": 0}
        sampler = Sampler(self.config.report.samples)
        tallies: list[pa.Table] = []
        groups = self._groups({source.unit.index for source in sources})
        for source in sources:
            chosen = self._chosen(source, groups)
            self._write_ledger(source, chosen, scratch)
            self._write(source.unit, chosen, scratch, sampler, tallies, counters)
        scratch.write(SAMPLES, sampler.table())
        scratch.write(KEPT, add_tallies(tallies))
        return counters

    def _groups(self, units: set[int]) -> pa.Table:
        """The groups' rows of these units. The file is sorted by unit: row groups of none of them are not read."""
        found = []
        wanted = pa.array(sorted(units), pa.int32())
        for uri in self.group_files:
            with open_parquet(self.config.store, uri) as parquet:
                place = parquet.schema_arrow.names.index("unit")
                for number in range(parquet.num_row_groups):
                    held = parquet.metadata.row_group(number).column(place).statistics
                    if held.min <= max(units) and held.max >= min(units):
                        table = parquet.read_row_group(number, use_threads=False)
                        found.append(table.filter(pc.is_in(table["unit"], wanted)))
        return pa.concat_tables([GROUPS_SCHEMA.empty_table(), *found])

    def _chosen(self, source: Source, groups: pa.Table) -> Chosen:
        names = {"row", "id", "text_hash", "characters", "language", "language_score", *self.config.corpus.columns}
        schema = pa.schema([column for column in attributes_schema(self.config) if column.name in names])
        attributes = _concat(read_tables(self.config.store, source.attributes, names.__contains__), schema)
        removed = _removals(_concat(read_tables(self.config.store, source.verdicts), VERDICTS_SCHEMA))
        mine = groups.filter(pc.equal(groups["unit"], source.unit.index))
        if self.config.dedup and self.config.dedup.remove:
            gone = mine.filter(pc.is_valid(mine["reason"]))
            duplicates = _duplicates(gone, self.config.dedup.threshold)
            removed = pa.concat_tables([removed, duplicates]).sort_by("row").combine_chunks()
        return Chosen(attributes, removed, mine)

    def _write_ledger(self, source: Source, chosen: Chosen, scratch: Scratch) -> None:
        attributes, removed = chosen.attributes, chosen.removed
        place = np.searchsorted(attributes["row"].to_numpy(), removed["row"].to_numpy())
        known = attributes.take(pa.array(place))
        columns = {name: removed[name] for name in removed.column_names if name != "row"}
        columns |= {"id": known["id"], "source": pa.repeat(source.unit.source, len(place))}
        columns["position"] = pa.array(source.first + place)
        for name in ("language", "language_score"):
            none = pa.nulls(len(place), LEDGER_SCHEMA.field(name).type)
            columns[name] = known[name] if name in known.column_names else none
        scratch.write(REMOVED, pa.table(columns))

    def _write(
        self,
        unit: Unit,
        chosen: Chosen,
        scratch: Scratch,
        sampler: Sampler,
        tallies: list[pa.Table],
        counters: Counters,
    ) -> None:
        attributes = chosen.attributes
        removed_rows = chosen.removed["row"].to_numpy()
        first = 0
        for table in read_unit(unit, self.reading, self.config.limits):
            readable, _ = split_problems(table)
            rows = attributes.slice(first, readable.num_rows)
            first += readable.num_rows
            if not readable["row"].combine_chunks().equals(rows["row"].combine_chunks()):
                raise DataError(
                    f"unit {unit.index} ({unit.spans[0].uri}): rows differ from those measured. The input changed "
                    "while the run was under way: restore it, or start anew with --replace."
                )
            texts = normalize(Texts.from_arrow(readable["text"]))
            stays = ~np.isin(rows["row"].to_numpy(), removed_rows)
            sampler.look(unit.source, texts, rows, chosen.removed, chosen.groups)
            kept = np.flatnonzero(stays)
            corpus = self._corpus(unit, texts, kept, rows.take(kept), readable.take(kept), chosen.groups)
            scratch.write(CORPUS, corpus)
            tallies.append(_tally_kept(unit.source, rows.take(kept)))
            counters["documents"] += readable.num_rows
            counters["text_bytes"] += len(texts.data)
            counters["corpus_documents"] += len(kept)
            counters["corpus_characters"] += pc.sum(rows["characters"].take(kept)).as_py() or 0
        if first != attributes.num_rows:
            raise DataError(
                f"unit {unit.index} ({unit.spans[0].uri}): {plural(first, 'document')} now, {attributes.num_rows:,} "
                "when measured. The input changed during the run: restore it, or start anew with --replace."
            )

    def _corpus(
        self, unit: Unit, texts: Texts, kept: np.ndarray, rows: pa.Table, carried: pa.Table, groups: pa.Table
    ) -> pa.Table:
        texts = Texts.from_arrow(texts.to_arrow().take(pa.array(kept)))
        for rule in self.config.active_rules():
            if getattr(rule, "remove_lines", False):
                texts = rule.clean(texts, self.config.dialect)  # type: ignore[attr-defined]
        if self.config.personal_data and self.config.personal_data.redact:
            texts = personal_data.redact(texts, personal_data.find(texts, self.config.personal_data.redact))
        columns = {"id": rows["id"], "text": texts.to_arrow(), "source": pa.repeat(unit.source, len(kept))}
        columns |= {name: rows[name] for name in ("language", "language_score") if name in rows.column_names}
        columns |= {name: rows[name] for name in self.config.corpus.columns}
        if self.config.dedup:
            columns |= _group_columns(rows, groups)
        return pa.table(columns | {name: carried[name] for name in self.reading.carried.names})


def _group_columns(rows: pa.Table, groups: pa.Table) -> dict[str, object]:
    """A document without duplicates is its own group: the first 64 bits of its text hash."""
    hashes = rows["text_hash"].combine_chunks()
    own = (
        np.frombuffer(hashes.buffers()[1], "<i8", 2 * len(rows), 16 * hashes.offset)[::2] if len(rows) else np.empty(0)
    )
    group_id = own.astype(np.int64)
    count = np.ones(len(rows), np.int64)
    positions = groups["row"].to_numpy()
    if len(positions) and len(rows):
        at = np.minimum(np.searchsorted(positions, rows["row"].to_numpy()), len(positions) - 1)
        grouped = positions[at] == rows["row"].to_numpy()
        group_id[grouped] = groups["group_id"].to_numpy()[at[grouped]]
        count[grouped] = groups["duplicate_count"].to_numpy()[at[grouped]]
    return {"duplicate_count": count, "group_id": group_id}


def _tally_kept(source: str, rows: pa.Table) -> pa.Table:
    language = rows["language"] if "language" in rows.column_names else ""
    return add_tallies([tally("kept", source, language, "", np.ones(len(rows), np.int64), rows["characters"])])


def _removals(verdicts: pa.Table) -> pa.Table:
    """Removals by a rule or for the language: they have no partner."""
    columns = {name: verdicts[name] for name in verdicts.column_names}
    columns |= {name: pa.nulls(verdicts.num_rows, kind) for name, kind in _PARTNER_COLUMNS}
    return pa.table(columns, schema=REMOVAL_SCHEMA)


def _duplicates(gone: pa.Table, threshold: float) -> pa.Table:
    """Removals of duplicates, from their rows of the groups."""
    stages = pa.array(list(DEDUP_STAGES.values())).take(pc.index_in(gone["reason"], pa.array(list(DEDUP_STAGES))))
    columns = {
        "row": gone["row"],
        "stage": stages,
        "reason": gone["reason"],
        "value": gone["similarity"],
        "threshold": pa.repeat(threshold, gone.num_rows),
        **{name: gone[name] for name, _ in _PARTNER_COLUMNS},
    }
    return pa.table(columns).cast(REMOVAL_SCHEMA)


def _concat(tables: Iterator[pa.Table], schema: pa.Schema) -> pa.Table:
    """All rows in one chunk; the columns of `schema` where there are none."""
    return pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()
