"""The settings `assess` and `gates` of a prepare config. They have no effect on the data set."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from raymill.cluster.store import paths
from raymill.pipelines.language.fasttext_file import LABEL_PREFIX

Fraction = Annotated[float, Field(ge=0, le=1)]

MAXIMA = ("duplication", "leakage")  # gates that are the most that is allowed


# Metadata, annotations and stages of the curriculum whose balance is measured where they have several values.
BALANCED = ("domain", "language", "category", "categories", "complexity")


_TABLES = (".parquet", ".jsonl")
MODELS = "Give the folder that `SentenceTransformer.save` wrote, the URI of one, or a name of the Hugging Face hub."


class Weights(BaseModel, extra="forbid", frozen=True):
    """Weights of the parts of the score. A part that is not measured is left out."""

    accuracy: float = Field(0.25, ge=0)
    completeness: float = Field(0.20, ge=0)
    consistency: float = Field(0.20, ge=0)
    relevance: float = Field(0.15, ge=0)
    diversity: float = Field(0.10, ge=0)
    bias: float = Field(0.10, ge=0)


class TextVectors(BaseModel, extra="forbid", frozen=True):
    """How texts become vectors."""

    model: str | None = Field(
        None,
        min_length=1,
        description="folder, URI or hub name of a sentence-transformers model; default: TF-IDF with truncated SVD of a "
        "sample",
    )
    dimensions: int = Field(64, ge=2, le=512, description="vector dimensions of the default model")
    sample: int = Field(5000, ge=100, le=50_000, description="records to which the default model is fitted")

    @field_validator("model")
    @classmethod
    def _absolute(cls, model: str | None) -> str | None:
        """A folder's absolute path, since workers have other working directories; a name of the hub as it is."""
        return paths.absolute(model) if model and (_is_path(model) or Path(model).is_dir()) else model

    @property
    def is_folder(self) -> bool:
        """Whether the model is a folder or URI, and no name of the hub."""
        return self.model is not None and _is_path(self.model)


class Embeddings(TextVectors):
    """How texts become vectors, and what is measured of these."""

    groups: int = Field(20, ge=2, le=1000, description="k of k-means; the groups' evenness is the semantic diversity")


def _is_path(model: str) -> bool:
    return paths.is_remote(model) or model.startswith(("/", "./", "../", "~", "file:")) or model.count("/") > 1


class Sentiment(BaseModel, extra="forbid", frozen=True):
    """A classifier of texts, by whose scores the values of `groups` are compared."""

    model: paths.AbsolutePath = Field(description="path or URI of a supervised fastText .bin or .ftz")
    label: str = Field(min_length=1, description="label whose probability is compared, with or without __label__")
    max_chars: int = Field(5000, ge=20, le=10_000_000, description="characters of a record that the model is given")

    @property
    def plain_label(self) -> str:
        return self.label.removeprefix(LABEL_PREFIX)


class Assess(BaseModel, extra="forbid", frozen=True):
    """What the assessment compares the data set with."""

    topics: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        {}, description="topic -> words or phrases that name it; a list of topics: each is its own word"
    )
    topic_records: int = Field(1, ge=1, description="records that must mention a topic")
    examples: tuple[str, ...] = Field((), description="texts of the domain, with which answers are compared")
    languages: tuple[str, ...] = Field((), description="expected ones; default: the most frequent one")
    fields: tuple[str, ...] = Field(
        (),
        description="metadata whose balance is measured besides source, task type, domain, language, category and "
        "complexity, and those that other settings name",
    )
    label: str | None = Field(None, description="label column to audit for wrong labels")
    predictions: str | None = Field(
        None,
        min_length=1,
        description="probabilities of the label's values by any model, by which wrong ones are found in place of the "
        "built-in model's: metadata with {VALUE: PROBABILITY}, or a .parquet or .jsonl file with `id` and a column for "
        "each value",
    )
    extrinsic: str | None = Field(
        None, description="metadata that a model is trained to predict, as a measure of the data; default: the label"
    )
    annotators: tuple[str, ...] = Field(
        (),
        description="metadata with the label of each annotator, whose agreement is measured; default: `labels` of the "
        "annotations, where `annotators` names as many",
    )
    groups: dict[str, dict[str, Fraction]] = Field(
        {},
        description="metadata -> value -> its share in the population; a list of metadata: values should have equal "
        "shares",
    )
    sentiment: Sentiment | None = Field(None, description="compares sources and `groups` by a classifier's scores")
    period: str | None = Field(None, description="metadata with a date, whose months should have equally many records")
    embeddings: Embeddings | None = Field(Embeddings(), description="null: nothing that needs vectors is measured")
    sample: int = Field(1000, ge=1, le=10_000, description="records whose words are counted for lexical diversity")
    weights: Weights = Weights()

    @property
    def predictions_file(self) -> str | None:
        """The file of `predictions`; None of metadata."""
        return self.predictions if self.predictions and self.predictions.endswith(_TABLES) else None

    @field_validator("predictions")
    @classmethod
    def _absolute(cls, predictions: str | None) -> str | None:
        return paths.absolute(predictions) if predictions and predictions.endswith(_TABLES) else predictions

    @property
    def predicted(self) -> tuple[str, ...]:
        """The fields that are predicted, the label first."""
        return tuple(dict.fromkeys(name for name in (self.label, self.extrinsic) if name is not None))

    @field_validator("topics", mode="before")
    @classmethod
    def _topics_without_words(cls, topics: Any) -> Any:
        return {topic: (topic,) for topic in topics} if isinstance(topics, list | tuple) else topics

    @field_validator("groups", mode="before")
    @classmethod
    def _groups_without_shares(cls, groups: Any) -> Any:
        return {field: {} for field in groups} if isinstance(groups, list | tuple) else groups

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for topic, words in self.topics.items():
            for phrase in words:
                if not any(map(str.isalnum, phrase)):
                    raise ValueError(f"topics.{topic}: {phrase!r} has no word")
        for field, shares in self.groups.items():
            if shares and abs(sum(shares.values()) - 1) > 1e-6:
                raise ValueError(f"groups.{field}: the shares sum to {sum(shares.values()):g}; wanted 1")
        if self.predictions and self.label is None:
            raise ValueError("predictions: of no label; name the metadata that is predicted in `label`")
        if len(self.annotators) == 1:
            raise ValueError(f"annotators: {self.annotators[0]} alone; agreement takes two fields or more")
        if self.embeddings is None:
            needing = {"label": self.label, "extrinsic": self.extrinsic, "examples": self.examples}
            for name, value in needing.items():
                if value:
                    raise ValueError(
                        f"{name}: is measured by vectors of the texts, and `embeddings: null` turns these off; leave "
                        f"`{name}` or `embeddings` out"
                    )
        return self


class Gates(BaseModel, extra="forbid", frozen=True):
    """Bounds that the data set must keep; null: no gate. Those of MAXIMA are the most that is allowed, others the
    least.
    """

    coverage: Fraction | None = 0.95
    duplication: Fraction | None = 0.01
    leakage: Fraction | None = None
    language_quality: Fraction | None = 0.98
    source_diversity: Fraction | None = 0.8
    completeness: Fraction | None = None
    consistency: Fraction | None = None
    accuracy: Fraction | None = None
    relevance: Fraction | None = None
    answer_relevance: Fraction | None = None
    diversity: Fraction | None = None
    bias: Fraction | None = None
    extrinsic_f1: Fraction | None = None
    trained: dict[str, Fraction] = Field(
        {},
        description="score of a cross-validated training -> its least mean, such as {accuracy: 0.8}; measured by "
        "`raymill assess OUTPUT --folds RUN`",
    )
    score: Fraction | None = None
