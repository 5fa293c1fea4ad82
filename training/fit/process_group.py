"""Process groups of the workers, started by Ray Train, by torchrun or alone: rendezvous, devices and environment.

own_group   for a worker that torchrun started, or that runs alone
ray_group   for a worker that Ray Train started
"""

import gc
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from raymill.cluster.errors import ClusterError, ConfigError
from raymill.training.config_parts import TIMEOUT_S
from raymill.training.fit.ranks import Heartbeat, Ranks

_BACKENDS = {False: "gloo", True: "cpu:gloo,cuda:nccl"}  # by whether workers have GPUs

# The environment of a worker that runs alone. It is removed at the end, because libraries that find it start a process
# group.
_ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}


@contextmanager
def own_group(gpus_each: int, timeout_s: float = TIMEOUT_S) -> Iterator[Ranks]:
    """The process group of a worker that torchrun started, or that runs alone. It is destroyed at the end.

    Args:
        timeout_s: seconds to wait for the other workers, and for every collective.

    Raises:
        ConfigError: this machine has fewer GPUs than processes, or processes share a GPU.
        ClusterError: a worker did not arrive, or the GPUs cannot communicate.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if gpus_each:
        local_rank, local_world = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        device = torch.device("cuda", local_gpu(local_rank, local_world, torch.cuda.device_count()))
    _prepare(device)
    how: dict[str, Any] = {"rank": rank, "world_size": world, "timeout": timedelta(seconds=timeout_s)}
    added = [] if world > 1 else [name for name in _ALONE if name not in os.environ]
    if world > 1:
        store = _torchrun_store(rank, world, timeout_s)
        arrive(store, rank, world, timeout_s)
        dist.init_process_group(_BACKENDS[gpus_each > 0], store=store, **how)
    else:
        # DeepSpeed reads these before it looks for an existing group.
        os.environ |= _ALONE
        dist.init_process_group(_BACKENDS[gpus_each > 0], store=dist.HashStore(), **how)
    try:
        with _ranks(rank, world, device, timeout_s, under_ray=False) as ranks:
            yield ranks
    finally:
        _destroy_group()
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def ray_group(gpus_each: int, timeout_s: float) -> Iterator[Ranks]:
    """The process group of a worker that Ray Train started, with the environment that Ray's TorchConfig sets.

    After an error the group is not destroyed, because that waits for the other workers; Ray ends the process.

    Raises:
        ConfigError, ClusterError: as `own_group`.
    """
    import ray.train  # torchrun's workers need no Ray
    import ray.util
    from ray.train.collective import broadcast_from_rank_zero
    from ray.train.torch import get_device

    context = ray.train.get_context()
    device = get_device()
    rank, world = context.get_world_rank(), context.get_world_size()
    wait = timedelta(seconds=timeout_s)
    opened = None  # the first worker opens the store at a free port
    if rank == 0:
        opened = dist.TCPStore(ray.util.get_node_ip_address(), 0, world, True, timeout=wait, wait_for_workers=False)
    address, port = broadcast_from_rank_zero(opened and (opened.host, opened.port))
    store = opened or dist.TCPStore(address, port, world, False, timeout=wait, wait_for_workers=False)
    os.environ.update(ray_environment(context, device), MASTER_ADDR=address, MASTER_PORT=str(port))
    _prepare(device)
    arrive(store, rank, world, timeout_s)
    dist.init_process_group(_BACKENDS[gpus_each > 0], store=store, rank=rank, world_size=world, timeout=wait)
    with _ranks(rank, world, device, timeout_s, under_ray=True) as ranks:
        yield ranks
    _destroy_group()
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()  # export and evaluation follow in this process


def _destroy_group() -> None:
    """Destroy the process group, also where DTensor's cache of this thread holds it.

    Otherwise a fork in another thread, such as a child of a Guard, destroys it in the child, which hangs or crashes:
    Python clears the other threads there, and the group waits for threads that the child does not have.
    """
    dist.destroy_process_group()
    torch._C._clear_DTensor_sharding_propagator_cache()


def ray_environment(context: Any, device: torch.device) -> dict[str, str]:
    """The environment variables that Ray's TorchConfig sets for a worker, from Ray Train's context."""
    return {
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
        "ACCELERATE_TORCH_DEVICE": str(device),
    }


@contextmanager
def _ranks(rank: int, world: int, device: torch.device, timeout_s: float, under_ray: bool) -> Iterator[Ranks]:
    """The worker's ranks, with a heartbeat if there are several workers. First checks that their GPUs communicate."""
    heartbeat = Heartbeat(dist.distributed_c10d._get_default_store(), rank, world, timeout_s) if world > 1 else None
    try:
        ranks = Ranks(rank, world, device, under_ray, heartbeat)
        check_devices(ranks)
        yield ranks
    finally:
        if heartbeat:
            heartbeat.close()


def _torchrun_store(rank: int, world: int, timeout_s: float) -> dist.Store:
    """The store for the rendezvous: torchrun's, or under another launcher one that rank 0 opens.

    Raises:
        ConfigError: MASTER_ADDR or MASTER_PORT is not set.
        ClusterError: rank 0 cannot be reached there.
    """
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if not address or not port:
        raise ConfigError(
            f"WORLD_SIZE is {world}, and MASTER_ADDR or MASTER_PORT is not set. Start the workers with torchrun, which "
            "sets them, or set both to an address and a free port of rank 0's machine."
        )
    opens = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    wait = timedelta(seconds=timeout_s)
    try:
        store = dist.TCPStore(address, int(port), world, opens, timeout=wait, wait_for_workers=False)
    except RuntimeError as error:
        raise ClusterError(
            f"worker {rank} of {world}: rank 0 cannot be reached at MASTER_ADDR {address}, MASTER_PORT {port}, within "
            f"{timeout_s:g} s. Check that rank 0 was started and that this port is open between the machines."
        ) from error
    return dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def arrive(store: dist.Store, rank: int, world: int, timeout_s: float) -> None:
    """Wait until every worker has registered at the store.

    Raises:
        ClusterError: some workers did not within `timeout_s`; the message names them.
    """
    keys = [f"arrived/{one}" for one in range(world)]
    store.set(keys[rank], socket.gethostname())
    try:
        store.wait(keys, timedelta(seconds=timeout_s))
    except RuntimeError as error:
        here = {one: store.get(key).decode() for one, key in enumerate(keys) if store.check([key])}
        missing = [str(one) for one in range(world) if one not in here]
        arrived = ", ".join(f"{one} on {host}" for one, host in here.items())
        raise ClusterError(
            f"worker {rank} of {world}: {'ranks' if len(missing) > 1 else 'rank'} {', '.join(missing)} did not arrive "
            f"within {timeout_s:g} s; arrived are {arrived}. Check that {world} processes were started in all, and "
            "look at the logs of the missing ones."
        ) from error


def local_gpu(local_rank: int, local_world: int, gpus: int) -> int:
    """Index of this worker's GPU among the GPUs that the process can use. No two workers share a GPU.

    Raises:
        ConfigError: there are fewer GPUs than processes on this machine.
    """
    if not gpus:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise ConfigError(
            "workers.gpus_each is 1, and this process sees no GPU"
            + (f" (CUDA_VISIBLE_DEVICES={seen})" if seen is not None else "")
            + ". Check that nvidia-smi lists one and that this torch is built for CUDA, or set workers.gpus_each: 0."
        )
    if local_world <= gpus:
        return local_rank
    if gpus == 1:
        return 0  # the launcher gave every process one visible GPU; `check_devices` finds processes that share one
    raise ConfigError(
        f"{local_world} workers run on this machine, where they see {gpus} GPUs; each needs one of its own. Start "
        f"{gpus} workers: torchrun --nproc-per-node {gpus}."
    )


def check_devices(ranks: Ranks) -> None:
    """Check that no two workers share a GPU and that they can communicate, before a model is loaded.

    Raises:
        ConfigError: workers share a GPU.
        ClusterError: the first collective failed.
    """
    if ranks.device.type == "cuda":
        uuid = str(torch.cuda.get_device_properties(ranks.device).uuid)
        check_own_gpus(ranks.gather((socket.gethostname(), uuid)))
    ranks.reached("first collective")
    total = torch.ones((), device=ranks.device)
    try:
        dist.all_reduce(total)
        count = int(total.item())
    except RuntimeError as error:
        raise ClusterError(
            f"worker {ranks.rank} of {ranks.world} on {socket.gethostname()}: the first collective on {ranks.device} "
            f"failed ({' '.join(str(error).split())[:300]}). Between machines, set NCCL_SOCKET_IFNAME and "
            "GLOO_SOCKET_IFNAME to the interface they reach each other by; NCCL_DEBUG=INFO prints what NCCL tried."
        ) from error
    assert count == ranks.world, f"{count} of {ranks.world} workers took part in the first collective"


def check_own_gpus(gpus: Sequence[tuple[str, str]]) -> None:
    """Verify that no two ranks have the same GPU.

    Args:
        gpus: (host, UUID of the GPU) by rank.

    Raises:
        ConfigError: two ranks have the same GPU.
    """
    by_gpu: dict[tuple[str, str], list[str]] = {}
    for rank, gpu in enumerate(gpus):
        by_gpu.setdefault(gpu, []).append(str(rank))
    shared = [(host, uuid, ranks) for (host, uuid), ranks in by_gpu.items() if len(ranks) > 1]
    if shared:
        host, uuid, ranks = shared[0]
        raise ConfigError(
            f"ranks {', '.join(ranks)} share one GPU ({uuid} on {host}); every worker needs its own. Start as many "
            "workers on a machine as it has GPUs (torchrun --nproc-per-node), with LOCAL_RANK counting them from 0."
        )


_ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_EXPANDABLE = "expandable_segments:True"


def use_expandable_segments() -> None:
    """Set `expandable_segments` of torch's CUDA allocator, which reduces fragmentation by blocks of changing sizes.

    A setting in the environment has precedence. The allocator reads the environment when CUDA is initialised; under Ray
    Train that has happened before this call, so the setting is made in the allocator too.
    """
    if any(name in os.environ for name in _ALLOCATOR_SETTINGS):
        return
    os.environ["PYTORCH_ALLOC_CONF"] = _EXPANDABLE
    if torch.cuda.is_initialized():
        newer = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
        (newer or torch.cuda.memory._set_allocator_settings)(_EXPANDABLE)


# Settings of torch and NCCL for workers with GPUs, unless the environment has them.
# NCCL_DEBUG: WARN prints a message for every NCCL call that fails; by default nothing is printed
# (https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-debug).
# TORCH_NCCL_ASYNC_ERROR_HANDLING: a collective that fails or exceeds the timeout ends its process, which Ray Train or
# torchrun then starts again. 3 is torch's default and does not abort the communicator; Ray's TorchConfig sets 1, which
# does (https://docs.pytorch.org/docs/stable/torch_nccl_environment_variables.html). It is set explicitly, because
# workers would wait without end if torch's default changed. It is not set together with TORCH_NCCL_BLOCKING_WAIT, the
# other way to handle timeouts.
# As in TorchConfig, init_process_group gets no device_id, with which torch would make every further group by splitting
# the first one. `check_devices` connects the GPUs instead.
# TORCH_NCCL_DUMP_ON_TIMEOUT: torch would write its flight recorder to a file whose name can be guessed; hangs.py writes
# it to the run.
NCCL_ENVIRONMENT = {
    "NCCL_DEBUG": "WARN",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
}


def set_nccl_environment() -> None:
    """Set NCCL_ENVIRONMENT. Call it before the process group is made."""
    for name, value in NCCL_ENVIRONMENT.items():
        if not (name == "TORCH_NCCL_ASYNC_ERROR_HANDLING" and "TORCH_NCCL_BLOCKING_WAIT" in os.environ):
            os.environ.setdefault(name, value)


def _prepare(device: torch.device) -> None:
    if device.type == "cpu":
        # The workers of a machine share its cores, and the number of threads changes the bits of sums.
        torch.set_num_threads(1)
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    else:
        use_expandable_segments()
        set_nccl_environment()
        torch.cuda.set_device(device)


# The libraries read these variables when they are first used.
# cuBLAS: two workspaces of fixed size per stream; see "Results reproducibility" in its documentation.
# NCCL: NVLS, and between nodes NVLSTree, sum inside the NVLink switch in varying order. A list that begins with ^
# excludes its algorithms (https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-algo). torch's
# ProcessGroupNCCL and Megatron-LM's deterministic mode set ^NVLS; NVLSTree sums in the same way.
ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NCCL_ALGO": "^NVLS,NVLSTree"}


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Inside the context, if `wanted`, torch sums in a fixed order. An operator that cannot raises a RuntimeError.

    Enter it before the workers' first collective, when NCCL reads its setting. Variables of ENVIRONMENT are set unless
    the user has set them, and stay set. The backward passes of attention kernels, embeddings and indexing change, which
    otherwise use atomic additions. Allocated memory is not filled, because it is always written before it is read.
    """
    if not wanted:
        yield
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = before[3]
