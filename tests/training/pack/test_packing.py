"""Examples on their way to ranges: few reads, the same rows by every way, and continued where they were killed."""

import dataclasses
import os
from collections import Counter
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster import engine as engines
from raymill.cluster.artifact import Artifact
from raymill.cluster.engine import Engine
from raymill.cluster.errors import DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.exchange import Levels
from raymill.cluster.garbage import find_garbage
from raymill.cluster.output import table_of, table_slice, write_slices
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.stage import Scratch, Stage, from_scratch, run_unit
from raymill.cluster.store.store import Store
from raymill.training.data.packed import EXAMPLES
from raymill.training.pack import packing
from raymill.training.pack.job import packing_rule
from raymill.training.pack.packing import (
    KeyRange,
    ShuffleUnit,
    memory_of_level,
    moves,
    numbers,
    pack_stage,
    ranges,
    read_examples,
)
from tests.support.inline import InlineEngine
from tests.support.packed_examples import config, document, write_examples
from tests.support.sampled import sampled

# 36 documents have the same id and shuffle key, so only the order of the files tells them apart.
DOCUMENTS = [
    document(f"d{n}" if n % 5 else "twin", 1 + 5 * n % 33, split=n % 3 if n % 5 else 0)
    | {"ids": [n] * (1 + 5 * n % 33)}
    for n in range(180)
]
UNIT_TOKENS = 120


def packing_of(examples: Artifact, fan: int, name: str = "test") -> Stage:
    rule = packing_rule(config(), config().columns.form)
    return pack_stage(name, rule, examples, UNIT_TOKENS, fan)


def digests(made: dict[str, Artifact]) -> list[str]:
    return [made[f"test/{split}"].manifest.digest for split in SPLITS]


def packed(root: Path, files: int, fan: int) -> list[str]:
    examples = write_examples(str(root), DOCUMENTS, files, 500)
    return digests(InlineEngine(str(root), Session(), Progress()).run(packing_of(examples, fan)))


# --- the plan


def test_units_hand_on_every_file_once_to_every_part(tmp_path):
    examples = write_examples(str(tmp_path), DOCUMENTS, 23, 500)
    names = {file.path for file in examples.manifest.files}
    levels = Levels.of(23, 19, 3)
    assert (levels.count, levels.fan_in, levels.fan_out) == (3, 3, 3)
    read = Counter((name, unit.first, unit.end) for unit in moves(levels, 1, examples) for name in unit.names)
    assert set(read) == {(name, *part) for name in names for part in ((0, 9), (9, 18), (18, 19))}
    assert set(read.values()) == {1} and len(read) == levels.reads(1)


# --- the rows


@pytest.mark.parametrize(("files", "fan"), sampled(product([1, 3, 8, 50], [2, 3, 7]), 2))
def test_the_rows_are_those_of_reading_every_file_for_every_range(tmp_path, files, fan):
    assert packed(tmp_path / "moved", files, fan) == packed(tmp_path / "direct", files, 1 << 30)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 2), st.integers(1, 30)), min_size=1, max_size=60), st.data()
)
def test_any_documents_are_moved_to_their_range_in_the_order_of_the_files(tmp_path_factory, made, data):
    """Of any number of files, also files and ranges without a document; ids repeat."""
    documents = [document(f"d{name}", size, split) | {"ids": [n] * size} for n, (name, split, size) in enumerate(made)]
    files, fan = data.draw(st.integers(1, 12)), data.draw(st.integers(2, 4))
    root = tmp_path_factory.mktemp("s")
    examples = write_examples(str(root), documents, files, 300)
    stage = pack_stage("test", packing_rule(config(), config().columns.form), examples, 40, fan)
    direct = pack_stage("test", packing_rule(config(), config().columns.form), examples, 40, 1 << 30)
    moved = stage.units or stage.prepare(InlineEngine(str(root), Session(), Progress()).run)
    assert [(one.first, one.end) for one in moved] == [(one.first, one.end) for one in direct.units]
    all_ranges = list(ranges(examples.manifest.counters, 40))
    for one, other in zip(moved, direct.units, strict=True):
        own = all_ranges[one.first : one.end]
        assert read_examples(Store(), one, own, GIB) == read_examples(Store(), other, own, GIB)


GIB = 1 << 30
WHOLE = {
    "split": 1, "place": 7, "document": "a", "ids": [5, 6, 7], "labels": [False, True, True], "label": None,
    "weights": [1.0, 0.0, 2.0],
}  # fmt: skip
CHANGES = {
    "fewer labels": {"labels": [True]},
    "more labels": {"labels": [True] * 4},
    "no labels": {"labels": None},
    "a null within labels": {"labels": [None, True, True]},
    "fewer ids": {"ids": []},
    "no ids": {"ids": None},
    "fewer weights": {"weights": []},
    "a weight that is no number": {"weights": [1.0, float("inf"), 1.0]},
    "no split": {"split": None},
    "no place": {"place": None},
    "no document": {"document": None},
}


@pytest.mark.parametrize("way", ["files", "slices"])
@pytest.mark.parametrize("change", [{}, {"weights": None}, *CHANGES.values()], ids=["none", "no weights", *CHANGES])
def test_examples_that_tokenise_does_not_write_are_named_and_not_packed(tmp_path, change, way):
    """A kernel reads as many labels as there are ids, and did so beyond the end of fewer labels."""
    table = pa.Table.from_pylist([WHOLE, WHOLE | change], EXAMPLES)
    if way == "files":
        pq.write_table(table, tmp_path / "part")
    else:
        write_slices(tmp_path / "part", [b"", table_slice(table)])
    unit = ShuffleUnit(0, 1, str(tmp_path), ("part",), None if way == "files" else 1)
    own = [KeyRange(split=1, low=0, high=10)]
    if change in ({}, {"weights": None}):
        assert read_examples(Store(), unit, own, GIB) == table
    else:
        with pytest.raises(DataError, match=f"{tmp_path}/part: was changed after it was written"):
            read_examples(Store(), unit, own, GIB)


@pytest.mark.parametrize("change", [{"split": 2}, {"split": -1}, {"place": 10}, {"place": 2**64 - 1}])
def test_a_slice_with_an_example_of_another_range_is_named(tmp_path, change):
    table = pa.Table.from_pylist([WHOLE, WHOLE | change], EXAMPLES)
    write_slices(tmp_path / "part", [table_slice(table)])
    with pytest.raises(DataError, match=f"{tmp_path}/part: was changed after it was written"):
        read_examples(Store(), ShuffleUnit(0, 1, str(tmp_path), ("part",), 0), [KeyRange(split=1, low=0, high=10)], GIB)


@pytest.mark.parametrize("column", ["split", "place"])
def test_a_file_of_examples_without_statistics_was_changed(tmp_path, column):
    pq.write_table(
        pa.Table.from_pylist([WHOLE], EXAMPLES),
        tmp_path / "part",
        write_statistics=[name for name in ("split", "place") if name != column],
    )
    with pytest.raises(DataError, match="was changed after it was written"):
        read_examples(
            Store(), ShuffleUnit(0, 1, str(tmp_path), ("part",), None), [KeyRange(split=1, low=0, high=10)], GIB
        )


def test_reads_are_as_many_as_planned(tmp_path, monkeypatch):
    examples = write_examples(str(tmp_path), DOCUMENTS, 40, 500)
    count = len(list(ranges(examples.manifest.counters, UNIT_TOKENS)))
    levels, read = Levels.of(40, count, 4), Counter()
    assert levels.count == 3
    whole, part = packing._read_file, packing.read_slices
    monkeypatch.setattr(packing, "_read_file", lambda *a: read.update([1]) or whole(*a))
    monkeypatch.setattr(
        packing, "read_slices", lambda store, uris, *a: read.update({2: len(uris)}) or part(store, uris, *a)
    )
    InlineEngine(str(tmp_path), Session(), Progress()).run(packing_of(examples, 4))
    assert read == {1: levels.reads(1), 2: levels.reads(2) + levels.reads(3)}
    assert sum(read.values()) < 40 * count / 2


def test_the_number_of_a_range_is_found_at_its_first_and_last_shuffle_key():
    found = list(ranges({"tokens/train": 700, "tokens/validation": 200}, 100))
    assert [one["split"] for one in found] == [0] * 7 + [1, 1, 2]
    for first, end in ((0, 10), (3, 9)):
        places = [(one["split"], place) for one in found[first:end] for place in (one["low"], one["high"] - 1)]
        table = pa.table({"split": pa.array([split for split, _ in places], pa.int8()),
                          "place": pa.array([place for _, place in places], pa.uint64())})  # fmt: skip
        assert numbers(table, found[first:end]).tolist() == [n for n in range(end - first) for _ in range(2)]


# --- workers that die, and what they leave


class Killed(Exception): ...


def killing(monkeypatch, name: str, units: int) -> None:
    """The run ends after this number of units of a stage have committed."""
    done = Counter()

    def run(stage, root, index, unit):
        if stage.name == name:
            done["units"] += 1
            if done["units"] > units:
                raise Killed
        return run_unit(stage, root, index, unit)

    monkeypatch.setattr("tests.support.inline.stages.run_unit", run)


@pytest.mark.parametrize(
    ("stage", "units"), sampled(product(["pack-test.shuffle-1", "pack-test.shuffle-2", "pack-test"], [0, 2]), 1)
)
def test_a_killed_packing_continues_with_the_units_it_has_not_done(tmp_path, monkeypatch, stage, units):
    expected = packed(tmp_path / "direct", 40, 1 << 30)
    examples = write_examples(str(tmp_path), DOCUMENTS, 40, 500)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, stage, units)
        InlineEngine(str(tmp_path), Session(), Progress()).run(packing_of(examples, 4))
    again: list[tuple[str, int]] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            "tests.support.inline.stages.run_unit",
            lambda stage, root, index, unit: again.append((stage.name, index)) or run_unit(stage, root, index, unit),
        )
        made = InlineEngine(str(tmp_path), Session(), Progress()).run(packing_of(examples, 4))
    assert digests(made) == expected
    order = ["pack-test.shuffle-1", "pack-test.shuffle-2", "pack-test"]
    assert {name for name, _ in again} == set(order[order.index(stage) :])
    assert [index for name, index in again if name == stage][:1] == [units]
    assert not list((tmp_path / "_work" / "shuffle").rglob("*.slices")), "what was moved is packed"


def test_from_scratch_moves_the_examples_again_too(tmp_path, monkeypatch):
    examples = write_examples(str(tmp_path), DOCUMENTS, 40, 500)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, "pack-test", 1)
        InlineEngine(str(tmp_path), Session(), Progress()).run(packing_of(examples, 4))
    engine = InlineEngine(str(tmp_path), Session(), Progress())
    ran = Counter()
    monkeypatch.setattr(
        "tests.support.inline.stages.run_unit",
        lambda stage, *rest: ran.update([stage.name]) or run_unit(stage, *rest),
    )
    made = engine.run(from_scratch(packing_of(examples, 4), str(tmp_path)))
    assert set(ran) == {"pack-test.shuffle-1", "pack-test.shuffle-2", "pack-test"}
    assert digests(made) == packed(tmp_path / "direct", 40, 1 << 30)


def test_what_a_killed_packing_left_is_removed_and_another_corpus_of_a_like_name_is_not(tmp_path, monkeypatch):
    """Corpora `a` and `a.b`: the stages of the second do not prepare those of the first."""
    root = str(tmp_path)
    examples = write_examples(root, DOCUMENTS, 40, 500)
    engine, stage = InlineEngine(root, Session(), Progress()), packing_of(examples, 4, "a.b").name
    with monkeypatch.context() as patch:
        patch.setattr(engines, "remove", lambda stage, root: None)
        engine.run(packing_of(examples, 4, "a"))
        with pytest.raises(Killed):
            killing(patch, stage, 2)
            engine.run(packing_of(examples, 4, "a.b"))
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    found = find_garbage(Store(), root, 3600)
    folders = {one.folder for one in found.old}
    assert {"_work/shuffle/a/1", "_work/shuffle/a/2"} <= folders
    assert not {folder for folder in folders if folder.startswith((f"_commits/{stage}-", "_work/shuffle/a.b"))}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("cpus", [1, 3])
def test_over_ray_the_rows_are_the_same_for_any_number_of_workers(tmp_path, monkeypatch, cpus):
    monkeypatch.setattr(packing, "SMALL_TOKENS", 0)
    examples = write_examples(str(tmp_path), DOCUMENTS, 10, 500)
    with Session(cpus=cpus) as session:
        made = Engine(str(tmp_path), session, Progress()).run(packing_of(examples, 4))
        assert session.started
    assert digests(made) == packed(tmp_path / "direct", 10, 1 << 30)


# --- memory


def test_the_memory_of_a_unit_is_stated_from_its_tokens_and_its_files(tmp_path):
    examples = write_examples(str(tmp_path), DOCUMENTS, 40, 500)
    counters = examples.manifest.counters | {"tokens/train": 100e9, "tokens/validation": 10e9, "tokens/test": 10e9}
    examples = Artifact(Store(), examples.uri, dataclasses.replace(examples.manifest, counters=counters))
    every = list(ranges(counters, packing.UNIT_TOKENS))
    levels = Levels.of(40, len(every), 7)
    assert levels.count == 2
    assert 256 << 20 < memory_of_level(examples, every, levels, 2) < 1 << 30
    of_part, of_range = memory_of_level(examples, every, levels, 1), memory_of_level(examples, every, levels, 2)
    assert of_part > of_range, "40 files of 3e9 tokens each, in 121 parts"


def test_memory_equals_the_one_of_the_largest_part_and_of_the_largest_share_of_the_files(monkeypatch):
    """By hand: 7 + 2 + 1 ranges of 11,000, 10,500 and 0 bytes; groups of three files with 60 and 140 of 200 bytes."""
    for name, value in (("_LIBRARIES", 5), ("_OF_A_TOKEN", 10), ("_OF_AN_EXAMPLE", 100)):
        monkeypatch.setattr(packing, name, value)
    counters = {"tokens/train": 7000, "examples/train": 70, "tokens/validation": 2000, "examples/validation": 10}
    files = [SimpleNamespace(bytes=size) for size in (10, 20, 30, 40, 50, 50)]
    examples = SimpleNamespace(manifest=SimpleNamespace(counters=counters, files=files))
    every, levels = list(ranges(counters, 1000)), Levels.of(6, 10, 3)
    assert (len(every), levels.fan_in, levels.fan_out) == (10, 3, 4)
    assert memory_of_level(examples, every, levels, 1) == 5 + 4 * 11_000 * 140 // 200
    assert memory_of_level(examples, every, levels, 2) == 5 + 11_000


@pytest.mark.parametrize("way", ["files", "slices"])
def test_documents_with_one_id_do_not_fill_the_memory(tmp_path, way):
    """A file of 14 kB with five million equal texts has one id, and so one range, whatever the number of ranges."""
    unit = ShuffleUnit(0, 1, str(tmp_path), ("part", "part"), None if way == "files" else 0)
    own, memory = [KeyRange(split=1, low=0, high=1 << 40)], 1 << 20

    def read(count: int, step: int) -> int:
        rows = pa.Table.from_pylist([WHOLE], EXAMPLES).take(pa.array(np.zeros(count, np.int32)))
        places = np.arange(count).astype(np.uint64) * np.uint64(step)
        rows = rows.set_column(1, EXAMPLES.field("place"), pa.array(places))
        if way == "files":
            pq.write_table(rows, tmp_path / "part", row_group_size=1000)
        else:
            write_slices(tmp_path / "part", [table_slice(rows)])
        return len(read_examples(Store(), unit, own, memory))

    assert read(1_500, 0) == 3_000  # 492 bytes each
    assert read(5_000, 1) == 10_000  # as documents of many tokens take
    with pytest.raises(DataError, match=r"documents and more, whose ids are equal"):
        read(5_000, 0)
    with pytest.raises(DataError, match=r"over 1[67] times the memory"):
        read(18_000, 1)


def test_a_range_has_no_more_short_examples_than_memory_for_them(monkeypatch):
    """Examples of 4 tokens took 1.6 GiB a range; those of usual length stay in ranges of equally many tokens."""
    short = {"tokens/train": 40_000_000, "examples/train": 10_000_000}
    examples = SimpleNamespace(manifest=SimpleNamespace(counters=short, files=[SimpleNamespace(bytes=1)]))
    every = list(ranges(short, packing.UNIT_TOKENS))
    assert memory_of_level(examples, every, Levels.of(1, len(every), packing.FAN), 1) < 1 << 30
    usual = short | {"examples/train": 1_000_000}
    assert len(list(ranges(usual, packing.UNIT_TOKENS))) == len(
        list(ranges({"tokens/train": 40e6}, packing.UNIT_TOKENS))
    )


def test_a_unit_of_a_level_writes_one_slice_for_each_part_of_its_ranges(tmp_path):
    examples = write_examples(str(tmp_path), DOCUMENTS, 9, 500)
    every = tuple(ranges(examples.manifest.counters, UNIT_TOKENS))
    levels = Levels.of(len(examples.manifest.files), len(every), 3)
    work = packing.MoveExamples("out", Store(), every, levels, 1, GIB)
    unit = moves(levels, 1, examples)[1]
    with Scratch([packing.Output("out", pa.schema([]))]) as scratch:
        work(unit, scratch)
        ((_, path, slices),) = scratch.finish()["out"]
        data = Path(path).read_bytes()
    assert slices == levels.fan_out
    offsets = [int.from_bytes(data[8 * n : 8 * n + 8], "little") for n in range(slices + 1)]
    width = levels.targets_of_part(2)
    for number in range(slices):
        part = data[offsets[number] : offsets[number + 1]]
        own = every[unit.first + number * width :][:width]
        for row in table_of(part).to_pylist() if part else []:
            assert any(one["split"] == row["split"] and one["low"] <= row["place"] < one["high"] for one in own)
