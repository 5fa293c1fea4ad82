"""Jobs of this machine: processes that go on without their terminal, in folders of their own."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest

from raymill.cluster.errors import ClusterError, DataError, StorageError
from raymill.cluster.submit import local as local_module
from raymill.cluster.submit.backend import AttemptExists, AttemptLost, Request, State
from raymill.cluster.submit.local import Local
from tests.support.processes import wait_until
from tests.support.sampled import sampled
from tests.support.works import SMALL_JOB, small_work


def started(tmp_path, **config):
    local = Local(tmp_path / "runs", SMALL_JOB)
    return local, local.start(Request(small_work(tmp_path, **config), "run"))


def ended(tmp_path, *names: str, lines: int = 1) -> Local:
    """A folder of jobs that have ended: `run`, or those of these names."""
    local = Local(tmp_path / "runs", SMALL_JOB)
    for name in names or ("run",):
        list(local.logs(local.start(Request(small_work(tmp_path, lines=lines), name)), follow=True))
    return local


@contextmanager
def unchanged(tmp_path) -> Iterator[Path]:
    """A folder of private files outside of the jobs', none of which may be changed or made inside."""
    private = tmp_path / "private"
    private.mkdir()
    (private / "diary").write_text("private\n")
    yield private
    assert {file.name: file.read_text() for file in private.iterdir()} == {"diary": "private\n"}


def put(path: Path, what: str, private: Path) -> None:
    """Put something else in the place of a file."""
    path.unlink(missing_ok=True)
    match what:
        case "link":
            path.symlink_to(private / "diary")
        case "dangling link":
            path.symlink_to(private / "new")
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)


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


def test_no_process_but_the_one_of_the_job_is_stopped_whatever_id_its_folder_names(tmp_path):
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
        ("request.json", {"started": True}),
        ("request.json", {"output": "/out\nother  running"}),
        ("request.json", {"run_id": ["a"]}),
        ("request.json", None),
        ("exit.json", {"code": "0"}),
        ("exit.json", {"code": 10**20}),
        ("exit.json", {"code": -1}),
        ("exit.json", {"code": False}),
        ("exit.json", {"cancelled": 1}),
        ("exit.json", {"ended": -1}),
        ("exit.json", {"ended": 1}),
        ("exit.json", None),
    ],
)
def test_a_damaged_record_is_named_and_does_not_hide_the_other_jobs(tmp_path, caplog, file, change):
    local = ended(tmp_path, "run", "other")
    damaged = tmp_path / "runs" / "run" / file
    plain = json.loads(damaged.read_text())
    damaged.write_text("[" * 100_000 if change is None else json.dumps(plain | change))
    assert [one.name for one in local.attempts()] == ["other"]
    assert f"not listed: {damaged}" in caplog.text
    with pytest.raises(DataError, match=re.escape(str(damaged))):
        local.attempt("run")


@pytest.mark.parametrize(
    ("file", "what"),
    sampled(product(["request.json", "lock", "exit.json"], ["link", "dangling link", "folder", "fifo"]), 5),
)
def test_a_job_with_something_else_in_the_place_of_a_file_is_left_out_and_the_others_are_listed(
    tmp_path, caplog, file, what
):
    local = ended(tmp_path, "run", "other")
    with unchanged(tmp_path) as private:
        put(tmp_path / "runs" / "run" / file, what, private)
        assert [one.name for one in local.attempts()] == ["other"]
        damaged = tmp_path / "runs" / "run" / file
        assert f"not listed: {damaged}: {'is a link' if 'link' in what else 'cannot be opened'}" in caplog.text
        with pytest.raises(DataError, match=re.escape(str(damaged))):
            local.start(Request(small_work(tmp_path), "run"))


@pytest.mark.parametrize("what", ["link", "dangling link", "folder", "fifo"])
def test_a_log_that_is_no_file_is_not_printed(tmp_path, what):
    local = ended(tmp_path)
    with unchanged(tmp_path) as private:
        put(tmp_path / "runs" / "run" / "log", what, private)
        with pytest.raises(DataError, match="log: is a link" if "link" in what else "log: cannot be opened"):
            list(local.logs(local.attempt("run"), follow=False))


@pytest.mark.parametrize("what", ["link", "dangling link"])
def test_cancel_makes_no_file_through_a_link(tmp_path, what):
    local, attempt = started(tmp_path, lines=600, every_s=0.1)
    with unchanged(tmp_path) as private:
        put(tmp_path / "runs" / "run" / "cancel", what, private)
        local.cancel(attempt)
    assert local.attempt("run").state is State.CANCELLED


@pytest.mark.parametrize("what", ["link", "dangling link", "folder", "fifo"])
@pytest.mark.parametrize("file", ["lock", "log", ".request.json", "process", "exit.json", "cancel"])
def test_submit_writes_into_no_folder_that_holds_what_no_submit_left_there(tmp_path, file, what):
    """Its name is foreseeable: the config's name and fingerprint."""
    (folder := tmp_path / "runs" / "run").mkdir(parents=True)
    with unchanged(tmp_path) as private:
        put(folder / file, what, private)
        with pytest.raises(DataError, match=r"Remove the folder"):
            started(tmp_path)
    assert {one.name for one in folder.iterdir()} <= {file, "lock"}


def test_submit_and_the_lists_follow_no_link_in_the_place_of_a_jobs_folder(tmp_path, caplog):
    local = ended(tmp_path, "elsewhere")
    (tmp_path / "runs" / "elsewhere").rename(tmp_path / "elsewhere")
    (tmp_path / "runs" / "run").symlink_to(tmp_path / "elsewhere")
    assert local.attempts() == [] and "is a link" in caplog.text
    (tmp_path / "elsewhere" / "request.json").unlink()
    with pytest.raises(DataError, match="is a link"):
        local.start(Request(small_work(tmp_path), "run"))


def test_a_name_that_is_taken_by_a_sound_job_is_an_attempt_that_exists(tmp_path):
    local = ended(tmp_path)
    with pytest.raises(AttemptExists):
        local.start(Request(small_work(tmp_path), "run"))


def test_the_end_of_a_long_log_is_printed_without_the_zeros_of_its_holes(tmp_path, monkeypatch, caplog):
    local = ended(tmp_path, lines=3)
    log = tmp_path / "runs" / "run" / "log"
    with log.open("r+b") as file:
        file.seek(2 << 30)  # of no byte on the disk
        file.write(b"end\n")
    monkeypatch.setattr(local_module, "_LONGEST_LOG", 1 << 20)
    assert list(local.logs(local.attempt("run"), follow=False)) == ["end"]
    assert f"{log}: the first {(2 << 30) + 4 - (1 << 20):,} bytes are not printed" in caplog.text


def test_a_log_that_is_emptied_while_the_job_runs_gets_no_hole(tmp_path):
    local, attempt = started(tmp_path, lines=10, every_s=0.1)
    next(lines := local.logs(attempt, follow=True))
    lines.close()
    os.truncate(log := tmp_path / "runs" / "run" / "log", 0)
    assert wait_until(lambda: local.attempt("run").state is State.SUCCEEDED, 20)
    assert log.read_bytes().endswith(b"line 9\n") and b"\0" not in log.read_bytes()


def test_a_state_folder_that_is_a_file_is_the_users_mistake(tmp_path):
    (tmp_path / "runs").write_text("")
    local = Local(tmp_path / "runs", SMALL_JOB)
    for verb in (local.attempts, lambda: local.start(Request(small_work(tmp_path), "run"))):
        with pytest.raises(StorageError, match="Set XDG_STATE_HOME"):
            verb()
