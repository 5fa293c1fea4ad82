"""The decorators of kernels: functions that numba compiles.

    kernel        called from Python; compiled at its first call and stored in numba's cache
    inner_kernel  called by kernels; compiled into each of them, without an entry for Python or a file in the cache

Kernels allocate nothing and count no references to arrays: the caller passes the arrays for results and scratch, and a
kernel returns numbers. Any other is refused when it is compiled.

Compiling is slow, and what numba offers for whole arrays is the slowest, because it is compiled with each kernel: a
statement such as `a[i:j] = b[k:l]` takes two seconds. So kernels have loops, or instructions.py.

When several processes need the same kernel at once, as the workers of a machine do at their first unit, one of them
compiles it and the others wait and load the result from the cache; `kernel_cache.each_in_turn` has them begin with
different kernels. It would not be faster to compile in the driver before the workers start: on two cores a first run of
500 MB takes 8.1 s longer than the next one (34.0 and 25.9 s, `make bench`, curate), and one process compiles the
kernels of that run in 12 s.
"""

import fcntl
import gc
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np
from llvmlite.binding import ffi
from numba import njit, types
from numba.core import base, event, sigutils
from numba.core.caching import FunctionCache
from numba.core.callwrapper import PyCallWrapper
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, Flags
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager, _pass_registry
from numba.core.cpu import CPUContext
from numba.core.postproc import PostProcessor
from numba.core.registry import CPUDispatcher
from numba.core.transforms import canonicalize_cfg
from numba.core.typed_passes import (
    AnnotateTypes,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import FixupArgs, GenericRewrites, IRProcessing, ReconstructSSA, TranslateByteCode

log = logging.getLogger(__name__)

# No GIL, no entry for callers in C, no references to arrays.
_OPTIONS: dict[str, Any] = {"nogil": True, "no_cfunc_wrapper": True, "_nrt": False}


def kernel(function: Callable) -> Any:
    """Compile a function with numba, without the GIL, and store it in the cache."""
    compiled = njit(**_OPTIONS, pipeline_class=_Compiler)(function)
    compile_for_types, cache = compiled.compile, _CompiledOnce(function)

    def compile_once(signature: object) -> object:
        try:
            with fast_compiler():
                return compile_for_types(signature)
        finally:
            cache.release()

    compiled._cache, compiled.compile = cache, compile_once
    return compiled


def inner_kernel(function: Callable) -> Any:
    """A function that kernels call. Called from Python, it runs as Python."""
    return InnerKernel(function)


def read_only(array: np.ndarray) -> np.ndarray:
    """The array as one that cannot be written: a kernel that gets arrays of both kinds is compiled for each kind."""
    view = array.view()
    view.flags.writeable = False
    return view


# numba's passes without those for closures, generators, parallel loops, array expressions, and the ends of variables'
# lives, which matter only where references are counted.
_PASSES = (
    TranslateByteCode, FixupArgs, IRProcessing, GenericRewrites, ReconstructSSA, NopythonTypeInference,
    PreLowerStripPhis, AnnotateTypes, NativeLowering, NoPythonBackend,
)  # fmt: skip


class _Passes(PassManager):
    """Runs passes and nothing between them: no checks, no events."""

    def run(self, state: Any) -> None:
        for step, _ in self.passes:
            _pass_registry.get(step).pass_inst.run_pass(state)


class _Compiler(CompilerBase):
    """numba's compiler with the passes that kernels need."""

    def define_pipelines(self) -> list[PassManager]:
        passes = _Passes("kernel")
        for step in _PASSES:
            passes.add_pass(step, step.__name__)
        passes.finalize()
        return [passes]


class InnerKernel(CPUDispatcher):
    """An inner kernel. Each process translates it to LLVM once for each kind of arguments, and no further.

    LLVM optimises it and generates its machine code as a part of the kernels that call it. numba would do that for it
    alone, too, and for each kernel between.
    """

    def __init__(self, function: Callable) -> None:
        super().__init__(function, targetoptions=_OPTIONS | {"nopython": True})

    def __call__(self, *arguments: Any) -> Any:
        return self.py_func(*arguments)

    def compile(self, sig: Any) -> Any:
        """The key of the function in numba's table of functions. It is translated in the first call."""
        arguments, return_type = sigutils.normalize_signature(sig)
        arguments = tuple(map(types.unliteral, arguments))
        if arguments not in self.overloads:
            target: Any = self.targetctx
            flags: Any = Flags()
            self.targetdescr.options.parse_as_flags(flags, self.targetoptions)
            flags.no_compile = flags.no_cpython_wrapper = True
            library = _Unoptimised(target.codegen(), self.py_func.__qualname__)
            details = {"dispatcher": self, "args": arguments, "return_type": return_type}
            with event.trigger_event("numba:compile", data=details):
                compiler = _Compiler(self.typingctx, target, library, arguments, return_type, flags, {})
                result = compiler.compile_extra(self.py_func)
            key = object()
            target.insert_user_function(key, result.fndesc, [library])
            self.overloads[arguments] = result._replace(entry_point=key)
        found: Any = self.overloads[arguments]
        return found.entry_point


class _Unoptimised(JITCodeLibrary):
    """Code that is linked into its callers' code, and neither optimised nor loaded by itself."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class _CompiledOnce(FunctionCache):
    """numba's cache of one kernel. A kernel that it does not hold is compiled under a lock of the cache's folder."""

    def __init__(self, function: Callable) -> None:
        super().__init__(function)
        self._lock: int | None = None

    def load_overload(self, sig: object, target_context: object) -> object:
        """The stored kernel; None if there is none: then this process has the lock until `release`, and compiles."""
        found = super().load_overload(sig, target_context)
        if found is None and self._lock is None:
            while not self._take_lock():
                found = super().load_overload(sig, target_context)
                if found is not None:
                    return found
            # Another process may have stored it since the first look.
            found = super().load_overload(sig, target_context)
        return found

    def release(self) -> None:
        """Give the lock back, if this kernel took it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> bool:
        """Take the lock and return True; if another process has it, wait until that one is done and return False.

        No two processes wait for each other, as a process compiles one kernel at a time. Without a lock, as on a
        read-only file system, every process compiles.
        """
        try:
            descriptor = os.open(f"{self.cache_path}/{self._impl.filename_base}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            log.info("%s: no lock, each process compiles: %s", self.cache_path, error)
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # all who wait continue together
            os.close(descriptor)
            return False
        except OSError as error:  # a file system without locks
            log.info("%s: no lock, each process compiles: %s", self.cache_path, error)
            os.close(descriptor)
            return True
        self._lock = descriptor
        return True


# --- Faster replacements for parts of numba's compiler: work that it repeats, or that kernels do not need.
#
# They are in force while a kernel is compiled. The machine code of the kernels is the same, byte for byte; only the
# functions around them that Python calls, which convert arguments, are not optimised. The replaced functions are parts
# of numba, not of its interface: another version of numba may need other ones.


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
