"""The rule `repeated_pages`: of pages with one URL or one payload, the first in order of the input stays."""

import gzip
import json
import random
from pathlib import Path

import pytest
from pydantic import ValidationError

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError
from raymill.cluster.plan.plan import Prices, plan_of
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import plan as subject
from raymill.pipelines.curate.stages import repeated_pages
from raymill.pipelines.prepare.config import PrepareConfig
from tests.support.inline import curate_inline
from tests.support.sampled import sampled
from tests.support.warc_records import record, response

TEXT = "The mill at the river number {} turns from morning to evening, and whoever comes by can hear its wheel. "
Page = tuple[str, int | None]  # (URL, number of its text, which is its digest; None: the page has another status)


def one_record(url: str, number: int | None, digest: bool = True) -> bytes:
    body = f"<html><body><article><p>{TEXT.format(number) * 8}</p></article></body></html>".encode()
    content = response(body, status="404 Not Found" if number is None else "200 OK")
    stated = f"WARC-Payload-Digest: sha1:{number}\r\n" if digest else ""
    return record("response", content).replace(b"http://x/0\r\n", f"{url}\r\n{stated}".encode())


def write(folder: Path, files: list[list[Page]], digest: bool = True) -> None:
    for number, pages in enumerate(files):
        content = b"".join(gzip.compress(one_record(*page, digest)) for page in pages)
        (folder / f"{number:03}.warc.gz").write_bytes(content)


def settings_of(folder: Path, output: str = "run", **rule) -> dict:
    return {
        "inputs": [{"path": str(folder / "*.warc.gz"), "columns": ["url"]}],
        "output": str(folder / output),
        "language": None,
        "dedup": None,
        "rules": {"packs": [], "repeated_pages": rule},
    }


def ledger(run) -> list[tuple[int, str, str]]:
    rows = Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()
    return [(row["position"], row["url"], row["reason"]) for row in rows]


def expected(pages: list[Page], by: tuple[str, ...], blocked: str = "-") -> list[tuple[int, str, str]]:
    """The definition: first by URL, then by payload among those that are left."""
    pages = [page for page in pages if page[1] is not None]
    reasons: dict[int, str] = {at: "blocked_url" for at, page in enumerate(pages) if blocked in page[0]}
    for part, name, reason in ((0, "url", "repeated_url"), (1, "payload_digest", "repeated_payload")):
        seen = set()
        for at, page in enumerate(pages):
            if name in by and at not in reasons:
                if page[part] in seen:
                    reasons[at] = reason
                seen.add(page[part])
    return [(at, pages[at][0], reasons[at]) for at in sorted(reasons)]


@pytest.fixture(autouse=True)
def a_unit_for_each_file(monkeypatch):
    monkeypatch.setattr("raymill.cluster.readers.freeze._LEAST_BYTES", 100)


BOTH = ("url", "payload_digest")


@pytest.mark.parametrize("by", [BOTH, ("url",), ("payload_digest",)])
@pytest.mark.parametrize("seed", sampled(range(3), 1))
def test_the_first_page_of_a_url_and_of_a_payload_stays(tmp_path, monkeypatch, by, seed):
    draw = random.Random(seed)
    files = [
        [(f"http://a.org/{draw.randrange(12)}", draw.choice([None, *range(10)])) for _ in range(draw.randrange(9))]
        for _ in range(4)
    ]
    files[0] += [("http://a.org/1", 1)]  # no file is read first without a page
    write(tmp_path, files)
    run = curate_inline(settings_of(tmp_path, by=by), monkeypatch)
    assert ledger(run) == expected([page for file in files for page in file], by)


def test_a_page_is_not_removed_as_the_copy_of_one_that_goes_itself(tmp_path, monkeypatch):
    pages: list[Page] = [
        ("http://a.org/1", 1),
        ("http://a.org/1", 2),  # its URL is repeated
        ("http://b.org/1", 2),  # so this is the first one with the payload
        ("http://bad.com/", 3),  # removed by its URL
        ("http://c.org/1", 3),  # so this one stays
        ("http://d.org/1", None),
        ("http://d.org/1", 4),  # that one was no page
    ]
    write(tmp_path, [pages[:2], pages[2:]])
    (tmp_path / "domains").write_text("bad.com\n")
    settings = settings_of(tmp_path)
    settings["rules"]["url_blocklist"] = {"paths": [str(tmp_path / "domains")]}
    run = curate_inline(settings, monkeypatch)
    assert ledger(run) == expected(pages, BOTH, "bad.com")
    assert [row[2] for row in ledger(run)] == ["repeated_url", "blocked_url"]
    steps = {step["stage"]: step["removed"]["documents"] for step in run.report["funnel"]}
    assert (steps["repeated_pages"], steps["url_blocklist"]) == (1, 1)
    assert "1 repeated" not in str(run.report["warnings"])


def test_the_same_pages_go_however_the_input_is_divided(tmp_path, monkeypatch):
    files = [[(f"http://a.org/{at % 7}", at % 5) for at in range(start, start + 10)] for start in (0, 3, 11)]
    write(tmp_path, files)
    runs = []
    for name, size in (("small", 100), ("large", 1 << 20)):
        monkeypatch.setattr("raymill.cluster.readers.freeze._LEAST_BYTES", size)
        runs.append(curate_inline(settings_of(tmp_path, name), monkeypatch))
    assert [len({file.unit for file in run.artifact("attributes").manifest.files}) for run in runs] == [3, 1]
    assert ledger(runs[0]) == ledger(runs[1]) == expected([page for file in files for page in file], BOTH)
    assert runs[0].corpus.table()["url"].to_pylist() == runs[1].corpus.table()["url"].to_pylist()


def test_pages_are_compared_across_inputs_and_a_new_file_before_them_changes_what_stays(tmp_path, monkeypatch):
    write(tmp_path, [[("http://a.org/1", 1), ("http://a.org/2", 2)]])
    (tmp_path / "crawl").mkdir()
    (tmp_path / "crawl" / "b.warc").write_bytes(one_record("http://a.org/2", 5) + one_record("http://b.org/", 1))
    settings = settings_of(tmp_path)
    settings["inputs"].append({"source": "crawl", "path": str(tmp_path / "crawl"), "columns": ["url"]})
    run = curate_inline(settings, monkeypatch)
    assert [row[1:] for row in ledger(run)] == [
        ("http://a.org/2", "repeated_url"), ("http://b.org/", "repeated_payload"),
    ]  # fmt: skip
    (tmp_path / "!.warc.gz").write_bytes(gzip.compress(one_record("http://a.org/1", 9)))
    run = curate_inline(settings, monkeypatch, replace=True)
    assert next(row[1:] for row in ledger(run)) == ("http://a.org/1", "repeated_url")
    assert len(ledger(run)) == 2  # http://b.org/ has the first payload of 1 that is left


def test_without_digests_payloads_are_not_compared_and_other_formats_never(tmp_path, monkeypatch):
    write(tmp_path, [[("http://a.org/1", 1), ("http://a.org/2", 1), ("http://a.org/2", 1)]], digest=False)
    assert [row[2] for row in ledger(curate_inline(settings_of(tmp_path), monkeypatch))] == ["repeated_url"]
    (tmp_path / "a.jsonl").write_text('{"url": "http://a.org/1", "text": "a"}\n' * 2)
    settings = settings_of(tmp_path, "other")
    settings["inputs"][0]["path"] = str(tmp_path / "a.jsonl")
    assert ledger(curate_inline(settings, monkeypatch)) == []


def test_the_rule_needs_urls_and_is_none_of_records(tmp_path):
    settings = {"kind": "curate", "name": "a"} | settings_of(tmp_path)
    settings["inputs"] = [{"path": str(tmp_path)}]
    with pytest.raises(ValidationError, match=r"rules\.repeated_pages: no input carries a column url"):
        CurateConfig.model_validate(settings)
    records = {"kind": "prepare", "name": "a", "inputs": [{"path": str(tmp_path)}], "output": str(tmp_path / "p")}
    with pytest.raises(ValidationError, match="compares pages of web archives"):
        PrepareConfig.model_validate(records | {"validate": {"rules": {"repeated_pages": {}}}})


def planned(folder: Path, monkeypatch, repeated: float | None, **changes) -> dict:
    monkeypatch.setattr("raymill.cluster.plan.trial.TIMES", 1)
    config = CurateConfig.model_validate({"kind": "curate", "name": "a"} | settings_of(folder) | changes)
    return plan_of(subject(config, repeated_pages=repeated), (2,), Prices())


def test_a_plan_prices_finding_repeated_pages_and_extracts_the_others(tmp_path, monkeypatch):
    write(tmp_path, [[(f"http://a.org/{part}/{number}", number) for number in range(200)] for part in range(4)])
    plans = {share: planned(tmp_path, monkeypatch, share) for share in (None, 0.75, 1.0)}
    stages = {share: {stage["name"]: stage for stage in plan["stages"]} for share, plan in plans.items()}
    for share, plan in plans.items():
        pages = stages[share]["pages"]
        assert pages["units"] == stages[share]["measure"]["units"] and pages["core_s"] > 0 and pages["written"] > 0
        assert plan["sample"]["documents"] == 800
        assert plan["sample"]["passed"] == pytest.approx(1 - (share or 0), abs=0.06)
        origin = "given" if share else "a sample shows none"
        sentence = f"{share or 0:.1%} of the pages of archives repeat an earlier one and are not extracted ({origin};"
        assert any(one.startswith(sentence) for one in plan["assumed"])
        assert any(one.startswith("20.0% of the documents that pass are duplicates") for one in plan["assumed"])
    # 800 pages of 900 bytes, whose extraction takes longer than their reading.
    assert stages[1.0]["measure"]["core_s"] < 0.7 * stages[None]["measure"]["core_s"]
    assert stages[1.0]["pages"]["core_s"] < stages[None]["measure"]["core_s"]
    assert plans[1.0]["sample"]["text_bytes"] == 0


def test_only_the_first_pages_of_archives_are_read_to_time_them(tmp_path, monkeypatch):
    write(tmp_path, [[(f"http://a.org/{part}/{number}", number) for number in range(900)] for part in range(2)])
    seen = []
    first = repeated_pages._FirstPages.__call__
    monkeypatch.setattr(
        repeated_pages._FirstPages, "__call__", lambda self, columns: seen.append(len(columns)) or first(self, columns)
    )
    pages = {stage["name"]: stage for stage in planned(tmp_path, monkeypatch, 0.5)["stages"]}["pages"]
    assert sum(seen) == 2 * repeated_pages._TIMED_PAGES
    assert 1800 * 5e-6 < pages["core_s"] < 1800 * 5e-3


def test_records_of_other_formats_are_never_assumed_to_be_repeated(tmp_path, monkeypatch):
    write(tmp_path, [[(f"http://a.org/{number}", number) for number in range(100)]])
    rows = [{"text": TEXT.format(number) * 8, "url": f"http://b.org/{number}"} for number in range(100)]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = ("*.warc.gz", "b.jsonl")
    inputs = [{"source": name[-5:], "path": str(tmp_path / name), "columns": ["url"]} for name in names]
    plan = planned(tmp_path, monkeypatch, 1.0, inputs=inputs)
    documents = plan["sample"]["documents"]
    assert documents > 110 and plan["sample"]["passed"] == pytest.approx((documents - 100) / documents)


def test_the_share_is_refused_where_it_has_no_meaning(tmp_path, monkeypatch):
    write(tmp_path, [[("http://a.org/1", 1)]])
    with pytest.raises(ConfigError, match="repeated_pages: the config has no rule `repeated_pages`"):
        planned(tmp_path, monkeypatch, 0.5, rules={"packs": []})


def test_all_pages_of_a_url_are_explained_the_one_that_stays_too(tmp_path, monkeypatch):
    write(tmp_path, [[("http://a.org/1", 1), ("http://a.org/2", 2)], [("http://a.org/1", 3)]])
    said = str(curate_inline(settings_of(tmp_path), monkeypatch).explain("http://a.org/1"))
    assert [line for line in said.split("\n") if line.startswith("outcome")] == [
        "outcome   kept", "outcome   removed by repeated_pages: repeated_url",
    ]  # fmt: skip
