"""The stages that fetch a source and commit its rows, and the record that is written when there are no more.

A connector yields pages of rows (Page), each with the position of the next page.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any, NamedTuple

import pyarrow as pa

from raymill.cluster.artifact import Artifact, Counters, fingerprint
from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError, DataError, Problem
from raymill.cluster.formats import plural
from raymill.cluster.readers.formats.records import FETCHED_SCHEMA
from raymill.cluster.readers.reader import beginning
from raymill.cluster.record import OtherSettings, RecordFile, json_bytes, json_with
from raymill.cluster.secret_values import redacted, remember, without_known
from raymill.cluster.stage import Output, RunStage, Scratch, Stage
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.config import Source
from raymill.pipelines.prepare.fetch.settings import Api, Database, Pages

FETCHED = "fetched"
FETCH_VERSION = "1"
LARGEST_RECORD = 64 << 20  # characters of its JSON
_PAGES_OF_A_PART = 100
_ROWS_AT_ONCE = 10_000
# A row for each answer, in order; the last one of a part says where the next part begins.
REQUESTS_SCHEMA = pa.schema(
    [
        ("asked", pa.string()),
        ("received", pa.string()),
        ("records", pa.int64()),
        ("failed", pa.int64()),
        ("next", pa.string()),
    ]
)
# Loaded when a source needs them: they import packages that take a while, or that are optional.
_DATABASE = Entry("raymill.pipelines.prepare.fetch.database:pages")
_API = Entry("raymill.pipelines.prepare.fetch.api:pages")
_PAGES = Entry("raymill.pipelines.prepare.fetch.pages:pages")
_ADDRESSES = Entry("raymill.pipelines.prepare.fetch.pages:addresses")
# Settings without effect on the rows.
_NO_EFFECT = (
    *("password", "secrets", "auth", "timeout_s", "attempts", "longest_wait_s", "requests_per_s", "delay_s"),
    *("allow_private", "max_gib"),
)
_LEAST_BYTES = 64 << 10  # that an answer counts as, so that a server that gives no records ends, too


class Unread(NamedTuple):
    """What is no record. problem: a key of reader.PROBLEMS. content: what was received, None if that is nothing."""

    problem: str
    where: str
    content: str | None = None


@dataclass(frozen=True)
class Page:
    """The rows of one answer.

    asked: the request, without secrets. records: JSON objects. failed: what is no record. next: where the connector
    can begin again after this page; None if it ends here, or has no positions. received: UTC time in ISO 8601.
    lacks_next: it is the only page, and has nothing where the next one is looked for.
    """

    asked: str
    records: Sequence[Mapping[str, Any]]
    failed: Sequence[Unread] = ()
    next: str | None = None
    received: str = field(default_factory=lambda: now())
    lacks_next: bool = False


def now() -> str:
    """The UTC time in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def secret(name: str, setting: str) -> str:
    """The value of an environment variable. From then on messages and records hide it.

    Raises:
        ConfigError: it is not set, or empty.
    """
    if not (value := os.environ.get(name, "")):
        raise ConfigError(
            f"{setting}: the environment has no {name}. Set it where the run's driver is: in this shell, or for a "
            "submitted run on the cluster's head (in Kubernetes by a Secret of the pods)."
        )
    remember(value.strip())
    return remember(value)


def json_text(value: Any) -> str:
    """The value as JSON that UTF-8 can hold: lone surrogates stay escapes."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, default=str)
    return text


Connector = Callable[[str | None], Generator[Page, None, None]]


def folder_of(root: str, source: str) -> str:
    """The folder with the rows of a source, below a run."""
    return paths.join(root, FETCHED, source)


def record_of(store: Store, root: str, source: str) -> RecordFile[dict[str, Any]]:
    """The record of a fetched source."""
    at = paths.join(root, FETCHED, f"{source}.json")
    return RecordFile(store, at, "the record of a fetched source", json_with("fingerprint", "rows"))


def is_fetched(source: Source, store: Store, root: str) -> bool:
    """Whether the source has been fetched with its settings."""
    found = record_of(store, root, source.source).read()
    return found is not None and found["fingerprint"] == _fingerprint(source, _urls(source, store))


def fetch(source: Source, store: Store, root: str, run: RunStage, replace: bool) -> dict[str, Any]:
    """Fetch a source, continuing where an earlier call stopped. Returns its record; a fetched source is left alone.

    Args:
        run: makes or finds the artifacts of a stage.
        replace: discard what was fetched with other settings.

    Raises:
        OtherSettings: the source was fetched with other settings, and not `replace`.
        UserError: as of the connectors. What was fetched before is kept.
    """
    urls = _urls(source, store)
    made_from, record = _fingerprint(source, urls), record_of(store, root, source.source)
    folder = folder_of(root, source.source)

    def refusal(found: dict[str, Any]) -> Problem | None:
        if found["fingerprint"] == made_from:
            return None
        seen = f"the source {source.source} was fetched with other settings ({found['asked']})"
        return Problem.of(folder, seen, fix="Choose another output, or add --replace to fetch it again.")

    if (found := record.find_or_discard(refusal, replace)) is not None:
        return found
    first = Artifact.find(store, paths.join(folder, f"{0:06}"))
    if first is not None and first.manifest.fingerprint != fingerprint([made_from, 0, None]):
        if not replace:
            raise OtherSettings(
                f"{folder}: holds {plural(first.manifest.rows, 'row')} or more that were fetched with other settings. "
                "Choose another output, or add --replace to fetch the source again."
            )
        store.delete(file.uri for file in store.list_files(folder))
    settings, setting = source.connection, f"inputs ({source.source}).{type(source.connection).__name__.lower()}"
    entry = {Database: _DATABASE, Api: _API, Pages: _PAGES}[type(settings)]  # type: ignore[index]
    pages, more = entry.load(), urls if isinstance(settings, Pages) else setting
    position: str | None = None
    asked, totals, times, number = "", Counter[str](), list[str](), 0
    assert settings is not None

    def refuse_too_much(read: int) -> None:
        if totals["bytes"] + read > settings.max_gib * (1 << 30):
            raise DataError(
                f"{setting}: its records have over {settings.max_gib:g} GiB. Ask for fewer, or raise `max_gib`: a "
                "server that never ends would fill the disk."
            )

    while True:
        made = run(
            _stage(
                source.source, number, lambda at: pages(settings, at, more), position, made_from, store, refuse_too_much
            )
        )
        requests = made[f"_work/requests/{source.source}/{number:06}"].table().to_pylist()
        totals += Counter({name: int(value) for name, value in next(iter(made.values())).manifest.counters.items()})
        times += [requests[0]["received"], requests[-1]["received"]]
        asked = asked or requests[0]["asked"]
        number, position = number + 1, requests[-1]["next"]
        if position is None:
            break
    return record.create(
        json_bytes(
            {
                "source": source.source,
                "fingerprint": made_from,
                "asked": asked,
                "began": times[0],
                "ended": times[-1],
                "rows": totals["records"],
                "failed": totals["failed"],
                "answers": totals["answers"],
                "parts": number,
                "lacks_next": bool(totals["lacks_next"]),
            }
        )
    )


def _stage(
    source: str,
    number: int,
    connector: Connector,
    position: str | None,
    made_from: str,
    store: Store,
    refuse_too_much: Callable[[int], None],
) -> Stage:
    """The stage that commits a part: at most 100 pages that have a position after them, or all of those without one.

    refuse_too_much: called with the bytes of the part so far.
    """
    rows, requests = f"{FETCHED}/{source}/{number:06}", f"_work/requests/{source}/{number:06}"

    def work(position: str | None, scratch: Scratch) -> Counters:
        """Counters: `records`, `failed`, `answers`, `lacks_next`, `bytes`."""
        counters = Counter[str]({"records": 0, "failed": 0, "answers": 0})
        with closing(connector(position)) as pages:
            for page in pages:
                counters.update(records=len(page.records), failed=len(page.failed), answers=1)
                counters["lacks_next"] += page.lacks_next
                # Servers may send back what they were asked with, so their answers are searched for it too.
                found = chain(
                    ((without_known(json_text(record)), None, page.asked) for record in page.records),
                    (
                        (without_known(beginning(one.content or "")) or None, one.problem, redacted(one.where))
                        for one in page.failed
                    ),
                )
                of_page = 0
                while some := [(*row, page.received) for row in islice(found, _ROWS_AT_ONCE)]:
                    columns = map(pa.array, zip(*some, strict=True), FETCHED_SCHEMA.types)
                    table = pa.Table.from_arrays([*columns], schema=FETCHED_SCHEMA)
                    of_page += table.nbytes
                    scratch.write(rows, table)
                counters["bytes"] += max(of_page, _LEAST_BYTES)
                refuse_too_much(counters["bytes"])
                counts = {"records": len(page.records), "failed": len(page.failed)}
                request = {"asked": page.asked, "received": page.received, **counts, "next": page.next}
                scratch.write(requests, pa.Table.from_pylist([request], REQUESTS_SCHEMA))
                if page.next is not None and counters["answers"] >= _PAGES_OF_A_PART:
                    break
        return dict(counters)

    return Stage(
        f"fetch-{source}-{number:06}",
        (Output(rows, FETCHED_SCHEMA), Output(requests, REQUESTS_SCHEMA)),
        [position],
        work,
        fingerprint([made_from, number, position]),
        store,
        describe=lambda _: f"{source}, part {number}",  # a position may be an address with a token
        small=True,
    )


def _urls(source: Source, store: Store) -> tuple[str, ...]:
    """The addresses of a list of web pages; () of other sources."""
    if not isinstance(source.connection, Pages):
        return ()
    return _ADDRESSES(source.connection, store, f"inputs ({source.source}).pages")


def _fingerprint(source: Source, urls: tuple[str, ...]) -> str:
    assert source.connection is not None
    settings = source.connection.model_dump(mode="json", exclude={"urls", *_NO_EFFECT})
    return fingerprint([FETCH_VERSION, type(source.connection).__name__, settings, urls])
