"""Commits: whatever dies, and whoever races, a finished artifact holds each unit once, and nothing lies beside it."""

import dataclasses
import errno
import hashlib
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill import cluster
from raymill.cluster import failpoints, temporary
from raymill.cluster import stage as stages
from raymill.cluster.artifact import MANIFEST, Manifest
from raymill.cluster.errors import BusyError, ClusterError, DataError, StorageError
from raymill.cluster.failpoints import FAILPOINTS
from raymill.cluster.record import RecordFile
from raymill.cluster.stage import Output, Scratch, Stage
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from tests.support import disturbances, simulation
from tests.support.sampled import sampled
from tests.support.simulation import World
from tests.support.stages import NUMBERS, count_up, counting_stage, run_inline

UNITS = 3
ROOT = "s3://simulated/run"


def disturb(world: World, stage, other) -> None:
    """Two drivers and three workers that someone started twice, in any order, each step perhaps the last."""

    def late_worker(unit: int):
        return lambda: stages.run_unit(stage, ROOT, unit, unit)

    def never_a_broken_promise() -> None:
        for output in stage.outputs:
            uri = f"{ROOT}/{output.name}"
            if manifest := world.manifest(uri):
                assert all(simulation.holds(world, uri, file) for file in manifest.files)

    drivers = [lambda: run_inline(stage, ROOT)] * 2
    world.run([*drivers, *map(late_worker, range(UNITS))], kill=0.04, check=never_a_broken_promise)


def change_settings(world: World, stage, other) -> None:
    """The same place is used with these settings and with others in turn, each run cut short somewhere."""

    def replacing(chosen):
        def drive() -> None:
            stages.discard_stale(chosen, ROOT)
            run_inline(chosen, ROOT)

        return drive

    for _ in range(4):
        world.run([replacing(world.random.choice([stage, other]))], kill=0.03, check=lambda: None)


def change_units(world: World, stage, other) -> None:
    """As `change_settings`, with units that come and go: their results are named by keys and used again."""
    fewer = dataclasses.replace(stage, units=stage.units[1:], fingerprint=other.fingerprint)
    change_settings(world, stage, fewer)


@pytest.fixture
def simulated(monkeypatch, tmp_path):
    """Stages on a simulated store: (the world of a seed, a stage, the same stage with other settings)."""
    stage = counting_stage(UNITS)
    stage = dataclasses.replace(stage, outputs=(*stage.outputs, Output("nothing", NUMBERS)))
    simulation.fill_library(count_up, stage.outputs, stage.units, tmp_path)
    simulation.use_ready_made(monkeypatch)

    def make(seed: int) -> World:
        world = World(seed)
        monkeypatch.setattr(Store, "_backend", world.backend)
        monkeypatch.setattr(stages, "failpoint", world.step)
        return world

    stage = dataclasses.replace(stage, work=simulation.take_ready_made)
    return make, stage, dataclasses.replace(stage, fingerprint="e" * 32)


@pytest.mark.parametrize(
    ("how", "schedules"),
    [
        *((disturb, 120), (change_settings, 60), (change_units, 60)),
        *(pytest.param(how, 1000, marks=pytest.mark.slow) for how in (disturb, change_settings, change_units)),
    ],
)
def test_any_interleaving_with_any_deaths_ends_in_the_undisturbed_artifact(simulated, how, schedules):
    make, stage, other = simulated
    if how is change_units:
        stage = dataclasses.replace(stage, key=str)
    make(-1)
    undisturbed = {name: artifact.manifest.digest for name, artifact in run_inline(stage, ROOT).items()}
    killed_at: Counter[str] = Counter()
    for seed in range(schedules):
        world = make(seed)
        world.lost_answers = 0.1
        how(world, stage, other)
        stages.discard_stale(stage, ROOT)
        artifacts = run_inline(stage, ROOT)
        killed_at += world.killed_at

        assert {name: artifact.manifest.digest for name, artifact in artifacts.items()} == undisturbed, seed
        for name, artifact in artifacts.items():
            attempts = {
                (file.unit, file.path.removesuffix(".parquet").rpartition("-")[2]) for file in artifact.manifest.files
            }
            assert len(attempts) == len({unit for unit, _ in attempts}), f"seed {seed}: two attempts of one unit"
            stored = {uri: data for uri, data in world.objects.items() if uri.startswith(f"{ROOT}/{name}/")}
            manifest = stored.pop(f"{ROOT}/{name}/{MANIFEST}")
            assert artifact.manifest == Manifest.from_json(manifest), seed
            listed = {paths.join(artifact.uri, file.path): file.sha256 for file in artifact.manifest.files}
            assert {uri: hashlib.sha256(data).hexdigest() for uri, data in stored.items()} == listed, seed
    places = {"unit_started", "files_written", "create", "created", "upload", "uploaded", "delete"}
    assert killed_at.keys() >= places, "the schedules were too few to try every failpoint"


@pytest.mark.parametrize("small", [0, 1 << 20], ids=["in a thread", "at once"])
def test_a_file_has_the_digest_of_its_content_however_it_is_computed(tmp_path, monkeypatch, small):
    monkeypatch.setattr(stages, "_SMALL_FILE", small)
    artifact = run_inline(counting_stage(2), str(tmp_path))["numbers"]
    digests = {Path(artifact.uri, file.path).name: file.sha256 for file in artifact.manifest.files}
    assert digests == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(artifact.uri).glob("*.parquet")
    }


def test_a_simulated_schedule_repeats_itself(simulated):
    make, stage, other = simulated
    steps = []
    for _ in range(2):
        world = make(7)
        disturb(world, stage, other)
        steps.append((world.killed_at, len(world.objects)))
    assert steps[0] == steps[1] and steps[0][0]


# --- real processes, real files


def _run_in_a_process(root: Path, plan: str) -> int:
    code = f"from tests.support.stages import *; run_inline(counting_stage(4), {str(root)!r})"
    (root.parent / "plan").write_text(plan)
    environment = os.environ | {failpoints.VARIABLE: str(root.parent), "TMPDIR": str(root.parent)}
    return subprocess.run([sys.executable, "-c", code], env=environment, cwd=Path(__file__).parents[2]).returncode


@pytest.mark.parametrize(
    "point", sampled((f"{name}@{pass_}" for name in FAILPOINTS for pass_ in (1, 2) if "write" not in name), 4)
)
def test_a_process_killed_at_a_failpoint_leaves_what_the_next_one_finishes(tmp_path, point):
    undisturbed = run_inline(counting_stage(4), str(tmp_path / "undisturbed"))
    for name in undisturbed if "delete" in point else ():  # a file that another attempt left
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "000000-000-0123456789ab.parquet").touch()
    assert _run_in_a_process(tmp_path / "run", f"{point} tests.support.disturbances:kill") == -9
    finished = run_inline(counting_stage(4), str(tmp_path / "run"))
    for name, artifact in finished.items():
        assert artifact.manifest.digest == undisturbed[name].manifest.digest
        assert artifact.table() == undisturbed[name].table()
        on_disk = sorted(path.name for path in (tmp_path / "run" / name).glob("*.parquet"))
        assert on_disk == sorted(file.path for file in artifact.manifest.files)


def test_a_failpoint_does_what_the_plan_says_for_its_passes_over_all_processes(monkeypatch, tmp_path):
    done: list[str] = []
    monkeypatch.setattr(disturbances, "kill", lambda: done.append("kill"))
    monkeypatch.setattr(disturbances, "stop", lambda: done.append("stop"))
    monkeypatch.setenv(failpoints.VARIABLE, str(tmp_path))
    kill, stop = "tests.support.disturbances:kill", "tests.support.disturbances:stop"
    (tmp_path / "plan").write_text(f"unit_started:a@2 {kill}\nany@2 {stop}\nbefore_write:x@* {stop}\n")
    (tmp_path / "passes").write_text("unit_started a 1 0.0\n")  # of another process
    for name, detail, wanted in (
        ("unit_started", "b", ["stop"]),
        ("unit_started", "a", ["kill"]),
        ("unit_started", "a", []),
        ("before_write", "x", ["stop"]),
        ("before_write", "x", ["stop"]),
        ("before_write", "y", []),
    ):
        failpoints.failpoint(name, detail)
        assert done == wanted, (name, detail)
        done.clear()
    assert len((tmp_path / "passes").read_text().splitlines()) == 7
    with pytest.raises(AssertionError):
        failpoints.failpoint("elsewhere")


# --- one run


def test_records_of_an_earlier_run_are_kept_and_only_the_rest_is_done(tmp_path):
    root, done = str(tmp_path), []

    def work(unit, scratch):
        done.append(unit)
        return count_up(unit, scratch)

    stage = counting_stage(4, work)
    for unit in (1, 3):
        stages.run_unit(stage, root, unit, unit)
    assert sorted(stages.committed(stage, root)) == [1, 3]
    run_inline(stage, root)
    run_inline(stage, root)
    assert done == [1, 3, 0, 2]


def test_units_whose_files_were_removed_by_hand_are_done_again(tmp_path):
    stage = counting_stage(4)
    first = run_inline(stage, str(tmp_path))["numbers"]
    rows = first.table()
    for path in (tmp_path / "numbers").iterdir():
        path.unlink()
    again = run_inline(stage, str(tmp_path))["numbers"]
    assert again.manifest.digest == first.manifest.digest
    assert again.table() == rows


def test_a_unit_whose_file_was_cut_is_done_again_and_a_finished_stage_is_not_used(tmp_path):
    root, stage = str(tmp_path), counting_stage(4)
    made = run_inline(stage, root)
    digests = {name: artifact.manifest.digest for name, artifact in made.items()}
    cut = Path(made["numbers"].file_uris[-1])
    cut.write_bytes(cut.read_bytes()[:-1])
    assert made["numbers"].damage() == {
        str(cut): f"has {cut.stat().st_size:,} bytes, and {cut.stat().st_size + 1:,} were written"
    }
    stages.discard_damaged(counting_stage(4, fingerprint="e" * 32), root)
    assert cut.exists() and stages.published(stage, root), "what other settings made stays"
    stages.discard_damaged(stage, root)
    assert stages.published(stage, root) is None
    assert sorted(stages.committed(stage, root)) == [0, 1, 2]
    again = run_inline(stage, root)
    assert {name: artifact.manifest.digest for name, artifact in again.items()} == digests
    assert not again["numbers"].damage(compare_sha256=True)
    stages.discard(stage, root)
    assert stages.committed(stage, root) == {} and stages.published(stage, root) is None


def test_of_an_unfinished_stage_a_unit_whose_file_was_cut_is_done_again(tmp_path, caplog):
    root, stage = str(tmp_path), counting_stage(3)
    for unit in (1, 2):
        record = stages.run_unit(stage, root, unit, unit)
    cut = tmp_path / "numbers" / record.files["numbers"][-1].path
    cut.write_bytes(cut.read_bytes()[:-1])
    assert sorted(stages.committed(stage, root)) == [1]
    assert "files of 1 finished unit are gone or damaged" in caplog.text
    assert not run_inline(stage, root)["numbers"].damage(compare_sha256=True)


def test_other_settings_need_another_place_or_the_option_to_replace(tmp_path):
    root, old, new = str(tmp_path), counting_stage(3), counting_stage(5, fingerprint="e" * 32)
    run_inline(old, root)
    with pytest.raises(DataError, match=r"numbers: holds a finished artifact made from other settings.*replace=True"):
        run_inline(new, root)
    for stage, rows in ((new, 10), (old, 3), (new, 10)):
        stages.discard_stale(stage, root)
        assert run_inline(stage, root)["numbers"].table().num_rows == rows


def test_an_artifact_with_other_columns_than_the_stage_writes_is_not_taken_for_its_own(tmp_path):
    """Somebody else wrote the run: its records and its manifest agree with each other and not with the stage."""
    root, stage = str(tmp_path), counting_stage(3)
    run_inline(dataclasses.replace(stage, outputs=(Output("numbers", NUMBERS.remove(0)), stage.outputs[1])), root)
    with pytest.raises(DataError, match=r"numbers: holds a finished artifact made from other settings.*replace=True"):
        stages.published(stage, root)
    stages.discard_stale(stage, root)
    assert run_inline(stage, root)["numbers"].table().column_names == ["unit", "number"]


def test_half_of_an_old_artifact_is_noticed_before_any_work(tmp_path):
    root = str(tmp_path)
    run_inline(counting_stage(3), root)
    (tmp_path / "numbers" / MANIFEST).unlink()
    with pytest.raises(DataError, match="squares: holds a finished artifact"):
        stages.published(counting_stage(3, fingerprint="e" * 32), root)


def test_a_stage_without_units_gives_empty_artifacts(tmp_path):
    made = run_inline(counting_stage(0), str(tmp_path))
    assert made["numbers"].table().schema == NUMBERS
    assert made["numbers"].manifest.rows == 0


def test_a_manifest_is_what_the_units_left_file_by_file(tmp_path):
    """Each entry compared with a plain computation over the units, whose work adds them up differently."""
    began = datetime.now(UTC).replace(microsecond=0)
    counters = [{"documents": 3 + unit, f"only/{unit}": 0.5, "b": unit} for unit in range(4)]
    stage = dataclasses.replace(
        counting_stage(4, lambda unit, scratch: count_up(unit, scratch) and counters[unit]), fingerprint="a" * 32
    )
    records = {unit: stages.run_unit(stage, str(tmp_path), unit, unit) for unit in (2, 0, 3, 1)}
    records = {unit: dataclasses.replace(record, seconds=1.00042 * 2**unit) for unit, record in records.items()}
    made = stages.publish(stage, str(tmp_path), records)
    for name, rows in (("numbers", {1: [1], 2: [1, 1], 3: [1, 1, 1]}), ("squares", {unit: [1] for unit in range(4)})):
        manifest = made[name].manifest
        assert (manifest.kind, manifest.fingerprint, manifest.version) == (name, "a" * 32, cluster.__version__)
        assert manifest.seconds == 15.006
        assert manifest.counters == {"b": 6, "documents": 18, **{f"only/{unit}": 0.5 for unit in range(4)}}
        assert list(manifest.counters) == sorted(manifest.counters)
        assert began <= datetime.fromisoformat(manifest.made) <= datetime.now(UTC)
        assert [(file.unit, file.rows) for file in manifest.files] == [(u, n) for u in rows for n in rows[u]]
        numbers = [number for u in rows for number in range(len(rows[u]))]
        for file, number in zip(manifest.files, numbers, strict=True):
            data = (tmp_path / name / file.path).read_bytes()
            assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
            attempt = records[file.unit].attempt
            assert file.path == f"{file.unit:06}-{number:03}-{attempt}.parquet"
        assert manifest.rows == sum(map(sum, rows.values())) == made[name].table().num_rows
        assert manifest.bytes == sum(path.stat().st_size for path in (tmp_path / name).glob("*.parquet"))
    assert len({record.attempt for record in records.values()}) == 4


def test_an_artifact_without_rows_is_one_undamaged_file(tmp_path):
    for artifact in run_inline(counting_stage(0), str(tmp_path)).values():
        assert artifact.damage(compare_sha256=True) == {} and len(artifact.file_uris) == 1
        assert [(file.unit, file.rows) for file in artifact.manifest.files] == [(0, 0)]


def test_a_sweep_leaves_files_that_are_not_parquet(tmp_path):
    made = run_inline(counting_stage(2), str(tmp_path))["numbers"]
    for name in ("notes.txt", "left.parquet", "parquet"):
        (tmp_path / "numbers" / name).touch()
    stages.sweep(made)
    names = {path.name for path in (tmp_path / "numbers").iterdir()}
    assert names == {MANIFEST, "notes.txt", "parquet", *(file.path for file in made.manifest.files)}


def test_damage_names_each_file_by_what_is_wrong_with_it(tmp_path):
    made = run_inline(counting_stage(5), str(tmp_path))["squares"]
    gone, short, other, *whole = map(Path, made.file_uris)
    gone.unlink()
    size = short.stat().st_size
    short.write_bytes(b"x" * 2345)
    other.write_bytes(bytes(byte ^ 1 for byte in other.read_bytes()))
    wanted = {str(gone): "is gone", str(short): f"has 2,345 bytes, and {size:,} were written"}
    assert made.damage() == wanted and len(whole) == 2
    assert made.damage(compare_sha256=True) == wanted | {str(other): "has another sha256 than what was written"}
    stages.discard_damaged(counting_stage(5), str(tmp_path))
    assert not short.exists() and other.exists() and all(path.exists() for path in whole)


def test_discarding_removes_the_records_of_this_stage_and_no_other(tmp_path):
    root, stage = str(tmp_path), counting_stage(3)
    other = dataclasses.replace(stage, name="other", outputs=(Output("elsewhere", NUMBERS),), work=lambda *_: {})
    for one in (stage, other):
        run_inline(one, root)
    stages.discard(stage, root)
    assert stages.committed(stage, root) == {} and stages.published(stage, root) is None
    assert sorted(stages.committed(other, root)) == [0, 1, 2] and stages.published(other, root)
    assert len(list((tmp_path / "squares").glob("*.parquet"))) == 3


@pytest.mark.parametrize("name", ["numbers", "squares"])
def test_a_stage_whose_results_another_run_removes_while_they_are_published_says_that_it_works_here(
    tmp_path, monkeypatch, name
):
    """As of a driver that slept before it published what only the next stage reads; the other has finished that."""
    create = RecordFile.create

    def and_remove(record, data):
        made = create(record, data)
        if record.uri.endswith(f"/{name}/{MANIFEST}"):
            record.discard()
        return made

    monkeypatch.setattr(RecordFile, "create", and_remove)
    with pytest.raises(BusyError, match=r"/run: the results of count were removed just after.* Another run works here"):
        run_inline(counting_stage(3), str(tmp_path / "run"))
    monkeypatch.undo()
    assert run_inline(counting_stage(3), str(tmp_path / "run")).keys() == {"numbers", "squares"}


def test_a_stage_that_another_run_publishes_with_other_settings_is_refused_and_its_files_stay(tmp_path, monkeypatch):
    """As of a driver that slept before it published; the other runs with --replace and other settings."""
    root, create = str(tmp_path), RecordFile.create

    def overtaken(record, data):
        if record.uri.endswith(MANIFEST):
            monkeypatch.setattr(RecordFile, "create", create)
            run_inline(counting_stage(3, fingerprint="e" * 32), root)
        return create(record, data)

    monkeypatch.setattr(RecordFile, "create", overtaken)
    with pytest.raises(DataError, match="holds a finished artifact made from other settings"):
        run_inline(counting_stage(3), root)
    for artifact in stages.published(counting_stage(3, fingerprint="e" * 32), root).values():
        assert artifact.damage(compare_sha256=True) == {}


@pytest.mark.parametrize(
    ("uris", "shown"),
    [([], ""), (["a"], "a"), (["b", "a"], "2 files from b"), (["c"] * 1234, "1,234 files from c")],
)
def test_what_a_unit_reads_is_described_in_a_few_words(uris, shown):
    assert stages.files_from(uris) == shown
    assert Stage("x", (), [], count_up, "f", Store()).describe(uris) == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_scratch_disk_is_named_with_the_fix(tmp_path, number):
    def work(unit, scratch):
        raise OSError(number, os.strerror(number))

    said = rf"raymill-unit-.*{os.strerror(number)}.*TMPDIR.*finished units are kept"
    with pytest.raises(StorageError, match=said):
        stages.run_unit(counting_stage(1, work), str(tmp_path), 0, 0)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), Exception("No space left on device (os error 28)")],
    ids=["of a quota", "of a library written in Rust"],
)
def test_a_full_disk_for_temporary_files_is_named_with_the_fix(tmp_path, monkeypatch, error):
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "of another").mkdir()
    said = rf"^tokenizer: {tmp_path}/raymill-tokenizer-.*(No space left|quota exceeded).*TMPDIR.*finished work is kept"
    with pytest.raises(StorageError, match=said), temporary.scratch_folder("tokenizer"):
        raise error
    with pytest.raises(StorageError, match="s3://b/x: quota"), temporary.scratch_folder("tokenizer"):
        raise StorageError(f"s3://b/x: quota. {os.strerror(errno.ENOSPC)}")  # of the store, which says it itself

    def full(**_):
        raise error

    monkeypatch.setattr(temporary.tempfile, "mkdtemp", full)
    with pytest.raises(StorageError, match=rf"^tokenizer: {tmp_path}: "), temporary.scratch_folder("tokenizer"):
        raise AssertionError("there is no folder")
    assert [path.name for path in tmp_path.iterdir()] == ["of another"]


def test_another_error_of_the_work_is_left_as_it_is(tmp_path):
    def work(unit, scratch):
        raise FileNotFoundError("input went away")

    with pytest.raises(FileNotFoundError, match="input went away"):
        stages.run_unit(counting_stage(1, work), str(tmp_path), 0, 0)


def test_a_scratch_is_gone_however_its_unit_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt), Scratch(counting_stage(1).outputs) as scratch:
        assert scratch.folder.is_dir()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_folders_of_killed_processes_are_swept_and_those_of_others_stay(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = temporary.temporary_folder("unit", str(tmp_path))
    prefix = mine.name.rpartition(f"-{os.getpid()}-")[0]
    for name in (f"{prefix}-{ended.pid}-old", f"{prefix}-{os.getppid()}-alive", f"raymill-unit-zzzz-{ended.pid}-far"):
        (tmp_path / name).mkdir()
    temporary._sweep.cache_clear()
    temporary.temporary_folder("unit", str(tmp_path)).rmdir()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {mine.name, f"{prefix}-{os.getppid()}-alive", f"raymill-unit-zzzz-{ended.pid}-far"}


def test_a_file_that_reads_back_with_fewer_rows_is_not_uploaded(tmp_path, monkeypatch):
    """Not the user's to fix and perhaps of this machine alone, so it is tried again: no UserError."""
    stage = counting_stage(2)
    monkeypatch.setattr(pq, "read_metadata", lambda path: SimpleNamespace(num_rows=0))
    with pytest.raises(ClusterError, match=r"0 of 1 rows written were read back\. The scratch disk"):
        stages.run_unit(stage, str(tmp_path), 1, 1)
    assert list(tmp_path.rglob("*.parquet")) == [] and stages.committed(stage, str(tmp_path)) == {}


# --- files


def test_files_and_row_groups_are_cut_by_size(tmp_path):
    output = Output("x", pa.schema([("x", pa.int64())]), file_bytes=8000, row_group_bytes=1600)
    with Scratch((output,)) as scratch:
        scratch.write("x", pa.table({"x": range(3000)}))
        files = scratch.finish()["x"]
        rows = [rows for _, _, rows in files]
        groups = [pq.ParquetFile(path).metadata.num_row_groups for _, path, _ in files]
    assert rows == [1000, 1000, 1000]
    assert groups == [5, 5, 5]


def test_a_row_larger_than_a_group_is_a_group(tmp_path):
    output = Output("x", pa.schema([("x", pa.string())]), file_bytes=100, row_group_bytes=10)
    with Scratch((output,)) as scratch:
        scratch.write("x", pa.table({"x": ["a" * 1000, "b" * 1000]}))
        assert [rows for _, _, rows in scratch.finish()["x"]] == [1, 1]


def test_rows_of_earlier_units_get_files_that_are_listed_under_them(tmp_path):
    def work(units, scratch):
        for unit in units:
            scratch.write("numbers", pa.table({"unit": pa.repeat(unit, unit), "number": range(unit)}), unit)
        scratch.write("numbers", pa.table({"unit": [-1], "number": [-1]}))
        return {}

    stage = dataclasses.replace(counting_stage(2, work), units=[[0, 1, 2], [3, 4]])
    made = run_inline(stage, str(tmp_path))["numbers"]
    found = [[t for uri in uris for t in pq.read_table(uri)["unit"].to_pylist()] for uris in made.files_by_unit(5)]
    assert found == [[-1], [1, -1], [2, 2], [3, 3, 3], [4, 4, 4, 4]]
    assert made.rows_by_unit(5) == [1, 2, 2, 3, 4]
    assert [row["unit"] for row in made.table().to_pylist()] == [1, 2, 2, -1, 3, 3, 3, 4, 4, 4, 4, -1]


def test_rows_of_another_type_are_refused(tmp_path):
    with Scratch(counting_stage(1).outputs) as scratch, pytest.raises(pa.ArrowInvalid):
        scratch.write("numbers", pa.table({"unit": ["no number"], "number": [1]}))


def test_counters_add_up_by_name():
    assert stages.add_counters([{"b": 1}, {"a": 2, "b": 3}]) == {"a": 2, "b": 4}
    assert list(stages.add_counters([{"b": 1, "a": 1}])) == ["a", "b"]
