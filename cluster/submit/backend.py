"""The contract of the places that jobs are submitted to: this machine, a Ray cluster, Kubernetes.

A run has one id (work.py) and one or more attempts, named RUN_ID, RUN_ID-a2, RUN_ID-a3, ...; a new attempt continues
the run, since everything that is finished lies at its output. `submit.py` decides between attaching, continuing and
refusing; backends only carry out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from cluster.submit.work import Work

# A cancelled job has so many seconds to commit what is done.
GRACE_S = 60


class State(StrEnum):
    """The state of an attempt. FAILED, SUCCEEDED and CANCELLED are final."""

    WAITING = "waiting"  # for admission, machines or a free place
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


@dataclass(frozen=True)
class Attempt:
    """One attempt of a run, as its backend reports it.

    name: RUN_ID or RUN_ID-aN. exit_code: of the job's process; None until it ended, or if the backend has lost it.
    message: one line for a person, why it waits or failed. started, ended: Unix time in seconds. config_fingerprint: of
    the config it was submitted with.
    """

    name: str
    run_id: str
    kind: str
    state: State
    message: str = ""
    exit_code: int | None = None
    started: float | None = None
    ended: float | None = None
    config_fingerprint: str = ""
    output: str = ""


@dataclass(frozen=True)
class Request:
    """What a backend starts. environment: variables of the job, never secrets."""

    work: Work
    name: str
    environment: Mapping[str, str] = field(default_factory=dict)


class Backend(Protocol):
    """A place that jobs are submitted to. All calls have a time-out; ClusterError: it does not answer."""

    def check(self, work: Work) -> list[str]:
        """The problems that would make the job fail, one line each with its mend; empty if it can start."""
        ...

    def start(self, request: Request) -> Attempt:
        """Start an attempt. AttemptExists: the name is taken (another `submit` was first)."""
        ...

    def attempts(self, run_id: str | None = None) -> list[Attempt]:
        """The attempts of a run, or all of Raymill's, the newest last."""
        ...

    def logs(self, attempt: Attempt, follow: bool) -> Iterator[str]:
        """The lines of the job's log, each once; with `follow` until the attempt has ended. Reconnects by itself."""
        ...

    def cancel(self, attempt: Attempt) -> None:
        """Ask the job to stop, wait for it, then end it. Finished units are kept."""
        ...


class AttemptExists(Exception):
    """An attempt of this name exists."""
