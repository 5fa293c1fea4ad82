"""A sample of `make hostile`: nothing ends a run, changes a file outside of it or shows a secret."""

from contextlib import nullcontext
from pathlib import Path

from tests.end_to_end import hostile_inputs
from tests.end_to_end.hostile_inputs import KINDS, SECRET, Outcome, Trial, attempt, line, without_ray

# Without those that need a training first, or torch.
SAMPLED = [kind for kind in KINDS if not kind.startswith(("run ", "model"))]
SEED, COUNT = 4, 17


def test_hostile_inputs_are_read_or_have_a_reason_and_reach_nothing_outside(tmp_path: Path) -> None:
    with without_ray(tmp_path / "arena") as arena:
        results = [attempt(number, SEED, arena, SAMPLED[number % len(SAMPLED)]) for number in range(COUNT)]
    assert [line(one) for one in results if one.violations or not one.reason] == []
    assert {one.outcome for one in results} == {"read", "quarantined", "refused"}


def test_whatever_a_command_does_outside_of_its_run_is_a_violation(tmp_path: Path, monkeypatch) -> None:
    def command(*words: str) -> Outcome:
        arena.output.mkdir()
        (arena.output / "report.json").write_text(SECRET)
        (arena.run / "new").write_text("x")
        arena.private.write_text("x")
        (arena.folder / "work" / "diary.txt").unlink()
        return Outcome(1, f"\x1b[2J{SECRET}", "Traceback")

    monkeypatch.setattr(hostile_inputs, "call", command)
    monkeypatch.setitem(KINDS, "careless", lambda arena, draw: nullcontext(Trial("a command", [("curate",)])))
    with without_ray(tmp_path / "arena") as arena:
        found = attempt(0, SEED, arena, "careless").violations
    work = tmp_path / "arena" / "work"
    assert sorted(found) == sorted([
        "raymill curate ended with 1: \x1b[2J" + f"{SECRET}\nTraceback",
        "raymill curate printed a secret",
        "raymill curate printed a character that a terminal obeys",
        f"{work}/run/new was written",
        f"{tmp_path}/arena/elsewhere/diary.txt was changed",
        f"{work}/diary.txt was deleted",
        "a secret is in report.json",
    ])  # fmt: skip
