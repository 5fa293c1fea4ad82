"""The units of a round that run at this moment, in the key-value store of the Ray cluster.

The driver cannot ask Ray: Ray Data calls a unit running as soon as Ray has it, also while it waits for a CPU that
another job holds. So each unit has a key in the store while it runs. The key of a unit whose worker died stays, some
50 bytes. Ray must have been started or joined before.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_list, _internal_kv_put

_NAMESPACE = "raymill running units"


@contextmanager
def noted(round_id: str, unit: int) -> Iterator[None]:
    """Mark a unit of a round as running inside this context. Called in the worker."""
    key = f"{round_id}/{unit}"
    with suppress(Exception):  # without the key the engine only waits longer for a unit that hangs
        _internal_kv_put(key, b"", namespace=_NAMESPACE)
    try:
        yield
    finally:
        with suppress(Exception):
            _internal_kv_del(key, namespace=_NAMESPACE)


def has_running(round_id: str) -> bool:
    """Whether a unit of the round runs. Called by the driver."""
    return bool(_internal_kv_list(f"{round_id}/", namespace=_NAMESPACE))
