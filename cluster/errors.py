"""Exceptions and their exit codes.

    RaymillError          exit code 1: a defect of Raymill
      UserError           exit code 2: the user can mend it, and the message says how
        ConfigError       a setting
        StorageError      a path, a credential, a store
        DataError         the documents
        BusyError         another run is writing to the same output
      ClusterError        exit code 1: a machine or Ray failed
        StageError        units of a stage have no result after the last round

A message has four parts: where, what was seen, what was wanted, what to do.
"""

from typing import Any, ClassVar, TypedDict

from raymill.cluster.secret_values import redacted


class RaymillError(Exception):
    """Base class of all exceptions that Raymill raises. Its message is redacted, since it may quote a library's.

    is_final: the same work would fail again, so it is not retried.
    """

    exit_code: ClassVar = 1
    is_final: ClassVar = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*(redacted(one) if isinstance(one, str) else one for one in arguments))


class UserError(RaymillError):
    """An error that the user can mend; the message says how."""

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
    return {"kind": kind, "message": str(error), "final": error.is_final}


def from_record(record: ErrorRecord) -> RaymillError:
    """The error that a record was made from, with its class and message."""
    kind: Any = globals().get(record["kind"])
    known = isinstance(kind, type) and issubclass(kind, RaymillError)
    return kind(record["message"]) if known else RaymillError(record["message"])


def is_panic(error: BaseException) -> bool:
    """Whether the exception is a panic of a library written in Rust. Panics derive from BaseException."""
    return type(error).__name__ == "PanicException"
