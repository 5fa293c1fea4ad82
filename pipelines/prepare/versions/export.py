"""A version in the formats of other programs: a folder that `datasets` loads, Parquet, JSON Lines, ShareGPT, Alpaca."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from cluster.artifact import Artifact
from cluster.errors import ConfigError, DataError
from cluster.examples.content import COLUMNS, REASONS, Content, Shape, Unusable, from_shape, to_shape
from cluster.store import paths
from cluster.store.store import Store
from pipelines.prepare.versions.card import card
from pipelines.prepare.versions.registry import Version

ExportFormat = Literal["hf", "parquet", "jsonl", "sharegpt", "alpaca"]

# The names of speakers in ShareGPT's messages.
_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}


def export(store: Store, version: Version, folder: str, format: ExportFormat) -> list[str]:
    """Write a version to an empty folder or URI. Returns the URIs of the files.

    hf: `data/SPLIT-00000-of-00002.parquet` and README.md, the card; it loads with `datasets.load_dataset(FOLDER)`.
    parquet: the same without the card. jsonl: a file for each split with records, a line each; sharegpt and alpaca: the
    same with the id and the columns of that format alone.

    Raises:
        ConfigError: the folder has files.
        DataError: the run is gone, or was made again; or a record does not fit the format.
    """
    if store.list_files(folder):
        raise ConfigError(f"{folder}: has files already. Choose an empty folder, or another one.")
    written, lines = [], list[Path]()
    with tempfile.TemporaryDirectory() as scratch:
        for split, artifact in version.splits(store).items():
            if not artifact.manifest.rows:
                continue
            if format not in ("hf", "parquet"):
                local = Path(scratch, f"{split}.jsonl")
                with local.open("w", encoding="utf-8") as file:
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(artifact, format))
                lines.append(local)
                continue
            uris = [uri for uri, one in zip(artifact.file_uris, artifact.manifest.files, strict=True) if one.rows]
            for number, uri in enumerate(uris):
                local = Path(scratch, "part.parquet")
                local.write_bytes(store.read_bytes(uri))
                written.append(paths.join(folder, "data", f"{split}-{number:05}-of-{len(uris):05}.parquet"))
                store.upload(local, written[-1])
        for local in lines:  # when all records have become lines
            written.append(paths.join(folder, local.name))
            store.upload(local, written[-1])
    if format == "hf":
        written.append(paths.join(folder, "README.md"))
        store.write_bytes(written[-1], card(store, version).encode())
    return written


def as_sharegpt(content: Content) -> dict[str, Any]:
    """ShareGPT's column: `conversations`, a list of {from, value}.

    Raises:
        Unusable: the record is no chat.
    """
    messages = to_shape(content, "messages")["messages"]
    return {"conversations": [{"from": _SPEAKERS[one["role"]], "value": one["content"]} for one in messages]}


def as_alpaca(content: Content) -> dict[str, Any]:
    """Alpaca's columns `instruction`, `input` and `output`, and `system`, which may be empty.

    Raises:
        Unusable: the record is not one question and one answer.
    """
    return to_shape(content, "instruction")


def _rows(artifact: Artifact, format: ExportFormat) -> Iterator[dict[str, Any]]:
    """The records as the lines of a format."""
    for table in artifact.tables():
        shape = next(one for one in get_args(Shape) if set(COLUMNS[one]) <= set(table.column_names))
        for row in table.to_pylist():
            if format == "jsonl":
                yield row
                continue
            try:
                content = from_shape(row, shape)
                yield {"id": row["id"]} | (as_sharegpt(content) if format == "sharegpt" else as_alpaca(content))
            except Unusable as error:
                raise DataError(
                    f"{artifact.uri}: record {row['id']} does not fit the format {format} ({REASONS[error.reason]})."
                    " Export it as jsonl, or prepare the records in another shape."
                ) from error
