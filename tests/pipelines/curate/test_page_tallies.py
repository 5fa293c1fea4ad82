"""Counts of web pages by host, month and directive, and the sections of the report that show them."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.pipelines.curate.report.gather import REPORT
from raymill.pipelines.curate.report.page import render
from raymill.pipelines.curate.stages.page_tallies import KEPT, READ, by_name, months, most_frequent_hosts, page_tallies
from tests.golden.cases import FOLDER
from tests.support.inline import curate_inline
from tests.support.report_cases import faults


@pytest.mark.parametrize(
    ("value", "month"),
    [
        ("2021-03-04T05:06:07Z", "2021-03"), ("2021-03", "2021-03"), ("2021", "2021"), (" 1999-12-31 ", "1999-12"),
        ("2021-13-01", "2021"), ("4 March 2021", "other"), ("20210304", "other"), ("2021/03/04", "2021"),
        ("", ""), (None, ""), ("  ", ""), ("3021-01-01", "other"),
    ],
)  # fmt: skip
def test_a_date_is_its_month_or_year(value, month):
    assert months(pa.array([value], pa.large_string())).to_pylist() == [month]


URL = st.sampled_from(["http://a.org/x", "https://www.a.org/", "http://b.org", "no url", "", None])


@given(
    st.lists(
        st.tuples(URL, st.sampled_from(["noai", "NOINDEX, noai", "noindex;noai", "x", None]), st.booleans()),
        max_size=12,
    )
)
def test_pages_are_counted_by_host_and_directive(pages):
    urls, robots, kept = ([page[at] for page in pages] for at in range(3))
    carried = pa.table({"url": pa.array(urls, pa.string()), "robots": pa.array(robots, pa.string())})
    characters = np.arange(len(pages)) + 1
    rows = [row for table in page_tallies("s", carried, characters, np.array(kept, bool)) for row in table.to_pylist()]
    hosts = {"http://a.org/x": "a.org", "https://www.a.org/": "a.org", "http://b.org": "b.org", "no url": "no url"}
    said = {"noai": ["noai"], "NOINDEX, noai": ["noai", "noindex"], "noindex;noai": ["noai", "noindex"]}
    for side in (READ, KEPT):
        chosen = [at for at in range(len(pages)) if side == READ or kept[at]]
        for table, names in (
            ("host", {at: [hosts.get(urls[at], "")] for at in chosen}),
            ("opt_out", {at: said.get(robots[at], []) for at in chosen}),
        ):
            wanted: dict[str, list[int]] = {}
            for at, found in names.items():
                for name in found:
                    wanted.setdefault(name, []).append(at)
            of_table = {row["name"]: row for row in rows if row["table"] == table and row["bin"] == side}
            assert {name: row["documents"] for name, row in of_table.items()} == {
                name: len(found) for name, found in wanted.items()
            }
            for name, found in wanted.items():
                assert of_table[name]["characters"] == sum(at + 1 for at in found)


def test_what_is_too_long_for_a_host_is_counted_with_the_rarest():
    urls = ["http://a.org/" + "x" * 5000, "http://" + "b" * 254, "http://" + "c" * 253]
    tables = page_tallies("s", pa.table({"url": urls}), np.ones(3, np.int64), np.ones(3, bool))
    assert {row["name"] for row in tables[0].to_pylist()} == {"a.org", "", "c" * 253}


def test_the_rarest_hosts_are_added_up():
    urls = [f"http://h{at}.org/" for at in range(5) for _ in range(at + 1)]
    carried, size = pa.table({"url": urls}), len(urls)
    (tallies,) = page_tallies("s", carried, np.ones(size, np.int64), np.ones(size, bool))
    found = by_name(most_frequent_hosts(tallies, 2).to_pylist())
    assert {host: sides["input"]["documents"] for host, sides in found.items()} == {"h4.org": 5, "h3.org": 4, "": 6}
    assert most_frequent_hosts(tallies, 5).equals(tallies)


def test_a_run_on_an_archive_has_hosts_dates_opt_outs_and_records(tmp_path, monkeypatch):
    (tmp_path / "a.warc").write_bytes((FOLDER / "records.warc").read_bytes())
    (tmp_path / "domains").write_text("example.org/ferry\n")
    columns = ["url", "date", "published", "robots", "tdm_reservation"]
    settings = {
        "inputs": [{"source": "crawl", "path": str(tmp_path / "a.warc"), "columns": columns}],
        "output": str(tmp_path / "run"),
        "execution": {"max_bad_documents": 1.0},
        "rules": {"packs": [], "opt_out": {}, "url_blocklist": {"paths": [str(tmp_path / "domains")]}},
    }
    run = curate_inline(settings, monkeypatch)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert not list(faults(report, REPORT))
    (host,) = report["hosts"]["hosts"]
    assert (host["host"], host["input"]["documents"], host["corpus"]["documents"]) == ("example.org", 4, 1)
    published, collected = report["dates"]
    assert [(row["month"], row["input"]["documents"]) for row in collected["months"]] == [("2026-01", 4)]
    assert [(row["month"], row["input"]["documents"]) for row in published["months"]] == [("", 4)]
    told = {row["directive"]: (row["input"]["documents"], row["corpus"]["documents"]) for row in report["opt_outs"]}
    assert told == {"noai": (1, 0), "tdm-reservation": (1, 0)}
    page = render(run.report)
    for words in ("Records of web archives", "blocked_url", "empty_extraction", "response with status 404"):
        assert words in page
    assert "not stated" in page


def test_a_report_without_these_columns_has_none_of_these_sections(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    run = curate_inline({"inputs": [str(tmp_path / "a.jsonl")], "output": str(tmp_path / "run")}, monkeypatch)
    assert not {"hosts", "dates", "opt_outs"} & run.report.keys()
    assert "Opt-outs" not in render(run.report) and "Records of web archives" not in render(run.report)
