"""A function named by its module, which is imported when the function is called.

Modules that compute import torch at their top; modules that run in the driver never load it. The driver passes a
function to a worker process as an `Entry`, which is pickled as a string.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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
