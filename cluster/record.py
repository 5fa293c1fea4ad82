"""The record of a result: a small JSON file that is created last. A result without its record is unfinished.

Artifacts, units of a stage, runs, packed corpora, tokenizers, fits, evaluations, exports and checkpoints each have one.
A record that lists files or artifacts is called a manifest.
"""

import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from raymill.cluster.errors import DataError, Problem, StorageError
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.paths import RelativePath
from raymill.cluster.store.store import Store

T = TypeVar("T")

_CREATE_TRIES = 5
_LARGEST_INTEGER = 1 << 64
_LARGEST_RECORD = 256 << 20  # bytes; a manifest of a million files has about 150 MiB


class OtherSettings(DataError):
    """The record of a finished result does not match the wanted settings or inputs."""


@dataclass(frozen=True)
class RecordFile(Generic[T]):
    """A record's file on a store: its URI and its format.

    parse: the record from the content of the file, which anybody may have written: paths become `RelativePath` or
        `RecordedUri`.
    what, fix: of the error about a damaged record: a name of the record, and a sentence with what to do.
    of_folder: whether it describes the folder that it is in; links from there to other places are then refused.
    largest: bytes of the file.
    """

    store: Store
    uri: str
    what: str
    parse: Callable[[bytes], T]
    fix: str = "Delete it and run the same command again: the result is made again."
    of_folder: bool = True
    largest: int = _LARGEST_RECORD

    def read(self) -> T | None:
        """The record; None if the result is unfinished.

        Raises:
            DataError: the file is damaged, of another program, or names something outside of its folder.
            StorageError: a link in its folder leads out of it, or the file is too large.
        """
        try:
            data = self.store.read_bytes(self.uri, self.largest)
        except NotFound:
            return None
        if self.of_folder:
            self.store.refuse_links_out(self.uri.rpartition("/")[0])
        try:
            return self.parse(data)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{self.uri}: not {self.what} ({error}). {self.fix}") from error

    def find_or_discard(self, refusal: Callable[[T], Problem | None], replace: bool) -> T | None:
        """The record of a result with the wanted settings; None if there is none, or if another was discarded here.

        Args:
            refusal: refusal(record) is why the record does not match the wanted settings, or None if it does.
            replace: discard a record that does not match instead of raising an error.

        Raises:
            OtherSettings: the record does not match and not `replace`.
            DataError: it is damaged.
        """
        found = self.read()
        if found is None or (problem := refusal(found)) is None:
            return found
        if not replace:
            raise OtherSettings.about(problem)
        self.discard()
        return None

    def create(self, data: bytes) -> T:
        """Create the record unless there is one. Returns the record on the store: this one, or the first writer's.

        Raises:
            DataError: the first writer's is damaged, or of another program.
            StorageError: repeatedly, the record exists when it is created and is missing when it is read.
        """
        for _ in range(_CREATE_TRIES):
            if self.store.create(self.uri, data):
                return self.parse(data)
            if (found := self.read()) is not None:  # else it was deleted in between
                return found
            time.sleep(random.uniform(0, 1))
        raise StorageError(
            f"{self.uri}: exists when it is created and is missing when it is read ({_CREATE_TRIES} tries). "
            "Check that no other program deletes files there, and run the same command again; finished work is kept."
        )

    def discard(self) -> None:
        """Delete the record, which makes its result unfinished."""
        self.store.delete([self.uri])


def read_json(store: Store, uri: str, what: str, *keys: str, kind: Any = None) -> Any:
    """The JSON object in a file that a run wrote beside its record, such as its report; None if there is no such file.

    Raises:
        DataError: it is damaged, or has not these keys, or is no `kind`, see `check_types`; `what` names it.
    """
    return RecordFile(store, uri, what, json_with(*keys, kind=kind), of_folder=False).read()


def read_json_line(line: bytes, uri: str, kind: Any = None) -> Any:
    """The JSON object in a line of a file that a run wrote.

    Raises:
        DataError: the line is damaged, or is no `kind`, see `check_types`.
    """
    try:
        return json_with(kind=kind)(line)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{uri}: a line that Raymill did not write ({error}). Delete the file; the run can do without it."
        ) from error


def json_bytes(value: Any) -> bytes:
    """Indented JSON, one value a line. Lone surrogates become JSON escapes."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")


def with_paths(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The files that a record lists, each with its `path` as a `RelativePath`."""
    return [file | {"path": RelativePath(file["path"])} for file in files]


def record_json(data: bytes) -> Any:
    """The JSON value of a record, which anybody may have written.

    Raises:
        ValueError: it is no JSON, or has a number beyond those that fit into 64 bits or a float.
    """
    return json.loads(data, parse_int=_integer, parse_float=_finite)


def _integer(digits: str) -> int:
    if abs(number := int(digits)) >= _LARGEST_INTEGER:
        raise ValueError(f"a number has {len(digits)} digits")
    return number


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"the number {digits:.30} is too large")
    return number


def check_types(kind: Any, value: Any) -> None:
    """Verify that a value of JSON has the types of `kind`, such as a `TypedDict` (of typing_extensions).

    Further keys are allowed. An integer stands for a float, and nothing else for another type.

    Raises:
        ValueError: it has not; the message has the path of the first wrong value.
    """
    try:
        _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        at = ".".join(f"{one!s:.60}" for one in first["loc"]) or "it"
        raise ValueError(f"{at}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def json_with(*keys: str, kind: Any = None) -> Callable[[bytes], Any]:
    """A parser of a JSON object that has these keys, and the types of `kind`, for `RecordFile.parse`."""

    def parse(data: bytes) -> Any:
        found = record_json(data)
        found.keys()  # AttributeError if it is no object
        if missing := [key for key in keys if key not in found.keys()]:  # noqa: SIM118 - a list has no keys
            raise ValueError(f"has no {', '.join(missing)}")
        if kind is not None:
            check_types(kind, found)
        return found

    return parse
