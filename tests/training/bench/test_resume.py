"""The check that a killed training, run again, comes to the same bits: it is right on equal runs and on others not."""

import json

import pytest

from tests.benchmarks.gpu import resume
from tests.support.fit_jobs import fit_alone, pack_tiny, tiny_job


def verdicts(*runs) -> list[bool | None]:
    return [check.right for check in resume.compared(*map(str, runs))]


def test_losses_samples_weights_and_optimizer_state_are_each_compared(tmp_path):
    pack_tiny(str(tmp_path))
    whole, same, other = (tmp_path / name for name in ("whole", "same", "other"))
    for run, seed in ((whole, 1), (same, 1), (other, 2)):
        fit_alone(tiny_job(str(tmp_path), output=str(run), steps=3, seed=seed))
    assert verdicts(whole, same) == [True, True, True]
    assert verdicts(whole, other) == [False, False, False]
    pieces = resume.digests(str(whole))
    assert {state for _, state, _, _ in pieces} == {"param", "exp_avg", "exp_avg_sq"}
    lines = [json.loads(line) for line in (same / "steps.jsonl").read_text().splitlines()]
    lines[-1]["loss"] += 1e-7
    (same / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert verdicts(whole, same) == [False, True, True]


@pytest.mark.slow
@pytest.mark.ray
def test_raymill_train_killed_and_run_again_comes_to_the_same_bits(capsys):
    assert resume.main(["--cpu"]) == 0
    checks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [check["right"] for check in checks] == [True] * 4
