"""Rule: a lower bound on the expected score by a classifier that was trained on a judge's scores."""

import json
import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import ConfigDict, Field

from raymill.cluster.asking.embedding_model import EmbeddingModel
from raymill.cluster.errors import ConfigError
from raymill.cluster.store import paths
from raymill.cluster.store.copies import LocalFile, local_file
from raymill.cluster.store.paths import AbsolutePath
from raymill.cluster.store.store import Store
from raymill.pipelines.embedder import embedder_of
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language.fasttext_classifier import Classifier
from raymill.pipelines.language.identification import excerpts
from raymill.pipelines.rules.linear_head import LinearHead
from raymill.pipelines.rules.rule import Analysis, Check, Dialect
from raymill.pipelines.text.texts import Texts

# Files in the folder of a classifier.
MODEL, HEAD, THRESHOLD = "model.bin", "head.json", "threshold.json"
_LARGEST = 64 << 20  # bytes of HEAD or THRESHOLD
_LONGEST_SCORE = 6  # digits


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeScore:
    """Remove documents whose expected score, by a classifier that `distil` trained on a judge's scores, is too low.

    `classifier` is the folder OUTPUT/classifier of the run. The bound is `min_score`, or the threshold of the run.
    The classifier reads as many characters of a document as in its training, from four positions: their words, or
    their text vector by the model `embedding`.

    Source: FineWeb-Edu, Penedo et al. 2024, https://arxiv.org/abs/2406.17557: a small model that was trained on a
    large model's scores from 0 to 5 selects pages, with the bound 3.
    """

    classifier: Annotated[
        AbsolutePath, Field(description="Folder or URI of a classifier that `distil` made: OUTPUT/classifier")
    ]
    embedding: Annotated[
        EmbeddingModel | None,
        Field(
            description="Model of text vectors, for a classifier that `distil` made with `embedding`: the same model, "
            "as a folder or an endpoint; null: the classifier reads words"
        ),
    ] = None
    min_score: Annotated[
        float | None,
        Field(ge=0, description="Minimum expected score; null: the threshold that `distil` chose"),
    ] = None

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "judge_score"
    reasons: ClassVar = ("low_judge_score",)
    signals: ClassVar = {
        "judge_score": "expected score by the rubric of the judge, at least 0",
        "judge_score_margin": "expected score minus the threshold that `distil` chose",
    }
    measured_by: ClassVar = ("classifier", "embedding")

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """judge_score, judge_score_margin: float32[D].

        Raises:
            ConfigError: the folder is not one that `distil` made.
        """
        model, plain = self.fingerprint_files()
        threshold = _threshold(analysis.store, local_file(analysis.store, plain, f"{self.name}.classifier"))
        self._refuse_other_model(threshold["embedding"])
        if self.embedding is not None:
            head = _head(analysis.store, local_file(analysis.store, model, f"{self.name}.classifier"))
            scores = self._by_vectors(head, analysis, threshold["max_chars"])
        else:
            classifier = fasttext_classifier.load(analysis.store, model)
            scores = expected_scores(classifier, analysis.texts, threshold["max_chars"])
        return {"judge_score": scores, "judge_score_margin": scores - np.float32(threshold["min_score"])}

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        # Checks read no files, so the threshold of the folder is subtracted in `measure`.
        if self.min_score is None:
            return (Check("low_judge_score", "judge_score_margin", minimum=0.0),)
        return (Check("low_judge_score", "judge_score", minimum=self.min_score),)

    def fingerprint_files(self) -> tuple[str, ...]:
        """The model, and the file with its threshold."""
        model = MODEL if self.embedding is None else HEAD
        return (paths.join(self.classifier, model), paths.join(self.classifier, THRESHOLD))

    def _refuse_other_model(self, made_with: Any) -> None:
        """Check the model of text vectors. made_with: the one by which the classifier was trained; None: by words.

        Raises:
            ConfigError: it is another.
        """
        given = self.embedding and self.embedding.decisive
        what = f"{self.name}.embedding"
        if made_with is None and given is not None:
            raise ConfigError(f"{what}: {self.classifier} reads words, and no vectors. Leave `embedding` out.")
        if made_with is not None and given is None:
            model = {"endpoint": "...", "name": made_with["name"]} if isinstance(made_with, dict) else made_with
            shown = json.dumps(model)
            raise ConfigError(
                f"{what}: missing; {self.classifier} was trained on text vectors. Name their model here: {shown}."
            )
        if isinstance(made_with, dict) and isinstance(given, dict):
            for name in ("name", "revision", "extra"):
                if made_with.get(name) != given[name]:
                    raise ConfigError(
                        f"{what}.{name}: {given[name]!r} given, and {self.classifier} was trained on the vectors of "
                        f"{made_with.get(name)!r}. Give the same."
                    )

    def _by_vectors(self, head: LinearHead, analysis: Analysis, max_chars: int) -> np.ndarray:
        """float32[D]: the expected scores by text vectors; NaN of a text without a vector, which is kept."""
        assert self.embedding is not None
        found = np.full(len(analysis.texts), np.nan, np.float32)
        if not len(found):
            return found
        if self.embedding.endpoint is not None and analysis.embedding is None:
            raise ConfigError(
                f"{self.name}.embedding: an endpoint is asked by runs of curate and prepare alone, which store its "
                "answers. Give the folder of the model, or use such a run."
            )
        embedder = embedder_of(self.embedding, analysis.store, analysis.embedding, f"{self.name}.embedding")
        vectors = embedder.embed(excerpts(analysis.texts, max_chars).to_arrow().to_pylist())
        if vectors.any() and vectors.shape[1] != len(head.weights):
            raise ConfigError(
                f"{self.name}.embedding: {self.embedding.place} gives vectors of {vectors.shape[1]} numbers, and "
                f"{self.classifier} was trained on vectors of {len(head.weights)}. Give the same model."
            )
        return head.expected_scores(vectors) if vectors.any() else found


def expected_scores(classifier: Classifier, texts: Texts, max_chars: int) -> np.ndarray:
    """float32[D]: the expected scores: labels of the classifier, weighted by their probabilities.

    Raises:
        ConfigError: the labels of the classifier are no scores.
    """
    are_scores = all(label.isdecimal() and len(label) <= _LONGEST_SCORE for label in classifier.labels)
    if not classifier.has_probabilities or not are_scores:
        raise ConfigError(
            f"{classifier.path}: is no classifier of scores, as `raymill distil` makes them in OUTPUT/classifier. Name "
            "one, or give the label of good documents to quality_classifier or quality_percentile."
        )
    scores = np.array([float(label) for label in classifier.labels], np.float32)
    return classifier.probabilities(excerpts(texts, max_chars)) @ scores


@cache
def _head(store: Store, file: LocalFile) -> LinearHead:
    return LinearHead.from_json(store.read_bytes(str(file.path), _LARGEST), str(file.path))


@cache
def _threshold(store: Store, file: LocalFile) -> dict[str, Any]:
    try:
        plain = json.loads(store.read_bytes(str(file.path), _LARGEST))
        found: dict[str, Any] = {"min_score": float(plain["min_score"]), "max_chars": int(plain["max_chars"])}
        if not math.isfinite(found["min_score"]):
            raise ValueError("min_score is no number")
        made_with = plain.get("embedding")
        if not isinstance(made_with, str | dict | None) or (isinstance(made_with, dict) and "name" not in made_with):
            raise ValueError("embedding is no model")
        found["embedding"] = made_with
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"{file.path}: is not the {THRESHOLD} that `raymill distil` writes beside its classifier ({error!r}). "
            "Point judge_score.classifier at OUTPUT/classifier of a finished run."
        ) from error
    if not 20 <= found["max_chars"] <= 10_000_000:
        raise ConfigError(f"{file.path}: max_chars is {found['max_chars']}; wanted 20 to 10000000. Copy it again.")
    return found
