"""Values of PostgreSQL that Python has no type for are read as texts, in place of an error that ends the query.

Users of a database write them: `infinity` and years beyond 9999 or before our era as a date or time, 24:00, JSON with
numbers of thousands of digits or with thousands of brackets. Also within arrays and ranges.
"""

import re
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format

_TYPES = ("date", "time", "timetz", "timestamp", "timestamptz", "interval", "json", "jsonb")
# A database without an encoding (SQL_ASCII) has texts that are no UTF-8.
_TEXTS = ("text", "varchar", "bpchar", "name")
# The driver counts a year as 365 days, and numbers of days beyond those of Python come out as others.
_LONG_INTERVAL = re.compile(rb"\d{7}")


def read_all_values(connection: psycopg.Connection) -> None:
    """Have the rows of a connection keep each value of these types: as of Python where it has one, else as text."""
    if connection.info.parameter_status("server_encoding") == "SQL_ASCII":  # by UTF-8 it would refuse other texts
        connection.execute("SET client_encoding TO SQL_ASCII")
    # The driver reads times and intervals of these styles alone, and a database may have another default.
    connection.execute("SET datestyle TO ISO")
    connection.execute("SET intervalstyle TO postgres")
    connection.commit()
    for name, loader in _loaders(connection):
        connection.adapters.register_loader(name, loader)


def _loaders(connection: psycopg.Connection) -> Iterator[tuple[str, type[Loader]]]:
    for name in _TEXTS:
        yield name, _TextOrBytes
    for name in _TYPES:
        own = connection.adapters.get_loader(connection.adapters.types[name].oid, Format.TEXT)
        if own is not None:
            yield name, _or_text(own, name == "interval")


class _TextOrBytes(Loader):
    """A text, or its bytes if they are no UTF-8, which makes its row an unreadable one."""

    def load(self, data: Buffer) -> str | bytes:
        try:
            return bytes(data).decode()
        except UnicodeDecodeError:
            return bytes(data)


def _or_text(own: Any, is_interval: bool) -> type[Loader]:
    """A loader with the values of `own`, and the text where it has none."""

    class _OrText(Loader):
        def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
            super().__init__(oid, context)
            self._own = own(oid, context)

        def load(self, data: Buffer) -> Any:
            try:
                if not (is_interval and _LONG_INTERVAL.search(data)):
                    return self._own.load(data)
            except (psycopg.Error, ValueError, OverflowError, RecursionError, NotImplementedError):
                pass
            return bytes(data).decode()

    return _OrText
