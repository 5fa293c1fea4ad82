"""Pages of web archives that an earlier page of the input repeats, known before their text is extracted."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field

from raymill.pipelines.rules.rule import Analysis, Check, Dialect

PageKey = Literal["url", "payload_digest"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RepeatedPages:
    """Remove pages of web archives that have the URL or the payload of an earlier page.

    Of all pages with one URL, the first in order of the input stays, in whichever file, input and crawl; then of all
    that are left with one `WARC-Payload-Digest`, which is the hash of the response's body, again the first. So what is
    removed by its digest has a copy that stays. URLs are compared as they are. Pages that other rules of the URL remove
    do not count. Nothing is removed from other formats, nor by a digest that an archive does not state.

    The text of a removed page is not extracted. To find them, archives are read once more, without extraction.
    """

    by: Annotated[
        tuple[PageKey, ...], Field(min_length=1, description="What makes two pages the same: their URL, their payload")
    ] = ("url", "payload_digest")

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "repeated_pages"
    reasons: ClassVar = ("repeated_url", "repeated_payload")
    signals: ClassVar = {
        "page_url_repeated": "1 if an earlier page has the page's URL, else 0",
        "page_payload_repeated": "1 if an earlier page has the page's payload, else 0",
    }
    measured_by: ClassVar = ("by",)
    by_url: ClassVar = True
    column: ClassVar = "url"

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """page_url_repeated, page_payload_repeated: uint8[D]."""
        found = np.zeros((2, len(analysis.texts)), np.uint8)
        if analysis.repeated and "where" in analysis.columns.column_names:
            for row, place in enumerate(analysis.columns["where"].to_pylist()):
                if (key := analysis.repeated.get(place)) is not None:
                    found[("url", "payload_digest").index(key), row] = 1
        return {"page_url_repeated": found[0], "page_payload_repeated": found[1]}

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        pairs = zip(self.reasons, self.signals, strict=True)
        return tuple(Check(reason, signal, maximum=0) for reason, signal in pairs)
