"""The files of all inputs, from listings only: no file is opened. A finished run is recognised by their fingerprint."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cluster.errors import ConfigError, UserError
from cluster.readers.find import find_files
from cluster.readers.inputs import Input, input_stores
from cluster.store.interface import FileInfo
from cluster.store.store import Store


@dataclass
class ListedSource:
    """An input with its files.

    title: its name in messages. store: what it is read from. files, skipped, unreadable: see FoundFiles. errors: (URI
    or empty text, message).
    """

    title: str
    input: Input
    store: Store
    files: list[tuple[FileInfo, str]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    unreadable: tuple[tuple[str, str], ...] = ()
    errors: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class InputListing:
    """The files of all inputs. store: for the inputs without `storage`."""

    store: Store
    inputs: tuple[Input, ...]
    sources: tuple[ListedSource, ...]

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the inputs' settings, and of name, size and version of each file."""
        settings = [one.model_dump(mode="json", exclude={"storage"}) for one in self.inputs]
        files = [
            [source.input.source, file.uri, file.size, file.version, format]
            for source in self.sources
            for file, format in source.files
        ]
        return hashlib.sha256(json.dumps([settings, files], sort_keys=True).encode()).hexdigest()


def list_inputs(store: Store, inputs: Sequence[Input]) -> InputListing:
    """List the files of the inputs. Errors of an input are in its `errors`; `freeze` raises them with those of files.

    Args:
        store: for the inputs without `storage`.

    Raises:
        ConfigError: two inputs have the same source name.
    """
    _check_names_differ(inputs)
    sources = tuple(
        ListedSource(f"inputs[{number}] ({one.source})", one, of_input)
        for number, (one, of_input) in enumerate(zip(inputs, input_stores(store, inputs), strict=True))
    )
    for source in sources:
        try:
            found = find_files(source.store, source.input)
            source.files, source.skipped, source.unreadable = found.files, found.skipped, found.unreadable
        except UserError as error:
            source.errors.append(("", str(error)))
    _check_files_differ(sources)
    return InputListing(store, tuple(inputs), sources)


def _check_names_differ(inputs: Sequence[Input]) -> None:
    for name, count in Counter(one.source for one in inputs).items():
        if count > 1:
            numbers = " and ".join(str(number) for number, one in enumerate(inputs) if one.source == name)
            raise ConfigError(f"inputs {numbers} are both called {name}. Give each a `source` of its own.")


def _check_files_differ(sources: Iterable[ListedSource]) -> None:
    """Add an error for each file that an earlier input has."""
    owner: dict[tuple[str, str], str] = {}
    for source in sources:
        for file, _ in source.files:
            first = owner.setdefault((source.store.endpoint_of(file.uri), file.uri), source.title)
            if first != source.title:
                message = f"already read by {first}. A file belongs to one input: narrow one of the paths."
                source.errors.append((file.uri, message))
