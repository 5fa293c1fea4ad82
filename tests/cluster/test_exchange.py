"""Slices that pass through levels of files are those that were written, and take fewer reads."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster import exchange as exchanges
from raymill.cluster.errors import DataError
from raymill.cluster.exchange import FAN, Levels, SlicedFiles, exchange
from raymill.cluster.output import Output, write_slices
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.stage import Stage
from raymill.cluster.store.store import Store
from tests.support.inline import InlineEngine


def written(root, sources: int, targets: int, size=lambda source, target: 1 + (source + target) % 5) -> list[str]:
    """Sources whose slice for a target names both, `size` times."""
    for source in range(sources):
        write_slices(root / f"{source}", [bytes([source, target]) * size(source, target) for target in range(targets)])
    return [str(root / f"{source}") for source in range(sources)]


def exchanged(root, uris: list[str], targets: int, fan: int) -> SlicedFiles:
    def stage(name, output, units, work):
        return Stage(name, (Output(output, pa.schema([])),), units, work, "made", Store())

    run = InlineEngine(str(root), Session(), Progress()).run
    return exchange(run, Store(), SlicedFiles.of(uris, targets, fan), "all", "_work/all", stage)


@given(st.integers(1, 40_000), st.integers(1, 40_000), st.integers(2, 64))
def test_every_target_gets_what_every_source_has_and_no_unit_reads_too_many_files(sources, targets, fan):
    levels = Levels.of(sources, targets, fan)
    assert levels.groups(0) == sources and levels.parts(0) == 1
    assert levels.groups(levels.count) == 1 and levels.parts(levels.count) == targets
    assert levels.fan_in <= fan or sources > fan**levels.count, "only where there are more sources than targets"
    if min(sources, targets) <= fan:
        assert levels.count == 1, "nothing is written in between"


def test_reads_grow_with_n_log_n_and_not_with_the_square():
    def reads(n: int) -> int:
        levels = Levels.of(n, n)
        return sum(levels.reads(level) for level in range(1, levels.count + 1))

    assert reads(64) == 64 * 64
    assert reads(30_000) == 2_679_844 and 30_000**2 == 900_000_000
    assert all(reads(n) <= n * FAN * Levels.of(n, n).count * 1.2 for n in range(1, 100_000, 997))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), st.integers(2, 3), st.integers(1, 60), st.data())
def test_a_target_reads_the_slices_that_every_source_wrote_for_it(tmp_path_factory, sources, targets, fan, chunk, data):
    """Also empty slices, and slices that are larger than what a unit may read at once."""
    sizes = data.draw(st.lists(st.integers(0, 40), min_size=7, max_size=7))
    root = tmp_path_factory.mktemp("e")
    uris = written(root, sources, targets, lambda source, target: sizes[(source * 3 + target) % 7])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchanges, "CHUNK", chunk)
        files = exchanged(root / "run", uris, targets, fan)
    direct = SlicedFiles.of(uris, targets, fan)
    assert files.level == files.levels.count - 1
    for target in range(targets):
        assert files.slice(target).read(Store(), bytes) == direct.slice(target).read(Store(), bytes)
        assert direct.slice(target).read(Store(), bytes) == [
            bytes([source, target]) * sizes[(source * 3 + target) % 7] for source in range(sources)
        ]


def test_reads_are_as_many_as_planned_and_a_unit_names_few_files(tmp_path, monkeypatch):
    uris, read = written(tmp_path, 40, 30), Counter()
    whole = exchanges.read_offsets
    monkeypatch.setattr(exchanges, "read_offsets", lambda *a: read.update(["files"]) or whole(*a))
    files = exchanged(tmp_path / "run", uris, 30, 4)
    assert files.levels.count == 3
    slices = [files.slice(target) for target in range(30)]
    for one in slices:
        one.read(Store(), bytes)
    assert read["files"] == sum(files.levels.reads(level) for level in (1, 2, 3)) < 40 * 30 / 2
    assert max(len(one.uris) for one in slices) <= files.levels.fan_in == 4


def test_a_unit_of_a_level_reads_no_more_at_once_than_it_may_or_one_target_needs(tmp_path, monkeypatch):
    uris, read = written(tmp_path, 9, 9, lambda source, target: 50 if target == 4 else 3), []
    whole = exchanges.read_between
    monkeypatch.setattr(exchanges, "CHUNK", 40)
    monkeypatch.setattr(exchanges, "read_between", lambda *a: read.append(whole(*a)) or read[-1])
    exchanged(tmp_path / "run", uris, 9, 3)
    assert max(map(len, read)) == 100, "the slice of one source for target 4"
    others = [len(one) for one in read if len(one) < 100]
    assert set(others) == {6, 12}, "of three sources two targets are 36 bytes"


def test_a_file_that_ends_too_early_is_an_error(tmp_path):
    uris = written(tmp_path, 9, 9)
    (tmp_path / "5").write_bytes((tmp_path / "5").read_bytes()[:-1])
    with pytest.raises(DataError, match="5: was changed"):
        exchanged(tmp_path / "run", uris, 9, 3)
