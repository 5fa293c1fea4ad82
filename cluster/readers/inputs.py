"""The settings `inputs` and `limits` of a config: which documents to read, and bounds on their sizes."""

import codecs
import os
from collections.abc import Container, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from cluster.store import paths
from cluster.store.interface import StorageOptions
from cluster.store.store import Store

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
CUT = "_cut"  # what the reader left out of the row: [kind, text] of each piece, as a JSON list (cut_text.CUT_KINDS)
FILE = "_file"  # the URI of the file
ORIGINS = (COLLECTED_AT, PARENTS, CONTENT, CUT, FILE)

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
    "wet",
    "hf",
    "fetched",
]


ENCODING = (
    "encoding of text, Markdown, HTML, transcripts, CSV, TSV, JSON and JSON Lines, as windows-1252 or utf-16; default: "
    "UTF-8, of HTML as found"
)


def _known_encoding(name: str) -> str:
    try:
        codecs.getincrementaldecoder(name)
        b"".decode(name)
    except LookupError as error:
        raise ValueError(f"{name}: is no encoding of text that Python knows; give one such as windows-1252") from error
    return name


Encoding = Annotated[str, AfterValidator(_known_encoding)]


class Input(BaseModel):
    """One source of documents: its files, and the columns to read from them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reserved: ClassVar[frozenset[str]] = RESERVED_COLUMNS
    # Whether the text may be a list or an object, as messages are; it is read as compact JSON.
    nested_text: ClassVar[bool] = False
    # Text column -> the column that has the text where that one is missing or null.
    instead: ClassVar[Mapping[str, str]] = {}
    # Whether tables have the columns ORIGINS.
    origins: ClassVar[bool] = False

    source: str = Field(
        default="input", pattern=r"^[A-Za-z0-9_.-]+$", description="name of the input in corpus and report"
    )
    path: paths.AbsolutePath = Field(
        description="folder (every file below it with a format's ending), glob (`**` crosses folders), file or URI; "
        "a folder saved by Hugging Face `datasets`; or hf://ORG/NAME[/CONFIG][@REVISION] for a data set of "
        "its hub",
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="globs of files to leave out: names (`draft-*`), or paths below the folder (`2019/**`)"
    )
    follow_links: bool = Field(
        default=False, description="whether links in the folder may lead out of it, as those of the hub's cache do"
    )
    format: Format | None = Field(default=None, description="default: by the file's ending, after .gz, .zst or .bz2")
    text: str = Field(default="text", min_length=1, description="column of the text, in formats with columns")
    id: str | None = Field(
        default=None,
        min_length=1,
        description="column of the document's id, strings or whole numbers; default, and if it is null or empty: the "
        "hash of the text. In formats without columns the id is the path of the file, in archives the record_id",
    )
    columns: tuple[str, ...] = Field(default=(), description="more columns to carry into the corpus, by name")
    licence: str | None = Field(default=None, description="licence of this source, recorded in the manifests")
    weight: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="share of this source in a mixture, recorded in the manifests",
    )
    snapshot: str | None = Field(default=None, description="name of the crawl or release; a scope for deduplication")
    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, description="default: comma for csv, tab for tsv"
    )
    encoding: Encoding | None = Field(default=None, description=ENCODING)
    split: str = Field(default="train", min_length=1, description="hf: the split to read")
    storage: StorageOptions | None = Field(
        default=None, description="settings of the store with this input; default: the config's `storage`"
    )

    @property
    def named_speakers(self) -> Sequence[str]:
        """Names of speakers in transcripts, beside those that are found."""
        return ()

    @field_validator("path")
    @classmethod
    def _without_parent_folders(cls, path: str) -> str:
        """A local path without `..`, so that one folder has one name."""
        return path if paths.scheme(path) else os.path.normpath(path)

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
