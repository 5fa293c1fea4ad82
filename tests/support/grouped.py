"""Documents with a known structure of duplicates, grouped."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from raymill.cluster.artifact import Artifact
from raymill.cluster.engine import RetryLimits
from raymill.cluster.progress import Progress
from raymill.cluster.readers.inputs import Input
from raymill.cluster.stage import Stage
from raymill.pipelines.dedup.group import GROUPS, Sizes, group_stage
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.dedup.signatures import Sketches
from tests.support.inline import InlineEngine, NoRay
from tests.support.sketch_cases import BANDS, COLUMNS, ROWS, SOURCES, write_parquet

SETTINGS = {"threshold": 0.7, "ngram_words": 1, "bands": BANDS, "rows_per_band": ROWS}


def random_columns(documents: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 32, (documents, COLUMNS), dtype=np.uint32)


def chain(documents: int = 60) -> np.ndarray:
    """Each document differs from the one before in one column."""
    values = random_columns(documents)
    for at in range(1, documents):
        changed = at % COLUMNS
        values[at, :changed], values[at, changed + 1 :] = values[at - 1, :changed], values[at - 1, changed + 1 :]
    return values


def cliques(documents: int = 60) -> np.ndarray:
    """Copies of four documents, some with another column; all four share a key."""
    values = random_columns(4)[np.arange(documents) % 4]
    values[:, :ROWS] = 1
    values[::3, 5] = np.arange(len(values[::3]))
    return values


def templates(documents: int = 60) -> np.ndarray:
    """Six of eight columns are one document's, on average, so some pairs are near-duplicates and others are not."""
    values, own = np.repeat(random_columns(1, 1), documents, axis=0), random_columns(documents)
    is_own = np.random.default_rng(2).random(values.shape) < 0.25
    values[is_own] = own[is_own]
    return values


def copied(documents: int = 60) -> np.ndarray:
    """Nine of ten are copies of six documents, most of which are near-duplicates of each other."""
    return templates(6)[np.random.default_rng(4).integers(0, 6, documents)]


class Counting(InlineEngine):
    """Records the units that are done, and the memory of each stage. fails_at: the number of the unit that is not."""

    def __init__(self, folder: str, fails_at: int, replace: bool) -> None:
        super().__init__(folder, NoRay(), Progress(), RetryLimits(1, 900, 0), replace)
        self.done: list[tuple[str, int]] = []
        self.memory: dict[str, int] = {}
        self.fails_at = fails_at

    def _round(self, stage, missing, records, failures) -> None:
        self.memory[stage.name] = stage.memory
        for index in missing:
            if len(self.done) == self.fails_at:
                raise KeyboardInterrupt
            super()._round(stage, [index], records, failures)
            self.done.append((stage.name, index))


def stage_of(values: np.ndarray, folder: str, dedup: Dedup, sizes: Sizes, **compared) -> Stage:
    """The stage `group` over documents with these signatures; equal ones are copies. Sources and ranks are random.

    compared: `known` and `chained` of the stage.
    """
    count, generator = len(values), np.random.default_rng(3)
    texts = np.zeros((count, 2), np.uint64)
    texts[:, 0] = np.unique(values, axis=0, return_inverse=True)[1].ravel() + 1
    texts[:, 0] *= np.uint64(0x9E3779B97F4A7C15)  # a key is compared by its highest bits
    columns = {
        "row": pa.array(np.arange(count)),
        "id": pa.array([f"d{number}" for number in range(count)]),
        "source": pa.array(np.array(list(SOURCES))[generator.integers(0, len(SOURCES), count)]),
        "text_hash": pa.Array.from_buffers(pa.binary(16), count, [None, pa.py_buffer(texts)]),
        "characters": pa.array(generator.integers(0, 5, count)),
        "quality": pa.array(generator.choice([0.1, 0.5, np.nan], count)),
        "newest_by": pa.array(generator.choice([1.0, 2.0, np.nan], count)),
        "signature": Sketches(values.ravel(), np.arange(count + 1) * COLUMNS).to_column(),
    }
    attributes = write_parquet(columns, f"{folder}/attributes", [], "row")
    verdicts = write_parquet({"row": pa.array([], pa.int64())}, f"{folder}/verdicts", [], "row")
    verdicts = Artifact(verdicts.store, verdicts.uri, replace(verdicts.manifest, counters={"passed": count}))
    inputs = [Input(source=source, path=source, snapshot=snapshot) for source, snapshot in SOURCES.items()]
    return group_stage(dedup, inputs, attributes, verdicts, 1, sizes, **compared)


def grouped(
    values: np.ndarray,
    folder: Path,
    dedup: Dedup,
    sizes: Sizes,
    fails_at: int = 1 << 30,
    *,
    replace: bool = False,
    **compared,
) -> tuple[pa.Table, list[tuple[str, int]]]:
    """(the rows of GROUPS, the units that were done: name of the stage and number)."""
    engine = Counting(str(folder), fails_at, replace)
    groups = engine.run(stage_of(values, str(folder), dedup, sizes, **compared))[GROUPS]
    return groups.table(), engine.done
