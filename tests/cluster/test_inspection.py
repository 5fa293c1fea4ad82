"""What `raymill inspect` shows of rows and sizes, at the bounds of each rule."""

import dataclasses
import datetime

import numpy as np
import pyarrow as pa
import pytest

from raymill import cluster
from raymill.cluster.artifact import EARLIER_MANIFEST, MANIFEST, Artifact
from raymill.cluster.errors import DataError, StorageError
from raymill.cluster.formats import byte_size
from raymill.cluster.inspection import _artifacts_below, describe, first_rows, inspect, shortened, store_for
from raymill.cluster.readers.reader import few_rows
from raymill.cluster.run import RunFolder
from raymill.cluster.stage import Output
from raymill.cluster.store.store import Store
from tests.support.stages import counting_stage, run_inline

KIB, MIB, GIB, TIB = (1024**power for power in range(1, 5))


@pytest.mark.parametrize(
    ("bytes", "shown"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (MIB - 1, "1024.0 KiB"), (MIB, "1.0 MiB"),
        (GIB, "1.0 GiB"), (2.5 * GIB, "2.5 GiB"), (TIB, "1.0 TiB"), (5000 * TIB, "5000.0 TiB"),
    ],
)  # fmt: skip
def test_a_size_is_shown_in_the_largest_unit_that_it_fills(bytes, shown):
    assert byte_size(bytes) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x" * 60, "x" * 60),
        ("x" * 59 + "yz", "x" * 59 + "y... (61 characters)"),
        ("x" * 1234, "x" * 60 + "... (1,234 characters)"),
        (bytes(range(16)), "000102030405060708090a0b0c0d0e0f"),
        (bytes(range(17)), "0001020304050607... (17 bytes)"),
        (b"", ""),
        (10**70, 10**70),
        (None, None),
    ],
)
def test_a_long_value_is_cut_and_its_length_named(value, shown):
    assert shortened(value) == shown


def test_texts_of_rows_that_look_like_options_are_shown_as_they_are(tmp_path):
    def write(unit, scratch):
        scratch.write("texts", pa.table({"text": ['say "--text" or add --replace, and run `raymill gc x`']}))
        return {}

    stage = dataclasses.replace(
        counting_stage(1, write), outputs=(Output("texts", pa.schema([("text", pa.string())])),)
    )
    run_inline(stage, str(tmp_path))
    assert r'{"text": "say \"--text\" or add --replace, and run `raymill gc x`"}' in str(describe(tmp_path / "texts"))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 9, 10, 11])
def test_the_first_rows_are_those_of_the_table(tmp_path, count):
    made = run_inline(counting_stage(5), str(tmp_path))["numbers"]  # 10 rows, one row group each
    assert first_rows(made, count) == made.table().to_pylist()[:count]


def test_rows_are_shown_only_where_they_are_asked_for_and_every_entry_in_its_place(tmp_path, capsys):
    made = run_inline(counting_stage(4), str(tmp_path))["numbers"].manifest
    size = sum(path.stat().st_size for path in (tmp_path / "numbers").glob("0*"))
    inspect(str(tmp_path / "numbers"), rows=0)
    assert capsys.readouterr().out.splitlines() == [
        f"artifact  numbers, made {made.made} by raymill {made.version}",
        f"at        {tmp_path}/numbers",
        f"digest    {made.digest}",
        f"made from {made.fingerprint}",
        f"holds     6 rows, {byte_size(size)}, 6 files",
        "columns",
        "  unit                         int64",
        "  number                       int64",
        "counters",
        "  documents                    6",
        "  text_bytes                   6,000",
    ]


def test_the_artifacts_of_a_folder_are_those_with_a_manifest_of_ours_at_any_depth(tmp_path):
    for name in ("b", "a/deep", "_tmp"):
        run_inline(counting_stage(1), str(tmp_path / name))
    old = tmp_path / "b" / "squares"
    (old / MANIFEST).rename(old / EARLIER_MANIFEST)
    for name in ("foreign", "b"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "manifest.json").write_text('{"of": "another program"}')
    names = ["a/deep/numbers", "a/deep/squares", "b/numbers", "b/squares"]
    assert _artifacts_below(Store(), str(tmp_path)) == names
    assert Artifact.find(Store(), str(old)) is not None
    (tmp_path / "b" / "numbers" / MANIFEST).write_text("{")
    assert _artifacts_below(Store(), str(tmp_path)) == ["a/deep/numbers", "a/deep/squares", "b/squares"]


def test_a_run_is_shown_with_each_fact_in_its_place_and_its_parts_in_one_column(tmp_path, capsys):
    made = run_inline(counting_stage(4), str(tmp_path))
    (tmp_path / "model").mkdir()
    for name, size in (("a", 1500), ("b", 36)):
        (tmp_path / "model" / name).write_bytes(b"x" * size)
    digests = {"numbers": made["numbers"].manifest.digest, "a long name of a part": "short", "model": "d" * 70}
    put = RunFolder(Store(), str(tmp_path)).put("train", "tiny", {}, "", digests, finished="today", told={"rows": "3"})
    inspect(str(tmp_path), rows=3)
    numbers = made["numbers"].manifest
    assert capsys.readouterr().out.splitlines() == [
        "run       tiny (train), finished today",
        f"at        {tmp_path}",
        f"made by   raymill {cluster.__version__}",
        f"digest    {put['digest']}",
        "rows      3",
        f"  a long name of a part {0:>12,} files {'0 B':>10}  short",
        f"  model                 {2:>12,} files {'1.5 KiB':>10}  {'d' * 70}",
        f"  numbers               {6:>12,} rows  {byte_size(numbers.bytes):>10}  {numbers.digest}",
    ]
    with pytest.raises(DataError) as caught:
        inspect(f"{tmp_path}/model", rows=3)
    said = "no manifest.json and no _manifest.json here, so this is no finished run and no finished artifact."
    part = f'It is part of the finished run at {tmp_path}. Run `raymill.inspect("{tmp_path}")`.'
    assert str(caught.value) == f"{tmp_path}/model: {said} {part}"


def test_above_a_damaged_manifest_the_run_is_still_found(tmp_path):
    RunFolder(Store(), str(tmp_path)).put("train", "tiny", {}, "", {}, finished="today")
    (tmp_path / "part" / "of").mkdir(parents=True)
    (tmp_path / "part" / "manifest.json").write_text("{")
    (tmp_path / "part" / "of" / "x").touch()
    with pytest.raises(DataError, match=rf"^{tmp_path}/part/of: .* part of the finished run at {tmp_path}\."):
        inspect(f"{tmp_path}/part/of", rows=3)


def test_rows_are_shown_as_json_whatever_their_type(tmp_path, capsys):
    schema = pa.schema([("when", pa.date32()), ("text", pa.string())])
    day = datetime.date(2026, 3, 4)

    def work(unit, scratch):
        scratch.write("dated", pa.table({"when": [day, None], "text": ["é", None]}, schema=schema))
        return {}

    stage = dataclasses.replace(counting_stage(1, work), outputs=(Output("dated", schema),))
    run_inline(stage, str(tmp_path))
    inspect(f"{tmp_path}/dated", rows=1)
    assert capsys.readouterr().out.endswith('rows\n  {"when": "2026-03-04", "text": "é"}\n')


@pytest.mark.parametrize(
    ("uri", "override", "hint"),
    [("s3://b/run", None, True), ("s3://b/run", ["storage.region=x"], False), ("/run", None, False)],
)
def test_the_storage_settings_are_asked_for_where_a_store_refused_and_none_were_given(uri, override, hint):
    with pytest.raises(StorageError) as caught, store_for(uri, None, override) as (store, at):
        assert (at, store.options.region) == (uri, "x" if override else None)
        raise StorageError("refused.")
    assert str(caught.value).startswith("refused.") and ("config=CONFIG" in str(caught.value)) == hint
    with pytest.raises(DataError, match=r"^other$"), store_for(uri, None, None):
        raise DataError("other")


def test_rows_with_millions_of_values_are_not_shown():
    """A value of a byte in a file is 100 bytes and more in Python."""
    deep = pa.array([[{"a": {"b": 0}}] * 3])
    assert few_rows(pa.table({"x": deep, "y": [1]}), "here") == [{"x": [{"a": {"b": 0}}] * 3, "y": 1}]
    many = pa.nulls(5_000_000, pa.int8())
    offsets = pa.array([0, len(many)], pa.int32())
    structs = pa.StructArray.from_arrays([pa.StructArray.from_arrays([many], ["b"])], ["a"])
    keys = pa.array(np.zeros(len(many), np.int8))
    lists = [pa.ListArray.from_arrays(offsets, many), pa.ListArray.from_arrays(offsets, structs),
             pa.MapArray.from_arrays(offsets, keys, many), pa.FixedSizeListArray.from_arrays(keys, len(many)),
             pa.ListViewArray.from_arrays(pa.array([0] * 5), pa.array([1_000_000] * 5), many[:1_000_000])]  # fmt: skip
    for one in lists:
        with pytest.raises(DataError, match=r"here: .* values; at most"):
            few_rows(pa.table({"x": one}), "here")
    assert len(few_rows(pa.table({"x": lists[0]}).slice(1), "here")) == 0


def test_lists_that_share_their_values_are_counted_without_a_copy():
    values = pa.nulls(1_000_000, pa.int8())
    shared = pa.ListViewArray.from_arrays(pa.array([0] * 100), pa.array([len(values)] * 100), values)
    pool, usual = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(DataError, match="100,000,100 values"):
            few_rows(pa.table({"x": shared}), "here")
    finally:
        pa.set_memory_pool(usual)
    assert pool.max_memory() < 1_000_000


def test_long_lists_are_cut():
    assert shortened([1] * 1002) == [*[1] * 1000, "... (1,002 values)"]
    assert shortened({"a": ["x" * 70]}) == {"a": ["x" * 60 + "... (70 characters)"]}
