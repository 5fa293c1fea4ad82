"""The verbs `status`, `logs` and `cancel`: names of runs, and what is printed."""

import json
import re
import sys

import pytest

from cluster.cli import main
from cluster.submit.backend import Request, State
from cluster.submit.commands import _duration, _follow, _moment
from cluster.submit.local import Local
from cluster.submit.place import Place
from tests.support.attempts import InMemory, attempt_of
from tests.support.works import SMALL_JOB, small_work


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
        def logs(self, attempt, follow):
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
