"""The engine on a real local Ray: whatever a unit does, the stage ends and nothing finished is lost."""

import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest

from raymill.cluster import stage as stages
from raymill.cluster.engine import Engine, RetryLimits
from raymill.cluster.errors import DataError, StageError, StorageError
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.stage import CommitRecord
from raymill.cluster.store.interface import NotFound, Unavailable
from tests.support.stages import NUMBERS, count_up, counting_stage, digests, run_inline

# The warnings are of Ray itself: deprecations, and threads that a round broken off leaves.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def session(shared_session: Session) -> Session:
    return shared_session


class Recorded(Progress):
    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def start(self, stage, units, done) -> None:
        self.calls.append((stage, units, len(list(done))))

    def advance(self, record: CommitRecord) -> None:
        self.calls.append(("unit", record.unit))


def engine(root: Path, session: Session, **limits) -> Engine:
    return Engine(str(root), session, Recorded(), RetryLimits(**limits))


def passes(folder: Path, unit: int) -> int:
    """How often a unit was begun, this time included, over all processes."""
    (folder / f"{unit}-{len(list(folder.glob(f'{unit}-*')))}").touch(exist_ok=False)
    return len(list(folder.glob(f"{unit}-*")))


@pytest.fixture
def begun(tmp_path) -> Path:
    folder = tmp_path / "begun"
    folder.mkdir()
    return folder


def test_ray_makes_what_a_plain_loop_makes(session, tmp_path):
    made = engine(tmp_path / "ray", session).run(counting_stage(6))
    assert digests(made) == digests(run_inline(counting_stage(6), str(tmp_path / "loop")))
    assert made["squares"].table()["number"].to_pylist() == [0, 1, 4, 9, 16, 25]


def test_units_done_before_are_reported_and_not_done_again(session, tmp_path):
    stage = counting_stage(5)
    for unit in (0, 3):
        stages.run_unit(stage, str(tmp_path), unit, unit)
    running = engine(tmp_path, session)
    running.run(stage)
    first, *units = running.progress.calls
    assert first == ("count", 5, 2)
    assert sorted(units) == [("unit", 1), ("unit", 2), ("unit", 4)]


def test_a_unit_that_fails_twice_is_tried_a_third_time(session, tmp_path, begun):
    def work(unit, scratch):
        if unit == 2 and passes(begun, unit) < 3:
            raise ValueError("not yet")
        return count_up(unit, scratch)

    made = engine(tmp_path / "run", session).run(counting_stage(4, work))
    assert digests(made) == digests(run_inline(counting_stage(4), str(tmp_path / "loop")))
    assert len(list(begun.iterdir())) == 3


def test_a_unit_that_always_fails_is_named_and_the_others_are_kept(session, tmp_path, begun):
    fixed = tmp_path / "fixed"

    def work(unit, scratch):
        passes(begun, unit)
        if unit == 1 and not fixed.exists():
            raise ValueError("the moon is full")
        return count_up(unit, scratch)

    stage = dataclasses.replace(counting_stage(4, work), describe=lambda unit: f"file-{unit}.txt")
    with pytest.raises(StageError) as caught:
        engine(tmp_path / "run", session, attempts=2).run(stage)
    line = work.__code__.co_firstlineno + 3
    assert str(caught.value) == (
        "count: no result for 1 of 4 units after 2 rounds. Unit 1 (file-1.txt): ValueError: the moon is full "
        f"(test_engine.py, line {line}). Finished units (3) are kept: fix the cause and make the same call again."
    )
    assert 'raise ValueError("the moon is full")' in "".join(caught.value.__notes__)

    fixed.touch()
    made = engine(tmp_path / "run", session).run(stage)
    assert digests(made) == digests(run_inline(counting_stage(4), str(tmp_path / "loop")))
    assert {unit: len(list(begun.glob(f"{unit}-*"))) for unit in range(4)} == {0: 1, 1: 3, 2: 1, 3: 1}


def test_a_unit_whose_worker_dies_starts_again_at_once_and_no_attempt_is_used(session, tmp_path, begun):
    def work(unit, scratch):
        if unit == 1 and passes(begun, unit) <= 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return count_up(unit, scratch)

    made = engine(tmp_path / "run", session, attempts=1, losses=2).run(counting_stage(3, work))
    assert digests(made) == digests(run_inline(counting_stage(3), str(tmp_path / "loop")))


def test_a_worker_that_dies_every_time_is_named_as_such(session, tmp_path, begun):
    def work(unit, scratch):
        passes(begun, unit)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        StageError, match=r"^count: no result for 1 of 1 unit after 1 round\. Unit 0: .*worker died[^\n]*$"
    ):
        engine(tmp_path, session, attempts=1, losses=1).run(counting_stage(1, work))
    assert len(list(begun.iterdir())) == 2


def test_no_more_units_run_at_once_than_fit_the_memory_and_one_that_is_too_large_runs_alone(session, tmp_path):
    def work(unit, scratch):
        alone = tmp_path / "running"
        alone.mkdir()  # fails if another unit runs
        time.sleep(0.3)
        alone.rmdir()
        return count_up(unit, scratch)

    session.start()
    for share in (0.6, 1000):
        stage = dataclasses.replace(counting_stage(4, work), memory=int(share * session.memory()))
        engine(tmp_path / str(share), session, attempts=1, losses=0).run(stage)


@pytest.mark.parametrize("kind", [StorageError, DataError])
def test_a_refusal_that_stays_ends_the_stage_at_once(session, tmp_path, begun, kind):
    def work(unit, scratch):
        passes(begun, unit)
        raise kind("it stays so")

    with pytest.raises(kind, match=r"^it stays so$"):
        engine(tmp_path / "run", session, attempts=9).run(counting_stage(1, work))
    assert len(list(begun.iterdir())) == 1


@pytest.mark.parametrize("error", [Unavailable("no answer"), NotFound("s3://b/x")])
def test_a_store_that_is_away_is_asked_again(session, tmp_path, begun, error):
    def work(unit, scratch):
        if passes(begun, unit) == 1:
            raise error
        return count_up(unit, scratch)

    assert engine(tmp_path / "run", session).run(counting_stage(1, work))["squares"].manifest.rows == 1


def test_logs_name_run_stage_unit_and_kind_and_never_the_message(session, tmp_path, capfd):
    def work(unit, scratch):
        raise ValueError("a document's own words")

    from raymill.cluster import logs

    logs.setup()
    with pytest.raises(StageError):
        engine(tmp_path / "nightly", session, attempts=1).run(counting_stage(1, work))
    said = capfd.readouterr().err
    assert " error run=nightly stage=count unit=0 raymill.cluster.engine: failed with ValueError" in said
    assert "own words" not in said


def test_an_artifact_is_a_ray_dataset_by_itself_and_by_its_folder_alone(session, tmp_path):
    made = engine(tmp_path, session).run(counting_stage(5))
    rows = made["numbers"].to_ray_dataset().take_all()
    assert sorted((row["unit"], row["number"]) for row in rows) == [(u, n) for u in range(5) for n in range(u)]
    empty = engine(tmp_path / "empty", session).run(counting_stage(0))
    assert empty["numbers"].to_ray_dataset().count() == 0
    import ray.data  # not above: Ray reads how it is to authenticate when it is imported, and the session decides that

    for artifact, count in ((made["numbers"], 10), (empty["numbers"], 0)):
        bare = ray.data.read_parquet(artifact.uri)  # the folder alone, as a stranger to this project opens it
        assert (bare.schema().names, bare.count()) == (NUMBERS.names, count)


@pytest.mark.slow
def test_a_unit_that_hangs_is_broken_off_and_tried_again(session, tmp_path, begun):
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def work(unit, scratch):
        if unit == 1 and passes(begun, unit) == 1:
            gate.open().read()  # nobody will ever write
        return count_up(unit, scratch)

    made = engine(tmp_path / "run", session, stall_s=15).run(counting_stage(3, work))
    assert digests(made) == digests(run_inline(counting_stage(3), str(tmp_path / "loop")))
    assert len(list(begun.iterdir())) == 2
