"""Where records of earlier runs are: of those that `split.keep` names, and of the run that this one replaces.

A run with `--replace` first notes, in BEFORE, where the finished run at its output has its records, because its own
splits take the place of these. It does so if both have equal settings of `split`, but for those that move no record.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact, Counters, fingerprint
from cluster.errors import DataError
from cluster.examples.splits import SPLITS
from cluster.stage import Output, RunStage, Scratch, Stage
from cluster.store import paths
from cluster.store.store import Store
from pipelines.prepare.config import Split
from pipelines.prepare.records.hashes import hash64

BEFORE = "_work/before"
_MOVES_NONE = {"keep", "stable", "balance", "folds"}  # settings of `split`

_LIBRARIES = 256 << 20
_OF_A_RECORD = 100

_BEFORE_SCHEMA = pa.schema([("id", pa.uint64()), ("split", pa.int8()), ("fold", pa.int8())])


def splits_before(
    store: Store, root: str, split: Split, replaced: dict[str, Any] | None, run: RunStage
) -> Artifact | None:
    """The places of the records that keep them; None if all are divided anew.

    Args:
        root: the output. replaced: the manifest of the finished run there, which this one replaces; None if there is
            none, or this run goes on after it removed it. run: makes or replaces the artifacts of a stage.
    """
    noted = noted_splits(store, root, split)
    if replaced is None or not _keeps(split):
        return noted
    plain, name = _settings(split), _name(split)
    earlier = {key: value for key, value in replaced["config"].get("split", {}).items() if key not in _MOVES_NONE}
    found = [Artifact.find(store, paths.join(root, one)) for one in SPLITS if earlier == plain]
    splits = [one for one in found if one is not None]
    if not splits and noted is None:
        return None
    made_from = fingerprint([BEFORE, *(one.manifest.digest for one in splits)])
    memory = _LIBRARIES + _OF_A_RECORD * sum(one.manifest.rows for one in splits)
    work, outputs = NoteSplits(name, splits), (Output(name, _BEFORE_SCHEMA),)
    return run(Stage("before", outputs, (None,), work, made_from, store, memory=memory))[name]


def noted_splits(store: Store, root: str, split: Split) -> Artifact | None:
    """What `splits_before` noted for a run that is not finished yet."""
    return Artifact.find(store, paths.join(root, _name(split))) if _keeps(split) else None


def _keeps(split: Split) -> bool:
    return split.stable and split.by_time is None


def _settings(split: Split) -> dict[str, Any]:
    return split.model_dump(mode="json", exclude=_MOVES_NONE)


def _name(split: Split) -> str:
    return f"{BEFORE}/{fingerprint(_settings(split))[:16]}"


@dataclass(frozen=True)
class NoteSplits:
    """The work of the stage `before`. name: of its artifact. splits: of a run; none: nothing is noted."""

    name: str
    splits: list[Artifact]

    def __call__(self, _: None, scratch: Scratch) -> Counters:
        """No counters."""
        if self.splits:
            scratch.write(self.name, places_of(self.splits))
        return {}


def places_of(splits: list[Artifact]) -> pa.Table:
    """The hash of each record's id, its split and its fold, of a run's splits."""
    found = [_BEFORE_SCHEMA.empty_table()]
    for number, artifact in enumerate(splits):
        for table in artifact.tables(["id", "fold"]):
            hashes = pa.array([hash64(id) for id in table["id"].to_pylist()], pa.uint64())
            split = pa.array(np.full(table.num_rows, number, np.int8))
            found.append(pa.table([hashes, split, table["fold"].combine_chunks()], schema=_BEFORE_SCHEMA))
    return pa.concat_tables(found)


def count_of_folds(fold: pa.ChunkedArray) -> int | None:
    """How many folds there are; None without any. fold: numbers from 0, null for records without one."""
    last = pc.max(fold).as_py()
    return None if last is None else last + 1


def find_kept(store: Store, runs: tuple[str, ...]) -> dict[str, list[Artifact]]:
    """The splits of each earlier run, by its output.

    Raises:
        DataError: one of them is not there, or not finished.
    """
    try:
        return {run: [Artifact.load(store, paths.join(run, name)) for name in SPLITS] for run in runs}
    except DataError as error:
        raise DataError(f"split.keep: {error}") from error
