"""`raymill explain RUN ID`: the outcome of one document and its measurements."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer

from raymill.cluster.answer import Text
from raymill.cluster.artifact import Artifact, DataFile, read_tables
from raymill.cluster.errors import DataError, UserError
from raymill.cluster.formats import plural
from raymill.cluster.frame.calls import AnyConfig, Changes, config_of
from raymill.cluster.frame.job import Run
from raymill.cluster.inspection import RunConfig, StorageOverrides, store_for
from raymill.cluster.readers.reader import python_rows
from raymill.cluster.store import paths
from raymill.cluster.wording import for_the_caller
from raymill.pipelines.curate.config import CUTS
from raymill.pipelines.curate.questions.run_reader import MeasuredDocument, RunReader
from raymill.pipelines.curate.stages.ids import row_at
from raymill.pipelines.curate.stages.kept_texts import cleaned
from raymill.pipelines.curate.stages.measure import PLACE, QUARANTINE
from raymill.pipelines.curate.stages.write_corpus import CONTAMINATED, CORPUS, REMOVED, ledger_name
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.word_diff import word_diff

_SHOWN_WORDS = 12  # around a difference


def print_explanation(
    run: Annotated[str, typer.Argument(help="folder or URI of a run")],
    id: Annotated[str, typer.Argument(help="the document's id")],
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """One document: the rule that removed it, or a word diff with the document it duplicates; then its measurements."""
    print(explain_document(run, id, config, override))


def explain_document(
    run: str | os.PathLike[str] | Run, id: str, config: AnyConfig = None, override: Changes = None
) -> Text:
    """One document: the rule that removed it, or a word diff with the document it duplicates; then its measurements.

    Args:
        run: folder or URI of a run of `curate`, or the run.
        id: the document's id, the value of a carried column such as a URL, or the path of a file with one document.
        config: the run's config, for its `storage` settings.
        override: changes of single settings, as in {"storage.endpoint_url": "http://HOST:PORT"}.

    Raises:
        DataError: the run has no such document.
    """
    settings = None if config is None else config_of(config, None, override, "curate")
    with store_for(run, settings, override if settings is None else None) as (store, uri):
        return Text(explain(RunReader(store, uri, settings.inputs if settings else ()), id))


def explain(run: RunReader, id: str) -> str:
    """A text about each document with this id: outcome, position, measurements.

    If no document has it, it may be the value of a carried column, such as a URL, or the path of a file with one
    document; or a URL in a CDX file beside the run's archives, of which the record need not be a document.

    Raises:
        DataError: the run has no such document.
    """
    documents = run.find(id)
    if not documents or "://" in id:  # a URL may be the id of some documents, and in a column of others
        found = {one.position: one for one in (*documents, *_by_carried_column(run, id))}
        documents = [found[position] for position in sorted(found)] or run.find_file(id)
    if documents:
        return "\n\n".join(_explained(run, document) for document in documents)
    if records := [*run.indexed(id)] if "://" in id else []:
        return "\n\n".join(
            f"record    {place}\nindex     {index}\noutcome   {outcome}" for place, index, outcome in records
        )
    table = next(run.attributes.tables(["id"]), None)
    examples = table["id"].slice(0, 3).to_pylist() if table is not None else ["(the run has no documents)"]
    columns, quarantine = ", ".join(run.inputs.carried.names), run.artifact(QUARANTINE)
    message = (
        f"{run.uri}: no document has id {id!r}{f', and none has it in {columns}' if columns else ''}. "
        f"Ids there look like: {', '.join(examples)}."
    )
    if not columns and not any(one.id for one in run.inputs.inputs):
        message += (
            " Or give the path of its file; with `columns: [url]` or `id: url` in an input, documents are found by URL."
        )
    if quarantine is not None and quarantine.manifest.rows:  # the id may belong to an unreadable document
        message += (
            f" {plural(quarantine.manifest.rows, 'document')} could not be read: the quarantine has their places, "
            f"but no ids. To see some, run `raymill sample {quarantine.uri}`."
        )
    raise DataError(message)


def _by_carried_column(run: RunReader, value: str) -> list[MeasuredDocument]:
    """The documents of which a carried column of strings has this value, from ledger and corpus."""
    ledger, corpus = run.artifact(REMOVED), run.artifact(CORPUS)
    if ledger is None or corpus is None or "position" not in ledger.schema.names:
        return []
    strings = [field.name for field in run.inputs.carried if pa.types.is_string(field.type)]
    in_ledger = [name for name in map(ledger_name, strings) if name in ledger.schema.names]
    if not strings or not in_ledger:
        return []
    removed, found = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for table in ledger.tables([*in_ledger, "position"]):
        positions = table["position"].to_numpy()
        removed.append(positions)
        found.append(positions[_rows_with(table, in_ledger, value)])
    # A kept document's row in the corpus is its position minus the number of removed documents before it.
    kept_before = np.concatenate(removed)
    kept_before = kept_before - np.arange(len(kept_before))
    first = 0
    for table in corpus.tables(strings):
        rows = first + _rows_with(table, strings, value)
        found.append(rows + np.searchsorted(kept_before, rows, side="right"))
        first += table.num_rows
    return [run.document_at(position) for position in np.sort(np.concatenate(found)).tolist()]


def _rows_with(table: pa.Table, columns: Sequence[str], value: str) -> np.ndarray:
    """The rows of which one of the columns has this value."""
    rows = np.zeros(table.num_rows, np.bool_)
    for name in columns:
        rows |= pc.fill_null(pc.equal(table[name], pa.scalar(value)), False).to_numpy()
    return np.flatnonzero(rows)


def _explained(run: RunReader, document: MeasuredDocument) -> str:
    id, config = document.attributes["id"], run.config
    lines = [f"document  {id}", *_outcome(run, id, document)]
    contaminated = run.artifact(CONTAMINATED)
    for table in contaminated.tables() if contaminated else ():
        for row in python_rows(table.filter(pc.equal(table["position"], document.position))):
            span = f"characters {row['start']:,} to {row['end']:,}"
            what = f"{row['fraction']:.0%} of {row['column']} of example {row['example']} of {row['set']}"
            lines.append(f"contains  {what}, at {span}")

    def text() -> Texts:
        assert config is not None
        return cleaned(Texts.from_strings([run.text_of(document)]), config.filters)

    for cut in CUTS:
        if listed := run.artifact(cut.name):
            setting = getattr(config, cut.name, None)
            lines += cut.explained(setting, listed, document.attributes["source"], document.position, text)
    try:
        place = run.place_of(document)
    except UserError as error:
        uris = run.unit_of(document).uris
        place = f"{plural(len(uris), 'file')} from {uris[0]}; {error}"
    lines += [f"position  unit {document.unit}, row {document.row} ({place})", "measured"]
    for name, value in document.attributes.items():
        if name not in ("row", "id", PLACE):
            lines.append(f"  {name:<32} {_number(value)}")
    return "\n".join(lines)


def _outcome(run: RunReader, id: str, document: MeasuredDocument) -> list[str]:
    ledger, corpus = run.artifact(REMOVED), run.artifact(CORPUS)
    if ledger is None or corpus is None:
        fix = for_the_caller("Run the same `raymill curate` again to finish it.")
        return [f"outcome   not decided yet: the run is unfinished. {fix}"]
    entry = _ledger_row(ledger, id, document)
    if entry is None:
        copies = _duplicate_count(ledger, corpus, id, document)
        note = f", standing for a group of {copies} duplicates" if copies and copies > 1 else ""
        return [f"outcome   kept{note}"]
    if entry["partner"] is None and entry["value"] is None:
        language = entry.get("language")
        detected = f" ({language}, score {_number(entry['language_score'])})" if language else ""
        return [f"outcome   removed by {entry['stage']}: {entry['reason']}{detected}"]
    if entry["partner"] is None:
        relation = "under the least" if (entry["value"] or 0) < (entry["threshold"] or 0) else "over the most"
        return [
            f"outcome   removed by {entry['stage']}: {entry['reason']}",
            f"          {_number(entry['value'])} is {relation} that may stay, {_number(entry['threshold'])}",
        ]
    place = ""
    if entry.get("partner_position") is not None:
        of_run = f" of {entry['partner_run']}" if entry.get("partner_run") else ""
        place = f" (source {entry['partner_source']}, position {entry['partner_position']}{of_run})"
    return [
        f"outcome   removed as {entry['reason']} of {entry['partner']}{place}",
        f"          similarity {entry['similarity']:.3f}, threshold {_number(entry['threshold'])}",
        *_difference(run, document, entry),
    ]


def _ledger_row(ledger: Artifact, id: str, document: MeasuredDocument) -> dict | None:
    """The document's row of the ledger, found by position, or by id and source in ledgers of earlier versions."""
    if "position" not in ledger.schema.names:
        return _row(ledger.tables(), id, document)
    row = _removed_before(ledger, document.position)
    entry = row_at(ledger, row, lambda _: True)[1] if row < ledger.manifest.rows else None
    return entry if entry and entry["position"] == document.position else None


def _removed_before(ledger: Artifact, position: int) -> int:
    """The number of removed documents before this position. Opens few files: the ledger is sorted by position."""
    files = [file for file in ledger.manifest.files if file.rows]
    at = bisect_right(files, position, key=lambda file: next(_positions(ledger, file))[0])
    if at == 0:
        return 0
    inside = sum(int(np.searchsorted(one, position)) for one in _positions(ledger, files[at - 1]))
    return sum(file.rows for file in files[: at - 1]) + inside


def _positions(ledger: Artifact, file: DataFile) -> Iterator[np.ndarray]:
    """The positions in a file of the ledger, int64[R], by row group."""
    tables = read_tables(ledger.store, [ledger.file_uri(file)], "position".__eq__)
    return (table["position"].to_numpy() for table in tables)


def _duplicate_count(ledger: Artifact, corpus: Artifact, id: str, document: MeasuredDocument) -> int | None:
    """The number of documents in a kept document's duplicate group; None in a run without deduplication.

    Documents of the corpus are in the order of their positions, so the document's row in it is its position minus the
    number of removed documents before it.
    """
    if "duplicate_count" not in corpus.schema.names:
        return None
    if "position" not in ledger.schema.names:
        kept = _row(corpus.tables(["id", "source", "duplicate_count"]), id, document) or {}
        return kept.get("duplicate_count")
    row = document.position - _removed_before(ledger, document.position)
    return row_at(corpus, row, "duplicate_count".__eq__)[1]["duplicate_count"]


def _row(tables: Iterable[pa.Table], id: str, document: MeasuredDocument) -> dict | None:
    """The first row with this id and the document's source."""
    for table in tables:
        same_source = pc.equal(table["source"], document.attributes["source"])
        found = table.filter(pc.and_(pc.equal(table["id"], pa.scalar(id)), same_source))
        if found.num_rows:
            return python_rows(found.slice(0, 1))[0]
    return None


def _difference(run: RunReader, document: MeasuredDocument, entry: dict) -> list[str]:
    """Lines with the differences to the kept partner, word by word."""
    position = entry.get("partner_position")
    if (earlier := entry.get("partner_run")) and paths.store_of(earlier) != paths.store_of(run.uri):
        return [f"difference from it: not shown, as {earlier} is on another store, which only the ledger names."]
    of_partner = RunReader(run.store, entry["partner_run"]) if entry.get("partner_run") else run
    partners = of_partner.find(entry["partner"])[:1] if position is None else [of_partner.document_at(position)]
    if not partners:
        return []
    try:
        kept = of_partner.text_of(partners[0])
    except UserError as error:
        if of_partner is run:
            raise
        return [f"difference from it: the text of the earlier run cannot be read: {error}"]
    removed = run.text_of(document)
    if kept == removed:
        return ["difference from it: none, the text is the same"]
    forms = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}", "skipped": " [... {} words ...] "}
    parts = word_diff(kept, removed, context=_SHOWN_WORDS)
    marked = "".join(forms[part.kind].format(part.text) for part in parts)
    return ["difference from it: [-only there-] {+only here+}", marked]


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
