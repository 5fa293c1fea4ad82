"""Faster replacements for parts of numba's compiler: work that it repeats, or that kernels do not need.

They are in force while a kernel is compiled. The machine code of the kernels is the same, byte for byte; only the
functions around them that Python calls, which convert arguments, are not optimised. The replaced functions are parts of
numba, not of its interface: another version of numba may need other ones.
"""

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

from llvmlite.binding import ffi
from numba import types
from numba.core import base
from numba.core.callwrapper import PyCallWrapper
from numba.core.compiler_lock import global_compiler_lock
from numba.core.cpu import CPUContext
from numba.core.postproc import PostProcessor
from numba.core.transforms import canonicalize_cfg


@contextmanager
def fast_compiler() -> Iterator[None]:
    """In here numba does not do again what it did before, or what kernels do not need. Their machine code is the same.

    And Python collects no garbage: compiling makes many objects, and a collection looks at all that the process holds.
    """
    with global_compiler_lock, ExitStack() as replaced:
        for owner, name, value in SHORTCUTS:
            replaced.enter_context(_replaced(owner, name, value))
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """Another value of an attribute; also of one that a base class has."""
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


_found: dict[tuple, object] = {}
_sizes: dict[str, int] = {}
_build_wrapper = PyCallWrapper.build


def _size_once(target: Any, kind: Any) -> int:
    """Bytes of a type of LLVM. llvmlite would make and parse a module for each question."""
    name = str(kind)
    if name not in _sizes:
        _sizes[name] = super(CPUContext, target).get_abi_sizeof(kind)
    return _sizes[name]


def _find_once(function: Any, context: object, args: tuple, kws: dict) -> object:
    """The signature of a function or operator of numba for arguments of these types."""
    plain = tuple(map(types.unliteral, args))
    find = super(types.Function, function).get_call_type
    if kws or not all(isinstance(one, (types.Number, types.Boolean, types.Array)) for one in plain):
        return find(context, args, kws)
    if (function, plain) not in _found:
        _found[function, plain] = find(context, plain, kws)
    return _found[function, plain]


def _without_lives(processor: Any, emit_dels: bool = False, extend_lifetimes: bool = False) -> None:
    """Order the blocks of a function. numba would also find where each variable is used last, to delete it there."""
    processor.func_ir.blocks = canonicalize_cfg(processor.func_ir.blocks)
    processor.func_ir.generator_info = None


def _unoptimised_wrapper(wrapper: PyCallWrapper) -> Any:
    """The function that Python calls, which converts arguments and calls the kernel. LLVM spends no time on it."""
    function, api = _build_wrapper(wrapper)
    function.attributes.add("noinline")  # as the next one demands
    function.attributes.add("optnone")
    return function, api


# (owner, attribute, what it is while kernels are compiled)
SHORTCUTS: list[tuple[Any, str, Any]] = [
    # The types of an operation, once for each kind of numbers and arrays; the size of a type, once.
    (types.Function, "get_call_type", _find_once),
    (CPUContext, "get_abi_sizeof", _size_once),
    (PostProcessor, "run", _without_lives),
    # Whether a function of numba has an argument `loc`, once.
    (base, "_has_loc", cache(base._has_loc)),
    (PyCallWrapper, "build", _unoptimised_wrapper),
    # No events at each call of LLVM.
    (ffi.lib._lock, "_cblist", []),
]
