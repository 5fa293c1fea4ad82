"""How fast rules are on one core: MB of text a second, per pack and together, in both dialects; and those of users.

    python -m tests.benchmarks.bench_rules [PATH]

PATH is a Parquet file with a column `text`; the default is timing.load_texts's.
"""

import sys
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.store.store import Store
from raymill.pipelines.rules import PACKS, Check
from raymill.pipelines.rules.filters import Rules
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import load_texts, machine, processor_seconds

DIALECTS = ("paper", "datatrove")


def returns_true(text: str) -> bool:
    """A rule on one text that does nothing: what the calls cost."""
    return True


def finds_word(text: str) -> bool:
    """A rule on one text with a search for a word."""
    return "lorem ipsum" not in text


def counts_capitals(text: str) -> bool:
    """A rule on one text with a loop over its characters."""
    return sum(character.isupper() for character in text) <= 0.3 * len(text)


@dataclass(frozen=True)
class CountsCapitals:
    """The same rule on arrays."""

    reasons: ClassVar = ("too_many_capitals",)
    signals: ClassVar = {"upper_fraction": "upper-case letters / characters"}

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """The signal of each document."""
        texts = analysis.texts.to_arrow()
        capitals = pc.count_substring_regex(texts, r"\p{Lu}").to_numpy()
        return {"upper_fraction": capitals / np.maximum(pc.utf8_length(texts).to_numpy(), 1)}

    def checks(self, dialect: str) -> tuple[Check, ...]:
        """The bound of the signal."""
        return (Check("too_many_capitals", "upper_fraction", maximum=0.3),)


def run(texts: Texts) -> None:
    megabytes = texts.byte_lengths.sum() / 1e6
    print(machine("numba", "numpy"))
    print(f"{len(texts):,} documents, {megabytes:.1f} MB; MB of text per second of processor time, one thread")
    for dialect in DIALECTS:
        analysis = fresh_analysis(texts, dialect)
        seconds = {"words": processor_seconds(lambda dialect=dialect: fresh_analysis(texts, dialect).words)}
        for name, pack in PACKS.items():
            seconds[name] = processor_seconds(partial(pack().measure, analysis))
        seconds["all but repetition"] = sum(seconds[name] for name in PACKS if name != "gopher_repetition")
        seconds["words and all packs"] = processor_seconds(partial(measure_all, texts, dialect))
        for name, taken in seconds.items():
            print(f"{dialect:10} {name:20} {megabytes / taken:7.0f}")
    for own in (returns_true, finds_word, counts_capitals, CountsCapitals):
        (rule,) = Rules(packs=[], custom=[own]).active()
        seconds_of_own = processor_seconds(partial(rule.measure, fresh_analysis(texts, "paper")))
        print(f"{'own':10} {own.__name__:20} {megabytes / seconds_of_own:7.0f}")


def fresh_analysis(texts: Texts, dialect: str) -> Analysis:
    return Analysis(texts, dialect, pa.table({"id": np.arange(len(texts))}), Store())


def measure_all(texts: Texts, dialect: str) -> None:
    analysis = fresh_analysis(texts, dialect)
    for pack in PACKS.values():
        pack().measure(analysis)


if __name__ == "__main__":
    run(load_texts(sys.argv[1] if len(sys.argv) > 1 else None))
