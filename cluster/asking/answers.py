"""The answer store: every try of every request, raw, as it came, under the request's key.

    answers/<first>-<last>.<id>.parquet     tries of the keys of a range, in their order
    answers/_open/<first>-<last>.<id>...    the same while a unit asks, as JSON lines

A try is written before its answer is looked at (cluster/store/line_log.py), and `settle` joins the tries of a unit to
one file, so a million answers are some hundred objects. Before a request is sent, a line says so: what was in flight
when a process was killed may have been billed, and is counted.

Files are only added, and several runs may share a store. A try that is in two files counts once, by its id.
"""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymill.cluster.artifact import read_tables
from raymill.cluster.asking.money import TokenCounts, TokenPrices
from raymill.cluster.store import paths
from raymill.cluster.store.line_log import LineLog
from raymill.cluster.store.store import Store

OPEN = "_open"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # of the request
        ("id", pa.string()),  # of the try
        ("run", pa.string()),  # that asked
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

_GROUP_ROWS = 2000
_WITHOUT_TEXTS = [name for name in SCHEMA.names if name not in ("request", "body")]


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
    """The try with these values. Raises TypeError for others, as in a changed file."""
    if wrong := [name for name, value in plain.items() if type(value) is not _TYPES.get(name)]:
        raise TypeError(f"{', '.join(wrong)}: of another type")
    return Try(**plain)


@dataclass(frozen=True)
class AnswerRange:
    """Keys from `first` on, up to `last` without it; empty: to the end."""

    first: str
    last: str

    def meets(self, other: "AnswerRange") -> bool:
        """Whether both have a key in common."""
        return (not other.last or self.first < other.last) and (not self.last or other.first < self.last)

    def __contains__(self, key: str) -> bool:
        return key >= self.first and (not self.last or key < self.last)

    @property
    def name(self) -> str:
        """In names of files."""
        return f"{self.first or '0'}-{self.last or 'g'}"

    @classmethod
    def named(cls, name: str) -> "AnswerRange | None":
        """The range in the name of a file; None of another file."""
        first, dash, last = name.partition(".")[0].partition("-")
        if not dash or not all(one.isalnum() for one in (first, last)):
            return None
        return cls("" if first == "0" else first, "" if last == "g" else last)


class Journal:
    """Tries of a range as they come. log: has been entered. run: as of `Answers`."""

    def __init__(self, log: LineLog, run: str) -> None:
        self._log, self._run = log, run

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
        """Let nothing wait for the store for more than some seconds."""
        self._log.flush_old()

    def _write(self, plain: Mapping[str, Any]) -> None:
        self._log.write(json.dumps(plain, separators=(",", ":")).encode() + b"\n")


@dataclass(frozen=True)
class Answers:
    """The answer store in a folder. run: name of the run that asks, in its tries."""

    store: Store
    uri: str
    run: str

    @contextmanager
    def journal(self, keys: AnswerRange) -> Iterator[Journal]:
        """A new journal of a range, in a `with`."""
        with LineLog(self.store, paths.join(self.uri, OPEN, f"{keys.name}.{uuid.uuid4().hex[:12]}")) as log:
            yield Journal(log, self.run)

    def tries(self, keys: AnswerRange) -> dict[str, list[Try]]:
        """All tries of a range, by key, in the order of their times."""
        found: dict[str, Try] = {}
        for uri in self._files(keys):
            for table in read_tables(self.store, [uri]):
                for row in table.to_pylist():
                    if row["key"] in keys:
                        found.setdefault(row["id"], Try(**row))
        for one in self._open(keys):
            if one.id not in found or found[one.id].outcome == "in_flight":
                found[one.id] = one
        by_key: dict[str, list[Try]] = {}
        for one in sorted(found.values(), key=lambda one: (one.at, one.id)):
            by_key.setdefault(one.key, []).append(one)
        return by_key

    def settle(self, keys: AnswerRange) -> None:
        """Join what the journals of a range have to one file. They may be deleted afterwards."""
        there = set[str]()
        for uri in self._files(keys):
            for table in read_tables(self.store, [uri], {"id", "outcome"}.__contains__):
                settled = table.filter(pc.not_equal(table["outcome"], "in_flight"))
                there.update(settled["id"].to_pylist())
        new = sorted(
            (one for one in self._open(keys) if one.id not in there), key=lambda one: (one.key, one.at, one.id)
        )
        if not new:
            return
        columns = {name: [getattr(one, name) for one in new] for name in SCHEMA.names}
        written = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, schema=SCHEMA), written, compression="zstd", row_group_size=_GROUP_ROWS)
        uri = paths.join(self.uri, f"{keys.name}.{uuid.uuid4().hex[:12]}.parquet")
        self.store.write_bytes(uri, written.getvalue().to_pybytes())

    def close(self) -> None:
        """Delete the journals, after all that they hold is settled. Called by the driver, when no unit asks."""
        for name, uris in self._journals(AnswerRange("", "")).items():
            keys = AnswerRange.named(name)
            assert keys is not None
            self.settle(keys)
            self.store.delete_listed(self.uri, uris)

    def usage(self, run: str | None) -> pa.Table:
        """All tries without their texts, each once. run: of this run alone; None: of all."""
        found: dict[str, dict[str, Any]] = {}
        for uri in self._files(AnswerRange("", "")):
            for table in read_tables(self.store, [uri], _WITHOUT_TEXTS.__contains__):
                for row in table.to_pylist():
                    found.setdefault(row["id"], row)
        for one in self._open(AnswerRange("", "")):
            if one.id not in found or found[one.id]["outcome"] == "in_flight":
                found[one.id] = {name: getattr(one, name) for name in _WITHOUT_TEXTS}
        rows = [row for row in found.values() if run is None or row["run"] == run]
        return pa.Table.from_pylist(rows, pa.schema([SCHEMA.field(name) for name in _WITHOUT_TEXTS]))

    def sizes(self, most: int) -> tuple[list[int], list[int], list[int]]:
        """(bytes of the messages, input tokens, output tokens) of the first answers of the run, at most `most`."""
        found: list[tuple[int, int, int]] = []
        wanted = {"run", "outcome", "request", "input_tokens", "output_tokens"}
        for uri in self._files(AnswerRange("", "")):
            for table in read_tables(self.store, [uri], wanted.__contains__):
                for row in table.to_pylist():
                    if row["outcome"] == "answered" and row["run"] == self.run and row["input_tokens"]:
                        texts = (one.get("content") or "" for one in json.loads(row["request"]).get("messages", ()))
                        size = sum(len(str(text).encode()) for text in texts)
                        found.append((size, row["input_tokens"], row["output_tokens"]))
            if len(found) >= most:
                break
        columns = zip(*found[:most], strict=True) if found else ((), (), ())
        bytes_of, inputs, outputs = (list(column) for column in columns)
        return bytes_of, inputs, outputs

    def spent(self, prices: TokenPrices | None) -> float:
        """What the run has spent, with the largest cost of the tries that may have been billed without a count."""
        return sum(cost_of(row, prices) for row in self.usage(self.run).to_pylist())

    def _files(self, keys: AnswerRange) -> list[str]:
        found = []
        for file in self.store.list_files(self.uri) if self.store.holds_files(self.uri) else ():
            name = file.uri.rpartition("/")[2]
            of_file = AnswerRange.named(name)
            if name.endswith(".parquet") and of_file and keys.meets(of_file) and f"/{OPEN}/" not in file.uri:
                found.append(file.uri)
        return sorted(found)

    def _journals(self, keys: AnswerRange) -> dict[str, list[str]]:
        """The files of each journal that meets a range, by its name."""
        folder = paths.join(self.uri, OPEN)
        found: dict[str, list[str]] = {}
        for file in self.store.list_files(folder) if self.store.holds_files(folder) else ():
            name = file.uri.rpartition("/")[2]
            of_file = AnswerRange.named(name)
            if name.endswith(".jsonl") and of_file and keys.meets(of_file):
                found.setdefault(".".join(name.split(".")[:2]), []).append(file.uri)
        return {name: sorted(uris) for name, uris in sorted(found.items())}

    def _open(self, keys: AnswerRange) -> Iterator[Try]:
        """The tries in the journals of a range."""
        for uris in self._journals(keys).values():
            yield from (one for one in self._of_journal(uris) if one.key in keys)

    def _of_journal(self, uris: Iterable[str]) -> Iterator[Try]:
        sent: dict[str, dict[str, str]] = {}
        for uri in uris:
            for line in self.store.read_bytes(uri).split(b"\n"):
                try:
                    plain = json.loads(line)
                    if "outcome" not in plain:
                        sent[plain["id"]] = plain
                        continue
                    request = sent.pop(plain["id"], {}).get("request", "")
                    body = plain["body"].encode("utf-8", "surrogateescape")
                    yield _try_of(plain | {"body": body, "request": request})
                except (ValueError, TypeError, KeyError, AttributeError):
                    continue  # the line that a killed process was writing
        for plain in sent.values():
            with suppress(TypeError):
                yield _try_of(plain | {"at": "", "outcome": "in_flight"})


def cost_of(row: Mapping[str, Any], prices: TokenPrices | None) -> float:
    """What a try cost, or at most. row: of `Answers.usage`."""
    counted = TokenCounts(row["input_tokens"], row["cached_tokens"], row["output_tokens"], row["reasoning_tokens"])
    return (counted + TokenCounts(row["most_input"], 0, row["most_output"])).cost(prices)
