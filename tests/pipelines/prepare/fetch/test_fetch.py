"""Whole runs with sources that are not files: fetched once, continued after a crash, and never with a secret on "
"disk."""

import itertools
import json
import sqlite3
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.garbage import find_garbage
from raymill.cluster.plan.plan import plan_settings
from raymill.cluster.progress import Progress
from raymill.cluster.record import OtherSettings
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.cluster.submit.preflight import CheckRequest, unset
from raymill.pipelines.prepare.config import PrepareConfig, Source
from raymill.pipelines.prepare.fetch import (
    snapshot,
)
from raymill.pipelines.prepare.fetch.snapshot import json_text
from raymill.pipelines.prepare.job import PrepareJob, refuse_unfetched
from tests.support.inline import prepare_inline, without_ray
from tests.support.prepared_runs import records
from tests.support.shown import print_dry_run
from tests.support.tickets import answer, question
from tests.support.web_server import Asked, Reply, as_html, as_json

SECRET = "hunter2-of-the-desk"


def tickets(first: int, count: int) -> list[dict]:
    return [{"key": f"T-{n}", "fields": {"ask": question(n), "fix": answer(n), "queue": "login"}}
            for n in range(first, first + count)]  # fmt: skip


def by_page(asked: Asked) -> Reply:
    assert asked.headers["Authorization"] == f"Bearer {SECRET}"
    page = int(asked.parameters["page"])
    return as_json({"issues": tickets(2 * page, 2) if page <= 5 else []})


@pytest.fixture
def settings(site, tmp_path, monkeypatch) -> dict:
    monkeypatch.setenv("DESK_TOKEN", SECRET)
    site.answers["/tickets"] = by_page
    api = {"url": f"{site.url}/tickets", "records": "issues", "paging": {"by": "page"}, "allow_private": True,
           "auth": {"variable": "DESK_TOKEN"}, "requests_per_s": 1000, "attempts": 1}  # fmt: skip
    columns = {"prompt": "fields.ask", "completion": "fields.fix", "category": "fields.queue"}
    source = {"source": "desk", "api": api, "id": "key", "columns": columns, "licence": "internal"}
    return {"inputs": [source], "output": str(tmp_path / "out")}


def with_api(settings: dict, **changes) -> dict:
    source = settings["inputs"][0]
    return settings | {"inputs": [source | {"api": source["api"] | changes}]}


def test_records_of_an_api_are_fetched_once(settings, site, monkeypatch):
    run = prepare_inline(settings, monkeypatch)
    found = records(run)
    assert set(found) == {f"T-{n}" for n in range(2, 12)} and len(site.asked) == 6
    one = found["T-7"]
    assert one["messages"][0]["content"] == question(7) and one["metadata"]["category"] == "login"
    assert datetime.fromisoformat(one["metadata"]["collected_at"]).utcoffset().total_seconds() == 0
    (about,) = run.manifest["fetched"]
    assert (about["rows"], about["answers"], about["failed"]) == (10, 6, 0)
    assert about["asked"] == f"{site.url}/tickets?page=1"
    assert run.report["notes"][0].startswith(
        f"Source desk: 10 rows in 6 answers of {site.url}/tickets?page=1, fetched "
    )
    again = prepare_inline(settings, monkeypatch)
    assert not again.fresh and len(site.asked) == 6
    other = prepare_inline(settings | {"records": {"shape": "pairs"}}, monkeypatch, replace=True)
    assert other.fresh and len(site.asked) == 6, "other settings of the records fetch nothing"


def test_no_secret_is_written(settings, monkeypatch, tmp_path):
    prepare_inline(settings, monkeypatch)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20 and not [path for path in files if SECRET.encode() in path.read_bytes()]
    columns = (Artifact.load(Store(), str(one.parent)).table() for one in tmp_path.rglob("_manifest.json"))
    assert not [table for table in columns if SECRET in str(table.to_pylist())]


def fetched(settings: dict, monkeypatch, *, replace: bool = False) -> set[str]:
    """The keys of the tickets that the first step of a run fetches."""
    config = PrepareConfig.model_validate({"kind": "prepare", "name": "test"} | settings)
    without_ray(monkeypatch)
    made = PrepareJob(config)
    made.begin(Session(), Progress(), replace)
    (record,) = made.fetched
    folders = [f"{config.output}/fetched/desk/{number:06}" for number in range(record["parts"])]
    rows = [row for one in folders for row in Artifact.load(Store(), one).table().to_pylist()]
    assert len({row["record"] for row in rows}) == len(rows), "no record comes twice"
    assert record["rows"] == len(rows) and all(
        record["began"] <= row["collected_at"] <= record["ended"] for row in rows
    )
    return {json.loads(row["record"])["key"] for row in rows}


def test_a_run_that_was_broken_off_continues_after_the_pages_that_it_has(settings, site, monkeypatch):
    monkeypatch.setattr(snapshot, "_PAGES_OF_A_PART", 2)
    down = [True]
    whole = site.answers["/tickets"]
    site.answers["/tickets"] = lambda asked: (
        Reply(status=500) if down[0] and asked.parameters["page"] == "4" else whole(asked)
    )
    with pytest.raises(DataError, match=r"status 500.*it continues after the last pages"):
        fetched(settings, monkeypatch)
    down[0] = False
    assert fetched(settings, monkeypatch) == {f"T-{n}" for n in range(2, 12)}
    assert [one.parameters["page"] for one in site.asked] == ["1", "2", "3", "4", "3", "4", "5", "6"]
    assert find_garbage(Store(), settings["output"], float("inf")).unknown == []


def test_the_record_of_a_source_adds_its_parts_up(settings, monkeypatch):
    monkeypatch.setattr(snapshot, "_PAGES_OF_A_PART", 2)
    times = iter(f"2026-01-01T00:00:{number:02}+00:00" for number in range(60))
    monkeypatch.setattr("raymill.pipelines.prepare.fetch.client.now", lambda: next(times))
    assert len(fetched(settings, monkeypatch)) == 10
    record = json.loads(Path(settings["output"], "fetched", "desk.json").read_text())
    assert (record["began"], record["ended"]) == ("2026-01-01T00:00:00+00:00", "2026-01-01T00:00:05+00:00")
    assert (record["rows"], record["failed"], record["answers"], record["parts"]) == (10, 0, 6, 3)
    assert record["asked"].endswith("/tickets?page=1")


@pytest.mark.parametrize(
    ("connection", "other", "without_effect"),
    [
        ({"api": {"url": "https://h/t", "auth": {"variable": "A"}}},
         {"url": "https://h/u", "parameters": {"a": "b"}, "headers": {"a": "b"}, "records": "d",
          "paging": {"by": "page"},
          "max_redirects": 1, "max_mib": 1, "snapshot": "2"},
         {"auth": {"variable": "B"}, "timeout_s": 1, "attempts": 1, "longest_wait_s": 1, "requests_per_s": 1,
          "allow_private": True, "max_gib": 2}),
        ({"database": {"url": "sqlite:////x", "query": "SELECT 1", "password": "A"}},
         {"url": "sqlite:////y", "query": "SELECT 2", "snapshot": "2"}, {"password": "B", "secrets": {"a": "B"},
                                                                         "timeout_s": 1, "max_gib": 2}),
        ({"pages": {"urls": ["https://h/a"]}},
         {"urls": ["https://h/b"], "max_redirects": 1, "max_mib": 1, "snapshot": "2"},
         {"timeout_s": 1, "attempts": 1, "longest_wait_s": 1, "allow_private": True, "delay_s": 3,
          "max_gib": 2}),
    ],
    ids=["api", "database", "pages"],
)  # fmt: skip
def test_rows_are_fetched_again_for_settings_on_which_they_depend(connection, other, without_effect):
    ((kind, settings),) = connection.items()

    def made_from(**changes) -> str:
        source = Source.model_validate({"source": "s", kind: settings | changes})
        return snapshot._fingerprint(source, snapshot._urls(source, Store()))

    first = made_from()
    assert {name: made_from(**{name: value}) != first for name, value in other.items()} == dict.fromkeys(other, True)
    assert {made_from(**{name: value}) for name, value in without_effect.items()} == {first}
    asked = Source.model_validate({"source": "s", kind: settings}).connection
    assert type(asked).model_fields.keys() == other.keys() | without_effect.keys(), "every setting is tried"


def test_a_list_of_pages_is_fetched_again_when_its_file_names_others(tmp_path):
    source, found = Source(source="s", pages={"urls": str(tmp_path / "list.txt")}), []
    for text in ("https://h/a\n", "https://h/a\nhttps://h/b\n", "# one\nhttps://h/a\n"):
        (tmp_path / "list.txt").write_text(text)
        found.append(snapshot._fingerprint(source, snapshot._urls(source, Store())))
    assert found[0] == found[2] != found[1]


def test_an_error_of_a_part_does_not_show_the_address_where_it_begins(settings):
    made = snapshot._stage("desk", 3, lambda position: iter(()), "https://h/t?cursor=c0ffee", "f", Store(), print)
    assert made.describe(made.units[0]) == "desk, part 3"


def test_records_are_kept_as_json_that_utf8_can_hold():
    assert json_text({"a": "\u00f6", "b": Decimal("1.5")}) == '{"a": "\u00f6", "b": "1.5"}'
    assert json.loads(json_text({"a": "\ud800\u00f6"}).encode()) == {"a": "\ud800\u00f6"}


def test_a_run_that_was_broken_off_within_a_part_has_no_record_twice(settings, site, monkeypatch):
    """Pages are 100 a part here: what the first attempt wrote of the part is not read. The same holds for a query."""
    down = [True]
    whole = site.answers["/tickets"]
    site.answers["/tickets"] = lambda asked: (
        Reply(status=500) if down[0] and asked.parameters["page"] == "4" else whole(asked)
    )
    with pytest.raises(DataError, match="status 500"):
        fetched(settings, monkeypatch)
    down[0] = False
    assert len(fetched(settings, monkeypatch)) == 10
    assert [one.parameters["page"] for one in site.asked] == ["1", "2", "3", "4", "1", "2", "3", "4", "5", "6"]


def test_a_query_that_failed_after_some_rows_has_no_row_twice(settings, tmp_path, monkeypatch):
    def execute(statement: str, rows: list) -> None:
        with sqlite3.connect(tmp_path / "desk.db") as database:
            database.executemany(statement, rows)
        database.close()

    with sqlite3.connect(tmp_path / "desk.db") as database:
        database.execute("CREATE TABLE t (key TEXT, n INTEGER)")
    database.close()
    execute("INSERT INTO t VALUES (?, ?)", [(f"T-{n}", -n) for n in range(1500)] + [("T-1500", -(1 << 63))])
    asked = {"url": f"sqlite:///{tmp_path}/desk.db", "query": "SELECT key, abs(n) AS n FROM t ORDER BY rowid"}
    query = settings | {"inputs": [{"source": "desk", "database": asked, "columns": {"text": "key"}}]}
    with pytest.raises(DataError, match="integer overflow"):
        fetched(query, monkeypatch)
    execute("UPDATE t SET n = 0 WHERE key = ?", [("T-1500",)])
    assert fetched(query, monkeypatch) == {f"T-{n}" for n in range(1501)}


@pytest.mark.parametrize("form", ["pages of an API", "pages of an API without records", "rows of a query"])
def test_a_server_that_never_ends_is_read_to_a_bound(settings, site, tmp_path, monkeypatch, form):
    monkeypatch.setattr(snapshot, "_PAGES_OF_A_PART", 4)
    bound = {"max_gib": 1 / (1 << 10)}  # a MiB
    if form == "rows of a query":
        with sqlite3.connect(tmp_path / "endless.db") as made:
            rows = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x, hex(zeroblob(500)) FROM c"
            made.execute(f"CREATE VIEW v (id, q) AS {rows}")
        made.close()
        connection = {"database": {"url": f"sqlite:///{tmp_path}/endless.db", "query": "SELECT * FROM v"} | bound}
        source = {"source": "desk", **connection, "id": "id", "columns": {"prompt": "q", "completion": "q"}}
        endless = settings | {"inputs": [source]}
    else:
        endless = with_api(settings, paging={"by": "cursor", "field": "next"}, **bound)
        count = 500 if form == "pages of an API" else 0
        numbers = itertools.count()
        site.answers["/tickets"] = lambda asked: as_json({"issues": tickets(0, count), "next": str(next(numbers))})
    with pytest.raises(DataError, match=r"inputs \(desk\)\.\w+: its records have over 0.0009\d+ GiB. .*`max_gib`"):
        fetched(endless, monkeypatch)
    assert len(site.asked) <= 17
    if form == "pages of an API":  # what was fetched before is kept, for a run with a higher bound
        assert Store().exists(f"{settings['output']}/fetched/desk/000000/_manifest.json")


def test_a_wrong_path_of_the_next_page_is_a_warning(settings, site, monkeypatch, tmp_path):
    site.answers["/tickets"] = as_json({"issues": tickets(2, 2), "meta": {"next": None}})
    paging = {"by": "cursor", "field": "meta.nxt"}
    run = prepare_inline(with_api(settings, paging=paging), monkeypatch)
    (warning,) = [one for one in run.report["warnings"] if "paging" in one]
    assert warning.startswith(
        "source desk: its first answer has nothing at api.paging.field, meta.nxt, so there was no"
    )
    right = with_api(settings, paging={"by": "cursor", "field": "meta.next"}) | {"output": str(tmp_path / "right")}
    assert not [one for one in prepare_inline(right, monkeypatch).report["warnings"] if "paging" in one]


def test_what_an_unfinished_run_fetched_with_other_settings_is_not_mixed_in(settings, site, monkeypatch):
    monkeypatch.setattr(snapshot, "_PAGES_OF_A_PART", 1)
    whole = site.answers["/tickets"]
    site.answers["/tickets"] = lambda asked: whole(asked) if asked.parameters["page"] < "4" else Reply(status=500)
    with pytest.raises(DataError, match="status 500"):
        fetched(settings, monkeypatch)
    site.answers["/tickets"] = as_json({"issues": tickets(50, 3)})
    other = with_api(settings, paging={"by": "none"})
    with pytest.raises(OtherSettings, match="were fetched with other settings"):
        fetched(other, monkeypatch)
    assert fetched(other, monkeypatch, replace=True) == {"T-50", "T-51", "T-52"}
    assert len(list(Path(settings["output"], "fetched", "desk").rglob("*.parquet"))) == 1


def test_other_settings_are_refused_and_replaced_when_asked(settings, site, monkeypatch):
    first = prepare_inline(settings, monkeypatch)
    site.answers["/tickets"] = as_json({"issues": tickets(50, 3)})
    other = with_api(settings, paging={"by": "none"})
    with pytest.raises(OtherSettings, match="which has not fetched desk with these settings"):
        prepare_inline(other, monkeypatch)
    assert records(first) == records(prepare_inline(settings, monkeypatch))
    run = prepare_inline(other, monkeypatch, replace=True)
    assert set(records(run)) == {"T-50", "T-51", "T-52"}
    site.answers["/tickets"] = as_json({"issues": tickets(60, 3)})
    anew = prepare_inline(with_api(other, snapshot="2"), monkeypatch, replace=True)
    assert set(records(anew)) == {"T-60", "T-61", "T-62"}


def test_the_address_of_a_next_page_is_kept_for_continuing_alone(settings, site, monkeypatch):
    pages = {"2": {"issues": tickets(4, 2)}, "": {"issues": tickets(2, 2), "next": f"{site.url}/tickets?token=c0ffee"}}
    site.answers["/tickets"] = lambda asked: as_json(pages["2" if "token" in asked.parameters else ""])
    assert len(fetched(with_api(settings, paging={"by": "next", "field": "next"}), monkeypatch)) == 4
    tables = {one: Artifact.load(Store(), str(one.parent)).table() for one in Path(settings["output"]).rglob("*.json")
              if one.name == "_manifest.json"}  # fmt: skip
    holding = {str(one.parent) for one, table in tables.items() if "c0ffee" in str(table.to_pylist())}
    assert holding == {f"{settings['output']}/_work/requests/desk/000000"}
    texts = [one for one in Path(settings["output"]).rglob("*.json") if "c0ffee" in one.read_text()]
    assert not texts


def test_a_sample_of_what_was_not_fetched_is_refused_with_the_command(settings, monkeypatch):
    def config(of: dict) -> PrepareConfig:
        return PrepareConfig.model_validate({"kind": "prepare", "name": "test"} | of)

    for show in (print_dry_run, plan_settings):
        with pytest.raises(
            DataError, match=r"inputs \(desk\): the api has not been fetched yet.*`raymill\.prepare\(CONFIG\)`"
        ):
            show(config(settings))
    assert not Path(settings["output"]).exists()
    fetched(settings, monkeypatch)
    refuse_unfetched(config(settings))
    with pytest.raises(DataError, match=r"page=1\), and .*CONFIG, replace=True\)`"):
        print_dry_run(config(with_api(settings, snapshot="2")))


def test_rows_of_an_api_become_records_by_the_template_of_a_table(settings, site, monkeypatch):
    template = {
        "prompt": "How many pieces of the part {key} are in the store?",
        "completion": "There are {count} of {key} left.",
    }
    table = {"types": {"key": "text", "count": "integer", "kind": "text"}, "template": template,
             "missing": {"count": "median"}, "unique": ["key"]}  # fmt: skip
    rows = [{"key": f"P-{n}", "count": n if n else None, "kind": "screw"} for n in (0, 1, 2, 3, 2)]
    site.answers["/tickets"] = as_json({"issues": rows})
    source = with_api(settings, paging={"by": "none"})["inputs"][0] | {"columns": {"category": "kind"}, "table": table}
    run = prepare_inline(settings | {"inputs": [source], "dedup": None}, monkeypatch)
    found = records(run)
    assert set(found) == {"P-0", "P-1", "P-2", "P-3"}, "P-2 comes twice"
    assert found["P-0"]["messages"][1]["content"] == "There are 2 of P-0 left.", "the median"
    assert found["P-1"]["metadata"]["category"] == "screw" and found["P-1"]["metadata"]["collected_at"]


def test_an_api_that_is_a_page_for_people_ends_the_run(settings, site, monkeypatch):
    site.answers["/tickets"] = as_html("Log in")
    with pytest.raises(DataError, match=r"inputs \(desk\)\.api: .*/tickets\?page=1 answered with text/html"):
        prepare_inline(settings, monkeypatch)
    monkeypatch.delenv("DESK_TOKEN")
    with pytest.raises(ConfigError, match="the environment has no DESK_TOKEN"):
        prepare_inline(settings, monkeypatch)


def test_a_database_and_web_pages_are_sources_beside_files(site, tmp_path, monkeypatch):
    with sqlite3.connect(tmp_path / "desk.db") as database:
        database.execute("CREATE TABLE t (id INTEGER, question TEXT, answer TEXT, at TEXT)")
        rows = [(n, question(n), answer(n), f"2026-01-{n + 1:02}") for n in range(20)]
        database.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", rows)
    database.close()
    text = "<p>Everybody has thirty days of leave in a year, and more in some years.</p>" * 3
    site.answers["/leave"] = as_html(f"<article><h1>Leave</h1>{text}</article>")
    (tmp_path / "more.jsonl").write_text(json.dumps({"question": question(30), "answer": answer(30)}) + "\n")
    database = {"url": f"sqlite:///{tmp_path}/desk.db", "query": "SELECT * FROM t WHERE id >= 0"}
    pages = {"urls": [f"{site.url}/leave", f"{site.url}/gone"], "allow_private": True, "delay_s": 0}
    plain = {
        "inputs": [
            {"source": "desk", "database": database, "id": "id", "columns": {"day": "at"}},
            {"source": "site", "pages": pages, "task_type": "policy", "columns": {"link": "url"}},
            {"source": "files", "path": str(tmp_path / "more.jsonl")},
        ],
        "validate": {"question_chars": None, "answer_chars": None},
        "execution": {"max_bad_documents": 0.1},
        "output": str(tmp_path / "out"),
    }
    run = prepare_inline(plain, monkeypatch)
    found = records(run)
    assert len(found) == 22 and found["3"]["metadata"]["day"] == "2026-01-04"
    (page,) = [row for row in found.values() if row["metadata"]["source"] == "site"]
    assert "thirty days" in page["messages"][1]["content"] and page["metadata"]["link"] == f"{site.url}/leave"
    (bad,) = Artifact.load(Store(), f"{run.uri}/quarantine").table().to_pylist()
    assert (bad["problem"], bad["source"]) == ("http_error", "site") and f"{site.url}/gone" in bad["where"]
    (file,) = [row for row in found.values() if row["metadata"]["source"] == "files"]
    changed = datetime.fromisoformat(file["metadata"]["collected_at"]).timestamp()
    assert abs(changed - Path(tmp_path / "more.jsonl").stat().st_mtime) < 1
    earlier = {"source": "desk", "path": f"{run.uri}/fetched/desk", "format": "fetched", "columns": {}, "id": "id"}
    other = prepare_inline({"inputs": [earlier], "output": str(tmp_path / "other")}, monkeypatch)
    assert set(records(other)) == {str(n) for n in range(20)}, "what was fetched is an input of other runs"


def test_a_missing_file_is_named_before_anything_is_fetched(settings, site, tmp_path, monkeypatch):
    settings["inputs"].append({"source": "files", "path": str(tmp_path / "no.jsonl")})
    with pytest.raises(DataError, match="the file does not exist"):
        prepare_inline(settings, monkeypatch)
    assert site.asked == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "/x.csv"}, "path and api given; wanted one of"),
        ({"api": None}, "no path given"),
        ({"format": "csv"}, "format, exclude, follow_links and storage are of files"),
    ],
)
def test_a_source_is_one_thing(settings, change, message):
    source = {**settings["inputs"][0], **change}
    with pytest.raises(ValueError, match=message):
        PrepareConfig.model_validate({"kind": "prepare", "name": "x"} | settings | {"inputs": [source]})


def test_a_submitted_run_has_one_id_before_and_after_it_fetched_and_names_its_variables(settings, monkeypatch):
    config = PrepareConfig.model_validate({"kind": "prepare", "name": "test"} | settings)
    monkeypatch.delenv("DESK_TOKEN")
    before = PrepareJob(config).work()
    assert (before.finished, before.variables, before.workers[0].cpus) == (False, ("DESK_TOKEN",), 2)
    (problem,) = unset(CheckRequest.of(before))
    assert problem.startswith("the environment has no DESK_TOKEN, which the config names")
    monkeypatch.setenv("DESK_TOKEN", SECRET)
    assert unset(CheckRequest.of(before)) == []
    prepare_inline(settings, monkeypatch)
    after = PrepareJob(config).work()
    assert after.finished and after.run_id == before.run_id and SECRET not in str(after)
