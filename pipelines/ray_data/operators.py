"""Callables over Arrow batches that do to documents what `curate` does.

    dataset = ray.data.read_parquet("s3://crawl/")
    for operator in (Normalize(), Language(keep=["en"]), Rules(packs=["c4"])):
        dataset = dataset.map_batches(operator, batch_format="pyarrow")
    dataset.filter(expr="keep")

An operator adds columns to a batch; it removes no rows. Its settings are those of its group in a config of `curate`.
Constructing one validates them and loads nothing. Models and kernels are loaded at the first batch, once in each worker
process, so instances (Ray's tasks) and classes (Ray's actors) take the same time; each call computes with one thread.

A text that cannot be read (null, above `limits.max_document_bytes`, not UTF-8) has null results. With `Language` and
`Rules` its `keep` is false, and its `reason` the problem.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.errors import ConfigError
from raymill.cluster.readers.reader import plain_chunks
from raymill.pipelines.curate.stages.measure import personal_data_counts, signatures, text_hashes
from raymill.pipelines.dedup.signatures import SKETCH_TYPE
from raymill.pipelines.ray_data.documents import (
    Piece,
    marked_normal,
    pieces_of,
    refuse_taken,
    settings_of,
    warn_of_unreadable,
)
from raymill.pipelines.rules.filters import Filters, decide, signals
from raymill.pipelines.text import personal_data
from raymill.pipelines.text.texts import Texts

KEEP, REASON = pa.field("keep", pa.bool_()), pa.field("reason", pa.string())


class Operator(ABC):
    """The arguments and the call that operators have in common.

    Args:
        text: name of the column with the texts: strings of any Arrow type, or bytes of UTF-8.
        limits: group `limits` of a config, of which `max_document_bytes` counts.
        storage: group `storage` of a config, for models and lists.
        settings: those of the operator's group.

    Raises:
        ConfigError: lists all mistakes in the settings, as for a config file.
    """

    group: ClassVar[str | None] = None  # of its settings in a config

    def __init__(
        self,
        *,
        text: str = "text",
        limits: Mapping[str, Any] | None = None,
        storage: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if settings and self.group is None:
            raise ConfigError(
                f"{type(self).__name__}: no such setting: {', '.join(settings)}. It has none; leave it out."
            )
        self.text = text
        self._settings = settings
        self._config = settings_of(
            type(self).__name__, {self.group: settings} if self.group else {}, limits, storage, self._carried()
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._settings.items())})"

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The batch with the operator's columns.

        Raises:
            TypeError: the batch is no Arrow table.
            DataError: it lacks the column of texts, or has a column that the operator would add.
            ConfigError, StorageError: a model or list of the settings is missing or damaged.
        """
        pieces = pieces_of(batch, self.text, self._config.limits, type(self).__name__)
        found: list[dict[str, pa.Array]] = []
        problems = Counter[str]()
        for piece in pieces:
            if not found:
                self._refuse_taken(batch.schema)
            found.append(self._columns(piece))
            problems.update(piece.problems.values())
        warn_of_unreadable(problems, type(self).__name__)
        columns = {name: pa.chunked_array([one[name] for one in found]) for name in found[0]}
        return self._joined(batch, columns)

    def _carried(self) -> tuple[str, ...]:
        """Columns of the Dataset that the settings name."""
        return ()

    @abstractmethod
    def _added(self) -> list[pa.Field]:
        """The fields of the columns that are added."""

    @abstractmethod
    def _columns(self, piece: Piece) -> dict[str, pa.Array]:
        """The columns to add, and to replace, for the rows of a piece."""

    def _joined(self, batch: pa.Table, columns: dict[str, pa.ChunkedArray]) -> pa.Table:
        for field in self._added():
            batch = batch.append_column(field, columns[field.name])
        return batch

    def _refuse_taken(self, schema: pa.Schema) -> None:
        refuse_taken([field.name for field in self._added()], schema.names, type(self).__name__)


class _Decides(Operator):
    """An operator with checks: adds `keep` and `reason` besides its signals.

    Where the batch has both from an earlier operator, a document that was removed there keeps its reason, as in
    `curate`, where the first failed check gives the reason.
    """

    @property
    def _filters(self) -> Filters:
        return self._config.filters

    def _columns(self, piece: Piece) -> dict[str, pa.Array]:
        rows = len(piece.texts)
        found = signals(piece.texts, self._other_columns(piece.rows), self._filters, self._config.store)
        attributes = pa.table({"row": np.arange(rows), **found})
        verdicts = decide(attributes, self._filters)
        reasons = pa.array([reason for _, reason in verdicts.reasons], pa.string())
        codes = pa.array(verdicts.code, mask=~verdicts.removed)
        problems = pa.array([piece.problems.get(row) for row in range(rows)] if piece.problems else [None], pa.string())
        return {
            **{name: piece.readable(attributes[name].combine_chunks()) for name in found},
            KEEP.name: piece.where_unreadable(pa.scalar(False), pa.array(~verdicts.removed)),
            REASON.name: piece.where_unreadable(
                problems if piece.problems else pa.scalar(None, pa.string()), reasons.take(codes)
            ),
        }

    def _other_columns(self, rows: pa.Table) -> pa.Table:
        """The columns that rules read: the language and those that they name, as plain strings; others as they are."""
        rules = self._filters.rules
        named = {"language", *(getattr(rule, "column", "language") for rule in rules)}
        named |= {name for rule in rules for name in getattr(rule, "columns", ())}
        columns = rows.drop_columns([self.text])
        for name in sorted(named & set(columns.column_names)):
            columns = columns.set_column(columns.column_names.index(name), name, plain_chunks(columns[name]))
        return columns if columns.num_columns else pa.table({"row": np.arange(rows.num_rows)})

    def _added(self) -> list[pa.Field]:
        return [*self._signals(), KEEP, REASON]

    @abstractmethod
    def _signals(self) -> list[pa.Field]:
        """The fields of the measurements that are added."""

    def _joined(self, batch: pa.Table, columns: dict[str, pa.ChunkedArray]) -> pa.Table:
        if _has_verdict(batch.schema):
            kept, reason = batch[KEEP.name], batch[REASON.name]
            columns[REASON.name] = pc.if_else(pc.fill_null(kept, True), columns[REASON.name], reason)
            columns[KEEP.name] = pc.and_(pc.fill_null(kept, True), columns[KEEP.name])
            batch = batch.drop_columns([KEEP.name, REASON.name])
        return super()._joined(batch, columns)

    def _refuse_taken(self, schema: pa.Schema) -> None:
        if _has_verdict(schema):
            schema = pa.schema([field for field in schema if field.name not in (KEEP.name, REASON.name)])
        super()._refuse_taken(schema)


def _has_verdict(schema: pa.Schema) -> bool:
    """Whether the columns KEEP and REASON of an earlier operator are there."""
    return all(field.name in schema.names and schema.field(field.name).type == field.type for field in (KEEP, REASON))


class Language(_Decides):
    """Identify the language of each document, and keep some languages: the group `language` of a config.

    Adds `language` (string), `language_score` (float32), `keep` (bool) and `reason` (string, null for kept documents).
    """

    group = "language"

    def _signals(self) -> list[pa.Field]:
        return [pa.field("language", pa.string()), pa.field("language_score", pa.float32())]


class Rules(_Decides):
    """Measure the signals of rules, and compare them with their bounds: the group `rules` of a config.

    Rules that depend on the language read the column `language`, so `Language` comes first, as in `curate`; without the
    column every document counts as English.

    Adds a float64 for each signal, `keep` (bool) and `reason` (string, null for kept documents).
    """

    group = "rules"

    def _signals(self) -> list[pa.Field]:
        return [pa.field(signal, pa.float64()) for rule in self._filters.rules for signal in rule.signals]


class _Rewrites(Operator):
    """An operator that replaces the texts. Those that cannot be read stay as they are; null if they are no string."""

    def _columns(self, piece: Piece) -> dict[str, pa.Array]:
        return {self.text: piece.where_unreadable(piece.strings, self._rewritten(piece.texts).to_arrow())}

    def _rewritten(self, texts: Texts) -> Texts:
        return texts

    def _added(self) -> list[pa.Field]:
        return []

    def _joined(self, batch: pa.Table, columns: dict[str, pa.ChunkedArray]) -> pa.Table:
        at = batch.column_names.index(self.text)
        texts = columns[self.text]
        if not pa.types.is_large_string(batch.schema.field(at).type):
            # Cast in pieces, since those of a whole batch may exceed the 2 GiB of 32-bit offsets.
            texts = pa.chunked_array(
                [chunk.view(pa.large_binary()).cast(pa.binary()).view(pa.string()) for chunk in texts.chunks]
            )
        return super()._joined(batch.set_column(at, self._field(texts.type), texts), columns)

    def _field(self, type: pa.DataType) -> pa.Field:
        return pa.field(self.text, type)


class Normalize(_Rewrites):
    """Normalise the texts, as `curate` does before it measures.

    The other operators normalise what they measure. After this one they take the texts as they are, which saves the
    time: it marks its column in the metadata of the schema.
    """

    def _field(self, type: pa.DataType) -> pa.Field:
        return marked_normal(super()._field(type))


class PersonalData(_Rewrites):
    """Count personal data, and replace the kinds in `redact`: the group `personal_data` of a config.

    Replaces the texts by the normalised and redacted ones; with `redact=[]` they stay as they are. It is the last
    operator, because `curate` measures before it redacts.

    Adds an int32 `personal_KIND` for each kind: the number of findings.
    """

    group = "personal_data"

    def _columns(self, piece: Piece) -> dict[str, pa.Array]:
        counts = {name: piece.readable(pa.array(one)) for name, one in personal_data_counts(piece.texts).items()}
        return counts | (super()._columns(piece) if self._redacts else {})

    def _rewritten(self, texts: Texts) -> Texts:
        return personal_data.redact(texts, personal_data.find(texts, self._redacts))

    @property
    def _redacts(self) -> tuple[str, ...]:
        assert self._config.personal_data is not None
        return self._config.personal_data.redact

    def _added(self) -> list[pa.Field]:
        return [pa.field(f"personal_{kind}", pa.int32()) for kind in personal_data.KINDS]

    def _joined(self, batch: pa.Table, columns: dict[str, pa.ChunkedArray]) -> pa.Table:
        return super()._joined(batch, columns) if self._redacts else Operator._joined(self, batch, columns)


class Signature(Operator):
    """Hash and sketch each document: what `curate` compares to find duplicates. Settings: the group `dedup`.

    Adds `text_hash` (binary(16)), `tokens` (int64) and `signature` (large_binary; see pipelines/dedup/signatures.py).
    `deduplicate` computes its own.
    """

    group = "dedup"

    def _carried(self) -> tuple[str, ...]:
        newest_by = self._settings.get("newest_by")
        return (newest_by,) if isinstance(newest_by, str) else ()

    def _columns(self, piece: Piece) -> dict[str, pa.Array]:
        found = signatures(piece.texts, self._config.dedup)
        columns = {
            "text_hash": pa.array(text_hashes(piece.texts), pa.binary(16)),
            "tokens": pa.array(found["tokens"]),
            "signature": found["signature"],
        }
        return {name: piece.readable(column) for name, column in columns.items()}

    def _added(self) -> list[pa.Field]:
        return [
            pa.field("text_hash", pa.binary(16)),
            pa.field("tokens", pa.int64()),
            pa.field("signature", SKETCH_TYPE),
        ]
