"""Forgetting: bits per byte of general text by each model, compared with the base that its training started from.

    general        the beginnings of some documents of the corpus       -> general
    general.NAME   their log-probabilities by a model or a base         -> general_of.NAME

Bits per byte compare models with different tokenizers. A document is a pair: model and base read the same text.
"""

import hashlib
import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raymill.cluster.artifact import Counters, read_tables
from raymill.cluster.asking.backends import located
from raymill.cluster.asking.settings import ModelSettings
from raymill.cluster.entry import Entry
from raymill.cluster.errors import DataError
from raymill.cluster.inspection import read_run_manifest
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.units import InputManifest, read_unit
from raymill.cluster.run import reading_report
from raymill.cluster.stage import Scratch
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.compare.config import GeneralText

GENERAL = "general"
GENERAL_SCHEMA = pa.schema([("document", pa.string()), ("text", pa.large_string())])
MEASURED_SCHEMA = pa.schema([("item", pa.int32()), ("log", pa.float64()), ("tokens", pa.int32())])
DOCUMENTS = 20  # of a unit
_READ = 50  # documents are read for each that is drawn, at least, if the corpus has them
_DIGITS = 6  # of log-probabilities, whose last bits depend on the number of threads
# They load transformers.
_base_below = Entry("raymill.training.model_folder.folder:base_below")


@dataclass(frozen=True)
class DrawTexts:
    """The work of the stage `general`: draw documents by the hashes of their ids and texts, and cut them.

    At least 50 documents are read for each that is drawn, in units in the order of hashes, so a corpus of any size is
    not read whole.
    """

    settings: GeneralText
    manifest: InputManifest

    def __call__(self, _: int, scratch: Scratch) -> Counters:
        """Counters: `documents`.

        Raises:
            DataError: the corpus has no readable text.
        """
        wanted, read = self.settings.documents, 0
        drawn: list[tuple[int, str, str]] = []  # a heap with the largest hash first
        for unit in sorted(self.manifest.units, key=lambda unit: _hash(str(unit.index))):
            for table in read_unit(unit, self.manifest.reading, Limits()):
                for id, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
                    if text is None or not (text := text[: self.settings.characters]).strip():
                        continue
                    read += 1
                    one = (-_hash(f"{id} {text}"), str(id), text)
                    if len(drawn) < wanted:
                        heapq.heappush(drawn, one)
                    else:
                        heapq.heappushpop(drawn, one)
            if read >= _READ * wanted:
                break
        if not drawn:
            raise DataError(f"{self.settings.path}: no document has a text. Point `general.path` at a corpus of texts.")
        columns = [[id for _, id, _ in sorted(drawn)], [text for _, _, text in sorted(drawn)]]
        scratch.write(GENERAL, pa.table(columns, schema=GENERAL_SCHEMA))
        return {"documents": len(drawn)}


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])


@dataclass(frozen=True)
class MeasureTexts:
    """The work of a stage `general.NAME`. texts: files of the artifact `general`."""

    name: str
    store: Store
    texts: tuple[str, ...]

    def __call__(self, unit: int, scratch: Scratch, model: Any) -> Counters:
        """unit: number of a range of documents. Counters: `measured`."""
        texts = [one for table in read_tables(self.store, self.texts) for one in table["text"].to_pylist()]
        rows = []
        for at in range(unit * DOCUMENTS, min((unit + 1) * DOCUMENTS, len(texts))):
            log, tokens = model.text_log_likelihood(texts[at])
            rows.append({"item": at, "log": round(log, _DIGITS), "tokens": tokens})
        scratch.write(f"general_of.{self.name}", pa.Table.from_pylist(rows, MEASURED_SCHEMA))
        return {"measured": len(rows)}


def base_named(store: Store, root: str) -> tuple[str, str | None] | None:
    """(place of the base that the training at `root` started from, its revision), which need not exist.

    Returns:
        None if it had random weights that it did not export.

    Raises:
        DataError: the export's record has other values, or names a base on another store.
    """
    manifest = read_run_manifest(store, root)
    with reading_report(root):
        named = manifest["export"]["base"]
        if not all(isinstance(named[name], str | None) for name in ("name", "revision")):
            raise ValueError("its base has no name and revision")
        if not named["name"]:
            return None
    export = paths.join(root, "export")
    base = _base_below.load()(store, paths.join(export, "full"), export, named)
    return base.name, base.revision


def base_of(store: Store, root: str, model: ModelSettings) -> ModelSettings | None:
    """The base that the training at `root` started from, located; None as from `base_named`.

    model: what was exported, with its settings for workers.

    Raises:
        DataError: as `base_named`, the base is the model itself, or another one now.
        StorageError: the base is gone.
    """
    if (named := base_named(store, root)) is None:
        return None
    name, revision = named
    if name == model.path:
        raise DataError(f"{root}: its training states its own result as its base. State `general.base`.")
    found = located(store, model.model_copy(update={"path": name}))
    if revision and found.revision != f"{name}@{revision}":
        raise DataError(f"{name}: is not at the revision {revision} any more. State `general.base`.")
    return found


def is_classifier(store: Store, model: ModelSettings) -> bool:
    """Whether a folder has a classification head, which leaves its base as it was and has no probabilities of text."""
    return model.path is not None and model.is_folder and store.exists(paths.join(model.path, "probe.json"))


def forgetting(
    texts: Sequence[str], pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], difference: Any, holm: Any
) -> dict[str, dict[str, Any] | None]:
    """Letter -> its bits per byte beside the base's, with the difference's interval; None if nothing was measured,
    or a text by one of both alone.

    Args:
        texts: N documents. pairs: letter -> float64[N] log-probabilities by the model and by its base, NaN where none.
        difference, holm: of `raymill.pipelines.paired`, which loads scipy.
    """
    sizes = np.array([len(one.encode("utf-8", "surrogatepass")) for one in texts], float)
    found: dict[str, Any] = {}
    for letter, logs in pairs.items():
        bits = -np.stack(logs) / math.log(2)
        there = np.isfinite(bits)
        if (there[0] == there[1]).all() and there.any():  # a text that only one of both measured decides nothing
            after, before = bits[:, there[0]]
            size = sizes[there[0]]
            found[letter] = (difference(after, before, weights=size), after, before, size.sum())
    corrected = holm([one.p for one, *_ in found.values()])
    rows: dict[str, dict[str, Any] | None] = dict.fromkeys(pairs)
    for p, (letter, (one, after, before, size)) in zip(corrected, found.items(), strict=True):
        rows[letter] = {
            "before": float(before.sum() / size),
            "after": float(after.sum() / size),
            "difference": one.difference,
            "low": one.low,
            "high": one.high,
            "p_corrected": p,
            "documents": one.items,
        }
    return rows
