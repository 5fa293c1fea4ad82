"""The documents of a batch: its column of texts, cut into pieces for the kernels, with what cannot be read.

A text is read, refused and normalised as `curate` does it, so that a row has the same results in both.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.config import load_values
from raymill.cluster.errors import DataError
from raymill.cluster.formats import listed, plural
from raymill.cluster.readers.formats.arrow_streams import check_values
from raymill.cluster.readers.inputs import RESERVED_COLUMNS, Limits
from raymill.cluster.readers.reader import TABLE_BYTES, as_large_string, is_text_type, text_problems
from raymill.cluster.stored_parquet import PICKLED_OBJECTS
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.rules.opt_out import OptOut
from raymill.pipelines.rules.url_blocklist import UrlBlocklist
from raymill.pipelines.rules.url_words import UrlWords
from raymill.pipelines.text.normalize import NORMALIZE_VERSION, normalize
from raymill.pipelines.text.texts import Texts

log = logging.getLogger(__name__)

# In the metadata of the field of a column whose texts are normalised.
_NORMALIZED = {b"raymill.normalized": NORMALIZE_VERSION.encode()}


def settings_of(
    name: str,
    groups: Mapping[str, Mapping[str, Any]],
    limits: Mapping[str, Any] | None,
    storage: Mapping[str, Any] | None,
    columns: tuple[str, ...] = (),
) -> CurateConfig:
    """A config of `curate` with these groups of settings and no other. The input and the output are not used.

    Args:
        name: what the settings are of, for messages.
        columns: carried columns of the input.

    Raises:
        ConfigError: lists all mistakes, as for a config file.
    """
    without = {group: None for group in ("language", "rules", "personal_data", "dedup") if group not in groups}
    of_config = {"limits": dict(limits or {}), "storage": dict(storage or {})}
    unused: dict[str, Any] = {
        "kind": "curate",
        "name": "dataset",
        "inputs": [{"source": "dataset", "path": "dataset", "columns": [*columns, *_columns_of(groups.get("rules"))]}],
        "output": "dataset",
    }
    given = {group: dict(settings) for group, settings in groups.items()}
    return load_values(unused | without | of_config | given, name)  # type: ignore[return-value]


def _columns_of(rules: Mapping[str, Any] | None) -> list[str]:
    """The columns that these settings of rules name, any of which a Dataset may have."""
    given = {name: one for name, one in (rules or {}).items() if isinstance(one, Mapping)}
    of_url = (given[name].get("column", "url") for name in (UrlBlocklist.name, UrlWords.name) if name in given)
    named = [one for one in of_url if isinstance(one, str) and one not in RESERVED_COLUMNS]
    return list(dict.fromkeys([*named, *(OptOut.columns if OptOut.name in given else ())]))


@dataclass(frozen=True)
class Piece:
    """Some rows of a batch.

    Attributes:
        rows: D rows with all columns of the batch.
        strings: large_string[D], the texts as they are; null for those that Arrow strings cannot hold.
        texts: the normalised texts; empty where there is a problem.
        problems: row -> why its text cannot be read, a key of PROBLEMS.
    """

    rows: pa.Table
    strings: pa.LargeStringArray
    texts: Texts
    problems: Mapping[int, str]

    def readable(self, column: pa.Array) -> pa.Array:
        """The column with nulls for the texts that cannot be read."""
        return self.where_unreadable(pa.scalar(None, column.type), column)

    def where_unreadable(self, instead: pa.Scalar | pa.Array, column: pa.Array) -> pa.Array:
        """The column with the values of `instead` for the texts that cannot be read."""
        if not self.problems:
            return column
        mask = np.zeros(len(column), bool)
        mask[list(self.problems)] = True
        return pc.if_else(pa.array(mask), instead, column)


def pieces_of(batch: pa.Table, text: str, limits: Limits, name: str) -> Iterator[Piece]:
    """The rows of a batch in pieces of about 8 MB of text, in order. An empty batch is one empty piece.

    Args:
        text: name of the column with the texts.
        name: of the operator, for messages.

    Raises:
        TypeError: the batch is no Arrow table.
        DataError: it has no such column, or one without texts.
    """
    if not isinstance(batch, pa.Table):
        raise TypeError(
            f"{name}: the batch is a {type(batch).__name__}, and a pyarrow.Table is wanted. Pass "
            'batch_format="pyarrow" to map_batches.'
        )
    if text not in batch.column_names:
        raise DataError(
            f"{name}: the Dataset has no column {text}; it has: {listed(batch.column_names)}. Name the column with "
            f'the texts, as in {name}(text="...").'
        )
    if batch.column_names.count(text) > 1:
        raise DataError(f"{name}: the Dataset has several columns {text}. Rename all but one.")
    column = batch.column(text)
    if not is_text_type(column.type):
        raise DataError(
            f"{name}: the column {text} holds {column.type}, and texts are strings. Name the column with the texts, as "
            f'in {name}(text="...").'
        )
    refuse_damaged(column, text, name)
    is_normal = is_marked_normal(batch.schema.field(text))
    for start, count in _cuts(column):
        strings, problems = _strings(column.slice(start, count))
        problems = text_problems(strings, limits) | problems
        piece = Piece(batch.slice(start, count), strings, Texts.from_strings([]), problems)
        texts = Texts.from_arrow(piece.readable(strings))
        yield Piece(piece.rows, strings, texts if is_normal else normalize(texts), problems)


def refuse_damaged(column: pa.ChunkedArray, name: str, operator: str) -> None:
    """Verify that no value of a column lies outside of its buffers.

    Raises:
        DataError: one does.
    """
    try:
        for chunk in column.chunks:
            check_values(chunk)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{operator}: the column {name} is damaged ({error}). Read the Dataset from whole files, such as Parquet."
        ) from error


def refuse_taken(added: Sequence[str], names: Sequence[str], operator: str) -> None:
    """Refuse a Dataset that has columns which would be added.

    Raises:
        DataError: `names` has some of `added`.
    """
    if taken := [name for name in added if name in names]:
        raise DataError(
            f"{operator}: the Dataset already has {plural(len(taken), 'column')} that it would add: {listed(taken)}. "
            "Rename them first, as with Dataset.rename_columns."
        )


def warn_of_unreadable(problems: Counter[str], operator: str) -> None:
    """Log how many texts could not be read. problems: their number by problem."""
    if problems:
        shown = ", ".join(f"{count:,} {problem}" for problem, count in problems.most_common())
        log.warning("%s: %s cannot be read: %s", operator, plural(problems.total(), "text"), shown)


def marked_normal(field: pa.Field) -> pa.Field:
    """The field of a column of texts, marked as normalised: operators take its texts as they are."""
    return field.with_metadata(_NORMALIZED)


def is_marked_normal(field: pa.Field) -> bool:
    """Whether the field was marked by `marked_normal` of this version."""
    return _NORMALIZED.items() <= (field.metadata or {}).items()


def _cuts(column: pa.ChunkedArray) -> list[tuple[int, int]]:
    """(first row, number of rows) of pieces of at most TABLE_BYTES; a larger text is alone."""
    sizes = np.concatenate([np.empty(0, np.int64), *map(_byte_lengths, column.chunks)])
    ends = np.cumsum(sizes)
    cuts, row, before = [], 0, 0
    while row < len(sizes):
        end = max(int(np.searchsorted(ends, before + TABLE_BYTES, side="right")), row + 1)
        cuts.append((row, end - row))
        row, before = end, int(ends[end - 1])
    return cuts or [(0, 0)]


def _byte_lengths(column: pa.Array) -> np.ndarray:
    """int64[D]: bytes of each value; 0 for nulls. Does not decode dictionaries and views, which may repeat a text."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_null(column.type):
        return np.zeros(len(column), np.int64)
    if pa.types.is_dictionary(column.type):
        found, valid = np.zeros(len(column), np.int64), column.indices.is_valid().to_numpy(zero_copy_only=False)
        found[valid] = _byte_lengths(column.dictionary)[column.indices.drop_null().to_numpy()]
        return found
    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        # A view is 16 bytes, of which the first four are the length.
        views = np.frombuffer(column.buffers()[1], "<i4").reshape(-1, 4)
        lengths = views[column.offset : column.offset + len(column), 0].astype(np.int64)
        return np.where(column.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
    return pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _strings(column: pa.ChunkedArray) -> tuple[pa.LargeStringArray, dict[int, str]]:
    """(the texts, row -> problem of those that Arrow strings cannot hold). Strings are not copied if in one chunk."""
    if getattr(column.type, "extension_name", "") == PICKLED_OBJECTS:
        return _of_python_objects([pickled for chunk in column.chunks for pickled in chunk.storage.to_pylist()])
    chunks = [as_large_string(chunk) for chunk in column.chunks]
    return (chunks[0] if len(chunks) == 1 else pa.chunked_array(chunks, pa.large_string()).combine_chunks()), {}


# Opcodes of pickles that push a text or bytes -> (bytes of the length that follows, whether it is a text).
_STRINGS = {0x8C: (1, True), 0x58: (4, True), 0x8D: (8, True), 0x43: (1, False), 0x42: (4, False), 0x8E: (8, False)}
# Opcodes that leave the value as it is -> bytes of their argument: PROTO, FRAME, MEMOIZE, BINPUT, LONG_BINPUT.
_SKIPPED = {0x80: 1, 0x95: 8, 0x94: 0, 0x71: 1, 0x72: 4}
_NONE, _STOP = 0x4E, 0x2E
_MOST_OPCODES = 8  # Python writes at most six


def _unpickled_text(pickled: bytes) -> str | bytes | None:
    """The text, bytes or None that a pickle holds, read without Python's unpickler.

    The unpickler builds containers, hashes them and keeps a memo, so a small pickle can exhaust memory or the stack.

    Raises:
        ValueError: it holds something else, or is damaged.
    """
    at, found = 0, list[str | bytes | None]()
    for _ in range(_MOST_OPCODES):
        opcode = pickled[at] if at < len(pickled) else None
        at += 1
        if opcode == _STOP:
            (value,) = found
            return value
        if opcode == _NONE:
            found.append(None)
        elif opcode in _SKIPPED:
            at += _SKIPPED[opcode]
        elif opcode in _STRINGS:
            width, is_text = _STRINGS[opcode]
            start = at + width
            end = start + int.from_bytes(pickled[at:start], "little")
            if end > len(pickled):
                raise ValueError("it ends within a text")
            found.append(pickled[start:end].decode("utf-8", "surrogatepass") if is_text else pickled[start:end])
            at = end
        else:
            break
    raise ValueError("it holds no text")


def _of_python_objects(pickles: list[bytes | None]) -> tuple[pa.LargeStringArray, dict[int, str]]:
    """The texts of a column in which Ray keeps a value that Arrow cannot hold, such as half of a surrogate pair."""
    problems: dict[int, str] = {}
    texts: list[bytes | None] = []
    for row, pickled in enumerate(pickles):
        value, encoded = None, None
        if pickled is not None:
            try:
                value = _unpickled_text(pickled)
            except ValueError:
                problems[row] = "not_a_string"
        if isinstance(value, str):
            try:
                encoded = value.encode()
            except UnicodeEncodeError:
                problems[row] = "lone_surrogate"
        elif isinstance(value, bytes):
            encoded = value
        elif value is not None:
            problems[row] = "not_a_string"
        texts.append(encoded)
    return pa.array(texts, pa.large_binary()).view(pa.large_string()), problems
