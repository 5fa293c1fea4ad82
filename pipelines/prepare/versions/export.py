"""A version in the formats of other programs: a folder that `datasets` loads, Parquet files, or JSON Lines."""

import json
import tempfile
from pathlib import Path
from typing import Literal

from cluster.errors import ConfigError
from cluster.store import paths
from cluster.store.store import Store
from pipelines.prepare.versions.card import card
from pipelines.prepare.versions.registry import Version

ExportFormat = Literal["hf", "parquet", "jsonl"]


def export(store: Store, version: Version, folder: str, format: ExportFormat) -> list[str]:
    """Write a version to an empty folder or URI. Returns the URIs of the files.

    hf: `data/SPLIT-00000-of-00002.parquet` and README.md, the card; it loads with `datasets.load_dataset(FOLDER)`.
    parquet: the same without the card. jsonl: a file for each split with records.

    Raises:
        ConfigError: the folder has files.
        DataError: the run is gone, or was made again.
    """
    if store.list_files(folder):
        raise ConfigError(f"{folder}: has files already. Choose an empty folder, or another one.")
    written = []
    with tempfile.TemporaryDirectory() as scratch:
        for split, artifact in version.splits(store).items():
            if not artifact.manifest.rows:
                continue
            if format == "jsonl":
                local = Path(scratch, f"{split}.jsonl")
                with local.open("w", encoding="utf-8") as file:
                    for table in artifact.tables():
                        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
                written.append(paths.join(folder, local.name))
                store.upload(local, written[-1])
                continue
            uris = [uri for uri, one in zip(artifact.file_uris, artifact.manifest.files, strict=True) if one.rows]
            for number, uri in enumerate(uris):
                local = Path(scratch, "part.parquet")
                local.write_bytes(store.read_bytes(uri))
                written.append(paths.join(folder, "data", f"{split}-{number:05}-of-{len(uris):05}.parquet"))
                store.upload(local, written[-1])
    if format == "hf":
        written.append(paths.join(folder, "README.md"))
        store.write_bytes(written[-1], card(store, version).encode())
    return written
