"""Every engine as each of 256 ranks of a process group, most of them with empty shards: build, step, checkpoint,
restore, export.

zero3 takes a third of a second a rank, so it is four of the ranks, which restore a checkpoint that 256 of ddp wrote.
"""

import os
from itertools import product
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from raymill.cluster.record import json_bytes
from raymill.cluster.store.store import Store
from raymill.training.data.batch import collate
from raymill.training.data.packed import PackedRows
from raymill.training.engines import make_engine
from raymill.training.engines.engine import STATES
from raymill.training.export.job import export_checkpoint
from raymill.training.fit.checkpoint import Saver
from raymill.training.fit.ranks import Ranks
from raymill.training.models.build import build_objective
from raymill.training.pack.packed_run import PackedRun
from raymill.training.records import checkpoint as records
from raymill.training.records.checkpoint import Checkpoint
from raymill.training.records.schema import TrainingProgress
from tests.support.export_runs import LENGTH, Run, make_run
from tests.support.ranks import run_apart
from tests.support.sampled import sampled

WORLD = 256
RESTORED = (0, 1, 100, 255)
STEP = 7
CPU = torch.device("cpu")


def built(run: Run, engine: str):
    config = run.job.config.model_copy(update={"engine": engine})
    objective = build_objective(config, 0, as_stored=False)
    return objective, make_engine(config, objective, CPU)


def values_of(engine) -> dict[tuple, np.ndarray]:
    return {(one.name, one.state, one.start): one.values.clone().reshape(-1).numpy() for one in engine.slices()}


def train_save_and_restore(run: Run, engine_name: str) -> dict:
    """What each rank has after a step, as numbers of values; and the checkpoint that all ranks wrote."""
    from tests.support.fake_ranks import fake_rank, without_answers

    torch.set_num_threads(1)
    without_answers()
    records.LISTED_PIECES = 0  # as with millions of pieces
    rows = PackedRows(run.packed.corpora["test"]["train"])
    batch = collate(rows.read(range(2)), 2, LENGTH, 0)
    counts, kept, norms = [], {}, []
    first = Saver(run.job.folder, 2, Ranks(0, WORLD, CPU), "all", lambda: None)  # deletes unfinished checkpoints
    writes = "ddp" if engine_name == "zero3" else engine_name
    for rank in reversed(range(WORLD)):
        with fake_rank(rank, WORLD):
            objective, engine = built(run, writes)
            norms.append(step(engine, objective, batch))
            saver = Saver(run.job.folder, 2, Ranks(rank, WORLD, CPU), "all", lambda: None) if rank else first
            saver.begin(TrainingProgress(step=STEP, updates=1), engine.slices())
            saver._upload.result()
            saver.on_counts(0, committed=False)
            if rank == 0:
                saver._commit.result()
            saver.close()
            found = values_of(engine)
            counts.append(sum(map(len, found.values())))
            if rank in RESTORED and writes == engine_name:
                kept[rank] = found
            engine.close()
    uri = saver.uri(STEP)
    same = {}
    for rank in RESTORED:
        with fake_rank(rank, WORLD):
            objective, engine = built(run, engine_name)
            checkpoint = Checkpoint.load(Store(), uri)
            engine.load(lambda *of, checkpoint=checkpoint: torch.from_numpy(checkpoint.fetch(*of)), 1)
            found = values_of(engine)
            saved = {key: checkpoint.fetch(*key, key[2] + len(found[key])) for key in found}
            wanted = kept.get(rank, saved)
            same[rank] = found.keys() == wanted.keys() and all(np.array_equal(found[key], wanted[key]) for key in found)
            if rank in kept:
                assert len(checkpoint._lists) <= 1, "a rank reads its own list"
            norms.append(step(engine, objective, batch))
            engine.close()
    return {"uri": uri, "counts": counts[::-1], "same": same, "norms": norms}


def step(engine, objective, batch) -> float:
    loss, _ = engine.module(**objective.tensors(batch, CPU))
    engine.backward(loss / 1000, last=True)
    return engine.step(1e-3, 1.0)


@pytest.mark.parametrize(
    ("engine", "method"), sampled(product(["ddp", "zero1", "zero2", "zero3", "fsdp2"], ["full", "lora"]), 3)
)
def test_each_of_256_ranks_trains_saves_and_restores_and_the_checkpoint_is_exported(
    tmp_path, monkeypatch, engine, method
):
    run = make_run(tmp_path, method, steps=1)
    [found] = run_apart([{"DS_ACCELERATOR": "cpu"}], train_save_and_restore, run, engine)
    assert all(found["same"].values())
    if engine != "zero3":  # its forward pass computes with weights that nobody gathered
        assert all(np.isfinite(found["norms"]))
    checkpoint = Checkpoint.load(Store(), found["uri"])
    assert len(checkpoint.manifest.parts) == checkpoint.manifest.world == WORLD
    assert sum(found["counts"]) == len(STATES) * sum(map(prod, checkpoint.shapes.values()))
    if engine == "fsdp2":
        assert found["counts"].count(0) > 0, "ranks without a value"
    start = {
        "attempt": "all", "time": "2026-01-01T00:00:00", "workers": WORLD, "step": 0, "trainable_parameters": 1,
        "all_parameters": 1, "attention": "sdpa", "attention_warning": None,
    }  # fmt: skip
    Store().write_bytes(f"{run.job.folder.attempts}/1.json", json_bytes(start))
    monkeypatch.setattr(PackedRun, "load", lambda *_: run.packed)
    root, folders = export_checkpoint(run.job, STEP)
    exported = load_file(Path(root, "full", "model.safetensors") if method == "full" else
                         Path(root, "adapter", "adapter_model.safetensors"))  # fmt: skip
    for name, shape in checkpoint.shapes.items():
        stored = name.removeprefix("model.").replace(".default", "")
        values = torch.from_numpy(checkpoint.fetch(name, "param", 0, prod(shape))).view(shape)
        assert torch.equal(exported[stored], values)
    assert folders[0] == ("full" if method == "full" else "adapter") and os.path.isdir(root)
