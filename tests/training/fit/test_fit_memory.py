"""An attempt that runs out of memory: the next one computes half of the rows, or an error names the smallest change."""

from types import SimpleNamespace

import pytest
import torch

from raymill.cluster.errors import ClusterError, ConfigError
from raymill.training.fit import loop
from raymill.training.fit.memory import is_out_of_memory, with_rows_left_to_try
from raymill.training.models.cost import shape_of
from raymill.training.models.objective import NextToken
from raymill.training.plan.memory import smaller_change
from tests.benchmarks.gpu.workload import bench_config
from tests.support.fit_jobs import LENGTH, column, final_weights, fit_alone, pack_tiny, tiny_job


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("memory"))
    pack_tiny(folder)
    return folder


@pytest.fixture
def rows_that_fit(monkeypatch):
    """Sets the number of rows above which the model runs out of memory; lists the rows of each call."""
    forward, called = NextToken.forward, []
    limit = [1 << 30]

    def limited(self, input_ids, *arguments, **named):
        called.append(len(input_ids))
        if len(input_ids) > limit[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, input_ids, *arguments, **named)

    monkeypatch.setattr(NextToken, "forward", limited)

    def set_limit(rows):
        limit[0] = rows
        return called

    return set_limit


def test_after_running_out_of_memory_each_attempt_computes_half_of_the_rows_with_equal_results(root, rows_that_fit):
    whole = tiny_job(root, micro_batch=None, output=f"{root}/whole")
    wanted = fit_alone(whole)
    called = rows_that_fit(2)
    job = tiny_job(root, micro_batch=None, output=f"{root}/halved")
    for rows, left in ((8, 4), (4, 2)):
        with pytest.raises(ClusterError, match=f"{rows} rows of {LENGTH} tokens at once") as raised:
            fit_alone(job)
        assert f"The next start computes {left} at once, with equal results" in str(raised.value)
        assert not raised.value.is_final
    called.clear()
    found = fit_alone(job)
    assert max(called) == 2
    assert column(job, "loss") == pytest.approx(column(whole, "loss"), rel=1e-5)
    for name, values in final_weights(wanted).items():
        if name.endswith(".param"):
            assert final_weights(found)[name] == pytest.approx(values, abs=1e-4), name


@pytest.mark.parametrize(("given", "fits"), [(4, 2), (None, 0)])
def test_without_a_smaller_micro_batch_to_try_the_error_is_final_and_names_a_change(root, rows_that_fit, given, fits):
    rows_that_fit(fits)
    job = tiny_job(root, micro_batch=given, output=f"{root}/final-{given}")
    for _ in () if given else (8, 4, 2):
        with pytest.raises(ClusterError):
            fit_alone(job)
    with pytest.raises(ConfigError, match=f"{given or 1} rows? of {LENGTH} tokens at once") as raised:
        fit_alone(job)
    assert raised.value.is_final
    assert "The smallest change that fits: micro_batch: " in str(raised.value) or not given
    assert "No engine fits on 1 worker: use method lora" in str(raised.value) or given


def test_a_model_that_does_not_fit_is_not_tried_with_fewer_rows(root, monkeypatch):
    def too_large(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(loop, "make_engine", too_large)
    with pytest.raises(ConfigError, match=r"worker 0 ran out of memory before step 1\. No engine fits on 1 worker"):
        fit_alone(tiny_job(root, micro_batch=None, output=f"{root}/large"))


def test_rows_that_ran_out_of_memory_with_other_settings_are_tried_again(root, rows_that_fit):
    called = rows_that_fit(4)
    with pytest.raises(ClusterError, match="computes 4 at once"):
        fit_alone(tiny_job(root, micro_batch=None, output=f"{root}/other"))
    called.clear()
    with pytest.raises(ClusterError, match="computes 4 at once"):
        fit_alone(tiny_job(root, micro_batch=None, output=f"{root}/other", activation_checkpointing=True))
    assert max(called) == 8


def test_the_rows_left_to_try_are_for_an_equal_number_of_workers_and_no_more_than_fit(root, rows_that_fit):
    rows_that_fit(0)
    job = tiny_job(root, micro_batch=None, output=f"{root}/left")
    for _ in (8, 4):
        with pytest.raises(ClusterError):
            fit_alone(job)

    def rows(world: int, that_fit: int) -> int | None:
        ranks = SimpleNamespace(first=True, world=world, from_first=lambda value: value)
        return with_rows_left_to_try(job, job.config.model_copy(update={"micro_batch": that_fit}), ranks).micro_batch

    assert (rows(1, 8), rows(1, 1), rows(2, 8)) == (2, 1, 8)


def test_a_cpu_without_memory_is_recognised():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert not is_out_of_memory(RuntimeError("Connection reset by peer"))


@pytest.mark.parametrize(
    ("rows", "engine", "change"),
    [(4, "fsdp2", "micro_batch: 3"), (1, "fsdp2", "activation_checkpointing: selective"), (1, "ddp", "engine: zero1")],
)
def test_the_change_that_is_named_needs_clearly_less_memory_even_if_all_fits_by_the_estimate(rows, engine, change):
    config = bench_config(
        "8b", world=8, gpus=True, sequence_length=8192, micro_batch=rows, accumulation=1, engine=engine, steps=9,
        activation_checkpointing=engine == "ddp",
    )  # fmt: skip
    assert smaller_change(config, shape_of(config), 8) == f"The smallest change that fits: {change}."
