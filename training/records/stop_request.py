"""The driver's request that the workers of a training write a checkpoint and end, as a file on the run's store."""

from dataclasses import dataclass

from cluster.store import paths
from training.records.job import Job


class StopRequested(Exception):
    """Raised by every worker after it has written the checkpoint of a requested stop."""


@dataclass(frozen=True)
class StopRequest:
    """The request for the workers of one submission. submission: its id."""

    job: Job
    submission: str

    @property
    def uri(self) -> str:
        """The file that is the request."""
        return paths.join(self.job.root, "stop", self.submission)

    def make(self) -> None:
        """Make the request."""
        self.job.store.write_bytes(self.uri, b"")

    def made(self) -> bool:
        """Whether the request was made. Costs one request to the store."""
        return self.job.store.exists(self.uri)

    def delete(self) -> None:
        """Delete the request."""
        self.job.store.delete([self.uri])
