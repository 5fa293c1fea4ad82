"""Functions run as the N workers of a process group (gloo, this machine), for tests that need no Ray.

    with RankPool(4) as ranks:
        losses = ranks.run(train_a_little, config)      # what each of the four returned, in the order of their ranks
    [norm] = run_ranks(1, gradient_norm, config)        # the same for one call

Importing torch, transformers and DeepSpeed costs some ten seconds. So it is done once, in a server that forks: further
ranks start in a tenth of a second. Functions and arguments are pickled: a function must stand in a module of its own
right. DeepSpeed and oneDNN read the environment once, so it is the same for all: CPU, and no instructions that this
kind of machine may lack (bf16 products end the process otherwise).
"""

import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}
PRELOADED = [
    "torch",
    "torch.distributed.fsdp",
    "transformers.models.llama.modeling_llama",
    "peft",
    "deepspeed",
    "deepspeed.runtime.zero.muon.original_muon",  # which imports torch._inductor; each engine of DeepSpeed needs it
    "pandas",
    "raymill.training.fit.loop",
    "tests.support.frozen",
]
WAIT_S = 300


class RankError(AssertionError):
    """A rank raised, ended, or did not answer; with what it said."""


class RankPool:
    """N processes that form one process group for as long as the `with` lasts. environment: over ENVIRONMENT."""

    def __init__(self, world: int, **environment: str) -> None:
        self.world = world
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        context = _context()
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(world):
            ours, theirs = context.Pipe()
            told = (rank, world, str(Path(self._folder.name) / "store"), environment, theirs)
            process = context.Process(target=_serve, args=told, daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any, wait_s: float = WAIT_S) -> list[Any]:
        """`function(*arguments)` on every rank at once; what each returned.

        Raises:
            RankError: with the first failed rank's traceback. No rank can be used after that.
        """
        message = pickle.dumps((function, arguments))
        for connection in self._connections:
            connection.send_bytes(message)
        results: dict[int, Any] = {}
        while len(results) < self.world:
            waiting = {self._connections[rank]: rank for rank in range(self.world) if rank not in results}
            ready = wait(list(waiting), wait_s)
            if not ready:
                self._fail(f"ranks {sorted(waiting.values())} did not answer within {wait_s:.0f} s")
            for connection in ready:
                rank = waiting[connection]
                try:
                    good, value = connection.recv()
                except EOFError:
                    self._processes[rank].join(10)
                    self._fail(f"rank {rank} ended with {self._processes[rank].exitcode}")
                if not good:
                    self._fail(f"rank {rank} raised\n{value}")
                results[rank] = value
        return [results[rank] for rank in range(self.world)]

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
        self._folder.cleanup()

    def _fail(self, message: str) -> None:
        for process in self._processes:
            process.kill()
        raise RankError(message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def run_ranks(world: int, function: Callable[..., Any], *arguments: Any, **environment: str) -> list[Any]:
    """One call of `function(*arguments)` on each of `world` ranks."""
    with RankPool(world, **environment) as ranks:
        return ranks.run(function, *arguments)


def run_apart(environments: list[dict[str, str]], function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(*arguments)` in a process for each environment, in no process group; what each returned.

    Of a process that ended without an answer, its exit code. All have ended afterwards.
    """
    context = _context()
    answers: list[Any] = []
    ends = []
    for environment in environments:
        ours, theirs = context.Pipe()
        process = context.Process(target=_answer, args=(theirs, environment, function, arguments), daemon=True)
        process.start()
        theirs.close()
        ends.append((process, ours))
    for process, connection in ends:
        try:
            answers.append(connection.recv() if connection.poll(WAIT_S) else None)
        except EOFError:
            process.join(10)
            answers.append(process.exitcode)
    for process, _ in ends:
        process.kill()
        process.join()
    return answers


def start_apart(function: Callable[..., None], *arguments: Any) -> Any:
    """The process that calls `function(*arguments)` in no process group, as one of multiprocessing."""
    process = _context().Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def _answer(connection: Connection, environment: dict[str, str], function: Callable[..., Any], arguments: Any) -> None:
    os.environ.update(environment)
    connection.send(function(*arguments))


def _context() -> Any:
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _serve(rank: int, world: int, store: str, environment: dict[str, str], connection: Connection) -> None:
    os.environ.update(environment)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
    )
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    while True:
        try:
            function, arguments = pickle.loads(connection.recv_bytes())
        except EOFError:
            break
        try:
            answer = (True, function(*arguments))
        except BaseException:
            answer = (False, traceback.format_exc())
        connection.send(answer)
    torch.distributed.destroy_process_group()


def joined_ranks():
    """The ranks of the process group that this process is in, on the CPU."""
    import torch
    import torch.distributed as dist

    from raymill.training.fit.ranks import Ranks

    return Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
