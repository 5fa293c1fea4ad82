"""Steps that are made at the same time: each run in a thread of this process, all with the Ray of its session.

Ray gives each unit and each worker its resources when they are free. So steps whose resources do not fit together wait
for each other, and none holds resources while it waits for more. What a run changes in its process, it changes in the
same way in every thread, such as the environment in which Ray starts; so Ray is started before.

An interrupt reaches the main thread alone. It sets a flag that the others look at every 2 s; then each ends as after
Ctrl-C, a training with a checkpoint.
"""

import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from raymill.cluster.errors import UserError
from raymill.cluster.formats import plural
from raymill.cluster.frame.job import Making, Run, RunJob
from raymill.cluster.nodes import Resources
from raymill.cluster.progress import LineWriter, Progress, ProgressLines, ProgressUpdate
from raymill.cluster.session import Session, SharedSession

_LOOK_S = 2.0

MakeStep = Callable[[str, RunJob, Session, Progress], Run]  # (step, its job, ...)


class StepsAtOnce:
    """The steps that are made at the same time.

    Args:
        making: of the run file. make: makes the run of a step. most: number of steps at once; None: as many as fit into
            the machines together.
    """

    def __init__(self, making: Making, make: MakeStep, most: int | None) -> None:
        self.making, self.most = making, most
        self.running: dict[str, RunJob] = {}
        self._make = make
        self._ended: queue.Queue[tuple[str, Run | BaseException]] = queue.Queue()
        self._interrupted = threading.Event()
        self._lock = threading.Lock()  # of the lines
        self._known: dict[str, Resources] = {}

    def fitting(self, open_steps: Sequence[tuple[str, RunJob]]) -> list[tuple[str, RunJob]]:
        """The steps among these that are begun now. If none is running, the first always is."""
        jobs = self.running | dict(open_steps)
        begun = chosen(
            [name for name, _ in open_steps], [*self.running], self.most, lambda steps: self._fit(steps, jobs)
        )
        return [(name, jobs[name]) for name in begun]

    def _fit(self, steps: Sequence[str], jobs: Mapping[str, RunJob]) -> bool:
        """Whether the machines have the CPUs and GPUs that these reserve, and this machine's own Ray the memory."""
        session = self.making.session
        session.start()
        room = {name: sum(node.has.get(name, 0) for node in session.nodes()) for name in ("CPU", "GPU")}
        if session.embedded:
            room["memory"] = session.memory() or math.inf
        return fit([self._reserved(name, jobs[name]) for name in steps], room)

    def _reserved(self, name: str, job: RunJob) -> Resources:
        if name not in self._known:
            self._known[name] = reserved(job, memory=self.making.session.embedded)
        return self._known[name]

    def run_here(self, name: str, job: RunJob) -> Run:
        """Make a step alone, in this thread."""
        return self._make(name, job, self.making.session, self.making.progress)

    def begin(self, name: str, job: RunJob) -> None:
        """Make a step in a thread. `next_end` returns its run."""
        self.making.session.start()
        workers_memory = self._reserved(name, job).get("memory", 0) if job.all_at_once else 0
        others = partial(self._workers_beside, name)
        session = SharedSession(self.making.session, self._interrupted, workers_memory, others)
        self.running[name] = job
        threading.Thread(target=self._run, args=(name, job, session), name=f"step {name}", daemon=True).start()

    def _workers_beside(self, name: str) -> float:
        """CPUs of the workers of the other trainings that run."""
        trainings = [one for one, job in [*self.running.items()] if job.all_at_once and one != name]
        return sum(self._known[one].get("CPU", 0) for one in trainings)

    def _run(self, name: str, job: RunJob, session: Session) -> None:
        writer = self.making.progress.writer
        shown = Progress() if writer is None else ProgressLines(writer=_LinesOfStep(name, writer, self._lock))
        try:
            self._ended.put((name, self._make(name, job, session, shown)))
        except BaseException as error:  # the main thread waits for any end
            self._ended.put((name, error))

    def next_end(self) -> tuple[str, Run | BaseException]:
        """(step, its run or its error) of the step that ends next.

        Raises:
            BusyError: another run took the output over.
        """
        while True:
            with suppress(queue.Empty):
                name, ended = self._ended.get(timeout=_LOOK_S)
                del self.running[name]
                return name, ended
            self.making.lease.check()

    def say(self, text: str) -> None:
        """Print a line."""
        with self._lock:
            self.making.progress.say(text)

    def interrupt(self) -> None:
        """Have the running steps end, and wait for it. Another interrupt ends the wait."""
        self._interrupted.set()
        if self.running:
            self.say(f"ending {plural(len(self.running), 'step')}: {', '.join(self.running)}")
        while self.running:
            del self.running[self._ended.get()[0]]


def chosen(
    waiting: Sequence[str], running: Sequence[str], most: int | None, fits: Callable[[Sequence[str]], bool]
) -> list[str]:
    """The waiting steps that are begun now. If none is running, the first always is.

    Args:
        most: number of steps at once; None: as many as fit. fits: whether these steps fit into the machines together.
    """
    begun: list[str] = []
    for name in waiting:
        others = [*running, *begun]
        if not others or (fits([*others, name]) if most is None else len(others) < most):
            begun.append(name)
    return begun


def fit(reserved: Sequence[Resources], room: Resources) -> bool:
    """Whether there is room for all of these together. A resource that `room` does not name has no limit."""
    return all(sum(one.get(name, 0) for one in reserved) <= amount for name, amount in room.items())


def reserved(job: RunJob, *, memory: bool) -> Resources:
    """What a step reserves; everything, if that is not known before it begins. memory: as of `RunJob.reserved`."""
    try:
        return job.reserved(memory=memory)
    except UserError:
        return {"CPU": math.inf}


class _LinesOfStep(LineWriter):
    """Lines of one of several steps: each begins with the name of the step, and none is redrawn."""

    def __init__(self, step: str, writer: LineWriter, lock: threading.Lock) -> None:
        super().__init__(writer.stream)
        self.terminal = False
        self._step, self._writer, self._lock = step, writer, lock

    def update(self, shown: ProgressUpdate | str) -> None:
        if isinstance(shown, str):
            shown = ProgressUpdate(shown)
        with self._lock:
            self._writer.update(replace(shown, text=f"{self._step}: {shown.text}", step=self._step))
            self._writer.end()

    def write(self, text: str) -> None:
        with self._lock:
            for line in text.splitlines():
                self._writer.write(f"{self._step}: {line}")

    def end(self) -> None: ...
