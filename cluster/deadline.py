"""A time limit for a call of a library that has none, such as one for each byte of an answer."""

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of a call in a thread of its own, which goes on there if it takes longer. Raises TimeoutError."""
    found: queue.Queue[tuple[bool, Any]] = queue.Queue()

    def run() -> None:
        try:
            found.put((True, call()))
        except BaseException as error:
            found.put((False, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        returned, value = found.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no whole answer within {seconds:.0f} s") from None
    if not returned:
        raise value
    return value
