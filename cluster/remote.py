"""Runs a function in one Ray worker, if it needs torch or a GPU, but no group of workers.

The driver never loads a model: it may run on the head of a cluster, without a GPU and with little memory.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from cluster import logs
from cluster.entry import Entry
from cluster.errors import ClusterError, ErrorRecord, RaymillError, as_record, from_record
from cluster.session import Session, imported_ray

T = TypeVar("T")


def in_worker(session: Session, function: Callable[..., T], *arguments: Any, cpus: float = 1, gpus: int = 0) -> T:
    """The result of `function(*arguments)`, computed in a worker with these resources.

    Raises:
        RaymillError: the function raised one; its class and message are kept.
        ClusterError: the function raised another exception, or its worker died twice.
    """
    session.start()
    ray = imported_ray()
    # One retry: a worker that died twice, often out of memory, will die again.
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1)(_call)
    try:
        failure, result = ray.get(task.remote(function, arguments))
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"{_name(function)}: its worker failed: {(str(error).strip().splitlines() or ['?'])[-1]} "
            "Finished work is kept: run the same command again."
        ) from error
    if failure is not None:
        raise from_record(failure)
    return result


def _name(function: Callable[..., Any]) -> str:
    return function.name if isinstance(function, Entry) else f"{function.__module__}:{function.__qualname__}"


def _call(function: Callable[..., Any], arguments: tuple) -> tuple[ErrorRecord | None, Any]:
    logs.setup()
    try:
        return None, function(*arguments)
    except RaymillError as error:
        return as_record(error), None
