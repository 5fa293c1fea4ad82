"""Errors of the Kubernetes API and of Ray's Jobs API."""

from cluster.errors import ClusterError
from cluster.submit.backend import Unreachable


class NoAnswer(ClusterError):
    """The server did not answer, or not as it should. It may answer later."""


class NoConnection(NoAnswer, Unreachable):
    """No connection to the server: refused, no such host, no encryption, or it does not use HTTP."""


class NotThere(ClusterError):
    """The server has no such object, or no such kind of object."""
