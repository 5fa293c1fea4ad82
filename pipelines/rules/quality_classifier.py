"""A fastText quality classifier as a rule: a lower bound on the probability of its positive label."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ConfigDict, Field

from raymill.cluster.store.paths import AbsolutePath
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language.identification import excerpts
from raymill.pipelines.rules.rule import Analysis, Check, Dialect


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityClassifier:
    """Remove documents whose probability of the positive label is below `min_score`.

    `model` is the path or URI of a supervised fastText .bin or .ftz, `label` its positive label with or without
    "__label__" ("hq" of DCLM's classifier). The classifier is given an excerpt of at most `max_chars` characters from
    four positions of the document, on one line and otherwise unchanged: a model that was trained on lower-cased text
    gives low scores. With `max_chars` at the length of the documents it is given all of the text.

    Source: DataComp-LM, Li et al. 2024, section 4.4, https://arxiv.org/abs/2406.11794: a linear fastText classifier did
    better than costlier filters. There the threshold is a fraction of the documents, here a probability.
    """

    model: Annotated[
        AbsolutePath, Field(description="Path or URI of a supervised fastText model (.bin or .ftz) that scores quality")
    ]
    label: Annotated[str, Field(description="Label of good documents in the quality model, with or without __label__")]
    min_score: Annotated[float, Field(ge=0, le=1, description="Minimum probability of the label of good documents")] = (
        0.5
    )
    max_chars: Annotated[
        int,
        Field(
            ge=20,
            le=10_000_000,
            description="Maximum number of characters of a document that the quality model reads, from four positions",
        ),
    ] = 5000

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "quality_classifier"
    reasons: ClassVar = ("low_quality_score",)
    signals: ClassVar = {"quality_score": "probability (0 to 1) of the classifier's positive label"}
    measured_by: ClassVar = ("model", "label", "max_chars")

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """quality_score: float32[D]; 0 for a text without a word or n-gram of the model.

        Raises:
            ConfigError: the model does not have the label.
        """
        classifier = fasttext_classifier.load(analysis.store, self.model)
        label = self.label.removeprefix("__label__")
        classifier.require(label, f"{self.name}.label")
        return {"quality_score": classifier.score(excerpts(analysis.texts, self.max_chars), label)}

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        return (Check("low_quality_score", "quality_score", minimum=self.min_score),)

    def fingerprint_files(self) -> tuple[str, ...]:
        """The model."""
        return (self.model,)
