"""Exceptions and their exit codes.

    RaymillError          exit code 1: a defect of Raymill
      UserError           exit code 2: the user can fix it, and the message says how
        ConfigError       a setting
        StorageError      a path, a credential, a store
        DataError         the documents
        BusyError         another run is writing to the same output
      ClusterError        exit code 1: a machine or Ray failed
        StageError        units of a stage have no result after the last round

A message has four parts: where, what was seen, what was wanted, what to do. Programs find them as attributes of errors
about settings, about what is at an output, and about missing paths. It is written in the words of the command line, and
shown in those of Python where the command does not run (wording.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from typing_extensions import TypedDict

from raymill.cluster.secret_values import redacting
from raymill.cluster.wording import for_the_caller


@dataclass(frozen=True)
class Problem:
    """One mistake of an error.

    Attributes:
        message: the line about it.
        where: file and setting, or the path; None if they are not known apart from the message, as the others.
        seen: what was found there.
        wanted: what was expected.
        fix: what to do.
    """

    message: str
    where: str | None = None
    seen: str | None = None
    wanted: str | None = None
    fix: str | None = None

    @classmethod
    def of(cls, where: str, seen: str, wanted: str = "", fix: str = "") -> Self:
        """The problem with the message `WHERE: SEEN; wanted WANTED. FIX`."""
        seen, fix = seen.rstrip("."), fix.strip()
        message = f"{where}: {seen}{wanted and f'; wanted {wanted}'}.{fix and f' {fix}'}"
        return cls(message, where, seen, wanted or None, fix or None)


class RaymillError(Exception):
    """Base class of all exceptions that Raymill raises. Its message is redacted, since it may quote a library's.

    is_final: the same work would fail again, so it is not retried. problems: the mistakes, of a config each one. where,
    seen, wanted, fix: of the first problem.
    """

    exit_code: ClassVar = 1
    is_final: ClassVar = False

    def __init__(self, *arguments: Any, problems: Sequence[Problem] = ()) -> None:
        redact = redacting()
        super().__init__(*(redact(one) if isinstance(one, str) else one for one in arguments))
        # Only where there are some: an error that is pickled takes its attributes along.
        if problems:
            self._problems = tuple(Problem(*(text and redact(text) for text in vars(one).values())) for one in problems)

    @classmethod
    def about(cls, *problems: Problem) -> Self:
        """The error with these problems, a line each."""
        return cls("\n".join(one.message for one in problems), problems=problems)

    def __str__(self) -> str:
        return for_the_caller(self.as_written)

    @property
    def as_written(self) -> str:
        """The message in the words of the command line, to cross a process."""
        return super().__str__()

    def reword(self, change: Callable[[str], str]) -> None:
        """Change the texts of the message and of the problems."""
        self.args = tuple(change(one) if isinstance(one, str) else one for one in self.args)
        if found := getattr(self, "_problems", None):
            self._problems = tuple(Problem(*(text and change(text) for text in vars(one).values())) for one in found)

    @property
    def problems(self) -> tuple[Problem, ...]:
        found = getattr(self, "_problems", None)
        return tuple(_in_words_of_caller(one) for one in found) if found else (Problem(str(self)),)

    @property
    def where(self) -> str | None:
        return self.problems[0].where

    @property
    def seen(self) -> str | None:
        return self.problems[0].seen

    @property
    def wanted(self) -> str | None:
        return self.problems[0].wanted

    @property
    def fix(self) -> str | None:
        return self.problems[0].fix


def _in_words_of_caller(problem: Problem) -> Problem:
    return Problem(*(text and for_the_caller(text) for text in vars(problem).values()))


class UserError(RaymillError):
    """An error that the user can fix; the message says how."""

    exit_code: ClassVar = 2
    is_final: ClassVar = True


class ConfigError(UserError, ValueError):
    """A setting is unknown, of the wrong type, impossible, or contradicts another.

    Also a ValueError: pydantic then reports it together with the other mistakes of a config.
    """


class StorageError(UserError):
    """A path does not exist, a store refused a request, or a credential is missing."""


class DataError(UserError):
    """The input is not what the config says it is, or too much of it is unreadable."""


class BusyError(UserError):
    """Another run is writing to the output, or took it over."""


class ClusterError(RaymillError):
    """Ray or one of its machines failed before the work was finished. The same command, run again, continues it."""


class StageError(ClusterError):
    """Units of a stage have no result after the last round: they failed, or their workers died.

    unexpected: the first of them failed with an error of another class than these.
    """

    unexpected = False


class ErrorRecord(TypedDict):
    """A RaymillError as JSON values, to cross a process. kind: the name of a class of this module."""

    kind: str
    message: str
    final: bool


def as_record(error: RaymillError) -> ErrorRecord:
    """The record of an error, with the nearest class of this module in place of a subclass defined elsewhere."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == __name__)
    return {"kind": kind, "message": error.as_written, "final": error.is_final}


def from_record(record: ErrorRecord) -> RaymillError:
    """The error that a record was made from, with its class and message."""
    kind: Any = globals().get(record["kind"])
    known = isinstance(kind, type) and issubclass(kind, RaymillError)
    return kind(record["message"]) if known else RaymillError(record["message"])


def is_panic(error: BaseException) -> bool:
    """Whether the exception is a panic of a library written in Rust. Panics derive from BaseException."""
    return type(error).__name__ == "PanicException"
