"""A query of a database becomes rows; what cannot be reached, opened or asked is a clear error without the password."""

import os
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
from datetime import datetime
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.engine import make_url

from raymill.cluster.errors import ConfigError, DataError
from raymill.pipelines.prepare.fetch import database
from raymill.pipelines.prepare.fetch.database import pages
from raymill.pipelines.prepare.fetch.settings import Database
from tests.support.servers import free_port


@pytest.fixture
def tickets(tmp_path) -> str:
    path = tmp_path / "desk.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE tickets (id INTEGER, subject TEXT, raw BLOB, score REAL)")
        rows = [(n, f"subject 50% :x {n}", b"bytes", n / 2) for n in range(2500)]
        database.executemany("INSERT INTO tickets VALUES (?, ?, ?, ?)", rows)
    database.close()
    return str(path)


def asked(url: str, query: str, **more) -> list:
    return list(pages(Database(url=url, query=query, **more), None, "inputs (t).database"))


def test_rows_come_in_pages_with_values_as_json(tickets):
    found = asked(
        f"sqlite:///{tickets}", "SELECT * FROM tickets WHERE subject LIKE '%50\\% :x%' ESCAPE '\\' ORDER BY id"
    )
    assert [len(one.records) for one in found] == [1000, 1000, 500] and {one.next for one in found} == {None}
    assert found[1].records[1] == {"id": 1001, "subject": "subject 50% :x 1001", "raw": "bytes", "score": 500.5}
    assert datetime.fromisoformat(found[0].received).tzinfo is not None


def test_a_query_without_rows_is_one_page(tickets):
    assert [one.records for one in asked(f"sqlite:///{tickets}", "SELECT id FROM tickets WHERE id < 0")] == [[]]


def test_bytes_that_are_no_text_are_named(tickets):
    (one,) = asked(f"sqlite:///{tickets}", "SELECT id, x'ff' AS raw FROM tickets WHERE id < 2")
    assert one.records == [] and [row.problem for row in one.failed] == ["bad_utf8", "bad_utf8"]
    assert (
        one.failed[1].where.endswith("row 1, column raw: leave it out of the query")
        and one.failed[1].content == '{"id": 1, "raw": "\\\\xff"}'
    )
    many = asked(
        f"sqlite:///{tickets}", "SELECT id, CASE WHEN id < 1500 THEN x'ff' END AS raw FROM tickets ORDER BY id"
    )
    assert [len(page.failed) for page in many] == [1000, 500, 0] and many[1].failed[-1].where.endswith(
        "row 1499, column raw: leave it out of the query"
    )
    assert [page.records[0]["id"] for page in many[1:]] == [1500, 2000]


def test_the_database_is_only_read(tickets):
    unchecked = Database.model_construct(url=f"sqlite:///{tickets}", query="DELETE FROM tickets", password=None)
    with pytest.raises(DataError, match=r"the query on .* failed .*readonly"):
        list(pages(unchecked, None, "inputs (t).database"))
    for query, message in (
        ("DROP TABLE tickets", "the query begins with DROP; wanted SELECT or WITH"),
        ("WITH x AS (SELECT 1) DELETE FROM tickets", r"the query changes data \(DELETE\); wanted SELECT alone"),
        ("WITH x AS (SELECT 1) update tickets SET id = 1", r"changes data \(UPDATE\)"),
        ("WITH x AS (SELECT 1) REPLACE INTO tickets SELECT 1", r"changes data \(INTO\)"),
        ("SELECT * INTO copied FROM tickets", r"changes data \(INTO\)"),
        ("SELECT * FROM tickets INTO @a", r"changes data \(INTO\)"),
        ("SELECT 1 INTO OUTFILE '/tmp/x'", "changes data"),
        ("SELECT 1 into/**/dumpfile '/tmp/x'", "changes data"),
        ("SELECT 1 /*!50000 INTO OUTFILE '/tmp/x' */", "reaches more than rows"),
        ("SELECT '\\'' INTO OUTFILE '/tmp/x' -- '", "reaches more than rows"),
        ("SELECT 1 # '\nINTO OUTFILE '/tmp/x'", "reaches more than rows"),
        ("SELECT pg_read_file('/etc/passwd')", "reaches more than rows"),
        ("SELECT lo_export(1, '/tmp/x')", "reaches more than rows"),
        ("SELECT load_extension('x')", "reaches more than rows"),
        ("SELECT * FROM OPENROWSET('a', 'b', 'c')", "reaches more than rows"),
        ("SELECT 1; DROP TABLE tickets;", "the query has several statements; wanted one SELECT"),
        ("SELECTED", "the query begins with SELECTED"),
        ("EXPLAIN SELECT 1", "the query begins with EXPLAIN"),
        ("-- SELECT", "the query has no first word"),
        ("", "the query has no first word"),
    ):
        with pytest.raises(ValueError, match=message):
            Database(url="sqlite:///x", query=query)
    for query in (
        "-- all\n /* of; them */ (SELECT 1);",
        "VALUES (1)",
        "TABLE t",
        "with x as (select 1) select * from x",
        "((SELECT 1))",
        "SELECT '; delete from x' AS \"update t set\" FROM x FOR UPDATE",
    ):
        assert Database(url="sqlite:///x", query=query).query == query


def test_text_that_is_no_utf8_is_one_row_and_its_neighbours_are_read(tickets):
    """sqlite3 decodes texts itself, unless it is told to return bytes."""
    query = "SELECT id, CASE WHEN id = 1 THEN CAST(x'41ff42' AS TEXT) ELSE subject END AS s FROM tickets WHERE id < 3"
    (page,) = asked(f"sqlite:///{tickets}", query)
    assert [record["id"] for record in page.records] == [0, 2] and page.records[0]["s"] == "subject 50% :x 0"
    (row,) = page.failed
    assert row.problem == "bad_utf8" and row.where.endswith("row 1, column s: leave it out of the query")


def test_a_name_of_a_column_that_is_no_utf8_is_named(tickets, tmp_path):
    changed = Path(tickets).read_bytes().replace(b"score REAL", b"s\xff\xfere REAL")
    (tmp_path / "changed.db").write_bytes(changed)
    with pytest.raises(DataError, match=r"the query on .* failed \(.*can't decode byte 0xff"):
        asked(f"sqlite:///{tmp_path}/changed.db", "SELECT * FROM tickets")


def test_a_large_row_is_named_and_pages_of_large_rows_are_short(tickets, monkeypatch):
    monkeypatch.setattr(database, "LARGEST_RECORD", 5000)
    monkeypatch.setattr(database, "_PAGE_CHARACTERS", 10_000)
    query = "SELECT id, hex(zeroblob(CASE id WHEN 7 THEN 3000 ELSE 2000 END)) AS h FROM tickets WHERE id < 9"
    found = asked(f"sqlite:///{tickets}", query)
    assert [len(page.records) for page in found] == [3, 3, 1, 1]
    (row,) = found[2].failed
    assert row.problem == "too_large" and row.where.endswith("row 7, column h: leave it out of the query")


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "


@pytest.mark.parametrize(
    ("query", "bounds", "said"),
    [
        (f"{ENDLESS} SELECT count(*) FROM c", {"timeout_s": 0.3}, "gave 0 rows, and the next ones take over 0.3 s"),
        (f"{ENDLESS} SELECT x, CASE WHEN x > 1500 THEN ({ENDLESS} SELECT count(*) FROM c) END AS y FROM c",
         {"timeout_s": 1.5}, "gave 1,000 rows, and the next ones take over 1.5 s"),
        ("SELECT hex(zeroblob(400000000)) AS h", {}, "gave 0 rows, and the next ones take over 128 MiB of memory"),
    ],
)  # fmt: skip
def test_a_query_without_end_and_a_value_without_bound_end_with_what_to_do(tickets, monkeypatch, query, bounds, said):
    monkeypatch.setattr(database, "_MEMORY", 128 << 20)
    with pytest.raises(DataError, match=said):
        asked(f"sqlite:///{tickets}", query, **bounds)


def test_a_server_that_takes_a_connection_and_never_answers_is_named():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://reader@127.0.0.1:{silent.getsockname()[1]}/desk"
        with pytest.raises(DataError, match=r"gave 0 rows, and the next ones take over 0.5 s\. Raise `timeout_s`"):
            asked(url, "SELECT 1", timeout_s=0.5)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT missing FROM tickets", r"the query on sqlite:.*no such column: missing.*Correct `query`"),
        ("SELECT id, id FROM tickets", "several columns id. Give each a name with AS"),
        ("SELECT FROM", "syntax error"),
    ],
)
def test_a_bad_query_is_named(tickets, query, message):
    with pytest.raises(DataError, match=message):
        asked(f"sqlite:///{tickets}", query)


def test_a_database_that_is_not_there_is_named_and_not_made(tmp_path):
    with pytest.raises(DataError, match=r"no\.db.* cannot be opened .*unable to open database file"):
        asked(f"sqlite:///{tmp_path}/no.db", "SELECT 1")
    assert not (tmp_path / "no.db").exists()


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "half.db").write_bytes(b"SQLite format 3\0" + b"x" * 50)
    with pytest.raises(DataError, match=r"half\.db"):
        asked(f"sqlite:///{tmp_path}/half.db", "SELECT 1 FROM x")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuch://host/db", r"\.url: nosuch://host/db: .*nosuch"),
        ("postgresql+nosuch://host/db", r"\.url: .*nosuch"),
        (
            "mysql+pymysql://host/db",
            "the driver pymysql of mysql.pymysql://host/db is not installed. Install it with pip",
        ),
    ],
)
def test_a_missing_driver_is_named(url, message):
    with pytest.raises(ConfigError, match=message):
        asked(url, "SELECT 1")


def test_an_unreachable_server_is_named_without_the_password(monkeypatch):
    monkeypatch.setenv("DESK_PASSWORD", "hunter2")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"postgresql+psycopg://reader@127.0.0.1:{closed.getsockname()[1]}/desk"
        with pytest.raises(DataError, match=r"reader@127.* cannot be opened .*Check address") as raised:
            asked(url, "SELECT 1", password="DESK_PASSWORD")
    assert "hunter2" not in str(raised.value)


def test_the_password_comes_from_the_environment_alone():
    with pytest.raises(ConfigError, match=r"database\.password: the environment has no DESK_PASSWORD"):
        asked("postgresql+psycopg://reader@host/desk", "SELECT 1", password="DESK_PASSWORD")
    with pytest.raises(ValueError, match="the URL holds a password"):
        Database(url="postgresql://me:word@host/db", query="SELECT 1")
    for url in ("postgresql://me:a@b@host/db", "mysql+pymysql://:word@host/db"):
        with pytest.raises(ValueError, match="the URL holds a password"):
            Database(url=url, query="SELECT 1")
    with pytest.raises(ValueError, match="not a URL of SQLAlchemy"):
        Database(url="host/db", query="SELECT 1")
    for url in ("postgresql://me@host:5432/db", "sqlite://", "sqlite:///"):
        assert Database(url=url, query="SELECT 1").url == url


def test_a_relative_file_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Database(url="sqlite:///desk.db", query="SELECT 1").url == f"sqlite:///{tmp_path}/desk.db"


# --- PostgreSQL, where it is installed


@pytest.fixture(scope="module")
def postgres():
    """The URL of a server with a table of two rows. PostgreSQL does not run as root, nor below a folder of root."""
    if not shutil.which("pg_ctl"):
        pytest.skip("PostgreSQL is not installed")
    folder, port = Path(tempfile.mkdtemp(prefix="postgres", dir="/tmp")), free_port()
    (folder / "password").write_text("hunter2")
    owner = {"user": "nobody"} if os.getuid() == 0 else {}
    for one in (folder, folder / "password") if owner else ():
        shutil.chown(one, **owner)

    def control(*words: str) -> None:
        subprocess.run(["pg_ctl", "-D", f"{folder}/data", "-s", "-w", *words], check=True, **owner)

    try:
        with_password = f"-U reader -A scram-sha-256 --no-sync --pwfile {folder}/password"
        control("initdb", "-o", with_password)
        control("start", "-l", f"{folder}/log", "-o", f"-p {port} -h 127.0.0.1 -k {folder} -F")
        try:
            address = f"host=127.0.0.1 port={port} user=reader dbname=postgres password=hunter2"
            with psycopg.connect(address, autocommit=True) as made:
                made.execute("CREATE TABLE tickets (id int, asked timestamptz, fields jsonb, price numeric)")
                made.execute("""INSERT INTO tickets VALUES (1, '2026-01-02 03:04+00', '{"a": [1]}', 1.50)""")
                made.execute("CREATE SEQUENCE numbers")
                made.execute("INSERT INTO tickets VALUES (2, null, null, null)")
            yield f"postgresql+psycopg://reader@127.0.0.1:{port}/postgres"
        finally:
            control("stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder)


def test_postgresql_is_read(postgres, monkeypatch):
    monkeypatch.setenv("DESK_PASSWORD", "hunter2")
    (page,) = asked(postgres, "SELECT * FROM tickets WHERE id::text LIKE '%' ORDER BY id", password="DESK_PASSWORD")
    first, second = page.records
    assert (
        datetime.fromisoformat(first["asked"]).timestamp()
        == datetime.fromisoformat("2026-01-02T03:04:00+00:00").timestamp()
    )
    assert (first["fields"], first["price"]) == ({"a": [1]}, "1.50")
    assert second == {"id": 2, "asked": None, "fields": None, "price": None}
    assert "hunter2" not in page.asked


def test_a_database_without_an_encoding_is_read_and_what_is_no_utf8_is_one_row(postgres, monkeypatch):
    """Its texts came as bytes, so that no query of it could be read."""
    monkeypatch.setenv("DESK_PASSWORD", "hunter2")
    address = f"host=127.0.0.1 port={make_url(postgres).port} user=reader dbname=%s password=hunter2"
    with psycopg.connect(address % "postgres", autocommit=True) as made:
        made.execute("CREATE DATABASE plain ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    with psycopg.connect(address % "plain", autocommit=True) as made:
        made.execute("SET client_encoding TO SQL_ASCII")
        made.execute(b"CREATE TABLE asked (id int, said text)")
        made.execute(b"INSERT INTO asked VALUES (1, 'gr\xc3\xbcn'), (2, E'a\\xff'), (3, 'blue')")
    url = postgres.removesuffix("postgres") + "plain"
    (page,) = asked(url, "SELECT * FROM asked ORDER BY id", password="DESK_PASSWORD")
    assert page.records == [{"id": 1, "said": "gr\u00fcn"}, {"id": 3, "said": "blue"}]
    ((problem, where),) = [(one.problem, one.where) for one in page.failed]
    assert problem == "bad_utf8" and "row 1, column said" in where


ODD_VALUES = {
    "'infinity'::timestamptz": "infinity",
    "'-infinity'::date": "-infinity",
    "ARRAY['infinity'::date, '2026-01-02']": ["infinity", "2026-01-02"],
    "'[2026-01-02,infinity)'::daterange": "[2026-01-02, infinity)",
    "'4713-01-01 BC'::date": "4713-01-01 BC",
    "'294276-01-01'::timestamp": "294276-01-01 00:00:00",
    "'24:00:00'::time": "24:00:00",
    "'24:00'::timetz": "24:00:00+00",
    "'178000000 years'::interval": "178000000 years",
    "'1 year 2 days'::interval": "367 days, 0:00:00",
    "('[' || repeat('9', 5000) || ']')::jsonb": f"[{'9' * 5000}]",
    "repeat('9', 5000)::json": "9" * 5000,
    "(repeat('[', 3000) || repeat(']', 3000))::json": "[" * 3000 + "]" * 3000,
}


def test_values_of_postgresql_that_python_has_not_are_texts_and_their_neighbours_are_read(postgres, monkeypatch):
    """One such row ended the query, and with it the run."""
    monkeypatch.setenv("DESK_PASSWORD", "hunter2")
    columns = ", ".join(f"{value} AS c{number}" for number, value in enumerate(ODD_VALUES))
    (page,) = asked(postgres, f"SELECT id, {columns} FROM tickets", password="DESK_PASSWORD")
    assert [one["id"] for one in page.records] == [1, 2] and not page.failed
    found = {value: page.records[0][f"c{number}"] for number, value in enumerate(ODD_VALUES)}
    assert found == ODD_VALUES


@pytest.mark.parametrize(
    "style",
    ["datestyle TO 'SQL, DMY'", "datestyle TO 'German'", "datestyle TO 'Postgres, MDY'",
     "intervalstyle TO 'sql_standard'", "intervalstyle TO 'iso_8601'"],
)  # fmt: skip
def test_times_are_read_whatever_style_the_owner_of_the_database_set(postgres, monkeypatch, style):
    """The driver reads times of one style alone, and its error ended the run."""
    monkeypatch.setenv("DESK_PASSWORD", "hunter2")
    columns = {
        "'2026-01-02 03:04+00'::timestamptz": "2026-01-02T03:04:00+00:00",
        "'2026-02-01'::date": "2026-02-01",
        "'2026-02-01 01:00'::timestamp": "2026-02-01T01:00:00",
        "'1 day 2 hours'::interval": "1 day, 2:00:00",
        "ARRAY['2026-02-01'::date]": ["2026-02-01"],
    }
    address = f"host=127.0.0.1 port={make_url(postgres).port} user=reader dbname=postgres password=hunter2"
    with psycopg.connect(address, autocommit=True) as made:
        made.execute("ALTER DATABASE postgres SET timezone TO 'UTC'")
        made.execute(f"ALTER DATABASE postgres SET {style}")
        try:
            query = f"SELECT {', '.join(f'{value} AS c{number}' for number, value in enumerate(columns))}"
            (page,) = asked(postgres, query, password="DESK_PASSWORD")
        finally:
            made.execute("ALTER DATABASE postgres RESET ALL")
    assert [*page.records[0].values()] == [*columns.values()] and not page.failed


@pytest.mark.parametrize("at", ["connect", "rows"])
@pytest.mark.parametrize("error", [TypeError("no text"), AssertionError(), NotImplementedError("a style")])
def test_any_error_of_a_driver_is_named_with_what_to_do(tickets, monkeypatch, at, error):
    """A server that answers otherwise than its kind does can have a driver raise any."""

    def raised(*given, **more):
        raise error

    if at == "connect":
        monkeypatch.setattr(sqlalchemy.engine.Engine, "connect", raised)
    else:
        monkeypatch.setattr(sqlalchemy.engine.Connection, "exec_driver_sql", raised)
    seen = f"({str(error) or 'AssertionError'})"
    with pytest.raises(DataError, match=re.escape(seen)):
        asked(f"sqlite:///{tickets}", "SELECT id FROM tickets")


def test_postgresql_is_only_read(postgres, monkeypatch):
    monkeypatch.setenv("DESK_PASSWORD", "hunter2")
    with pytest.raises(DataError, match="read-only transaction"):
        asked(postgres, "SELECT nextval('numbers')", password="DESK_PASSWORD")
    monkeypatch.setenv("DESK_PASSWORD", "hunter3")
    with pytest.raises(DataError, match=r"cannot be opened .*password authentication failed") as raised:
        asked(postgres, "SELECT 1", password="DESK_PASSWORD")
    assert "hunter3" not in str(raised.value)
