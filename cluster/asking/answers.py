"""The answer store: every try of every request, raw, as it came, under the request's key.

    answers/<first>-<last>.<id>.parquet            tries of the keys of a range, in their order
    answers/_open/<first>-<last>.<run>.<id>...     journals: the same as JSON lines, while a unit asks

Names of files of a call whose requests have keys in no order, such as those for vectors, end with the id of the call.

A try is written to a journal before its answer is read (cluster/store/line_log.py). `settle` writes the tries of a unit
to one Parquet file, so a million answers are some hundred objects. A line is also written before a request is sent:
requests that were in flight when a process was killed may have been billed, and are counted.

Several runs may share a store. A run removes its own journals alone. At its end small files are joined (compaction.py).
A try that is in two files counts once, by its id.
"""

import hashlib
import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from raymill.cluster.artifact import read_tables
from raymill.cluster.asking.money import TokenCounts, TokenPrices
from raymill.cluster.errors import ClusterError, DataError
from raymill.cluster.store import paths
from raymill.cluster.store.interface import first_line
from raymill.cluster.store.line_log import LineLog
from raymill.cluster.store.store import Store

OPEN = "_open"
IN_BATCHES = "/batch"  # behind the name of the run, of tries in batch files
SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # of the request
        ("id", pa.string()),  # of the try
        ("run", pa.string()),  # that asked; of a batch file with IN_BATCHES behind it
        ("at", pa.string()),  # UTC, when the answer was there
        ("outcome", pa.string()),  # of OUTCOMES
        ("reason", pa.string()),  # in words, of all outcomes but `answered`
        ("status", pa.int32()),  # of HTTP; 0 without an answer
        ("finish_reason", pa.string()),
        ("input_tokens", pa.int64()),  # as the server counted them
        ("cached_tokens", pa.int64()),  # of these
        ("output_tokens", pa.int64()),
        ("reasoning_tokens", pa.int64()),  # of these
        ("most_input", pa.int64()),  # largest numbers of tokens of a try that may have been billed without a count
        ("most_output", pa.int64()),
        ("seconds", pa.float64()),  # from the request to the last byte of the answer
        ("waited", pa.float64()),  # seconds before the request, for the limit and for earlier tries
        ("request", pa.large_string()),  # the JSON that was sent
        ("body", pa.large_binary()),  # as it was received
    ]
)
# What became of a try.
OUTCOMES = {
    "answered": "the server answered",
    "refused": "the server refused this request (400, 413, 422): it is not asked again",
    "again": "no answer: a time-out, a cut connection, a refused rate, an overloaded or broken server",
    "stopped": "the server refused all requests: the key, the model's name, or the money",
    "in_flight": "the process was killed before the answer came",
}
FINAL = ("answered", "refused")
ANSWERS = "answers"  # folder of a run's answer store, below its output
AnswerFolder = Annotated[
    paths.AbsolutePath | None,
    Field(description="Folder or URI of the answer store, which several runs may share; null: OUTPUT/answers"),
]

_NUMBER = re.compile(r"[0-9]{6,12}")  # of a journal, in its name
_GROUP_ROWS, _GROUP_BYTES = 2000, 32 << 20
_LARGEST_NUMBER = (1 << 31) - 1  # of a status, and of tokens of one try
_LONGEST_NAME = 500  # bytes of a key, an id or a run
_LONGEST_LINE, _BLOCK_BYTES = 256 << 20, 1 << 20
_COUNTED = ["id", "run", "outcome", *(name for name in SCHEMA.names if name.endswith(("_tokens", "_input", "_output")))]


@dataclass(frozen=True)
class Try:
    """A try of a request; see SCHEMA."""

    key: str
    id: str
    run: str
    at: str
    outcome: str
    reason: str = ""
    status: int = 0
    finish_reason: str = ""
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    most_input: int = 0
    most_output: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    request: str = ""
    body: bytes = b""


_TYPES = get_type_hints(Try)


def _try_of(plain: Mapping[str, Any]) -> Try:
    """The try with these values. Raises TypeError or ValueError for others, as in a changed file."""
    if wrong := [name for name, value in plain.items() if type(value) is not _TYPES.get(name)]:
        raise TypeError(f"{', '.join(wrong)}: of another type")
    for value in plain.values():
        if isinstance(value, str):
            value.encode()  # else no file could have it
        elif isinstance(value, int) and not 0 <= value <= _LARGEST_NUMBER:
            raise ValueError("a number below 0, or without bound")
    return Try(**plain)


@dataclass(frozen=True)
class AnswerRange:
    """Keys from `first` up to `last`, which is not included.

    last: empty for the last range. call: id of a call whose requests have keys in no order; empty: all keys of the
    range.
    """

    first: str
    last: str
    call: str = ""

    def meets(self, other: "AnswerRange") -> bool:
        """Whether keys of this range may be in files of the other. Those of a call are in its own files alone."""
        if self.call:
            return self.call == other.call
        return (not other.last or self.first < other.last) and (not self.last or other.first < self.last)

    def __contains__(self, key: str) -> bool:
        return key >= self.first and (not self.last or key < self.last)

    @property
    def name(self) -> str:
        """In names of files."""
        return f"{self.first or '0'}-{self.last or 'g'}" + (f"-{self.call}" if self.call else "")

    @classmethod
    def named(cls, name: str) -> "AnswerRange | None":
        """The range in the name of a file; None of another file."""
        parts = name.partition(".")[0].split("-")
        if len(parts) not in (2, 3) or not all(one.isalnum() for one in parts):
            return None
        first, last, *call = parts
        return cls("" if first == "0" else first, "" if last == "g" else last, *call)

    def may_have(self, least: str, largest: str) -> bool:
        """Whether one of the keys from `least` to `largest` can be in the range."""
        return largest >= self.first and (not self.last or least < self.last)


class Journal:
    """Writes the tries of a range.

    Args:
        log: an entered `LineLog`. run: as of `Answers`. newer: whether a later journal of the run and the range exists.
    """

    def __init__(self, log: LineLog, run: str, newer: Callable[[], bool]) -> None:
        self._log, self._run, self._newer = log, run, newer

    def sending(self, key: str, id: str, request: str, most: TokenCounts) -> None:
        """A try begins. most: what it can take."""
        counts = {"most_input": most.input, "most_output": most.output}
        self._write({"key": key, "id": id, "run": self._run, "request": request, **counts})

    def add(self, one: Try) -> None:
        """A try has ended. The request is in the line of `sending`."""
        # Bytes that are no UTF-8 stay what they are.
        plain = vars(one) | {"body": one.body.decode("utf-8", "surrogateescape")}
        del plain["request"]
        self._write(plain)

    def flush_old(self) -> None:
        """Let nothing wait for the store for more than some seconds.

        Raises:
            ClusterError: another worker does the unit, because this one did not respond, as when it was suspended.
        """
        if self._log.flush_old() and self._newer():
            raise ClusterError(f"{self._run}: another worker asks these requests, because this one did not respond.")

    def _write(self, plain: Mapping[str, Any]) -> None:
        self._log.write(json.dumps(plain, separators=(",", ":")).encode() + b"\n")


@dataclass(frozen=True)
class Answers:
    """The answer store in a folder. run: name of the run that asks, in its tries.

    Raises:
        StorageError: a link in the folder leads out of it.
    """

    store: Store
    uri: str
    run: str

    def __post_init__(self) -> None:
        self.store.refuse_links_out(self.uri)

    @contextmanager
    def journal(self, keys: AnswerRange, in_batches: bool = False) -> Iterator[Journal]:
        """A new journal of a range, in a `with`. in_batches: of tries in batch files."""
        number = 1 + max(self._numbers(keys), default=-1)
        name = f"{keys.name}.{self.mark}.{number:06}-{uuid.uuid4().hex[:12]}"
        with LineLog(self.store, paths.join(self.uri, OPEN, name)) as log:
            run = self.run + IN_BATCHES * in_batches
            yield Journal(log, run, lambda: max(self._numbers(keys), default=number) > number)

    def finals(
        self, keys: AnswerRange, wanted: Collection[str], most_bytes: int
    ) -> tuple[dict[str, Try], dict[str, Try]]:
        """(answers, refusals) of a range by key, of each wanted key the first that came.

        most_bytes: of a body; larger ones are left out.
        """
        found: dict[str, dict[str, Try]] = {outcome: {} for outcome in FINAL}

        def keep(one: Try) -> None:
            of_outcome = found[one.outcome]
            if one.key not in of_outcome or (one.at, one.id) < (of_outcome[one.key].at, of_outcome[one.key].id):
                of_outcome[one.key] = one

        given = pa.array(wanted, pa.string())
        for table in self._tables(keys, SCHEMA.names):
            table = table.filter(pc.and_(pc.is_in(table["key"], given), pc.is_in(table["outcome"], pa.array(FINAL))))
            table = table.filter(pc.less_equal(pc.binary_length(table["body"]), most_bytes))
            for row in range(table.num_rows):
                keep(Try(**table.slice(row, 1).to_pylist()[0]))
        for one in self._open(keys):
            if one.outcome in FINAL and one.key in wanted and len(one.body) <= most_bytes:
                keep(one)
        return found["answered"], found["refused"]

    def files(self) -> list[str]:
        """The URIs of all files, without journals."""
        return self._files(AnswerRange("", ""))

    def keys_in(self, uri: str) -> list[list[str]]:
        """The keys with an answer in each row group of a file."""
        return [
            table.filter(pc.equal(table["outcome"], "answered"))["key"].to_pylist()
            for table in self.tables_of(uri, AnswerRange("", ""), ["key", "outcome"])
        ]

    def answered_in(
        self, uri: str, groups: Collection[int], wanted: Collection[str], most_bytes: int
    ) -> dict[str, Try]:
        """The answers to these keys in row groups of a file. most_bytes: of a body; larger ones are left out."""
        found, given = dict[str, Try](), pa.array(sorted(wanted), pa.string())
        for table in self.tables_of(uri, AnswerRange("", ""), SCHEMA.names, groups):
            of_keys = pc.and_(pc.is_in(table["key"], given), pc.equal(table["outcome"], "answered"))
            table = table.filter(pc.and_(of_keys, pc.less_equal(pc.binary_length(table["body"]), most_bytes)))
            found = {row["key"]: Try(**row) for row in table.to_pylist()} | found
        return found

    def in_flight(self, keys: AnswerRange, run: str) -> tuple[dict[str, str], set[str]]:
        """(id of the try -> key, of the tries of a run that have no end; ids of the others).

        run: with IN_BATCHES, of batch files.
        """
        begun, ended = dict[str, str](), set[str]()
        rows = [row for table in self._tables(keys, ["key", "id", "run", "outcome"]) for row in table.to_pylist()]
        rows += [vars(one) for one in self._open(keys)]
        for row in rows:
            if row["run"] == run and row["outcome"] == "in_flight":
                begun[row["id"]] = row["key"]
            elif row["run"] == run:
                ended.add(row["id"])
        return {id: key for id, key in begun.items() if id not in ended}, ended

    def settle(self, keys: AnswerRange) -> None:
        """Write what the run's journals of a range hold to one Parquet file. They may be deleted afterwards."""
        there = set[str]()
        for table in self._tables(keys, ["id", "outcome"]):
            settled = table.filter(pc.not_equal(table["outcome"], "in_flight"))
            there.update(settled["id"].to_pylist())
        found: dict[str, Try] = {}
        for one in self._open(keys, own=True):
            if one.id not in there:
                _keep(found, one)
        if not found:
            return
        new = sorted(found.values(), key=lambda one: (one.key, one.at, one.id))
        columns = {name: [getattr(one, name) for one in new] for name in SCHEMA.names}
        table = pa.table(columns, schema=SCHEMA)
        written = pa.BufferOutputStream()
        rows = max(1, min(_GROUP_ROWS, table.num_rows * _GROUP_BYTES // max(1, table.nbytes)))
        pq.write_table(table, written, compression="zstd", row_group_size=rows)
        self.store.write_bytes(self.new_file(keys), written.getvalue().to_pybytes())

    def new_file(self, keys: AnswerRange) -> str:
        """The URI of a new file with tries of these keys."""
        return paths.join(self.uri, f"{keys.name}.{uuid.uuid4().hex[:12]}.parquet")

    def settle_call(self, keys: AnswerRange) -> None:
        """Settle and delete the run's journals of a call, which no other call reads."""
        self.settle(keys)
        for uris in self._journals(keys, own=True).values():
            self.store.delete_listed(self.uri, uris)

    def close(self) -> None:
        """Settle and delete the run's journals. Called by the driver, when none of its units asks."""
        for name, uris in self._journals(AnswerRange("", ""), own=True).items():
            keys = AnswerRange.named(name)
            assert keys is not None
            self.settle(keys)
            self.store.delete_listed(self.uri, uris)

    def spending(self) -> "Spending":
        """The tries of the run, and their tokens. Memory: some 60 bytes a try."""
        everything = AnswerRange("", "")
        schema = pa.schema([SCHEMA.field(name) for name in _COUNTED])
        own = pa.array(self._runs)
        tables = [table.filter(pc.is_in(table["run"], own)) for table in self._tables(everything, _COUNTED)]
        in_journals = [one for one in self._open(everything) if one.run in self._runs]
        columns = {name: [getattr(one, name) for one in in_journals] for name in _COUNTED}
        tries = pa.concat_tables([*tables, pa.table(columns, schema=schema)])
        # Of several rows of a try the first counts: those with its end stand before those in flight.
        in_flight = pc.equal(tries["outcome"], "in_flight")
        tries = pa.concat_tables([tries.filter(pc.invert(in_flight)), tries.filter(in_flight)])
        ids = tries["id"].combine_chunks().dictionary_encode().indices.to_numpy()
        tries = tries.take(np.unique(ids, return_index=True)[1])

        def counts(run: str) -> tuple[TokenCounts, TokenCounts]:
            of_run = tries.filter(pc.equal(tries["run"], run))

            def total(name: str) -> int:
                return pc.sum(of_run[name]).as_py() or 0

            counted = TokenCounts(*(total(f"{name}_tokens") for name in ("input", "cached", "output", "reasoning")))
            return counted, TokenCounts(total("most_input"), 0, total("most_output"))

        return Spending(Counter(tries["outcome"].to_pylist()), *(count for run in self._runs for count in counts(run)))

    def sizes(self, most: int) -> tuple[list[int], list[int], list[int]]:
        """(bytes of the messages, input tokens, output tokens) of the first answers of the run, at most `most`."""
        found: list[tuple[int, int, int]] = []
        for table in self._tables(AnswerRange("", ""), ["run", "outcome", "request", "input_tokens", "output_tokens"]):
            ours = pc.and_(pc.is_in(table["run"], pa.array(self._runs)), pc.equal(table["outcome"], "answered"))
            for row in table.filter(ours).to_pylist():
                if row["input_tokens"] and (size := _message_bytes(row["request"])) is not None:
                    found.append((size, row["input_tokens"], row["output_tokens"]))
            if len(found) >= most:
                break
        columns = zip(*found[:most], strict=True) if found else ((), (), ())
        bytes_of, inputs, outputs = (list(column) for column in columns)
        return bytes_of, inputs, outputs

    def _numbers(self, keys: AnswerRange) -> list[int]:
        """The number of each journal of the run and the range, in the order in which they were begun."""
        names = (name.split(".") for name in self._journals(keys, own=True))
        numbers = (id.partition("-")[0] for of_range, _, id in names if of_range == keys.name)
        return [int(number) for number in numbers if _NUMBER.fullmatch(number)]

    @property
    def _runs(self) -> tuple[str, str]:
        """The run in its tries: of single requests, and of batch files."""
        return self.run, self.run + IN_BATCHES

    @property
    def mark(self) -> str:
        """The run in names of journals."""
        return hashlib.blake2b(self.run.encode(), digest_size=4).hexdigest()

    def _tables(self, keys: AnswerRange, names: Sequence[str]) -> Iterator[pa.Table]:
        """As `tables_of`, of all files that meet a range. A try may come twice.

        Raises:
            DataError: a file has other columns, or is damaged.
        """
        left, read = self._files(keys), set[str]()
        while left:
            for uri in left:
                read.add(uri)
                try:
                    yield from self.tables_of(uri, keys, names)
                except DataError:
                    if self.store.exists(uri):
                        raise
                    # Another process has joined it with others: its tries are in a file that is listed again below.
                    left = [one for one in self._files(keys) if one not in read]
                    break
            else:
                return

    def tables_of(
        self, uri: str, keys: AnswerRange, names: Sequence[str], groups: Collection[int] | None = None
    ) -> Iterator[pa.Table]:
        """These columns of the tries in a file, a table for each row group that may have keys of a range.

        groups: numbers of the row groups that are read; None: all. Rows that are no tries are left out.

        Raises:
            DataError: it has other columns, is damaged, or gone.
        """
        schema = pa.schema([SCHEMA.field(name) for name in names])

        def meets(number: int, group: pq.RowGroupMetaData) -> bool:
            bounds = _key_bounds(group)
            return (groups is None or number in groups) and (bounds is None or keys.may_have(*bounds))

        for table in read_tables(self.store, [uri], {*names}.__contains__, meets):
            try:
                found = table.select(names).cast(schema)
                found.validate(full=True)
            except (KeyError, pa.ArrowException) as error:
                raise DataError(
                    f"{uri}: is no file of an answer store ({first_line(error)}). Remove it, or name another folder in "
                    "`answers`."
                ) from error
            yield found.filter(_are_tries(found))

    def _files(self, keys: AnswerRange) -> list[str]:
        found = []
        for file in self.store.list_files(self.uri) if self.store.holds_files(self.uri) else ():
            name = file.uri.rpartition("/")[2]
            of_file = AnswerRange.named(name)
            if name.endswith(".parquet") and of_file and keys.meets(of_file) and file.uri == paths.join(self.uri, name):
                found.append(file.uri)
        return sorted(found)

    def _journals(self, keys: AnswerRange, own: bool = False) -> dict[str, list[str]]:
        """The files of each journal that meets a range, by its name. own: of this run alone."""
        folder = paths.join(self.uri, OPEN)
        found: dict[str, list[str]] = {}
        for file in self.store.list_files(folder) if self.store.holds_files(folder) else ():
            name = file.uri.rpartition("/")[2]
            of_file = AnswerRange.named(name)
            if name.endswith(".jsonl") and of_file and keys.meets(of_file) and (not own or f".{self.mark}." in name):
                found.setdefault(".".join(name.split(".")[:3]), []).append(file.uri)
        return {name: sorted(uris) for name, uris in sorted(found.items())}

    def _open(self, keys: AnswerRange, own: bool = False) -> Iterator[Try]:
        """The tries in the journals of a range. own: of this run alone."""
        for uris in self._journals(keys, own).values():
            yield from (one for one in self._of_journal(uris) if one.key in keys)

    def _of_journal(self, uris: Iterable[str]) -> Iterator[Try]:
        sent: dict[str, dict[str, str]] = {}
        for uri in uris:
            for line in self._lines(uri):
                try:
                    plain = json.loads(line)
                    if "outcome" not in plain:
                        sent[plain["id"]] = plain
                        continue
                    request = sent.pop(plain["id"], {}).get("request", "")
                    body = plain["body"].encode("utf-8", "surrogateescape")
                    yield _try_of(plain | {"body": body, "request": request})
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    continue  # the line that a killed process was writing, or one that somebody changed
        for plain in sent.values():
            with suppress(TypeError, ValueError):
                yield _try_of(plain | {"at": "", "outcome": "in_flight"})

    def _lines(self, uri: str) -> Iterator[bytes]:
        """The lines of a file that are not empty, up to one that is longer than any of a journal."""
        rest = bytearray()
        with self.store.open_input(uri) as file:
            while block := file.read(_BLOCK_BYTES):
                rest += block
                if b"\n" in block:
                    *lines, last = bytes(rest).split(b"\n")
                    yield from filter(None, lines)
                    rest = bytearray(last)
                elif len(rest) > _LONGEST_LINE:
                    return
        if rest:
            yield bytes(rest)


def run_name(name: str, output: str) -> str:
    """The run in its tries: its name with a hash of the output, by which runs with equal names differ."""
    return f"{name}-{hashlib.blake2b(output.encode(), digest_size=4).hexdigest()}"


def _key_bounds(group: pq.RowGroupMetaData) -> tuple[str, str] | None:
    """The least and the largest key in the statistics of a row group of tries; None without statistics."""
    for at in range(group.num_columns):
        column = group.column(at)
        if column.path_in_schema == "key":
            stated = column.statistics
            if stated is not None and stated.has_min_max:
                bounds = stated.min, stated.max
                return bounds if all(isinstance(one, str) for one in bounds) else None
    return None


def _are_tries(table: pa.Table) -> pa.ChunkedArray:
    """Which rows have values as Raymill writes them: none missing, no number below 0, no name without bound."""
    good = pa.chunked_array([pa.repeat(True, table.num_rows)])
    for field in table.schema:
        column = table[field.name]
        valid = pc.is_valid(column)
        if pa.types.is_integer(field.type):
            valid = pc.and_(pc.greater_equal(column, 0), pc.less_equal(column, _LARGEST_NUMBER))
        elif pa.types.is_string(field.type) and field.name != "reason":
            valid = pc.less_equal(pc.binary_length(column), _LONGEST_NAME)
        good = pc.and_(good, pc.fill_null(valid, False))
    return good


def _message_bytes(request: str) -> int | None:
    """Bytes of the messages of a request; None if it is none."""
    try:
        texts = [one.get("content") or "" for one in json.loads(request).get("messages", ())]
        return sum(len(str(text).encode()) for text in texts)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _keep(found: dict[str, Try], one: Try) -> None:
    """Add a try by its id; one that has ended replaces the same one in flight, and has its request."""
    held = found.get(one.id)
    if held is None:
        found[one.id] = one
        return
    ended = one if held.outcome == "in_flight" else held
    found[one.id] = replace(ended, request=held.request or one.request)


@dataclass(frozen=True)
class Spending:
    """The tries of a run.

    tries: number by outcome. single, in_batches: tokens that the server counted, of single requests and of batch files.
    single_unknown, in_batches_unknown: the most tokens of tries that may have been billed without a count.
    """

    tries: Counter[str]
    single: TokenCounts
    single_unknown: TokenCounts
    in_batches: TokenCounts
    in_batches_unknown: TokenCounts

    @property
    def tokens(self) -> TokenCounts:
        """All tokens that the server counted."""
        return self.single + self.in_batches

    @property
    def unknown(self) -> TokenCounts:
        """The most tokens of all tries that may have been billed without a count."""
        return self.single_unknown + self.in_batches_unknown

    def cost(self, prices: TokenPrices | None) -> float:
        """What the counted tokens cost."""
        return self.single.cost(prices) + self.in_batches.cost(prices and prices.in_batches)

    def cost_unknown(self, prices: TokenPrices | None) -> float:
        """The most that tries without a count cost."""
        return self.single_unknown.cost(prices) + self.in_batches_unknown.cost(prices and prices.in_batches)

    def most(self, prices: TokenPrices | None) -> float:
        """The most that the tries cost."""
        return self.cost(prices) + self.cost_unknown(prices)
