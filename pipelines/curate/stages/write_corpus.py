"""The stage `select`: reads the texts, and writes the corpus and the ledger.

    texts of units, attributes, verdicts, groups  ->  corpus, removed (the ledger), contaminated (with the rule
                                                      `decontamination`), the artifacts of cuts (kept_texts.py),
                                                      samples and tallies for the report

The ledger has one row for each removed document. Earlier stages remove nothing. A unit of this stage is a list of
neighbouring units of input whose kept text fills about one file of the corpus. It reads their text and the rows of
attributes, verdicts and groups about them, a table of 8 MB of text at a time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.errors import DataError
from raymill.cluster.examples.copies import COPIES
from raymill.cluster.formats import plural
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.units import InputManifest, Reading
from raymill.cluster.stage import Output, RunStage, Scratch, Stage, files_from
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import AnyCut, CurateConfig
from raymill.pipelines.curate.stages.decide import VERDICTS_SCHEMA
from raymill.pipelines.curate.stages.kept_texts import (
    TOO_FEW_WORDS_LEFT,
    KeptTexts,
    MeasuredUnit,
    cleaned,
    filter_texts,
    groups_in,
)
from raymill.pipelines.curate.stages.measured_texts import TEXTS, measured_documents, texts_by_unit
from raymill.pipelines.curate.stages.page_tallies import most_frequent_hosts, page_tallies
from raymill.pipelines.curate.stages.samples import SAMPLES, SAMPLES_SCHEMA, Sampler, index_in
from raymill.pipelines.curate.stages.shared_keys import KeyStages, read_shared
from raymill.pipelines.curate.stages.tallies import TALLIES_SCHEMA, add_tallies, neighbours, tally
from raymill.pipelines.dedup.compare import EXACT, NEAR
from raymill.pipelines.dedup.cost import DEFAULT_SIZES, Sizes
from raymill.pipelines.dedup.group import files_of
from raymill.pipelines.memory import task_memory
from raymill.pipelines.rules.decontamination import MATCHES_SCHEMA, SIGNAL, Decontamination
from raymill.pipelines.rules.filters import Filters
from raymill.pipelines.text import personal_data
from raymill.pipelines.text.lines import count_characters
from raymill.pipelines.text.normalize import NORMALIZE_VERSION, normalize
from raymill.pipelines.text.texts import Texts

CORPUS = "corpus"
REMOVED = "removed"  # the ledger
CONTAMINATED = "contaminated"
KEPT = "_work/kept"
SELECT_VERSION = "6"

DEDUP_STAGES = {EXACT: "exact_duplicates", NEAR: "near_duplicates"}

# A file may grow to this multiple of corpus.file_mib, so that a unit does not write a second, small file.
_MAX_FILE_FACTOR = 1.5

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


# A row of the ledger before id, source, position and language are added. `row`: the document's number in the unit.
_REMOVED_SCHEMA = pa.schema([*VERDICTS_SCHEMA, *_PARTNER_COLUMNS])

# Every text of an evaluation set that a document contains, and where it begins and ends: of all documents above the
# bound `rules.decontamination.max_fraction`, also those that another rule removed or that stay. Positions in characters
# are those of the normalised text, before personal data is replaced.
CONTAMINATED_SCHEMA = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("position", pa.int64()), *list(MATCHES_SCHEMA)[1:]]
)


def ledger_name(carried: str) -> str:
    """The name of a carried column in the ledger: `input_` precedes one that the ledger has with another meaning."""
    return f"input_{carried}" if carried in LEDGER_SCHEMA.names else carried


def corpus_schema(config: CurateConfig, carried: pa.Schema) -> pa.Schema:
    """The columns of the corpus; the last are the carried columns of the inputs."""
    columns = [("id", pa.string()), ("text", pa.large_string()), ("source", pa.string())]
    if config.language:
        columns += [("language", pa.string()), ("language_score", pa.float32())]
    columns += [(name, pa.float64()) for name in config.corpus.columns if name != "language_score"]
    if config.dedup:
        columns += [("duplicate_count", pa.int64()), ("group_id", pa.int64())]
    if config.corpus.copies:
        columns.append((COPIES, pa.float64()))
    return pa.schema([*(pa.field(*column) for column in columns), *carried])


def select_stage(
    config: CurateConfig,
    filters: Filters,
    cuts: tuple[AnyCut, ...],
    inputs: InputManifest,
    attributes: Artifact,
    verdicts: Artifact,
    groups: Artifact | None,
    duplicates: Artifact | None,
    sizes: Sizes = DEFAULT_SIZES,
    texts: Artifact | None = None,
) -> Stage:
    """The stage that writes the documents that are kept.

    Reads: the stored texts of the units that have them, the files of the others once more, the attributes and verdicts
    of its units, and the groups of their positions.
    Writes: CORPUS and the ledger REMOVED; SAMPLES and KEPT for the report; CONTAMINATED and the artifacts of cuts, if
    set.
    Cost: 7 ms of a core for 1 MB of text; 1 GiB, with cuts the text of a corpus file besides (select_memory).

    filters, cuts: those of the config. groups, duplicates: the artifacts GROUPS and DUPLICATES; None without
    deduplication. sizes: those of `groups`. texts: the artifact TEXTS, if `measure` stored texts.
    """
    file_bytes = config.corpus.file_mib << 20
    removes_duplicates = config.dedup is not None and config.dedup.remove
    redacts = config.personal_data and [personal_data.PERSONAL_DATA_VERSION, *sorted(config.personal_data.redact)]
    ledger = pa.schema([*LEDGER_SCHEMA, *(field.with_name(ledger_name(field.name)) for field in inputs.carried)])
    outputs = (
        Output(CORPUS, corpus_schema(config, inputs.carried), file_bytes=int(file_bytes * _MAX_FILE_FACTOR)),
        Output(REMOVED, ledger),
        Output(SAMPLES, SAMPLES_SCHEMA),
        Output(KEPT, TALLIES_SCHEMA),
        *((Output(CONTAMINATED, CONTAMINATED_SCHEMA),) if filters.decontamination else ()),
        *(Output(cut.name, cut.columns) for cut in cuts),
    )
    made_from = fingerprint(
        {
            "version": [SELECT_VERSION, NORMALIZE_VERSION],
            "attributes": attributes.manifest.fingerprint,
            "verdicts": verdicts.manifest.fingerprint,
            "groups": groups and groups.manifest.fingerprint,
            "remove": config.dedup and config.dedup.remove,
            "personal_data": redacts,
            "corpus": config.corpus.model_dump(),
            "samples": config.report.samples,
            "lines": [rule.name for rule in filters.rules if getattr(rule, "remove_lines", False)],
        }
        | {cut.name: [cut.version, cut.model_dump()] for cut in cuts}
    )
    count = len(inputs.units)
    documents = np.array(attributes.rows_by_unit(count), np.int64)
    firsts = (np.cumsum(documents) - documents).tolist()
    spans = list(zip(firsts, documents.tolist(), strict=True))
    of_groups = files_of(groups, spans, sizes) if groups else [[] for _ in spans]
    files = attributes.files_by_unit(count), verdicts.files_by_unit(count), of_groups, texts_by_unit(texts, inputs)
    measured = [MeasuredUnit(*part) for part in zip(inputs.units, firsts, *files, strict=True)]
    kept_bytes = _kept_bytes(verdicts, duplicates if removes_duplicates else None, inputs)
    store = attributes.store

    def prepare(run: RunStage) -> list[list[MeasuredUnit]]:
        stages = KeyStages(run, store, measured, made_from, sizes.fan)
        kept = KeptTexts(inputs.reading, config.limits, filters, removes_duplicates)
        for cut in cuts:
            found = cut.find(stages, kept, sum(kept_bytes))
            units = [replace(one, shared={**one.shared, cut.name: found.slice(one.unit.index)}) for one in stages.units]
            stages, kept = replace(stages, units=units), replace(kept, cuts=(*kept.cuts, cut))
        return list(neighbours(stages.units, kept_bytes, file_bytes))

    stage = Stage(
        "select",
        outputs,
        list(neighbours(measured, kept_bytes, file_bytes)),
        Select(config, filters, cuts, inputs.reading, attributes.schema),
        made_from,
        store,
        _files,
        memory=select_memory(config.limits, file_bytes, cuts=bool(cuts)),
        per_input=True,
    )
    return replace(stage, units=(), prepare=prepare) if cuts else stage


def select_memory(limits: Limits, file_bytes: int, *, cuts: bool) -> int:
    """Bytes of a unit of `select`. file_bytes: text of a corpus file. cuts: whether the unit cuts text."""
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

    config: CurateConfig
    filters: Filters
    cuts: tuple[AnyCut, ...]
    reading: Reading
    attributes: pa.Schema

    def __call__(self, units: list[MeasuredUnit], scratch: Scratch) -> Counters:
        """Counters: `documents` and `text_bytes` read, `corpus_documents` and `corpus_characters` written; of each cut
        those of its settings' `counters`, with its name before them.
        """
        counters: Counters = {"documents": 0, "text_bytes": 0, "corpus_documents": 0, "corpus_characters": 0}
        sampler, tallies = Sampler(self.config.report.samples), list[pa.Table]()
        groups = groups_in(self.reading.store, units)
        for one in units:
            of_unit = groups.filter(pc.equal(groups["unit"], one.unit.index))
            self._write(one, of_unit, scratch, sampler, tallies, counters)
        scratch.write(SAMPLES, sampler.table())
        scratch.write(KEPT, most_frequent_hosts(add_tallies(tallies)))
        return counters

    def _write(
        self,
        measured: MeasuredUnit,
        groups: pa.Table,
        scratch: Scratch,
        sampler: Sampler,
        tallies: list[pa.Table],
        counters: Counters,
    ) -> None:
        """Write the kept documents of a unit of input, and its ledger. groups: rows of the unit (GROUPS_SCHEMA)."""
        config, unit, store = self.config, measured.unit, self.reading.store
        redact = config.personal_data.redact if config.personal_data else ()
        decontamination = self.filters.decontamination
        shared = [read_shared(store, measured.shared.get(cut.name)) for cut in self.cuts]
        copies = config.corpus.copies
        read = {"row", "id", "text_hash", "characters", "language", "language_score", SIGNAL, *config.corpus.columns}
        read |= {copies.by} if copies and copies.table else set()
        schema = pa.schema([column for column in self.attributes if column.name in read])
        attributes = _concat(read_tables(store, measured.attributes, read.__contains__), schema)
        verdicts = _without_partner(_concat(read_tables(store, measured.verdicts), VERDICTS_SCHEMA))
        removed_in_unit = _sorted([verdicts, _duplicates(config, groups)])
        removed_rows = removed_in_unit["row"].to_numpy()
        first = 0
        for readable in measured_documents(unit, measured.texts, self.reading, config.limits):
            rows, position = attributes.slice(first, readable.num_rows), measured.first + first
            first += readable.num_rows
            if not readable["row"].combine_chunks().equals(rows["row"].combine_chunks()):
                raise _changed(measured, "its rows differ from those measured")
            texts = normalize(Texts.from_arrow(readable["text"]))
            if not np.array_equal(count_characters(texts), rows["characters"].to_numpy()):
                raise _changed(measured, "its texts differ from those measured")
            if decontamination:
                found = contaminated_rows(decontamination, store, unit.source, texts, rows, position)
                scratch.write(CONTAMINATED, found)
            kept = np.flatnonzero(~np.isin(rows["row"].to_numpy(), removed_rows))
            written = cleaned(Texts.from_arrow(texts.to_arrow().take(pa.array(kept))), self.filters)
            gone = [_among(removed_in_unit, rows)]
            for cut, keys in zip(self.cuts, shared, strict=True):
                documents = rows.take(kept).append_column("position", pa.array(position + kept))
                left = cut.cut_out(unit.source, written, position + kept, keys)
                listed, shown, counted = cut.listed(left, unit.source, written, documents, keys, redact)
                scratch.write(cut.name, listed)
                sampler.add_cut(cut.name, shown)
                for name, number in counted.items():
                    counters[f"{cut.name}_{name}"] = counters.get(f"{cut.name}_{name}", 0) + number
                enough = left.stays(cut.min_words_left)
                short, count = documents.filter(pa.array(~enough)), int((~enough).sum())
                columns = {
                    "row": short["row"],
                    "stage": pa.repeat(cut.name, count),
                    "reason": pa.repeat(TOO_FEW_WORDS_LEFT, count),
                    "value": left.words[~enough].astype(np.float64),
                    "threshold": pa.repeat(float(cut.min_words_left), count),
                }
                gone.append(_without_partner(pa.table(columns)))
                reason = f"{cut.name}/{TOO_FEW_WORDS_LEFT}"
                tallies.append(_tally("removed", unit.source, short, reason, short["characters"]))
                written, kept = filter_texts(left.texts, enough), kept[enough]
            stays = np.zeros(len(rows), bool)
            stays[kept] = True
            carried = readable.select(self.reading.carried.names)
            tallies += page_tallies(unit.source, carried, rows["characters"].to_numpy(), stays)
            removed = _sorted(gone)
            scratch.write(REMOVED, self._ledger(unit.source, rows, position, removed, readable))
            sampler.add(unit.source, texts, rows, removed, groups)
            if redact:
                written = personal_data.redact(written, personal_data.find(written, redact))
            rows = rows.take(kept)
            corpus = self._corpus(unit.source, written, rows, readable.take(kept), groups)
            scratch.write(CORPUS, corpus)
            characters = count_characters(written)
            if copies:
                names = pa.array([repr(one) for one in corpus[COPIES].to_pylist()])
                tallies.append(_tally("copies", unit.source, rows, names, characters))
            tallies.append(add_tallies([_tally("kept", unit.source, rows, "", characters)]))
            counters["documents"] += readable.num_rows
            counters["text_bytes"] += len(texts.data)
            counters["corpus_documents"] += len(kept)
            counters["corpus_characters"] += int(characters.sum())
        if first != attributes.num_rows:
            raise _changed(measured, f"{plural(first, 'document')} now, {attributes.num_rows:,} when measured")

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

    def _corpus(self, source: str, texts: Texts, rows: pa.Table, carried: pa.Table, groups: pa.Table) -> pa.Table:
        """The kept documents as rows of the corpus. rows: their attributes."""
        columns = {"id": rows["id"], "text": texts.to_arrow(), "source": pa.repeat(source, len(texts))}
        columns |= {name: rows[name] for name in ("language", "language_score") if name in rows.column_names}
        columns |= {name: rows[name] for name in self.config.corpus.columns}
        if self.config.dedup:
            columns |= _group_columns(rows, groups)
        if (copies := self.config.corpus.copies) is not None:
            measured = columns if copies.by in columns else rows
            values = np.asarray(measured[copies.by]) if copies.table else np.full(len(texts), np.nan)
            columns[COPIES] = copies.of(source, values)
        return pa.table(columns | {name: carried[name] for name in self.reading.carried.names})


def _changed(measured: MeasuredUnit, what: str) -> DataError:
    where = "The input" if measured.texts is None else f"The input or {TEXTS}"
    return DataError(
        f"unit {measured.unit.index} ({measured.unit.spans[0].uri}): {what}. {where} changed during the run: restore "
        "it, or run again with --replace."
    )


def contaminated_rows(
    rule: Decontamination, store: Store, source: str, texts: Texts, attributes: pa.Table, first: int
) -> pa.Table:
    """Rows of CONTAMINATED_SCHEMA of D documents.

    texts: normalised. attributes: D rows, with the columns `id` and SIGNAL. first: position of the first document.
    """
    found = np.flatnonzero(attributes[SIGNAL].to_numpy() > rule.max_fraction)
    if not len(found):
        return CONTAMINATED_SCHEMA.empty_table()
    matches = rule.matches(Texts.from_arrow(texts.to_arrow().take(pa.array(found))), store)
    rows = found[matches["document"].to_numpy()]
    columns = {name: matches[name] for name in matches.column_names} | {
        "id": attributes["id"].take(pa.array(rows)),
        "source": pa.repeat(source, len(rows)),
        "position": first + rows,
    }
    return pa.table(columns).select(CONTAMINATED_SCHEMA.names).cast(CONTAMINATED_SCHEMA)


def _group_columns(rows: pa.Table, groups: pa.Table) -> dict[str, object]:
    """The columns `duplicate_count` and `group_id`; 1 and the first 64 bits of the text hash without duplicates."""
    hashes = rows["text_hash"].combine_chunks()
    own = (
        np.frombuffer(hashes.buffers()[1], "<i8", 2 * len(rows), 16 * hashes.offset)[::2] if len(rows) else np.empty(0)
    )
    group_id = own.astype(np.int64)
    count = np.ones(len(rows), np.int64)
    if any(groups[name].null_count for name in ("row", "group_id", "duplicate_count")):
        raise ValueError("groups: a document without its group or the number of its documents")
    at = index_in(groups["row"].to_numpy(), rows["row"].to_numpy())
    grouped = at >= 0
    group_id[grouped] = groups["group_id"].to_numpy()[at[grouped]]
    count[grouped] = groups["duplicate_count"].to_numpy()[at[grouped]]
    return {"duplicate_count": count, "group_id": group_id}


def _tally(table: str, source: str, documents: pa.Table, reason: object, characters: object) -> pa.Table:
    """Counts of documents, of which the attributes are given. reason: of all, or string[D]. characters: int64[D]."""
    language = documents["language"] if "language" in documents.column_names else ""
    return tally(table, source, language, reason, np.ones(len(documents), np.int64), characters)


def _without_partner(verdicts: pa.Table) -> pa.Table:
    """Documents removed by rules or cuts (_REMOVED_SCHEMA). verdicts: a table of VERDICTS_SCHEMA."""
    columns = {name: verdicts[name] for name in verdicts.column_names}
    columns |= {name: pa.nulls(verdicts.num_rows, kind) for name, kind in _PARTNER_COLUMNS}
    return pa.table(columns, schema=_REMOVED_SCHEMA)


def _duplicates(config: CurateConfig, groups: pa.Table) -> pa.Table:
    """The documents removed as duplicates (_REMOVED_SCHEMA). groups: rows of a unit."""
    if config.dedup is None or not config.dedup.remove:
        return _REMOVED_SCHEMA.empty_table()
    duplicates = groups.filter(pc.is_valid(groups["reason"]))
    stages = pa.array(list(DEDUP_STAGES.values())).take(pc.index_in(duplicates["reason"], pa.array(list(DEDUP_STAGES))))
    columns = {
        "row": duplicates["row"],
        "stage": stages,
        "reason": duplicates["reason"],
        "value": duplicates["similarity"],
        "threshold": pa.repeat(config.dedup.threshold, duplicates.num_rows),
        **{name: duplicates[name] for name, _ in _PARTNER_COLUMNS},
    }
    return pa.table(columns).cast(_REMOVED_SCHEMA)


def _sorted(removed: list[pa.Table]) -> pa.Table:
    """All rows, sorted by row, in one chunk."""
    return pa.concat_tables(removed).sort_by("row").combine_chunks()


def _among(removed: pa.Table, rows: pa.Table) -> pa.Table:
    """The removed documents among these neighbouring ones. Both are sorted by row."""
    if not rows.num_rows:
        return removed.slice(0, 0)
    ends = [rows["row"][0].as_py(), rows["row"][-1].as_py() + 1]
    first, end = np.searchsorted(removed["row"].to_numpy(), ends).tolist()
    return removed.slice(first, end - first)


def _concat(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """All rows in one chunk; an empty table with `schema` if there are none."""
    return pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()
