"""Stages that ask for accelerators, and stages with a set-up, on a local Ray with two GPUs that do not exist."""

import dataclasses
import functools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raymill.cluster.engine import Engine, RetryLimits
from raymill.cluster.errors import ConfigError, DataError, StageError
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session, imported_ray
from tests.support.inline import InlineEngine, NoRay, RoundsInline
from tests.support.stages import count_up, counting_stage, digests, run_inline


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with pytest.MonkeyPatch.context() as patch, Session(cpus=4) as started:
        patch.setenv("RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE", "disabled"))
        ray = imported_ray()
        patch.setattr(ray, "init", functools.partial(ray.init, num_gpus=2, resources={"TPU": 1}))
        yield started


class Model:
    """What a set-up loads: it notes each process in which it is loaded, with the GPUs that this process sees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def load(self) -> str:
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        (self.folder / f"{os.getpid()} {gpus}").touch(exist_ok=False)
        return gpus

    def loads(self) -> list[str]:
        return sorted(one.name for one in self.folder.iterdir())


@pytest.fixture
def model(tmp_path) -> Model:
    return Model(tmp_path / "loads")


def stage_of(model: Model, units: int = 6, work=lambda *_: None, **wanted):
    """The stage that counts, with a set-up. work: called before the unit is counted."""

    def then_count(unit, scratch, loaded):
        assert isinstance(loaded, str)
        work(unit, loaded)
        return count_up(unit, scratch)

    return dataclasses.replace(counting_stage(units, then_count), setup=model.load, **wanted)


def engine(root: Path, session: Session, kind=Engine, **limits) -> Engine:
    return kind(str(root / "run"), session, Progress(), RetryLimits(**limits))


def plain(root: Path, units: int = 6) -> dict[str, str]:
    return digests(run_inline(counting_stage(units), str(root / "plain")))


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")  # of Ray itself
class TestOnRay:
    def test_each_actor_is_set_up_once_has_its_own_gpu_and_makes_what_a_plain_loop_makes(
        self, session, tmp_path, model
    ):
        seen = tmp_path / "seen"
        seen.mkdir()

        def work(unit, gpus):
            (seen / f"{os.getpid()} {gpus}").touch()
            while len(list(seen.iterdir())) < 2:  # until the other actor has begun
                time.sleep(0.02)

        made = engine(tmp_path, session).run(stage_of(model, work=work, gpus=1))
        assert digests(made) == plain(tmp_path)
        assert model.loads() == sorted(one.name for one in seen.iterdir())
        assert [one.partition(" ")[2] for one in sorted(model.loads(), key=lambda one: one[-1])] == ["0", "1"]

    def test_there_are_no_more_actors_than_the_stage_says(self, session, tmp_path, model):
        made = engine(tmp_path, session).run(stage_of(model, gpus=0.5, concurrency=1))
        assert digests(made) == plain(tmp_path) and len(model.loads()) == 1

    def test_the_unit_of_a_killed_actor_is_done_again_by_another(self, session, tmp_path, model):
        def work(unit, _):
            if unit == 3 and len(model.loads()) == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        made = engine(tmp_path, session, attempts=1).run(stage_of(model, work=work, resources={"TPU": 1}))
        assert digests(made) == plain(tmp_path) and len(model.loads()) == 2

    def test_a_unit_that_kills_every_actor_is_named_and_the_others_are_kept(self, session, tmp_path, model):
        def work(unit, _):
            if unit == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        stage = stage_of(model, 3, work, concurrency=1)
        with pytest.raises(
            StageError, match=r"no result for 1 of 3 units after 1 round\. Unit 1: .*died.*Finished units \(2\)"
        ):
            engine(tmp_path, session, attempts=1, losses=1).run(stage)
        assert len(model.loads()) == 3

    def test_without_a_set_up_tasks_reserve_what_the_stage_asks_for(self, session, tmp_path):
        alone = tmp_path / "running"

        def work(unit, scratch):
            alone.mkdir()  # fails if another unit runs
            alone.rmdir()
            assert sorted(os.environ["CUDA_VISIBLE_DEVICES"].split(",")) == ["0", "1"]
            return count_up(unit, scratch)

        stage = dataclasses.replace(counting_stage(3, work), gpus=2)  # Ray starts a process for each
        assert digests(engine(tmp_path, session, attempts=1, losses=0).run(stage)) == plain(tmp_path, 3)

    def test_an_error_of_the_set_up_that_stays_ends_the_stage_at_once(self, session, tmp_path):
        def fail():
            raise DataError("no such model")

        with pytest.raises(DataError, match=r"^no such model$"):
            engine(tmp_path, session, attempts=9).run(dataclasses.replace(counting_stage(2), setup=fail))

    def test_what_this_machine_does_not_have_is_refused(self, session, tmp_path):
        stage = dataclasses.replace(counting_stage(1), gpus=3)
        with pytest.raises(ConfigError, match=r"^count: one unit takes 1 CPU, 3 GPU, and no node has that\."):
            engine(tmp_path, session).run(stage)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("kind", [InlineEngine, RoundsInline])
def test_in_one_process_a_stage_is_set_up_once(tmp_path, kind, small, model):
    made = engine(tmp_path, NoRay(), kind).run(stage_of(model, small=small))
    assert digests(made) == plain(tmp_path) and len(model.loads()) == 1


def test_a_set_up_that_fails_is_repeated_with_the_next_unit(tmp_path):
    errors = [ValueError("busy")]

    def load():
        if errors:
            raise errors.pop()

    stage = dataclasses.replace(counting_stage(3, lambda unit, scratch, _: count_up(unit, scratch)), setup=load)
    assert digests(engine(tmp_path, NoRay(), RoundsInline).run(stage)) == plain(tmp_path, 3)
