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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.artifact import Counters
from cluster.exchange import SlicedFiles
from cluster.readers.inputs import Limits
from cluster.readers.units import Reading
from cluster.stage import Scratch
from pipelines.curate.config import Repeats, SelectSettings
from pipelines.curate.stages.boilerplate import cut_texts
from pipelines.curate.stages.cuts import CutDocuments, filter_texts, stays
from pipelines.curate.stages.kept_texts import MeasuredUnit, kept_texts
from pipelines.curate.stages.shared_keys import COUNTED, KeyCounter, KeyStages, find_shared, read_shared, slices_for
from pipelines.memory import task_memory
from pipelines.text import personal_data
from pipelines.text.texts import Texts
from pipelines.text.tokens import count_tokens
from pipelines.text.windows import Tokens, find_anchors, hash_windows, locate_tokens, without_spans

REPEATS = "repeats"
REPEATS_VERSION = "1"
ANCHORS, _SHARED_ANCHORS = "_work/repeats/anchors", "_work/repeats/shared_anchors"
_WINDOWS, _SHARED = "_work/repeats/windows", "_work/repeats/shared"
TEXT_OF_AN_ANCHOR = 40  # estimated bytes of text for each different anchor of a unit; with fewer, slices are larger
_MOST_CHARACTERS = 1000
# Of a plan: words of a byte of text, and the share of the words in runs that several documents have.
_WORDS, REPEATED = 0.15, 0.1

# A run in a document: overlapping and adjacent windows. Windows that no earlier document has are not joined with those
# that an earlier one has.
REPEATS_SCHEMA = pa.schema(
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


@dataclass(frozen=True)
class Runs:
    """R runs of D documents, in order.

    document, firsts, lasts: int64[R], the document of each run, its first and its last token. documents,
    first_position: int64[R], as in REPEATS_SCHEMA. is_first: bool[R], whether no earlier document has the run.
    """

    document: np.ndarray
    firsts: np.ndarray
    lasts: np.ndarray
    documents: np.ndarray
    first_position: np.ndarray
    is_first: np.ndarray


def find_runs(tokens: Tokens, length: int, positions: np.ndarray, shared: np.ndarray) -> Runs:
    """The runs of shared windows. length: words of a window. positions: int64[D]. shared: as of `read_shared`."""
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
class RepeatsCutter:
    """Lists runs, and cuts those that an earlier document has (cuts.Cutter).

    redact: kinds of personal data to replace. shared: as of `read_shared`.
    """

    settings: Repeats
    redact: Sequence[str] | None
    shared: np.ndarray

    @property
    def name(self) -> str:
        return REPEATS

    @property
    def min_words_left(self) -> int:
        return self.settings.min_words_left

    def __call__(self, source: str, texts: Texts, documents: pa.Table) -> CutDocuments:
        tokens = locate_tokens(texts)
        runs = find_runs(tokens, self.settings.min_words, documents["position"].to_numpy(), self.shared)
        is_cut = ~runs.is_first & self.settings.cut
        left, words = texts, np.diff(tokens.starts)
        if is_cut.any():
            left = without_spans(texts, tokens, runs.firsts[is_cut], runs.lasts[is_cut])
            words = count_tokens(left)
        listed = self._listed(source, texts, documents, tokens, runs, is_cut)
        later = ~runs.is_first
        counters: Counters = {
            "repeats_runs": len(runs.firsts),
            "repeats_documents": len(np.unique(runs.document)),
            "repeats_later_runs": int(later.sum()),
            "repeats_later_words": int((runs.lasts - runs.firsts + 1)[later].sum()),
        }
        lost = np.zeros(len(texts), bool)
        lost[runs.document[is_cut]] = True
        return CutDocuments(left, lost, words, listed, listed.filter(pa.array(runs.is_first)), counters)

    def _listed(
        self, source: str, texts: Texts, documents: pa.Table, tokens: Tokens, runs: Runs, is_cut: np.ndarray
    ) -> pa.Table:
        """Rows of REPEATS_SCHEMA."""
        begins, ends = tokens.begins[runs.firsts], tokens.ends[runs.lasts]
        # Characters before each byte.
        before = np.concatenate([[0], np.cumsum((texts.data & 0xC0) != 0x80)]) if len(begins) else np.zeros(1, np.int64)
        spans = zip(begins.tolist(), ends.tolist(), strict=True)
        shown = Texts.from_strings([texts.data[b:e].tobytes().decode()[:_MOST_CHARACTERS] for b, e in spans])
        if self.redact:
            shown = personal_data.redact(shown, personal_data.find(shown, tuple(self.redact)))
        of, start = pa.array(runs.document), texts.offsets[runs.document]
        columns = {
            "id": documents["id"].take(of),
            "source": pa.repeat(source, len(of)),
            "position": documents["position"].take(of),
            "start": before[begins] - before[start],
            "end": before[ends] - before[start],
            "words": runs.lasts - runs.firsts + 1,
            "documents": runs.documents,
            "first_position": runs.first_position,
            "cut": is_cut,
            "text": shown.to_arrow(),
        }
        return pa.table(columns).cast(REPEATS_SCHEMA)


def windows_memory(limits: Limits, unit_bytes: int) -> int:
    """Bytes of a unit that counts windows of its text. unit_bytes: text of the largest unit."""
    return task_memory(limits) + 4 * unit_bytes  # the different windows, with 40% of the words in repeats


def find_repeats(stages: KeyStages, settings: SelectSettings, reading: Reading, text: float) -> SlicedFiles:
    """Run the stages that prepare `select`. Returns the shared windows of each unit of input.

    text: estimated bytes of the documents that stay.
    """
    assert settings.repeats is not None
    length = settings.repeats.min_words
    most = windows_memory(settings.limits, max(one.unit.bytes for one in stages.units))
    slices = slices_for(text / TEXT_OF_AN_ANCHOR)
    counted = stages.count("anchors", ANCHORS, CountWindows(settings, reading, slices, ANCHORS), most)
    shared, keys = stages.share("shared_anchors", counted, _SHARED_ANCHORS, slices, 1)
    slices = slices_for(keys * (length - length // 2 + 1) / 2)  # the factor: windows of an anchor, on average
    work, least = CountWindows(settings, reading, slices, _WINDOWS, shared), text * _WORDS * REPEATED * COUNTED.itemsize
    counted = stages.count("windows", _WINDOWS, work, most, least)
    return stages.share("shared_windows", counted, _SHARED, slices, 1)[0]


@dataclass(frozen=True)
class CountWindows:
    """The work of a unit of `anchors`, or of `windows` if `shared` is given.

    slices: number of slices. output: its name. shared: the shared anchors. Counters: `documents`, `words`, `keys`.
    """

    settings: SelectSettings
    reading: Reading
    slices: int
    output: str
    shared: SlicedFiles | None = None

    def __call__(self, unit: MeasuredUnit, scratch: Scratch) -> Counters:
        repeats = self.settings.repeats
        assert repeats is not None
        of_unit = None
        if self.shared is not None:
            of_unit = read_shared(self.reading.store, self.shared.slice(unit.unit.index))
        counter, length = KeyCounter(), repeats.min_words
        counters: Counters = {"documents": 0, "words": 0, "keys": 0}
        for numbers, texts in self._texts(unit):
            tokens = locate_tokens(texts)
            anchors = find_anchors(tokens, length)
            at, keys, checks = anchors.grams, anchors.keys, anchors.checks
            if of_unit is not None:
                found = find_shared(of_unit, keys, checks) >= 0
                at = windows_between(anchors.firsts[found], anchors.lasts[found])
                keys, checks = (column[at] for column in hash_windows(tokens, length))
            counter.add(keys, checks, numbers[tokens.documents_of(at)])
            counters["documents"] += len(numbers)
            counters["words"] += len(tokens.hashes)
            counters["keys"] += len(keys)
        scratch.write_slices(self.output, counter.slices(self.slices))
        return counters

    def _texts(self, unit: MeasuredUnit) -> Iterator[tuple[np.ndarray, Texts]]:
        """As `kept_texts`, with boilerplate cut out."""
        boilerplate = self.settings.boilerplate
        shared = read_shared(self.reading.store, unit.boilerplate)
        for numbers, texts in kept_texts(self.settings, self.reading, unit):
            if boilerplate is None:
                yield numbers, texts
            else:
                cut = cut_texts(boilerplate, unit.unit.source, texts, shared)
                enough = stays(cut.cuts > 0, cut.words, boilerplate.min_words_left)
                yield numbers[enough], filter_texts(cut.texts, enough)


def windows_between(firsts: np.ndarray, lasts: np.ndarray) -> np.ndarray:
    """int64[N]: the numbers in A ranges. firsts, lasts: int64[A], both included; ranges in order, without overlap."""
    lengths = lasts - firsts + 1
    before = np.cumsum(lengths) - lengths
    return np.repeat(firsts - before, lengths) + np.arange(lengths.sum())
