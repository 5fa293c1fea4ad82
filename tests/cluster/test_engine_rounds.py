"""The engine's rounds, attempts, patience and stall, without Ray: units run in this process."""

import dataclasses
import json
import logging
import threading
from types import SimpleNamespace

import pytest

from cluster import cli
from cluster import engine as engines
from cluster import session as sessions
from cluster import stage as stages
from cluster.engine import Engine, Patience
from cluster.errors import ClusterError, ConfigError, DataError, StageError, StorageError
from cluster.progress import Silent
from cluster.store.interface import NotFound, Unavailable
from pipelines.curate import job as curate
from tests.pipelines.curate.test_curate import story
from tests.support.inline import NoRay, RoundsInline
from tests.support.stages import count_up, counting_stage, run_inline


class Failing:
    """The work of `count_up`, with an error for some passes of some units: {unit: [error of pass 1, of pass 2, ..]}."""

    def __init__(self, errors: dict[int, list[Exception | None]]) -> None:
        self.errors = errors
        self.passes: list[int] = []

    def __call__(self, unit, scratch):
        error = next(iter(self.errors.get(unit, [])[self.passes.count(unit) :]), None)
        self.passes.append(unit)
        if error is not None:
            raise error
        return count_up(unit, scratch)


def engine(root, session: NoRay | None = None, kind=RoundsInline, **patience) -> RoundsInline:
    return kind(str(root), session or NoRay(), Silent(), Patience(**patience))


def test_only_what_failed_is_tried_again_and_no_more_often_than_allowed(tmp_path):
    work = Failing({1: [ValueError("a"), ValueError("b")], 2: [ValueError("c")]})
    made = engine(tmp_path / "run", attempts=3).run(counting_stage(4, work))
    assert work.passes == [0, 1, 2, 3, 1, 2, 1]
    assert made["squares"].manifest.digest == run_inline(counting_stage(4), str(tmp_path))["squares"].manifest.digest

    work = Failing({1: [ValueError("first"), ValueError("last")]})
    with pytest.raises(
        StageError, match=r"no result for 1 of 3 units after 2 rounds\. Unit 1: ValueError: last \("
    ) as caught:
        engine(tmp_path / "again", attempts=2).run(counting_stage(3, work))
    assert work.passes == [0, 1, 2, 1]
    assert "first" not in str(caught.value) and caught.value.exit_code == 1


def test_a_final_error_is_not_logged_beside_its_message(tmp_path, caplog):
    work = Failing({0: [DataError("a.jsonl: changed")]})
    stage = dataclasses.replace(counting_stage(1, work), small=True)
    with caplog.at_level(logging.WARNING, logger="cluster"), pytest.raises(DataError, match="changed"):
        Engine(str(tmp_path), NoRay(), Silent()).run(stage)
    assert not caplog.records


def test_a_stage_of_two_calls_has_no_wall_time(tmp_path):
    with pytest.raises(StageError):
        engine(tmp_path, attempts=1).run(counting_stage(3, Failing({1: [ValueError("a")]})))
    second = engine(tmp_path)
    second.run(counting_stage(3))
    assert second.wall_s == {}


def test_a_failed_unit_of_a_stage_that_the_driver_does_is_logged_once(tmp_path, caplog):
    work = Failing({0: [ValueError("a")]})
    with caplog.at_level(logging.ERROR, logger="cluster"):
        Engine(str(tmp_path), NoRay(), Silent()).run(dataclasses.replace(counting_stage(1, work), small=True))
    assert [record.getMessage() for record in caplog.records] == ["failed with ValueError"]


@pytest.mark.parametrize(
    "error", [ConfigError("no such label"), StorageError("no permission"), DataError("the file changed")]
)
def test_what_a_retry_cannot_mend_ends_the_run_at_once_with_its_own_class(tmp_path, error):
    work = Failing({1: [error] * 9})
    with pytest.raises(type(error), match=f"^{error}$") as caught:
        engine(tmp_path, attempts=9).run(counting_stage(3, work))
    assert type(caught.value) is type(error) and caught.value.exit_code == 2
    assert work.passes.count(1) == 1
    assert 0 in stages.committed(counting_stage(3), str(tmp_path))


@pytest.mark.parametrize(
    "error", [Unavailable("no answer"), NotFound("s3://b/x"), ClusterError("a bad disk"), OSError(5)]
)
def test_what_may_be_gone_a_minute_later_is_tried_again(tmp_path, error):
    work = Failing({0: [error]})
    engine(tmp_path, attempts=2).run(counting_stage(1, work))
    assert work.passes == [0, 0]


def test_a_unit_that_hangs_is_broken_off_with_its_ray_and_tried_again(tmp_path):
    gate, passes = threading.Event(), []

    def work(unit, scratch):
        passes.append(unit)
        if passes.count(1) == 1 and unit == 1:
            gate.wait(60)
            raise ValueError("too late to matter")
        return count_up(unit, scratch)

    session = NoRay()
    made = engine(tmp_path, session, stall_s=0.2).run(counting_stage(3, work))
    assert passes == [0, 1, 1, 2]
    gate.set()
    assert made["squares"].manifest.rows == 3
    assert (session.starts, session.stops) == (2, 1)


def test_a_stall_in_every_round_is_told_with_its_seconds(tmp_path):
    gate = threading.Event()
    session = NoRay()
    with pytest.raises(
        StageError, match=r"no result for 1 of 1 unit after 2 rounds(?s:.*)no unit was committed or failed for \d+ s"
    ):
        engine(tmp_path, session, attempts=2, stall_s=0.05).run(counting_stage(1, lambda *_: gate.wait(60)))
    gate.set()
    assert session.stops == 2


def test_patience_is_counted_from_the_last_unit_and_not_from_the_beginning(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0, looks=0)

    def monotonic() -> float:
        clock.looks += 1
        return clock.now

    class Slow(RoundsInline):
        def _map(self, run, rows):
            for answer in super()._map(run, rows):
                yield answer
                clock.now += 700  # of 900; then the main thread looks twice and finds nothing new
                seen = clock.looks
                while clock.looks < seen + 2:
                    pause.wait(0.001)

    pause = threading.Event()
    monkeypatch.setattr(engines, "_POLL_S", 0.01)
    monkeypatch.setattr(engines, "time", SimpleNamespace(monotonic=monotonic, perf_counter=lambda: 0.0))
    session = NoRay()
    engine(tmp_path, session, kind=Slow, attempts=1, stall_s=900).run(counting_stage(3))
    assert session.stops == 0


def test_a_round_that_ray_ends_with_an_error_is_repeated_on_a_fresh_ray(tmp_path):
    class Breaking(RoundsInline):
        rounds = 0

        def _map(self, run, rows):
            self.rounds += 1
            yield from super()._map(run, rows[:1])
            if self.rounds < 3:
                raise RuntimeError("the object store is full")

    session = NoRay()
    broken = engine(tmp_path, session, kind=Breaking, attempts=2)
    with pytest.raises(
        StageError, match=r"for 1 of 3 units after 2 rounds(?s:.*)RuntimeError: the object store is full"
    ):
        broken.run(counting_stage(3))
    assert (broken.rounds, session.starts, session.stops) == (2, 2, 2)


def test_what_a_killed_driver_left_beside_a_finished_artifact_is_swept_by_the_next_call(tmp_path):
    made = engine(tmp_path).run(counting_stage(3))["squares"]
    left = tmp_path / "squares" / "000001-000-zombie.parquet"
    left.write_bytes(b"half a file")
    session = NoRay()
    assert engine(tmp_path, session).run(counting_stage(3))["squares"].manifest == made.manifest
    assert not left.exists() and session.starts == 0


def test_a_unit_whose_answer_is_lost_after_its_record_is_not_done_again(tmp_path):
    class Forgetful(RoundsInline):
        def _map(self, run, rows):
            return (answer for answer in super()._map(run, rows) if json.loads(answer)["unit"] != 1)

    work = Failing({})
    engine(tmp_path, kind=Forgetful, attempts=1).run(counting_stage(3, work))
    assert work.passes == [0, 1, 2]


@pytest.mark.parametrize("complaint", [None, "The worker was killed for memory"])
def test_a_worker_that_leaves_no_answer_is_explained_by_what_ray_logged(tmp_path, complaint):
    class Silenced(RoundsInline):
        def _map(self, run, rows):
            if complaint:
                logging.getLogger(sessions.LOST_TASKS_LOGGER).error(complaint)
            return iter(())

    with pytest.raises(StageError, match=rf"after 1 round\. Unit 0: .*{complaint or 'memory'}"):
        engine(tmp_path, kind=Silenced, attempts=1).run(counting_stage(1))


def test_a_dead_ray_ends_the_run_at_once(tmp_path):
    session = NoRay()
    session.lost = True
    with pytest.raises(ClusterError, match=r"died.*run the same command again") as caught:
        engine(tmp_path, session, attempts=3).run(counting_stage(3))
    assert (type(caught.value), session.starts, session.stops) == (ClusterError, 1, 0)


# --- through the command line


def test_an_input_that_changes_under_the_run_ends_it_with_2_and_the_mend(tmp_path, monkeypatch, capsys):
    source, rounds = tmp_path / "texts.jsonl", []
    source.write_text("".join(json.dumps({"id": str(n), "text": story(n)}) + "\n" for n in range(5)))

    class Changing(RoundsInline):
        def _map(self, run, rows):
            rounds.append(run.stage.name)
            source.write_text(json.dumps({"id": "new", "text": story(99)}) + "\n")
            return super()._map(run, rows)

    monkeypatch.setattr(curate, "Engine", Changing)
    monkeypatch.setattr(sessions, "Session", NoRay)
    config = tmp_path / "curate.json"
    config.write_text(
        json.dumps({"kind": "curate", "name": "x", "inputs": [{"path": str(source)}], "output": str(tmp_path / "run")})
    )
    with pytest.raises(SystemExit) as leaving:
        cli.main(["curate", str(config)])
    error = capsys.readouterr().err
    assert leaving.value.code == 2
    assert "texts.jsonl: changed since this run began" in error and "Put the old file back" in error
    assert "round 2" not in error and "Traceback" not in error and "after 3 rounds" not in error
    assert rounds == ["measure"]
