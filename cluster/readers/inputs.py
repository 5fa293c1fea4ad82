"""The settings `inputs` and `limits` of a config: which documents to read, and bounds on their sizes and times."""

import codecs
import json
import os
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    SerializationInfo,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)

from raymill.cluster.errors import ConfigError
from raymill.cluster.guard import Exceeded, WorkBounds
from raymill.cluster.plugins import Plugin, PluginKind, PluginUse, is_registered
from raymill.cluster.store import paths
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.store import Store

# `exclude` of pydantic's model_dump: the settings of stores, secrets included, which manifests and reports omit.
STORES: dict[str, Any] = {"storage": True, "inputs": {"__all__": {"storage": True}}}

# Columns of Raymill; no carried column may have one of these names.
RESERVED_COLUMNS = frozenset(
    {"row", "id", "text", "problem", "where", "source", "language", "language_score", "duplicate_count", "group_id"}
)

# Columns, strings, that tables of inputs with `origins` have; no column of a file is read under these names.
COLLECTED_AT = "_collected_at"  # when a row was received, else when its file was last changed
PARENTS = "_parents"  # ids of the documents that this one was joined from, as a JSON list
CONTENT = "_content"  # beginning of the content, for a row that cannot be read
CUT = "_cut"  # what the reader left out of the row: [kind, text] of each piece, as a JSON list (CUT_KINDS)
FILE = "_file"  # the URI of the file
ORIGINS = (COLLECTED_AT, PARENTS, CONTENT, CUT, FILE)

Cut = tuple[str, str]  # (kind, a key of CUT_KINDS; text)

# What readers and cleaning take out of a document: kind -> meaning.
CUT_KINDS = {
    "quote": "an earlier mail that a mail repeats: lines with >, blocks of HTML and Outlook, and what announces them",
    "signature": "the signature of a mail",
    "disclaimer": "a paragraph of a mail that says what a reader may not do with it",
    "forwarded_header": "the header lines of a forwarded mail, whose text stays",
    "forwarded_again": "the text of a forwarded mail that its thread has already",
    "automatic_reply": "an automatic reply (Auto-Submitted, X-Autoreply, Precedence)",
    "repeated_message": "another text under a Message-ID that an earlier message of the file has",
    "attachment": "an attached text, of which the name is given",
    "cue_note": "a note or style sheet of a transcript",
    "html_hidden": "a comment, script or style sheet of HTML",
    "before_question": "what was said before the first question of a chat with `speakers`",
    "after_answer": "what was said after the last answer of a chat with `speakers`",
    "not_public": "a message of a chat that is not public",
    "skipped_speaker": "what a speaker said whose role is `skip`",
    "second_system": "a system message after the first one",
}

Format = Literal[
    "parquet",
    "jsonl",
    "json",
    "csv",
    "tsv",
    "text",
    "markdown",
    "html",
    "pdf",
    "docx",
    "transcript",
    "mail",
    "warc",
    "arc",
    "wet",
    "hf",
    "fetched",
]


Extractor = Literal["resiliparse", "trafilatura", "trafilatura_fast", "justext", "router"]

ENCODING = (
    "Character encoding of text, Markdown, HTML, transcripts, CSV, TSV, JSON and JSON Lines, such as windows-1252; "
    "null: UTF-8, and of HTML the one that is found"
)


def _known_encoding(name: str) -> str:
    try:
        codecs.getincrementaldecoder(name)
        b"abcd".decode(name, "replace")  # Python does not look at the codec of no bytes
    except (LookupError, UnicodeError) as error:
        raise ValueError(f"{name}: is no encoding of text that Python knows; give one such as windows-1252") from error
    return name


Encoding = Annotated[str, AfterValidator(_known_encoding)]


def as_list(value: Any) -> Any:
    """A text or one input's settings as a list of one, for the setting `inputs`."""
    return [value] if isinstance(value, str | dict) else value


def long_form(settings: Any) -> Any:
    """The settings of a config with `inputs` in place of `input`, which is short for it."""
    if not isinstance(settings, dict) or "input" not in settings or "inputs" in settings:
        return settings
    return {"inputs" if name == "input" else name: value for name, value in settings.items()}


READER = PluginKind("reader", "raymill.readers", ("content", "path"), ("read",))
LOADED_READERS: dict[str, Plugin] = {}  # format name -> reader of the configs of this process


class ReaderUse(PluginUse):
    """A reader of the user, as `module:attribute`, or with settings."""

    kind: ClassVar = READER

    def check(self, plugin: Plugin) -> None:
        """Register the reader as a format.

        Raises:
            ConfigError: its `endings` or `columns` are no tuple of texts.
        """
        made = plugin.make()
        for name in ("endings", "columns"):
            given = getattr(made, name, ())
            if not (isinstance(given, tuple | list) and all(isinstance(one, str) for one in given)):
                raise ConfigError(f"{self.use}: {name} is {given!r:.80}; wanted a tuple of texts")
        LOADED_READERS[self.name] = plugin

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        if self.plugin:
            self.check(self.plugin)

    @property
    def name(self) -> str:
        """The name of the format: the class or function, with its settings."""
        settings = self.model_extra or {}
        return f"{self.use} {json.dumps(settings, sort_keys=True)}" if settings else self.use


_OWN_FORMATS = TypeAdapter(Format | None)


def _format_or_reader(value: Any, info: ValidationInfo) -> Any:
    """A format by its name; everything that can be none is a reader of the user."""
    is_own = value is None or (isinstance(value, str) and ":" not in value and not is_registered(READER, value))
    return _OWN_FORMATS.validate_python(value) if is_own else ReaderUse.model_validate(value, context=info.context)


def _plain_format(value: Any, info: SerializationInfo) -> Any:
    return value.model_dump(mode=info.mode, context=info.context) if isinstance(value, ReaderUse) else value


FormatOrReader = Annotated[
    Format | ReaderUse | None,
    PlainValidator(_format_or_reader, json_schema_input_type=Format | ReaderUse | str | None),
    PlainSerializer(_plain_format),
]


# Of documents of which only columns are known, those that need no text, since they are removed: bool[D]. One with an
# attribute `reads_page_start`, True, is also given the column PAGE_START of pages (formats/page_start.py).
Unwanted = Callable[[pa.Table], np.ndarray]
PAGE_START = "page_start"


class WithShortForm(BaseModel):
    """Settings for which a text alone stands for the setting `short_form`."""

    short_form: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {cls.short_form: value} if isinstance(value, str) else value


class Input(WithShortForm):
    """One source of documents: its files, and the columns to read from them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    short_form: ClassVar = "path"
    reserved: ClassVar[frozenset[str]] = RESERVED_COLUMNS
    # Whether the text may be a list or an object, as messages are; it is read as compact JSON.
    nested_text: ClassVar[bool] = False
    # Text column -> the column that has the text where that one is missing or null.
    instead: ClassVar[Mapping[str, str]] = {}
    # Whether tables have the columns ORIGINS.
    origins: ClassVar[bool] = False
    # Whether columns that no record at the beginning of the files has are listed in a note.
    notes_absent: ClassVar[bool] = True

    source: str = Field(
        default="input", pattern=r"^[A-Za-z0-9_.-]+$", description="Name of the source in the corpus and the report"
    )
    path: paths.AbsolutePath = Field(
        description="Folder (files of known formats in it and below), glob (`**` crosses folders), file or URI; a "
        "folder saved by Hugging Face `datasets`; or hf://ORG/NAME[/CONFIG][@REVISION]",
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="Globs of files to leave out: names (`draft-*`), or paths below the folder (`2019/**`)"
    )
    follow_links: bool = Field(
        default=False,
        description="Whether symbolic links are followed that lead out of the folder, as those of the Hugging Face "
        "cache do",
    )
    format: FormatOrReader = Field(
        default=None,
        description="Format of the files, or a reader of your own as `module:attribute`; null: by the ending of each "
        "name, without .gz, .zst, .bz2 or .lz4",
    )
    text: str = Field(
        default="text", min_length=1, description="Name of the column with the text, in formats with columns"
    )
    id: str | None = Field(
        default=None,
        min_length=1,
        description="Name of the column with document ids, text or whole numbers, or `path` for the path of the file "
        "in formats without columns; null: a hash of the text, as where it is empty; of web archives the record's id",
    )
    columns: tuple[str, ...] = Field(default=(), description="Names of further columns to carry into the corpus")
    licence: str | None = Field(
        default=None, description="Licence of the source, recorded in the manifests and the report; null: not recorded"
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="Relative weight of the source in a training mixture, recorded in the manifests and the report; "
        "curation does not apply it",
    )
    snapshot: str | None = Field(
        default=None, description="Name of the crawl or release of the files, for `dedup.scope: snapshot`; null: none"
    )
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="Character between the columns of CSV and TSV files; null: comma for CSV, tab for TSV",
    )
    encoding: Encoding | None = Field(default=None, description=ENCODING)
    extractor: Extractor | None = Field(
        default=None,
        description="Library that finds the main content of HTML pages and web archives; null: resiliparse. Slower and "
        "better on news: trafilatura; only where resiliparse finds little: router",
    )
    split: str = Field(
        default="train", min_length=1, description="Name of the split to read of a Hugging Face data set"
    )
    storage: StorageOptions | None = Field(
        default=None, description="Object-store settings for this source alone; null: the config's `storage`"
    )

    _unwanted: Unwanted | None = PrivateAttr(None)

    @property
    def unwanted(self) -> Unwanted | None:
        """Which documents need no text; None: each one needs it."""
        return self._unwanted

    def leaving_out(self, unwanted: Unwanted | None) -> Self:
        """The same for a reading in which these documents need no text."""
        found = self.model_copy()
        found._unwanted = unwanted
        return found

    @property
    def named_speakers(self) -> Sequence[str]:
        """Names of speakers in transcripts, beside those that are found."""
        return ()

    @field_validator("path")
    @classmethod
    def _without_parent_folders(cls, path: str) -> str:
        """A local path without `..`, so that one folder has one name."""
        return path if paths.scheme(path) else os.path.normpath(path)

    @model_validator(mode="after")
    def _format_has_an_extractor(self) -> Self:
        if self.extractor and self.format_name not in (None, "html", "warc", "arc"):
            raise ValueError(
                f"extractor: {self.extractor} finds the main content of HTML pages, and files of format "
                f"{self.format_name} are none; leave out one of the two"
            )
        return self

    @field_validator("columns")
    @classmethod
    def _names_are_free(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        taken = [name for name in columns if name in cls.reserved]
        if taken:
            raise ValueError(
                f"{', '.join(taken)}: the corpus has a column of this name with another meaning; leave it out"
            )
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: named twice; name every column once")
        return columns

    @property
    def format_name(self) -> str | None:
        """The key of READERS of the format that is set, None if none is."""
        return self.format.name if isinstance(self.format, ReaderUse) else self.format

    @property
    def html_extractor(self) -> Extractor:
        """The extractor of HTML pages: the one that is set, or the default."""
        return self.extractor or "resiliparse"

    def setting_of(self, setting: str, column: str) -> str:
        """The name that messages give to the setting `text`, `id` or `columns` with this column."""
        return setting

    def texts_in(self, names: Container[str]) -> list[str]:
        """The columns with the text, of a file with columns of these names: the first that has one counts."""
        return [one for one in (self.text, self.instead.get(self.text)) if one is not None and one in names]

    def columns_in(self, names: Container[str]) -> list[str]:
        """The columns to read of a file with columns of these names: text, id and the carried ones, each once."""
        return list(dict.fromkeys([*self.texts_in(names), *([self.id] if self.id else []), *self.columns]))

    def recorded(self) -> dict[str, Any]:
        """The settings as JSON values for the records of a run, without the secrets of the store."""
        plain = self.model_dump(mode="json", exclude={"storage"})
        return plain if self.storage is None else plain | {"storage": self.storage.without_secrets()}


def input_stores(store: Store, inputs: Sequence[Input]) -> tuple[Store, ...]:
    """The store of each input: made from its `storage` if it has one, else `store`."""
    return tuple(
        store if one.storage is None else Store(one.storage, f"inputs[{number}].storage")
        for number, one in enumerate(inputs)
    )


# Bytes of a line for other keys and columns than the text, which have no bound of their own. While a line is parsed, it
# takes up to five times its bytes of memory.
OTHER_BYTES = 64 << 20
_CARRIED_BYTES = 1 << 20
# Most bytes that the records of a compressed file count besides their own at any ratio: 670,000 lines, a second.
_FREE_WORK_BYTES = 64 << 20

# Memory for extracting the text of a document: for any document, and for each of its bytes.
_PARSER_BYTES = 512 << 20
_PARSER_BYTES_PER_BYTE = 32
# Documents that are read again have this multiple of the time of the first reading.
_AGAIN = 4


class Limits(BaseModel):
    """Bounds on the size of a document and the time for it, and on the size of a decompressed file.

    Documents and files beyond them are quarantined.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_document_bytes: int = Field(
        default=10_000_000,
        ge=1,
        le=2_000_000_000,
        description="Maximum size of a document in bytes: its text in UTF-8, the HTML of a web page, or if "
        "over 1 MiB a carried value; larger documents are quarantined",
    )
    max_expansion_ratio: float = Field(
        default=1000.0,
        gt=1,
        description="Maximum ratio of decompressed to compressed bytes of a file, against decompression bombs. Each "
        "line or JSON value counts as 100 bytes more, each record of an archive or mailbox as 4,000",
    )
    max_expanded_gib: float = Field(default=64.0, gt=0, description="Maximum decompressed size of a file, in GiB")
    max_block_mib: int = Field(
        default=256,
        ge=1,
        le=1 << 20,
        description="Maximum size in MiB of a part of a file that must be in memory as a whole: window of a zstd "
        "file, record batch of an Arrow file, page of a Parquet file",
    )
    document_s: float = Field(
        default=10.0,
        gt=0,
        le=86_400,
        description="Processor time in seconds for extracting the text of one document (HTML, PDF, Word, transcript, "
        "e-mail), and as much again for each megabyte of it",
    )
    # Place of a document -> (problem, bound) of the first reading.
    _exceeded: Mapping[str, tuple[str, str]] = PrivateAttr(default_factory=dict)

    def of_parser(self, where: str, size: int) -> WorkBounds:
        """The bounds on extracting the text of a document of `size` bytes. where: its place.

        Raises:
            Exceeded: it exceeded them when it was read first.
        """
        if where in self._exceeded:
            raise Exceeded(*self._exceeded[where])
        return WorkBounds(self.document_s * (1 + size / 1e6), _PARSER_BYTES + _PARSER_BYTES_PER_BYTE * size)

    def again(self, exceeded: Mapping[str, tuple[str, str]]) -> Self:
        """The limits of a later reading, so that the same documents exceed them.

        Each of `exceeded`, by its place, exceeds them at once; all others have more time than before.
        """
        later = self.model_copy(update={"document_s": _AGAIN * self.document_s})
        later._exceeded = exceeded
        return later

    @property
    def block_bytes(self) -> int:
        """Largest part of a file in memory; never too small for one with a few of the largest documents."""
        return max(self.max_block_mib << 20, 4 * self.max_document_bytes)

    @property
    def carried_bytes(self) -> int:
        """Maximum size of a carried value."""
        return max(self.max_document_bytes, _CARRIED_BYTES)

    @property
    def max_line_bytes(self) -> int:
        """Longest line that is read. JSON escapes take up to three bytes for one byte of UTF-8."""
        return 3 * self.max_document_bytes + OTHER_BYTES

    def is_bomb(self, expanded_bytes: int, compressed_bytes: int, work_bytes: int = 0) -> bool:
        """Whether a file that expanded to `expanded_bytes` is over max_expansion_ratio or max_expanded_gib.

        work_bytes: what its records count in the ratio besides their bytes. See `RecordWork` of streams.py.
        """
        # Blanks and equal lines in a small file compress 1,000 to 1 too.
        if expanded_bytes <= 4 * self.max_document_bytes + (1 << 20) and work_bytes <= _FREE_WORK_BYTES:
            return False
        ratio_exceeded = expanded_bytes + work_bytes > self.max_expansion_ratio * max(compressed_bytes, 1)
        return ratio_exceeded or expanded_bytes > self.max_expanded_gib * 2**30
