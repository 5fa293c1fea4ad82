"""Rows of a query, by SQLAlchemy, streamed by a child process: a page of 1,000 rows or 32 MiB at a time.

The transaction is read-only where the database has such (PostgreSQL, SQLite), and always rolled back.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import sqlalchemy
from sqlalchemy.engine import URL, Connection, make_url

from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError, DataError, RaymillError
from raymill.cluster.guard import Exceeded, WorkBounds, guarded_items
from raymill.cluster.readers.reader import beginning
from raymill.cluster.secret_values import redacted
from raymill.pipelines.prepare.fetch.settings import Database
from raymill.pipelines.prepare.fetch.snapshot import LARGEST_RECORD, Page, Unread, json_text, secret

_ROWS = 1000  # of a page
_FETCHED_ROWS = 100  # that a driver holds
_PAGE_CHARACTERS = 32 << 20
_MEMORY = 2 << 30  # bytes, of the child process
_CONNECT_S = 15
_read_all_values = Entry("raymill.pipelines.prepare.fetch.postgres_values:read_all_values")  # it imports the driver
# Dialects whose drivers have these arguments. Of a database without an encoding (SQL_ASCII) SQLAlchemy itself would
# read texts as bytes when it connects.
_POSTGRESQL = {"connect_timeout": _CONNECT_S, "client_encoding": "utf8"}
_CONNECT_ARGUMENTS = {"postgresql": _POSTGRESQL, "mysql": {"connect_timeout": _CONNECT_S}}


def pages(settings: Database, position: str | None, where: str) -> Iterator[Page]:
    """Pages of at most 1,000 rows, read by a child process with a bound on its memory and on the time of a page.

    position: not used, as a query has none. where: the setting, for messages.

    Raises:
        ConfigError: the URL or driver is wrong, or the environment lacks the password.
        DataError: the database cannot be reached, refuses the query, or takes too long or too much memory for a page.
    """
    url = _address(settings, where)  # in this process, which is to know its secrets
    done = 0
    try:
        for page in guarded_items(partial(_pages, settings, url, where), WorkBounds(settings.timeout_s, _MEMORY)):
            yield page
            done += len(page.records) + len(page.failed)
    except Exceeded as error:
        todo = "Raise `timeout_s`, or ask for less" if error.problem == "too_slow" else "Ask for shorter values"
        raise DataError(
            f"{where}: the query on {settings.url} gave {done:,} rows, and the next ones take {error.seen}. {todo} in "
            "`query`."
        ) from error


def _pages(settings: Database, url: URL, where: str) -> Iterator[Page]:
    shown = settings.url

    def cause(error: Exception) -> str:
        seen = str(getattr(error, "orig", None) or error) or type(error).__name__
        return redacted(" ".join(seen.split()))[:300]

    try:
        engine = sqlalchemy.create_engine(url, connect_args=_CONNECT_ARGUMENTS.get(url.get_backend_name(), {}))
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{where}.url: the driver {error.name} of {shown} is not installed. Install it with pip, or name another "
            "one as DIALECT+DRIVER."
        ) from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise ConfigError(f"{where}.url: {shown}: {cause(error)}. Correct the URL.") from error
    try:
        try:
            connection = engine.connect()
        except MemoryError:
            raise
        except Exception as error:  # a server that answers otherwise than its kind does can have a driver raise any
            raise DataError(
                f"{where}: the database {shown} cannot be opened ({cause(error)}). Check address, user, variable of "
                "`password` and the network, and run the same command again."
            ) from error
        with connection:
            try:
                yield from _rows(connection, settings, shown)
            except (RaymillError, MemoryError):
                raise
            except Exception as error:  # also of drivers, for values that Python has not, or names that are no UTF-8
                raise DataError(
                    f"{where}: the query on {shown} failed ({cause(error)}). Correct `query`, or if the connection was "
                    "lost, run the same command again: the query begins anew."
                ) from error
    finally:
        engine.dispose()


def _address(settings: Database, where: str) -> URL:
    """The URL with its secrets. SQLite opens its file for reading alone."""
    try:
        url = make_url(settings.url)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:  # the second: a port that is no number
        raise ConfigError(f"{where}.url: {error}. Write DIALECT+DRIVER://USER@HOST/NAME.") from error
    if settings.password:
        url = url.set(password=secret(settings.password, f"{where}.password"))
    url = url.update_query_dict(
        {name: secret(variable, f"{where}.secrets.{name}") for name, variable in settings.secrets.items()}
    )
    if url.get_backend_name() == "sqlite" and url.database and not url.database.startswith("file:"):
        url = url.set(database=f"file:{url.database}").update_query_dict({"mode": "ro", "uri": "true"})
    return url


def _rows(connection: Connection, settings: Database, shown: str) -> Iterator[Page]:
    # Without parameters the driver takes % and : of the query as they are.
    options: dict[str, Any] = {"stream_results": True, "no_parameters": True, "max_row_buffer": _FETCHED_ROWS}
    if connection.dialect.name == "postgresql":
        options["postgresql_readonly"] = True
    if connection.dialect.driver == "psycopg":
        _read_all_values.load()(connection.connection.driver_connection)
    if connection.dialect.name == "sqlite":  # its texts may be no UTF-8
        connection.connection.driver_connection.text_factory = bytes  # type: ignore[union-attr]
    result = connection.execution_options(**options).exec_driver_sql(settings.query)
    names = list(result.keys())
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{shown}: the query has several columns {', '.join(twice)}. Give each a name with AS.")
    records: list[dict[str, Any]] = []
    failed: list[Unread] = []
    number = size = 0
    for number, row in enumerate(result, 1):
        record, problem, columns = _record(names, row)
        text = json_text(record)
        if problem is None and len(text) > LARGEST_RECORD:
            problem, columns = "too_large", [max(record, key=lambda name: len(json_text(record[name])))]
        if problem:
            where = f"{shown} row {number - 1}, column {', '.join(columns)}: leave it out of the query"
            failed.append(Unread(problem, where, beginning(text)))
        else:
            records.append(record)
        size += len(text)
        if len(records) + len(failed) == _ROWS or size > _PAGE_CHARACTERS:
            yield Page(shown, records, failed)
            records, failed, size = [], [], 0
    if records or failed or not number:
        yield Page(shown, records, failed)


def _record(names: Sequence[str], row: Sequence[Any]) -> tuple[dict[str, Any], str | None, list[str]]:
    """(a row as an object, its problem or None, columns with the problem). Bytes that are no text are escapes."""
    plain: dict[str, Any] = {}
    binary = []
    for name, value in zip(names, row, strict=True):
        try:
            plain[name] = _plain(value)
        except UnicodeDecodeError:
            plain[name] = beginning(bytes(value))
            binary.append(name)
    return plain, "bad_utf8" if binary else None, binary


def _plain(value: Any) -> Any:
    """The value as JSON: dates in ISO 8601, bytes as UTF-8, other types as text.

    Raises:
        UnicodeDecodeError: bytes are not UTF-8.
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode()
    if isinstance(value, dict | list):
        return json.loads(json.dumps(value, default=str))
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
