"""Problems at the beginning of the input files, which a dry run shows."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from posixpath import basename

import pyarrow.compute as pc

from raymill.cluster.formats import plural
from raymill.cluster.readers.formats import READERS, file_problem
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.reader import PROBLEMS, ReaderCounts
from raymill.cluster.readers.streams import Span
from raymill.cluster.readers.units import InputManifest

_THREADS = 16
_FILES_LOOKED_AT = 100  # per source


@dataclass
class FirstLook:
    """The result of `first_look`. notes: sentences on problems. rows, unreadable: number of rows read, of bad ones."""

    notes: list[str] = field(default_factory=list)
    rows: int = 0
    unreadable: int = 0


def first_look(inputs: InputManifest, limits: Limits) -> FirstLook:
    """Find problems at the beginning of some files of each source.

    Reads the first block of at most 100 files of each source, and the first table (at most 8 MB of text) of the first
    file of each format with columns.
    """
    look = FirstLook()
    with ThreadPoolExecutor(_THREADS) as pool:
        for source in dict.fromkeys(unit.source for unit in inputs.units):
            store = inputs.reading.store_of(source)
            # The first span of each file: later entries overwrite, so reversed keeps the first.
            spans = {span.uri: span for unit in reversed(inputs.units) if unit.source == source
                     for span in reversed(unit.spans)}  # fmt: skip
            first = [spans[uri] for uri in sorted(spans)[:_FILES_LOOKED_AT]]
            is_stated = inputs.reading.input_of(source).encoding is not None
            problem_of = partial(file_problem, store, limits=limits)
            problems: list[str | None] = [None] * len(first) if is_stated else list(pool.map(problem_of, first))
            look.notes += [f"Source {source}: {note}" for note in _file_notes(first, problems)]
            good = [span for span, problem in zip(first, problems, strict=True) if problem is None]
            by_format = {span.format: span for span in reversed(good) if READERS[span.format].columns != "fixed"}
            row_notes = (_row_note(span, inputs, source, limits, look) for span in by_format.values())
            look.notes += [f"Source {source}: {note}" for note in row_notes if note]
    return look


def _file_notes(spans: list[Span], problems: list[str | None]) -> list[str]:
    """One sentence for each problem of whole files, with the first file and the number of others."""
    found: dict[str, list[str]] = {}
    for span, problem in zip(spans, problems, strict=True):
        if problem is not None:
            found.setdefault(problem, []).append(basename(span.uri))
    return [
        f"{names[0]}: {PROBLEMS[problem]}"
        + (f" (and {plural(len(names) - 1, 'more file')})" if len(names) > 1 else "")
        + "."
        for problem, names in found.items()
    ]


def _row_note(span: Span, inputs: InputManifest, source: str, limits: Limits, look: FirstLook) -> str | None:
    """A sentence on the rows of the first table of the reader, None if they have no problem. Counts them in `look`."""
    store, input, counts = inputs.reading.store_of(source), inputs.reading.input_of(source), ReaderCounts()
    table = next(READERS[span.format].read(store, span, input, limits, counts), None)
    if table is None:
        return None
    look.rows += table.num_rows
    look.unreadable += table.num_rows - table["problem"].null_count
    good = table.filter(pc.is_null(table["problem"]))
    empty = pc.sum(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(good["text"])), 0)).as_py() or 0
    found = [
        (good["id"].null_count if input.id else 0, "has no id and is named", "have no id and are named",
         " by the hash of the text"),
        (empty, "has", "have", " an empty text"),
        (counts.repeated_keys, "gives", "give", " a key twice (the last value is used)"),
    ]  # fmt: skip
    parts = [f"{count:,} {one if count == 1 else many}{what}" for count, one, many, what in found if count]
    for problem, count in Counter(table["problem"].drop_null().to_pylist()).most_common():
        parts.append(f"{count:,} cannot be read: {problem} ({PROBLEMS[problem]})")
    if not parts:
        return None
    return f"of the first {plural(table.num_rows, 'row')} of {basename(span.uri)}, {'; '.join(parts)}."
