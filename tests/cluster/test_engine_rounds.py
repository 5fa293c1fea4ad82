"""The engine's rounds, attempts, limits of retries and stall, without Ray: units run in this process."""

import dataclasses
import json
import logging
import pickle
import threading
import time
from types import SimpleNamespace

import pytest

from raymill.cluster import cli
from raymill.cluster import engine as engines
from raymill.cluster import stage as stages
from raymill.cluster.artifact import MANIFEST
from raymill.cluster.engine import Engine, RetryLimits
from raymill.cluster.errors import BusyError, ClusterError, ConfigError, DataError, StageError, StorageError
from raymill.cluster.metrics import ENDED, FAILED, NOT_EXPORTED, RUNNING
from raymill.cluster.nodes import Node
from raymill.cluster.output import Output
from raymill.cluster.progress import Progress
from raymill.cluster.store.interface import NotFound, Unavailable
from tests.support.inline import NoRay, RoundsInline
from tests.support.stages import NUMBERS, count_up, counting_stage, run_inline
from tests.support.stories import story


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


def engine(root, session: NoRay | None = None, kind=RoundsInline, **limits) -> RoundsInline:
    return kind(str(root), session or NoRay(), Progress(), RetryLimits(**limits))


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
    with caplog.at_level(logging.WARNING, logger="raymill"), pytest.raises(DataError, match="changed"):
        Engine(str(tmp_path), NoRay(), Progress()).run(stage)
    assert not caplog.records


def test_a_stage_of_two_calls_has_no_wall_time(tmp_path):
    with pytest.raises(StageError):
        engine(tmp_path, attempts=1).run(counting_stage(3, Failing({1: [ValueError("a")]})))
    second = engine(tmp_path)
    second.run(counting_stage(3))
    assert second.wall_s == {}


def test_a_failed_unit_of_a_stage_that_the_driver_does_is_logged_once(tmp_path, caplog):
    work = Failing({0: [ValueError("a")]})
    with caplog.at_level(logging.ERROR, logger="raymill"):
        Engine(str(tmp_path), NoRay(), Progress()).run(dataclasses.replace(counting_stage(1, work), small=True))
    assert [record.getMessage() for record in caplog.records] == ["failed with ValueError"]


@pytest.mark.parametrize(
    "error", [ConfigError("no such label"), StorageError("no permission"), DataError("the file changed")]
)
def test_what_a_retry_cannot_fix_ends_the_run_at_once_with_its_own_class(tmp_path, error):
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
    made = engine(tmp_path, session, stall_s=2).run(counting_stage(3, work))
    assert passes == [0, 1, 1, 2]
    gate.set()
    assert made["squares"].manifest.rows == 3
    assert (session.starts, session.stops) == (2, 1)


def test_no_time_counts_as_a_stall_before_the_cluster_has_a_cpu(tmp_path):
    """An autoscaler takes minutes to start the first machine."""
    began = threading.Event()

    def work(unit, scratch):
        began.wait(60)
        return count_up(unit, scratch)

    class Starting(NoRay):
        def could_run(self, wanted) -> bool:
            if super().could_run(wanted):
                began.set()
            return began.is_set()

    session = Starting()
    session.cpus_come_after = 6
    engine(tmp_path, session, attempts=1, stall_s=1).run(counting_stage(1, work))
    assert session.stops == 0


def test_a_stall_in_every_round_is_reported_with_its_seconds(tmp_path):
    gate = threading.Event()
    session = NoRay()
    with pytest.raises(
        StageError, match=r"no result for 1 of 1 unit after 2 rounds(?s:.*)no unit was committed or failed for \d+ s"
    ):
        engine(tmp_path, session, attempts=2, stall_s=0.05).run(counting_stage(1, lambda *_: gate.wait(60)))
    gate.set()
    assert session.stops == 2


def test_a_stall_is_counted_from_the_last_unit_and_not_from_the_beginning(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0, looks=0)

    def monotonic() -> float:
        clock.looks += 1
        return clock.now

    class Slow(RoundsInline):
        def _answers_of(self, run, units):
            for answer in super()._answers_of(run, units):
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

        def _map(self, run, units, options):
            self.rounds += 1
            yield from super()._map(run, {0: units[0]} if self.rounds == 1 else {1: units[1]}, options)
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
        def _map(self, run, units, options):
            return (answer for answer in super()._map(run, units, options) if answer["unit"] != 1)

    work = Failing({})
    engine(tmp_path, kind=Forgetful, attempts=1).run(counting_stage(3, work))
    assert work.passes == [0, 1, 2]


def test_a_dead_ray_ends_the_run_at_once(tmp_path):
    session = NoRay()
    session.lost = True
    with pytest.raises(ClusterError, match=r"died.*make the same call again") as caught:
        engine(tmp_path, session, attempts=3).run(counting_stage(3))
    assert (type(caught.value), session.starts, session.stops) == (ClusterError, 1, 0)


def test_a_ray_whose_death_is_first_seen_as_an_error_of_the_round_ends_the_run_at_once_too(tmp_path):
    class Dying(RoundsInline):
        def _map(self, run, units, options):
            self.session.lost = True
            raise RuntimeError("connection lost")
            yield

    session = NoRay()
    with pytest.raises(ClusterError, match="died") as caught:
        engine(tmp_path, session, kind=Dying, attempts=3).run(counting_stage(3))
    assert (type(caught.value), session.starts, session.stops) == (ClusterError, 1, 0)


def test_a_worker_answers_for_each_unit_and_logs_its_failures_with_run_stage_and_unit(tmp_path, capsys):
    work = Failing({3: [ValueError("a document's own words")]})
    run = engines._RunUnit(counting_stage(5, work), str(tmp_path / "nightly"))
    answers = [run(unit, pickle.dumps(unit)) for unit in (4, 3, 0)]
    assert [answer["unit"] for answer in answers] == work.passes == [4, 3, 0]
    assert [json.loads(answers[at]["record"])["counters"]["documents"] for at in (0, 2)] == [4, 0]
    assert (answers[1]["kind"], answers[1]["final"]) == ("ValueError", None) and "own words" in answers[1]["error"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" error run=nightly stage=count unit=3 raymill.cluster.engine: failed with ValueError")


class Counted:
    """Metrics as a list of what was recorded, checked like those that nobody collects."""

    def __init__(self) -> None:
        self.run, self.recorded = "", []

    def set(self, name, value, **tags) -> None:
        NOT_EXPORTED.set(name, value, **tags)
        self.recorded.append((name, value, tags.get("stage")))

    def add(self, name, value, **tags) -> None:
        NOT_EXPORTED.add(name, value, **tags)
        self.recorded.append((name, value, tags.get("stage")))

    def set_to_now(self, name) -> None:
        self.set(name, "now")

    def total(self, name: str) -> float:
        return sum(value for found, value, stage in self.recorded if found == f"raymill_{name}" and stage == "count")

    def values(self, name: str) -> list:
        return [value for found, value, _ in self.recorded if found == f"raymill_{name}"]


@pytest.fixture
def counted(monkeypatch) -> Counted:
    found = Counted()
    monkeypatch.setattr(engines, "connect", lambda run: setattr(found, "run", run) or found)
    return found


def test_what_a_stage_exports_is_a_plain_count_over_its_units(tmp_path, counted):
    def work(unit, scratch):
        flaky(unit, scratch)
        return {"documents": 10 * unit, "quarantined": unit}

    flaky = Failing({1: [ValueError("a"), ValueError("b")], 3: [ValueError("c")]})
    stage = counting_stage(6, work)
    for unit in (0, 5):
        stages.run_unit(stage, str(tmp_path / "nightly"), unit, unit)
    counted_engine = engine(tmp_path / "nightly")
    counted_engine.run(stage)
    made = (1, 2, 3, 4)  # the others are of an earlier call
    assert counted.run == "nightly" and counted_engine.units == {"count": 6}
    assert counted.total("units_committed") == len(made)
    assert counted.total("documents") == sum(10 * unit for unit in made)
    assert counted.total("documents_quarantined") == sum(made)
    assert counted.total("rows_committed") == sum(unit + 1 for unit in made)
    assert (counted.total("failed_attempts"), counted.total("units_retried"), counted.total("stalls")) == (3, 2 + 1, 0)
    assert set(counted.values("stage_units")) == {6} and counted.values("stage_units_done") == [2, 3, 4, 5, 6]
    assert counted.values("run_state") == [RUNNING] * 5 + [ENDED]
    assert counted.values("progress_time") == ["now"] * 5


def test_a_stage_that_fails_or_stalls_exports_that(tmp_path, counted):
    gate = threading.Event()
    with pytest.raises(StageError):
        engine(tmp_path / "stalled", attempts=2, stall_s=0.05).run(counting_stage(1, lambda *_: gate.wait(60)))
    gate.set()
    assert counted.total("stalls") == 2 and counted.values("run_state")[-1] == FAILED
    with pytest.raises(DataError):
        engine(tmp_path / "failed").run(counting_stage(1, Failing({0: [DataError("x")]})))
    assert counted.values("run_state")[-1] == FAILED


def test_a_round_is_announced_with_its_number_and_the_units_that_it_does_again(tmp_path, caplog):
    work = Failing({unit: [ValueError("x")] * (unit - 1) for unit in range(5)})
    engine(tmp_path, attempts=4).run(counting_stage(5, work))
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("round")]
    assert said == ["round 2 for 3 units", "round 3 for 2 units", "round 4 for 1 unit"]


def test_the_wall_time_equals_the_one_of_the_stages_that_this_call_began_and_ended(tmp_path, monkeypatch):
    ticks = iter([100.0, 107.12345])
    monkeypatch.setattr(engines, "time", SimpleNamespace(monotonic=time.monotonic, perf_counter=lambda: next(ticks)))
    began = engine(tmp_path)
    began.run(counting_stage(3))
    assert began.wall_s == {"count": 7.123}
    found = engine(tmp_path)
    found.run(counting_stage(3))
    assert (found.wall_s, found.units) == ({}, {"count": 3})


@pytest.mark.parametrize("replace", [False, True])
def test_an_artifact_of_other_settings_is_replaced_where_that_is_wanted_alone(tmp_path, replace):
    run_inline(counting_stage(2, fingerprint="e" * 32), str(tmp_path))
    mine = engine(tmp_path)
    mine.replace = replace
    if not replace:
        with pytest.raises(DataError, match="replace=True"):
            mine.run(counting_stage(4))
        return
    assert mine.run(counting_stage(4))["squares"].manifest.rows == 4


def test_a_small_stage_starts_no_ray_and_a_finished_one_neither(tmp_path):
    session = NoRay()
    Engine(str(tmp_path), session, Progress()).run(dataclasses.replace(counting_stage(3), small=True))
    engine(tmp_path, session).run(counting_stage(3))
    for unit in range(2):
        stages.run_unit(counting_stage(2), str(tmp_path / "committed"), unit, unit)
    engine(tmp_path / "committed", session).run(counting_stage(2))
    assert session.starts == 0
    engine(tmp_path / "new", session).run(counting_stage(3))
    assert session.starts == 1


def test_the_error_of_a_stage_counts_its_units_names_the_first_and_keeps_its_traceback(tmp_path):
    work = Failing({unit: [ValueError(f"unit {unit}\nwas {'bad ' * 200}")] for unit in (1, 3, 4)})
    stage = dataclasses.replace(counting_stage(6, work), describe=lambda unit: f"file-{unit}.txt")
    with pytest.raises(StageError) as caught:
        engine(tmp_path, attempts=1).run(stage)
    said = str(caught.value)
    assert said.startswith(
        "count: no result for 3 of 6 units after 1 round. Unit 1 (file-1.txt): ValueError: unit 1 was bad"
    )
    assert "Finished units (3) are kept: fix" in said and "\n" not in said
    (note,) = caught.value.__notes__
    assert note.startswith("Traceback") and "in __call__" in note and "unit 1" in note


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a", "a."), ("a.", "a."), ("a!", "a!"), ("a?", "a?"), (" a\n\t b ", "a b."), ("a:", "a:."),
        ("x" * 400, "x" * 400 + "."), ("x" * 399 + ".", "x" * 399 + "."), ("x" * 401, "x" * 400 + " ..."),
    ],
)  # fmt: skip
def test_a_cause_is_one_line_of_bounded_length_with_a_full_stop(text, line):
    assert engines._one_line(text) == line


def test_a_cause_has_class_message_notes_and_the_line_that_raised_it_and_a_message_of_ours_is_enough():
    def raise_it(error: Exception) -> None:
        raise error

    def fail(error: Exception) -> str:
        try:
            raise_it(error)
        except Exception as caught:
            return engines._cause(caught)

    noted = ValueError("bad")
    noted.add_note("first")
    noted.add_note("second")
    line = raise_it.__code__.co_firstlineno + 1
    assert fail(noted) == f"ValueError: bad first second (test_engine_rounds.py, line {line})"
    assert fail(ClusterError("bad")) == f"ClusterError: bad (test_engine_rounds.py, line {line})"
    assert fail(Unavailable("a bucket. Do this.")) == "a bucket. Do this."


# --- through the command line


def test_an_input_that_changes_under_the_run_ends_it_with_2_and_the_fix(tmp_path, monkeypatch, capsys):
    source, rounds = tmp_path / "texts.jsonl", []
    source.write_text("".join(json.dumps({"id": str(n), "text": story(n)}) + "\n" for n in range(5)))

    class Changing(RoundsInline):
        def _map(self, run, units, options):
            rounds.append(run.stage.name)
            source.write_text(json.dumps({"id": "new", "text": story(99)}) + "\n")
            return super()._map(run, units, options)

    monkeypatch.setattr("raymill.cluster.frame.job.Engine", Changing)
    monkeypatch.setattr("raymill.cluster.frame.calls.opened", NoRay)
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


class OnNodes(NoRay):
    """A session on a cluster with these nodes."""

    def __init__(self, *nodes: Node) -> None:
        super().__init__()
        self.there = list(nodes)

    def nodes(self) -> list[Node]:
        return self.there


SMALL, LARGE = (Node(name, {"CPU": 2, "memory": gib << 30}) for name, gib in (("small", 4), ("large", 20)))
HEAD = Node("head", {"memory": 64 << 30})
WITH_GPU = Node("gpu", {"CPU": 2, "GPU": 1, "memory": 64 << 30}, accelerated=True)


@pytest.mark.parametrize("answer", [True, None])
@pytest.mark.parametrize("nodes", [(SMALL, LARGE), (HEAD,), (SMALL,), ()])
def test_a_unit_waits_for_a_node_that_is_there_or_may_come(tmp_path, monkeypatch, answer, nodes):
    monkeypatch.setattr(engines, "can_add", lambda bundles: answer)
    stage = dataclasses.replace(counting_stage(2), memory=10 << 30)
    assert engine(tmp_path, OnNodes(*nodes)).run(stage)


def test_a_unit_for_which_no_node_has_memory_is_refused_before_it_is_started(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(engines, "can_add", lambda bundles: bool(asked.append(bundles)))
    work = Failing({})
    stage = dataclasses.replace(counting_stage(2, work), memory=30 << 30)
    with pytest.raises(ConfigError) as caught:
        engine(tmp_path, OnNodes(HEAD, SMALL, LARGE)).run(stage)
    assert str(caught.value) == (
        "count: one unit takes 30.0 GiB of memory, and the largest node of the cluster has 20.0 GiB for tasks. Join a "
        "larger node and make the same call again; finished stages are kept."
    )
    assert asked == [[{"CPU": 1, "memory": 30 << 30}]] and not work.passes
    assert engine(tmp_path, OnNodes(HEAD)).run(stage), "a cluster without CPUs gets them later"


class Shows(RoundsInline):
    """Keeps the options of its tasks."""

    def _map(self, run, units, options):
        self.options = options
        return super()._map(run, units, options)


@pytest.mark.parametrize(
    ("memory", "wanted"),
    [
        (0, {"label_selector": {"ray.io/node-id": "!in(gpu)"}}),
        (1 << 30, {"memory": 1 << 30, "label_selector": {"ray.io/node-id": "!in(gpu)"}}),
        (5 << 30, {"memory": 5 << 30}),  # too large for the node without GPUs
    ],
)
def test_tasks_reserve_the_memory_of_a_unit_and_stay_off_gpus(tmp_path, memory, wanted):
    shows = engine(tmp_path, OnNodes(SMALL, WITH_GPU), Shows)
    shows.run(dataclasses.replace(counting_stage(2), memory=memory))
    assert shows.options == {"num_cpus": 1} | wanted


@pytest.mark.parametrize(
    ("memory", "wanted"), [(0, {}), (1 << 30, {"memory": 1 << 30}), (9 << 30, {"memory": 4 << 30})]
)
def test_a_task_on_this_machine_reserves_no_more_than_it_has(tmp_path, monkeypatch, memory, wanted):
    monkeypatch.setattr(NoRay, "memory", lambda session: float(4 << 30))
    shows = engine(tmp_path, kind=Shows)
    shows.run(dataclasses.replace(counting_stage(2), memory=memory))
    assert shows.options == {"num_cpus": 1} | wanted


def test_a_run_is_checked_before_each_stage_and_before_it_publishes_and_does_no_unit_after_a_refusal(tmp_path):
    """As by the lease of the output, which another driver may have taken."""
    work, asked = Failing({}), []
    before = dataclasses.replace(counting_stage(2, work), name="count.before", outputs=(Output("before", NUMBERS),))
    before = dataclasses.replace(before, work=lambda unit, scratch: work.passes.append(unit) or {})
    last = dataclasses.replace(counting_stage(0, work), prepare=lambda run: [len(run(before)), 3])

    def check() -> None:
        asked.append(list(work.passes))
        if len(asked) == 2:
            raise BusyError("another run took over here")

    mine = engine(tmp_path)
    mine.check = check
    with pytest.raises(BusyError):
        mine.run(last)
    assert asked == [[], []] and not work.passes
    mine.run(last)
    mine.run(last)
    assert asked[2:] == [[], [], [0, 1], [0, 1, 1, 3], [0, 1, 1, 3]], "also before a stage that is found finished"


def test_a_driver_that_lost_its_lease_during_a_stage_publishes_nothing(tmp_path):
    mine = engine(tmp_path)
    stage = counting_stage(2)

    def check() -> None:
        if len(stages.committed(stage, str(tmp_path))) == 2:
            raise BusyError("another run took over here")

    mine.check = check
    with pytest.raises(BusyError):
        mine.run(stage)
    assert stages.published(stage, str(tmp_path)) is None and len(stages.committed(stage, str(tmp_path))) == 2


def test_what_prepares_a_stage_is_counted_in_its_time_removed_after_it_and_not_made_again(tmp_path, monkeypatch):
    done, took = [], []
    monkeypatch.setattr(stages, "time", SimpleNamespace(perf_counter=lambda: sum(took)))

    def slow(unit, scratch):
        done.append(unit)
        took.append(0.03)
        return count_up(unit, scratch)

    def slower(unit, scratch):
        done.append(unit)
        took.append(0.1)
        return {}

    outputs = (Output("before", NUMBERS),)
    before = dataclasses.replace(counting_stage(2, slower), name="count.before", outputs=outputs)
    last = dataclasses.replace(counting_stage(0, slow), prepare=lambda run: [len(run(before)), 3])
    first, again = engine(tmp_path), engine(tmp_path)
    made = first.run(last)
    assert (done, made["squares"].table()["number"].to_pylist()) == ([0, 1, 1, 3], [1, 9])
    assert made["squares"].manifest.seconds == 2 * 0.1 + 2 * 0.03
    assert not (tmp_path / "before" / MANIFEST).exists() and not list((tmp_path / "_commits").glob("count.before-*/*"))
    assert again.run(last)["squares"].manifest.digest == made["squares"].manifest.digest and len(done) == 4
    assert first.units == {"count.before": 2, "count": 2} and again.units == {"count": 2}
