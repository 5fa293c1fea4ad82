"""The settings of deduplication, and the banding that follows from them."""

from functools import cached_property
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raymill.cluster.store.paths import AbsolutePath

# Weights of false positives and false negatives when the banding is derived. A false positive only costs time.
_LSH_WEIGHTS = (0.1, 0.9)
_LEAST_RECALL_AT_THRESHOLD = 0.5

# Each signature column costs 4 bytes per document. Speed falls in proportion to their number: 238 MB/s of text with
# 128 columns, 1/32 of it with 4,096.
_MOST_COLUMNS = 4096
_PERMUTATIONS = 128

NO_EFFECT_ON_RESULT = frozenset({"component_documents", "connected_at_once"})


class Dedup(BaseModel):
    """The settings of deduplication.

    A word is a lower-cased run of letters, marks and numbers; in signatures.py and the column `tokens` it is a token.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))

    threshold: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Minimum Jaccard similarity of the word n-grams of two documents at which they are duplicates",
    )
    ngram_words: int = Field(
        5, ge=1, le=64, description="Number of words in an n-gram (shingle), by which documents are compared"
    )
    symbols: bool = Field(
        False,
        description="Whether punctuation characters and symbols count as words in comparisons, so that code or "
        "formulas that differ in operators alone are not duplicates",
    )
    bands: int | None = Field(
        14,
        ge=1,
        le=_MOST_COLUMNS,
        description="Number of LSH bands of a MinHash signature; null: derived from `threshold` and `permutations`, "
        "`rows_per_band` too",
    )
    rows_per_band: int | None = Field(
        8,
        ge=1,
        le=_MOST_COLUMNS,
        description="Number of MinHash values in an LSH band; null: derived from `threshold` and `permutations`, "
        "`bands` too",
    )
    permutations: int = Field(
        _PERMUTATIONS, ge=2, le=_MOST_COLUMNS, description="Number of MinHash values in a signature if `bands` is null"
    )
    seed: int = Field(1, ge=0, lt=1 << 32, description="Random seed of the MinHash permutations")
    exact_short: bool = Field(
        True,
        description="Whether documents with fewer n-grams than their signature has values are compared by the "
        "n-grams themselves; false: by signatures",
    )
    keeper: Literal["position", "longest", "score", "source", "newest"] = Field(
        "position",
        description="Document that is kept of a duplicate group: the first of the input, the longest, the one with "
        "the highest `keeper_score`, from the first of `sources`, or with the latest `newest_by`",
    )
    keeper_score: str | None = Field(
        None, description="Signal whose highest value selects the kept document, for `keeper: score`; null: none"
    )
    sources: tuple[str, ...] = Field(
        (), description="Sources in order of preference, for `keeper: source`; sources that are not named come last"
    )
    newest_by: str | None = Field(
        None,
        description="Carried column with the date, time or number that selects the kept document, for `keeper: "
        "newest`; documents without a value come last; null: none",
    )
    scope: Literal["all", "source", "snapshot"] = Field(
        "all",
        description="Documents that are compared with each other: all, those of one source, or those of one snapshot",
    )
    against: tuple[AbsolutePath, ...] = Field(
        (), description="Outputs of earlier curation runs, of whose documents duplicates are removed"
    )
    component_documents: int = Field(
        2_000_000,
        ge=1,
        description="Maximum number of documents connected by LSH keys that one task compares at once, at 1.5 KB "
        "each; of more, blocks are compared one after the other. No effect on the corpus",
    )
    connected_at_once: int = Field(
        200_000_000,
        ge=1,
        description="Maximum number of links between documents that one task connects to components, at 12 bytes "
        "each; more are connected in several rounds. No effect on the corpus",
    )
    remove: bool = Field(
        True,
        description="Whether duplicates are removed; false: they stay in the corpus, with group_id and duplicate_count",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.bands is None) != (self.rows_per_band is None):
            raise ValueError("bands and rows_per_band go together: give both, or null for both")
        if (self.keeper == "score") != (self.keeper_score is not None):
            raise ValueError("keeper_score, the name of a signal, is required with keeper: score and refused otherwise")
        if (self.keeper == "newest") != (self.newest_by is not None):
            raise ValueError("newest_by, a carried column, is required with keeper: newest and refused otherwise")
        if (self.keeper == "source") != bool(self.sources):
            raise ValueError(
                "sources, the most trusted first, is required with keeper: source and refused otherwise; give both, or "
                "neither"
            )
        if len(set(self.sources)) < len(self.sources):
            raise ValueError(f"sources: {list(self.sources)} names a source twice; name each once")
        if self.against and self.scope == "snapshot":
            raise ValueError(
                "against has no effect with scope: snapshot, where the documents of a snapshot are compared with each "
                "other alone; leave one of them out"
            )
        if len(set(self.against)) < len(self.against):
            raise ValueError(f"against: {list(self.against)} names a run twice; name each once")
        columns = (self.bands or 0) * (self.rows_per_band or 0)
        if columns > _MOST_COLUMNS:
            raise ValueError(
                f"{self.bands} bands of {self.rows_per_band} columns are {columns:,} signature columns of every "
                f"document; at most {_MOST_COLUMNS:,} are computed, and 112 are usual. Lower one"
            )
        if columns and self.permutations != _PERMUTATIONS:
            raise ValueError(
                f"permutations: {self.permutations} has no effect beside bands and rows_per_band, which make {columns} "
                "columns; set both to null, or leave permutations out"
            )
        recall = self.caught(self.threshold)
        if recall < _LEAST_RECALL_AT_THRESHOLD:
            bands, columns = self.banding
            raise ValueError(
                f"{bands} bands of {columns} signature columns catch only {recall:.0%} of the pairs at similarity "
                f"{self.threshold}; set bands and rows_per_band to null to derive them from the threshold"
            )
        return self

    @cached_property
    def banding(self) -> tuple[int, int]:
        """(number of bands, signature columns of each)."""
        if self.bands is not None and self.rows_per_band is not None:
            return self.bands, self.rows_per_band
        from datasketch import MinHashLSH  # the import takes 0.4 s (scipy), and few configs derive their banding

        index = MinHashLSH(threshold=self.threshold, num_perm=self.permutations, weights=_LSH_WEIGHTS)
        return index.b, index.r

    def caught(self, similarity: float) -> float:
        """Probability that two documents of this similarity share a band: 1 - (1 - s^columns)^bands."""
        bands, columns = self.banding
        return 1 - (1 - similarity**columns) ** bands
