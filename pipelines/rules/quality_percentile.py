"""Rule: a lower bound on the best percentile that several quality classifiers give a document.

Scores of different classifiers cannot be compared, their percentiles in one set of documents can. These are taken from
a file of documents, so that a document's percentile depends on nothing else and no second pass over the input is
needed.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ConfigDict, Field

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.copies import LocalFile, local_file
from raymill.cluster.store.paths import AbsolutePath
from raymill.cluster.store.store import Store
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language.identification import excerpts
from raymill.pipelines.rules.decontamination import read_texts
from raymill.pipelines.rules.judge_score import expected_scores
from raymill.pipelines.rules.rule import Analysis, Check, Dialect
from raymill.pipelines.text.lines import count_characters
from raymill.pipelines.text.normalize import normalize
from raymill.pipelines.text.texts import Texts

_MOST_DOCUMENTS = 20_000  # of `reference`, which each process reads


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedClassifier:
    """A classifier of `quality_percentile`."""

    model: Annotated[
        AbsolutePath, Field(description="Path or URI of a supervised fastText model (.bin or .ftz) that scores quality")
    ]
    label: Annotated[
        str | None,
        Field(
            description="Label of good documents in the model, with or without __label__; null: labels are scores, "
            "as in OUTPUT/classifier/model.bin of `distil`, and their expected value counts"
        ),
    ] = None
    max_chars: Annotated[
        int,
        Field(
            ge=20,
            le=10_000_000,
            description="Maximum number of characters of a document that the model reads, from four positions",
        ),
    ] = 5000

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    def scores(self, store: Store, texts: Texts) -> np.ndarray:
        """float32[D].

        Raises:
            ConfigError: the model does not have the label.
        """
        classifier = fasttext_classifier.load(store, self.model)
        if self.label is None:
            return expected_scores(classifier, texts, self.max_chars)
        label = self.label.removeprefix("__label__")
        classifier.require(label, "quality_percentile.classifiers.label")
        return classifier.score(excerpts(texts, self.max_chars), label)


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityPercentile:
    """Remove documents that no classifier ranks above `min_percentile`.

    The percentile of a score is the fraction of the characters of `reference` in documents with a lower score. Of a
    document the largest percentile of all classifiers counts. `reference` is a sample of the documents as they are
    before this rule, such as a file of a corpus without it; some thousands are enough.

    Source: Nemotron-CC, Su et al. 2024, section 2.3, https://arxiv.org/abs/2412.02595: percentiles by tokens, the
    maximum of three classifiers; there rounded to 20 bins. DataComp-LM, Li et al. 2024,
    https://arxiv.org/abs/2406.11794: the best tenth by one classifier, `min_percentile: 0.9`.
    """

    classifiers: Annotated[
        tuple[RankedClassifier, ...],
        Field(min_length=1, max_length=16, description="Classifiers, of whose percentiles the largest counts"),
    ]
    reference: Annotated[
        AbsolutePath,
        Field(
            description="Path or URI of the documents of which the percentiles are taken: a Parquet or JSON Lines file"
        ),
    ]
    column: Annotated[str, Field(description="Column of the text in the file `reference`")] = "text"
    min_percentile: Annotated[
        float, Field(ge=0, le=1, description="Minimum of the largest percentile, as a fraction; 0.9: the best tenth")
    ] = 0.9

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "quality_percentile"
    reasons: ClassVar = ("low_quality_percentile",)
    signals: ClassVar = {"quality_percentile": "largest percentile (0 to 1) of the classifiers' scores"}
    measured_by: ClassVar = ("classifiers", "reference", "column")

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """quality_percentile: float64[D].

        Raises:
            ConfigError, StorageError: a file is missing or of another kind, or a model does not have its label.
        """
        store = analysis.store
        file = local_file(store, self.reference, f"{self.name}.reference")
        found = np.zeros(len(analysis.texts))
        for one, ranks in zip(self.classifiers, _ranks(store, file, self), strict=True):
            np.maximum(found, ranks.of(one.scores(store, analysis.texts)), out=found)
        return {"quality_percentile": found}

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        return (Check("low_quality_percentile", "quality_percentile", minimum=self.min_percentile),)

    def fingerprint_files(self) -> tuple[str, ...]:
        """The models, then the documents."""
        return (*(one.model for one in self.classifiers), self.reference)


@dataclass(frozen=True, slots=True)
class _Ranks:
    """Scores in ascending order, float[N], and the fraction of all characters in documents before each, [N + 1]."""

    scores: np.ndarray
    before: np.ndarray

    def of(self, scores: np.ndarray) -> np.ndarray:
        """float64[D]: the percentile of each score."""
        return self.before[np.searchsorted(self.scores, scores)]


@lru_cache(maxsize=4)
def _ranks(store: Store, file: LocalFile, rule: QualityPercentile) -> tuple[_Ranks, ...]:
    """The ranks of each classifier's scores in the file. They are computed once a process, of a changed file again."""
    texts = normalize(Texts.from_strings(read_texts(store, rule.reference, rule.column, f"{rule.name}.reference")))
    characters = count_characters(texts)
    if not 0 < len(texts) <= _MOST_DOCUMENTS or not characters.any():
        raise ConfigError(
            f"{rule.name}.reference: {rule.reference} has {len(texts):,} texts; wanted 1 to {_MOST_DOCUMENTS:,}, with "
            "characters. Name a sample of the documents."
        )
    found = []
    for one in rule.classifiers:
        scores = one.scores(store, texts)
        order = np.argsort(scores, kind="stable")
        before = np.concatenate([[0], np.cumsum(characters[order])]) / characters.sum()
        found.append(_Ranks(scores[order], before))
    return tuple(found)
