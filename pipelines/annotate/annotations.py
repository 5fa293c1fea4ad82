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
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from operator import attrgetter
from typing import Any, Literal

from raymill.cluster.errors import DataError
from raymill.cluster.store import paths
from raymill.cluster.store.interface import FileInfo, NotFound
from raymill.cluster.store.store import Store

ANSWERS = "answers"
Status = Literal["labelled", "skipped", "draft", "withdrawn"]
_STATUSES = frozenset({"labelled", "skipped", "draft", "withdrawn"})
_THREADS = 16
# Bytes of all labels of a round, and their number: of a kilobyte of memory each. Others may have written them.
_LARGEST = 1 << 30
MOST = 2_000_000
_READ_BYTES = 64 << 20  # of the files that are in memory at once, besides one that is larger
# Brackets and commas of a line over 1 MiB, each of which may be a value of 30 to 230 bytes in memory.
_LONG_LINE, _MOST_MARKS = 1 << 20, 2_000_000
_LONGEST_S = 1e9  # of a label
_OF_PAGE = re.compile(r"page-([0-9a-f]{32})\.jsonl")
MANY = 1000  # files of the page that are merged
_MERGED_BYTES = 64 << 20  # of a merged file, about
_TRIES = 20
_DECODER = json.JSONDecoder()


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

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for the same label, however often and from wherever it comes in."""
        value = self.value
        text = value if isinstance(value, str) else f"\0{json.dumps(value, sort_keys=True)}"
        return self.task, self.annotator, self.status, text, self.reason, self.at, self.problem


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
            DataError: a file is damaged, or there are too many.
        """
        folder = paths.join(self.uri, ANSWERS)
        for _ in range(_TRIES):
            files = self.files()
            if (size := sum(one.size for one in files)) > _LARGEST:
                raise DataError(
                    f"{folder}: has {size:,} bytes of labels; at most {_LARGEST:,} are read. Move files that are not "
                    "yours out of the folder, or make rounds with fewer tasks."
                )
            found: dict[tuple[str, ...], Annotation] = {}
            try:
                for uri, content in self._each_content(files):
                    for one in _parsed(uri, content):
                        found[one.key] = one
                        if len(found) > MOST:
                            raise DataError(
                                f"{folder}: has more than {MOST:,} labels. Move files that are not yours out of the "
                                "folder, or make rounds with fewer tasks."
                            )
            except NotFound:
                continue  # it was merged meanwhile
            if _merged(one.uri for one in self.files()) <= _merged(one.uri for one in files):
                return _in_order(found.values())
        raise DataError(f"{folder}: its files change all the time. Try again later.")

    def _each_content(self, files: Sequence[FileInfo]) -> Iterator[tuple[str, bytes]]:
        """(URI, content) of each file, some of them at once."""
        waiting, size = list[str](), 0
        for one in files:
            if waiting and size + one.size > _READ_BYTES:
                yield from zip(waiting, self._contents(waiting), strict=True)
                waiting, size = [], 0
            waiting.append(one.uri)
            size += one.size
        yield from zip(waiting, self._contents(waiting), strict=True)

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


def _in_order(answers: Iterable[Annotation]) -> list[Annotation]:
    """The labels by their times, those of equal times by their keys."""
    by_time = groupby(sorted(answers, key=attrgetter("at")), attrgetter("at"))
    same_times = (list(some) for _, some in by_time)
    return [one for some in same_times for one in (sorted(some, key=attrgetter("key")) if len(some) > 1 else some)]


def latest(answers: Iterable[Annotation]) -> dict[tuple[str, str], Annotation]:
    """(task, annotator) -> the label that counts, of those without a problem. answers: in the order of their times."""
    found = {(one.task, one.annotator): one for one in answers if not one.problem}
    return {place: one for place, one in found.items() if one.status != "withdrawn"}


def _parsed(uri: str, content: bytes) -> Iterator[Annotation]:
    names = {field.name for field in fields(Annotation)}
    try:
        for data in io.BytesIO(content):
            if not (line := data.decode().removesuffix("\n")):
                continue
            if len(data) > _LONG_LINE and sum(map(data.count, (b"[", b"{", b","))) > _MOST_MARKS:
                raise ValueError("a line has millions of values")
            plain, end = _DECODER.raw_decode(line)
            if end != len(line):
                plain = json.loads(line)  # spaces after it, or an error
            if plain.keys() != names or plain["status"] not in _STATUSES:
                raise ValueError("a line is no label")
            seconds = plain["seconds"]
            is_time = seconds is None or (isinstance(seconds, int | float) and 0 <= seconds < _LONGEST_S)
            if "\\u" in line:
                json.dumps(plain, ensure_ascii=False).encode()  # no half of a surrogate pair
            if not is_time or {*map(type, map(plain.__getitem__, _TEXTS))} != {str}:
                raise ValueError("a label has values of other types")
            one = Annotation.__new__(Annotation)  # a third of the time of a call, which matters for 100,000 labels
            one.__dict__.update(plain)
            yield one
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{uri}: is damaged ({error}). Labels there are written once: restore the file, or move it out of the "
            "folder and import its labels again."
        ) from error
