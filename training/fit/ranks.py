"""Where this process stands among the workers, and what they tell each other besides gradients.

Small counts go around as whole numbers on the CPU, by gloo even where gradients go by NCCL: a GPU is never waited for.
"""

import gc
import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from cluster.errors import ClusterError, ConfigError
from training.config_parts import TIMEOUT_S
from training.fit.heartbeat import Heartbeat, is_communication_error

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """rank of world workers. `under_ray`: Ray Train started this process and hears of nodes to be taken away.

    heartbeat: where there are other workers; it names those that are missing when a collective fails.
    """

    rank: int
    world: int
    device: torch.device
    under_ray: bool = False
    heartbeat: Heartbeat | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def at(self, point: str) -> None:
        """All workers come to this point of the training, in the same order; see heartbeat.py."""
        if self.heartbeat:
            self.heartbeat.at(point)

    @contextmanager
    def naming_missing(self) -> Iterator[None]:
        """Around collectives, the engine's too.

        Raises:
            ClusterError: communication failed; with the workers at fault.
        """
        try:
            yield
        except RuntimeError as error:
            if self.heartbeat is None or not is_communication_error(error):
                raise
            raise self.heartbeat.missing(error) from error

    def exchange(self, values: Sequence[float], dtype: torch.dtype = torch.int64) -> list[list[Any]]:
        """Every worker's values, by rank; whole numbers must stay below 2**63."""
        mine = torch.tensor(values, dtype=dtype)
        if self.world == 1:
            return [mine.tolist()]
        everyone = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(everyone, mine)
        return [one.tolist() for one in everyone]

    def exchange_floats(self, values: Sequence[float]) -> list[list[float]]:
        return self.exchange(values, torch.float64)

    def from_first(self, value: T) -> T:
        """The first worker's value, on every worker."""
        told = [value]
        if self.world > 1:
            dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
        return told[0]

    def gather(self, value: T) -> list[T]:
        """Every worker's value, by rank, on every worker. For rare and larger things."""
        everyone: list[Any] = [value] * self.world
        if self.world > 1:
            data = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
            sizes = [size for (size,) in self.exchange([data.numel()])]
            padded = torch.zeros(max(sizes), dtype=torch.uint8)
            padded[: data.numel()] = data
            parts = [torch.empty_like(padded) for _ in range(self.world)]
            dist.all_gather(parts, padded)
            everyone = [pickle.loads(part[:size].numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)]
        return everyone


BACKENDS = {False: "gloo", True: "cpu:gloo,cuda:nccl"}  # by whether workers have GPUs


@contextmanager
def own_group(gpus_each: int, timeout_s: float = TIMEOUT_S) -> Iterator[Place]:
    """A process group for a worker that torchrun started, or that runs alone; gone at the end.

    timeout_s: of waiting for the other workers, at the start and in every collective.

    Raises:
        ConfigError: the processes of this machine and its GPUs do not go together.
        ClusterError: a worker did not arrive, or the GPUs cannot communicate.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = _own_device(gpus_each)
    _prepare(device)
    how: dict[str, Any] = {"rank": rank, "world_size": world, "timeout": timedelta(seconds=timeout_s)}
    if world > 1:
        store = _torchrun_store(rank, world, timeout_s)
        arrive(store, rank, world, timeout_s)
        dist.init_process_group(BACKENDS[gpus_each > 0], store=store, **how)
    else:
        # DeepSpeed looks at these before it looks for a group.
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
        dist.init_process_group(BACKENDS[gpus_each > 0], store=dist.HashStore(), **how)
    try:
        with _watched(rank, world, device, timeout_s, under_ray=False) as place:
            yield place
    finally:
        dist.destroy_process_group()


@contextmanager
def ray_group(gpus_each: int, timeout_s: float) -> Iterator[Place]:
    """A process group for a worker that Ray Train started, with the environment that Ray's TorchConfig would set.

    After an error the group stays: who destroys one waits for the other workers, and Ray ends this process anyway.

    Raises:
        ConfigError, ClusterError: as `own_group`.
    """
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    device = get_device()
    rank, world = context.get_world_rank(), context.get_world_size()
    store, address, port = _first_workers_store(rank, world, timeout_s)
    os.environ.update(ray_environment(context, device), MASTER_ADDR=address, MASTER_PORT=str(port))
    _prepare(device)
    arrive(store, rank, world, timeout_s)
    how: dict[str, Any] = {"rank": rank, "world_size": world, "timeout": timedelta(seconds=timeout_s)}
    dist.init_process_group(BACKENDS[gpus_each > 0], store=store, **how)
    with _watched(rank, world, device, timeout_s, under_ray=True) as place:
        yield place
    dist.destroy_process_group()
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()  # for what comes after the fit


def ray_environment(context: Any, device: torch.device) -> dict[str, str]:
    """What libraries look for in a worker's environment, from Ray Train's context: equal to what TorchConfig sets."""
    return {
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
        "ACCELERATE_TORCH_DEVICE": str(device),
    }


def _first_workers_store(rank: int, world: int, timeout_s: float) -> tuple[dist.Store, str, int]:
    """A store that the first worker opens at a free port, and its address, which goes to the others through Ray."""
    import ray.util
    from ray.train.collective import broadcast_from_rank_zero

    wait = timedelta(seconds=timeout_s)
    opened = None
    if rank == 0:
        opened = dist.TCPStore(ray.util.get_node_ip_address(), 0, world, True, timeout=wait, wait_for_workers=False)
    address, port = broadcast_from_rank_zero(opened and (opened.host, opened.port))
    return opened or dist.TCPStore(address, port, world, False, timeout=wait, wait_for_workers=False), address, port


def joined_place() -> Place:
    """A worker of whatever process group this process is in, on the CPU."""
    return Place(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))


@contextmanager
def _watched(rank: int, world: int, device: torch.device, timeout_s: float, under_ray: bool) -> Iterator[Place]:
    """The place of a worker, with a heartbeat where there are others, once its GPU was found to reach theirs."""
    heartbeat = Heartbeat(dist.distributed_c10d._get_default_store(), rank, world, timeout_s) if world > 1 else None
    try:
        place = Place(rank, world, device, under_ray, heartbeat)
        check_devices(place)
        yield place
    finally:
        if heartbeat:
            heartbeat.close()


def _torchrun_store(rank: int, world: int, timeout_s: float) -> dist.Store:
    """The store that the workers meet at: torchrun's, or one that rank 0 opens where another launcher was used.

    Raises:
        ConfigError, ClusterError: there is no address, or nothing answers there.
    """
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if not address or not port:
        raise ConfigError(
            f"WORLD_SIZE is {world}, and MASTER_ADDR or MASTER_PORT is not set. Start the workers with torchrun, which "
            "sets them, or set both to an address of rank 0's machine."
        )
    opens = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    wait = timedelta(seconds=timeout_s)
    try:
        store = dist.TCPStore(address, int(port), world, opens, timeout=wait, wait_for_workers=False)
    except RuntimeError as error:
        raise ClusterError(
            f"worker {rank} of {world}: rank 0 cannot be reached at MASTER_ADDR {address}, MASTER_PORT {port}, within "
            f"{timeout_s:g} s. Start rank 0 too, and see that this port is open between the machines."
        ) from error
    return dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def arrive(store: dist.Store, rank: int, world: int, timeout_s: float) -> None:
    """Wait until every worker has come to the store.

    Raises:
        ClusterError: naming those that did not come in time.
    """
    keys = [f"arrived/{one}" for one in range(world)]
    store.set(keys[rank], socket.gethostname())
    try:
        store.wait(keys, timedelta(seconds=timeout_s))
    except RuntimeError as error:
        here = {one: store.get(key).decode() for one, key in enumerate(keys) if store.check([key])}
        missing = [str(one) for one in range(world) if one not in here]
        came = ", ".join(f"{one} on {host}" for one, host in here.items())
        raise ClusterError(
            f"worker {rank} of {world}: {'ranks' if len(missing) > 1 else 'rank'} {', '.join(missing)} did not arrive "
            f"within {timeout_s:g} s; here are {came}. See that as many processes were started on every machine as "
            "WORLD_SIZE counts, and look at the log of those that are missing."
        ) from error


def _own_device(gpus_each: int) -> torch.device:
    if not gpus_each:
        return torch.device("cpu")
    local_rank, local_world = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return torch.device("cuda", local_gpu(local_rank, local_world, torch.cuda.device_count()))


def local_gpu(local_rank: int, local_world: int, gpus: int) -> int:
    """Which of the GPUs that this process sees is this worker's: one process a GPU.

    Raises:
        ConfigError: there are fewer GPUs than processes.
    """
    if not gpus:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise ConfigError(
            "workers.gpus_each is 1, and this process sees no GPU"
            + (f" (CUDA_VISIBLE_DEVICES={seen})" if seen is not None else "")
            + ". See that nvidia-smi lists one and that this torch is built for CUDA, or set workers.gpus_each: 0."
        )
    if local_world <= gpus:
        return local_rank
    if gpus == 1:
        return 0  # a launcher that shows every process its own GPU alone; `check_devices` finds any other case
    raise ConfigError(
        f"{local_world} workers run on this machine, which shows them {gpus} GPUs; each needs one of its own. Start "
        f"{gpus} of them: torchrun --nproc-per-node {gpus}."
    )


def check_devices(place: Place) -> None:
    """See that every worker has a GPU of its own and that they can communicate, before a model is loaded.

    Raises:
        ConfigError: workers share a GPU. ClusterError: the first collective failed.
    """
    if place.device.type == "cuda":
        uuid = str(torch.cuda.get_device_properties(place.device).uuid)
        check_own_gpus(place.gather((socket.gethostname(), uuid)))
    place.at("first collective")
    total = torch.ones((), device=place.device)
    try:
        dist.all_reduce(total)
        count = int(total.item())
    except RuntimeError as error:
        raise ClusterError(
            f"worker {place.rank} of {place.world} on {socket.gethostname()}: the first collective on {place.device} "
            f"failed ({' '.join(str(error).split())[:300]}). Between machines, set NCCL_SOCKET_IFNAME and "
            "GLOO_SOCKET_IFNAME to the interface they reach each other by; NCCL_DEBUG=INFO prints what NCCL tried."
        ) from error
    assert count == place.world, f"{count} of {place.world} workers took part in the first collective"


def check_own_gpus(gpus: Sequence[tuple[str, str]]) -> None:
    """gpus: (host, unique id of the GPU) by rank.

    Raises:
        ConfigError: two ranks have the same one.
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
    """Let the GPU's allocator grow its segments, so that blocks of changing sizes leave no unusable gaps.

    A setting of the user's, in the environment, stays as it is. The allocator reads the environment when CUDA is
    initialised; under Ray Train that has happened before this code runs, and the setting is made in the allocator.
    """
    if any(name in os.environ for name in _ALLOCATOR_SETTINGS):
        return
    os.environ["PYTORCH_ALLOC_CONF"] = _EXPANDABLE
    if torch.cuda.is_initialized():
        newer = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
        (newer or torch.cuda.memory._set_allocator_settings)(_EXPANDABLE)


# Of torch and NCCL where workers have GPUs, unless the user's environment has them.
# NCCL_DEBUG: WARN prints an explicit message for every NCCL call that fails, and nothing is printed without it
# (https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-debug).
# TORCH_NCCL_ASYNC_ERROR_HANDLING: a collective that fails or exceeds the timeout ends its process, which Ray Train or
# torchrun then starts again. 3 is torch's default and leaves the communicator as it is; Ray's TorchConfig sets 1, which
# aborts it first (https://docs.pytorch.org/docs/stable/torch_nccl_environment_variables.html). It is set so that no
# other default of torch can leave workers waiting. A user who sets TORCH_NCCL_BLOCKING_WAIT chose the other way.
# init_process_group's device_id is left out, as in TorchConfig: `check_devices` connects at once, and with it torch
# would make every further group by splitting.
NCCL_ENVIRONMENT = {"NCCL_DEBUG": "WARN", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3"}


def set_nccl_environment() -> None:
    """Before the process group is made."""
    for name, value in NCCL_ENVIRONMENT.items():
        if not (name == "TORCH_NCCL_ASYNC_ERROR_HANDLING" and "TORCH_NCCL_BLOCKING_WAIT" in os.environ):
            os.environ.setdefault(name, value)


def _prepare(device: torch.device) -> None:
    if device.type == "cpu":
        # The workers of a machine share its cores, and equal runs are to give equal bits.
        torch.set_num_threads(1)
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    else:
        use_expandable_segments()
        set_nccl_environment()
        torch.cuda.set_device(device)
