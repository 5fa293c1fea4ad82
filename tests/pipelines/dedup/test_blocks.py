"""A batch in blocks: the same rows as in one task, for chains, cliques, templates and a key that all share."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster.output import array_of
from raymill.pipelines.dedup.blocks import sample_every, sample_of, splits_of
from raymill.pipelines.dedup.group import Sizes
from raymill.pipelines.dedup.settings import Dedup
from tests.support.grouped import (
    SETTINGS,
    Counting,
    chain,
    cliques,
    copied,
    grouped,
    random_columns,
    stage_of,
    templates,
)
from tests.support.sampled import sampled
from tests.support.sketch_cases import KEEPERS, ROWS


def unlike(documents: int = 60) -> np.ndarray:
    """Documents that share one key and nothing else."""
    values = random_columns(documents)
    values[:, :ROWS] = 1
    return values


SCOPES_AND_KEEPERS = [*(("all", keeper) for keeper in KEEPERS), ("source", "longest"), ("snapshot", "newest")]


@pytest.mark.parametrize(
    ("corpus", "scope", "keeper"),
    sampled(
        [(one, *how) for one in (chain, cliques, templates, copied, unlike) for how in SCOPES_AND_KEEPERS], 4, seed=5
    ),
)
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


PATHS = {
    "one task": ({}, Sizes()),
    "stages": ({}, Sizes(documents=16, batch=4)),
    "blocks": ({"component_documents": 10}, Sizes(documents=16, block=7)),
    "stars": ({"connected_at_once": 1}, Sizes(documents=16, batch=4, span=2, edges=20)),
}


@pytest.mark.parametrize("path", PATHS)
def test_of_equal_documents_the_first_is_kept_and_of_different_ones_all(tmp_path, path):
    limits, sizes = PATHS[path]
    dedup = Dedup(**limits, **SETTINGS)
    equal, units = grouped(np.repeat(random_columns(1), 60, axis=0), tmp_path / "equal", dedup, sizes)
    assert equal["row"].to_pylist() == list(range(60))
    assert equal["reason"].to_pylist() == [None] + ["exact_duplicate"] * 59
    assert equal["partner"].to_pylist() == [None] + ["d0"] * 59
    assert set(equal["similarity"].to_pylist()[1:]) == {1.0} and set(equal["duplicate_count"].to_pylist()) == {60}
    stages = {name for name, _ in units}
    assert ("group.compare" in stages, "group.block.0000" in stages, "group.star.deal" in stages) == (
        path in ("stages", "stars"), path == "blocks", path == "stars"
    )  # fmt: skip
    different, units = grouped(random_columns(60), tmp_path / "different", dedup, sizes)
    assert different.num_rows == 0
    assert not {"group.route", "group.compare", "group.gather"} & {name for name, _ in units}


@pytest.mark.parametrize("documents", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_unlike_documents_under_one_key_are_all_kept(tmp_path, documents):
    values = unlike(documents)
    values[-2000] = values[12]
    values[-1, :7] = values[5, :7]
    sizes = Sizes(documents=documents // 3, block=documents // 5)
    dedup = Dedup(component_documents=1500, **SETTINGS)
    rows, units = grouped(values, tmp_path / "run", dedup, sizes)
    assert {row["partner"]: row["reason"] for row in rows.to_pylist() if row["reason"]} == {
        "d12": "exact_duplicate", "d5": "near_duplicate"
    }  # fmt: skip
    assert rows["duplicate_count"].to_pylist() == [2, 2, 2, 2]
    assert rows["shown"].to_pylist() == [True] * 4
    assert len([name for name, _ in units if name.startswith("group.before.")]) >= 10


def test_every_stage_of_grouping_states_its_memory(tmp_path):
    """100 documents: a large batch of 60, in blocks, and batches of two."""
    values = np.concatenate([chain(60), np.repeat(random_columns(20, 5), 2, axis=0)])
    sizes, dedup = Sizes(documents=32, batch=2, block=40), Dedup(component_documents=50, **SETTINGS)
    engine = Counting(str(tmp_path), 1 << 30, replace=False)
    engine.run(stage_of(values, str(tmp_path), dedup, sizes))
    libraries, block = 1 << 29, (1 << 29) + 1500 * 40 * 5 // 4
    assert {name.removesuffix(".0001").removesuffix(".0000"): most for name, most in engine.memory.items()} == {
        "group.texts": 1 << 30,
        "group.firsts": 1 << 30,
        "group.keys": 1 << 30,
        "group.merge": 1 << 30,
        "group.mark": libraries + 13,
        "group.components": libraries + 19 + 6 * 100,
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


@pytest.mark.parametrize("fails_at", sampled([5, 12, 20, 30], 1))
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
    splits = splits_of(map(array_of(np.uint64, 2, -1), samples), block, every)
    found = splits.blocks_of(values, positions)
    assert (np.diff(found[np.lexsort((positions, values))]) >= 0).all()
    counts = np.bincount(found, minlength=splits.blocks)
    assert len(counts) == splits.blocks and counts.max() <= block + every * (ranges + 1)
