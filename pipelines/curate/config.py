"""The settings of a `kind: curate` config. `raymill config schema` prints every setting with its description.

The settings of a rule, of deduplication and of a cut are beside what they set.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raymill.cluster.frame.execution import FilesExecution
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.stages.boilerplate import Boilerplate
from raymill.pipelines.curate.stages.repeats import Repeats
from raymill.pipelines.dedup.compare import MOST_GROUPS_SHOWN
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.language.identification import LanguageId
from raymill.pipelines.rules import Rule
from raymill.pipelines.rules.filters import Filters, Rules
from raymill.pipelines.text.personal_data import KINDS

# Stages that find texts which several documents have, and cut them out, in the order in which they do.
CUTS = (Boilerplate, Repeats)
AnyCut = Boilerplate | Repeats


class _CurateSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PersonalData(_CurateSettings):
    """Kinds of personal data that are replaced in the corpus."""

    redact: tuple[Literal[KINDS], ...] = Field(  # type: ignore[valid-type]
        KINDS, description="kinds replaced by a placeholder in the corpus; all kinds are counted anyway"
    )


class CorpusFiles(_CurateSettings):
    """The files of the corpus."""

    file_mib: int = Field(128, ge=1, le=65_536, description="approximate text of a corpus file, before compression")
    columns: tuple[str, ...] = Field((), description="measured signals to write beside each document")


class ReportOptions(_CurateSettings):
    """What the report shows."""

    samples: int = Field(3, ge=0, le=20, description="examples shown for each reason")
    groups: int = Field(10, ge=0, le=MOST_GROUPS_SHOWN, description="largest duplicate groups shown")
    warn_source_loss: float = Field(0.9, gt=0, le=1, description="warn of a source that loses a larger share")


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
        signals = {signal for rule in self.filters.rules for signal in rule.signals} | {"language_score"}
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
    def filters(self) -> Filters:
        """The language and the rules, in the order of their checks."""
        rules: tuple[Rule, ...] = self.rules.active() if self.rules else ()
        return Filters(self.language, rules, self.rules.dialect if self.rules else "paper")

    @property
    def cuts(self) -> tuple[AnyCut, ...]:
        """The settings of the cuts that are made, in order."""
        return tuple(cut for cut in (self.boilerplate, self.repeats) if cut)
