"""The verbs `status`, `logs` and `cancel`: names of runs, and what is printed."""

import json
import re
import sys

import pytest

from raymill.cluster.cli import main
from raymill.cluster.errors import UserError
from raymill.cluster.submit.backend import AttemptLost, Request, State
from raymill.cluster.submit.calls import _find
from raymill.cluster.submit.commands import Place, _duration, _first_message, _follow, _moment
from raymill.cluster.submit.local import Local
from tests.support.attempts import InMemory, attempt_of
from tests.support.works import SMALL_JOB, finished, small_work


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "NAME: empty; wanted the name of a run, as `.*runs --to local` prints it."),
        ("web", "web: no run of this name on this machine.*for a cluster's.*`.*runs --to local` lists"),
        ("big", "Did you mean big3-0123 or big3-4567?"),
    ],
)
def test_names_of_no_run(name, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for run in ("big3-0123", "big3-4567"):
        (folder := tmp_path / "raymill" / "runs" / run).mkdir(parents=True)
        record = {"run_id": run, "kind": "curate", "config_fingerprint": "", "output": "", "started": 1.0}
        (folder / "request.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit) as done:
        main(["status", name])
    assert done.value.code == 2
    assert re.search(message.replace("?", r"\?"), capsys.readouterr().err)


def test_the_end_of_a_followed_log_names_whole_commands_and_times_have_a_zone(tmp_path, capsys):
    class Interrupted(InMemory):
        def logs(self, attempt, follow, on_message):
            raise KeyboardInterrupt

    place = Place(None, "http://127.0.0.1:8311", None, False)
    work = small_work(tmp_path)
    assert _follow(Interrupted(), attempt_of(work, State.RUNNING), place) == 130
    end = capsys.readouterr().err
    assert f"logs {work.run_id} -f --address http://127.0.0.1:8311`, end it with `" in end
    assert end.endswith(f"cancel {work.run_id} --address http://127.0.0.1:8311`.\n")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+", _moment(1e9))


def test_cancel_stops_the_job(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    work = small_work(tmp_path, lines=600, every_s=0.1, stop="commit")
    attempt = Local(command=SMALL_JOB).start(Request(work, work.run_id))
    with pytest.raises(SystemExit) as done:
        main(["cancel", attempt.name])
    assert done.value.code == 0
    assert capsys.readouterr().err == (
        f"{attempt.name}: stopped. What it committed is kept. Submit the config again: it continues, or if the run had "
        "finished in the meantime, prints so and starts nothing.\n"
    )
    assert Local().attempt(attempt.name).state is State.CANCELLED


def test_a_job_that_ends_with_success_while_it_is_cancelled_has_succeeded(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    ended = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print(1, flush=True)"
    job = (sys.executable, "-c", f"{ended}; time.sleep(60)")
    attempt = (local := Local(command=job)).start(Request(small_work(tmp_path), "run"))
    next(local.logs(attempt, follow=True))
    with pytest.raises(SystemExit) as done:
        main(["cancel", "run"])
    assert done.value.code == 0
    assert capsys.readouterr().err == "run: had ended before it could be stopped (succeeded).\n"


def test_a_place_without_runs_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["runs"])
    assert capsys.readouterr().err.startswith("No runs were submitted on this machine (for a cluster's runs give")


@pytest.mark.parametrize(
    ("state", "times", "shown"),
    [
        (State.WAITING, {}, ""),
        (State.FAILED, {"started": 100.0, "ended": 165.0}, "1 min 05 s"),
        (State.CANCELLED, {"started": 100.0}, "unknown"),
        (State.RUNNING, {"started": 100.0}, "15 min 00 s"),  # until now
    ],
)
def test_the_time_that_an_attempt_took(tmp_path, monkeypatch, state, times, shown):
    monkeypatch.setattr("time.time", lambda: 1000.0)
    assert _duration(attempt_of(small_work(tmp_path), state, **times)) == shown


# --- what is printed, and the exit code


def recorded(tmp_path, name, run="", ended: dict | None = None, **fields):
    """An attempt on this machine that has ended: by a killed process without `ended`."""
    (folder := tmp_path / "raymill" / "runs" / name).mkdir(parents=True)
    record = {"run_id": run or name, "kind": "curate", "config_fingerprint": "", "output": f"/out/{name}", **fields}
    (folder / "request.json").write_text(json.dumps({"started": 1.0, **record}))
    (folder / "log").write_text(f"of {name}\n")
    if ended is not None:
        (folder / "exit.json").write_text(json.dumps({"cancelled": False, "ended": 66.0, **ended}))


def raymill(capsys, *words):
    with pytest.raises(SystemExit) as done:
        main(list(words))
    return done.value.code, *capsys.readouterr()


def test_runs_are_a_table_of_the_newest_twenty_with_the_newest_last(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for number in range(22):
        recorded(tmp_path, f"run-{number:02}", started=100.0 - number, ended={"code": 0})
    code, out, err = raymill(capsys, "runs")
    header, *rows = out.splitlines()
    assert code == 0 and header.split() == ["name", "state", "started", "time", "output"]
    assert [row.split()[0] for row in rows] == [f"run-{number:02}" for number in range(19, -1, -1)]
    assert err == "2 older attempts not shown (--all shows them).\n"
    assert {row.index("/out/") for row in rows} == {header.index("output")}, "columns are aligned"
    code, out, err = raymill(capsys, "runs", "--all")
    assert len(out.splitlines()) == 23 and err == ""


@pytest.mark.parametrize(
    ("ended", "state", "more"),
    [
        ({"code": 3}, "failed: exit code 3", ["exit code 3"]),
        ({"code": 143, "cancelled": True}, "cancelled", ["exit code 143"]),
        ({"code": 0, "cancelled": True}, "succeeded", ["exit code 0"]),
        (None, "failed: its process was killed, or the machine was restarted", ["exit code 1"]),
    ],
)
def test_the_status_of_a_run_equals_the_one_of_its_last_attempt(tmp_path, monkeypatch, capsys, ended, state, more):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    recorded(tmp_path, "web", started=1.0, ended={"code": 0})
    recorded(tmp_path, "web-a2", run="web", started=2.0, ended=ended)
    code, out, _ = raymill(capsys, "status", "web")
    lines = out.splitlines()
    assert code == 0 and lines[:3] == ["name      web-a2", "run       web (curate)", f"state     {state}"]
    assert lines[3:-3] == more and lines[-1] == "output    /out/web-a2"
    assert lines[-2] == f"time      {'1 min 04 s' if ended else 'unknown'}"
    assert raymill(capsys, "logs", "web") == (0, "of web-a2\n", "")


def test_a_name_equals_the_one_of_an_attempt_or_else_of_a_run(tmp_path):
    work, place = small_work(tmp_path), Place()
    backend = InMemory()
    names = (work.run_id, f"{work.run_id}-a2", f"{work.run_id}-a3")
    backend.found = [attempt_of(work, State.FAILED, name) for name in names]
    assert [_find(backend, name, place).name for name in names] == [names[2], names[1], names[2]]
    with pytest.raises(UserError, match=rf"Did you mean {work.run_id}\?$"):
        _find(InMemoryWith(attempt_of(work, State.FAILED)), work.run_id.replace("small", "smal"), place)


class InMemoryWith(InMemory):
    """A backend with one attempt, whose log is a line."""

    def __init__(self, attempt) -> None:
        super().__init__()
        self.found = [attempt]

    def attempt(self, name):
        return next((one for one in self.found if one.name == name), None)

    def logs(self, attempt, follow, on_message):
        yield "a line"


@pytest.mark.parametrize(
    ("state", "fields", "code", "message"),
    [
        (State.SUCCEEDED, {"exit_code": 0}, 0, "succeeded."),
        (State.FAILED, {"exit_code": 3, "message": "exit code 3"}, 3, "failed, exit code 3."),
        (State.FAILED, {"started": 1.0, "ended": 66.0}, 1, "failed after 1 min 05 s."),
        (State.CANCELLED, {"exit_code": 143}, 130, "cancelled."),
    ],
)
def test_a_followed_job_ends_with_its_exit_code(tmp_path, capsys, state, fields, code, message):
    work = small_work(tmp_path)
    ended = attempt_of(work, state, **fields)
    assert _follow(InMemoryWith(ended), ended, Place()) == code
    assert capsys.readouterr() == ("a line\n", f"{work.run_id}: {message}\n")


def test_a_followed_job_whose_result_is_gone_is_lost(tmp_path):
    backend = InMemoryWith(gone := attempt_of(small_work(tmp_path), State.RUNNING))
    backend.found.clear()
    with pytest.raises(AttemptLost, match="its result is no longer kept there"):
        _follow(backend, gone, Place())


def test_the_first_message_says_whether_the_job_is_new_and_what_it_continues(tmp_path):
    work = small_work(tmp_path)
    first = attempt_of(work, State.RUNNING, started=1e9)
    second = attempt_of(work, State.WAITING, f"{work.run_id}-a2")
    output, failed = f"Output: {work.output}", attempt_of(work, State.FAILED, message="exit code 3")
    assert _first_message(first, False, None) == f"{first.name}: attached, it is running since {_moment(1e9)}."
    assert _first_message(first, True, None) == f"{first.name}: submitted. {output}"
    continues = f"{second.name}: submitted, continues {first.name}"
    assert _first_message(second, True, failed) == f"{continues} (failed, exit code 3). {output}"
    assert _first_message(second, True, attempt_of(work, State.CANCELLED)) == f"{continues} (cancelled). {output}"


def test_a_finished_run_is_not_submitted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("raymill.cluster.submit.calls.work_of", lambda *_, **__: finished(small_work(tmp_path)))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    code, out, err = raymill(capsys, "submit", "x.yaml")
    assert (code, out) == (0, "") and "already finished, nothing to do. Output:" in err
    assert raymill(capsys, "runs")[1] == ""
