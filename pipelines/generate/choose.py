"""The records with the highest rewards, before duplicates are removed.

reward   the reward of each record of a unit                                   -> _work/rewards
choose   one unit: which records are kept, by the scores of all               -> _work/choices, _work/not-chosen
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raymill.cluster.artifact import Counters, read_tables
from raymill.cluster.examples.content import Shape, from_shape, to_shape
from raymill.cluster.stage import Scratch
from raymill.cluster.store.store import Store
from raymill.pipelines.generate.config import RewardSelection
from raymill.pipelines.rewards import Scoring, scored

REWARDS, CHOICES, NOT_CHOSEN = "_work/rewards", "_work/choices", "_work/not-chosen"
REWARDS_SCHEMA = pa.schema([("source", pa.string()), ("seed", pa.string()), ("score", pa.float64())])
CHOICES_SCHEMA = pa.schema([("score", pa.float64()), ("reason", pa.string())])  # a row for each record, in order
_TOGETHER = 256  # records that are scored at once


@dataclass(frozen=True)
class ScoreRecords:
    """The work of the stage `reward`. shape: of the records."""

    store: Store
    shape: Shape

    def __call__(self, uris: Sequence[str], scratch: Scratch, reward: Scoring) -> Counters:
        """uris: files with the records of a unit. Counters: `records`."""
        records = 0
        for table in read_tables(self.store, uris):
            for at in range(0, table.num_rows, _TOGETHER):
                rows = table.slice(at, _TOGETHER).to_pylist()
                asked = [to_shape(from_shape(row, self.shape), "messages")["messages"] for row in rows]
                columns = [[row["source"] for row in rows], [row["provenance"]["parents"][0] for row in rows]]
                scratch.write(REWARDS, pa.table([*columns, scored(reward, asked)], schema=REWARDS_SCHEMA))
                records += len(rows)
        return {"records": records}


@dataclass(frozen=True)
class ChooseRecords:
    """The work of the stage `choose`. units: files with the scores of each unit of records."""

    store: Store
    how: RewardSelection
    units: Sequence[Sequence[str]]

    def __call__(self, _: int, scratch: Scratch) -> Counters:
        """Counters: `scored` and `kept`, records; `scored_sum` and `kept_sum`, of their scores; `passed`, as `kept`."""
        tables = [
            pa.concat_tables([REWARDS_SCHEMA.empty_table(), *read_tables(self.store, uris)]) for uris in self.units
        ]
        whole = pa.concat_tables(tables)
        scores = whole["score"].to_numpy()
        seeds = list(zip(whole["source"].to_pylist(), whole["seed"].to_pylist(), strict=True))
        reasons, start = choices(seeds, scores, self.how), 0
        for unit, table in enumerate(tables):
            of_unit = reasons[start : start + table.num_rows]
            start += table.num_rows
            scratch.write(CHOICES, pa.table([table["score"], of_unit], schema=CHOICES_SCHEMA), unit)
            removed = [row for row, reason in enumerate(of_unit) if reason is not None]
            scratch.write(NOT_CHOSEN, pa.table({"row": pa.array(removed, pa.int64())}), unit)
        kept = scores[[reason is None for reason in reasons]]
        there = scores[np.isfinite(scores)]
        sums = {"scored_sum": float(there.sum()), "kept_sum": float(kept.sum())}
        return {"scored": len(there), "kept": len(kept), "passed": len(kept)} | sums


def choices(seeds: Sequence[Any], scores: np.ndarray, how: RewardSelection) -> list[str | None]:
    """Why each record is not kept; None: it is. Of equal scores the first ones are kept.

    seeds: the seed of each record. scores: float64[records], NaN: none.
    """
    reasons: list[str | None] = [None] * len(scores)

    def left() -> list[int]:
        """The records that are still kept, those with the highest scores first."""
        return sorted((at for at, reason in enumerate(reasons) if reason is None), key=lambda at: -scores[at])

    for at, score in enumerate(scores.tolist()):
        if math.isnan(score):
            reasons[at] = "not_scored"
        elif how.min_score is not None and score < how.min_score:
            reasons[at] = "low_reward"
    if how.per_seed is not None:
        of_seed = defaultdict[Any, int](int)
        for at in left():
            of_seed[seeds[at]] += 1
            if of_seed[seeds[at]] > how.per_seed:
                reasons[at] = "not_best"
    if how.fraction is not None:
        ranked = left()
        for at in ranked[math.ceil(how.fraction * len(ranked)) :]:
            reasons[at] = "low_reward"
    return reasons
