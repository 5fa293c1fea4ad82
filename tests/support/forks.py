"""`pytest --forks N`: the tests are collected once, then N processes that were forked run them, file by file.

pytest-xdist imports everything in each process, 13 to 19 s of processor time apiece, and Ray's tests took a second call
of it. Here a process that has started Ray runs no other test: its threads make forks unsafe. One process has those
tests, which mostly wait; when none are left another takes its place for the rest.
"""

import atexit
import os
import signal
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest

Group = list[int]  # the numbers of tests in a row that one process runs: a file, or files that belong together


def run(
    session: pytest.Session,
    processes: int,
    group_of: Callable[[pytest.Item], tuple[bool, str]],
    begin: Callable[[], None],
) -> None:
    """Run the tests of the session.

    group_of: whether a test needs Ray, and the name of its group, which one process has whole.
    begin: what each process does first.
    """
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    groups: dict[tuple[bool, str], Group] = {}
    for number, item in enumerate(session.items):
        groups.setdefault(group_of(item), []).append(number)
    queues = {ray: deque(group for (needs, _), group in groups.items() if needs is ray) for ray in (False, True)}
    workers: dict[Connection, _Worker] = {}

    def start() -> None:
        ray = bool(queues[True]) and not any(worker.queue is queues[True] for worker in workers.values())
        if queues[ray]:
            worker = _Worker(session, queues[ray], list(workers), begin)
            workers[worker.connection] = worker

    try:
        for _ in range(processes):
            start()
        while workers:
            for connection in wait(list(workers)):
                if not workers[connection].heard(session):
                    del workers[connection]
                    start()
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
                if session.shouldstop:
                    raise session.Interrupted(session.shouldstop)
    finally:
        for worker in workers.values():
            worker.end()


class _Worker:
    """A process that runs groups of a queue until it is empty, as the process that collected them sees it."""

    count = 0

    def __init__(
        self, session: pytest.Session, queue: deque[Group], others: list[Connection], begin: Callable[[], None]
    ) -> None:
        _Worker.count += 1
        self.queue = queue
        self.connection, theirs = Pipe()
        self.left: Group = []
        self.last = 0
        session.config.get_terminal_writer().flush()
        self.process = os.fork()
        if self.process:
            theirs.close()
            return
        status = 1
        try:
            for one in [self.connection, *others]:
                one.close()
            begin()
            try:
                _work(session, theirs, f"process-{_Worker.count}")
            finally:
                session.config.hook.pytest_sessionfinish(session=session, exitstatus=session.testsfailed)
                atexit._run_exitfuncs()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def heard(self, session: pytest.Session) -> bool:
        """Take in what the process sends; False if it has ended."""
        hook = session.config.hook
        try:
            messages = self.connection.recv()
        except (EOFError, ConnectionResetError):
            status = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
            self.connection.close()
            if self.left or status:
                _report_end(session, session.items[self.left.pop(0) if self.left else self.last], status)
            if self.left:
                self.queue.appendleft(self.left)
            return False
        if messages is None:
            group = self.queue.popleft() if self.queue else None
            self.left += group or []
            self.connection.send(group)
            return True
        for name, data in messages:
            if name == "report":
                report = hook.pytest_report_from_serializable(config=session.config, data=data)
                hook.pytest_runtest_logreport(report=report)
            elif name == "warning":
                hook.pytest_warning_recorded.call_historic(kwargs=data)
            else:
                getattr(hook, name)(**data)
        self.last = self.left.pop(0)
        return True

    def end(self) -> None:
        """Have the process end as after Ctrl-C."""
        os.kill(self.process, signal.SIGINT)
        os.waitpid(self.process, 0)


def _report_end(session: pytest.Session, item: pytest.Item, status: int) -> None:
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    text = f"the process of the tests ended by {how} at {item.nodeid}"
    report = pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")
    session.config.hook.pytest_runtest_logreport(report=report)


class _Messages:
    """A plugin in place of what shows results: it sends them on, test by test."""

    def __init__(self, config: pytest.Config, connection: Connection) -> None:
        self._config = config
        self._connection = connection
        self.kept: list[tuple[str, Any]] = []

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.kept.append(("pytest_runtest_logstart", {"nodeid": nodeid, "location": location}))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self.kept.append(("report", data))

    def pytest_warning_recorded(self, warning_message: Any, when: Any, nodeid: str, location: Any) -> None:
        m = warning_message  # its `source`, and its own class, may be what cannot be pickled
        plain = warnings.WarningMessage(str(m.message), m.category, m.filename, m.lineno, line=m.line)
        what = {"warning_message": plain, "when": when, "nodeid": nodeid, "location": location}
        self.kept.append(("warning", what))

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        self.kept.append(("pytest_runtest_logfinish", {"nodeid": nodeid, "location": location}))
        self._connection.send(self.kept)
        self.kept = []


def _work(session: pytest.Session, connection: Connection, name: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config = session.config
    plugins = config.pluginmanager
    for shown in ("terminalreporter", "_junitxml"):
        if plugin := plugins.get_plugin(shown):
            plugins.unregister(plugin)
    capture = plugins.get_plugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    messages = _Messages(config, connection)
    plugins.register(messages)
    messages.kept.clear()  # warnings that came before this process began are told again to each new plugin
    config._tmp_path_factory._basetemp = config._tmp_path_factory.mktemp(name)  # type: ignore[attr-defined]

    def numbers() -> Iterator[int]:
        while True:
            connection.send(None)
            if (group := connection.recv()) is None:
                return
            yield from group

    # One ahead: what a test and the next have in common stays.
    following = numbers()
    number = next(following, None)
    while number is not None:
        after = next(following, None)
        nextitem = None if after is None else session.items[after]
        config.hook.pytest_runtest_protocol(item=session.items[number], nextitem=nextitem)
        number = after
