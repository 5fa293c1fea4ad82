"""A combination of every objective, drawn by a seed, of those of objective_matrix.py, which `make matrix` runs."""

import random

import pytest
import torch

from tests.training.fit.objective_matrix import CASES, OBJECTIVES, TOLERANCE, Matrix

torch.set_num_threads(1)
DRAWN = random.Random(11)
SAMPLE = [DRAWN.choice([one for one in CASES if one.objective == objective]) for objective in OBJECTIVES]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    with Matrix(tmp_path_factory.mktemp("matrix")) as matrix:
        yield matrix


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: case.objective)
def test_losses_do_not_depend_on_engine_workers_rows_at_once_packing_and_kills(matrix, case):
    assert matrix.difference(case) <= TOLERANCE


def test_the_combinations_are_the_whole_product_without_those_that_cannot_be():
    assert len(CASES) == len(set(CASES)) == 6 * 2 * 5 * 2 * 3 * 2 + 3 * 2 * 3 * 2
