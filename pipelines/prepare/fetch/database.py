"""Rows of a query, by SQLAlchemy, streamed: the driver holds 1,000 of them.

The transaction is read-only where the database has such (PostgreSQL, SQLite), and always rolled back.
"""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy
from sqlalchemy.engine import URL, Connection, make_url

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.readers.reader import beginning
from raymill.cluster.secret_values import redacted
from raymill.pipelines.prepare.fetch.settings import Database
from raymill.pipelines.prepare.fetch.snapshot import Page, Unread, json_text, secret

_ROWS = 1000
_CONNECT_S = 15
# Dialects whose drivers have this argument.
_CONNECT_ARGUMENTS = {"postgresql": {"connect_timeout": _CONNECT_S}, "mysql": {"connect_timeout": _CONNECT_S}}


def pages(settings: Database, position: str | None, where: str) -> Iterator[Page]:
    """Pages of 1,000 rows. position: not used, as a query has none. where: the setting, for messages.

    Raises:
        ConfigError: the URL or driver is wrong, or the environment lacks the password.
        DataError: the database cannot be reached, or refuses the query.
    """
    url = _address(settings, where)
    shown = settings.url

    def cause(error: Exception) -> str:
        return redacted(" ".join(str(getattr(error, "orig", None) or error).split()))[:300]

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
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise DataError(
                f"{where}: the database {shown} cannot be opened ({cause(error)}). Check address, user, variable of "
                "`password` and the network, and run the same command again."
            ) from error
        with connection:
            try:
                yield from _rows(connection, settings, shown)
            except sqlalchemy.exc.SQLAlchemyError as error:
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
    options: dict[str, Any] = {"stream_results": True, "no_parameters": True}
    if connection.dialect.name == "postgresql":
        options["postgresql_readonly"] = True
    result = connection.execution_options(**options).exec_driver_sql(settings.query)
    names = list(result.keys())
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{shown}: the query has several columns {', '.join(twice)}. Give each a name with AS.")
    first = 0
    for rows in result.partitions(_ROWS):
        records, failed = [], []
        for number, row in enumerate(rows, first):
            try:
                records.append({name: _plain(value) for name, value in zip(names, row, strict=True)})
            except UnicodeDecodeError:
                plain, binary = {}, []  # bytes that are no text as escapes
                for name, value in zip(names, row, strict=True):
                    try:
                        plain[name] = _plain(value)
                    except UnicodeDecodeError:
                        plain[name] = beginning(bytes(value))
                        binary.append(name)
                content = json_text(plain)
                where = f"{shown} row {number}, column {', '.join(binary)}: leave it out of the query"
                failed.append(Unread("bad_utf8", where, content))
        yield Page(shown, records, failed)
        first += len(rows)
    if not first:
        yield Page(shown, ())


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
