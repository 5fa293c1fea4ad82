"""`raymill explain RUN ID`: what was measured on one document, and what became of it."""

import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact
from cluster.errors import DataError, UserError
from cluster.page.formats import plural
from pipelines.curate.report.word_diff import Piece, word_diff
from pipelines.curate.run_reader import FinishedRun, Place
from pipelines.curate.write_corpus import CORPUS, REMOVED

_SHOWN_WORDS = 12  # around a difference


def explain(run: FinishedRun, id: str) -> str:
    """A page of plain text.

    Raises:
        DataError: the run has no document of that id.
    """
    places = run.find(id)
    if not places:
        near = _some_ids(run)
        raise DataError(f"{run.uri}: no document has id {id!r}. Ids there look like: {', '.join(near)}.")
    return "\n\n".join(_one(run, id, place) for place in places)


def _one(run: FinishedRun, id: str, place: Place) -> str:
    lines = [f"document  {id}", *_fate(run, id, place)]
    lines += [f"position  unit {place.unit}, row {place.row} ({_file(run, place)})", "measured"]
    for name, value in place.attributes.items():
        if name not in ("row", "id"):
            lines.append(f"  {name:<32} {_number(value)}")
    return "\n".join(lines)


def _file(run: FinishedRun, place: Place) -> str:
    try:
        return run.file_of(place)
    except UserError as error:
        uris = run.inputs.units[place.unit].uris
        return f"{plural(len(uris), 'file')} from {uris[0]}; {error}"


def _fate(run: FinishedRun, id: str, place: Place) -> list[str]:
    ledger, corpus = run.artifact(REMOVED), run.artifact(CORPUS)
    if ledger is None or corpus is None:
        return ["outcome   not decided yet: the run is unfinished. Run the same `raymill curate` again to finish it."]
    entry = _entry(ledger, id, place)
    if entry is None:
        kept = _row(corpus.tables([n for n, _ in corpus.manifest.schema if n != "text"]), id, place) or {}
        copies = kept.get("duplicate_count")
        note = f", standing for a group of {copies} duplicates" if copies and copies > 1 else ""
        return [f"outcome   kept{note}"]
    if entry["partner"] is None and entry["value"] is None:
        return [f"outcome   removed by {entry['stage']}: {entry['reason']}{_detected(entry)}"]
    if entry["partner"] is None:
        relation = "under the least" if (entry["value"] or 0) < (entry["threshold"] or 0) else "over the most"
        return [
            f"outcome   removed by {entry['stage']}: {entry['reason']}",
            f"          {_number(entry['value'])} is {relation} that may stay, {_number(entry['threshold'])}",
        ]
    return [
        f"outcome   removed as {entry['reason']} of {entry['partner']}{_partner_place(entry)}",
        f"          similarity {entry['similarity']:.3f}, threshold {_number(entry['threshold'])}",
        *_difference(run, place, entry),
    ]


def _entry(ledger: Artifact, id: str, place: Place) -> dict | None:
    """The document's row of the ledger; that of an earlier version has no positions."""
    if "position" not in ledger.schema.names:
        return _row(ledger.tables(), id, place)
    for table in ledger.tables():
        found = table.filter(pc.equal(table["position"], place.position))
        if found.num_rows:
            return found.to_pylist()[0]
    return None


def _detected(entry: dict) -> str:
    language = entry.get("language")
    return f" ({language}, score {_number(entry['language_score'])})" if language else ""


def _partner_place(entry: dict) -> str:
    if entry.get("partner_position") is None:
        return ""
    return f" (source {entry['partner_source']}, position {entry['partner_position']})"


def _row(tables, id: str, place: Place) -> dict | None:
    for table in tables:
        match = pc.and_(pc.equal(table["id"], pa.scalar(id)), pc.equal(table["source"], place.attributes["source"]))
        found = table.filter(match)
        if found.num_rows:
            return found.slice(0, 1).to_pylist()[0]
    return None


def _difference(run: FinishedRun, place: Place, entry: dict) -> list[str]:
    position = entry.get("partner_position")
    others = run.find(entry["partner"])[:1] if position is None else [run.at(position)]
    if not others:
        return []
    kept, removed = run.text(others[0]), run.text(place)
    if kept == removed:
        return ["difference from it: none, the text is the same"]
    pieces = word_diff(kept, removed, context=_SHOWN_WORDS)
    return ["difference from it: [-only there-] {+only here+}", "".join(map(_mark, pieces))]


def _mark(piece: Piece) -> str:
    forms = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}", "skipped": " [... {} words ...] "}
    return forms[piece.kind].format(piece.text)


def _some_ids(run: FinishedRun) -> list[str]:
    table = next(run.attributes.tables(["id"]), None)
    return table["id"].slice(0, 3).to_pylist() if table is not None else ["(the run has no documents)"]


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
