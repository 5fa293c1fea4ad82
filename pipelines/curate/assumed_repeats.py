"""The rule `repeated_pages` of a plan, whose sample shows no repeated page."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow.compute as pc

from raymill.pipelines.rules.repeated_pages import RepeatedPages
from raymill.pipelines.rules.rule import Analysis, Check, Dialect


@dataclass(frozen=True, kw_only=True, slots=True)
class AssumedRepeats:
    """Removes a share of the pages, by a hash of their URL.

    A document with a text is none of them: of a page that is removed no text is extracted.
    """

    share: float

    name: ClassVar = RepeatedPages.name
    reasons: ClassVar = RepeatedPages.reasons
    signals: ClassVar = RepeatedPages.signals
    measured_by: ClassVar = ("share",)
    by_url: ClassVar = True
    column: ClassVar = RepeatedPages.column

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """page_url_repeated, page_payload_repeated: uint8[D]."""
        found = np.zeros((2, len(analysis.texts)), np.uint8)
        empty = pc.equal(pc.binary_length(analysis.texts.to_arrow()), 0).to_numpy(zero_copy_only=False)
        for row, url in enumerate(analysis.columns[self.column].to_pylist()):
            hashed = hashlib.blake2b((url or "").encode(), digest_size=8).digest()
            found[0, row] = empty[row] and int.from_bytes(hashed, "little") < self.share * 2**64
        return {"page_url_repeated": found[0], "page_payload_repeated": found[1]}

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        return RepeatedPages().checks(dialect)
