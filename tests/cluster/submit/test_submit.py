"""Decisions about a submission, with attempts as values; and the messages of refusals."""

from dataclasses import replace

import pytest

from raymill.cluster.errors import ClusterError, ConfigError
from raymill.cluster.submit.backend import NameTaken, State
from raymill.cluster.submit.commands import Place
from raymill.cluster.submit.submit import Refuse, Start, Submitted, decide, next_name, submit
from tests.support.attempts import InMemory, attempt_of
from tests.support.works import finished, small_work


@pytest.mark.parametrize("state", list(State))
def test_a_finished_run_is_never_sent(tmp_path, state):
    work = finished(small_work(tmp_path))
    assert decide(work, [attempt_of(work, state)]) == Submitted(None)


@pytest.mark.parametrize("state", [State.WAITING, State.RUNNING])
def test_an_active_attempt_is_attached_to(tmp_path, state):
    work = small_work(tmp_path)
    old, active = attempt_of(work, State.FAILED), attempt_of(work, state, f"{work.run_id}-a2")
    assert decide(work, [old, active]) == Submitted(active)


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.SUCCEEDED])
def test_after_an_ended_attempt_the_next_one_starts(tmp_path, state):
    """Also after a success, if the output is not finished: it was removed, or its inputs changed."""
    work = small_work(tmp_path)
    before = attempt_of(work, state)
    assert decide(work, [before]) == Start(f"{work.run_id}-a2", before)
    last = attempt_of(work, state, f"{work.run_id}-a2")
    assert decide(work, [before, last]) == Start(f"{work.run_id}-a3", last)


def test_a_machine_that_outlives_its_attempt_is_stopped_before_the_next_attempt_starts(tmp_path):
    work = small_work(tmp_path)
    before = replace(attempt_of(work, State.FAILED), lingers=True)
    assert decide(work, [before]) == Start(f"{work.run_id}-a2", before, (before,))
    changed = small_work(tmp_path, execution=2)
    assert decide(changed, [before]) == Start(f"{work.run_id}-a2", before, (before,)), "it need not be attached to"
    backend, lines = InMemory(), []
    backend.found = [before]
    done = submit(backend, work, on_message=lines.append)
    assert [one.name for one in backend.cancelled] == [before.name] and done.attempt.name == f"{work.run_id}-a2"
    assert lines[-1] == f"{before.name}: failed, but its machines are still there; stopping it first ..."


def test_another_run_whose_machines_outlive_it_keeps_its_output(tmp_path):
    other = replace(attempt_of(small_work(tmp_path, lines=1), State.FAILED), lingers=True)
    work = small_work(tmp_path, lines=2)
    assert decide(work, [other]) == Refuse(other)
    backend = InMemory()
    backend.found, backend.configs = [other], {other.name: {}}
    with pytest.raises(ConfigError, match=r"failed, with machines that are still there, with another config.*cancel"):
        submit(backend, work)


def test_the_first_attempt_has_the_name_of_the_run(tmp_path):
    work = small_work(tmp_path)
    other = attempt_of(small_work(tmp_path / "elsewhere"), State.RUNNING)
    assert decide(work, [other]) == Start(work.run_id, None)


def test_another_config_of_the_same_run_is_refused_while_one_runs(tmp_path):
    active = attempt_of(small_work(tmp_path, execution=1), State.RUNNING)
    assert decide(small_work(tmp_path, execution=2), [active]) == Refuse(active)
    assert isinstance(decide(small_work(tmp_path, execution=2), [replace(active, state=State.FAILED)]), Start)


def test_another_run_that_writes_to_the_same_output_is_refused_while_it_runs(tmp_path):
    active = attempt_of(small_work(tmp_path, lines=1), State.RUNNING)
    work = small_work(tmp_path, lines=2)
    assert work.run_id != active.run_id
    assert decide(work, [active]) == Refuse(active)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ([], "run"),
        (["run"], "run-a2"),
        (["run", "run-a2"], "run-a3"),
        (["run-a9", "run-a10"], "run-a11"),
        (["run-a3"], "run-a4"),
        (["run-b2", "other"], "run"),
        (["run", "run-a" + "9" * 5000, "run-a\u0663"], "run-a2"),  # jobs of others
        (["run", "run-a999999999", "run-a1000000000"], "run-a2"),
        (["run", "run-a9999"], "run-a10000"),
        (["run", "run-a9999", "run-a10000", "run-a10001"], "run-a10002"),
    ],
)
def test_attempts_are_numbered_above_every_number_in_use(names, wanted):
    assert next_name("run", names) == wanted


def test_names_that_something_else_has_are_passed_over_and_nobody_can_take_all():
    assert next_name("run", [], {"run"}) == "run-a2"
    assert next_name("run", ["run"], {"run-a2"}) == "run-a3"
    taken = {"run", *(f"run-a{number}" for number in range(2, 5))}
    found = {next_name("run", ["run"], taken) for _ in range(100)}
    assert len(found) > 50 and not found & taken and all(len(name) <= len("run-a99999") for name in found)


def test_names_of_jobs_that_no_listing_has_stop_no_submission(tmp_path):
    """Those of others who may submit jobs: damaged ones are left out of listings."""
    work = small_work(tmp_path)

    class Hidden(InMemory):
        def __init__(self, is_hidden) -> None:
            super().__init__()
            self.is_hidden = is_hidden

        def start(self, request):
            if self.is_hidden(request.name):
                raise NameTaken(request.name)
            return super().start(request)

    hidden = {work.run_id, *(f"{work.run_id}-a{number}" for number in range(2, 4))}
    done = submit(Hidden(hidden.__contains__), work)
    assert done.started and done.attempt.name not in hidden
    with pytest.raises(ClusterError, match=rf"other jobs have the names {work.run_id}, .*under another name"):
        submit(Hidden(lambda name: True), work)


def test_of_two_submissions_at_once_one_starts_and_the_other_attaches(tmp_path):
    backend = InMemory(lost=1)
    done = submit(backend, small_work(tmp_path))
    assert not done.started and done.attempt.state is State.RUNNING
    assert len(backend.found) == 1


def test_a_submission_that_is_always_second_gives_up_after_five_tries(tmp_path):
    class AllEnd(InMemory):
        """Every attempt that another one started has ended when it is looked at."""

        def attempts(self, run_id=None):
            return [replace(one, state=State.FAILED) for one in self.found]

    backend, work = AllEnd(lost=9), small_work(tmp_path)
    with pytest.raises(ClusterError, match=rf"5 times another `raymill.submit` started.*logs\(\"{work.run_id}\""):
        submit(backend, work)
    assert backend.found[-1].name == f"{work.run_id}-a5" and backend.checks == 1


def test_problems_stop_a_submission_and_are_all_named(tmp_path):
    backend = InMemory(problems=("no GPU.", "no store."))
    with pytest.raises(ConfigError, match=r"2 problems found:\n  no GPU\.\n  no store\."):
        submit(backend, small_work(tmp_path))
    assert backend.found == []


def test_a_run_that_is_attached_to_is_not_checked(tmp_path):
    backend, work, lines = InMemory(), small_work(tmp_path), []
    submit(backend, work, on_message=lines.append)
    assert lines == [f"{work.run_id}: checking inputs, output and machines before the start ..."]
    submit(backend, work, on_message=lines.append)
    assert backend.checks == len(lines) == 1


# --- refusals


def running(work) -> InMemory:
    """A backend in which an attempt of this work runs."""
    backend = InMemory()
    backend.found, backend.configs = [attempt_of(work, State.RUNNING)], {work.run_id: work.config}
    return backend


def refusal(backend: InMemory, work) -> str:
    place = Place(None, "http://127.0.0.1:8311", None, False)
    with pytest.raises(ConfigError) as caught:
        submit(backend, work, place.command)
    return str(caught.value)


def curate_work(tmp_path, name: str = "a", **settings):
    config = {"kind": "curate", "name": name, "inputs": [{"path": "s3://b/x"}], "output": "s3://b/o", **settings}
    return replace(small_work(tmp_path, name=name), config=config)


def test_the_same_run_under_another_name_is_named_with_the_command_that_attaches_to_it(tmp_path):
    work = curate_work(tmp_path, "first")
    message = refusal(running(work), curate_work(tmp_path, "second"))
    assert f"is running under the name {work.run_id}. Attach to it with `" in message
    assert f'logs("{work.run_id}", follow=True, address="http://127.0.0.1:8311")`' in message


def test_a_config_that_spells_out_a_default_is_attached_to_the_run_without_it(tmp_path):
    work = curate_work(tmp_path)
    spelled = curate_work(tmp_path, execution={"stall_s": 900})
    assert spelled.run_id == work.run_id and spelled.config_fingerprint != work.config_fingerprint
    done = submit(running(work), spelled)
    assert not done.started and done.attempt.name == work.run_id
    other = curate_work(tmp_path, execution={"stall_s": 901})
    assert "(execution.stall_s was 900" in refusal(running(work), other)


def test_a_refusal_lists_the_single_settings_that_differ_defaults_included(tmp_path):
    work = curate_work(tmp_path)
    changed = curate_work(tmp_path, rules={"gopher_quality": {"min_words": 60}})
    message = refusal(running(work), changed)
    assert "(rules.gopher_quality.min_words was 50, now 60)" in message
    assert f'cancel("{work.run_id}", address="http://127.0.0.1:8311")`' in message
    # A config that this version cannot read is compared as it is, in few characters.
    unreadable = curate_work(tmp_path, rules={"gone": {str(number): number for number in range(1000)}})
    assert len(refusal(running(unreadable), changed)) < 1500


def test_a_refusal_lists_five_differences_and_counts_the_others(tmp_path):
    before = {"kind": "of another version"} | {f"setting_{number}": 1 for number in range(7)}
    now = before | {f"setting_{number}": 2 for number in range(7)}
    message = refusal(running(curate_work(tmp_path, **before)), curate_work(tmp_path, "b", **now))
    assert message.count(" was 1, now 2") == 5 and "; and 2 more)" in message and "name was" not in message


def test_a_refusal_without_differing_settings_is_due_to_the_input_files(tmp_path):
    work = curate_work(tmp_path)
    message = refusal(running(work), replace(work, result="other"))
    assert "(the input files changed since)" in message
    backend = running(work)
    backend.configs.clear()
    assert "(its settings could not be read)" in refusal(backend, replace(work, result="other"))
