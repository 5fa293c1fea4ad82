"""The tree of exceptions. Each class is named for what the reader of its message should do.

    RaymillError          exit 1: ours to mend
      UserError           exit 2: yours to mend, and the message says how
        ConfigError       a setting
        StorageError      a path, a credential, a store
        DataError         the documents themselves
        BusyError         another run that writes at the same output
      ClusterError        exit 1: machines, Ray, time
        StageError        a unit failed as often as it may

A message has four parts: where, what was seen, what was wanted, what to do.
"""


class RaymillError(Exception):
    """Anything Raymill raises on purpose."""

    exit_code = 1


class UserError(RaymillError):
    """The user can mend it, and the message says how."""

    exit_code = 2


class ConfigError(UserError, ValueError):
    """A setting is unknown, of the wrong type, impossible, or contradicts another.

    A ValueError too, so that pydantic collects what a rule says of its settings with everything else that is wrong.
    """


class StorageError(UserError):
    """A path does not exist, a store refuses, or a credential is missing."""


class DataError(UserError):
    """The input is not what the config says it is, or too much of it is unreadable."""


class BusyError(UserError):
    """Another run is writing at the output, or took it over."""


class ClusterError(RaymillError):
    """Ray or a machine under it failed, and the work is not finished. Running the same command again continues."""


class StageError(ClusterError):
    """A unit of a stage failed as often as it may."""


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust stopped on a bug of its own. Its exceptions derive from BaseException alone."""
    return type(error).__name__ == "PanicException"
