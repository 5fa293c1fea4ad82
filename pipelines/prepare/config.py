"""The settings of a `kind: prepare` config. `raymill config schema` prints every setting with its description."""

import os
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from raymill.cluster.asking.embedding_model import EmbeddingModel
from raymill.cluster.examples.content import FIELDS, Role
from raymill.cluster.examples.terms import GenerationTerms
from raymill.cluster.frame.execution import FilesExecution
from raymill.cluster.frame.run_name import RunName, named_after_output
from raymill.cluster.readers.inputs import ENCODING, Encoding, FormatOrReader, Limits, WithShortForm, as_list
from raymill.cluster.store import paths
from raymill.cluster.store.interface import Storage, StorageOptions
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.prepare.assess.settings import Assess, Gates
from raymill.pipelines.prepare.augment.settings import Augment
from raymill.pipelines.prepare.fetch.settings import Api, Database, Pages, variables_of
from raymill.pipelines.prepare.records.clean import Clean
from raymill.pipelines.prepare.records.conversion import Records, TaskType
from raymill.pipelines.prepare.records.fields import PROVENANCE
from raymill.pipelines.prepare.records.forms import FormUse
from raymill.pipelines.prepare.records.tables import Table
from raymill.pipelines.prepare.records.validate import Validate
from raymill.pipelines.prepare.stages.complexity import Curriculum
from raymill.pipelines.prepare.stages.duplicates import Duplicates
from raymill.pipelines.prepare.stages.split import Mixture, Split

# The metadata of every record. `language` is identified where no column of the source gives it.
BASE_METADATA = ("source", "licence", "domain", "task_type", "language", "quality_score", "collected_at")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Source(WithShortForm, extra="forbid", frozen=True):
    """One source of records: where its files are, and which column is which field."""

    short_form: ClassVar = "path"

    source: str = Field("input", pattern=r"^[A-Za-z0-9_.-]+$", description="Name of the source in records and report")
    path: paths.AbsolutePath | None = Field(
        None,
        description="Folder, glob, file or URI; a folder saved by Hugging Face `datasets`; "
        "hf://ORG/NAME[/CONFIG][@REVISION]; or the output of `raymill curate`; null: `database`, `api` "
        "or `pages` is given",
    )
    database: Database | None = Field(None, description="Query of a database, in place of `path`; null: none")
    api: Api | None = Field(None, description="JSON API with pages of records, in place of `path`; null: none")
    pages: Pages | None = Field(None, description="Web pages, in place of `path`; null: none")
    exclude: tuple[str, ...] = Field(
        (), description="Globs of files to leave out: names (`draft-*`), or paths below the folder (`2019/**`)"
    )
    format: FormatOrReader = Field(
        None,
        description="Format of the files, or a reader of your own as `module:attribute`; null: by the ending of each "
        "name, without .gz, .zst, .bz2 or .lz4",
    )
    id: str | None = Field(
        None, min_length=1, description="Name of the column that identifies a record; null: a hash of its content"
    )
    columns: dict[str, str] = Field(
        {},
        description="Column of each field, as {prompt: subject, queue: category}. Fields are content (text, prompt, "
        "completion, messages, chosen ..), annotations and provenance; any other is metadata. COLUMN.FIELD: inside "
        "of objects. Empty: recognised by names",
    )
    follow_links: bool = Field(
        default=False,
        description="Whether symbolic links are followed that lead out of the folder, as those of the Hugging Face "
        "cache do",
    )
    speakers: dict[str, Role] = Field(
        {},
        description="Role of each speaker of a chat, as {Ann: assistant}; `{FIELD}` is the speaker named by a "
        "metadata field, `*` any other. Turns of one role are joined; what is outside the first question "
        "and the last answer is left out",
    )
    form: FormUse | None = Field(
        None,
        description="Form of examples of your own, a class or function from the fields of a row, as `columns` names "
        "them, to the content of a record, such as {prompt, completion} or {messages}; null: a usual form",
    )
    task_type: TaskType | None = Field(None, description="Task type of the source's records; null: `records.task_type`")
    licence: str | None = Field(None, description="Licence of the source, written to every record; null: none")
    domain: str | None = Field(
        None, description="Domain of the source, such as support or law, written to every record; null: none"
    )
    table: Table | None = Field(
        None,
        description="Conversion of table rows to records by types and a template; `columns` then names metadata "
        "alone; null: rows are records",
    )
    share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Fraction of the data set's records from this source, given for all sources or for none; null: "
        "all its records",
    )
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="Character between the columns of CSV and TSV files; null: comma for CSV, tab for TSV",
    )
    encoding: Encoding | None = Field(None, description=ENCODING)
    day_first: bool | None = Field(
        None, description="Whether dates such as 03/04/2026 begin with the day; null: such a value is no date"
    )
    split: str = Field("train", min_length=1, description="Name of the split to read of a Hugging Face data set")
    storage: StorageOptions | None = Field(
        None, description="Object-store settings for this source alone; null: the config's `storage`"
    )

    @field_validator("path")
    @classmethod
    def _without_parent_folders(cls, path: str | None) -> str | None:
        return path if path is None or paths.scheme(path) else os.path.normpath(path)

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `form` where there is none, so that records of earlier versions are equal."""
        return {name: value for name, value in handler(self).items() if name != "form" or value}

    @property
    def connection(self) -> Database | Api | Pages | None:
        """What is fetched before the run reads it; None of files."""
        return self.database or self.api or self.pages

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for field in self.columns:
            if not _FIELD.fullmatch(field):
                raise ValueError(f"columns: {field} is no name of a field; use letters, digits and _")
        if self.table is not None:
            for field, column in self.columns.items():
                if field in FIELDS:
                    raise ValueError(f"columns: {field} is content, which `table.template` makes; name metadata alone")
                if column not in self.table.columns:
                    there = ", ".join(self.table.columns)
                    raise ValueError(f"columns.{field}: {column} is no column of the table; there are {there}")
        if self.form is not None and (self.table is not None or self.speakers):
            raise ValueError("form: makes the content of records, as `table` and `speakers` do; give one of them")
        if self.speakers and "messages" not in self.columns:
            raise ValueError("speakers: goes with `columns: {messages: COLUMN}`; name the column with the messages")
        for one in self.speakers:
            if one.startswith("{") and one[1:-1] not in self.columns:
                raise ValueError(f"speakers: {one} names no field; add {one[1:-1]} to `columns`")
        given = [name for name in ("path", "database", "api", "pages") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'no path'} given; wanted one of path, database, api and pages")
        if self.connection and (self.format or self.exclude or self.follow_links or self.storage):
            raise ValueError(
                f"format, exclude, follow_links and storage are of files, and this source has {given[0]}; leave "
                "them out"
            )
        return self


class PrepareConfig(BaseModel, extra="forbid", frozen=True):
    """Sources of records to a data set for fine-tuning."""

    kind: Literal["prepare"] = Field(description="Kind of run: prepare")
    name: RunName = ""
    inputs: Annotated[tuple[Source, ...], BeforeValidator(as_list)] = Field(
        min_length=1, description="Sources of records: files, databases, APIs and web pages"
    )
    output: paths.OutputFolder
    records: Records = Field(Records(), description="Form of the written records, and how texts become records")
    mixture: Mixture = Field(Mixture(), description="Number of records of the data set, if sources have a `share`")
    clean: Clean = Field(Clean(), description="Changes to texts and labels")
    patches: tuple[paths.AbsolutePath, ...] = Field(
        (), description="JSON Lines files with corrections of records, as `errors` and `annotate` write them"
    )
    validation: Validate = Field(
        Validate(), alias="validate", description="Rules that records must meet; others are removed, with the reason"
    )
    terms: GenerationTerms | None = Field(
        None, description="Terms under which generated records are left out; null: none are left out"
    )
    dedup: Dedup | None = Field(Dedup(), description="Removal of exact and near-duplicate records; null: none")
    duplicates: Duplicates = Field(
        Duplicates(), description="Treatment of records that have only the question or only the answer in common"
    )
    split: Split = Field(Split(), description="Fractions, strata and groups of the splits train, validation and test")
    augment: Augment | None = Field(None, description="Variants of training records, made without a model; null: none")
    curriculum: Curriculum | None = Field(
        None, description="Stages of records from easy to hard; `{}` has the default settings; null: none"
    )
    assess: Assess = Field(
        Assess(), description="References and settings of the data set's metrics; no effect on its records"
    )
    gates: Gates = Field(Gates(), description="Bounds on metrics, which `raymill assess OUTPUT --gate` enforces")
    limits: Limits = Field(
        Limits(), description="Bounds on the size of documents and files, and on the time for parsing them"
    )
    execution: FilesExecution = Field(
        FilesExecution(), description="Retries, CPU cores, and units of work; no effect on the data set"
    )
    storage: Storage = StorageOptions()  # type: ignore[call-arg]

    @model_validator(mode="before")
    @classmethod
    def _named_after_output(cls, settings: Any) -> Any:
        return named_after_output(settings, "dataset")

    @property
    def store(self) -> Store:
        """The store of the output, and of inputs without `storage` of their own."""
        return Store(self.storage)

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the environment variables with the secrets that the driver needs."""
        found = [name for one in self.inputs if one.connection for name in variables_of(one.connection)]
        found += [one.key_env for one in self.embedding_models.values() if one.key_env]
        return tuple(dict.fromkeys([*found, *filter(None, [self.clean.pseudonym_key])]))

    @property
    def embedding_models(self) -> dict[str, EmbeddingModel]:
        """Setting -> the model of text vectors that it names."""
        found = {f"validate.{name}": model for name, model in self.validation.embedding_models.items()}
        if self.assess.embeddings and self.assess.embeddings.model:
            found["assess.embeddings.model"] = self.assess.embeddings.model
        return found

    def without_endpoints(self) -> Self:
        """The config with nothing that would ask an endpoint for text vectors, as for a plan."""
        vectors, assess = self.assess.embeddings, self.assess
        if vectors and vectors.model and vectors.model.endpoint:
            assess = assess.model_copy(update={"embeddings": vectors.model_copy(update={"model": None})})
        return self.model_copy(update={"assess": assess, "validation": self.validation.without_endpoints()})

    @property
    def metadata(self) -> tuple[str, ...]:
        """Names of the metadata and annotations that some input has."""
        others = (*FIELDS, *PROVENANCE)
        names = (field for one in self.inputs for field in one.columns if field not in others)
        return tuple(dict.fromkeys(names))

    @property
    def known(self) -> frozenset[str]:
        """Names of all metadata and annotations."""
        return frozenset((*self.metadata, *BASE_METADATA))

    @property
    def classed_by(self) -> tuple[str, ...]:
        """What the strata and the classes of the split are made of."""
        return (*self.split.stratify, *(self.split.balance.by if self.split.balance else ()))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = self.known
        connected = [one.source for one in self.inputs if one.connection]
        if twice := sorted({name for name in connected if connected.count(name) > 1}):
            raise ValueError(f"inputs: several are called {', '.join(twice)}; give each a `source` of its own")
        shares = [one.share for one in self.inputs if one.share is not None]
        if shares and (len(shares) < len(self.inputs) or abs(sum(shares) - 1) > 1e-9):
            raise ValueError(
                f"inputs: {len(shares)} of {len(self.inputs)} have a share, and these sum to {sum(shares):g}; give "
                "every input one, which sum to 1, or none"
            )
        says_no_pair = self.records.has_two_answers or (
            self.records.shape == "text" and self.records.chats_as_text is None
        )
        if any(one.table for one in self.inputs) and says_no_pair:
            raise ValueError(
                f"records.shape: {self.records.shape} given; the template of a table makes a question and an answer; "
                "use messages, pairs or instruction"
            )
        if not shares and self.mixture != Mixture():
            raise ValueError("mixture: goes with `share` of the inputs; give every input one")
        if self.curriculum is None and "complexity" in {*self.classed_by} - known:
            raise ValueError("split: records have a complexity with `curriculum` alone; add `curriculum: {}`")
        if self.dedup and (self.dedup.keeper not in ("position", "longest", "source") or self.dedup.against):
            raise ValueError("dedup: records have no score and no earlier runs; keeper is position, longest or source")
        if self.dedup and self.dedup.scope == "snapshot":
            raise ValueError("dedup.scope: records have no snapshots; use all or source")
        return self
