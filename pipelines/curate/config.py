"""The settings of a `kind: curate` config. `raymill config schema` prints every setting with its description.

The settings of a rule, of deduplication and of a cut are beside what they set.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from raymill.cluster.asking.embedding_model import EmbeddingModel
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.examples.copies import COPIES
from raymill.cluster.frame.execution import FilesExecution
from raymill.cluster.readers.inputs import Input, Limits, as_list
from raymill.cluster.store import paths
from raymill.cluster.store.interface import Storage, StorageOptions
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.assumed_repeats import AssumedRepeats
from raymill.pipelines.curate.copies import DUPLICATE_COUNT, DocumentCopies
from raymill.pipelines.curate.stages.boilerplate import Boilerplate
from raymill.pipelines.curate.stages.repeats import Repeats
from raymill.pipelines.dedup.compare import MOST_GROUPS_SHOWN
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.language.identification import LanguageId
from raymill.pipelines.rules import Rule
from raymill.pipelines.rules.filters import Filters, Rules
from raymill.pipelines.rules.opt_out import OptOut
from raymill.pipelines.rules.rule import files_read_by
from raymill.pipelines.text.personal_data import KINDS

# Stages that find texts which several documents have, and cut them out, in the order in which they do.
CUTS = (Boilerplate, Repeats)
AnyCut = Boilerplate | Repeats


class _CurateSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PersonalData(_CurateSettings):
    """Kinds of personal data that are replaced in the corpus."""

    redact: tuple[Literal[KINDS], ...] = Field(  # type: ignore[valid-type]
        KINDS,
        description="Kinds of personal data that are replaced by placeholders in the corpus; all kinds are counted "
        "in any case",
    )


class CorpusFiles(_CurateSettings):
    """The files of the corpus."""

    file_mib: int = Field(
        128, ge=1, le=65_536, description="Approximate size of the text of a corpus file, in MiB before compression"
    )
    columns: tuple[str, ...] = Field((), description="Names of measured signals to write as columns of the corpus")
    copies: DocumentCopies | None = Field(
        None,
        description="Column `copies` of the corpus, by which a training repeats documents in an epoch; null: none, "
        "each document is in it once",
    )

    @model_serializer(mode="wrap")
    def _without_none(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The settings, without `copies` if not set, as records of earlier versions have them."""
        return {name: value for name, value in plain(self).items() if value is not None}


class ReportOptions(_CurateSettings):
    """What the report shows."""

    samples: int = Field(
        3, ge=0, le=20, description="Number of example documents in the report for each reason of removal"
    )
    groups: int = Field(
        10, ge=0, le=MOST_GROUPS_SHOWN, description="Number of duplicate groups in the report, the largest first"
    )
    warn_source_loss: float = Field(
        0.9, gt=0, le=1, description="Fraction of a source's documents above which the report warns of their removal"
    )


class CurateConfig(_CurateSettings):
    """Make a training corpus from raw text."""

    kind: Literal["curate"] = Field(description="Kind of run: curate")
    name: str = Field(
        max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Name of the run in logs and reports"
    )
    inputs: Annotated[tuple[Input, ...], BeforeValidator(as_list)] = Field(
        min_length=1, description="Sources of raw text: their files, formats and columns"
    )
    output: paths.OutputFolder
    language: LanguageId | None = Field(
        LanguageId(),
        description="Language identification, and the languages to keep; null: languages are not identified",
    )
    rules: Annotated[Rules | None, Field(validate_default=True)] = Field(
        Rules(), description="Quality rules that remove documents; null: none"
    )
    personal_data: PersonalData | None = Field(
        PersonalData(), description="Counting and replacement of personal data; null: neither"
    )
    dedup: Dedup | None = Field(Dedup(), description="Removal of exact and near-duplicates; null: none")
    boilerplate: Boilerplate | None = Field(
        None, description="Removal of lines or paragraphs that many documents of a source have; null: none"
    )
    repeats: Repeats | None = Field(
        None, description="Search for runs of words that several documents have; null: none"
    )
    limits: Limits = Field(
        Limits(), description="Bounds on the size of documents and files, and on the time for parsing them"
    )
    corpus: CorpusFiles = Field(CorpusFiles(), description="Files and columns of the written corpus")
    execution: FilesExecution = Field(
        FilesExecution(), description="Retries, CPU cores, and units of work; no effect on the corpus"
    )
    report: ReportOptions = Field(ReportOptions(), description="Numbers of examples and warnings in the HTML report")
    storage: Storage = StorageOptions()  # type: ignore[call-arg]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        signals = {signal for rule in self.filters.rules for signal in rule.signals}
        signals |= {"language_score"} if self.language else set()
        asked = [("corpus.columns", name) for name in self.corpus.columns]
        if self.dedup and self.dedup.keeper_score:
            asked.append(("dedup.keeper_score", self.dedup.keeper_score))
        if (copies := self.corpus.copies) and copies.table and copies.by != DUPLICATE_COUNT:
            asked.append(("corpus.copies.by", copies.by))
        unknown = self.rules is not None and any(one.plugin is None for one in self.rules.custom)  # in a record
        for setting, name in asked:
            if name not in signals and not unknown:
                raise ValueError(
                    f"{setting}: {name} is not measured by this config; it measures {', '.join(sorted(signals))}"
                )
        for entry in self.inputs:
            for name in sorted(set(entry.columns) & set(self.corpus.columns)):
                raise ValueError(
                    f"corpus.columns: {name} is also a carried column of {entry.source}; take one of them out"
                )
        if copies:
            self._check_copies(copies)
        carried = {name for entry in self.inputs for name in entry.columns}
        for rule in self.filters.rules:
            if isinstance(rule, OptOut) and carried.isdisjoint(rule.columns):
                raise ValueError(
                    f"rules.opt_out: no input carries {' or '.join(rule.columns)}; add them to `columns` of inputs of "
                    "HTML or WARC"
                )
        for rule in self.filters.of_url:
            if (column := rule.column) not in carried:  # type: ignore[attr-defined]
                raise ValueError(
                    f"rules.{rule.name}: no input carries a column {column}; add it to `columns` of each input that "
                    "has it, or set `column` to the name of the column with URLs"
                )
        if self.rules and self.rules.by_language and not self.language:
            raise ValueError("rules.by_language needs `language`, which identifies the languages")
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

    def _check_copies(self, copies: DocumentCopies) -> None:
        if copies.table and copies.by == DUPLICATE_COUNT and not (self.dedup and self.dedup.remove):
            raise ValueError(
                f"corpus.copies: {DUPLICATE_COUNT} repeats the document that stays for those that are removed, and "
                "`dedup` removes none; set it, or `by` to a signal"
            )
        sources = {entry.source for entry in self.inputs}
        for name in copies.sources:
            if name not in sources:
                raise ValueError(
                    f"corpus.copies.sources: no input has source {name}; there are {', '.join(sorted(sources))}"
                )
        if named := [entry.source for entry in self.inputs if COPIES in entry.columns]:
            raise ValueError(
                f"corpus.copies: {named[0]} carries a column {COPIES}, which this setting writes; take one of them out"
            )

    @property
    def store(self) -> Store:
        """The store of the output, of the files that rules read, and of inputs without `storage` of their own."""
        return Store(self.storage)

    @property
    def filters(self) -> Filters:
        """The language and the rules, in the order of their checks."""
        rules: tuple[Rule, ...] = self.rules.active() if self.rules else ()
        dialect = self.rules.dialect if self.rules else "paper"
        by_language = self.rules.by_language if self.rules else {}
        return Filters(self.language, rules, dialect, by_language, self.embedding if self.embedding_models else None)

    @property
    def embedding_models(self) -> dict[str, EmbeddingModel]:
        """Setting -> the model of text vectors that it names."""
        return {f"rules.{name}": one for name, one in self.rules.embedding_models.items()} if self.rules else {}

    @property
    def embedding(self) -> EmbeddingRun:
        """The endpoints for text vectors."""
        root = paths.absolute(self.output)
        return EmbeddingRun.of(self.store, root, self.name, [*self.embedding_models.values()])

    def for_a_plan(self, repeated: float = 0.0) -> Self:
        """The config without rules that would ask an endpoint, or that compare pages of archives.

        The sample of a plan is no archive. repeated: share of the pages of archives that repeat an earlier one.
        """
        if self.rules is None:
            return self
        assumed = AssumedRepeats(share=repeated) if self.rules.repeated_pages else None  # type: ignore[attr-defined]
        rules = self.rules.without_endpoints().model_copy(update={"repeated_pages": assumed})
        return self.model_copy(update={"rules": rules})

    @property
    def files(self) -> tuple[str, ...]:
        """Models, lists and evaluation sets that the rules read, and the runs of `dedup.against`."""
        read = [file for one in (self.language, *self.filters.rules) for file in files_read_by(one)]
        return (*map(paths.absolute, read), *(self.dedup.against if self.dedup else ()))

    @property
    def cuts(self) -> tuple[AnyCut, ...]:
        """The settings of the cuts that are made, in order."""
        return tuple(cut for cut in (self.boilerplate, self.repeats) if cut)
