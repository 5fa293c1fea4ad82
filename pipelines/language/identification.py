"""Language identification: the language of each document, its probability, and the rule that keeps some languages.

`identify` measures two signals: `language`, the classifier's label (`en` for lid.176, `eng_Latn` for GlotLID), and
`language_score`, its probability. `language_verdict` compares them with the settings and does not read text.

A long document is represented by an excerpt of `max_chars` characters from four positions. The built-in model
lid.176.ftz is by Joulin et al. 2016 (https://fasttext.cc), CC BY-SA 3.0.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.paths import AbsolutePath
from raymill.cluster.store.store import Store
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language.fasttext_classifier import Classifier
from raymill.pipelines.text.characters import ALPHA, SPACE, UNSPACED, code_point, tables
from raymill.pipelines.text.kernel import inner_kernel, kernel
from raymill.pipelines.text.texts import Texts

UNDETERMINED = "und"  # the tag of BCP 47: a text without a letter, or without a prediction of the classifier
REASONS = ("language_not_kept", "language_low_score")

_PIECES = 4
_MAX_WORD_CHARS = 64  # characters searched for a word boundary; a longer word is cut


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageId:
    """Keep documents whose most probable language is in `keep` and has a probability of at least `min_score`.

    With an empty `keep` every language is kept that reaches its score: text with a low score is often not in any
    language. `min_scores` sets other bounds for single languages. `model` is the path or URI of a supervised fastText
    .bin or .ftz; None is the built-in lid.176. `und` in `keep` with `min_scores: {und: 0}` keeps documents without
    letters.

    Source of 0.65: FineWeb, Penedo et al. 2024, which keeps English above that score of lid.176.
    """

    keep: Annotated[
        tuple[str, ...], Field(description="Labels of the languages to keep, such as en; empty: all languages")
    ] = ()
    min_score: Annotated[float, Field(ge=0, le=1, description="Minimum probability of the identified language")] = 0.65
    min_scores: Annotated[
        dict[str, Annotated[float, Field(ge=0, le=1)]],
        Field(description="Minimum probability of single languages, in place of `min_score`, as {de: 0.5}"),
    ] = field(default_factory=dict)
    max_chars: Annotated[
        int,
        Field(
            ge=20,
            le=100_000,
            description="Maximum number of characters of a document that the classifier reads, from four positions",
        ),
    ] = 1000
    model: Annotated[
        AbsolutePath | None,
        Field(
            description="Path or URI of a supervised fastText model (.bin or .ftz) that identifies languages; "
            "null: the built-in lid.176"
        ),
    ] = None

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    measured_by: ClassVar = ("max_chars", "model")

    def fingerprint_files(self) -> tuple[str, ...]:
        """The model, if it is not the built-in one, whose fingerprint is `fasttext_classifier.fingerprint(None)`."""
        return () if self.model is None else (self.model,)


def identify(texts: Texts, classifier: Classifier, max_chars: int) -> tuple[pa.StringArray, np.ndarray]:
    """(languages string[D], scores float32[D]): the most probable language of each document's excerpt.

    A document whose excerpt has no letter is `und` with score 0, where fastText gives the model's most frequent label.
    """
    pieces = excerpts(texts, max_chars)
    labels, scores = classifier.best(pieces)
    lettered = np.zeros(len(pieces), np.bool_)
    _has_letter(pieces.data, pieces.offsets, tables()[0], lettered)
    silent = ~lettered
    labels[silent], scores[silent] = -1, 0
    names = pa.array([*classifier.labels, UNDETERMINED], pa.string())
    return names.take(pa.array(np.where(labels < 0, len(classifier.labels), labels))), scores


def language_verdict(
    languages: pa.Array | pa.ChunkedArray, scores: np.ndarray, settings: LanguageId
) -> tuple[pa.StringArray, np.ndarray, np.ndarray]:
    """(reason string[D], null to keep; value float64[D], the score; threshold float64[D], the language's min_score).

    A null language counts as `und`. Scores are compared in their own precision; one equal to its threshold passes.
    """
    if isinstance(languages, pa.ChunkedArray):
        languages = languages.combine_chunks()
    languages = pc.fill_null(languages.cast(pa.string()), UNDETERMINED)
    threshold = np.full(len(scores), settings.min_score, np.float64)
    for language, min_score in settings.min_scores.items():
        threshold[pc.equal(languages, language).to_numpy(zero_copy_only=False)] = min_score
    low = pa.array(scores < threshold.astype(scores.dtype))
    reason = pc.if_else(low, "language_low_score", pa.scalar(None, pa.string()))
    if settings.keep:
        kept = pc.is_in(languages, pa.array(settings.keep, pa.string()))
        reason = pc.if_else(kept, reason, "language_not_kept")
    return reason, scores.astype(np.float64), threshold


def excerpts(texts: Texts, max_chars: int) -> Texts:
    """At most `max_chars` characters of each document, on one line.

    A document that fits is taken whole. A longer one gives four pieces of a quarter each, joined by spaces: from its
    start, from one third and two thirds of its bytes (text between pieces is not read) and from its end. Pieces begin
    and end between words, or beside a letter of a script without spaces; a word longer than a piece or than 64
    characters is cut. Line ends and control characters become spaces.
    """
    assert max_chars >= 20, f"an excerpt has at least 20 characters; max_chars is {max_chars}"
    most = np.minimum(texts.byte_lengths + _PIECES - 1, 4 * max_chars).sum()
    lines, ends = np.empty(most, np.uint8), np.zeros(len(texts) + 1, np.int64)
    _excerpts(texts.data, texts.offsets, tables()[0], max_chars, lines, ends)
    return Texts(lines[: ends[-1]], ends)


def load(store: Store, settings: LanguageId) -> Classifier:
    """The classifier of these settings.

    Raises:
        ConfigError, StorageError: the model is missing or wrong, or does not have a label of the settings.
    """
    try:
        classifier = fasttext_classifier.load(store, settings.model)
    except NotFound as error:
        raise ConfigError(f"language.model: {error}") from error
    for setting, languages in (("keep", settings.keep), ("min_scores", settings.min_scores)):
        for language in languages:
            if language != UNDETERMINED:
                classifier.require(language, f"language.{setting}")
    return classifier


@kernel
def _excerpts(data, offsets, flags, max_chars, lines, ends):
    """Write the excerpts to `lines`, their ends to ends[1:]."""
    chars = (max_chars - _PIECES + 1) // _PIECES
    at = 0
    for document in range(len(offsets) - 1):
        first, last = offsets[document], offsets[document + 1]
        if last - first <= 4 * max_chars and _forward(data, first, last, max_chars) == last:
            at = _copy_line(data, first, last, lines, at)
        else:
            piece_end = first
            for piece in range(_PIECES):
                if piece == _PIECES - 1:
                    start = max(_backward(data, last, first, chars), piece_end)
                else:
                    start = first + (last - first) // (_PIECES - 1) * piece
                    while data[start] & 0xC0 == 0x80:
                        start -= 1
                    start = max(start, piece_end)
                start = _word_start(data, first, start, last, flags, chars)
                piece_end = _word_end(data, start, _forward(data, start, last, chars), last, flags, chars)
                if piece:
                    lines[at] = 0x20
                    at += 1
                at = _copy_line(data, start, piece_end, lines, at)
        ends[document + 1] = at


@inner_kernel
def _forward(data, at, last, chars):
    """Position `chars` characters after `at`, at most `last`."""
    while chars and at < last:
        at += 1
        while at < last and data[at] & 0xC0 == 0x80:
            at += 1
        chars -= 1
    return at


@inner_kernel
def _backward(data, at, first, chars):
    """Position `chars` characters before `at`, at least `first`."""
    while chars and at > first:
        at -= 1
        while data[at] & 0xC0 == 0x80:
            at -= 1
        chars -= 1
    return at


@inner_kernel
def _is_boundary(data, first, at, last, flags):
    """Whether a text may be cut at `at`: at an end, beside white space, or beside a letter of an unspaced script."""
    if (at == first) | (at == last):
        return True
    before, _ = code_point(data, _backward(data, at, first, 1))
    after, _ = code_point(data, at)
    return (flags[before] | flags[after]) & (SPACE | UNSPACED) != 0


@inner_kernel
def _word_start(data, first, at, last, flags, chars):
    """The first boundary at or after `at` and before the text's end; `at` if there is none near it."""
    place = at
    for _ in range(min(chars, _MAX_WORD_CHARS)):
        if place == last:
            break
        if _is_boundary(data, first, place, last, flags):
            return place
        place = _forward(data, place, last, 1)
    return at


@inner_kernel
def _word_end(data, start, at, last, flags, chars):
    """The last boundary at or before `at` and after the piece's start; `at` if there is none near it."""
    place = at
    for _ in range(min(chars, _MAX_WORD_CHARS)):
        if place == start:
            break
        if _is_boundary(data, start, place, last, flags):
            return place
        place = _backward(data, place, start, 1)
    return at


@inner_kernel
def _copy_line(data, start, end, line, at):
    """Copy data[start:end] to `line` at `at`; returns the end of the copy.

    Control characters, line and paragraph separators become spaces.
    """
    while start < end:
        byte = data[start]
        line[at] = byte
        if byte < 0x20 or byte == 0x7F:
            line[at] = 0x20
        elif byte == 0xC2 and data[start + 1] < 0xA0:  # U+0080 to U+009F
            line[at] = 0x20
            start += 1
        elif byte == 0xE2 and data[start + 1] == 0x80 and data[start + 2] & 0xFE == 0xA8:  # U+2028, U+2029
            line[at] = 0x20
            start += 2
        start += 1
        at += 1
    return at


@kernel
def _has_letter(data, offsets, flags, found):
    """Set found[d], False before, if document d has an alphabetic character."""
    for document in range(len(found)):
        at, last = offsets[document], offsets[document + 1]
        while at < last and not found[document]:
            point, width = code_point(data, at)
            found[document] = flags[point] & ALPHA != 0
            at += width
