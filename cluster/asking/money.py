"""What answers cost, from the tokens that the server counted."""

from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, Field

_MILLION = 1e6


class TokenPrices(BaseModel, extra="forbid", frozen=True):
    """Prices of a model, in money for a million tokens."""

    input: float = Field(ge=0, description="Price of a million tokens of prompts")
    output: float = Field(ge=0, description="Price of a million tokens of answers")
    cached: float | None = Field(
        None, ge=0, description="Price of a million tokens of prompts that the server has in its cache; null: `input`"
    )
    reasoning: float | None = Field(
        None, ge=0, description="Price of a million tokens of reasoning before the answer; null: `output`"
    )
    batch: float = Field(0.5, ge=0, le=1, description="Fraction of the prices that requests in batch files cost")

    @property
    def in_batches(self) -> "TokenPrices":
        """The prices of requests in batch files."""
        given = {"input": self.input, "output": self.output, "cached": self.cached, "reasoning": self.reasoning}
        return TokenPrices(**{name: one if one is None else one * self.batch for name, one in given.items()})


@dataclass(frozen=True)
class TokenCounts:
    """Counted tokens. cached: of those of the input. reasoning: of those of the output."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0

    def __add__(self, other: Self) -> "TokenCounts":
        return TokenCounts(
            self.input + other.input,
            self.cached + other.cached,
            self.output + other.output,
            self.reasoning + other.reasoning,
        )

    def cost(self, prices: TokenPrices | None) -> float:
        """What they cost; 0 without prices."""
        if prices is None:
            return 0.0
        cached = prices.input if prices.cached is None else prices.cached
        reasoning = prices.output if prices.reasoning is None else prices.reasoning
        return (
            (self.input - self.cached) * prices.input
            + self.cached * cached
            + (self.output - self.reasoning) * prices.output
            + self.reasoning * reasoning
        ) / _MILLION


def tokens_of(usage: Any) -> TokenCounts:
    """The tokens in the `usage` of an answer. What is missing, or no count, is 0."""

    def count(value: Any, *names: str) -> int:
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31 else 0

    of_input, of_output = count(usage, "prompt_tokens"), count(usage, "completion_tokens")
    return TokenCounts(
        of_input,
        min(of_input, count(usage, "prompt_tokens_details", "cached_tokens")),
        of_output,
        min(of_output, count(usage, "completion_tokens_details", "reasoning_tokens")),
    )


def most_tokens(body: str, max_tokens: int) -> TokenCounts:
    """The most tokens that a request can take: a token of the prompt has at least one byte."""
    return TokenCounts(input=len(body.encode("utf-8", "surrogatepass")), output=max_tokens)
