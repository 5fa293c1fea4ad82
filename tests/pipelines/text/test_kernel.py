"""Kernels: what numba refuses to compile, inner kernels."""

import re

import numpy as np
import pytest
from numba import njit
from numba.core.errors import NumbaError

from raymill.pipelines.text.kernel import _OPTIONS, SHORTCUTS, _Compiler, fast_compiler, inner_kernel, kernel


@inner_kernel
def twice(value):
    return 2 * value


@inner_kernel
def fill(values, value):
    for at in range(len(values)):
        values[at] = twice(value)


@kernel
def fill_part(values, start, stop, value):
    fill(values[start:stop], value)
    return stop - start, value


@kernel
def part(values):
    return values[1:]


@kernel
def sum_of_new(count):
    return np.zeros(count).sum()


def test_inner_kernels_are_compiled_into_kernels_and_run_as_python_by_themselves():
    values = np.zeros(5, np.int64)
    assert fill_part(values, 1, 3, 4) == (2, 4)
    assert values.tolist() == [0, 8, 8, 0, 0]
    fill(values, 1)
    assert values.tolist() == [2] * 5
    assert twice("a") == "aa"


@pytest.mark.parametrize(("wrong", "argument"), [(part, np.zeros(3)), (sum_of_new, 3)])
def test_a_kernel_that_allocates_or_returns_a_part_of_an_array_is_refused(wrong, argument):
    with pytest.raises(NumbaError):
        wrong(argument)


def longest_run(values, starts, longest):
    """Loops, branches, slices, and variables with several assignments."""
    total = 0
    for at in range(len(starts) - 1):
        part = values[starts[at] : starts[at + 1]]
        run = best = 0
        for index in range(len(part)):
            if index and part[index] == part[index - 1]:
                run += 1
            else:
                best, run = max(best, run), 1
        longest[at] = max(best, run)
        total += min(best, 9)
    fill(longest[1:], total)
    return total


def machine_code(dispatcher) -> str:
    (compiled,) = dispatcher.overloads.values()
    name = compiled.fndesc.llvm_func_name
    code = compiled.library.get_asm_str().partition(f"\n{name}:\n")[2].partition(".Lfunc_end")[0]
    return re.sub(r"_ZN\w+", "name", code)


def test_a_kernel_has_the_machine_code_that_numba_generates_without_the_shortcuts():
    arrays = np.array([3, 3, 3, 1, 1, 2]), np.array([0, 4, 6]), np.zeros(2, np.int64)
    plain = njit(**_OPTIONS, pipeline_class=_Compiler)(longest_run)
    quick = njit(**_OPTIONS, pipeline_class=_Compiler)(longest_run)
    assert plain(*arrays) == 4
    with fast_compiler():
        assert quick(*arrays) == 4
    assert arrays[2].tolist() == [3, 8]
    assert machine_code(quick) == machine_code(plain) != ""


def test_numba_is_as_it_was_after_a_kernel_was_compiled_or_refused():
    before = [vars(owner).get(name) for owner, name, _ in SHORTCUTS]

    @kernel
    def one_more(number):
        return number + 1

    @kernel
    def new(count):
        return np.zeros(count).sum()

    assert one_more(1) == 2
    assert [vars(owner).get(name) for owner, name, _ in SHORTCUTS] == before
    with pytest.raises(NumbaError):
        new(1)
    assert [vars(owner).get(name) for owner, name, _ in SHORTCUTS] == before
