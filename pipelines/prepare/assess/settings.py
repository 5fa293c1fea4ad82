"""The settings `assess` and `gates` of a prepare config. They have no effect on the data set."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Weights(_Settings):
    """Weights of the parts of the score. A part that is not measured is left out."""

    accuracy: float = Field(0.25, ge=0)
    completeness: float = Field(0.20, ge=0)
    consistency: float = Field(0.20, ge=0)
    relevance: float = Field(0.15, ge=0)
    diversity: float = Field(0.10, ge=0)
    bias: float = Field(0.10, ge=0)


class Assess(_Settings):
    """What the assessment compares the data set with."""

    topics: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        {}, description="topic -> words or phrases that name it; a list of topics: each is its own word"
    )
    topic_records: int = Field(1, ge=1, description="records that must mention a topic")
    languages: tuple[str, ...] = Field((), description="expected ones; default: the most frequent one")
    fields: tuple[str, ...] = Field(
        (),
        description="metadata whose balance is measured besides source, task type, and those that other settings name",
    )
    sample: int = Field(1000, ge=1, le=10_000, description="records whose words are counted for lexical diversity")
    weights: Weights = Weights()

    @field_validator("topics", mode="before")
    @classmethod
    def _topics_without_words(cls, topics: Any) -> Any:
        return {topic: (topic,) for topic in topics} if isinstance(topics, list | tuple) else topics

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for topic, words in self.topics.items():
            for phrase in words:
                if not any(map(str.isalnum, phrase)):
                    raise ValueError(f"topics.{topic}: {phrase!r} has no word")
        return self


class Gates(_Settings):
    """Bounds that the data set must keep; null: no gate. Duplication is the most that is allowed, others the least."""

    coverage: Fraction | None = 0.95
    duplication: Fraction | None = 0.01
    language_quality: Fraction | None = 0.98
    source_diversity: Fraction | None = 0.8
    completeness: Fraction | None = None
    consistency: Fraction | None = None
    score: Fraction | None = None
