"""`deterministic: true` sets what equal bits need on a GPU, for the time of a training."""

import os

import pytest
import torch

from raymill.cluster.errors import ClusterError
from raymill.cluster.store.store import Store
from raymill.training.fit import __main__
from raymill.training.fit.process_group import ENVIRONMENT, deterministic_algorithms
from tests.support.fit_jobs import final_weights, fit_alone, pack_tiny, tiny_job


def state() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory


@pytest.fixture
def environment(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)


def test_it_holds_inside_and_is_undone_even_by_an_error(environment):
    before = state()
    with pytest.raises(ZeroDivisionError), deterministic_algorithms(True):
        assert state() == (True, False)
        assert {name: os.environ[name] for name in ENVIRONMENT} == ENVIRONMENT
        raise ZeroDivisionError
    assert state() == before


def test_without_it_nothing_changes_and_a_users_own_environment_holds(environment, monkeypatch):
    before = state()
    with deterministic_algorithms(False):
        assert state() == before
        assert not set(ENVIRONMENT) & set(os.environ)
    monkeypatch.setenv("NCCL_ALGO", "Ring")
    with deterministic_algorithms(True):
        assert os.environ["NCCL_ALGO"] == "Ring"


def test_a_training_runs_under_it_and_comes_to_the_weights_it_comes_to_without(environment, tmp_path):
    pack_tiny(str(tmp_path))
    found = []
    for wanted in (True, False):
        with deterministic_algorithms(wanted):
            found.append(final_weights(fit_alone(tiny_job(str(tmp_path), output=f"{tmp_path}/{wanted}"))))
    assert all((found[0][name] == found[1][name]).all() for name in found[0])


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("under_ray", [True, False])
def test_it_holds_before_the_workers_meet_since_nccl_reads_its_setting_then(
    under_ray, wanted, environment, monkeypatch, tmp_path
):
    class Enough(Exception):
        pass

    met = []

    def group(*_):
        met.append((state()[0], os.environ.get("NCCL_ALGO")))
        raise Enough

    monkeypatch.setattr(__main__, "ray_group", group)
    monkeypatch.setattr(__main__, "own_group", group)
    pack_tiny(str(tmp_path))
    job = tiny_job(str(tmp_path), deterministic=wanted)
    Store().write_bytes(f"{tmp_path}/job.json", job.to_json())
    with pytest.raises(Enough):
        __main__.fit_in_worker(job, "a", None) if under_ray else __main__.main([f"{tmp_path}/job.json"])
    assert met == [(wanted, "^NVLS,NVLSTree" if wanted else None)]
    assert not state()[0]


@pytest.mark.parametrize("under_ray", [True, False])
def test_workers_wait_for_each_other_as_long_as_the_config_says(under_ray, monkeypatch, tmp_path):
    waited = []

    def group(gpus_each: int, timeout_s: float):
        waited.append((gpus_each, timeout_s))
        raise ClusterError("rank 1 did not arrive")

    monkeypatch.setattr(__main__, "ray_group", group)
    monkeypatch.setattr(__main__, "own_group", group)
    pack_tiny(str(tmp_path))
    job = tiny_job(str(tmp_path), workers={"timeout_s": 77})
    Store().write_bytes(f"{tmp_path}/job.json", job.to_json())
    if under_ray:
        with pytest.raises(ClusterError):
            __main__.fit_in_worker(job, "a", None)
    else:
        assert __main__.main([f"{tmp_path}/job.json"]) == ClusterError.exit_code
    assert waited == [(0, 77)]


def test_a_run_may_be_continued_with_it_that_began_without(tmp_path):
    pack_tiny(str(tmp_path))
    assert tiny_job(str(tmp_path), deterministic=True).folder == tiny_job(str(tmp_path)).folder
