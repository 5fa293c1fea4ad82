"""The settings of a `kind: prepare` config. `raymill config schema` prints every setting with its description."""

import os
import re
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cluster.examples.content import FIELDS, Role, Shape
from cluster.frame.execution import FilesExecution
from cluster.readers.inputs import ENCODING, Encoding, Format, Limits
from cluster.store import paths
from cluster.store.interface import StorageOptions
from cluster.store.store import Store
from pipelines.dedup.settings import Dedup
from pipelines.language.identification import LanguageId
from pipelines.prepare.assess.settings import Assess, Gates, TextVectors
from pipelines.prepare.fetch.settings import Api, Database, Pages, Variable, variables_of
from pipelines.prepare.records.annotations import ANNOTATIONS
from pipelines.prepare.records.provenance import PROVENANCE
from pipelines.prepare.records.templates import DEFAULT_TEMPLATES, ChatTemplate, TaskType, Template
from pipelines.prepare.tables.settings import Table
from pipelines.rules.bad_words import BadWords
from pipelines.rules.filters import Filters
from pipelines.rules.rule import files_read_by
from pipelines.rules.settings import RulesOfRecords
from pipelines.text.personal_data import KINDS

# The metadata of every record. `language` is identified where no column of the source gives it.
BASE_METADATA = ("source", "licence", "domain", "task_type", "language", "quality_score", "collected_at")

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Answers of an assistant that declines, in lower case.
REFUSALS = (
    "as an ai",
    "as a language model",
    "as a large language model",
    "i'm sorry, but i can",
    "i am sorry, but i can",
    "i cannot assist with",
    "i can't assist with",
    "i cannot help with that",
    "i can't help with that",
)

# What an answer may begin its sentences with and say nothing, in lower case.
BOILERPLATE = (
    "hi",
    "hello",
    "dear",
    *("thank you for contacting", "thank you for reaching out", "thank you for getting in touch"),
    *("thank you for your", "thanks for contacting", "thanks for reaching out", "thanks for getting in touch"),
    *("thanks for your", "we have received your", "we received your", "your request has been received"),
    *("your ticket has been", "your message has been received", "a member of our team will"),
    *("one of our agents will", "we will get back to you", "we'll get back to you", "we will respond"),
    *("we aim to respond", "this is an automated", "this is an automatic", "please do not reply"),
    *("i hope this helps", "hope this helps", "let me know if you", "please let us know if you"),
    *("if you have any other questions", "if you have any further questions", "have a great day"),
    *("kind regards", "best regards", "regards", "sincerely"),
)


class _PrepareSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_PrepareSettings):
    """One source of records: where its files are, and which column is which field."""

    source: str = Field("input", pattern=r"^[A-Za-z0-9_.-]+$", description="name of the source in records and report")
    path: paths.AbsolutePath | None = Field(
        None,
        description="folder, glob, file or URI; a folder saved by `datasets`; hf://ORG/NAME[/CONFIG][@REVISION]; or "
        "the output of `raymill curate`",
    )
    database: Database | None = Field(None, description="a query, in place of `path`")
    api: Api | None = Field(None, description="a paged JSON API, in place of `path`")
    pages: Pages | None = Field(None, description="a list of web pages, in place of `path`")
    exclude: tuple[str, ...] = Field((), description="globs of files to leave out")
    format: Format | None = Field(None, description="default: by the file's ending")
    id: str | None = Field(None, min_length=1, description="column that names a record; default: a hash of its content")
    columns: dict[str, str] = Field(
        {},
        description=f"field -> column. The fields {', '.join(FIELDS)} are the record's content, "
        f"{', '.join(ANNOTATIONS)} its annotations (lists, or single values), {', '.join(PROVENANCE)} what it was made "
        "of, any other is metadata; default: recognised by the names of the columns. A field that `split`, `validate`, "
        "`assess` or `clean` names and that is not here is the column of its name, where there is one",
    )
    follow_links: bool = Field(default=False, description="whether links in the folder may lead out of it")
    speakers: dict[str, Role] = Field(
        {},
        description="speaker of a message -> its role; `{FIELD}` is the speaker that the record's metadata names, `*` "
        "any other. Turns of one role are joined; what precedes the first question or follows the last answer is left "
        "out",
    )
    task_type: TaskType | None = Field(None, description="default: `records.task_type`")
    licence: str | None = Field(None, description="licence of the source, written to every record")
    domain: str | None = Field(
        None, description="domain of the source, such as support or law, written to every record"
    )
    table: Table | None = Field(
        None, description="its rows become records by a template; then `columns` names metadata by columns of the table"
    )
    share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="fraction of the data set's records from this source; given for all sources or for none",
    )
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="default: comma for csv, tab for tsv")
    encoding: Encoding | None = Field(None, description=ENCODING)
    day_first: bool | None = Field(
        None, description="order of day and month in dates such as 03/04/2026; null: such a value is no date"
    )
    split: str = Field("train", min_length=1, description="hf: which split to read")
    storage: StorageOptions | None = Field(None, description="how its bucket is reached; default: that of the run")

    @field_validator("path")
    @classmethod
    def _without_parent_folders(cls, path: str | None) -> str | None:
        return path if path is None or paths.scheme(path) else os.path.normpath(path)

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


class Records(_PrepareSettings):
    """The form of the records that are written."""

    shape: Shape = Field("messages", description="columns of the records")
    task_type: TaskType = Field(
        "qa", description="task type of sources without one; selects the template for plain texts"
    )
    templates: dict[TaskType, Template] = Field(
        {}, description="prompt and completion made of a text and its metadata, in place of the task type's default"
    )
    section_chars: Annotated[int, Field(ge=1)] | Literal["answer_chars"] | None = Field(
        "answer_chars",
        description="a plain text with more characters, such as a manual, is divided at headings, else at paragraphs, "
        "into records with at most this many; answer_chars: the maximum of `validate.answer_chars`, for texts that "
        "become answers; null: texts stay whole",
    )
    preferences: Literal["refuse", "chosen"] = Field(
        "refuse",
        description="preference records in shapes with one answer: refuse (quarantine) or chosen (keep that answer)",
    )
    chats_as_text: ChatTemplate | None = Field(
        None, description="shape text: how a chat becomes a text; default: chats go to quarantine"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.chats_as_text is not None and self.shape != "text":
            raise ValueError(f"chats_as_text: goes with `shape: text`, and the shape is {self.shape}; leave it out")
        if self.preferences == "chosen" and self.shape == "preference":
            raise ValueError("preferences: chosen goes with other shapes than preference; leave it out")
        return self

    def template(self, task_type: TaskType) -> Template:
        """The template of a task type, with defaults applied."""
        return self.templates.get(task_type, DEFAULT_TEMPLATES[task_type])


class Mixture(_PrepareSettings):
    """How many records of each source are taken, where inputs have a `share`."""

    records: int | None = Field(
        None, ge=1, description="records from all sources together; default: as many as keep the shares"
    )
    fill: bool = Field(True, description="what a source lacks is taken from the others; false: there are fewer records")


class Clean(_PrepareSettings):
    """What is changed in text fields and labels."""

    normalize: bool = Field(True, description="one form of Unicode, spaces and line ends")
    quotes: Literal["straight"] | None = Field(
        None, description="straight: typographic quotation marks become those of ASCII, but in code; default: they stay"
    )
    html: bool = Field(
        False, description="tags and comments of HTML are taken out, and entities become characters, but in code"
    )
    email: tuple[Literal["quotes", "signatures", "disclaimers"], ...] = Field(
        (), description="parts of e-mails that are taken out; texts of format mail have no quotes and signatures"
    )
    terminology: dict[str, str] | paths.AbsolutePath = Field(
        {},
        description="term -> the term to use instead, or a YAML file of these; whole words, in the case of the text",
    )
    labels: dict[str, dict[str, tuple[str, ...]]] = Field(
        {}, description="metadata -> value -> other spellings of it; case, spaces, - and _ make no difference"
    )
    redact: tuple[Literal[KINDS], ...] = Field(  # type: ignore[valid-type]
        (),
        description="kinds of personal data that are replaced: in texts, metadata, ids, provenance, the ledger and "
        "quarantine",
    )
    redact_except: tuple[str, ...] = Field(
        (), description="metadata whose personal data stays; also `id` and `provenance`"
    )
    pseudonyms: Literal["none", "per_record", "per_corpus"] = Field(
        "none",
        description="none: equal placeholders; per_record: numbered within a record; per_corpus: by a keyed hash, so "
        "that one address has one placeholder in all records",
    )
    pseudonym_key: Variable | None = Field(
        None,
        description="environment variable with the key, of 16 bytes or more, of the hashes of per_corpus and in ids; "
        "null: hashes in ids have no key, so that an address can be guessed and compared",
    )
    keep_cut: bool = Field(
        False,
        description="write every text that readers and cleaning take out of a record, such as quotes and signatures of "
        "mails, to `cut/`; the report has their numbers and an example of each kind in any case",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.pseudonyms == "per_corpus" and self.pseudonym_key is None:
            raise ValueError("pseudonym_key, an environment variable, is required with per_corpus")
        for name in ("pseudonyms", "pseudonym_key", "redact_except"):
            if getattr(self, name) != type(self).model_fields[name].default and not self.redact:
                raise ValueError(f"{name}: nothing is replaced; name the kinds in `redact`")
        if isinstance(self.terminology, dict):
            check_terms(self.terminology)
        for field, values in self.labels.items():
            spelled = [plain_label(one) for value, others in values.items() for one in (value, *others)]
            if twice := sorted({one for one in spelled if spelled.count(one) > 1}):
                raise ValueError(f"labels.{field}: {', '.join(twice)} is listed twice; a spelling belongs to one value")
        return self


def check_terms(terms: dict[str, str]) -> None:
    """
    Raises:
        ValueError: a term is empty, or two differ in case alone.
    """
    lower = [term.lower() for term in terms]
    if not all(term.strip() for term in lower):
        raise ValueError("terminology: a term is empty; give a word, or leave it out")
    if twice := sorted({term for term in lower if lower.count(term) > 1}):
        raise ValueError(f"terminology: {', '.join(twice)} is listed twice; case makes no difference")


def plain_label(value: str) -> str:
    """A label without what does not tell two apart."""
    return " ".join(re.split(r"[\s_-]+", value.strip().lower()))


Bounds = tuple[int, int]


class InappropriateContent(_PrepareSettings):
    """A fastText classifier of texts that no record may have."""

    model: paths.AbsolutePath = Field(description="path or URI of a supervised fastText .bin or .ftz")
    label: str = Field(min_length=1, description="label of the content to remove, with or without __label__")
    max_score: float = Field(0.5, ge=0, le=1, description="greatest probability of the label that a record may have")
    max_chars: int = Field(5000, ge=20, le=10_000_000, description="characters of a record that the model is given")


class AnswerRelevance(TextVectors):
    """The least similarity of an answer's vector to that of its question."""

    min_cosine: float = Field(
        0.2,
        gt=0,
        le=1,
        description="least cosine similarity of the vectors of the answer and of what precedes it; records with "
        "no word of the vocabulary in one of them stay",
    )
    dimensions: int = Field(128, ge=2, le=512, description="vector dimensions of the default model")


Measure = Literal["question_chars", "answer_chars", "text_chars", "letters"]


class Outliers(_PrepareSettings):
    """Records that are far from the others of their group."""

    measures: tuple[Measure, ...] = Field(
        ("question_chars", "answer_chars", "text_chars"),
        min_length=1,
        description="lengths, which are compared by their logarithm; letters: their share of the characters",
    )
    by: tuple[str, ...] = Field(("source",), description="metadata whose values together are the group")
    deviations: float = Field(
        5.0, gt=0, description="greatest distance from the group's median, in scaled median absolute deviations"
    )
    found: Literal["list", "remove"] = Field("list", description="list: they stay and are listed")


class Validate(_PrepareSettings):
    """The rules that a record must meet. Questions are what precedes the last answer."""

    question_chars: Bounds | None = Field((10, 500), description="least and most characters of a question")
    answer_chars: Bounds | None = Field((20, 2000), description="least and most characters of an answer")
    text_chars: Bounds | None = Field(None, description="least and most characters of a text; records of plain text")
    require: tuple[str, ...] = Field(
        (), description="metadata that no record may lack; documents, which have no columns, need none"
    )
    allowed: dict[str, tuple[str, ...]] = Field({}, description="metadata -> values that it may have")
    since: dict[str, date] = Field(
        {}, description="metadata -> the earliest date that it may have; records without one fail"
    )
    until: dict[str, date] = Field(
        {}, description="metadata -> the last date that it may have; records without one fail"
    )
    licences: tuple[str, ...] | None = Field(
        None, description="licences that a record may have; records without one fail; default: any, and none"
    )
    refusals: tuple[str, ...] = Field(REFUSALS, description="beginnings of sentences of answers that decline")
    copied_answer: bool = Field(True, description="remove records whose answer is the question again")
    answer_in_question: float | None = Field(
        0.8,
        gt=0,
        le=1,
        description="least share of an answer's runs of five words that its question has, from which on the question "
        "gives the answer away; the `input` of an instruction is not part of the question here",
    )
    boilerplate: tuple[str, ...] = Field(
        BOILERPLATE, description="beginnings of sentences; answers with no other sentence are removed"
    )
    truncated_answers: Literal["keep", "open", "sentence"] = Field(
        "open",
        description="open: remove answers that end in an open bracket or code fence, with a comma, dash or hyphen, or "
        "with an English word such as `the`; sentence: also those whose last line is prose without a final mark, "
        "although an earlier sentence has one",
    )
    relevance: float | None = Field(
        None,
        gt=0,
        le=1,
        description="least share of words that question and answer have in common, of those of the shorter one",
    )
    answer_relevance: AnswerRelevance | None = Field(
        None, description="remove records whose answer is not near its question, by vectors; `{}`: with the defaults"
    )
    same_language: float | None = Field(
        None,
        gt=0,
        le=1,
        description="least probability of the languages of question and answer, from which on they must be the same; "
        "0.65 is usual. By the built-in model",
    )
    json_schema: paths.AbsolutePath | dict[str, Any] | None = Field(
        None, description="JSON Schema that answers must meet, which then are JSON; a schema, or a file with one"
    )
    language: LanguageId | None = Field(
        None, description="languages that records may have, as `language` of `curate`; of all texts of a record"
    )
    rules: RulesOfRecords | None = Field(
        None, description="rules of `curate`, such as evaluation sets (`decontamination`); of all texts of a record"
    )
    bad_words: BadWords | None = Field(None, description="lists of words that no record may have")
    inappropriate: InappropriateContent | None = Field(None, description="classifier of texts that no record may have")
    outliers: Outliers | None = Field(
        None, description="records whose lengths differ from those of all that meet the rules and are no duplicates"
    )

    def of_all_records(self, other: "Validate") -> tuple[str, ...]:
        """The settings that compare a record with all others and that `other` does not have equally."""
        compared = {"answer_relevance": self.answer_relevance, "outliers": self.outliers}
        return tuple(name for name, rule in compared.items() if rule and rule != getattr(other, name))

    @property
    def files(self) -> tuple[str, ...]:
        """Lists, models, evaluation sets and the schema that the rules read."""
        of_curate = [*self.filters.rules, *([self.language] if self.language else [])]
        lists = [path for rule in (*of_curate, self.bad_words) for path in files_read_by(rule)]
        model = [self.inappropriate.model] if self.inappropriate else []
        schema = [self.json_schema] if isinstance(self.json_schema, str) else []
        return (*lists, *model, *schema)

    @property
    def filters(self) -> Filters:
        """The rules of `curate`, and the languages."""
        return Filters(
            self.language, self.rules.active() if self.rules else (), self.rules.dialect if self.rules else "paper"
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("question_chars", "answer_chars", "text_chars"):
            if (bounds := getattr(self, name)) and not 0 <= bounds[0] <= bounds[1]:
                raise ValueError(f"{name}: {list(bounds)} is no range; the first number is the least")
        return self


# What a record is classed by besides its metadata: its length (each class up to twice as long as the one before), and
# its stage of the curriculum. Metadata with such a name is used instead.
FOUND = ("length", "complexity")

MOST_COPIES = 1000  # of a record that balancing repeats

Found = Literal["ignore", "list", "remove"]


class Duplicates(_PrepareSettings):
    """Records that are like others in their question or answer alone, and what is done with them."""

    questions: Found = Field(
        "ignore",
        description="records whose question is that of another one, exactly or by `dedup.threshold`; list: they are in "
        "one split, as those with exactly equal questions always are",
    )
    answers: Found = Field("ignore", description="the same of answers")
    contradictory: Found = Field(
        "list",
        description="records that have an equal question and different answers; remove: all of them. ignore: they are "
        "not looked for; list: they stay and are listed",
    )


class Balance(_PrepareSettings):
    """Numbers of records of each class, by leaving some out and repeating others."""

    by: tuple[str, ...] = Field(
        min_length=1, description=f"metadata whose values together are the class; also {', '.join(FOUND)}"
    )
    to: Literal["smallest", "largest"] | Annotated[int, Field(ge=1)] | dict[str, Annotated[int, Field(ge=0)]] = Field(
        "largest",
        description="records of each class: those of the smallest or largest class, or a number; or value -> number, "
        "with one field in `by`: values that are not named stay as they are",
    )
    most_copies: int = Field(5, ge=1, le=MOST_COPIES, description="how often a record is written at most")

    @field_validator("to", mode="before")
    @classmethod
    def _values_are_texts(cls, to: Any) -> Any:
        return {str(value): number for value, number in to.items()} if isinstance(to, dict) else to

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.to, dict) and (len(self.by) > 1 or not self.to):
            raise ValueError(
                f"to: {', '.join(self.to) or 'no value'} named, and by has {', '.join(self.by)}; values have numbers "
                "with one field in `by`"
            )
        if isinstance(self.to, dict) and self.by == ("complexity",) and not all(one.isdigit() for one in self.to):
            raise ValueError("to: complexity is a stage of the curriculum; name the numbers of stages, from 1")
        return self


# Words and phrases of English answers that give reasons or go step by step.
REASONING = (
    "because", "therefore", "thus", "hence", "so that", "as a result", "consequently", "since", "due to", "if",
    "unless", "however", "although", "whereas", "on the other hand", "first", "second", "third", "then", "next",
    "finally", "step", "in order to", "for example", "in other words", "which means", "let us", "we get", "equals",
)  # fmt: skip


class ComplexityWeights(_PrepareSettings):
    """Weights of what makes a record difficult; see pipelines/prepare/stages/complexity.py."""

    question_length: float = Field(1, ge=0)
    answer_length: float = Field(1, ge=0)
    rarity: float = Field(1, ge=0, description="weight of how rare the words are, over all records")
    reasoning: float = Field(1, ge=0)
    domain: float = Field(1, ge=0, description="without words in `domain` it is left out")


class Curriculum(_PrepareSettings):
    """Stages of records from easy to hard, which `order: curriculum` of a train config follows."""

    stages: int = Field(4, ge=2, le=100, description="number of stages, of equal sizes; 1 is the easiest")
    weights: ComplexityWeights = ComplexityWeights()
    reasoning: tuple[str, ...] = Field(REASONING, description="words and phrases that are counted in answers")
    domain: tuple[str, ...] = Field((), description="words and phrases of the domain")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("reasoning", "domain"):
            for phrase in getattr(self, name):
                if not any(map(str.isalnum, phrase)):
                    raise ValueError(f"{name}: {phrase!r} has no word")
        weights = self.weights.model_dump()
        if not any(weights[name] for name in weights if name != "domain" or self.domain):
            raise ValueError("weights: all are 0; give one of them")
        return self


class Split(_PrepareSettings):
    """Shares of records. Records that belong together are in one split."""

    train: float = Field(0.8, gt=0, le=1)
    validation: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.1, ge=0, lt=1)
    stratify: tuple[str, ...] = Field(
        (), description=f"metadata whose values have the same shares in every split; also {', '.join(FOUND)}"
    )
    group: tuple[str, ...] = Field((), description="metadata: records with an equal value are in one split")
    keep: tuple[paths.AbsolutePath, ...] = Field(
        (), description="outputs of earlier runs: their records stay in the split where they were"
    )
    stable: bool = Field(
        True,
        description="with --replace, the records that the data set has already stay in their split and fold, and new "
        "ones fill up what these lack, unless `split` has other shares, groups, strata or seed; false: all are divided "
        "anew",
    )
    by_time: str | None = Field(
        None,
        description="metadata with a date or time: the oldest records are for training, the newest for testing",
    )
    folds: int | None = Field(None, ge=2, le=100, description="number the records that are not for test with 0..K-1")
    balance: Balance | None = Field(
        None, description="balance of classes in the training split; other splits stay as they are"
    )
    seed: int = Field(1, ge=0, lt=1 << 32)

    @property
    def shares(self) -> tuple[float, float, float]:
        return self.train, self.validation, self.test

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(f"train, validation and test sum to {sum(self.shares):g}; wanted 1")
        if both := sorted(set(self.stratify) & set(self.group)):
            raise ValueError(f"{', '.join(both)}: in stratify and in group; records of one group have one split")
        if self.by_time and (self.stratify or self.folds):
            raise ValueError("by_time: time alone decides the split; leave stratify and folds out")
        return self


def _name_of(output: str) -> str:
    """The last part of a folder or URI as a name."""
    last = output.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip("_.-")[:100] or "dataset"


class PrepareConfig(_PrepareSettings):
    """Sources of records to a data set for fine-tuning."""

    kind: Literal["prepare"]
    name: str = Field(
        "",
        max_length=100,
        pattern=_NAME,
        description="name of the run in logs and reports; default: the last part of `output`",
    )
    inputs: tuple[Source, ...] = Field(min_length=1)
    output: str = Field(min_length=1, description="folder or URI; everything the run makes is below it")
    records: Records = Records()
    mixture: Mixture = Mixture()
    clean: Clean = Clean()
    validation: Validate = Field(Validate(), alias="validate")
    dedup: Dedup | None = Dedup()
    duplicates: Duplicates = Duplicates()
    split: Split = Split()
    curriculum: Curriculum | None = Field(None, description="`{}`: with the defaults")
    assess: Assess = Assess()
    gates: Gates = Gates()
    limits: Limits = Limits()
    execution: FilesExecution = FilesExecution()
    storage: StorageOptions = StorageOptions()  # type: ignore[call-arg]

    @model_validator(mode="before")
    @classmethod
    def _named_after_output(cls, settings: Any) -> Any:
        if isinstance(settings, dict) and settings.get("name") is None and isinstance(settings.get("output"), str):
            return settings | {"name": _name_of(settings["output"])}
        return settings

    @property
    def store(self) -> Store:
        """The store of the output, and of inputs without `storage` of their own."""
        return Store(self.storage)

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the environment variables with the secrets that the driver needs."""
        found = [name for one in self.inputs if one.connection for name in variables_of(one.connection)]
        return tuple(dict.fromkeys([*found, *filter(None, [self.clean.pseudonym_key])]))

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
        says_no_pair = self.records.shape == "preference" or (
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
