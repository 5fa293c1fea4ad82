"""The interface of a rule: what it is given (Analysis), what it measures, and the bounds on that (Check).

`measure` reads text once and returns signals; `checks` compare signals with bounds and do not read text. So a run can
be decided again with other bounds in seconds, and every removal has a value and a threshold.

The dialect defines a word:

    paper      a run of characters between white space; every character in scripts written without spaces
    datatrove  a token of spaCy's blank English tokenizer, as datatrove 0.10.1 uses it: punctuation marks are words

Deduplication and decontamination split text in their own way in both dialects, into tokens (text/tokens.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.store.store import Store
from raymill.pipelines.text.datatrove.tokenizer import split_tokens
from raymill.pipelines.text.lines import Lines, count_characters, split_lines
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.words import Words, split_words

Dialect = Literal["paper", "datatrove"]

# Labels, of lid.176 and of GlotLID, of languages written without spaces between words.
WITHOUT_SPACES = (
    *("zh", "yue", "wuu", "ja", "th", "lo", "km", "my", "bo", "dz"),
    *("cmn", "zho", "lzh", "hak", "jpn", "tha", "lao", "khm", "mya", "bod", "dzo", "shn", "nod"),
)


@dataclass(frozen=True)
class Analysis:
    """One table of documents to measure, with values that several rules need; each is computed at most once.

    Attributes:
        texts: D normalised documents.
        columns: their other columns (source, url, language, ...), D rows.
        store: what rules read their own files from, such as lists and models.
        embedding: the endpoints for text vectors; None: none is allowed.
        repeated: place of a page of an archive -> why it is a repeated one (repeated_pages.py).
        early: place of a page of an archive -> `early_language_score` (early_language.py).
        failures: row -> plug-in and exception, of documents on which a rule of the user raised one.
    """

    texts: Texts
    dialect: Dialect
    columns: pa.Table
    store: Store
    embedding: EmbeddingRun | None = None
    failures: dict[int, str] = field(default_factory=dict)
    repeated: Mapping[str, str] = field(default_factory=dict)
    early: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def words(self) -> Words:
        """The words of the documents in the dialect."""
        return split_tokens(self.texts) if self.dialect == "datatrove" else split_words(self.texts)

    @cached_property
    def lines(self) -> Lines:
        """The lines of the documents."""
        return split_lines(self.texts)

    @cached_property
    def characters(self) -> np.ndarray:
        """int64[D]: the length of every document in characters."""
        return count_characters(self.texts)

    @cached_property
    def written_with_spaces(self) -> np.ndarray:
        """bool[D]: whether the document's language is written with spaces between words.

        Where it is not, a word is one character in the `paper` dialect, and signals that presume longer words do not
        apply. All True in the `datatrove` dialect, which has one tokenizer for all languages, and without a column
        `language`, since then every document counts as English.
        """
        if self.dialect == "datatrove" or "language" not in self.columns.column_names:
            return np.ones(len(self.texts), bool)
        labels = self.columns["language"].combine_chunks().cast(pa.string())
        codes = pc.fill_null(pc.replace_substring_regex(labels, "_.*", ""), "")
        return pc.invert(pc.is_in(codes, pa.array(WITHOUT_SPACES))).to_numpy(zero_copy_only=False)


@dataclass(frozen=True, slots=True)
class Check:
    """Remove a document for `reason` if `signal` is below `minimum` or above `maximum`. A value at the bound remains.

    Exactly one bound is set. A document whose signal is null or NaN passes.

    by_language: (language's label, its bound in place of this one).
    """

    reason: str
    signal: str
    minimum: float | None = None
    maximum: float | None = None
    by_language: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        assert (self.minimum is None) != (self.maximum is None), f"{self.reason}: a check has one bound"

    @property
    def threshold(self) -> float:
        """The bound that is set."""
        return self.minimum if self.minimum is not None else self.maximum  # type: ignore[return-value]

    def thresholds(self, attributes: pa.Table) -> np.ndarray:
        """float64[D]: the bound on each of D documents, by the column `language` if it depends on that."""
        if not self.by_language:
            return np.full(attributes.num_rows, self.threshold, np.float64)
        labels = attributes["language"].combine_chunks().cast(pa.string()).dictionary_encode()
        bounds = dict(self.by_language)
        of_labels = np.array([bounds.get(label, self.threshold) for label in (*labels.dictionary.to_pylist(), None)])
        return of_labels[np.asarray(labels.indices.fill_null(-1), np.int64)]

    def fails(self, values: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        """bool[D]: which of the values are out of bounds. NaN compares false, so it passes.

        thresholds: the bound on each document; None: `threshold`.
        """
        bounds = self.threshold if thresholds is None else thresholds
        return values < bounds if self.minimum is not None else values > bounds


class Rule(Protocol):
    """A frozen dataclass whose fields are its settings; the field names are the config's keys.

    name: its key under `rules` in the config; the column `stage` of the ledger names the rule that removed a document.
    reasons: every reason of its checks, in the order of the checks.
    signals: the attribute columns that `measure` adds, each with its definition and unit, as reports show it.
    measured_by: the settings that change the result of `measure`. All other settings only move bounds, so a finished
        measurement stays valid when they change.

    A rule that reads nothing but a document's URL has an attribute `by_url`, True: it is applied before others, and to
    pages of web archives before their text is extracted. So is one with `reads_page_start`, which then also has the
    column `page_start` of the beginning of the page.

    A rule that reads files has a method `fingerprint_files() -> tuple[str, ...]`: their paths or URIs, in fixed order.
    """

    name: ClassVar[str]
    reasons: ClassVar[tuple[str, ...]]
    signals: ClassVar[dict[str, str]]
    measured_by: ClassVar[tuple[str, ...]]

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """One array per signal, of length D; float32, float64 or an integer type."""
        ...

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        """The checks in order; the first one that fails gives the document's reason."""
        ...


def files_read_by(settings: object) -> tuple[str, ...]:
    """Paths or URIs of the files that a rule or the language identification reads, in fixed order.

    Empty for a rule without the method `fingerprint_files`.
    """
    return getattr(settings, "fingerprint_files", tuple)()
