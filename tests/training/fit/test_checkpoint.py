"""The format of checkpoints, the choice of one, and what is kept: no training, one process."""

import dataclasses
import hashlib
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from itertools import pairwise
from math import prod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from safetensors.numpy import save

from raymill import cluster
from raymill.cluster.errors import ClusterError, DataError, StorageError
from raymill.cluster.store.interface import NotFound, StorageOptions, Unavailable
from raymill.cluster.store.paths import FileName
from raymill.cluster.store.store import Store
from raymill.training.engines import engine as protocol
from raymill.training.engines.engine import StateSlice, fetched
from raymill.training.fit import checkpoint as saving
from raymill.training.fit.checkpoint import Saver, fill, pack_file, restore
from raymill.training.fit.ranks import Ranks
from raymill.training.fit.step_log import StepLog
from raymill.training.pack.packed_run import manifest_file
from raymill.training.records import checkpoint as checkpoint_format
from raymill.training.records.checkpoint import (
    Checkpoint,
    CheckpointManifest,
    StateFile,
    StatePart,
    StateRange,
    has_every_value,
    kept,
    latest,
    layouts_of,
    newest,
)
from raymill.training.records.finished import (
    WorkerErrors,
    read_evaluation,
    read_outcome,
    refuse_or_delete_other_training,
)
from raymill.training.records.job import Job, TrainingFolder
from raymill.training.records.schema import Best, TrainingProgress, read_steps
from tests.support import fit_jobs
from tests.support.checkpoint_jobs import SHAPES, STATES, make_job, slices, values, write


def write_by(job: Job, world: int, step: int = 3) -> str:
    """The same by several workers, one after the other."""
    savers = [Saver(job.folder, 2, Ranks(rank, world, torch.device("cpu")), "a", lambda: None) for rank in range(world)]
    for rank, saver in reversed(list(enumerate(savers))):
        saver.begin(TrainingProgress(step=step, updates=step), slices(rank, world))
        saver._upload.result()
        saver.on_counts(0, committed=False)
    savers[0]._commit.result()
    for saver in savers:
        saver.close()
    return savers[0].uri(step)


@pytest.mark.parametrize("listed", [0, 10_000])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_whatever_the_workers_saved_is_read_back_in_any_cut(tmp_path, world, listed, monkeypatch):
    monkeypatch.setattr(checkpoint_format, "LISTED_PIECES", listed)
    monkeypatch.setattr(saving, "PIECE_VALUES", 3)
    monkeypatch.setattr(saving, "_FILE_VALUES", 10)
    checkpoint = Checkpoint.load(Store(), write_by(make_job(tmp_path), world))
    assert (checkpoint.step, checkpoint.shapes, checkpoint.manifest.world) == (3, SHAPES, world)
    for name in SHAPES:
        for state in STATES:
            whole = values(name, state)
            for start in range(len(whole)):
                for stop in range(start, len(whole) + 1):
                    assert np.array_equal(checkpoint.fetch(name, state, start, stop), whole[start:stop])
    assert len(checkpoint.manifest.parts) == (0 if listed else world)
    files = list(checkpoint.files)
    sizes = [sum(piece.count for piece in file.pieces) for file in files]
    assert max(sizes) <= 10 and sum(sizes) == 27 * len(STATES)
    for one, after in pairwise(files):
        if one.path[:10] == after.path[:10]:
            assert sum(piece.count for piece in one.pieces) + after.pieces[0].count > 10, "a file is filled first"


def in_parts(tmp_path, monkeypatch, world: int = 3) -> str:
    """A checkpoint whose manifest has no lists."""
    monkeypatch.setattr(checkpoint_format, "LISTED_PIECES", 0)
    return write_by(make_job(tmp_path), world)


def test_a_rank_reads_the_lists_of_the_values_that_it_wants_alone(tmp_path, monkeypatch):
    checkpoint = Checkpoint.load(Store(), in_parts(tmp_path, monkeypatch, world=4))
    monkeypatch.setattr(checkpoint_format, "_WHOLE_BYTES", 0)
    asked, read_bytes = [], Store.read_bytes
    monkeypatch.setattr(Store, "read_bytes", lambda self, uri, *most: asked.append(uri[-15:]) or read_bytes(self, uri))
    for state in STATES:  # of 20 values, each rank has 5
        assert len(checkpoint.fetch("first.weight", state, 5, 15)) == 10
    assert asked == ["rank-00001.json", "rank-00002.json"]


def test_threads_read_a_list_and_a_small_file_once(tmp_path, monkeypatch):
    checkpoint = Checkpoint.load(Store(), in_parts(tmp_path, monkeypatch, world=1))
    asked, read_bytes = [], Store.read_bytes

    def slow(self, uri, *most):
        asked.append(uri)
        time.sleep(0.05)
        return read_bytes(self, uri)

    monkeypatch.setattr(Store, "read_bytes", slow)
    wanted = [((name, state), (name, state, 0, 7)) for name in SHAPES for state in STATES]
    for (name, state), found in fetched(wanted, lambda *of: torch.from_numpy(checkpoint.fetch(*of))):
        assert torch.equal(found, values(name, state)[:7])
    assert len(asked) == 2


@pytest.mark.parametrize("damage", ["gone", "other", "no list", "more"])
def test_a_damaged_list_of_a_rank_is_damage_of_the_checkpoint(tmp_path, monkeypatch, damage):
    uri = in_parts(tmp_path, monkeypatch)
    path = Path(uri, "rank-00001.json")
    text = path.read_text()
    if damage == "gone":
        path.unlink()
    elif damage == "other":
        path.write_text(text.replace("param", "qaram"))
    else:
        path.write_text(text + " " if damage == "more" else "{" + text[1:].replace('"files"', '"filez"'))
    if damage in ("gone", "more"):
        with pytest.raises(DataError, match=r"rank-00001\.json: (is missing|has \d+ bytes)"):
            Checkpoint.load(Store(), uri)
        checkpoint = Checkpoint.load(Store(), uri, compare_sizes=False)
    else:
        checkpoint = Checkpoint.load(Store(), uri)
    checkpoint.fetch("first.weight", "param", 0, 6)
    with pytest.raises(DataError, match=r"rank-00001\.json: (is missing|has another sha256)"):
        checkpoint.fetch("first.weight", "param", 0, 7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plain: plain["layouts"][0][0].__setitem__(0, 1), "does not begin at 0"),
        (lambda plain: plain["layouts"][0][0].append(99), "other starts than parts"),
        (lambda plain: plain["layouts"][0][0].__setitem__(1, 99), "do not ascend"),
        (lambda plain: plain["layouts"][0][0].__setitem__(2, 99), "beyond its parameter"),
        (lambda plain: plain["layouts"][0][1].__setitem__(1, 9), "parts that there are not"),
        (lambda plain: plain["layouts"][0][1].__setitem__(1, -1), "no counts"),
        (lambda plain: plain["layouts"][0][1].__setitem__(1, 1.5), "no counts"),
        (lambda plain: plain["states"].pop("second"), "other parameters"),
        (lambda plain: plain["states"]["second"].__setitem__("param", -1), "no number of a layout"),
        (lambda plain: plain["states"]["second"].__setitem__("param", 7), "no number of a layout"),
        (lambda plain: plain["parts"][0].__setitem__(0, "../x.json"), "x.json"),
        (lambda plain: plain["parts"][0].__setitem__(1, "1"), "no numbers of bytes"),
        (lambda plain: plain["parts"][0].__setitem__(2, 1), "no sha256"),
        (lambda plain: plain["parts"][0][3].append(["/x", 1]), "/x"),
        (lambda plain: plain["files"].append({"path": "a", "bytes": 1, "pieces": []}), "both parts and files"),
    ],
)
def test_a_manifest_of_parts_that_raymill_did_not_write_is_refused(tmp_path, monkeypatch, change, said):
    uri = in_parts(tmp_path, monkeypatch)
    manifest = Path(uri, "manifest.json")
    plain = json.loads(manifest.read_text())
    change(plain)
    manifest.write_text(json.dumps(plain))
    with pytest.raises(DataError, match=said):
        Checkpoint.load(Store(), uri)


def change_list(uri: str, change) -> Checkpoint:
    """The checkpoint after a change of the first rank's list, with which its manifest agrees."""
    path, manifest = Path(uri, "rank-00000.json"), Path(uri, "manifest.json")
    plain = json.loads(path.read_text())
    change(plain["files"])
    path.write_text(json.dumps(plain))
    record = json.loads(manifest.read_text())
    record["parts"][0][1:3] = [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
    record["parts"][0][3] = [[file["path"], file["bytes"]] for file in plain["files"]]
    manifest.write_text(json.dumps(record))
    return Checkpoint.load(Store(), uri)


def test_a_list_of_a_rank_with_impossible_pieces_is_refused(tmp_path, monkeypatch):
    uri = in_parts(tmp_path, monkeypatch, world=1)
    checkpoint = change_list(uri, lambda files: files[0]["pieces"][0].__setitem__(3, 1 << 40))
    with pytest.raises(DataError, match=r"rank-00000\.json: Raymill did not write it \(a piece has more values"):
        checkpoint.fetch("second", "param", 0, 1)


def test_a_list_of_a_rank_with_values_twice_is_refused_before_they_are_read(tmp_path, monkeypatch):
    """All pieces of a range are read together: a thousand of one range took a thousand times its memory."""
    monkeypatch.setattr(saving, "PIECE_VALUES", 3)
    uri = in_parts(tmp_path, monkeypatch, world=1)

    def again(files: list) -> None:
        for number in range(3):
            shutil.copy(Path(uri, files[0]["path"]), Path(uri, f"again-{number}.safetensors"))
            files.append(files[0] | {"path": f"again-{number}.safetensors"})

    checkpoint = change_list(uri, again)
    monkeypatch.setattr(Checkpoint, "_read", None)
    with pytest.raises(DataError, match=r"param of second has value 3 twice"):
        checkpoint.fetch("second", "param", 0, 6)


@pytest.mark.parametrize("listed", [0, 10_000])
def test_a_file_with_far_more_bytes_than_its_pieces_is_refused(tmp_path, monkeypatch, listed):
    """Small files are read whole and kept, and a sparse one of others takes no disk."""
    monkeypatch.setattr(checkpoint_format, "LISTED_PIECES", listed)
    uri = write_by(make_job(tmp_path), 1)

    def longer(files: list) -> None:
        os.truncate(Path(uri, files[0]["path"]), 1 << 25)
        files[0]["bytes"] = 1 << 25

    with pytest.raises(DataError, match="a file has far more bytes than its pieces"):
        if listed:
            manifest = Path(uri, "manifest.json")
            plain = json.loads(manifest.read_text())
            longer(plain["files"])
            manifest.write_text(json.dumps(plain))
            Checkpoint.load(Store(), uri)
        else:
            change_list(uri, longer).fetch("second", "param", 0, 1)


def test_many_parameters_that_share_a_long_layout_take_no_time(monkeypatch):
    hashed = []
    monkeypatch.setattr(checkpoint_format.Layout, "__hash__", lambda self: hashed.append(self) or 0)
    shapes = {f"layer.{number}": (64, 8) for number in range(50)}
    layout = [[*range(0, 512, 8)], [*range(64)]]
    plain = {
        "identity": {}, "course": dataclasses.asdict(TrainingProgress()), "world": 64, "made": "", "versions": {},
        "files": [], "shapes": shapes, "parts": [[f"{rank}.json", 1, "", []] for rank in range(64)],
        "layouts": [layout], "states": {name: {"param": 0} for name in shapes},
    }  # fmt: skip
    assert len(CheckpointManifest.from_json(json.dumps(plain).encode()).layouts) == 50 and hashed == []


def test_parameters_that_are_divided_alike_share_their_ranges():
    shapes = {f"layer.{number}": (64, 8) for number in range(100)} | {"norm": (64,)}
    ranges = [
        (name, state, rank * prod(shape) // 64, prod(shape) // 64, rank)
        for rank in range(64) for name, shape in shapes.items() for state in STATES
    ]  # fmt: skip
    layouts = layouts_of(shapes, ranges)
    assert layouts is not None
    parts = tuple(StatePart(FileName(f"{rank}.json"), 1, "", ()) for rank in range(64))
    manifest = CheckpointManifest({}, TrainingProgress(), shapes, (), 64, "", {}, parts, layouts)
    plain = json.loads(manifest.to_json())
    assert len(plain["layouts"]) == 2
    assert CheckpointManifest.from_json(manifest.to_json()) == manifest


def test_few_values_are_read_ahead(monkeypatch):
    monkeypatch.setattr(protocol, "_AHEAD_VALUES", 10)
    begun, most = [], []

    def fetch(name, state, start, stop):
        begun.append(name)
        return torch.zeros(stop - start)

    for number, (key, found) in enumerate(fetched([(n, (str(n), "param", 0, 4)) for n in range(9)], fetch)):
        assert key == number and len(found) == 4
        most.append(len(begun) - number)
    assert len(begun) == 9 and max(most) <= 3


def test_the_files_are_safetensors_that_others_can_read(tmp_path):
    from safetensors.torch import load_file

    (path,) = Path(write(make_job(tmp_path), 1)).glob("*.safetensors")
    found = load_file(path)
    assert torch.equal(found["second|exp_avg|0"], values("second", "exp_avg"))


def test_only_the_pieces_that_are_wanted_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "PIECE_VALUES", 4)
    monkeypatch.setattr(checkpoint_format, "_WHOLE_BYTES", 0)
    checkpoint = Checkpoint.load(Store(), write(make_job(tmp_path), 1))
    wanted: list[StateRange] = []
    read_piece = Checkpoint._read
    monkeypatch.setattr(
        Checkpoint, "_read", lambda self, file, piece: wanted.append(piece) or read_piece(self, file, piece)
    )
    assert checkpoint.fetch("first.weight", "param", 6, 9).tolist() == [6, 7, 8]
    assert sorted(piece.start for piece in wanted) == [4, 8]


def test_a_small_file_is_read_once_for_all_of_its_pieces(tmp_path, monkeypatch):
    checkpoint = Checkpoint.load(Store(), write(make_job(tmp_path), 1))
    asked, read_bytes = [], Store.read_bytes
    monkeypatch.setattr(Store, "read_bytes", lambda self, uri: asked.append(uri) or read_bytes(self, uri))
    for name in SHAPES:
        for state in STATES:
            checkpoint.fetch(name, state, 0, 7)
    assert len(asked) == 1


def test_weights_are_checked_without_the_optimizers_state(tmp_path):
    uri = write(make_job(tmp_path), 1)
    checkpoint = Checkpoint.load(Store(), uri)
    for state, damaged in (("exp_avg", False), ("param", True)):
        ((file, piece),) = checkpoint._overlapping("second", state, 0, 7)
        path = Path(uri, file.path)
        data = bytearray(path.read_bytes())
        data[piece.offset] ^= 1
        path.write_bytes(data)
        if damaged:
            with pytest.raises(DataError, match=r"param of second from value 0 on has another sha256"):
                checkpoint.check_weights()
        else:
            checkpoint.check_weights()


def test_a_checkpoint_is_reported_once_by_every_worker_after_its_commit(tmp_path):
    job, reported = make_job(tmp_path), []

    def report(uri: str) -> None:
        reported.append(latest(job.folder).uri)
        assert uri == latest(job.folder).uri

    savers = [Saver(job.folder, 2, Ranks(rank, 2, torch.device("cpu")), "a", lambda: None, report) for rank in range(2)]
    for step in (1, 2):
        for rank, saver in reversed(list(enumerate(savers))):
            saver.begin(TrainingProgress(step=step), slices(rank, 2))
            saver._upload.result()
            saver.on_counts(0, committed=False)
        savers[0]._commit.result()
        assert [saver.committed for saver in savers] == [True, False] and len(reported) == 2 * (step - 1)
        for saver in savers:
            if step == 1:
                saver.on_counts(0, committed=True)
            saver.settle()
        assert not any(saver.committed for saver in savers)
        assert reported[-2:] == [savers[0].uri(step)] * 2 and len(reported) == 2 * step
    for saver in savers:
        saver.close()


def test_the_manifest_waits_for_the_parts_of_all_workers(tmp_path):
    job = make_job(tmp_path)
    saver = Saver(job.folder, job.config.checkpoint.keep, Ranks(0, 1, torch.device("cpu")), "a", lambda: None)
    assert not saver.uploading
    saver.begin(TrainingProgress(step=1), slices())
    saver._upload.result()
    saver.on_counts(1, committed=False)
    assert not saver.uploading and latest(job.folder) is None, "another worker still uploads"
    saver.on_counts(0, committed=False)
    saver.on_counts(0, committed=False)
    saver.settle()
    assert latest(job.folder).step == 1
    saver.close()


def test_training_waits_for_the_copy_and_for_the_checkpoint_before(tmp_path, monkeypatch):
    times = iter([100.0, 107.5])
    saver = Saver(make_job(tmp_path).folder, 2, Ranks(0, 1, torch.device("cpu")), "a", lambda: None)
    monkeypatch.setattr(saving, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    assert saver.begin(TrainingProgress(step=1), slices()) == 7.5
    saver.settle()
    saver.close()


def test_a_part_or_manifest_that_cannot_be_written_is_raised_at_the_next_step(tmp_path, monkeypatch):
    def refuse(*_):
        raise StorageError("the disk is full")

    for broken, parts in (("write_bytes", 0), ("create", 1)):
        saver = Saver(make_job(tmp_path / broken).folder, 2, Ranks(0, 1, torch.device("cpu")), "a", lambda: None)
        with monkeypatch.context() as patch:
            patch.setattr(Store, broken, refuse)
            saver.begin(TrainingProgress(step=1), slices())
            saver._upload.exception()
            if parts:
                saver.on_counts(0, committed=False)
                saver._commit.exception()
        with pytest.raises(StorageError, match="the disk is full"):
            _ = saver.uploading
        saver.close()


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ((None, {"/run/checkpoints/step-00000002-a": "cut"}, None), r"every checkpoint is damaged \(1 tried.*: cut"),
        ((None, {}, "of other settings"), "of other settings"),
    ],
)
def test_every_worker_raises_what_the_first_one_found(tmp_path, chosen, said):
    """A worker that went on alone would wait for the others for ever."""
    second = SimpleNamespace(first=False, from_first=lambda _: chosen)
    with pytest.raises(DataError, match=said):
        restore(make_job(tmp_path).folder, None, second, Remembering())


def test_a_changed_byte_is_found_where_it_is_read_and_only_there(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_format, "_WHOLE_BYTES", 0)
    uri = write(make_job(tmp_path), 1)
    checkpoint = Checkpoint.load(Store(), uri)
    ((file, piece),) = checkpoint._overlapping("second", "param", 0, 7)
    path = Path(uri, file.path)
    data = bytearray(path.read_bytes())
    data[piece.offset + 5] ^= 1
    path.write_bytes(data)
    assert np.array_equal(checkpoint.fetch("second", "exp_avg", 0, 7), values("second", "exp_avg"))
    with pytest.raises(DataError, match=r"param of second from value 0 on has another sha256"):
        checkpoint.fetch("second", "param", 6, 7)


def test_a_state_that_was_never_saved_is_named(tmp_path):
    checkpoint = Checkpoint.load(Store(), write(make_job(tmp_path), 1))
    with pytest.raises(DataError, match="param of third has no values 0 to 4"):
        checkpoint.fetch("third", "param", 0, 4)


@pytest.mark.parametrize("damage", ["cut", "missing", "no manifest", "torn manifest"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, damage, caplog):
    job = make_job(tmp_path)
    older, newer = write(job, 1), write(job, 2)
    (data,) = Path(newer).glob("*.safetensors")
    manifest = Path(newer, "manifest.json")
    match damage:
        case "cut":
            data.write_bytes(data.read_bytes()[:-1])
        case "missing":
            data.unlink()
        case "no manifest":
            manifest.unlink()
        case "torn manifest":
            manifest.write_bytes(manifest.read_bytes()[:50])
    assert latest(job.folder).uri == older
    restored = restore(job.folder, job.parent, Ranks(0, 1, torch.device("cpu")), Remembering())
    assert restored.checkpoint.uri == older
    if damage == "no manifest":
        assert restored.damaged == [], "it was never finished"
        return
    (found,) = restored.damaged
    assert (found["step"], found["resumed"]) == (2, 1) and found["problem"].startswith(newer)
    assert newer in caplog.text


class Remembering:
    """An engine that takes what it is given."""

    def load(self, fetch, steps_taken: int) -> None:
        self.steps_taken = steps_taken
        self.second = fetch("second", "param", 0, 7)


def test_damage_that_only_reading_shows_goes_back_to_the_checkpoint_before(tmp_path, caplog):
    job, ranks, engine = make_job(tmp_path), Ranks(0, 1, torch.device("cpu")), Remembering()
    older, newer = write(job, 1), write(job, 2)
    (path,) = Path(newer).glob("*.safetensors")
    path.write_bytes(bytes(path.stat().st_size))
    restored = restore(job.folder, job.parent, ranks, engine)
    assert restored.checkpoint.uri == older
    assert [(one["step"], one["resumed"]) for one in restored.damaged] == [(2, 1)]
    assert "has another sha256 than was written" in restored.damaged[0]["problem"]
    assert engine.steps_taken == 1 and torch.equal(engine.second, values("second", "param"))
    assert newer in caplog.text
    (path,) = Path(older).glob("*.safetensors")
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match="every checkpoint is damaged"):
        restore(job.folder, job.parent, ranks, engine)


def test_where_sizes_show_that_every_checkpoint_is_damaged_training_does_not_begin_anew(tmp_path):
    job = make_job(tmp_path)
    for step in (1, 2):
        next(Path(write(job, step)).glob("*.safetensors")).write_bytes(b"")
    with pytest.raises(DataError, match=r"every checkpoint is damaged \(2 tried.*Delete that folder to start again"):
        restore(job.folder, job.parent, Ranks(0, 1, torch.device("cpu")), Remembering())


def test_a_checkpoint_of_other_settings_is_refused_with_both_values(tmp_path):
    write(make_job(tmp_path), 1)
    other = make_job(tmp_path, **{"settings.seed": "2"})
    with pytest.raises(DataError, match=r"model or data: seed was 1, now 2\. Set them back"):
        latest(other.folder)
    with pytest.raises(DataError, match=r'data was "abc", now "xyz"'):
        restore(make_job(tmp_path, data="xyz").folder, None, Ranks(0, 1, torch.device("cpu")), Remembering())


def test_the_differing_setting_is_named_inside_a_part_that_is_json(tmp_path):
    job = make_job(tmp_path, optimizer=json.dumps({"learning_rate": 0.1, "clip": 1.0}))
    now = make_job(tmp_path, optimizer=json.dumps({"learning_rate": 0.2, "clip": 1.0}))
    assert now.folder.differences(job.folder.fingerprint_parts) == ["optimizer.learning_rate was 0.1, now 0.2"]


def test_weights_go_into_a_module_of_the_same_parameters_and_into_no_other(tmp_path):
    module = torch.nn.Module()
    module.register_parameter("second", torch.nn.Parameter(torch.zeros(7)))
    checkpoint = Checkpoint.load(Store(), write(make_job(tmp_path), 1))
    with pytest.raises(DataError, match=r"first\.weight: shape \(5, 4\) in the checkpoint, none in"):
        fill(module, checkpoint)
    module.first = torch.nn.Linear(4, 5, bias=False)
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    module.register_parameter("frozen", frozen)
    fill(module, checkpoint)
    assert torch.equal(module.first.weight, values("first.weight", "param").view(5, 4))
    assert torch.equal(module.second, values("second", "param")) and frozen.tolist() == [1, 1]


def test_the_driver_passes_over_damage_too_and_removes_another_training_only_if_asked(tmp_path):
    job = make_job(tmp_path)
    older, newer = write(job, 1), write(job, 2)
    Path(newer, "manifest.json").write_text("{")
    refuse_or_delete_other_training(job.folder, replace=False)
    assert latest(job.folder).uri == older
    outcome = {
        "fingerprint": "another", "ended": "steps", "steps": 1, "best_step": None, "checkpoint": older,
        "best_checkpoint": older, "trainable_parameters": 1, "all_parameters": 1, "unmoved": [], "skipped": [],
        "restarts": 0, "seconds": 1.0,
    }  # fmt: skip
    Store().write_bytes(job.folder.outcome, json.dumps(outcome).encode())
    with pytest.raises(DataError, match="written by a training with other settings"):
        refuse_or_delete_other_training(job.folder, replace=False)
    Store().write_bytes(f"{job.folder.exports}/step-00000001/manifest.json", b"{}")
    refuse_or_delete_other_training(job.folder, replace=True)
    assert latest(job.folder) is None and not Store().exists(job.folder.outcome)
    assert not Store().list_files(job.folder.checkpoints) and not Store().list_files(job.folder.exports)


@pytest.mark.parametrize(
    ("error", "kind", "final"),
    [
        (DataError("broken"), DataError, True),
        (NotFound("there"), StorageError, False),
        (Unavailable("gone"), StorageError, False),
        (StorageError("refused"), StorageError, True),
        (ClusterError("ours"), ClusterError, False),
    ],
)
def test_a_workers_error_comes_back_by_its_kind_and_message(tmp_path, error, kind, final):
    failures = WorkerErrors(make_job(tmp_path).folder, "one")
    assert failures.last(final=False) is None
    failures.write(error)
    found = failures.last(final=False)
    assert type(found) is kind and str(found) == str(error)
    assert (failures.last(final=True) is not None) == final
    assert WorkerErrors(make_job(tmp_path).folder, "two").last(final=False) is None
    failures.delete()
    assert failures.last(final=False) is None


# --- what stays


def steps_left(job: Job) -> list[int]:
    return sorted(
        int(path.name.split("-")[1]) for path in Path(job.folder.checkpoints).iterdir() if any(path.iterdir())
    )


def test_the_newest_and_the_best_stay(tmp_path):
    job = make_job(tmp_path, keep=2)
    for step in range(1, 7):
        write(job, step, progress=TrainingProgress(step=step, best=Best(min(step, 2), 1.0)))
    assert steps_left(job) == [2, 5, 6]


def test_of_a_removed_checkpoint_not_even_its_folder_stays(tmp_path):
    job = make_job(tmp_path, keep=1)
    being_written = Path(job.folder.checkpoints, "step-00000009-other")
    write(job, 1)
    being_written.mkdir()
    write(job, 2)
    assert sorted(path.name for path in Path(job.folder.checkpoints).iterdir()) == [
        "step-00000002-a",
        being_written.name,
    ]


def test_a_folder_into_which_someone_writes_stays_when_its_checkpoint_goes(tmp_path):
    job = make_job(tmp_path, keep=1)
    first = Path(write(job, 1))
    first.joinpath("unlisted").mkdir()
    write(job, 2)
    assert [path.name for path in first.iterdir()] == ["unlisted"]


def test_a_checkpoint_that_is_half_deleted_is_no_checkpoint(tmp_path, monkeypatch):
    """The manifest is deleted first: whoever is killed after it leaves files that nobody reads."""
    job = make_job(tmp_path)
    uri = write(job, 1)
    delete, calls = Store.delete, []

    def killed_at_the_second(self, uris) -> None:
        calls.append(uris)
        if len(calls) == 2:
            raise KeyboardInterrupt
        delete(self, uris)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "delete", killed_at_the_second)
        checkpoint_format.discard(Store(), uri, [file.uri for file in Store().list_files(uri)])
    assert Store().list_files(uri), "some of its files are left"
    assert checkpoint_format.checkpoint_folders(job.folder) == []


def test_the_log_is_written_before_the_manifest(tmp_path):
    job, seen = make_job(tmp_path), []
    saver = Saver(
        *(job.folder, 2, Ranks(0, 1, torch.device("cpu")), "a"),
        lambda: seen.append(Store().exists(f"{saver.uri(1)}/manifest.json")),
    )
    saver.begin(TrainingProgress(step=1, updates=1), slices())
    saver.settle()
    saver.close()
    assert seen == [False] and Store().exists(f"{saver.uri(1)}/manifest.json")


def test_a_later_step_of_lost_work_goes_and_never_the_one_just_made(tmp_path):
    job = make_job(tmp_path, keep=1)
    write(job, 1), write(job, 9)
    write(job, 4, attempt="b")
    assert steps_left(job) == [4]
    write(job, 4, attempt="a")
    assert [path.name for path in Path(job.folder.checkpoints).iterdir() if any(path.iterdir())] == ["step-00000004-a"]


def test_what_a_killed_attempt_left_goes_at_the_next_start(tmp_path):
    job = make_job(tmp_path)
    whole = write(job, 1)
    for name in ("rank-00000-00000.safetensors", "rank-00000.json"):
        Store().write_bytes(f"{job.folder.checkpoints}/step-00000002-dead/{name}", b"x")
    Saver(job.folder, job.config.checkpoint.keep, Ranks(0, 1, torch.device("cpu")), "b", lambda: None).close()
    assert steps_left(job) == [1] and latest(job.folder).uri == whole
    assert [path.name for path in Path(job.folder.checkpoints).iterdir()] == ["step-00000001-a"]


def pieces_of(plain: dict) -> list[list]:
    return plain["files"][0]["pieces"]


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: pieces_of(plain).append(pieces_of(plain)[0]),
        lambda plain: pieces_of(plain)[0].__setitem__(2, "0"),
        lambda plain: pieces_of(plain)[0].__setitem__(4, -4),
    ],
    ids=["a value twice", "a start as text", "an offset before the file"],
)
def test_a_manifest_whose_pieces_are_not_every_value_once_is_refused(tmp_path, change):
    """Each piece is read whole: of a thousand pieces over one range, a file of 8 MiB would take gigabytes."""
    uri = write(make_job(tmp_path), 1)
    manifest = Path(uri, "manifest.json")
    plain = json.loads(manifest.read_text())
    change(plain)
    manifest.write_text(json.dumps(plain))
    with pytest.raises(DataError, match=r"manifest\.json"):
        Checkpoint.load(Store(), uri)


@pytest.mark.parametrize("value", [None, True, -2, 0.5, 10**30, "a", [1], {"a": 1}])
@pytest.mark.parametrize(
    "at", ["step", "updates", "evaluated", "best", "misses", "skipped", "went_back", "seconds", "bytes", "sha256"]
)
def test_a_manifest_with_a_value_of_another_type_is_damage_and_the_checkpoint_before_is_used(tmp_path, at, value):
    job = make_job(tmp_path)
    before = write(job, 1)
    manifest = Path(write(job, 2), "manifest.json")
    plain = json.loads(manifest.read_text())
    if at == "bytes":
        plain["files"][0]["bytes"] = value
    elif at == "sha256":
        pieces_of(plain)[0][5] = value
    else:
        plain["course"][at] = value
    manifest.write_text(json.dumps(plain))
    if (at, value) in ([("best", None), ("skipped", [1]), ("sha256", "a"), ("seconds", 0.5)]):
        assert Checkpoint.load(Store(), str(manifest.parent)).step == 2
        return
    damaged = dict[str, str]()
    assert newest(job.folder, damaged).uri == before
    assert "manifest.json" in damaged[str(manifest.parent)] or "bytes" in damaged[str(manifest.parent)]


@pytest.mark.parametrize("name", ["evil", "step-x-a", "step-00000003", "step-" + "9" * 5000 + "-a", "step-\u0663-a"])
def test_folders_of_other_names_are_no_checkpoints(tmp_path, name):
    """The step of such a name was read when the next checkpoint was committed, which ended the training."""
    job = make_job(tmp_path)
    written = write(job, 2)
    other = Path(written).with_name(name[:250])
    shutil.copytree(written, other)
    assert checkpoint_format.checkpoint_folders(job.folder) == [written] and newest(job.folder, {}).uri == written
    assert checkpoint_format.of_step(job.folder, None) == written
    saving.delete_replaced(job.folder, 1, TrainingProgress(step=2), written)
    assert Path(written).is_dir() and other.is_dir()


def test_files_of_others_among_checkpoints_are_left_alone(tmp_path):
    """A training that continued deleted every file in a folder without a manifest."""
    job = make_job(tmp_path)
    written = Path(write(job, 2))
    places = (
        "plain.txt",
        "my-notes/thesis.txt",
        "step-00000001/a.txt",
        "other/step-00000001-ab/a.txt",
        f"{written.name}/x/y",
    )
    kept = [written.parent / place for place in places]
    unfinished = written.parent / "step-00000003-ab" / "part.safetensors"
    for file in (*kept, unfinished):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    Saver(job.folder, 1, Ranks(0, 1, torch.device("cpu")), "a", lambda: None).close()
    saving.delete_replaced(job.folder, 1, TrainingProgress(step=2), str(written))
    assert all(file.exists() for file in kept) and not unfinished.exists()


def test_a_checkpoint_that_is_gone_is_named(tmp_path):
    job = make_job(tmp_path)
    written = write(job, 2)
    assert checkpoint_format.at_step(job.folder, 2) == written
    with pytest.raises(DataError, match="the checkpoint of step 1 is gone"):
        checkpoint_format.at_step(job.folder, 1)


def test_pieces_on_the_same_bytes_are_refused(tmp_path):
    """A small file of which all pieces are the same bytes stood for a model of any size."""
    uri = write(make_job(tmp_path), 1)
    manifest = Path(uri, "manifest.json")
    plain = json.loads(manifest.read_text())
    name, state, _, count, offset, digest = pieces_of(plain)[0]
    file = next(one for one in plain["files"] if pieces_of(plain)[0] in one["pieces"])
    many = 1 + file["bytes"] // (4 * count)
    held = plain["shapes"][name]
    others = [one for one in file["pieces"] if one[0] != name]
    file["pieces"] = others + [[name, state, at * count, count, offset, digest] for at in range(many)]
    for other in plain["files"]:
        other["pieces"] = [one for one in other["pieces"] if one[0] != name or other is file]
    plain["shapes"][name] = [many * count]
    assert many * count > held[0]
    manifest.write_text(json.dumps(plain))
    with pytest.raises(DataError, match="a file has fewer bytes than its pieces"):
        Checkpoint.load(Store(), uri)


def test_a_piece_of_more_values_than_are_written_at_once_is_refused(tmp_path, monkeypatch):
    uri = write(make_job(tmp_path), 1)
    longest = max(piece.count for file in Checkpoint.load(Store(), uri).manifest.files for piece in file.pieces)
    monkeypatch.setattr(checkpoint_format, "PIECE_VALUES", longest - 1)
    with pytest.raises(DataError, match="more than a piece holds"):
        Checkpoint.load(Store(), uri)


def test_a_piece_that_the_end_of_its_file_cuts_is_refused(tmp_path):
    uri = write(make_job(tmp_path), 1)
    manifest = Path(uri, "manifest.json")
    plain = json.loads(manifest.read_text())
    file = plain["files"][0]
    last = max(file["pieces"], key=lambda piece: piece[4])
    data = Path(uri, file["path"]).read_bytes()
    last[4], last[5] = len(data) - 4, hashlib.sha256(data[-4:]).hexdigest()
    manifest.write_text(json.dumps(plain))
    with pytest.raises(DataError, match="another sha256"):
        Checkpoint.load(Store(), uri).fetch(last[0], last[1], last[2], last[2] + last[3])


def test_a_checkpoint_with_a_gap_is_never_used(tmp_path):
    saver = Saver(make_job(tmp_path).folder, 2, Ranks(0, 1, torch.device("cpu")), "a", lambda: None)
    saver.begin(TrainingProgress(step=1), list(slices(0, 2)))
    with pytest.raises(Exception, match="do not hold every value"):
        saver.settle()
    assert latest(saver.run) is None


@given(st.lists(st.integers(0, 50), unique=True), st.integers(1, 4), st.none() | st.integers(0, 50))
@examples(max_examples=50)
def test_no_more_is_kept_than_the_newest_and_the_best(steps, keep, best):
    found = kept(steps, keep, best)
    assert set(sorted(steps)[-keep:]) <= found <= set(steps)
    assert len(found) <= keep + (best is not None)
    assert best not in steps or best in found


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 5), st.sampled_from(["gap", "twice", "none"])
)
@examples(max_examples=50)
def test_files_are_complete_only_if_each_value_is_there_once(counts, victim, damage):
    victim %= len(counts)
    starts = np.cumsum([0, *counts])[:-1]
    pieces = [StateRange("p", "param", int(s), c, 0, "") for s, c in zip(starts, counts, strict=True)]
    match damage:
        case "gap":
            del pieces[victim]
        case "twice":
            pieces.append(pieces[victim])
    assert has_every_value({"p": (sum(counts),)}, [StateFile("f", 0, tuple(pieces))]) == (damage == "none")


def test_the_range_of_a_state_in_its_file_is_exact():
    pieces = {("b", "param", 0): np.arange(3, dtype=np.float32), ("a", "param", 4): np.ones(2, np.float32)}
    file, data = pack_file("f", pieces)
    assert len(data) == file.bytes and len(file.pieces) == 2
    for piece in file.pieces:
        found = np.frombuffer(data, np.float32, piece.count, piece.offset)
        assert found.tolist() == pieces[piece.name, piece.state, piece.start].tolist()


def test_a_file_is_the_one_that_safetensors_would_write():
    pieces = {
        ("b", "param", 0): np.arange(3, dtype=np.float32),
        ("ä.weight", "exp_avg", 4): np.ones(2, np.float32),
        ("a", "param", 12): np.zeros(0, np.float32),
    }
    file, data = pack_file("f", pieces)
    assert bytes(data) == save({"|".join(map(str, key)): values for key, values in pieces.items()})
    assert [piece.sha256 for piece in file.pieces] == [
        hashlib.sha256(pieces[piece.name, piece.state, piece.start].tobytes()).hexdigest() for piece in file.pieces
    ]


def test_other_threads_go_on_while_a_file_is_packed():
    """safetensors' `save` stops them for 0.15 s or more. Tried several times, since a busy machine stops them too."""
    pieces = {("w", "param", at): np.ones(8 << 20, np.float32) for at in range(8)}
    gaps = []
    for _ in range(8):
        with ThreadPoolExecutor(1) as pool:
            packing = pool.submit(pack_file, "f", pieces)
            last, longest = time.perf_counter(), 0.0
            while not packing.done():
                time.sleep(0.001)
                now = time.perf_counter()
                last, longest = now, max(longest, now - last)
        gaps.append(longest)
        if longest < 0.06:
            return
    raise AssertionError(f"longest stops: {gaps}")


def test_a_checkpoint_names_the_versions_of_the_packages_that_are_installed(tmp_path, monkeypatch):
    def version(name: str) -> str:
        if name == "deepspeed":
            raise PackageNotFoundError(name)
        return f"version of {name}"

    monkeypatch.setattr(saving, "version", version)
    manifest = json.loads(Path(write(make_job(tmp_path), 1), "manifest.json").read_text())
    others = {name: f"version of {name}" for name in ("torch", "transformers", "peft", "ray")}
    assert manifest["versions"] == {"raymill": cluster.__version__} | others


def test_a_copy_is_taken_so_that_training_may_go_on_at_once(tmp_path):
    weights = values("second", "param").clone()
    wanted = weights.clone()
    saver = Saver(make_job(tmp_path).folder, 2, Ranks(0, 1, torch.device("cpu")), "a", lambda: None)
    saver.begin(TrainingProgress(step=1), [StateSlice("second", "param", (7,), 0, weights)])
    weights.zero_()
    saver.settle()
    saver.close()
    assert np.array_equal(Checkpoint.load(Store(), saver.uri(1)).fetch("second", "param", 0, 7), wanted)


# --- training progress and log


def test_the_first_measure_of_an_untrained_model_is_never_the_best():
    progress = TrainingProgress().validated(1.0, 0.0)
    assert (progress.best, progress.evaluated) == (None, 0)
    progress = dataclasses.replace(progress, step=5).validated(2.0, 0.0)
    assert progress.best == Best(5, 2.0) and progress.improved


def test_a_loss_is_better_only_by_the_least_gain():
    progress = dataclasses.replace(TrainingProgress(step=1).validated(2.0, 0.1), step=2).validated(1.95, 0.1)
    assert (progress.best, progress.misses, progress.improved) == (Best(1, 2.0), 1, False)
    progress = dataclasses.replace(progress, step=3).validated(1.8, 0.1)
    assert (progress.best, progress.misses) == (Best(3, 1.8), 0)


def test_going_back_passes_over_every_step_up_to_the_broken_one():
    progress = TrainingProgress(step=4, updates=4, skipped=(1,)).skipping_to(7, 2)
    assert (progress.step, progress.updates, progress.skipped, progress.went_back) == (7, 4, (1, 5, 6, 7), 2)


def test_training_progress_survives_its_manifest():
    progress = TrainingProgress(9, 8, 6, Best(3, 1.5), 1, (4,), 1, 2.5)
    assert TrainingProgress.from_plain(json.loads(json.dumps(dataclasses.asdict(progress)))) == progress


def test_lines_after_the_restored_step_are_cut_off_and_none_is_lost_or_doubled(tmp_path):
    uri = str(tmp_path / "steps.jsonl")
    log = StepLog(Store(), uri, None, f"{tmp_path}/fit.json")
    for step in range(6):
        log.append({"step": step, "time": "t", "workers": 1})
    log.close()
    log = StepLog(Store(), uri, 3, f"{tmp_path}/fit.json")
    log.append({"step": 4, "time": "again", "workers": 1})
    log.flush()
    assert [(line["step"], line["time"]) for line in read_steps(Store(), uri)] == [
        (0, "t"),
        (1, "t"),
        (2, "t"),
        (3, "t"),
        (4, "again"),
    ]
    log.cut(1)
    log.close()
    assert [line["step"] for line in read_steps(Store(), uri)] == [0, 1]


def test_a_worker_that_runs_on_after_another_finished_the_training_leaves_its_lines(tmp_path):
    uri, outcome = str(tmp_path / "steps.jsonl"), str(tmp_path / "fit.json")
    suspended = StepLog(Store(), uri, None, outcome)
    suspended.append({"step": 0, "time": "first", "workers": 1})
    suspended.flush()
    other = StepLog(Store(), uri, 0, outcome)
    other.append({"step": 1, "time": "second", "workers": 1})
    other.close()
    Store().write_bytes(outcome, b"{}")
    suspended.append({"step": 1, "time": "first", "workers": 1})
    suspended.close()
    assert [(line["step"], line["time"]) for line in read_steps(Store(), uri)] == [(0, "first"), (1, "second")]


def test_a_training_that_starts_again_has_none_of_the_old_lines(tmp_path):
    uri = str(tmp_path / "steps.jsonl")
    Store().write_bytes(uri, b'{"step": 1, "time": "old", "workers": 1}\n')
    StepLog(Store(), uri, None, f"{tmp_path}/fit.json").close()
    assert list(read_steps(Store(), uri)) == []


def test_a_log_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    log = StepLog(Store(), str(tmp_path / "file" / "steps.jsonl"), None, str(tmp_path / "fit.json"))
    log._thread.join(10)
    with pytest.raises(Exception, match="A file stands where a folder was wanted"):
        log.append({"step": 1, "time": "t", "workers": 1})


def test_a_job_survives_its_file_and_leaves_secrets_out(tmp_path):
    storage_settings = {"access_key_id": "the-key", "secret_access_key": "the-secret", "region": "r"}
    config = fit_jobs.settings(str(tmp_path), storage=storage_settings)
    job = Job(config, TrainingFolder(config.store, "/run", {"data": "x"}), "/packed", ("a", "b"), 7)
    data = job.to_json()
    assert b"the-key" not in data and b"the-secret" not in data
    again = Job.from_json(data)
    assert again.config.storage.region == "r" and again.folder.fingerprint == job.folder.fingerprint

    def bare(job: Job) -> Job:
        config = job.config.model_copy(update={"storage": StorageOptions()})
        folder = dataclasses.replace(job.folder, store=Store())
        return dataclasses.replace(job, config=config, folder=folder, call="")

    assert bare(again) == bare(job)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("fit.json", read_outcome),
        ("evaluation.json", read_evaluation),
        ("manifest.json", lambda run: run.manifest_file.read()),
        ("pack.json", lambda run: manifest_file(run.store, run.uri).read()),
    ],
)
@pytest.mark.parametrize("content", [b"", b"[]", b'{"fingerprint": '])
def test_a_damaged_record_of_a_training_is_named_with_the_fix(tmp_path, name, read, content):
    run = make_job(tmp_path).folder
    assert read(run) is None
    run.store.write_bytes(f"{run.uri}/{name}", content)
    fixes = "Delete it|Choose another|If a run of Raymill wrote it, delete it"
    with pytest.raises(DataError, match=rf"{name}: not .*\. ({fixes})"):
        read(run)


def test_a_step_log_of_others_without_line_ends_takes_no_memory(tmp_path, monkeypatch):
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b'{"step": 1, "time": "t", "workers": 1}\n')
    assert [one["step"] for one in read_steps(Store(), str(path))] == [1]
    os.truncate(path, 1 << 40)  # a sparse file
    with pytest.raises(DataError, match=r"steps\.jsonl: a line that Raymill did not write"):
        list(read_steps(Store(), str(path)))
