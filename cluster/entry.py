"""Calls of functions that are imported only then, of optional libraries, and of libraries with a time limit.

Modules that compute import torch at their top; modules that run in the driver never load it. The driver passes a
function to a worker process as an `Entry`, which is pickled as a string.
"""

import importlib
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeVar

from raymill.cluster.errors import ConfigError

# extra -> import names of the libraries that are looked for; pyproject.toml has all that an extra installs.
EXTRAS = {
    "train": ("torch", "transformers", "tokenizers", "peft", "safetensors", "aiohttp"),
    "sql": ("sqlalchemy",),
    "qlora": ("bitsandbytes",),
    "float8": ("torchao",),
    "embeddings": ("sentence_transformers",),
    "synonyms": ("wordfreq",),
    "k8s": ("kubernetes",),
}

T = TypeVar("T")
_abandoned: list[threading.Thread] = []


@dataclass(frozen=True, slots=True)
class Entry:
    """A function by its name, `module.path:function`. Calling the entry imports the module and calls the function.

    Every name in the tree is resolved by a test of the house rules.
    """

    name: str

    def load(self) -> Callable[..., Any]:
        """Import the module and return the function."""
        module, _, function = self.name.partition(":")
        return getattr(importlib.import_module(module), function)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.load()(*arguments, **options)


def require_extra(extra: str, user: str, otherwise: str = "") -> None:
    """Verify that the libraries of an extra are installed. None of them is imported.

    Args:
        user: the verb or setting that needs them. otherwise: a sentence with what else can be done.

    Raises:
        ConfigError: one is not installed.
    """
    if lacking := [name for name in EXTRAS[extra] if find_spec(name) is None]:
        raise ConfigError(
            f"{user}: {', '.join(lacking)} not installed for {sys.executable}. Run: pip install 'raymill[{extra}]'."
            f"{otherwise and ' '}{otherwise}"
        )


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of a call in a thread of its own, which goes on there if it takes longer. Raises TimeoutError."""
    found: queue.Queue[tuple[bool, Any]] = queue.Queue()

    def run() -> None:
        try:
            found.put((True, call()))
        except BaseException as error:
            found.put((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        returned, value = found.get(timeout=seconds)
    except queue.Empty:
        _abandoned.append(thread)
        raise TimeoutError(f"no whole answer within {seconds:.0f} s") from None
    if not returned:
        raise value
    return value


def abandoned_calls_run() -> bool:
    """Whether a call of `within` that exceeded its time still runs."""
    return any(thread.is_alive() for thread in _abandoned)
