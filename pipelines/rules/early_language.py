"""Rule: the language of a web page by its beginning, known before its text is extracted."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field

from raymill.cluster.readers.inputs import PAGE_START
from raymill.cluster.store.paths import AbsolutePath
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language.identification import identify
from raymill.pipelines.rules.rule import Analysis, Check, Dialect
from raymill.pipelines.text.texts import Texts


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyLanguage:
    """Remove pages of web archives that begin in a language other than those in `keep`, before their text is extracted.

    The classifier reads the text in the first 32 KiB of the page's body, with its menus. A page is removed if another
    language is most probable there, with a probability above `max_score`. Pages with under 200 characters there, and
    pages that are not UTF-8, are extracted, and so are all pages of other formats. The language of the extracted text
    is identified all the same (`language`). A page whose menus are in another language than its text may be lost.
    """

    keep: Annotated[tuple[str, ...], Field(min_length=1, description="Labels of the languages to keep, such as en")]
    max_score: Annotated[
        float, Field(ge=0, le=1, description="Maximum probability of a language that is not in `keep`")
    ] = 0.9
    max_chars: Annotated[
        int,
        Field(
            ge=20,
            le=100_000,
            description="Maximum number of characters that the classifier reads, from four positions",
        ),
    ] = 1000
    model: Annotated[
        AbsolutePath | None,
        Field(
            description="Path or URI of a supervised fastText model (.bin or .ftz) that identifies languages; "
            "null: the built-in lid.176"
        ),
    ] = None

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "early_language"
    reasons: ClassVar = ("early_language",)
    signals: ClassVar = {
        "early_language_score": "probability (0 to 1) of the language at the beginning of the page; 0 if it is kept"
    }
    measured_by: ClassVar = ("keep", "max_chars", "model")
    by_url: ClassVar = True
    column: ClassVar = "url"
    reads_page_start: ClassVar = True

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """early_language_score: float64[D]; NaN where it is not known.

        Raises:
            ConfigError, StorageError: the model is missing or wrong, or does not have a label.
        """
        classifier = fasttext_classifier.load(analysis.store, self.model)
        for label in self.keep:
            classifier.require(label, f"{self.name}.keep")
        found = np.full(len(analysis.texts), np.nan)
        names = analysis.columns.column_names
        if PAGE_START in names:
            known = np.flatnonzero(pc.is_valid(analysis.columns[PAGE_START]).to_numpy())
            starts = Texts.from_arrow(analysis.columns[PAGE_START].take(pa.array(known)).cast(pa.large_string()))
            languages, scores = identify(starts, classifier, self.max_chars)
            kept = pc.is_in(languages, pa.array(self.keep, pa.string())).to_numpy(zero_copy_only=False)
            found[known] = np.where(kept, 0, scores)
        elif analysis.early and "where" in names:
            for row, place in enumerate(analysis.columns["where"].to_pylist()):
                found[row] = analysis.early.get(place, np.nan)
        return {"early_language_score": found}

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        return (Check("early_language", "early_language_score", maximum=self.max_score),)

    def fingerprint_files(self) -> tuple[str, ...]:
        """The model, if it is not the built-in one."""
        return () if self.model is None else (self.model,)
