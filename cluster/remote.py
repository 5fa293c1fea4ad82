"""A function run once in a Ray worker: what needs torch or a GPU, but no group of workers.

The driver stays small: it may be the head of a cluster, without a GPU and without memory for a model.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from cluster import errors, logs
from cluster.errors import ClusterError, RaymillError
from cluster.session import Session
from cluster.store import storage

T = TypeVar("T")


def in_worker(session: Session, function: Callable[..., T], *arguments: Any, cpus: float = 1, gpus: int = 0) -> T:
    """`function(*arguments)` in a worker with these resources.

    Raises:
        RaymillError: of the kind the function raised.
        ClusterError: it raised anything else, or its worker died.
    """
    session.start()
    import ray
    from ray.exceptions import RayError

    # A worker that dies takes a model's loading with it: once more is worth it, for ever is not.
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1)(_call)
    try:
        kind, result = ray.get(task.remote(storage.options(), function, arguments))
    except RayError as error:
        raise ClusterError(
            f"{function.__module__}: its worker failed: {(str(error).strip().splitlines() or ['?'])[-1]} "
            "What was finished is kept: run the same command again."
        ) from error
    if kind is not None:
        raise getattr(errors, kind, ClusterError)(result)
    return result


def _call(options: storage.StorageOptions, function: Callable[..., Any], arguments: tuple) -> tuple[str | None, Any]:
    logs.setup()
    storage.configure(options)
    try:
        return None, function(*arguments)
    except RaymillError as error:
        return _public_kind(error), str(error)


def _public_kind(error: RaymillError) -> str:
    """The nearest class of `cluster.errors`: others, such as storage's own, are rebuilt from more than a message."""
    return next(kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__))
