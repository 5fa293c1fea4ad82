"""The end of a training: the export comes before the evaluation, which is capped and may fail without harm."""

import dataclasses

import pytest
import torch
from safetensors import safe_open

from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.evaluation.job import evaluate
from raymill.training.export import job as export_job
from raymill.training.models.base import base_dtype, load_base
from raymill.training.pack.packed_run import PackedRun
from raymill.training.records.finished import finished_export, finished_export_and_evaluation
from tests.support.export_runs import LLAMA, make_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    made = make_run(tmp_path, steps=1)
    monkeypatch.setattr(PackedRun, "load", lambda *_: made.packed)
    return made


def card_of(run) -> str:
    return (run.export / "adapter" / "README.md").read_text()


def test_a_model_that_cannot_be_evaluated_for_lack_of_memory_is_exported_and_the_run_ends(run, monkeypatch):
    def too_large(*_, **named):
        assert finished_export(run.job, run.outcome) is not None
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("raymill.training.evaluation.job.initial_objective", too_large)
    manifest = export_job.export_and_evaluate(run.job, run.outcome)
    assert finished_export_and_evaluation(run.job, run.outcome) == manifest
    assert set(manifest["folders"]) == {"adapter", "merged", "base"}
    assert "no held-out documents were measured before training" in card_of(run)


def test_an_evaluation_that_fails_leaves_the_export_and_the_next_call_evaluates_only(run, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(export_job, "evaluate", lambda *_: 1 / 0)
        export_job.export_and_evaluate(run.job, run.outcome)
    assert finished_export(run.job, run.outcome) is not None
    assert finished_export_and_evaluation(run.job, run.outcome) is None
    assert "Held out, before and after training" not in card_of(run)
    weights = (run.export / "merged" / "model.safetensors").stat().st_mtime_ns
    manifest = export_job.export_and_evaluate(run.job, run.outcome)
    assert finished_export_and_evaluation(run.job, run.outcome) == manifest
    assert (run.export / "merged" / "model.safetensors").stat().st_mtime_ns == weights
    assert "Held out, before and after training" in card_of(run)


def test_a_limited_number_of_tokens_of_the_test_split_are_measured(tmp_path):
    run = make_run(tmp_path, steps=1, evaluate={"test_tokens": 100})
    evaluation = evaluate(run.job, run.outcome, run.packed)
    counted = run.packed.packed("test")
    assert counted["tokens/test"] > 200
    assert 0 < evaluation["after"]["test"]["label_tokens"] < counted["label_tokens/test"]
    [note] = evaluation["notes"]
    rows = int(counted["rows/test"])
    assert f"of {rows} rows were measured (evaluate.test_tokens: 100; null: all)." in note
    whole = run.job.config.evaluate.model_copy(update={"test_tokens": None})
    job = dataclasses.replace(run.job, config=run.job.config.model_copy(update={"evaluate": whole}))
    evaluation = evaluate(job, run.outcome, run.packed)
    assert evaluation["after"]["test"]["label_tokens"] == counted["label_tokens/test"]
    assert evaluation["notes"] == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_exported_weights_have_the_number_type_of_the_bases_files(tmp_path, dtype):
    base = load_base(Store(), Model(config=LLAMA, tokenizer="train"), 1, getattr(torch, dtype), None)
    base.save_pretrained(tmp_path / "base")
    assert base_dtype(Store(), Model(name=str(tmp_path / "base"))) == dtype
    run = make_run(tmp_path, steps=1, model={"name": str(tmp_path / "base"), "tokenizer": "train"})
    manifest = export_job.export(run.job, run.outcome, run.packed)
    assert manifest["dtype"] == dtype
    with safe_open(run.export / "merged" / "model.safetensors", "pt") as file:
        found = {str(file.get_tensor(name).dtype) for name in file.keys()}  # noqa: SIM118  # it is no dict
    assert found == {f"torch.{dtype}"}
