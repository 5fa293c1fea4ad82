"""kill -9 of a worker, or of the driver, at random steps of a training; then the same weights and the same samples.

`kill_and_finish` is called by the fault matrix and by the benchmark of restarts.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from raymill.training.records.job import Job
from raymill.training.records.schema import Outcome
from tests.support.fit_jobs import column, final_weights, pack_tiny
from tests.support.killed_fits import WAIT_S, FitCommand, fit_by_ranks, job_file


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    pack_tiny(str(root))
    return root


@pytest.fixture(scope="module")
def undisturbed(packed) -> tuple[Job, Outcome]:
    return fit_by_ranks(packed)


@pytest.mark.slow
def test_torchrun_comes_to_the_same_bits_without_ray(packed, undisturbed):
    job, path = job_file(packed, "torchrun")
    command = FitCommand(
        "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "raymill.training.fit", path
    )
    try:
        code, out, err = command.wait(WAIT_S)
    finally:
        command.end_all()
    assert code == 0, err
    outcome = json.loads(out.strip().splitlines()[-1])
    weights = final_weights(undisturbed[1])
    assert all(np.array_equal(found, weights[name]) for name, found in final_weights(outcome).items())
    assert column(job, "samples") == column(undisturbed[0], "samples")
