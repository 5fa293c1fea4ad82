"""Decontamination: documents that contain texts of evaluation sets.

Words are compared as deduplication does (text/tokens.py): without case, punctuation and white space. A document and a
text of a set share a run if `ngram_words` words in a row are equal, or all words of a shorter text. Of each text the
longest run counts, as a fraction of the text's words. So a quotation that was cut short is found as long as it has more
than `max_fraction` of the text, and words that both have in separate places are no match.

Texts of fewer than 8 words are not looked for, because they occur by chance.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field

from cluster.errors import ConfigError
from cluster.store.store import Store
from pipelines.rules.evaluation_sets import EvaluationSet, Examples, load_examples
from pipelines.rules.rule import Analysis, Check, Dialect
from pipelines.text.common_runs import CommonRuns, common_runs
from pipelines.text.texts import Texts

SIGNAL = "contamination_fraction"
_MOST_CHARACTERS = 1000

# A text of a set in a document.
MATCHES_SCHEMA = pa.schema(
    [
        ("document", pa.int64()),  # its index
        ("set", pa.string()),
        ("example", pa.int64()),  # the number of the row in the file of the set, from 0
        ("column", pa.string()),
        ("words", pa.int64()),  # of the longest run
        ("fraction", pa.float64()),  # of the words of the set's text
        ("start", pa.int64()),  # of the run in the document, in characters
        ("end", pa.int64()),  # behind its last character
        ("text", pa.string()),  # of the run, at most 1,000 characters
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decontamination:
    """Remove documents that contain more than `max_fraction` of a text of an evaluation set.

    Each of the `columns` of a set is a text of its own, so that a question without its answer is found. A run of at
    least `ngram_words` equal words in a row counts, or all words of a text with 8 words or more. With `remove: false`
    documents stay. The artifact `contaminated` lists set, example and span in both cases.

    Source: GPT-3, Brown et al. 2020, appendix C, for n-grams of 13 words without case and punctuation. There a single
    shared n-gram was enough, which also finds documents that quote the same source.
    """

    sets: Annotated[tuple[EvaluationSet, ...], Field(min_length=1)]
    ngram_words: Annotated[int, Field(ge=5, le=100)] = 13
    max_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.5
    remove: bool = True

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "decontamination"
    reasons: ClassVar = ("contaminated",)
    signals: ClassVar = {SIGNAL: "largest fraction (0 to 1) of an evaluation text that the document has in one run"}
    measured_by: ClassVar = ("sets", "ngram_words")

    def __post_init__(self) -> None:
        names = [one.name for one in self.sets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"decontamination.sets: {', '.join(twice)} names two sets; give each a name of its own, which the "
                "artifact `contaminated` has."
            )

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """contamination_fraction: float64[D]; 0 without a run of `ngram_words` words.

        Raises:
            ConfigError, StorageError: a file of a set is missing, lacks a column, or has no text to look for.
        """
        examples = self.examples(analysis.store)
        runs = common_runs(analysis.texts, examples.passages)
        fractions = np.zeros(len(analysis.texts))
        np.maximum.at(fractions, runs.document, _fractions(runs, examples))
        return {SIGNAL: fractions}

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        return (Check("contaminated", SIGNAL, maximum=self.max_fraction),) if self.remove else ()

    def fingerprint_files(self) -> tuple[str, ...]:
        """The files of the sets."""
        return tuple(one.path for one in self.sets)

    def examples(self, store: Store) -> Examples:
        """The texts of the sets."""
        return load_examples(store, self.sets, self.ngram_words)

    def matches(self, texts: Texts, store: Store) -> pa.Table:
        """Every text of a set of which a document has more than `max_fraction` (MATCHES_SCHEMA).

        Memory: 8 bytes for each byte of text.
        """
        examples = self.examples(store)
        runs = common_runs(texts, examples.passages)
        fractions = _fractions(runs, examples)
        found = np.flatnonzero(fractions > self.max_fraction)
        document, passage = runs.document[found], runs.passage[found]
        # Characters before each byte.
        before = np.concatenate([[0], np.cumsum((texts.data & 0xC0) != 0x80)])
        spans = list(zip(runs.begin[found].tolist(), runs.end[found].tolist(), strict=True))
        columns = {name: examples.origins[name].take(passage) for name in examples.origins.column_names}
        columns |= {
            "document": document,
            "words": runs.tokens[found],
            "fraction": fractions[found],
            "start": before[runs.begin[found]] - before[texts.offsets[document]],
            "end": before[runs.end[found]] - before[texts.offsets[document]],
            "text": pa.array([texts.data[b:e].tobytes().decode()[:_MOST_CHARACTERS] for b, e in spans], pa.string()),
        }
        return pa.table(columns).select(MATCHES_SCHEMA.names).cast(MATCHES_SCHEMA)


def _fractions(runs: CommonRuns, examples: Examples) -> np.ndarray:
    """float64[R]: the tokens of each run as a fraction of those of its text."""
    return runs.tokens / examples.passages.token_counts[runs.passage]
