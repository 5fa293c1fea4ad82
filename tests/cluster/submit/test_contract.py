"""What every backend does alike: local, a Ray cluster, Kubernetes. Real jobs of a second or two."""

import time

import pytest

from raymill.cluster.errors import ConfigError
from raymill.cluster.submit.backend import Attempt, AttemptExists, Backend, Request, State
from raymill.cluster.submit.submit import submit
from tests.support.processes import wait_until
from tests.support.works import small_work


def start(backend: Backend, work, name: str = "") -> Attempt:
    return backend.start(Request(work, name or work.run_id))


def printed(backend: Backend, attempt: Attempt, follow: bool = True) -> list[str]:
    """The lines of the job itself; Ray writes some of its own before."""
    mine = ("Running entrypoint", "job_manager.py")
    return [line for line in backend.logs(attempt, follow) if not any(word in line for word in mine)]


def ended(backend: Backend, attempt: Attempt, seconds: float = 60) -> Attempt:
    assert wait_until(lambda: backend.attempt(attempt.name).state.final, seconds), backend.attempt(attempt.name)
    return backend.attempt(attempt.name)


def test_a_followed_job_prints_each_line_once_and_ends_with_its_exit_code(place, tmp_path):
    backend = place.backend()
    attempt = start(backend, small_work(tmp_path, lines=20, every_s=0.05, code=3))
    assert not attempt.state.final
    lines = printed(place.backend(), attempt)
    assert lines == [f"line {number}" for number in range(20)]
    found = place.backend().attempt(attempt.name)
    assert (found.state, found.exit_code) == (State.FAILED, 3)
    assert found.started < found.ended
    assert "exit code 3" in found.message
    assert printed(place.backend(), found) == printed(place.backend(), found, follow=False) == lines


def test_an_attempt_carries_what_was_submitted(place, tmp_path):
    work = small_work(tmp_path, lines=1, text='ä\n"quoted" $HOME')
    attempt = start(place.backend(), work)
    found = ended(place.backend(), attempt)
    assert (found.state, found.exit_code) == (State.SUCCEEDED, 0)
    assert (found.run_id, found.kind, found.output) == (work.run_id, "curate", work.output)
    assert found.config_fingerprint == work.config_fingerprint
    assert place.backend().config(found) == work.config


def test_bytes_that_are_no_text_and_a_last_line_without_line_feed(place, tmp_path):
    attempt = start(place.backend(), small_work(tmp_path, lines=1, bytes="ff0a6c617374"))
    assert printed(place.backend(), attempt) == ["line 0", "\ufffd", "last"]


def test_a_name_is_given_once(place, tmp_path):
    work = small_work(tmp_path, lines=2, every_s=0.2)
    attempt = start(place.backend(), work)
    with pytest.raises(AttemptExists):
        start(place.backend(), work)
    assert [one.name for one in place.backend().attempts() if one.run_id == work.run_id] == [attempt.name]
    ended(place.backend(), attempt)
    with pytest.raises(AttemptExists):
        start(place.backend(), work)


def test_attempts_are_listed_with_the_newest_last(place, tmp_path):
    work, other = small_work(tmp_path, lines=1), small_work(tmp_path, name="other", lines=1)
    for name in (f"{work.run_id}-a2", work.run_id):
        ended(place.backend(), start(place.backend(), work, name))
    ended(place.backend(), start(place.backend(), other))
    assert [one.name for one in place.backend().attempts() if one.run_id == work.run_id] == [
        f"{work.run_id}-a2",
        work.run_id,
    ]
    names = [one.name for one in place.backend().attempts()]
    assert names[-1] == other.run_id and len(names) >= 3


def test_an_unknown_name_is_no_attempt(place):
    assert place.backend().attempt("never-submitted-00000000") is None


def test_a_log_without_follow_ends_while_the_job_runs(place, tmp_path):
    backend = place.backend()
    attempt = start(backend, small_work(tmp_path, lines=40, every_s=0.2))
    seen: list[str] = []
    assert wait_until(lambda: seen.extend(printed(place.backend(), attempt, follow=False)) or seen, 30)
    assert seen == [f"line {number}" for number in range(len(seen))]
    assert len(seen) < 40
    place.backend().cancel(attempt)


def test_a_cancelled_job_commits_what_is_done_before_it_ends(place, tmp_path):
    attempt = start(place.backend(), small_work(tmp_path, lines=600, every_s=0.1, stop="commit"))
    follower = backend_lines(place, attempt)
    assert next(follower) == "line 0"
    place.backend().cancel(attempt)
    found = place.backend().attempt(attempt.name)
    assert found.state is State.CANCELLED
    assert list(follower)[-1] == "committed what was done"


def test_a_job_that_does_not_stop_is_killed(place, tmp_path):
    attempt = start(place.backend(grace_s=2), small_work(tmp_path, lines=600, every_s=0.1, stop="ignore"))
    assert next(backend_lines(place, attempt)) == "line 0"
    began = time.monotonic()
    place.backend().cancel(attempt)
    assert place.backend().attempt(attempt.name).state is State.CANCELLED
    assert time.monotonic() - began > 1.5


def backend_lines(place, attempt):
    return (line for line in place.backend().logs(attempt, True) if line.startswith(("line", "committed")))


def test_submitting_again_attaches_continues_or_is_refused(place, tmp_path):
    work = small_work(tmp_path, lines=300, every_s=0.1, stop="commit")
    first = submit(unchecked(place), work)
    assert first.started and first.attempt.name == work.run_id
    again = submit(unchecked(place), work)
    assert not again.started and again.attempt.name == work.run_id
    with pytest.raises(ConfigError, match=r"execution was 1, now 2"):
        submit(unchecked(place), small_work(tmp_path, execution=2, lines=300, every_s=0.1, stop="commit"))
    place.backend().cancel(first.attempt)
    second = submit(unchecked(place), work)
    assert second.started and second.attempt.name == f"{work.run_id}-a2"
    assert second.before.state is State.CANCELLED
    place.backend().cancel(second.attempt)


def unchecked(place) -> Backend:
    """The backend without its check, which has tests of its own."""
    backend = place.backend()
    backend.check = lambda work: []  # type: ignore[method-assign]
    return backend
