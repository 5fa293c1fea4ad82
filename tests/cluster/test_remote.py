"""A function in a Ray worker: what is asked of Ray, and what its failures become."""

from types import SimpleNamespace

import pytest
import ray.exceptions

from raymill.cluster import session as remote
from raymill.cluster.entry import Entry
from raymill.cluster.errors import ClusterError, DataError
from tests.support.inline import NoRay


def double(number: int) -> int:
    return 2 * number


def refuse(where: str) -> None:
    raise DataError(f"{where}: no documents.")


def break_down() -> None:
    raise ZeroDivisionError("a defect")


class Ray:
    """The part of Ray's interface that is used: a task runs when its result is fetched."""

    exceptions = ray.exceptions

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.asked = error, {}

    def remote(self, **options):
        self.asked = options
        return lambda work: SimpleNamespace(remote=lambda *arguments: lambda: work(*arguments))

    def wait(self, tasks, timeout):
        return tasks, []

    def get(self, task):
        if self.error:
            raise self.error
        try:
            return task()
        except Exception as error:
            raise ray.exceptions.RayTaskError("work", "first line\nlast line", error) from error


@pytest.fixture
def on(monkeypatch):
    def use(found: Ray) -> tuple[Ray, NoRay]:
        monkeypatch.setattr(remote, "imported_ray", lambda: found)
        monkeypatch.setattr(remote.logs, "setup", lambda: None)
        return found, NoRay()

    return use


def test_the_result_comes_from_a_task_with_the_resources_and_one_retry(on):
    found, session = on(Ray())
    assert remote.in_worker(session, double, 21, cpus=3, gpus=2) == 42
    assert found.asked == {"num_cpus": 3, "num_gpus": 2, "max_retries": 1} and session.starts == 1
    assert remote.in_worker(session, Entry("builtins:divmod"), 7, 2) == (3, 1)
    assert found.asked == {"num_cpus": 1, "num_gpus": 0, "max_retries": 1}


def test_an_error_of_the_function_keeps_its_class_and_message(on):
    _, session = on(Ray())
    with pytest.raises(DataError, match=r"^/in: no documents\.$"):
        remote.in_worker(session, refuse, "/in")


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (break_down, None, r"^tests\.cluster\.test_remote:break_down: its worker failed: .*last line"),
        (
            double,
            ray.exceptions.WorkerCrashedError(),
            r"test_remote:double: its worker failed: .* make the same call",
        ),
        (
            Entry("a.b:c"),
            ray.exceptions.RaySystemError(""),
            r"^a\.b:c: its worker failed: .* Finished work is kept",
        ),
    ],
)
def test_any_other_failure_names_the_function_and_says_what_to_do(on, function, error, message):
    _, session = on(Ray(error))
    with pytest.raises(ClusterError, match=message):
        remote.in_worker(session, function)
