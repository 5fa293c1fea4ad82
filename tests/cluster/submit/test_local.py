"""Jobs of this machine: processes that go on without their terminal, in folders of their own."""

import json
import os
import re
import signal
import stat
import subprocess
import sys

import pytest

from cluster.errors import ClusterError, DataError, StorageError
from cluster.submit.backend import AttemptLost, Request, State
from cluster.submit.local import Local
from tests.support.processes import wait_until
from tests.support.works import SMALL_JOB, small_work


def started(tmp_path, **config):
    local = Local(tmp_path / "runs", SMALL_JOB)
    return local, local.start(Request(small_work(tmp_path, **config), "run"))


def process_of(tmp_path) -> int:
    file = tmp_path / "runs" / "run" / "process"
    assert wait_until(file.exists, 20)
    return int(file.read_text())


def test_a_job_continues_when_its_terminal_is_closed(tmp_path):
    local, attempt = started(tmp_path, lines=10, every_s=0.1)
    process = process_of(tmp_path)
    assert os.getsid(process) != os.getsid(0), "it has a session of its own"
    os.kill(process, signal.SIGHUP)
    assert list(local.logs(attempt, follow=True)) == [f"line {number}" for number in range(10)]
    assert local.attempt("run").state is State.SUCCEEDED


def test_a_job_whose_process_was_killed_has_failed(tmp_path):
    local, attempt = started(tmp_path, lines=10, every_s=0.1)
    next(log := local.logs(attempt, follow=True))
    os.kill(process_of(tmp_path), signal.SIGKILL)
    list(log)
    found = local.attempt("run")
    assert (found.state, found.exit_code, found.ended) == (State.FAILED, 1, None)
    assert found.message == "its process was killed, or the machine was restarted"
    local.cancel(found)  # nothing to do
    assert local.attempt("run").state is State.FAILED


def test_a_job_that_a_signal_ended_has_its_number(tmp_path):
    killed = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    attempt = (local := Local(tmp_path, killed)).start(Request(small_work(tmp_path), "run"))
    list(local.logs(attempt, follow=True))
    found = local.attempt("run")
    assert (found.state, found.exit_code, found.message) == (State.FAILED, 137, "exit code 137")


def test_a_job_that_cannot_be_stopped_is_named_with_its_process(tmp_path):
    local, attempt = started(tmp_path, lines=20, every_s=0.1, stop="ignore")
    next(local.logs(attempt, follow=True))
    local.grace_s = -30
    with pytest.raises(ClusterError, match=rf"still running 0 s .* to stop.*`kill -9 {process_of(tmp_path)}`"):
        local.cancel(attempt)
    assert wait_until(lambda: local.attempt("run").state is State.SUCCEEDED, 20)


def test_the_folder_of_an_attempt_is_for_its_user_alone_and_without_it_the_log_is_lost(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert Local().folder == tmp_path / "state" / "raymill" / "runs"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Local().folder == tmp_path / ".local" / "state" / "raymill" / "runs"
    local, attempt = started(tmp_path)
    assert [*local.logs(attempt, follow=True)] == []
    for folder in (tmp_path / "runs", tmp_path / "runs" / "run"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (tmp_path / "runs" / "run").rename(tmp_path / "elsewhere")
    assert local.attempt("run") is None and local.config(attempt) is None
    with pytest.raises(AttemptLost, match="run: its folder was removed"):
        next(local.logs(attempt, follow=False))


def test_a_submit_that_was_killed_before_the_job_leaves_its_name_free(tmp_path):
    (tmp_path / "runs" / "run").mkdir(parents=True)
    assert Local(tmp_path / "runs").attempts() == []
    local, attempt = started(tmp_path, lines=1)
    assert list(local.logs(attempt, follow=True)) == ["line 0"]


def test_a_job_that_is_cancelled_at_once_is_cancelled(tmp_path):
    """Its process may not have begun."""
    local, attempt = started(tmp_path, lines=600, every_s=0.1)
    local.cancel(attempt)
    assert local.attempt("run").state is State.CANCELLED


def test_no_process_but_that_of_the_job_is_stopped_whatever_id_its_folder_names(tmp_path):
    """The folder may have been edited, or the job runs on another machine with the same home folder."""
    local, attempt = started(tmp_path, lines=600, every_s=0.1)
    process_of(tmp_path)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (tmp_path / "runs" / "run" / "process").write_text(str(other.pid))
        local.cancel(attempt)
        assert local.attempt("run").state is State.CANCELLED
        assert other.poll() is None
    finally:
        other.communicate()


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("request.json", {"started": 1e300}),
        ("request.json", {"started": "today"}),
        ("request.json", {"output": "/out\nother  running"}),
        ("request.json", {"run_id": ["a"]}),
        ("request.json", None),
        ("exit.json", {"code": "0"}),
        ("exit.json", {"ended": -1}),
        ("exit.json", None),
    ],
)
def test_a_damaged_record_is_named_and_does_not_hide_the_other_jobs(tmp_path, caplog, file, change):
    local = Local(tmp_path / "runs", (sys.executable, "-c", ""))
    for name in ("run", "other"):
        list(local.logs(local.start(Request(small_work(tmp_path), name)), follow=True))
    damaged = tmp_path / "runs" / "run" / file
    plain = json.loads(damaged.read_text())
    damaged.write_text("[" * 100_000 if change is None else json.dumps(plain | change))
    assert [one.name for one in local.attempts()] == ["other"]
    assert f"not listed: {damaged}" in caplog.text
    with pytest.raises(DataError, match=re.escape(str(damaged))):
        local.attempt("run")


def test_a_fifo_in_the_folder_of_a_job_is_not_waited_for(tmp_path):
    local = Local(tmp_path / "runs", (sys.executable, "-c", ""))
    list(local.logs(local.start(Request(small_work(tmp_path), "run")), follow=True))
    for file in ("lock", "exit.json"):
        (tmp_path / "runs" / "run" / file).unlink()
        os.mkfifo(tmp_path / "runs" / "run" / file)
    with pytest.raises(StorageError, match=r"exit\.json: is a FIFO"):
        local.attempt("run")
