"""Runs one function in a Ray worker: for work that needs torch or a GPU, but no group of workers.

The driver never loads a model: it may be the head of a cluster, without a GPU and with little memory.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from cluster import errors, logs
from cluster.errors import ClusterError, RaymillError
from cluster.session import Session

T = TypeVar("T")


def in_worker(session: Session, function: Callable[..., T], *arguments: Any, cpus: float = 1, gpus: int = 0) -> T:
    """The result of `function(*arguments)`, computed in a worker with these resources.

    Raises:
        RaymillError: the function raised one; its class and message are kept.
        ClusterError: the function raised another exception, or its worker died twice.
    """
    session.start()
    import ray
    from ray.exceptions import RayError

    # One retry: a worker that died twice, often for memory, will die again.
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1)(_call)
    try:
        kind, result = ray.get(task.remote(function, arguments))
    except RayError as error:
        raise ClusterError(
            f"{function.__module__}: its worker failed: {(str(error).strip().splitlines() or ['?'])[-1]} "
            "What was finished is kept: run the same command again."
        ) from error
    if kind is not None:
        raise getattr(errors, kind, ClusterError)(result)
    return result


def _call(function: Callable[..., Any], arguments: tuple) -> tuple[str | None, Any]:
    logs.setup()
    try:
        return None, function(*arguments)
    except RaymillError as error:
        return _public_kind(error), str(error)


def _public_kind(error: RaymillError) -> str:
    """Name of the nearest class in cluster.errors; subclasses defined elsewhere take more arguments than a message."""
    return next(kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__))
