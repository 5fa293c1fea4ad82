"""The stage `select`: reads the text again, and writes the corpus and the ledger.

    units of input, attributes, verdicts, groups  ->  corpus, removed (the ledger), contaminated (with the rule
                                                      `decontamination`), boilerplate and repeats (with these
                                                      settings), samples and tallies for the report

The ledger has one row for each removed document. Earlier stages remove nothing. A unit of this stage is a list of
neighbouring units of input whose kept text fills about one file of the corpus. It reads their text and the rows of
attributes, verdicts and groups about them, a table of 8 MB of text at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.errors import DataError
from cluster.formats import plural
from cluster.readers.inputs import Limits
from cluster.readers.units import InputManifest, Reading, Unit, read_unit, split_problems
from cluster.stage import Output, RunStage, Scratch, Stage, files_from
from pipelines.curate.config import SelectSettings
from pipelines.curate.stages.boilerplate import (
    BOILERPLATE,
    BOILERPLATE_SCHEMA,
    BOILERPLATE_VERSION,
    BoilerplateCutter,
    find_boilerplate,
)
from pipelines.curate.stages.contaminated import (
    CONTAMINATED,
    CONTAMINATED_SCHEMA,
    contaminated_rows,
    decontamination_of,
)
from pipelines.curate.stages.cuts import TOO_FEW_WORDS_LEFT, Cutter, filter_texts, stays
from pipelines.curate.stages.decide import VERDICTS_SCHEMA
from pipelines.curate.stages.kept_texts import MeasuredUnit, groups_in, take_texts
from pipelines.curate.stages.neighbours import neighbours
from pipelines.curate.stages.repeats import REPEATS, REPEATS_SCHEMA, REPEATS_VERSION, RepeatsCutter, find_repeats
from pipelines.curate.stages.samples import SAMPLES, SAMPLES_SCHEMA, Sampler
from pipelines.curate.stages.shared_keys import KeyStages, read_shared
from pipelines.curate.stages.tallies import TALLIES_SCHEMA, add_tallies, tally
from pipelines.dedup.compare import EXACT, NEAR
from pipelines.dedup.cost import DEFAULT_SIZES, Sizes
from pipelines.dedup.group import files_of
from pipelines.memory import task_memory
from pipelines.rules.decontamination import SIGNAL
from pipelines.text import personal_data
from pipelines.text.lines import count_characters
from pipelines.text.normalize import NORMALIZE_VERSION, normalize
from pipelines.text.texts import Texts

CORPUS = "corpus"
REMOVED = "removed"  # the ledger
KEPT = "_work/kept"
SELECT_VERSION = "5"

# The document that was kept in place of a removed duplicate. Null for other removed documents.
_PARTNER_COLUMNS = [
    ("partner", pa.string()),
    ("partner_source", pa.string()),
    ("partner_position", pa.int64()),
    ("partner_run", pa.string()),  # URI of the earlier run (`dedup.against`) that has it; null: this run
    ("similarity", pa.float64()),
]

# A position is the row of a document in the attributes artifact, from 0. It is unique, which an id may not be.
LEDGER_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("position", pa.int64()),
        ("stage", pa.string()),  # removed by: a rule's name, `language`, or a kind of duplicate (DEDUP_STAGES)
        ("reason", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("language", pa.string()),  # as detected; null where languages are not identified
        ("language_score", pa.float32()),
        *_PARTNER_COLUMNS,
    ]
)


def ledger_schema(carried: pa.Schema) -> pa.Schema:
    """LEDGER_SCHEMA and the carried columns of the inputs, by `ledger_name`."""
    return pa.schema([*LEDGER_SCHEMA, *(field.with_name(ledger_name(field.name)) for field in carried)])


def ledger_name(carried: str) -> str:
    """The name of a carried column in the ledger: `input_` precedes one that the ledger has with another meaning."""
    return f"input_{carried}" if carried in LEDGER_SCHEMA.names else carried


# A file may grow to this multiple of corpus.file_mib, so that a unit does not write a second, small file.
_MAX_FILE_FACTOR = 1.5

DEDUP_STAGES = {EXACT: "exact_duplicates", NEAR: "near_duplicates"}


def corpus_schema(settings: SelectSettings, carried: pa.Schema) -> pa.Schema:
    """The columns of the corpus; the last are the carried columns of the inputs."""
    columns = [("id", pa.string()), ("text", pa.large_string()), ("source", pa.string())]
    if settings.filters.language:
        columns += [("language", pa.string()), ("language_score", pa.float32())]
    columns += [(name, pa.float64()) for name in settings.corpus.columns]
    if settings.dedup:
        columns += [("duplicate_count", pa.int64()), ("group_id", pa.int64())]
    return pa.schema([*(pa.field(*column) for column in columns), *carried])


def attribute_columns(columns: tuple[str, ...]) -> set[str]:
    """The columns of the attributes that are read. columns: the signals that become columns of the corpus."""
    return {"row", "id", "text_hash", "characters", "language", "language_score", SIGNAL, *columns}


# A row of the ledger before id, source, position and language are added. `row`: the document's number in the unit.
REMOVED_SCHEMA = pa.schema([*VERDICTS_SCHEMA, *_PARTNER_COLUMNS])


@dataclass(frozen=True)
class UnitResults:
    """The results of earlier stages for one unit of input. A table without rows still has its columns."""

    attributes: pa.Table
    removed: pa.Table  # as REMOVED_SCHEMA, sorted by row
    groups: pa.Table  # as GROUPS_SCHEMA


def select_stage(
    settings: SelectSettings,
    inputs: InputManifest,
    attributes: Artifact,
    verdicts: Artifact,
    groups: Artifact | None,
    duplicates: Artifact | None,
    sizes: Sizes = DEFAULT_SIZES,
) -> Stage:
    """The stage that writes the documents that are kept.

    Reads: the input files once more, the attributes and verdicts of its units, and the groups of their positions.
    Writes: CORPUS and the ledger REMOVED; SAMPLES and KEPT for the report; if set CONTAMINATED, BOILERPLATE, REPEATS.
    Cost: 7 ms of a core for 1 MB of text; 1 GiB, with cuts the text of a corpus file besides (select_memory).

    groups, duplicates: the artifacts GROUPS and DUPLICATES; None without deduplication. sizes: those of `groups`.
    """
    file_bytes = settings.corpus.file_mib << 20
    outputs: tuple[Output, ...] = (
        Output(CORPUS, corpus_schema(settings, inputs.carried), file_bytes=int(file_bytes * _MAX_FILE_FACTOR)),
        Output(REMOVED, ledger_schema(inputs.carried)),
        Output(SAMPLES, SAMPLES_SCHEMA),
        Output(KEPT, TALLIES_SCHEMA),
    )
    if decontamination_of(settings.filters):
        outputs += (Output(CONTAMINATED, CONTAMINATED_SCHEMA),)
    boilerplate, repeats = settings.boilerplate, settings.repeats
    if boilerplate:
        outputs += (Output(BOILERPLATE, BOILERPLATE_SCHEMA),)
    if repeats:
        outputs += (Output(REPEATS, REPEATS_SCHEMA),)
    stage_fingerprint = fingerprint(
        {
            "version": [SELECT_VERSION, NORMALIZE_VERSION],
            "attributes": attributes.manifest.fingerprint,
            "verdicts": verdicts.manifest.fingerprint,
            "groups": groups and groups.manifest.fingerprint,
            "remove": settings.dedup and settings.dedup.remove,
            "personal_data": None
            if settings.redact is None
            else [personal_data.PERSONAL_DATA_VERSION, *sorted(settings.redact)],
            "corpus": settings.corpus.model_dump(),
            "samples": settings.samples,
            "lines": [rule.name for rule in settings.filters.rules if getattr(rule, "remove_lines", False)],
        }
        | ({"boilerplate": [BOILERPLATE_VERSION, boilerplate.model_dump()]} if boilerplate else {})
        | ({"repeats": [REPEATS_VERSION, repeats.model_dump()]} if repeats else {})
    )
    count = len(inputs.units)
    documents = np.array(attributes.rows_by_unit(count), np.int64)
    firsts = (np.cumsum(documents) - documents).tolist()
    spans = list(zip(firsts, documents.tolist(), strict=True))
    of_groups = files_of(groups, spans, sizes) if groups else [[] for _ in spans]
    files = attributes.files_by_unit(count), verdicts.files_by_unit(count), of_groups
    parts = zip(inputs.units, firsts, *files, strict=True)
    measured = [MeasuredUnit(*part) for part in parts]

    removed = duplicates if settings.dedup and settings.dedup.remove else None
    kept_bytes = _kept_bytes(verdicts, removed, inputs)
    units = list(neighbours(measured, kept_bytes, file_bytes))
    work, store = Select(settings, inputs.reading, attributes.schema), attributes.store

    def prepare(run: RunStage) -> list[list[MeasuredUnit]]:
        text, reading = sum(kept_bytes), inputs.reading
        stages = KeyStages(run, store, measured, stage_fingerprint, sizes.fan)
        if boilerplate:
            cut = find_boilerplate(stages, settings, reading, text)
            stages = replace(stages, units=[replace(one, boilerplate=cut.slice(one.unit.index)) for one in measured])
        found = stages.units
        if repeats:
            repeated = find_repeats(stages, settings, reading, text)
            found = [replace(one, repeats=repeated.slice(one.unit.index)) for one in found]
        return list(neighbours(found, kept_bytes, file_bytes))

    cuts = boilerplate is not None or repeats is not None
    memory = select_memory(settings.limits, file_bytes, cuts=cuts)
    stage = Stage("select", outputs, units, work, stage_fingerprint, store, _files, memory=memory, per_input=True)
    return replace(stage, units=(), prepare=prepare) if cuts else stage


def select_memory(limits: Limits, file_bytes: int, *, cuts: bool) -> int:
    """Bytes of a unit of `select`. file_bytes: text of a corpus file. cuts: whether the unit cuts pieces or windows."""
    return task_memory(limits) + cuts * file_bytes  # the keys of text that fills a file: at most a quarter of it


def _files(units: list[MeasuredUnit]) -> str:
    return files_from([uri for one in units for uri in one.unit.uris])


def _kept_bytes(verdicts: Artifact, duplicates: Artifact | None, inputs: InputManifest) -> list[float]:
    """Estimated bytes of text of each unit that the corpus will contain."""
    removed = np.array(verdicts.rows_by_unit(len(inputs.units)), float)
    for table in duplicates.tables(["unit", "documents"]) if duplicates else ():
        np.add.at(removed, table["unit"].to_numpy(), table["documents"].to_numpy())
    estimated = np.array([unit.bytes for unit in inputs.units], float)
    documents = verdicts.manifest.counters.get("documents", 0)
    per_document = verdicts.manifest.counters.get("text_bytes", 0) / max(documents, 1)
    return list(np.maximum(estimated - removed * per_document, 0))


@dataclass(frozen=True)
class Select:
    """The work of a unit. attributes: schema of the artifact ATTRIBUTES."""

    settings: SelectSettings
    reading: Reading
    attributes: pa.Schema

    def __call__(self, units: list[MeasuredUnit], scratch: Scratch) -> Counters:
        """Counters: `documents` and `text_bytes` read, `corpus_documents` and `corpus_characters` written."""
        counters: Counters = {"documents": 0, "text_bytes": 0, "corpus_documents": 0, "corpus_characters": 0}
        sampler = Sampler(self.settings.samples)
        tallies: list[pa.Table] = []
        groups = groups_in(self.reading.store, units)
        for one in units:
            results = self._results(one, groups)
            self._write(one, results, scratch, sampler, tallies, counters)
        scratch.write(SAMPLES, sampler.table())
        scratch.write(KEPT, add_tallies(tallies))
        return counters

    def _results(self, unit: MeasuredUnit, groups: pa.Table) -> UnitResults:
        store, dedup = self.reading.store, self.settings.dedup
        names = attribute_columns(self.settings.corpus.columns)
        schema = pa.schema([column for column in self.attributes if column.name in names])
        attributes = _concat(read_tables(store, unit.attributes, names.__contains__), schema)
        removed = _without_partner(_concat(read_tables(store, unit.verdicts), VERDICTS_SCHEMA))
        in_unit = groups.filter(pc.equal(groups["unit"], unit.unit.index))
        if dedup and dedup.remove:
            duplicates = _duplicates(in_unit.filter(pc.is_valid(in_unit["reason"])), dedup.threshold)
            removed = _joined([removed, duplicates])
        return UnitResults(attributes, removed, in_unit)

    def _ledger(self, source: str, rows: pa.Table, position: int, removed: pa.Table, readable: pa.Table) -> pa.Table:
        """The ledger of some neighbouring documents.

        rows, readable: their attributes and carried columns. position: of the first. removed: those that are removed.
        """
        index = np.searchsorted(rows["row"].to_numpy(), removed["row"].to_numpy())
        documents, carried = rows.take(pa.array(index)), readable.take(pa.array(index))
        columns = {name: removed[name] for name in removed.column_names if name != "row"}
        columns |= {"id": documents["id"], "source": pa.repeat(source, len(index))}
        columns["position"] = pa.array(position + index)
        for name in ("language", "language_score"):
            nulls = pa.nulls(len(index), LEDGER_SCHEMA.field(name).type)
            columns[name] = documents[name] if name in documents.column_names else nulls
        return pa.table(columns | {ledger_name(name): carried[name] for name in self.reading.carried.names})

    def _write(
        self,
        measured: MeasuredUnit,
        results: UnitResults,
        scratch: Scratch,
        sampler: Sampler,
        tallies: list[pa.Table],
        counters: Counters,
    ) -> None:
        """Write the kept documents of a unit of input, and its ledger."""
        unit, attributes = measured.unit, results.attributes
        cutters = self._cutters(measured)
        decontamination = decontamination_of(self.settings.filters)
        removed_rows = results.removed["row"].to_numpy()
        first = 0
        for table in read_unit(unit, self.reading, self.settings.limits):
            readable, _ = split_problems(table)
            rows, position = attributes.slice(first, readable.num_rows), measured.first + first
            first += readable.num_rows
            if not readable["row"].combine_chunks().equals(rows["row"].combine_chunks()):
                raise DataError(
                    f"unit {unit.index} ({unit.spans[0].uri}): its rows differ from those measured. The input "
                    "changed during the run: restore it, or run again with --replace."
                )
            texts = normalize(Texts.from_arrow(readable["text"]))
            if decontamination:
                found = contaminated_rows(decontamination, self.reading.store, unit.source, texts, rows, position)
                scratch.write(CONTAMINATED, found)
            kept = np.flatnonzero(~np.isin(rows["row"].to_numpy(), removed_rows))
            written, gone = take_texts(texts, kept, self.settings.filters), list[pa.Table]()
            for cutter in cutters:
                documents = rows.take(kept).append_column("position", pa.array(position + kept))
                cut = cutter(unit.source, written, documents)
                scratch.write(cutter.name, cut.listed)
                sampler.add_cut(cutter.name, cut.shown)
                for name, number in cut.counters.items():
                    counters[name] = counters.get(name, 0) + number
                enough = stays(cut.is_cut, cut.words, cutter.min_words_left)
                gone.append(_too_short(documents["row"], cut.words, enough, cutter))
                tallies.append(_tally_removed(unit.source, documents.filter(pa.array(~enough)), cutter.name))
                written, kept = filter_texts(cut.texts, enough), kept[enough]
            removed = _joined([_of_rows(results.removed, rows), *gone])
            scratch.write(REMOVED, self._ledger(unit.source, rows, position, removed, readable))
            sampler.add(unit.source, texts, rows, removed, results.groups)
            corpus = self._corpus(unit, written, rows.take(kept), readable.take(kept), results.groups)
            scratch.write(CORPUS, corpus)
            characters = count_characters(Texts.from_arrow(corpus["text"]))
            tallies.append(_tally_kept(unit.source, rows.take(kept), characters))
            counters["documents"] += readable.num_rows
            counters["text_bytes"] += len(texts.data)
            counters["corpus_documents"] += len(kept)
            counters["corpus_characters"] += int(characters.sum())
        if first != attributes.num_rows:
            raise DataError(
                f"unit {unit.index} ({unit.spans[0].uri}): {plural(first, 'document')} now, {attributes.num_rows:,} "
                "when measured. The input changed during the run: restore it, or run again with --replace."
            )

    def _cutters(self, unit: MeasuredUnit) -> list[Cutter]:
        """The kinds of cuts in the documents of a unit, in the order in which they are made."""
        store, settings, found = self.reading.store, self.settings, list[Cutter]()
        if settings.boilerplate:
            shared = read_shared(store, unit.boilerplate)
            found.append(BoilerplateCutter(settings.boilerplate, settings.redact, shared))
        if settings.repeats:
            shared = read_shared(store, unit.repeats)
            found.append(RepeatsCutter(settings.repeats, settings.redact, shared))
        return found

    def _corpus(self, unit: Unit, texts: Texts, rows: pa.Table, carried: pa.Table, groups: pa.Table) -> pa.Table:
        """The kept documents as rows of the corpus. rows: their attributes."""
        if self.settings.redact:
            texts = personal_data.redact(texts, personal_data.find(texts, self.settings.redact))
        columns = {"id": rows["id"], "text": texts.to_arrow(), "source": pa.repeat(unit.source, len(texts))}
        columns |= {name: rows[name] for name in ("language", "language_score") if name in rows.column_names}
        columns |= {name: rows[name] for name in self.settings.corpus.columns}
        if self.settings.dedup:
            columns |= _group_columns(rows, groups)
        return pa.table(columns | {name: carried[name] for name in self.reading.carried.names})


def _group_columns(rows: pa.Table, groups: pa.Table) -> dict[str, object]:
    """The columns `duplicate_count` and `group_id`; 1 and the first 64 bits of the text hash without duplicates."""
    hashes = rows["text_hash"].combine_chunks()
    own = (
        np.frombuffer(hashes.buffers()[1], "<i8", 2 * len(rows), 16 * hashes.offset)[::2] if len(rows) else np.empty(0)
    )
    group_id = own.astype(np.int64)
    count = np.ones(len(rows), np.int64)
    grouped_rows = groups["row"].to_numpy()
    if len(grouped_rows) and len(rows):
        at = np.minimum(np.searchsorted(grouped_rows, rows["row"].to_numpy()), len(grouped_rows) - 1)
        grouped = grouped_rows[at] == rows["row"].to_numpy()
        group_id[grouped] = groups["group_id"].to_numpy()[at[grouped]]
        count[grouped] = groups["duplicate_count"].to_numpy()[at[grouped]]
    return {"duplicate_count": count, "group_id": group_id}


def _tally_kept(source: str, rows: pa.Table, characters: np.ndarray) -> pa.Table:
    """Counts of the kept documents. characters: int64[D], of the documents as they are written, after all cuts."""
    language = rows["language"] if "language" in rows.column_names else ""
    return add_tallies([tally("kept", source, language, "", np.ones(len(rows), np.int64), characters)])


def _tally_removed(source: str, documents: pa.Table, stage: str) -> pa.Table:
    """Counts of the documents that a kind of cut removed. documents: their attributes. stage: the kind."""
    language = documents["language"] if "language" in documents.column_names else ""
    ones = np.ones(len(documents), np.int64)
    return tally("removed", source, language, f"{stage}/{TOO_FEW_WORDS_LEFT}", ones, documents["characters"])


def _too_short(rows: pa.ChunkedArray, words: np.ndarray, enough: np.ndarray, cutter: Cutter) -> pa.Table:
    """The documents of which a cut left too little (REMOVED_SCHEMA).

    words: int64[D], words that are left. enough: bool[D], whether the document stays.
    """
    count = int((~enough).sum())
    columns = {
        "row": rows.filter(pa.array(~enough)),
        "stage": pa.repeat(cutter.name, count),
        "reason": pa.repeat(TOO_FEW_WORDS_LEFT, count),
        "value": words[~enough].astype(np.float64),
        "threshold": pa.repeat(float(cutter.min_words_left), count),
    }
    return _without_partner(pa.table(columns))


def _without_partner(verdicts: pa.Table) -> pa.Table:
    """Documents removed by rules or cuts, as REMOVED_SCHEMA. verdicts: a table of VERDICTS_SCHEMA."""
    columns = {name: verdicts[name] for name in verdicts.column_names}
    columns |= {name: pa.nulls(verdicts.num_rows, kind) for name, kind in _PARTNER_COLUMNS}
    return pa.table(columns, schema=REMOVED_SCHEMA)


def _joined(removed: list[pa.Table]) -> pa.Table:
    """All rows, sorted by row, in one chunk."""
    return pa.concat_tables(removed).sort_by("row").combine_chunks()


def _of_rows(removed: pa.Table, rows: pa.Table) -> pa.Table:
    """The removed documents among these neighbouring ones. Both are sorted by row."""
    if not rows.num_rows:
        return removed.slice(0, 0)
    ends = [rows["row"][0].as_py(), rows["row"][-1].as_py() + 1]
    first, end = np.searchsorted(removed["row"].to_numpy(), ends).tolist()
    return removed.slice(first, end - first)


def _duplicates(duplicates: pa.Table, threshold: float) -> pa.Table:
    """The documents removed as duplicates (REMOVED_SCHEMA). duplicates: their rows of the groups."""
    stages = pa.array(list(DEDUP_STAGES.values())).take(pc.index_in(duplicates["reason"], pa.array(list(DEDUP_STAGES))))
    columns = {
        "row": duplicates["row"],
        "stage": stages,
        "reason": duplicates["reason"],
        "value": duplicates["similarity"],
        "threshold": pa.repeat(threshold, duplicates.num_rows),
        **{name: duplicates[name] for name, _ in _PARTNER_COLUMNS},
    }
    return pa.table(columns).cast(REMOVED_SCHEMA)


def _concat(tables: Iterator[pa.Table], schema: pa.Schema) -> pa.Table:
    """All rows in one chunk; an empty table with `schema` if there are none."""
    return pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()
