"""A run over the units of listed files."""

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import UserError
from raymill.cluster.frame.first_look import FirstLook
from raymill.cluster.frame.job import Config, RunJob
from raymill.cluster.readers.freeze import freeze_listing
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.listing import InputListing
from raymill.cluster.readers.recorded import changes_since, changes_since_attempt, write_inputs
from raymill.cluster.readers.units import InputManifest
from raymill.cluster.stage import RunStageIn


class FilesJob(RunJob[Config]):
    """A run whose inputs are files."""

    @property
    @abstractmethod
    def listing(self) -> InputListing:
        """The files of the inputs, after the check that the output is not among them.

        Raises:
            UserError: an input is missing, or the output is among the inputs.
        """

    @cached_property
    def frozen(self) -> InputManifest:
        """The files and their units.

        Raises:
            UserError: files are unreadable.
        """
        execution = self.config.execution  # type: ignore[attr-defined]
        return freeze_listing(self.listing, execution.unit_bytes, execution.max_bad_files)

    def inputs(self) -> str | None:
        """Fingerprint of the files; None if one could not be listed, for which `frozen` raises the error."""
        return None if any(source.errors for source in self.listing.sources) else self.listing.fingerprint

    def input_changes(self) -> str:
        return changes_since(self.listing, self.store, self.root)

    def unfinished_changes(self) -> list[str]:
        return changes_since_attempt(self.listing, self.settings(), self.store, self.root)

    def record_inputs(self) -> None:
        """Write the list of files and units at the output."""
        storage = self.config.storage.without_secrets()  # type: ignore[attr-defined]
        write_inputs(self.root, self.frozen, storage, self.settings())

    @abstractmethod
    def stages(self, run: RunStageIn) -> dict[str, Artifact]:
        """Pass each stage to `run`, which returns its artifacts. Returns all of them."""

    # Of a dry run

    @property
    def document_limits(self) -> Limits:
        """Bounds on what is read of a document."""
        return getattr(self.config, "limits", Limits())

    def require_begun(self) -> None:
        """Verify that `begin` brought all that is listed, because a dry run brings nothing.

        Raises:
            UserError: something is missing.
        """

    def about(self) -> Iterator[tuple[str, str]]:
        """(word, line) of what the settings do."""
        yield from ()

    def notes(self, look: FirstLook) -> list[str]:
        """Sentences on the inputs, beside those of `look` at their beginning."""
        return []

    def try_sample(self) -> tuple[str, UserError | None]:
        """(a line about what becomes of a sample of the input, the error that the whole run would end with)."""
        return "", None

    def identity(self) -> object:
        return [self.settings(), self.frozen.fingerprint]

    def unit_count(self) -> int:
        return 4 * len(self.frozen.units)
