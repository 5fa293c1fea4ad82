"""Labels of annotators as they come in, in `answers/` of a round: no label there is changed or removed.

Each file holds the labels of one request of the page or of one import, as JSON Lines, and is named by its content, so
the same import again adds nothing. A label is there as soon as its file is. Of several labels of an annotator for a
task the latest counts; undoing a label adds one with the status `withdrawn`.

    page-DIGEST.jsonl            labels of a request of the page
    import-DIGEST-DIGEST.jsonl   labels of an import
    merged-DIGEST.jsonl          labels of many files of the page, which are deleted once this one is stored

A label that is in two files, as after a crash between these steps, is one label. Who reads lists the files again
afterwards, and starts anew if there is another merged file by then.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal

from raymill.cluster.errors import DataError
from raymill.cluster.store import paths
from raymill.cluster.store.interface import FileInfo, NotFound
from raymill.cluster.store.store import Store

ANSWERS = "answers"
Status = Literal["labelled", "skipped", "draft", "withdrawn"]
_STATUSES = frozenset({"labelled", "skipped", "draft", "withdrawn"})
_THREADS = 16
_LARGEST = 1 << 30
_LONGEST_S = 1e9  # of a label
_OF_PAGE = re.compile(r"page-([0-9a-f]{32})\.jsonl")
MANY = 1000  # files of the page that are merged
_MERGED_BYTES = 64 << 20  # of a merged file, about
_TRIES = 20


@dataclass(frozen=True)
class Annotation:
    """What an annotator did with a task.

    Attributes:
        task: id of the task.
        value: the label (tasks.py); None unless `labelled` or `draft`.
        reason: why it was skipped.
        seconds: time that the annotator took; None if it is not known.
        at: when, ISO 8601; empty if it is not known, which is before any other time.
        guideline: version of the guideline that the annotator had; empty if it is not known.
        origin: `page`, or the tool and the name of the file it was imported from.
        problem: reason of `ballots.REASONS` why it does not count, which was seen when it came in; empty without one.
    """

    task: str
    annotator: str
    status: Status
    value: Any = None
    reason: str = ""
    seconds: float | None = None
    at: str = ""
    guideline: str = ""
    origin: str = "page"
    problem: str = ""

    @cached_property
    def key(self) -> str:
        """Equal for the same label, however often and from wherever it comes in."""
        same = [self.task, self.annotator, self.status, self.value, self.reason, self.at]
        same += [self.problem] if self.problem else []
        return hashlib.blake2b(json.dumps(same, sort_keys=True).encode(), digest_size=16).hexdigest()


_TEXTS = ("task", "annotator", "status", "reason", "at", "guideline", "origin", "problem")


@dataclass(frozen=True)
class Annotations:
    """The labels of a round. uri: folder of the round."""

    store: Store
    uri: str

    def add(self, answers: Sequence[Annotation], origin: str = "page") -> bool:
        """Write labels. Returns whether they are new; they are stored when it returns.

        origin: first part of the name of the file.
        """
        if not answers:
            return False
        lines = [json.dumps(asdict(one), ensure_ascii=False, sort_keys=True) for one in answers]
        # Half of a surrogate pair, which JSON of other tools can have, is no character.
        content = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
        return self.store.create(self._uri(origin, content), content)

    def _uri(self, origin: str, content: bytes) -> str:
        return paths.join(self.uri, ANSWERS, f"{origin}-{_digest(content)}.jsonl")

    def files(self) -> list[FileInfo]:
        """The files with labels."""
        return [one for one in self.store.list_files(paths.join(self.uri, ANSWERS)) if one.uri.endswith(".jsonl")]

    def read(self) -> list[Annotation]:
        """All labels, each once, in the order of their times.

        Raises:
            DataError: a file is damaged.
        """
        for _ in range(_TRIES):
            files = [one.uri for one in self.files()]
            try:
                contents = self._contents(files)
            except NotFound:
                continue  # it was merged meanwhile
            if _merged(one.uri for one in self.files()) <= _merged(files):
                break
        else:
            raise DataError(f"{paths.join(self.uri, ANSWERS)}: its files change all the time. Try again later.")
        found = [one for uri, content in zip(files, contents, strict=True) for one in _parsed(uri, content)]
        return sorted({one.key: one for one in found}.values(), key=lambda one: (one.at, one.key))

    def merge(self) -> None:
        """Put the labels of many files of the page into one file, if there are at least `MANY`.

        Any number of processes may do so at once and while labels come in, and may be killed at any moment.
        """
        small = [one for one in self.files() if _OF_PAGE.fullmatch(_name(one.uri))]
        if len(small) < MANY:
            return
        parts, size = list[list[str]]([[]]), 0
        for one in small:
            if size > _MERGED_BYTES:
                parts.append([])
                size = 0
            parts[-1].append(one.uri)
            size += one.size
        for uris in parts:
            self._merge(uris)

    def _merge(self, uris: Sequence[str]) -> None:
        """Put the labels of these files of the page into one. Files with another content than was written stay."""
        try:
            contents = self._contents(uris)
        except NotFound:
            return  # another process merges them
        good = {uri: one for uri, one in zip(uris, contents, strict=True) if _digest(one) in _name(uri)}
        if not good:
            return
        content = b"".join(good[uri] for uri in sorted(good))
        merged = self._uri("merged", content)
        self.store.create(merged, content)
        if self.store.read_bytes(merged, _LARGEST) == content:
            self.store.delete(good)

    def _contents(self, uris: Sequence[str]) -> list[bytes]:
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(lambda uri: self.store.read_bytes(uri, _LARGEST), uris))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]


def _merged(uris: Iterable[str]) -> set[str]:
    return {uri for uri in uris if _name(uri).startswith("merged-")}


def latest(answers: Iterable[Annotation]) -> dict[tuple[str, str], Annotation]:
    """(task, annotator) -> the label that counts, of those without a problem. answers: in the order of their times."""
    found = {(one.task, one.annotator): one for one in answers if not one.problem}
    return {place: one for place, one in found.items() if one.status != "withdrawn"}


def _parsed(uri: str, content: bytes) -> list[Annotation]:
    names = {field.name for field in fields(Annotation)}
    found = []
    try:
        for line in content.decode().split("\n"):
            if not line:
                continue
            plain = json.loads(line)
            if plain.keys() != names or plain["status"] not in _STATUSES:
                raise ValueError("a line is no label")
            seconds = plain["seconds"]
            is_time = seconds is None or (isinstance(seconds, int | float) and 0 <= seconds < _LONGEST_S)
            if "\\u" in line:
                json.dumps(plain, ensure_ascii=False).encode()  # no half of a surrogate pair
            if not is_time or not all(isinstance(plain[name], str) for name in _TEXTS):
                raise ValueError("a label has values of other types")
            found.append(Annotation(**plain))
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{uri}: is damaged ({error}). Labels there are written once: restore the file, or move it out of the "
            "folder and import its labels again."
        ) from error
    return found
