"""A run over the units of listed files."""

from abc import abstractmethod
from functools import cached_property

from cluster.frame.job import Config, RunJob
from cluster.readers.freeze import freeze_listing
from cluster.readers.listing import InputListing
from cluster.readers.recorded import changes_since, changes_since_attempt, write_inputs
from cluster.readers.units import InputManifest


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

    def attempt_changes(self) -> list[str]:
        return changes_since_attempt(self.listing, self.settings(), self.store, self.root)

    def record_inputs(self) -> None:
        """Write the list of files and units at the output."""
        storage = self.config.storage.without_secrets()  # type: ignore[attr-defined]
        write_inputs(self.root, self.frozen, storage, self.settings())

    def identity(self) -> object:
        return [self.settings(), self.frozen.fingerprint]

    def unit_count(self) -> int:
        return 4 * len(self.frozen.units)
