"""The checks of the benchmark's correct.py and resume.py fail where they should, and only there."""

import json
from types import SimpleNamespace

import pytest
import torch

from tests.benchmarks.gpu import correct, resume, stall
from tests.benchmarks.gpu.correct import CorrectnessCheck

CPU = torch.device("cpu")


class Leaking:
    """An objective whose loss depends a little on the first document of a row."""

    attention = "sdpa"

    def __init__(self, leak: float) -> None:
        self.leak = leak

    def eval(self) -> "Leaking":
        return self

    def tensors(self, batch, device) -> dict:
        return {"first": batch.input_ids[0, 0]}

    def __call__(self, first) -> tuple:
        return (1.0 + self.leak * first,)


@pytest.mark.parametrize("leak", [0.0, 1e-9, -1e-9])
def test_the_least_influence_of_a_neighbour_is_an_error(leak, monkeypatch):
    monkeypatch.setattr(correct, "build_objective", lambda config, device: Leaking(leak))
    check = correct.documents_apart("float32", CPU)
    assert check.right is (leak == 0) and check.found == f"differs by {abs(leak):.1e}"


@pytest.mark.parametrize(("precision", "apart", "right"), [
    ("float32", 0.9e-4, True), ("float32", 1.1e-4, False), ("bf16", 0.019, True), ("bf16", -0.021, False),
])  # fmt: skip
def test_losses_must_be_within_the_tolerance_at_every_step(precision, apart, right, monkeypatch):
    monkeypatch.setattr(correct, "losses", lambda *_: [4.0, 2.0 * (1 + apart), 1.0])
    check = correct._as_on_the_cpu("full", precision, "eager", CPU, 3, [4.0, 2.0, 1.0])
    assert check.right is right and check.found.endswith(", last loss 1.0000")
    skipped = correct._as_on_the_cpu("full", precision, "varlen", CPU, 3, [4.0, 2.0, 1.0])
    assert (skipped.right, skipped.found) == (None, "skipped: the kernel needs a GPU and bf16")


class TwoLosses:
    """An objective whose fused or chunked loss is a little apart from torch's, which is 10."""

    attention, fused = "sdpa", True

    def __init__(self, fused: float, chunked: float) -> None:
        self.apart = {True: fused, False: chunked}

    def eval(self) -> "TwoLosses":
        return self

    def tensors(self, batch, device) -> dict:
        return {"input_ids": CPU, "position_ids": CPU, "starts": CPU, "targets": torch.zeros(1)}

    def __call__(self, **_) -> tuple:
        return (10.0 * (1 + self.apart[self.fused]),)

    def hidden(self, *_) -> torch.Tensor:
        return torch.zeros(1, 1)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


@pytest.mark.parametrize(("precision", "fused", "chunked", "right"), [
    ("float32", 0.9e-5, 0.0, True), ("float32", 1.1e-5, 0.0, False), ("float32", 0.0, -1.1e-5, False),
    ("bf16", 0.0, -0.9e-3, True), ("bf16", -1.1e-3, 0.0, False),
])  # fmt: skip
def test_fused_and_chunked_loss_are_each_compared_with_torchs(precision, fused, chunked, right, monkeypatch):
    monkeypatch.setattr(correct, "build_objective", lambda config, device: TwoLosses(fused, chunked))
    monkeypatch.setattr(correct.F, "cross_entropy", lambda *_, **__: 10.0)
    check = correct.losses_agree(precision, CPU)
    assert check.right is right and check.found == f"{max(abs(fused), abs(chunked)):.1e}"


@pytest.mark.parametrize(("device", "deterministic", "apart", "right"), [
    ("cpu", False, 0.0, True), ("cpu", False, 1e-9, False), ("cuda", False, 0.9e-3, True),
    ("cuda", False, 1.1e-3, False), ("cuda", True, 1e-9, False),
])  # fmt: skip
def test_an_interrupted_training_must_come_to_the_same_losses(device, deterministic, apart, right, monkeypatch):
    asked = []

    def losses(config, device, steps, interrupt_at=None):
        asked.append((steps, interrupt_at))
        return [2.0, 1.0 - apart if interrupt_at else 1.0]

    monkeypatch.setattr(correct, "losses", losses)
    assert correct.resumes(deterministic, torch.device(device), 20).right is right
    assert asked == [(20, None), (20, 10)]


def test_a_wrong_check_is_the_exit_status(monkeypatch, capsys):
    for rights, status in (((True, None), 0), ((True, False, True), 1)):
        found = [CorrectnessCheck("a", "b", "c", right) for right in rights]
        monkeypatch.setattr(correct, "checks", lambda device, steps, found=found: found)
        monkeypatch.setattr(resume, "checks", lambda folder, commands, steps, found=found: found)
        assert correct.main(["--cpu"]) == resume.main(["--cpu"]) == status
        printed = [json.loads(line)["right"] for line in capsys.readouterr().out.splitlines()]
        assert printed == [*rights, *rights]


@pytest.mark.parametrize(("failing", "seen", "resumed", "rights"), [
    ((), 40, 40, [True, True]), ((), 40, 60, [True, True]), ((), 40, 20, [False, True]), ((), 40, 200, [False, True]),
    ((), None, 0, [None]), (("whole",), 40, 40, [False]), (("killed",), 40, 40, [False]),
])  # fmt: skip
def test_a_killed_training_must_continue_from_its_last_checkpoint_or_a_later_one(
    failing, seen, resumed, rights, monkeypatch, tmp_path
):
    def train(command: list[str]) -> str | None:
        return "it failed" if command[0] in failing else None

    monkeypatch.setattr(resume, "_train", train)
    monkeypatch.setattr(resume, "_train_and_kill", lambda command, run: seen)
    monkeypatch.setattr(resume, "resumed_at", lambda run: resumed)
    monkeypatch.setattr(resume, "compared", lambda whole, killed: [CorrectnessCheck("equal", "", "", True)])
    assert [check.right for check in resume.checks(str(tmp_path), [["whole"], ["killed"]], 200)] == rights


def test_a_stall_is_measured_for_the_first_and_a_later_checkpoint(monkeypatch, capsys):
    saved = []

    def begin(progress, slices) -> float:
        saved.append((progress.step, sum(one.values.numel() for one in slices)))
        return 10.0 / progress.step

    saver = SimpleNamespace(begin=begin, settle=lambda: None, close=lambda: None)
    monkeypatch.setattr(stall, "Saver", lambda *_: saver)
    assert stall.main(["--cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["first_s"], found["later_s"]) == (10.0, 5.0) and [step for step, _ in saved] == [1, 2]
    values = {count for _, count in saved}
    assert values == {round(found["gib"] * (1 << 30) / 4)}, "weights and two averages, float32"
