"""Compaction of an answer store, which joins its small files, and counts of what a store has.

Every unit of work and every call for vectors writes a file. Several are joined to one of at most some hundred
megabytes: the new file is written first, then the others are deleted. A process that is killed in between leaves tries
in two files, which count once, by their ids; a reader whose file is gone lists the store again (answers.py).

A row group has the tries of neighbouring files, in the order of their keys, and statistics of the keys. So a reader of
a range or a key reads as few row groups as before.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from raymill.cluster.asking.answers import OPEN, SCHEMA, AnswerRange, Answers
from raymill.cluster.errors import DataError
from raymill.cluster.failpoints import failpoint
from raymill.cluster.formats import byte_size, plural
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store
from raymill.cluster.temporary import scratch_folder

_FEWEST = 16  # small files that are worth joining
_SMALL, _LARGEST = 32 << 20, 256 << 20  # bytes of a file that is joined with others, and of the joined one
_GROUP_BYTES = 8 << 20  # decoded, of a row group, at least


def compact(store: Store, uri: str, fewest: int = _FEWEST) -> tuple[int, int]:
    """Join the small files of a store. Returns (number of files that were joined, number of new files).

    fewest: number of small files below which nothing is done. Files that cannot be read stay. Memory: a row group.
    """
    answers = Answers(store, uri, "compaction")
    joined = made = 0
    small = [one for one in _files(store, uri) if one.size < _SMALL]
    if len(small) < fewest:
        return 0, 0
    for group in _groups(small):
        uris = [one.uri for one in group]
        try:
            _join(answers, uris)
        except DataError:
            uris = [one for one in uris if _is_readable(answers, one)]
            _join(answers, uris)
        failpoint("answers_joined", uri)
        store.delete_listed(uri, uris)
        joined, made = joined + len(uris), made + (len(uris) > 0)
    return joined, made


def _files(store: Store, uri: str) -> list[FileInfo]:
    """The files of a store, without journals, in the order of their ranges."""
    there = set(Answers(store, uri, "compaction").files())
    return [one for one in store.list_files(uri) if one.uri in there] if there else []


def _groups(files: Sequence[FileInfo]) -> Iterator[list[FileInfo]]:
    """Neighbouring files, of which each group makes one."""
    group, size = list[FileInfo](), 0
    for one in files:
        if group and size + one.size > _LARGEST:
            yield group
            group, size = [], 0
        group.append(one)
        size += one.size
    yield group


def _is_readable(answers: Answers, uri: str) -> bool:
    try:
        for _ in answers.tables_of(uri, AnswerRange("", ""), SCHEMA.names):
            pass
    except DataError:
        return False
    return True


def _join(answers: Answers, uris: Sequence[str]) -> None:
    """Write the tries of several files to one. One that is there twice in the same state is written once."""
    if not uris:
        return
    ranges = [found for uri in uris if (found := AnswerRange.named(uri.rpartition("/")[2]))]
    last = "" if any(not one.last for one in ranges) else max(one.last for one in ranges)
    keys = AnswerRange(min(one.first for one in ranges), last)
    seen = set[tuple[str, str]]()
    with scratch_folder("answers") as folder:
        path = folder / "joined.parquet"
        with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
            for table in _row_groups(answers, uris):
                names = list(zip(table["id"].to_pylist(), table["outcome"].to_pylist(), strict=True))
                new = [name not in seen and not seen.add(name) for name in names]  # type: ignore[func-returns-value]
                if any(new):
                    kept = table.filter(pa.array(new)).sort_by([("key", "ascending"), ("at", "ascending")])
                    writer.write_table(kept, row_group_size=kept.num_rows)
        answers.store.upload(path, answers.new_file(keys))


def _row_groups(answers: Answers, uris: Sequence[str]) -> Iterator[pa.Table]:
    held, size = list[pa.Table](), 0
    for uri in uris:
        for table in answers.tables_of(uri, AnswerRange("", ""), SCHEMA.names):
            held.append(table)
            size += table.nbytes
            if size >= _GROUP_BYTES:
                yield pa.concat_tables(held)
                held, size = [], 0
    if held:
        yield pa.concat_tables(held)


@dataclass(frozen=True)
class StoreFacts:
    """What a store holds. journals: files of processes that ask, or were killed."""

    files: int
    bytes: int
    small: int
    journals: int

    @property
    def text(self) -> str:
        """A line for people."""
        open_ones = f", {plural(self.journals, 'journal')} of runs that have not ended" if self.journals else ""
        return f"{plural(self.files, 'file')}, {byte_size(self.bytes)}{open_ones}"


def stores_below(store: Store, uri: str) -> dict[str, StoreFacts]:
    """The answer stores in a folder and below it, by their paths in it; empty for the folder itself."""
    found: dict[str, list[FileInfo]] = {}
    journals = Counter[str]()
    for one in store.list_files(uri) if store.holds_files(uri) else ():
        folder, _, name = one.uri.removeprefix(uri).strip("/").rpartition("/")
        if AnswerRange.named(name) is None:
            continue
        if folder.rpartition("/")[2] == OPEN:
            journals[folder.removesuffix(OPEN).strip("/")] += 1
        elif name.endswith(".parquet"):
            found.setdefault(folder, []).append(one)
    return {
        folder: StoreFacts(
            len(files := found.get(folder, [])), sum(one.size for one in files),
            sum(one.size < _SMALL for one in files), journals[folder],
        )
        for folder in sorted({*found, *journals})
    }  # fmt: skip


def summary(store: Store, uri: str) -> dict[str, dict[str, int]]:
    """Tries, tokens and outcomes of each run in a store, from its files."""
    found: dict[str, Counter[str]] = {}
    answers = Answers(store, uri, "")
    for of_file in answers.files():
        names = ["run", "outcome", "input_tokens", "output_tokens"]
        for table in answers.tables_of(of_file, AnswerRange("", ""), names):
            sums = table.group_by(["run", "outcome"]).aggregate(
                [("input_tokens", "sum"), ("output_tokens", "sum"), ([], "count_all")]
            )
            for row in sums.to_pylist():
                of_run = found.setdefault(row["run"], Counter())
                of_run.update({"tries": row["count_all"], row["outcome"]: row["count_all"]})
                of_run.update({name: row[f"{name}_sum"] or 0 for name in ("input_tokens", "output_tokens")})
    return {run: dict(of_run) for run, of_run in sorted(found.items())}
