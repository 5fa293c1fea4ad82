"""Keeps numba from reading settings of the working folder.

numba reads `.numba_config.yaml` of the working folder when it is imported, and again whenever it compiles. That folder
may hold downloaded data, and one of the settings names a file to overwrite (`chrome_trace`). numba has no switch for
this, and its environment variables replace single settings alone, so the name of the file in its module is replaced.
"""

import importlib.abc
import importlib.machinery
import logging
import os
import sys
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder

log = logging.getLogger(__name__)

_MODULE, _FILE = "numba.core.config", ".numba_config.yaml"


def ignore_file() -> None:
    """Let numba be imported without the file, unless it is imported already."""
    if not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> types.CodeType | None:
        code = super().get_code(fullname)
        if os.path.exists(_FILE):
            log.warning("%s: numba's settings in the working folder are not read. Set NUMBA_ variables.", _FILE)
        # A name that no file has: numba then finds none.
        return code and code.replace(co_consts=tuple("" if one == _FILE else one for one in code.co_consts))
