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

    threshold: float = Field(0.8, gt=0, le=1, description="least Jaccard similarity of a duplicate")
    ngram_words: int = Field(5, ge=1, le=64, description="words of a shingle")
    symbols: bool = Field(
        False,
        description="count each punctuation character or symbol as a word, for code and mathematics: texts that differ "
        "in operators alone are equal without it",
    )
    bands: int | None = Field(
        14, ge=1, le=_MOST_COLUMNS, description="null (then rows_per_band too): derived from threshold and permutations"
    )
    rows_per_band: int | None = Field(8, ge=1, le=_MOST_COLUMNS, description="signature columns of each band")
    permutations: int = Field(
        _PERMUTATIONS, ge=2, le=_MOST_COLUMNS, description="signature columns if bands are derived"
    )
    seed: int = Field(1, ge=0, lt=1 << 32, description="random seed of the MinHash permutations")
    exact_short: bool = Field(
        True, description="compare documents with fewer shingles than signature columns exactly; false: by signatures"
    )
    keeper: Literal["position", "longest", "score", "source", "newest"] = Field(
        "position",
        description="the document that a group keeps: the first, the longest, the best scored, of the preferred "
        "source, the newest",
    )
    keeper_score: str | None = Field(None, description="the signal that `keeper: score` compares; more is better")
    sources: tuple[str, ...] = Field((), description="`keeper: source`: most trusted first; unlisted sources come last")
    newest_by: str | None = Field(
        None,
        description="the carried column that `keeper: newest` compares: dates, times, numbers, or text of these; "
        "documents without a value come last",
    )
    scope: Literal["all", "source", "snapshot"] = Field(
        "all", description="duplicates are removed among all documents, or within each source, or each snapshot"
    )
    against: tuple[AbsolutePath, ...] = Field(
        (), description="outputs of earlier runs: duplicates of their documents are removed"
    )
    component_documents: int = Field(
        2_000_000,
        ge=1,
        description="largest number of documents connected by shared keys that one task compares at once, with 1.5 KB "
        "each; more are compared in blocks of 2^19, one after the other. No effect on the corpus",
    )
    connected_at_once: int = Field(
        200_000_000,
        ge=1,
        description="largest number of links that one task connects to components, with at most 12 bytes each; a key "
        "that n documents share makes n - 1 links. More are connected in rounds of stages. No effect on the corpus",
    )
    remove: bool = Field(True, description="false: keep duplicates in the corpus, with group_id and duplicate_count")

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
