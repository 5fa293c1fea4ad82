"""How often a training reads each kept document in an epoch: the setting `corpus.copies`, and the column it makes.

FineWeb2 repeats documents by the size of their duplicate group, other corpora by quality or by source. The corpus has
each document once, with its number of copies, and packing (training/pack/tokenise.py) repeats it.
"""

from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from raymill.cluster.examples.copies import MAX_COPIES

DUPLICATE_COUNT = "duplicate_count"

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Copies = Annotated[float, Field(ge=0, le=MAX_COPIES)]


class DocumentCopies(BaseModel):
    """How often each document of the corpus is in an epoch of training, as its column `copies`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: str = Field(
        DUPLICATE_COUNT,
        description="Column that `table` is about: duplicate_count, the number of documents of a duplicate group, or a "
        "measured signal",
    )
    table: dict[_Number, _Copies] = Field(
        {},
        max_length=1000,
        description="Smallest value of `by` -> copies, up to the next value; documents without a value, and those "
        "below all of them, have one; a fraction is the probability of one more, 0 leaves documents out",
    )
    sources: dict[str, _Copies] = Field(
        {}, max_length=1000, description="Source -> factor of the copies of its documents; other sources have 1"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not (self.table or self.sources):
            raise ValueError("no copies given; give a table, as in {1: 1, 2: 2, 5: 5}, or sources, as in {wiki: 3}")
        if (most := max(self.table.values(), default=1) * max(self.sources.values(), default=1)) > MAX_COPIES:
            raise ValueError(
                f"table and sources make up to {most:g} copies of a document; at most {MAX_COPIES} are packed"
            )
        return self

    def of(self, source: str, values: np.ndarray) -> np.ndarray:
        """The copies of D documents of a source, float64[D]. values: of `by`, numbers of any type, NaN for none."""
        bounds = np.array(sorted(self.table), np.float64)
        steps = np.array([1.0, *(self.table[bound] for bound in bounds)])
        values = values.astype(np.float64)
        found = np.searchsorted(bounds, np.where(np.isnan(values), -np.inf, values), side="right")
        return steps[found] * self.sources.get(source, 1.0)

    def __str__(self) -> str:
        parts = [f"{copies:g} from {bound:g}" for bound, copies in sorted(self.table.items())]
        shown = [f"by {self.by}: {', '.join(parts)}"] if parts else []
        factors = [f"{source} {factor:g}" for source, factor in sorted(self.sources.items())]
        return "; ".join([*shown, *([f"times, by source: {', '.join(factors)}"] if factors else [])])
