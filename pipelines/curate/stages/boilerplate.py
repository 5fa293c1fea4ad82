"""Boilerplate: lines or paragraphs that many documents of a source have, cut out of the corpus.

    pieces   per unit of input: keys of the pieces of its kept documents, with counts    -> _work/boilerplate/pieces
    shared   per slice of the keys: those that more than `max_documents` have, by unit   -> _work/boilerplate/shared
    select   cuts the pieces with these keys, and lists each once                        -> boilerplate

The first two prepare `select`. Documents are counted after the rules and after deduplication, so copies of a page do
not make its lines boilerplate. For that, the text is read once more. A gigabyte takes 9 s of processor time besides
reading and normalising it, and at most 0.4 GB are written.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.artifact import Counters
from cluster.exchange import SlicedFiles
from cluster.readers.inputs import Limits
from cluster.readers.units import Reading
from cluster.stage import Scratch
from pipelines.curate.config import Boilerplate, SelectSettings
from pipelines.curate.stages.cuts import CutDocuments
from pipelines.curate.stages.kept_texts import MeasuredUnit, kept_texts
from pipelines.curate.stages.shared_keys import KeyCounter, KeyStages, find_shared, slices_for
from pipelines.memory import task_memory
from pipelines.text import personal_data
from pipelines.text.lines import count_characters
from pipelines.text.pieces import Pieces, find_pieces, without_pieces
from pipelines.text.texts import Texts
from pipelines.text.tokens import count_tokens

BOILERPLATE = "boilerplate"
BOILERPLATE_VERSION = "1"
PIECES, _SHARED = "_work/boilerplate/pieces", "_work/boilerplate/shared"
TEXT_OF_A_PIECE = 24  # estimated bytes of text for each different piece of a unit; with fewer, slices are larger

# A row for each different piece that is cut.
BOILERPLATE_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("text", pa.string()),  # of the first document that has it, with personal data replaced
        ("documents", pa.int64()),  # number of kept documents of the source that have it
        ("words", pa.int64()),
        ("characters", pa.int64()),
        ("id", pa.string()),  # of the first document
        ("position", pa.int64()),  # of the first document
        ("key", pa.uint64()),  # equal for all pieces of the source with the same words
    ]
)


@dataclass(frozen=True)
class CutTexts:
    """D documents without their boilerplate.

    texts: without the cut pieces. pieces: the P pieces of the whole texts. keys: uint64[P], their keys, in which the
    source is hashed. shared: int64[P], the index of each piece's key among the keys that are cut, -1 for pieces that
    stay. words: int64[D], tokens that stay.
    """

    texts: Texts
    pieces: Pieces
    keys: np.ndarray
    shared: np.ndarray
    words: np.ndarray

    @property
    def cuts(self) -> np.ndarray:
        """int64[D]: pieces cut out of each document."""
        return np.bincount(self.pieces.documents[self.shared >= 0], minlength=len(self.texts))


def source_key(source: str) -> np.uint64:
    """A hash of the source, which is XORed with the keys of its pieces to distinguish them from other sources' keys."""
    return np.uint64(int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "little"))


def piece_keys(settings: Boilerplate, source: str, texts: Texts) -> np.ndarray:
    """uint64[P]: the column `key` of the pieces of documents of a source."""
    return find_pieces(texts, paragraphs=settings.cut == "paragraphs").keys ^ source_key(source)


def cut_texts(settings: Boilerplate, source: str, texts: Texts, shared: np.ndarray) -> CutTexts:
    """Cut the pieces with shared keys out of documents of a source. shared: as of `read_shared`."""
    pieces = find_pieces(texts, paragraphs=settings.cut == "paragraphs")
    keys = pieces.keys ^ source_key(source)
    found = find_shared(shared, keys, pieces.checks)
    cut = without_pieces(texts, pieces, found >= 0)
    return CutTexts(cut, pieces, keys, found, count_tokens(cut))


@dataclass(frozen=True)
class BoilerplateCutter:
    """Cuts boilerplate (cuts.Cutter). redact: kinds of personal data to replace. shared: as of `read_shared`."""

    settings: Boilerplate
    redact: Sequence[str] | None
    shared: np.ndarray

    @property
    def name(self) -> str:
        return BOILERPLATE

    @property
    def min_words_left(self) -> int:
        return self.settings.min_words_left

    def __call__(self, source: str, texts: Texts, documents: pa.Table) -> CutDocuments:
        cut = cut_texts(self.settings, source, texts, self.shared)
        found = _listed(cut, texts, self.shared, self.redact, source, documents)
        counters: Counters = {
            "boilerplate_pieces": int(cut.cuts.sum()),
            "boilerplate_documents": int((cut.cuts > 0).sum()),
            "boilerplate_characters": int((count_characters(texts) - count_characters(cut.texts)).sum()),
        }
        return CutDocuments(cut.texts, cut.cuts > 0, cut.words, found, found, counters)


def _listed(
    cut: CutTexts, texts: Texts, shared: np.ndarray, redact: Sequence[str] | None, source: str, documents: pa.Table
) -> pa.Table:
    """Rows of BOILERPLATE_SCHEMA: the pieces that one of these D documents has first.

    texts: whole documents. documents: `id` and `position` of each. redact: kinds of personal data to replace.
    """
    pieces = np.flatnonzero(cut.shared >= 0)
    found, of = shared[cut.shared[pieces]], cut.pieces.documents[pieces]
    here = found["first"] == documents["position"].to_numpy()[of]
    pieces, found, of = pieces[here], found[here], of[here]
    _, once = np.unique(cut.shared[pieces], return_index=True)
    once.sort()
    pieces, found, of = pieces[once], found[once], of[once]
    spans = zip(cut.pieces.begins[pieces].tolist(), cut.pieces.ends[pieces].tolist(), strict=True)
    whole = Texts.from_strings([texts.data[begin:end].tobytes().decode() for begin, end in spans])
    shown = personal_data.redact(whole, personal_data.find(whole, tuple(redact))) if redact else whole
    columns = {
        "source": pa.repeat(source, len(pieces)),
        "text": shown.to_arrow(),
        "documents": found["documents"],
        "words": cut.pieces.words[pieces],
        "characters": count_characters(whole),
        "id": documents["id"].take(pa.array(of)),
        "position": documents["position"].take(pa.array(of)),
        "key": cut.keys[pieces],
    }
    return pa.table(columns).cast(BOILERPLATE_SCHEMA)


def keys_memory(limits: Limits, unit_bytes: int) -> int:
    """Bytes of a unit that counts pieces of its text. unit_bytes: text of the largest unit."""
    return task_memory(limits) + 2 * unit_bytes  # the different pieces


def find_boilerplate(stages: KeyStages, settings: SelectSettings, reading: Reading, text: float) -> SlicedFiles:
    """Run the stages that prepare `select`. Returns the shared keys of each unit of input.

    text: estimated bytes of the documents that stay.
    """
    assert settings.boilerplate is not None
    slices = slices_for(text / TEXT_OF_A_PIECE)
    most = keys_memory(settings.limits, max(one.unit.bytes for one in stages.units))
    counted = stages.count("pieces", PIECES, CountPieces(settings, reading, slices), most)
    return stages.share("shared", counted, _SHARED, slices, settings.boilerplate.max_documents)[0]


@dataclass(frozen=True)
class CountPieces:
    """The work of a unit of `pieces`. slices: number of slices. Counters: `documents`, `text_bytes`, `pieces`."""

    settings: SelectSettings
    reading: Reading
    slices: int

    def __call__(self, unit: MeasuredUnit, scratch: Scratch) -> Counters:
        boilerplate = self.settings.boilerplate
        assert boilerplate is not None
        counter, scope = KeyCounter(), source_key(unit.unit.source)
        counters: Counters = {"documents": 0, "text_bytes": 0, "pieces": 0}
        for numbers, texts in kept_texts(self.settings, self.reading, unit):
            pieces = find_pieces(texts, paragraphs=boilerplate.cut == "paragraphs")
            long = pieces.words >= boilerplate.min_words
            counter.add(pieces.keys[long] ^ scope, pieces.checks[long], numbers[pieces.documents[long]])
            counters["documents"] += len(numbers)
            counters["text_bytes"] += int(texts.byte_lengths.sum())
            counters["pieces"] += len(pieces.keys)
        scratch.write_slices(PIECES, counter.slices(self.slices))
        return counters
