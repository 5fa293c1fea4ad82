"""Noise on the embeddings: its size, whom it depends on, and that evaluation has none."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers.integrations.neftune import neftune_post_forward_hook

from raymill.training.data.batch import Batch, collate
from raymill.training.data.packed import PACKED
from raymill.training.models.build import build_objective
from tests.support.fit_jobs import column, fit_alone, pack_tiny, tiny_job
from tests.support.tiny_models import tiny_config
from tests.support.training_cases import Case
from tests.support.ways_to_train import check_ways

CASE = Case()


def noise_of(batch: Batch, step: int = 0, seed: int = 1, alpha: float = 5.0) -> torch.Tensor:
    objective = build_objective(tiny_config(neftune_alpha=alpha, seed=seed))
    return objective.tensors(batch, "cpu", step)["noise"]


def batch_of(*rows: int, count: int = 0) -> Batch:
    tables = CASE.step_rows(0)
    return collate([tables[row] for row in rows], count or len(rows), 24, 0)


def test_the_noise_of_a_document_is_alpha_by_the_root_of_its_values_and_padding_has_none():
    batch = batch_of(0, 1, count=3)
    noise = noise_of(batch).numpy()
    for row, table in enumerate([CASE.step_rows(0)[0], CASE.step_rows(0)[1]]):
        start = 0
        for length in table["lengths"][0].as_py():
            values = noise[row, start : start + length]
            bound = 5.0 / np.sqrt(length * 32)
            assert 0.9 * bound < np.abs(values).max() <= bound
            assert np.abs(values.mean()) < bound / 2
            start += length
        assert start < 24 and not noise[row, start:].any()
    assert not noise[2].any()


def test_the_noise_of_a_row_depends_on_seed_step_and_row_and_not_on_the_rows_beside_it():
    alone, among = noise_of(batch_of(1), 3), noise_of(batch_of(0, 1, 2, count=5), 3)
    assert torch.equal(alone[0], among[1])
    assert not torch.equal(among[0], among[1])
    assert not torch.equal(alone, noise_of(batch_of(1), 4))
    assert not torch.equal(alone, noise_of(batch_of(1), 3, seed=2))


def test_a_row_of_one_document_has_the_bound_of_transformers():
    embedded = torch.zeros(1, 9, 32)
    module: Any = SimpleNamespace(training=True, neftune_noise_alpha=5.0)
    torch.manual_seed(0)
    theirs = neftune_post_forward_hook(module, None, embedded.clone())
    row = {"ids": [*range(1, 10)], "labels": [False] + [True] * 8, "lengths": [9], "documents": ["a"]}
    ours = noise_of(collate([pa.Table.from_pylist([row], PACKED)], 1, 9, 0))
    bound = 5.0 / np.sqrt(9 * 32)
    assert float(theirs.abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(ours.abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.1)


@pytest.mark.parametrize("method", ["full", "lora", "prompt", "prefix"])
def test_the_noise_is_added_to_the_embeddings_in_training_alone(method):
    config = tiny_config(method=method, neftune_alpha=50.0)
    objective, plain = build_objective(config), build_objective(config.model_copy(update={"neftune_alpha": None}))
    batch = collate(Case(packed=method in ("full", "lora")).step_rows(0)[:1], 1, 24, 0)

    def loss(whose: Any, step: int | None = None) -> float:
        return whose(**whose.tensors(batch, "cpu", step))[0].item()

    wanted, noisy = loss(plain, 0), loss(objective, 0)
    assert noisy != pytest.approx(wanted, rel=1e-4)
    assert loss(objective) == wanted, "evaluation has none, and none is left over"
    tensors = objective.tensors(batch, "cpu", 0)
    # The same as embeddings that have the noise already.
    embeddings = plain.causal.get_input_embeddings()
    embeddings.register_forward_hook(lambda module, inputs, output: output + tensors["noise"])
    assert loss(plain) == pytest.approx(noisy, rel=1e-6)


@pytest.fixture
def job_at(tmp_path):
    pack_tiny(str(tmp_path))
    return lambda name, **more: tiny_job(str(tmp_path), output=f"{tmp_path}/{name}", **more)


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_losses_with_noise_are_equal_by_every_way_to_train(job_at, engine):
    job, _ = check_ways(job_at, neftune_alpha=5.0, engine=engine)
    without = job_at("without", micro_batch=8, optimizer=job.config.optimizer)
    fit_alone(without)
    assert column(job, "loss")[0] != pytest.approx(column(without, "loss")[0], rel=1e-5)
    assert column(job, "validation")[0] == column(without, "validation")[0], "validation of step 0 has no noise"
