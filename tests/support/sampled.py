"""Cases of which `make test` runs a sample; the others run with `make long`, `make matrix` or `make faults`."""

import random
from collections.abc import Iterable

import pytest


def sampled(cases: Iterable, kept: int, seed: int = 0) -> list:
    """The cases for `pytest.mark.parametrize`: all but `kept` of them, drawn by the seed, are marked slow.

    cases: values, or tuples of one value a parameter.
    """
    every = [case if isinstance(case, tuple) else (case,) for case in cases]
    chosen = set(random.Random(seed).sample(range(len(every)), kept))
    return [pytest.param(*case, marks=[] if at in chosen else pytest.mark.slow) for at, case in enumerate(every)]
