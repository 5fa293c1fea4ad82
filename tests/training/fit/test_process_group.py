"""A worker's device, its allocator, and the process group it joins."""

import logging
import os
import re
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist

from raymill.cluster.errors import ClusterError, ConfigError
from raymill.training.fit import process_group, ranks
from raymill.training.fit.process_group import arrive, check_own_gpus, local_gpu, own_group
from raymill.training.fit.ranks import Beat, Ranks, report
from tests.conftest import free_port
from tests.support.processes import wait_until
from tests.support.ranks import run_apart

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


@pytest.fixture
def allocator(monkeypatch):
    """An environment without settings, and an allocator without any."""
    for name in ALLOCATOR_VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    torch._C._accelerator_setAllocatorSettings("")
    yield
    torch._C._accelerator_setAllocatorSettings("")


def test_before_cuda_starts_the_environment_asks_for_expandable_segments(allocator):
    assert not torch.cuda.is_initialized()
    process_group.use_expandable_segments()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_where_cuda_runs_already_as_under_ray_train_the_allocator_itself_is_set(allocator, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    process_group.use_expandable_segments()
    assert torch._C._accelerator_getAllocatorSettings() == "expandable_segments:True"


@pytest.mark.parametrize("name", ALLOCATOR_VARIABLES)
def test_an_allocator_setting_of_the_users_stays(name, allocator, monkeypatch):
    monkeypatch.setenv(name, "max_split_size_mb:128")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    process_group.use_expandable_segments()
    assert {n: os.environ.get(n) for n in ALLOCATOR_VARIABLES if n in os.environ} == {name: "max_split_size_mb:128"}
    assert torch._C._accelerator_getAllocatorSettings() == ""


# What Ray Train's own TorchConfig would do


def test_a_worker_of_ray_has_the_environment_that_rays_torch_config_gives(monkeypatch):
    from types import SimpleNamespace

    import ray.train
    import ray.train.torch
    from ray.train.torch.config import _set_torch_distributed_env_vars

    numbers = {"world_rank": 5, "world_size": 16, "local_rank": 1, "local_world_size": 4, "node_rank": 2}
    context = SimpleNamespace(**{f"get_{name}": lambda value=value: value for name, value in numbers.items()})
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cuda:1"))
    given: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", given)
    _set_torch_distributed_env_vars()
    assert process_group.ray_environment(context, torch.device("cuda:1")) == given != {}


def test_a_failing_collective_of_nccl_ends_its_process_and_is_explained_unless_the_user_set_otherwise(monkeypatch):
    for given, wanted in (
        ({}, {"NCCL_DEBUG": "WARN", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0"}),
        (
            {"NCCL_DEBUG": "INFO", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1", "TORCH_NCCL_DUMP_ON_TIMEOUT": "1"},
            {},
        ),
        ({"TORCH_NCCL_BLOCKING_WAIT": "1"}, {"NCCL_DEBUG": "WARN", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0"}),
    ):
        monkeypatch.setattr(os, "environ", dict(given))
        process_group.set_nccl_environment()
        assert os.environ == given | wanted


def test_the_timeout_of_the_workers_equals_the_one_of_the_groups_collectives():
    with own_group(0, timeout_s=123):
        assert dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout.total_seconds() == 123


_A_GROUP_THAT_ENDS = """
import functools
import gc
import torch
from torch.distributed.tensor import DeviceMesh, DTensor, Shard, _redistribute, init_device_mesh
from raymill.training.fit.process_group import own_group
with own_group(0):
    shards = DTensor.from_local(torch.ones(4), init_device_mesh("cpu", (1,)), [Shard(0)])
    print((shards + shards).to_local().sum().item())
del shards
found = gc.get_objects()
for one in [one for one in found if isinstance(one, functools._lru_cache_wrapper)]:
    one.cache_clear()  # in a longer process, other meshes replace the entries
_redistribute.clear_redistribute_planner_cache()
gc.collect()
print(sum(type(one) is DeviceMesh for one in found))
del found, one
gc.collect()
print(sum(type(one) is DeviceMesh for one in gc.get_objects()))
"""


def test_nothing_holds_a_group_that_has_ended():
    """A child that another thread forked would end it, and wait for threads that are not there."""
    out = subprocess.run([sys.executable, "-c", _A_GROUP_THAT_ENDS], capture_output=True, text=True, timeout=300)
    assert out.stdout.split() == ["8.0", "1", "0"], out.stderr


# One process a GPU


@pytest.mark.parametrize(
    ("local_rank", "local_world", "gpus", "wanted"),
    [(0, 1, 1, 0), (3, 8, 8, 3), (1, 2, 8, 1), (5, 8, 1, 0)],  # the last: the launcher shows each its own alone
)
def test_a_rank_has_the_gpu_of_its_number_on_the_machine(local_rank, local_world, gpus, wanted):
    assert local_gpu(local_rank, local_world, gpus) == wanted


def test_more_workers_than_gpus_are_refused_with_the_number_to_start(monkeypatch):
    with pytest.raises(ConfigError, match=r"8 workers run on this machine.*4 GPUs.*--nproc-per-node 4"):
        local_gpu(2, 8, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match=r"sees no GPU \(CUDA_VISIBLE_DEVICES=\).*gpus_each: 0"):
        local_gpu(0, 1, 0)


def test_ranks_that_share_a_gpu_are_named():
    apart = [("a", "gpu-1"), ("a", "gpu-2"), ("b", "gpu-1")]
    check_own_gpus(apart)
    with pytest.raises(ConfigError, match=r"ranks 1, 3 share one GPU \(gpu-2 on a\)"):
        check_own_gpus([*apart, ("a", "gpu-2")])


# Workers that do not come, die or hang


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def test_a_worker_that_never_arrives_is_named(monkeypatch):
    for name, value in environment(0, 2, free_port()).items():
        monkeypatch.setenv(name, value)
    said = r"worker 0 of 2: rank 1 did not arrive within 0\.5 s; arrived are 0 on \w"
    with pytest.raises(ClusterError, match=said), own_group(0, timeout_s=0.5):
        pass
    assert not dist.is_initialized()


def test_all_that_do_not_arrive_are_named():
    store = dist.HashStore()
    store.set("arrived/2", "node-b")
    with pytest.raises(ClusterError, match=r"ranks 1, 3 did not arrive .*, 2 on node-b\."):
        arrive(store, 0, 4, timeout_s=0.1)


def test_without_rank_0_the_address_is_named(monkeypatch):
    port = free_port()
    for name, value in environment(1, 2, port).items():
        monkeypatch.setenv(name, value)
    said = rf"rank 0 cannot be reached at MASTER_ADDR 127\.0\.0\.1, MASTER_PORT {port}"
    with pytest.raises(ClusterError, match=said), own_group(0, timeout_s=0.5):
        pass
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(ConfigError, match=r"MASTER_PORT is not set.*torchrun"), own_group(0):
        pass


def work_until_a_worker_is_lost(how: str, timeout_s: float) -> str:
    """As two workers would: rank 1 is lost at its second step. What rank 0 raises."""
    ranks.EVERY_S, ranks._REPORT_AT = 0.3, 0.4
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    ranks.log.addHandler(handler)
    with own_group(0, timeout_s) as own:
        for step in range(1, 4):
            own.reached(f"step {step}, reading rows")
            if own.rank == 1 and step == 2:
                time.sleep(0.7 if how == "dies" else 8)
                os._exit(7)
            own.reached(f"step {step}, counts")
            try:
                with own.naming_failed_workers():
                    own.exchange([step])
            except ClusterError as error:
                return "\n".join([str(error), *logged])
    return "nothing was raised"


@pytest.mark.parametrize(
    ("how", "timeout_s", "said"),
    [
        ("dies", 60.0, r"worker 0 of 2: communication failed at 'step 2, counts' .*"
                       r"Missing: rank 1 on \S+ \(stopped; last seen at 'step 2, reading rows'\)"),
        ("hangs", 4.0, r"communication failed at 'step 2, counts' .*"
                       r"Missing: rank 1 on \S+ \(alive, still at 'step 2, reading rows'\)"),
    ],
)  # fmt: skip
def test_a_worker_that_is_lost_is_named_by_the_others(how, timeout_s, said):
    port = free_port()
    told, end = run_apart([environment(rank, 2, port) for rank in (0, 1)], work_until_a_worker_is_lost, how, timeout_s)
    assert re.search(said, told)
    assert end == 7
    if how == "hangs":
        # Before the timeout, the thread has logged the same: NCCL would end the process without raising.
        assert re.search(r"no progress for \d s at 'step 2, counts'\. Missing: rank 1 on .*still at", told)


def test_a_main_thread_that_continues_while_the_others_are_looked_at_is_not_reported(monkeypatch):
    reported = []
    monkeypatch.setattr(ranks, "EVERY_S", 0.01)
    monkeypatch.setattr(ranks.log, "error", lambda *said: reported.append(said))

    class GoesOn(ranks.Heartbeat):
        def _read(self):
            self.timeout_s = 60.0
            self.reached("step 1, counts")
            return super()._read()

    alone = GoesOn(dist.HashStore(), 0, 1, timeout_s=0.0)
    assert wait_until(lambda: alone._point == "step 1, counts" and alone._number > 20, 30)
    alone.close()
    assert reported == []


def beats(*counts: int, number: int = 1) -> dict[int, Beat]:
    return {r: Beat(number=number, count=c, point=f"point {c}", host=f"n{r}") for r, c in enumerate(counts)}


def test_stopped_workers_are_named_before_those_that_wait_for_them():
    before = beats(5, 4, 4)
    now = beats(5, 4, 4, number=2) | {2: before[2]}
    assert report(before, now, 0, 3, 5) == "Missing: rank 2 on n2 (stopped; last seen at 'point 4')."
    assert report(before, beats(5, 4, 5, number=2), 0, 3, 5) == "Missing: rank 1 on n1 (alive, still at 'point 4')."
    assert "rank 3 (never started)" in report(before, beats(5, 5, 5, number=2), 0, 4, 5)


def test_a_store_that_cannot_be_reached_equals_the_one_of_a_process_that_has_ended(monkeypatch):
    alone = ranks.Heartbeat(dist.HashStore(), 0, 2, 60.0)
    alone.close()
    (own,) = alone._read().values()
    assert (own["number"], own["count"], own["point"]) == (1, 0, "start")
    gone = "Missing: the process that holds the group's store"
    assert alone._report(None).startswith(gone)
    monkeypatch.setattr(ranks.Heartbeat, "_read", lambda self: None)
    assert alone._report({}).startswith(gone)


def test_where_all_reached_the_same_point_the_network_is_to_blame():
    assert "NCCL_DEBUG=INFO" in report(beats(5, 5), beats(5, 5, number=2), 0, 2, 5)


@pytest.mark.parametrize(
    ("error", "communicates"),
    [
        (dist.DistNetworkError("refused"), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.1]:3"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_only_errors_of_communication_are_explained_by_missing_workers(error, communicates):
    alone = Ranks(0, 2, torch.device("cpu"), heartbeat=Named())
    with pytest.raises(ClusterError if communicates else type(error)), alone.naming_failed_workers():
        raise error


class Named:
    def missing(self, error):
        return ClusterError("named")
