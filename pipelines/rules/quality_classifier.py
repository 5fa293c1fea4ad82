"""A fastText quality classifier as a rule: the probability of its positive label, and the least that may stay."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ConfigDict, Field

from pipelines.language import fasttext_model as classifiers
from pipelines.language.identification import excerpts
from pipelines.rules.analysis import Analysis
from pipelines.rules.rule import Check, Dialect


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityClassifier:
    """Remove documents to which a classifier gives less than `min_score` probability of being good.

    `model` is the path or URI of a supervised fastText .bin or .ftz, `label` its positive label with or without
    "__label__" ("hq" of DCLM's classifier). The classifier sees at most `max_chars` characters from four places of the
    document, on one line and otherwise as they are; a model that was trained on lower-cased text will score low.
    Raising `max_chars` to the length of the documents shows it all of them, at fastText's pace.

    Source: DataComp-LM, Li et al. 2024, section 4.4: a linear fastText classifier beat the costlier filters tried.
    https://arxiv.org/abs/2406.11794. There the threshold is a share of the documents, here a probability.
    """

    model: str
    label: str
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.5
    max_chars: Annotated[int, Field(ge=20, le=10_000_000)] = 5000

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "quality_classifier"
    reasons: ClassVar = ("low_quality_score",)
    signals: ClassVar = {"quality_score": "probability (0 to 1) of the classifier's positive label"}
    measured_by: ClassVar = ("model", "label", "max_chars")

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """float32[D]. A text of which the model knows nothing scores 0."""
        classifier = classifiers.load(self.model)
        label = self.label.removeprefix("__label__")
        classifier.require(label, f"{self.name}.label")
        return {"quality_score": classifier.score(excerpts(analysis.texts, self.max_chars), label)}

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        return (Check("low_quality_score", "quality_score", minimum=self.min_score),)

    def fingerprint_files(self) -> tuple[str, ...]:
        return (self.model,)
