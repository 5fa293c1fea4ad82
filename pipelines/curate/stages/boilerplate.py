"""Boilerplate: lines or paragraphs that many documents of a source have, cut out of the corpus.

    pieces   per unit of input: keys of the pieces of its kept documents, with counts    -> _work/boilerplate/pieces
    shared   per slice of the keys: those that more than `max_documents` have, by unit   -> _work/boilerplate/shared
    select   cuts the pieces with these keys, and lists each once                        -> boilerplate

The first two prepare `select`. Documents are counted after the rules and after deduplication, so copies of a page do
not make its lines boilerplate. For that, the text is read once more. A gigabyte takes 9 s of processor time besides
reading and normalising it, and at most 0.4 GB are written.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
from raymill.pipelines.curate.stages.shared_keys import KeyCounter, KeyStages, find_shared, slices_for
from raymill.pipelines.memory import task_memory
from raymill.pipelines.text import personal_data
from raymill.pipelines.text.lines import Pieces, count_characters, find_pieces, without_pieces
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.tokens import count_tokens

_PIECES, _SHARED = "_work/boilerplate/pieces", "_work/boilerplate/shared"
_TEXT_OF_A_PIECE = 24  # estimated bytes of text for each different piece of a unit; with fewer, slices are larger
_CUT_SHOWN = 200  # characters, in `explain`


class Boilerplate(BaseModel):
    """Lines or paragraphs that many documents of a source have, which are cut out of the corpus.

    Source of the default of max_documents: Llama 3, Grattafiori et al. 2024, section 3.1.1, which removes lines that
    are more than 6 times in 30 million documents.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cut: Literal["lines", "paragraphs"] = Field(
        "lines", description="Pieces of text that are compared and cut: lines or paragraphs"
    )
    max_documents: int = Field(
        6,
        ge=1,
        description="Maximum number of kept documents of a source with the same line or paragraph; one that more "
        "documents have is cut from all of them",
    )
    min_words: int = Field(1, ge=1, description="Minimum number of words of a line or paragraph that is cut")
    min_words_left: int = Field(
        50,
        ge=0,
        description="Minimum number of words of a document after a cut; documents that were cut to fewer words are "
        "removed",
    )

    name: ClassVar[str] = "boilerplate"
    version: ClassVar[str] = "1"
    # Its part of report.json. pieces: number of all that were cut; different: of those with different words. documents:
    # out of which one was cut. characters: with line feeds.
    report: ClassVar = {"cut": str, "max_documents": int, "different": int}
    counters: ClassVar = ("pieces", "documents", "characters")
    counted: ClassVar[str] = _PIECES
    assumed: ClassVar[str] = ""

    # A row for each different piece that is cut.
    columns: ClassVar[pa.Schema] = pa.schema(
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

    def about(self) -> tuple[str, str]:
        """(word, line) of what the setting does, for a dry run."""
        most = plural(self.max_documents, "document")
        return "cut", f"{self.cut} that more than {most} of their source have"

    def memory(self, limits: Limits, unit_bytes: int) -> int:
        """Bytes of a unit that counts pieces of its text. unit_bytes: text of the largest unit."""
        return task_memory(limits) + 2 * unit_bytes  # the different pieces

    def find(self, stages: KeyStages, kept: KeptTexts, text: float) -> SlicedFiles:
        """Run the stages that prepare `select`. Returns the shared keys of each unit of input.

        text: estimated bytes of the documents that stay.
        """
        slices = slices_for(text / _TEXT_OF_A_PIECE)
        most = self.memory(kept.limits, max(one.unit.bytes for one in stages.units))
        counted = stages.count("pieces", _PIECES, CountPieces(self, kept, slices), most)
        return stages.share("shared", counted, _SHARED, slices, self.max_documents)[0]

    def pieces(self, source: str, texts: Texts) -> tuple[Pieces, np.ndarray]:
        """(the P pieces of documents of a source, their keys uint64[P], which differ between sources)."""
        pieces = find_pieces(texts, paragraphs=self.cut == "paragraphs")
        return pieces, pieces.keys ^ source_key(source)

    def cut_out(self, source: str, texts: Texts, positions: np.ndarray, shared: np.ndarray) -> CutTexts:
        """As `Cut.cut_out`. `found`: the pieces, their keys, and the index of each key in `shared`, -1 if it stays."""
        pieces, keys = self.pieces(source, texts)
        found = find_shared(shared, keys, pieces.checks)
        left = without_pieces(texts, pieces, found >= 0)
        is_cut = np.zeros(len(texts), bool)
        is_cut[pieces.documents[found >= 0]] = True
        return CutTexts(left, is_cut, count_tokens(left), (pieces, keys, found))

    def listed(
        self, cut: CutTexts, source: str, texts: Texts, documents: pa.Table, shared: np.ndarray, redact: Sequence[str]
    ) -> tuple[pa.Table, pa.Table, Counters]:
        """(rows of the artifact: the pieces that one of these D documents has first; those that the report may show;
        counters).

        texts: before the cut. documents: `id` and `position` of each. redact: kinds of personal data to replace.
        """
        pieces, keys, found = cut.found
        cut_pieces = np.flatnonzero(found >= 0)
        counters: Counters = {
            "pieces": len(cut_pieces),
            "documents": int(cut.is_cut.sum()),
            "characters": int((count_characters(texts) - count_characters(cut.texts)).sum()),
        }
        document = pieces.documents[cut_pieces]
        here = shared["first"][found[cut_pieces]] == documents["position"].to_numpy()[document]
        _, once = np.unique(found[cut_pieces[here]], return_index=True)
        which = cut_pieces[here][np.sort(once)]
        spans = zip(pieces.begins[which].tolist(), pieces.ends[which].tolist(), strict=True)
        whole = Texts.from_strings([texts.data[begin:end].tobytes().decode() for begin, end in spans])
        shown = personal_data.redact(whole, personal_data.find(whole, tuple(redact))) if redact else whole
        of = pa.array(pieces.documents[which])
        columns = {
            "source": pa.repeat(source, len(which)),
            "text": shown.to_arrow(),
            "documents": shared["documents"][found[which]],
            "words": pieces.words[which],
            "characters": count_characters(whole),
            "id": documents["id"].take(of),
            "position": documents["position"].take(of),
            "key": keys[which],
        }
        rows = pa.table(columns).cast(self.columns)
        return rows, rows, counters

    def facts(self, rows: int) -> dict[str, Any]:
        """What report.json says of it, besides counters and texts. rows: of the artifact."""
        return {"cut": self.cut, "max_documents": self.max_documents, "different": rows}

    @staticmethod
    def sentence(found: dict[str, Any]) -> str:
        """What the report says of it. found: its part of report.json."""
        return (
            f"{count(found['pieces'])} {found['cut']} were cut out of {plural(found['documents'], 'document')}, "
            f"{count(found['characters'])} characters: each occurs in more than {count(found['max_documents'])} "
            "documents of its source that the rules and deduplication left. "
            f"{count(found['different'])} of them differ; the folder boilerplate has each of these."
        )

    @staticmethod
    def explained(
        settings: "Boilerplate | None", listed: Artifact, source: str, position: int, text: Callable[[], Texts]
    ) -> list[str]:
        """A line for each different piece of a document that is boilerplate of its source.

        settings: None of an unfinished run. listed: the artifact. text: returns the document.
        """
        if settings is None:
            return []
        order = settings.pieces(source, text())[1].tolist()
        found = []
        for table in listed.tables(["key", "source", "text", "documents"]):
            found += python_rows(table.filter(pc.is_in(table["key"], pa.array(order, pa.uint64()))))
        rows = sorted((row for row in found if row["source"] == source), key=lambda row: order.index(row["key"]))
        return [
            f"cut       {row['documents']:,} documents of {source} have: {row['text'][:_CUT_SHOWN]}" for row in rows
        ]


def source_key(source: str) -> np.uint64:
    """A hash of the source, which is XORed with the keys of its pieces to distinguish them from other sources' keys."""
    return np.uint64(int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "little"))


@dataclass(frozen=True)
class CountPieces:
    """The work of a unit of `pieces`. slices: number of slices. Counters: `documents`, `text_bytes`, `pieces`."""

    settings: Boilerplate
    kept: KeptTexts
    slices: int

    def __call__(self, unit: MeasuredUnit, scratch: Scratch) -> Counters:
        counter = KeyCounter()
        counters: Counters = {"documents": 0, "text_bytes": 0, "pieces": 0}
        for numbers, texts in self.kept(unit):
            pieces, keys = self.settings.pieces(unit.unit.source, texts)
            long = pieces.words >= self.settings.min_words
            counter.add(keys[long], pieces.checks[long], numbers[pieces.documents[long]])
            counters["documents"] += len(numbers)
            counters["text_bytes"] += int(texts.byte_lengths.sum())
            counters["pieces"] += len(keys)
        scratch.write_slices(_PIECES, counter.slices(self.slices))
        return counters
