"""Attempts as values, and a backend that holds them in memory."""

from dataclasses import replace

from raymill.cluster.submit.backend import Attempt, AttemptExists, Request, State


def attempt_of(work, state: State, name: str = "", **changed) -> Attempt:
    found = Attempt(
        name=name or work.run_id,
        run_id=work.run_id,
        kind=work.kind,
        state=state,
        config_fingerprint=work.config_fingerprint,
        output=work.output,
    )
    return replace(found, **changed)


class InMemory:
    """A backend for decisions. lost: number of starts that find that another one was first."""

    def __init__(self, lost: int = 0, problems: tuple[str, ...] = ()) -> None:
        self.lost, self.found, self.problems = lost, [], list(problems)
        self.checks, self.configs, self.cancelled = 0, {}, []

    def check(self, work):
        self.checks += 1
        return self.problems

    def start(self, request: Request) -> Attempt:
        if self.lost:
            self.lost -= 1
            self.found.append(attempt_of(request.work, State.RUNNING, request.name))
            raise AttemptExists(request.name)
        self.found.append(attempt_of(request.work, State.WAITING, request.name))
        return self.found[-1]

    def cancel(self, attempt):
        self.cancelled.append(attempt)
        self.found = [replace(one, lingers=False) if one == attempt else one for one in self.found]

    def attempts(self, run_id=None):
        return list(self.found)

    def config(self, attempt):
        return self.configs.get(attempt.name)
