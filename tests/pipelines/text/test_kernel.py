"""Kernels: what numba refuses to compile, inner kernels."""

import numpy as np
import pytest
from numba.core.errors import NumbaError

from pipelines.text.kernel import _SHORTCUTS, inner_kernel, kernel


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


def test_numba_is_as_it_was_after_a_kernel_was_compiled_or_refused():
    before = [vars(owner).get(name) for owner, name, _ in _SHORTCUTS]

    @kernel
    def one_more(number):
        return number + 1

    @kernel
    def new(count):
        return np.zeros(count).sum()

    assert one_more(1) == 2
    assert [vars(owner).get(name) for owner, name, _ in _SHORTCUTS] == before
    with pytest.raises(NumbaError):
        new(1)
    assert [vars(owner).get(name) for owner, name, _ in _SHORTCUTS] == before
