"""The settings of a `kind: curate` config, and the parts of it that are the parameters of stages.

`raymill config schema` prints every setting with its description.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.frame.execution import FilesExecution
from cluster.readers.inputs import STORES, Input, Limits
from cluster.store.interface import StorageOptions
from cluster.store.store import Store
from pipelines.dedup.compare import MOST_GROUPS_SHOWN
from pipelines.dedup.settings import Dedup
from pipelines.language.identification import LanguageId
from pipelines.rules import Dialect, Rule
from pipelines.rules.filters import Filters
from pipelines.rules.settings import Rules
from pipelines.text.personal_data import KINDS


class _CurateSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PersonalData(_CurateSettings):
    """Kinds of personal data that are replaced in the corpus."""

    redact: tuple[Literal[KINDS], ...] = Field(  # type: ignore[valid-type]
        KINDS, description="kinds replaced by a placeholder in the corpus; all kinds are counted anyway"
    )


class Boilerplate(_CurateSettings):
    """Lines or paragraphs that many documents of a source have, which are cut out of the corpus.

    Source of the default of max_documents: Llama 3, Grattafiori et al. 2024, section 3.1.1, which removes lines that
    are more than 6 times in 30 million documents.
    """

    cut: Literal["lines", "paragraphs"] = Field("lines", description="what is compared and cut")
    max_documents: int = Field(
        6, ge=1, description="a line in more kept documents of its source than this is cut from all of them"
    )
    min_words: int = Field(1, ge=1, description="lines with fewer words are not cut, nor are lines without a word")
    min_words_left: int = Field(50, ge=0, description="a document that lost a line and has fewer words left is removed")


class Repeats(_CurateSettings):
    """Runs of words that several documents have: listed and, with `cut`, cut out of all of them but the first.

    Source of the default of min_words: Lee et al. 2022, "Deduplicating training data makes language models better",
    https://arxiv.org/abs/2107.06499: 50 tokens of a tokenizer.
    """

    min_words: int = Field(50, ge=10, le=10_000, description="least number of words of a run")
    cut: bool = Field(False, description="cut such runs out of all documents but the first that has them")
    min_words_left: int = Field(50, ge=0, description="a document that lost a run and has fewer words left is removed")


class CorpusFiles(_CurateSettings):
    """The files of the corpus."""

    file_mib: int = Field(128, ge=1, le=65_536, description="approximate text of a corpus file, before compression")
    columns: tuple[str, ...] = Field((), description="measured signals to write beside each document")


class ReportOptions(_CurateSettings):
    """What the report shows."""

    samples: int = Field(3, ge=0, le=20, description="examples shown for each reason")
    groups: int = Field(10, ge=0, le=MOST_GROUPS_SHOWN, description="largest duplicate groups shown")
    warn_source_loss: float = Field(0.9, gt=0, le=1, description="warn of a source that loses a larger share")


@dataclass(frozen=True)
class MeasureSettings:
    """The settings on which measurements depend. personal_data: whether it is counted."""

    limits: Limits
    filters: Filters
    personal_data: bool
    dedup: Dedup | None


@dataclass(frozen=True)
class SelectSettings:
    """The settings on which the corpus depends, besides verdicts and groups.

    redact: kinds of personal data to replace; None if personal data is off. samples: examples for each reason.
    """

    limits: Limits
    filters: Filters
    redact: tuple[str, ...] | None
    dedup: Dedup | None
    boilerplate: Boilerplate | None
    repeats: Repeats | None
    corpus: CorpusFiles
    samples: int


@dataclass(frozen=True)
class ReportSettings:
    """The settings that a report depends on or shows. config: all of them as JSON values, without those of stores."""

    name: str
    config: dict[str, Any]
    filters: Filters
    redact: tuple[str, ...]
    dedup: Dedup | None
    boilerplate: Boilerplate | None
    repeats: Repeats | None
    report: ReportOptions


class CurateConfig(_CurateSettings):
    """Make a training corpus from raw text."""

    kind: Literal["curate"]
    name: str = Field(
        max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="name of the run in logs and reports"
    )
    inputs: tuple[Input, ...] = Field(min_length=1)
    output: str = Field(min_length=1, description="folder or URI; everything the run makes is below it")
    language: LanguageId | None = LanguageId()
    rules: Annotated[Rules | None, Field(validate_default=True)] = Rules()
    personal_data: PersonalData | None = PersonalData()
    dedup: Dedup | None = Dedup()
    boilerplate: Boilerplate | None = None
    repeats: Repeats | None = None
    limits: Limits = Limits()
    corpus: CorpusFiles = CorpusFiles()
    execution: FilesExecution = FilesExecution()
    report: ReportOptions = ReportOptions()
    storage: StorageOptions = StorageOptions()  # type: ignore[call-arg]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        signals = {signal for rule in self.active_rules() for signal in rule.signals} | {"language_score"}
        asked = [("corpus.columns", name) for name in self.corpus.columns]
        if self.dedup and self.dedup.keeper_score:
            asked.append(("dedup.keeper_score", self.dedup.keeper_score))
        for setting, name in asked:
            if name not in signals:
                raise ValueError(
                    f"{setting}: {name} is not measured by this config; it measures {', '.join(sorted(signals))}"
                )
        for entry in self.inputs:
            for name in sorted(set(entry.columns) & set(self.corpus.columns)):
                raise ValueError(
                    f"corpus.columns: {name} is also a carried column of {entry.source}; take one of them out"
                )
        sources = {entry.source for entry in self.inputs}
        for name in self.dedup.sources if self.dedup else ():
            if name not in sources:
                raise ValueError(f"dedup.sources: no input has source {name}; there are {', '.join(sorted(sources))}")
        newest_by = self.dedup and self.dedup.newest_by
        if newest_by and not any(newest_by in entry.columns for entry in self.inputs):
            raise ValueError(
                f"dedup.newest_by: no input carries a column {newest_by}; add it to `columns` of each input that has it"
            )
        if self.dedup and self.dedup.scope == "snapshot" and any(entry.snapshot is None for entry in self.inputs):
            raise ValueError("dedup.scope: snapshot needs `snapshot:` on every input")
        return self

    @property
    def store(self) -> Store:
        """The store of the output, of the files that rules read, and of inputs without `storage` of their own."""
        return Store(self.storage)

    @property
    def dialect(self) -> Dialect:
        """The dialect of the rules; `paper` without rules."""
        return self.rules.dialect if self.rules else "paper"

    def active_rules(self) -> tuple[Rule, ...]:
        """The rules of this config, in the order of their checks."""
        return self.rules.active() if self.rules else ()

    @property
    def filters(self) -> Filters:
        """The parameters of the stage `decide`."""
        return Filters(self.language, self.active_rules(), self.dialect)

    @property
    def measure_settings(self) -> MeasureSettings:
        """The parameters of the stage `measure`."""
        return MeasureSettings(self.limits, self.filters, self.personal_data is not None, self.dedup)

    @property
    def select_settings(self) -> SelectSettings:
        """The parameters of the stage `select`."""
        redact = self.personal_data.redact if self.personal_data else None
        return SelectSettings(
            limits=self.limits,
            filters=self.filters,
            redact=redact,
            dedup=self.dedup,
            boilerplate=self.boilerplate,
            repeats=self.repeats,
            corpus=self.corpus,
            samples=self.report.samples,
        )

    @property
    def report_settings(self) -> ReportSettings:
        """The parameters of the report."""
        redact = self.personal_data.redact if self.personal_data else ()
        plain = self.model_dump(mode="json", exclude=STORES)
        return ReportSettings(
            name=self.name,
            config=plain,
            filters=self.filters,
            redact=redact,
            dedup=self.dedup,
            boilerplate=self.boilerplate,
            repeats=self.repeats,
            report=self.report,
        )
