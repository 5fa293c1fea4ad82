"""The settings `assess` and `gates` of a prepare config. They have no effect on the data set."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from raymill.cluster.asking.embedding_model import EmbeddingModel
from raymill.cluster.store import paths
from raymill.pipelines.language.fasttext_file import LABEL_PREFIX

Fraction = Annotated[float, Field(ge=0, le=1)]

MAXIMA = ("duplication", "leakage")  # gates that are the most that is allowed


# Metadata, annotations and stages of the curriculum whose balance is measured where they have several values.
BALANCED = ("domain", "language", "category", "categories", "complexity")


_TABLES = (".parquet", ".jsonl")


class Weights(BaseModel, extra="forbid", frozen=True):
    """Weights of the parts of the score. A part that is not measured is left out."""

    accuracy: float = Field(
        0.25,
        ge=0,
        description="Weight in the score of accuracy: label quality, agreement of annotators and conformity to rules",
    )
    completeness: float = Field(
        0.20, ge=0, description="Weight in the score of completeness: records without an empty field"
    )
    consistency: float = Field(
        0.20,
        ge=0,
        description="Weight in the score of consistency: permitted values, one answer to a question, one format, one "
        "term",
    )
    relevance: float = Field(
        0.15, ge=0, description="Weight in the score of relevance: topics, and similarity to examples"
    )
    diversity: float = Field(
        0.10, ge=0, description="Weight in the score of diversity: of words, structure, meaning and domains"
    )
    bias: float = Field(
        0.10,
        ge=0,
        description="Weight in the score of bias: representation of groups, parity of their lengths and sentiment",
    )


class TextVectors(BaseModel, extra="forbid", frozen=True):
    """How texts become vectors."""

    model: EmbeddingModel | None = Field(
        None,
        description="Model that computes text vectors: the folder, URI or hub name of a sentence-transformers model, "
        "or settings with an `endpoint`; null: TF-IDF with truncated SVD, fitted to a sample",
    )
    dimensions: int = Field(64, ge=2, le=512, description="Number of dimensions of text vectors if `model` is null")
    sample: int = Field(
        5000, ge=100, le=50_000, description="Number of records that TF-IDF and SVD are fitted to if `model` is null"
    )


class Embeddings(TextVectors):
    """How texts become vectors, and what is measured of these."""

    groups: int = Field(
        20,
        ge=2,
        le=1000,
        description="Number of k-means groups of the text vectors; the evenness of their sizes is the semantic "
        "diversity",
    )


class Sentiment(BaseModel, extra="forbid", frozen=True):
    """A classifier of texts, by whose scores the values of `groups` are compared."""

    model: paths.AbsolutePath = Field(
        description="Path or URI of a supervised fastText model (.bin or .ftz) that scores sentiment"
    )
    label: str = Field(
        min_length=1,
        description="Label of the sentiment model whose probability is compared, with or without __label__",
    )
    max_chars: int = Field(
        5000,
        ge=20,
        le=10_000_000,
        description="Maximum number of characters of a record that the sentiment model reads",
    )

    @property
    def plain_label(self) -> str:
        return self.label.removeprefix(LABEL_PREFIX)


class Assess(BaseModel, extra="forbid", frozen=True):
    """What the assessment compares the data set with."""

    topics: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        {},
        description="Topics that the data set should cover, each with the words or phrases that name it; in a list "
        "of topics each is its own word",
    )
    topic_records: int = Field(
        1, ge=1, description="Minimum number of records that must mention a topic for it to be covered"
    )
    examples: tuple[str, ...] = Field((), description="Texts of the domain that answers are compared with")
    languages: tuple[str, ...] = Field(
        (), description="Labels of the languages that records should have; empty: the most frequent one"
    )
    fields: tuple[str, ...] = Field(
        (),
        description="Metadata fields whose balance is measured, besides source, task type, domain, language, "
        "category, complexity and those of other settings",
    )
    label: str | None = Field(None, description="Label column to audit for wrong labels; null: none")
    predictions: str | None = Field(
        None,
        min_length=1,
        description="Probabilities of labels by which wrong ones are found: a metadata field with {VALUE: "
        "PROBABILITY}, or a .parquet or .jsonl file with `id` and a column for each value; null: by a "
        "built-in model",
    )
    extrinsic: str | None = Field(
        None,
        description="Metadata field that a model is trained to predict, as a measure of the data set; null: the label",
    )
    annotators: tuple[str, ...] = Field(
        (),
        description="Metadata fields with the labels of each annotator, whose agreement is measured; empty: a "
        "record's `labels`, if it has as many `annotators`",
    )
    groups: dict[str, dict[str, Fraction]] = Field(
        {},
        description="Metadata fields whose values' fractions are compared with the population, as {FIELD: {VALUE: "
        "FRACTION}}; in a list of fields all values should be equally frequent",
    )
    sentiment: Sentiment | None = Field(
        None, description="Comparison of sources and `groups` by a classifier of sentiment; null: none"
    )
    period: str | None = Field(
        None, description="Metadata field with a date, whose months should have equal numbers of records; null: none"
    )
    embeddings: Embeddings | None = Field(
        Embeddings(),
        description="Text vectors, for similarity, semantic diversity and wrong labels; null: these are not measured",
    )
    sample: int = Field(
        1000, ge=1, le=10_000, description="Number of records whose words are counted for lexical diversity"
    )
    weights: Weights = Field(Weights(), description="Weights of the parts of the score")

    @property
    def predictions_file(self) -> str | None:
        """The file of `predictions`; None of metadata."""
        return self.predictions if self.predictions and self.predictions.endswith(_TABLES) else None

    @property
    def files(self) -> dict[str, str]:
        """Setting -> the file, model or URI that it names."""
        named = {
            "assess.predictions": self.predictions_file,
            "assess.sentiment.model": self.sentiment and self.sentiment.model,
            "assess.embeddings.model": self.embeddings and self.embeddings.model and self.embeddings.model.place,
        }
        return {setting: one for setting, one in named.items() if one}

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

    coverage: Fraction | None = Field(
        0.95, description="Minimum fraction of `assess.topics` that are covered; null: no gate"
    )
    duplication: Fraction | None = Field(
        0.01, description="Maximum fraction of questions that repeat an earlier question; null: no gate"
    )
    leakage: Fraction | None = Field(
        None,
        description="Maximum fraction of the questions of validation and test that train has too; null: no gate, and "
        "a warning",
    )
    language_quality: Fraction | None = Field(
        0.98,
        description="Minimum fraction of records in an expected language and without damaged characters; null: no gate",
    )
    source_diversity: Fraction | None = Field(
        0.8, description="Minimum evenness of the sources' numbers of records, from 0 to 1; null: no gate"
    )
    completeness: Fraction | None = Field(
        None, description="Minimum fraction of records without an empty text or metadata field; null: no gate"
    )
    consistency: Fraction | None = Field(
        None,
        description="Minimum fraction of records without a value, answer, format or term that contradicts others; "
        "null: no gate",
    )
    accuracy: Fraction | None = Field(
        None,
        description="Minimum accuracy, from 0 to 1: mean of label quality, agreement and conformity to rules; null: "
        "no gate",
    )
    relevance: Fraction | None = Field(
        None,
        description="Minimum relevance, from 0 to 1: mean of the fraction of records with a topic and the similarity "
        "to examples; null: no gate",
    )
    answer_relevance: Fraction | None = Field(
        None, description="Minimum mean cosine similarity of answers to what precedes them; null: no gate"
    )
    diversity: Fraction | None = Field(
        None,
        description="Minimum diversity, from 0 to 1: mean of lexical, structural, semantic and domain diversity; "
        "null: no gate",
    )
    bias: Fraction | None = Field(
        None,
        description="Minimum parity, from 0 (biased) to 1: mean of representation, length parity and sentiment "
        "parity; null: no gate",
    )
    extrinsic_f1: Fraction | None = Field(
        None, description="Minimum F1 score of a model that predicts `assess.extrinsic`; null: no gate"
    )
    trained: dict[str, Fraction] = Field(
        {},
        description="Minimum mean scores of a cross-validated training, as {accuracy: 0.8}; measured by `raymill "
        "assess OUTPUT --folds RUN`",
    )
    score: Fraction | None = Field(None, description="Minimum score of the data set, from 0 to 1; null: no gate")
