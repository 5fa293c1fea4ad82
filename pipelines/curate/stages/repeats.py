"""Repeats: runs of at least `min_words` words that several kept documents have, found exactly.

    anchors         per unit of input: the anchors (text/windows.py) of all windows     -> _work/repeats/anchors
    shared_anchors  per slice of the keys: those that several documents have, by unit   -> _work/repeats/shared_anchors
    windows         per unit: keys of the windows with such an anchor                   -> _work/repeats/windows
    shared_windows  per slice: those that several documents have, by unit               -> _work/repeats/shared
    select          joins these windows to runs; lists them, and cuts them if asked     -> repeats

A window is `min_words` words in a row. The first four stages prepare `select`. Two documents that share a window also
share its anchor, so no shared window is missed. Of a window with a shared anchor the hash of all words is compared, so
each window that is found is really shared. The runs are therefore those that a suffix array finds (Lee et al. 2022),
except that different windows may have the same 96-bit hash.

The text is read two more times. Anchors take 1.4 bytes for each word of English with windows of 50 words, and windows
20 bytes for each word of a run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from raymill.cluster.artifact import Artifact, Counters
from raymill.cluster.exchange import SlicedFiles
from raymill.cluster.formats import count, plural
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.reader import python_rows
from raymill.cluster.stage import Scratch
from raymill.pipelines.curate.stages.kept_texts import CutTexts, KeptTexts, MeasuredUnit
from raymill.pipelines.curate.stages.shared_keys import (
    COUNTED,
    KeyCounter,
    KeyStages,
    find_shared,
    read_shared,
    slices_for,
)
from raymill.pipelines.memory import task_memory
from raymill.pipelines.text import personal_data
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.tokens import count_tokens
from raymill.pipelines.text.windows import Tokens, find_anchors, hash_windows, locate_tokens, without_spans

_ANCHORS, _SHARED_ANCHORS = "_work/repeats/anchors", "_work/repeats/shared_anchors"
_WINDOWS, _SHARED = "_work/repeats/windows", "_work/repeats/shared"
_TEXT_OF_AN_ANCHOR = 40  # estimated bytes of text for each different anchor of a unit; with fewer, slices are larger
_MOST_CHARACTERS = 1000
# Of a plan: words of a byte of text, and the share of the words in runs that several documents have.
_WORDS, _REPEATED = 0.15, 0.1


class Repeats(BaseModel):
    """Runs of words that several documents have: listed and, with `cut`, cut out of all of them but the first.

    Source of the default of min_words: Lee et al. 2022, "Deduplicating training data makes language models better",
    https://arxiv.org/abs/2107.06499: 50 tokens of a tokenizer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_words: int = Field(
        50,
        ge=10,
        le=10_000,
        description="Minimum number of equal words in a row that count as a repeat when several documents have them",
    )
    cut: bool = Field(
        False,
        description="Whether repeats are cut out of all documents but the first that has them; false: they are only "
        "listed",
    )
    min_words_left: int = Field(
        50,
        ge=0,
        description="Minimum number of words of a document after a cut; documents that were cut to fewer words are "
        "removed",
    )

    name: ClassVar[str] = "repeats"
    version: ClassVar[str] = "1"
    # Its part of report.json. later_runs, later_words: runs, and words in them, that an earlier document has; they are
    # cut if `cut` is set.
    report: ClassVar = {"min_words": int, "cut": bool}
    counters: ClassVar = ("runs", "documents", "later_runs", "later_words")
    counted: ClassVar[str] = _ANCHORS
    assumed: ClassVar[str] = f"{_REPEATED:.0%} of the words that stay are in runs that several documents have."

    # A run in a document: overlapping and adjacent windows. Windows that no earlier document has are not joined with
    # those that an earlier one has.
    columns: ClassVar[pa.Schema] = pa.schema(
        [
            ("id", pa.string()),
            ("source", pa.string()),
            ("position", pa.int64()),
            ("start", pa.int64()),  # in characters of the text before runs are cut and personal data is replaced
            ("end", pa.int64()),
            ("words", pa.int64()),
            ("documents", pa.int64()),  # number of documents that have the run's most frequent window
            ("first_position", pa.int64()),  # of the first document that has the run's first window; may be this one
            ("cut", pa.bool_()),
            ("text", pa.string()),  # at most 1,000 characters, with personal data replaced
        ]
    )

    def about(self) -> tuple[str, str]:
        """(word, line) of what the setting does, for a dry run."""
        what = "listed, and cut out of all documents but the first" if self.cut else "listed"
        return "repeats", f"of {self.min_words} words and more are {what}"

    def memory(self, limits: Limits, unit_bytes: int) -> int:
        """Bytes of a unit that counts windows of its text. unit_bytes: text of the largest unit."""
        return task_memory(limits) + 4 * unit_bytes  # the different windows, with 40% of the words in repeats

    def find(self, stages: KeyStages, kept: KeptTexts, text: float) -> SlicedFiles:
        """Run the stages that prepare `select`. Returns the shared windows of each unit of input.

        text: estimated bytes of the documents that stay.
        """
        length = self.min_words
        most = self.memory(kept.limits, max(one.unit.bytes for one in stages.units))
        slices = slices_for(text / _TEXT_OF_AN_ANCHOR)
        counted = stages.count("anchors", _ANCHORS, CountWindows(length, kept, slices, _ANCHORS), most)
        shared, keys = stages.share("shared_anchors", counted, _SHARED_ANCHORS, slices, 1)
        slices = slices_for(keys * (length - length // 2 + 1) / 2)  # the factor: windows of an anchor, on average
        least = text * _WORDS * _REPEATED * COUNTED.itemsize
        counted = stages.count("windows", _WINDOWS, CountWindows(length, kept, slices, _WINDOWS, shared), most, least)
        return stages.share("shared_windows", counted, _SHARED, slices, 1)[0]

    def cut_out(self, source: str, texts: Texts, positions: np.ndarray, shared: np.ndarray) -> CutTexts:
        """As `Cut.cut_out`. `found`: the tokens, the R runs, and bool[R], whether each is cut."""
        tokens = locate_tokens(texts)
        runs = find_runs(tokens, self.min_words, positions, shared)
        is_cut = ~runs.is_first & self.cut
        left, words, lost = texts, np.diff(tokens.starts), np.zeros(len(texts), bool)
        if is_cut.any():
            left = without_spans(texts, tokens, runs.firsts[is_cut], runs.lasts[is_cut])
            words = count_tokens(left)
            lost[runs.document[is_cut]] = True
        return CutTexts(left, lost, words, (tokens, runs, is_cut))

    def listed(
        self, cut: CutTexts, source: str, texts: Texts, documents: pa.Table, shared: np.ndarray, redact: Sequence[str]
    ) -> tuple[pa.Table, pa.Table, Counters]:
        """(rows of the artifact; those that the report may show; counters).

        texts: before the cut. documents: `id` and `position` of each. redact: kinds of personal data to replace.
        """
        tokens, runs, is_cut = cut.found
        words, later = runs.lasts - runs.firsts + 1, ~runs.is_first
        counters: Counters = {
            "runs": len(runs.firsts),
            "documents": len(np.unique(runs.document)),
            "later_runs": int(later.sum()),
            "later_words": int(words[later].sum()),
        }
        begins, ends = tokens.begins[runs.firsts], tokens.ends[runs.lasts]
        # Characters before each byte.
        before = np.concatenate([[0], np.cumsum((texts.data & 0xC0) != 0x80)]) if len(begins) else np.zeros(1, np.int64)
        spans = zip(begins.tolist(), ends.tolist(), strict=True)
        shown = Texts.from_strings([texts.data[b:e].tobytes().decode()[:_MOST_CHARACTERS] for b, e in spans])
        if redact:
            shown = personal_data.redact(shown, personal_data.find(shown, tuple(redact)))
        of, start = pa.array(runs.document), texts.offsets[runs.document]
        columns = {
            "id": documents["id"].take(of),
            "source": pa.repeat(source, len(of)),
            "position": documents["position"].take(of),
            "start": before[begins] - before[start],
            "end": before[ends] - before[start],
            "words": words,
            "documents": runs.documents,
            "first_position": runs.first_position,
            "cut": is_cut,
            "text": shown.to_arrow(),
        }
        rows = pa.table(columns).cast(self.columns)
        return rows, rows.filter(pa.array(runs.is_first)), counters

    def facts(self, rows: int) -> dict[str, Any]:
        """What report.json says of it, besides counters and texts. rows: of the artifact."""
        return {"min_words": self.min_words, "cut": self.cut}

    @staticmethod
    def sentence(found: dict[str, Any]) -> str:
        """What the report says of it. found: its part of report.json."""
        return (
            f"{plural(found['documents'], 'document')} have {count(found['runs'])} runs of at least "
            f"{found['min_words']} words that another one has, too. An earlier document has "
            f"{count(found['later_runs'])} of them, {count(found['later_words'])} words, which "
            f"{'were cut' if found['cut'] else 'stay'}. The folder repeats has each run."
        )

    @staticmethod
    def explained(
        settings: "Repeats | None", listed: Artifact, source: str, position: int, text: Callable[[], Texts]
    ) -> list[str]:
        """A line for each run of words of a document that other documents have, too. listed: the artifact."""
        lines = []
        for table in listed.tables():
            for row in python_rows(table.filter(pc.equal(table["position"], position))):
                span = f"characters {row['start']:,} to {row['end']:,}, in {row['documents']:,} documents"
                is_first = row["first_position"] == position
                first = "this is the first" if is_first else f"the first is at position {row['first_position']}"
                lines.append(f"repeats   {row['words']:,} words, {span}; {first}{'; cut' if row['cut'] else ''}")
        return lines


@dataclass(frozen=True)
class Runs:
    """R runs of D documents, in order.

    document, firsts, lasts: int64[R], the document of each run, its first and its last token. documents,
    first_position: int64[R], as in the artifact. is_first: bool[R], whether no earlier document has the run.
    """

    document: np.ndarray
    firsts: np.ndarray
    lasts: np.ndarray
    documents: np.ndarray
    first_position: np.ndarray
    is_first: np.ndarray


def find_runs(tokens: Tokens, length: int, positions: np.ndarray, shared: np.ndarray) -> Runs:
    """The runs of shared windows. length: words of a window. positions: int64[D]. shared: from `read_shared`."""
    windows = np.arange(len(tokens.hashes))
    of = np.repeat(np.arange(len(positions)), np.diff(tokens.starts))
    windows = windows[windows + length <= tokens.starts[of + 1]]
    keys, checks = hash_windows(tokens, length)
    found = find_shared(shared, keys[windows], checks[windows])
    windows, rows = windows[found >= 0], shared[found[found >= 0]]
    is_first = rows["first"] == positions[of[windows]]
    parts = [_joined(windows[here], rows[here], of, length) for here in (is_first, ~is_first)]
    firsts = np.repeat([True, False], [len(part[0]) for part in parts])
    columns = [*(np.concatenate(pair) for pair in zip(*parts, strict=True)), firsts]
    order = np.argsort(columns[1], kind="stable")
    return Runs(*(column[order] for column in columns))


def _joined(windows: np.ndarray, rows: np.ndarray, of: np.ndarray, length: int) -> tuple[np.ndarray, ...]:
    """The columns of Runs except is_first, from windows, of which those that overlap or are adjacent are joined.

    windows: int64[N], first token of each. rows: SHARED[N]. of: int64, document of each token.
    """
    begins = np.ones(len(windows), bool)
    begins[1:] = (np.diff(windows) > length) | (np.diff(of[windows]) > 0)
    starts = np.flatnonzero(begins)
    ends = np.append(starts, len(windows))[1:] - 1
    most = np.maximum.reduceat(rows["documents"], starts) if len(starts) else starts
    return of[windows[starts]], windows[starts], windows[ends] + length - 1, most, rows["first"][starts]


@dataclass(frozen=True)
class CountWindows:
    """The work of a unit of `anchors`, or of `windows` if `shared` is given.

    length: words of a window. slices: number of slices. output: its name. shared: the shared anchors. Counters:
    `documents`, `words`, `keys`.
    """

    length: int
    kept: KeptTexts
    slices: int
    output: str
    shared: SlicedFiles | None = None

    def __call__(self, unit: MeasuredUnit, scratch: Scratch) -> Counters:
        anchors_of_unit = None
        if self.shared is not None:
            anchors_of_unit = read_shared(self.kept.reading.store, self.shared.slice(unit.unit.index))
        counter = KeyCounter()
        counters: Counters = {"documents": 0, "words": 0, "keys": 0}
        for numbers, texts in self.kept(unit):
            tokens = locate_tokens(texts)
            anchors = find_anchors(tokens, self.length)
            at, keys, checks = anchors.grams, anchors.keys, anchors.checks
            if anchors_of_unit is not None:
                found = find_shared(anchors_of_unit, keys, checks) >= 0
                at = windows_between(anchors.firsts[found], anchors.lasts[found])
                keys, checks = (column[at] for column in hash_windows(tokens, self.length))
            counter.add(keys, checks, numbers[tokens.documents_of(at)])
            counters["documents"] += len(numbers)
            counters["words"] += len(tokens.hashes)
            counters["keys"] += len(keys)
        scratch.write_slices(self.output, counter.slices(self.slices))
        return counters


def windows_between(firsts: np.ndarray, lasts: np.ndarray) -> np.ndarray:
    """int64[N]: the numbers in A ranges. firsts, lasts: int64[A], both included; ranges in order, without overlap."""
    lengths = lasts - firsts + 1
    before = np.cumsum(lengths) - lengths
    return np.repeat(firsts - before, lengths) + np.arange(lengths.sum())
