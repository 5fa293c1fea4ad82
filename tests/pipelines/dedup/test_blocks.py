"""A batch in blocks: the same rows as in one task, for chains, cliques, templates and a key that all share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.artifact import Artifact
from cluster.engine import Patience
from cluster.progress import Silent
from cluster.stage import Stage
from pipelines.dedup.blocks import sample_every, sample_of, splits_of
from pipelines.dedup.group import GROUPS, Sizes, group_stage
from pipelines.dedup.settings import Dedup
from pipelines.dedup.sketches import Sketches
from pipelines.readers.inputs import Input
from tests.pipelines.dedup.test_sketches import BANDS, COLUMNS, KEEPERS, ROWS, SOURCES, write_parquet
from tests.support.inline import InlineEngine, NoRay

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


def unlike(documents: int = 60) -> np.ndarray:
    """Documents that share one key and nothing else."""
    values = random_columns(documents)
    values[:, :ROWS] = 1
    return values


class Counting(InlineEngine):
    """Records the units that are done, and the memory of each stage. fails_at: the number of the unit that is not."""

    def __init__(self, folder: str, fails_at: int, replace: bool) -> None:
        super().__init__(folder, NoRay(), Silent(), Patience(1, 900, 0), replace)
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


def stage_of(values: np.ndarray, folder: str, dedup: Dedup, sizes: Sizes) -> Stage:
    """The stage `group` over documents with these signatures; equal ones are copies. Sources and ranks are random."""
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
    return group_stage(dedup, inputs, attributes, verdicts, 1, sizes)


def grouped(
    values: np.ndarray, folder: Path, dedup: Dedup, sizes: Sizes, fails_at: int = 1 << 30, *, replace: bool = False
) -> tuple[pa.Table, list[tuple[str, int]]]:
    """(the rows of GROUPS, the units that were done: name of the stage and number)."""
    engine = Counting(str(folder), fails_at, replace)
    groups = engine.run(stage_of(values, str(folder), dedup, sizes))[GROUPS]
    return groups.table(), engine.done


SCOPES_AND_KEEPERS = [*(("all", keeper) for keeper in KEEPERS), ("source", "longest"), ("snapshot", "newest")]


@pytest.mark.parametrize("corpus", [chain, cliques, templates, unlike])
@pytest.mark.parametrize(("scope", "keeper"), SCOPES_AND_KEEPERS)
def test_blocks_give_the_rows_that_one_task_gives(tmp_path, corpus, scope, keeper):
    values = corpus()
    settings = SETTINGS | {"keeper": keeper, "scope": scope} | KEEPERS[keeper][0]
    whole, units = grouped(values, tmp_path / "whole", Dedup(**settings), Sizes())
    assert units == [("group", 0)]
    sizes = Sizes(documents=16, block=7)
    blocks, units = grouped(values, tmp_path / "blocks", Dedup(component_documents=10, **settings), sizes)
    assert blocks == whole
    assert (whole.num_rows > 5) == (corpus is not unlike), "the test shows something"
    if scope == "all":
        stages = dict.fromkeys(name for name, _ in units)
        assert len([name for name in stages if name.startswith("group.block.")]) >= len(values) // 14
        assert "group.compare" not in stages


def test_several_large_batches_and_small_ones(tmp_path):
    """Documents of three chains, in turn, and pairs."""
    values = np.concatenate([chain(40), chain(30) + np.uint32(7), chain(20) + np.uint32(9)])
    pairs = np.repeat(random_columns(20, 5), 2, axis=0)
    values = np.concatenate([values, pairs])[np.random.default_rng(6).permutation(130)]
    whole, _ = grouped(values, tmp_path / "whole", Dedup(**SETTINGS), Sizes())
    sizes = Sizes(documents=32, batch=4, block=9)
    blocks, units = grouped(values, tmp_path / "blocks", Dedup(component_documents=12, **SETTINGS), sizes)
    assert blocks == whole
    levels, names = grouped(
        values, tmp_path / "levels", Dedup(component_documents=12, **SETTINGS), replace(sizes, fan=2)
    )
    assert levels == whole
    assert {name for name, _ in names} - {name for name, _ in units} == {
        "group.candidates-1", "group.candidates-2", "group.found-1", "group.found-2",
    }  # fmt: skip
    assert ("group.compare", 1) in units and ("group.block.0002", 2) in units


def test_the_report_shows_the_largest_groups_of_large_and_small_batches(tmp_path):
    """Of 110 groups of three, the first 20 of which share a key, it shows those of the first 100 kept documents."""
    values = np.repeat(random_columns(110), 3, axis=0)
    values[:60, :ROWS] = 1
    whole, _ = grouped(values, tmp_path / "whole", Dedup(**SETTINGS), Sizes())
    assert whole["shown"].to_pylist().count(True) == 200
    sizes = Sizes(documents=64, batch=1, block=25)
    blocks, _ = grouped(values, tmp_path / "blocks", Dedup(component_documents=10, **SETTINGS), sizes)
    assert blocks == whole


def test_ten_thousand_unlike_documents_under_one_key_are_all_kept(tmp_path):
    values = unlike(10_000)
    values[7777] = values[12]
    values[9999, :7] = values[5, :7]
    sizes = Sizes(documents=4096, block=2000)
    rows, units = grouped(values, tmp_path / "run", Dedup(component_documents=3000, **SETTINGS), sizes)
    assert {row["partner"]: row["reason"] for row in rows.to_pylist() if row["reason"]} == {
        "d12": "exact_duplicate", "d5": "near_duplicate"
    }  # fmt: skip
    assert rows["duplicate_count"].to_pylist() == [2, 2, 2, 2]
    assert rows["shown"].to_pylist() == [True] * 4
    assert len([name for name, _ in units if name.startswith("group.before.")]) == 10


def test_every_stage_of_grouping_states_its_memory(tmp_path):
    """100 documents: a large batch of 60, in blocks, and batches of two."""
    values = np.concatenate([chain(60), np.repeat(random_columns(20, 5), 2, axis=0)])
    sizes, dedup = Sizes(documents=32, batch=2, block=40), Dedup(component_documents=50, **SETTINGS)
    engine = Counting(str(tmp_path), 1 << 30, replace=False)
    engine.run(stage_of(values, str(tmp_path), dedup, sizes))
    libraries, block = 1 << 29, (1 << 29) + 1500 * 40 * 5 // 4
    assert {name.removesuffix(".0001").removesuffix(".0000"): most for name, most in engine.memory.items()} == {
        "group.keys": 1 << 30,
        "group.merge": 1 << 30,
        "group.mark": libraries + 13,
        "group.components": libraries + 14 + 6 * 100,
        "group.sample": 3 << 29,
        "group.route": 3 << 29,
        "group.compare": libraries + 1500 * 2,
        "group.gather": block,
        "group.block": block,
        "group.before": 2 * block,
        "group.count": block,
        "group.members": block,
        "group": libraries,
    }


@pytest.mark.parametrize("fails_at", [5, 12, 20, 30])
def test_a_run_that_is_killed_between_blocks_continues_with_the_units_that_are_missing(tmp_path, fails_at):
    values, dedup = templates(), Dedup(component_documents=10, **SETTINGS)
    sizes = Sizes(documents=16, block=12)
    whole, units = grouped(values, tmp_path / "whole", dedup, sizes)
    with pytest.raises(KeyboardInterrupt):
        grouped(values, tmp_path / "killed", dedup, sizes, fails_at)
    again, left = grouped(values, tmp_path / "killed", dedup, sizes)
    assert again == whole
    assert left == units[fails_at:]


def test_another_limit_with_replace_keeps_what_does_not_depend_on_it(tmp_path):
    values, sizes = templates(), Sizes(documents=16, block=12)
    whole, units = grouped(values, tmp_path / "whole", Dedup(**SETTINGS), sizes)
    names = [name for name, _ in units]
    with pytest.raises(KeyboardInterrupt):
        grouped(values, tmp_path / "run", Dedup(**SETTINGS), sizes, names.index("group.compare"))
    lower = Dedup(component_documents=10, **SETTINGS)
    again, left = grouped(values, tmp_path / "run", lower, sizes, replace=True)
    assert again == whole
    assert not {"group.keys", "group.merge", "group.components"} & {name for name, _ in left}


@given(
    ranks=st.lists(st.sampled_from([-np.inf, 0.0, 1.0, 2.5, np.inf]), min_size=1, max_size=200),
    ranges=st.integers(1, 5),
    block=st.integers(1, 60),
)
def test_blocks_follow_in_keeper_order_and_have_about_their_size(ranks, ranges, block):
    positions, values = np.arange(len(ranks)), np.array(ranks)
    every = sample_every(block, ranges)
    samples = [sample_of(values[some], some, every) for some in np.array_split(positions, ranges)]
    splits = splits_of(samples, block, every)
    found = splits.blocks_of(values, positions)
    assert (np.diff(found[np.lexsort((positions, values))]) >= 0).all()
    counts = np.bincount(found, minlength=splits.blocks)
    assert len(counts) == splits.blocks and counts.max() <= block + every * (ranges + 1)
