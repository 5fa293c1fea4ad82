"""Rules of one's own for curate.yaml in this folder."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow.compute as pc
from pydantic import Field

from raymill.pipelines.rules import Check
from raymill.pipelines.rules.rule import Analysis


def no_placeholder(text: str, *, words: tuple[str, ...] = ("lorem ipsum", "TBD")) -> bool:
    """Keep a text without placeholders. The parameter `words` is a setting."""
    return not any(word in text for word in words)


class FewLinks:
    """Keep texts with few links. The pattern is compiled once in each worker."""

    def __init__(self, max_links: int = 2) -> None:
        self.max_links = max_links
        self._link = re.compile(r"https?://")

    def keep(self, text: str) -> bool:
        """Whether a text has at most `max_links`."""
        return len(self._link.findall(text)) <= self.max_links


@dataclass(frozen=True, kw_only=True)
class Shouting:
    """Remove documents written in capitals."""

    max_upper_fraction: Annotated[
        float, Field(ge=0, le=1, description="Maximum fraction of characters that are upper-case letters")
    ] = 0.3

    reasons: ClassVar = ("too_many_capitals",)
    signals: ClassVar = {"upper_fraction": "upper-case letters / characters"}
    measured_by: ClassVar = ()  # no setting changes the signal: a bound is changed without measuring again

    def measure(self, analysis: Analysis) -> dict[str, Any]:
        """The signal of each document."""
        texts = analysis.texts.to_arrow()
        capitals = pc.count_substring_regex(texts, r"\p{Lu}").to_numpy()
        return {"upper_fraction": capitals / np.maximum(pc.utf8_length(texts).to_numpy(), 1)}

    def checks(self, dialect: str) -> tuple[Check, ...]:
        """The bound of the signal."""
        return (Check("too_many_capitals", "upper_fraction", maximum=self.max_upper_fraction),)
