"""The summary of training content: what runs state, with their numbers; the rest is marked for the author."""

import hashlib
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.artifact import Artifact, DataFile, Manifest, describe_schema
from raymill.cluster.report.markdown import escaped
from raymill.cluster.run import RunFolder
from raymill.cluster.store.store import Store
from raymill.training.export.training_content import (
    ContentCorpus,
    ContentTraining,
    Crawl,
    MadeBy,
    Origin,
    RunsBehind,
    training_content,
)
from tests.pipelines.generate.conftest import SENTENCES
from tests.support.generate_inline import generate_inline
from tests.support.inline import curate_inline, prepare_inline
from tests.support.train_inline import train_inline
from tests.support.web_server import Reply, as_html, web_server

ARTICLE = "<article><h1>Leave</h1>" + "<p>Everybody has thirty days of leave in {}, and more in some years.</p>" * 5


def section(text: str, number: str) -> str:
    """The text below the heading with this number, up to the next heading."""
    return re.search(rf"^#+ {re.escape(number)} .*?$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)[1]


def table(text: str, first: str) -> list[list[str]]:
    """The rows of the table whose head begins with `first`."""
    found = re.search(rf"^\| {first} \|.*\n\|[-|]*\n\n?((?:\|.*\n+)*)", text, re.MULTILINE)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines() if line]


@pytest.fixture
def runs(tmp_path, monkeypatch, server):
    """{name: run} of a corpus, generated records, fetched pages and files, and a training on all of them."""
    monkeypatch.setattr("raymill.pipelines.prepare.fetch.client.pause", lambda seconds: None)
    (tmp_path / "docs").mkdir()
    for number in range(12):
        said = [SENTENCES[(number + at) % 5] for at in range(3)]
        words = f"Guide number {number} is about the router.\n\n" + "\n".join(said)
        (tmp_path / "docs" / f"{number}.md").write_text(words)
    curated = curate_inline(
        {
            "inputs": [{"path": f"{tmp_path}/docs", "source": "guides", "licence": "CC-BY-4.0"}],
            "output": f"{tmp_path}/corpus", "rules": {"packs": []}, "dedup": None,
        },
        monkeypatch,
    )  # fmt: skip
    generated = generate_inline(
        {
            "inputs": [{"source": "seeds", "path": f"{curated.uri}/corpus"}],
            "model": {"endpoint": server.url, "name": "small", "terms": "apache-2.0"},
            "make": {"template": "qa", "per_document": 3}, "output": f"{tmp_path}/generated",
        },
        monkeypatch,
    )  # fmt: skip
    pairs = [(f"Where is cable {n} kept?", f"Cable {n} is in drawer number {n}.") for n in range(40)]
    people = "".join(json.dumps({"prompt": one, "completion": two}) + "\n" for one, two in pairs)
    (tmp_path / "people.jsonl").write_text(people)
    inputs = [{"source": "made", "path": generated.uri},
              {"source": "people", "path": f"{tmp_path}/people.jsonl", "licence": "MIT"}]  # fmt: skip
    asked = prepare_inline({"inputs": inputs, "output": f"{tmp_path}/asked", "dedup": None}, monkeypatch)
    with web_server() as site:
        site.answers["/robots.txt"] = Reply("User-agent: *\nDisallow: /private/", kind="text/plain")
        for path in ("/a", "/b", "/c"):
            site.answers[path] = as_html(ARTICLE.replace("{}", path))
        other = site.url.replace("127.0.0.1", "localhost")
        urls = [f"{site.url}/a", f"{site.url}/b", f"{other}/c", f"{site.url}/private/d"]
        pages = {"source": "intranet", "pages": {"urls": urls, "allow_private": True, "delay_s": 0}}
        limit = {"execution": {"max_bad_documents": 1.0}}
        read = {"inputs": [pages, {"source": "guides", "path": curated.uri}], "records": {"shape": "text"}}
        texts = prepare_inline(
            read
            | limit
            | {"output": f"{tmp_path}/texts", "dedup": None, "split": {"train": 1.0, "validation": 0.0, "test": 0.0}},
            monkeypatch,
        )
    trained = train_inline(
        {
            "corpus": [{"path": asked.uri, "name": "asked"}, {"path": texts.uri, "name": "texts"}],
            "packing": {"overflow": "truncate"}, "output": f"{tmp_path}/run", "steps": 2,
        },
        monkeypatch,
    )  # fmt: skip
    return {"curate": curated, "generate": generated, "asked": asked, "texts": texts, "train": trained}


def test_a_summary_has_the_numbers_of_the_reports_and_blanks_for_the_author(runs, tmp_path):
    text = Path(runs["train"].uri, "export", "training-content.md").read_text()
    fit = runs["train"].report["fits"][0]
    packed = {one["name"]: next(of for of in one["splits"] if of["split"] == "train") for one in fit["corpora"]}
    (asked, texts) = ([name, f"{packed[name]['documents']:,}", f"{packed[name]['tokens']:,}"] for name in packed)
    assert [row[1:4] for row in table(section(text, "1.3"), "Training")] == [asked, texts]
    tokens = sum(one["tokens"] for one in packed.values())
    assert f"less than 1 billion tokens ({tokens:,} tokens of" in section(text, "1.3")

    # Each run's sources add up to its report.
    intro = section(text, "2.")
    found = dict(re.findall(r"^Sources of (?:prepare|curate) test, digest (\w+), .*; together (\d+):", intro, re.M))
    assert found == {
        runs["asked"].manifest["digest"]: str(runs["asked"].report["splits"]["train"]),
        runs["texts"].manifest["digest"]: str(runs["texts"].report["splits"]["train"]),
        runs["curate"].manifest["digest"]: str(runs["curate"].report["totals"]["corpus"]["documents"]),
    }
    for run, name in ((runs["asked"], "asked"), (runs["texts"], "texts")):
        rows = table(intro[intro.index(run.manifest["digest"]) :], "Source")
        numbers = [int(row[3]) for row in rows]
        assert numbers == [one["splits"]["train"] for one in run.report["sources"]], name
        assert sum(numbers) == run.report["splits"]["train"] == packed[name]["documents"], name
    licences = {(row[0], row[2]) for row in re.findall(r"^\| (\w+) \| (.*?) \| (.*?) \| \S+ \|$", intro, re.M)}
    assert {("people", "MIT"), ("guides", "CC-BY-4.0"), ("intranet", "TO BE COMPLETED: not stated")} <= licences

    crawled = section(text, "2.3")
    assert "a list of 4 addresses, no links followed" in crawled and "forbids 1 address of them" in crawled
    record = json.loads(Path(runs["texts"].uri, "fetched", "intranet.json").read_text())
    assert f"{record['began']} to {record['ended']}" in crawled.replace("\\", "")
    assert [row[:2] for row in table(crawled, "Domain")] == [["127.0.0.1", "2"], ["localhost", "1"]]

    (of_set,) = runs["asked"].report["generated"]
    rows = table(section(text, "2.5"), "Run")
    assert ["prepare test", "small", "apache-2.0", f"{of_set['splits']['train']} records for training"] in rows
    assert len(rows) == 1, "the same records once"
    assert "people.jsonl" in section(text, "2.6") and "robots.txt was obeyed" in section(text, "3.1")
    for number in ("1.1", "2.2", "2.4", "3.2"):
        assert "TO BE COMPLETED" in section(text, number)
    assert "no legal advice" in text and str(tmp_path) not in text

    card = Path(runs["train"].uri, "export", "full", "README.md").read_text()
    assert "asked: source people: licence MIT" in card and "texts: source guides/guides: licence CC-BY-4.0" in card
    assert "asked: source made/seeds/guides: licence CC-BY-4.0" in card
    assert f"{of_set['splits']['train']} records for training of test generated by small, terms apache-2.0" in card


def test_a_summary_has_the_trainings_before(runs, monkeypatch, tmp_path):
    settings = {"corpus": [{"path": runs["asked"].uri, "name": "asked"}], "packing": {"overflow": "truncate"}}
    model = {"model": f"{runs['train'].uri}/export/full", "name": "second", "steps": 1}
    later = train_inline(settings | model | {"output": f"{tmp_path}/later"}, monkeypatch)
    text = Path(later.uri, "export", "training-content.md").read_text()
    rows = table(section(text, "1.3"), "Training")
    assert [row[:2] for row in rows] == [["tiny", "asked"], ["tiny", "texts"], ["second", "asked"]]
    assert "localhost" in section(text, "2.3"), "of a corpus of the first training alone"
    assert "Model dependencies: llama with random weights" in text
    assert text.count(f"digest {runs['asked'].manifest['digest']}, in records") == 1


def test_a_run_that_was_made_again_or_has_another_report_states_nothing(runs):
    run, store = runs["asked"], Store()
    assert RunsBehind(store).made_by(run.uri, run.manifest["digest"]).total == run.report["splits"]["train"]
    assert RunsBehind(store).made_by(run.uri, "another") is None
    Path(run.uri, "report.json").write_text('{"splits": 7}')
    assert RunsBehind(store).made_by(run.uri) is None


def put_generated(folder: Path, sources: list[Path | str], records: object = 5) -> str:
    """A finished run of `generate` that somebody may have written, with these paths as its inputs. Its digest differs
    from the one of other folders."""
    inputs = [{"source": f"s{number}", "path": str(path), "licence": "MIT"} for number, path in enumerate(sources)]
    settings = {"model": {"name": "small"}, "inputs": inputs}
    RunFolder(Store(), str(folder)).put("generate", folder.name, settings, "i", {"records": folder.name})
    (folder / "report.json").write_text(json.dumps({"records": records}))
    return str(folder)


@pytest.fixture
def reads(monkeypatch):
    """The folders whose report was read."""
    found, real = [], RunFolder.report
    monkeypatch.setattr(RunFolder, "report", lambda self, *keys: found.append(self.uri) or real(self, *keys))
    return found


def test_a_run_that_names_itself_as_its_sources_is_read_once(tmp_path, reads):
    itself = put_generated(tmp_path / "itself", [tmp_path / "itself"] * 15 + [f"{tmp_path}/x/../itself"] * 15)
    (tmp_path / "x").mkdir()
    runs = RunsBehind(Store())
    made = runs.made_by(itself)
    assert runs.made_by(f"{itself}/records") is made
    assert reads == [itself] and list(made.with_earlier()) == [made]
    assert len(list(made.leaves())) == 30 and {one.way for one in made.leaves()} == {"files"}


def test_runs_that_name_each_other_are_read_and_listed_once(tmp_path, reads):
    folders = [tmp_path / name for name in "abcdef"]
    for folder in folders:
        put_generated(folder, folders * 5)
    made = RunsBehind(Store()).made_by(str(folders[0]))
    assert sorted(reads) == sorted(map(str, folders))
    assert [one.name for one in made.with_earlier()] == list("abcdef")
    # a leads to b ... f; each lists those of its 30 sources that are being read when it is.
    assert len(list(made.leaves())) == sum(5 * (at + 1) for at in range(6))


def test_the_folders_that_are_looked_at_are_bounded(tmp_path, reads, monkeypatch):
    monkeypatch.setattr("raymill.training.export.training_content._MOST_FOLDERS", 4)
    many = [put_generated(tmp_path / f"{number}", []) for number in range(9)]
    made = RunsBehind(Store()).made_by(put_generated(tmp_path / "last", many))
    assert [one.way for one in made.sources] == ["run"] * 3 + ["files"] * 6 and len(reads) == 4


@pytest.mark.parametrize("records", ["abc", None, [], 1.5, -1, 10**30])
def test_a_report_with_values_of_other_types_states_nothing(tmp_path, records):
    wrong = put_generated(tmp_path / "wrong", [], records)
    runs = RunsBehind(Store())
    assert runs.made_by(wrong) is None
    made = runs.made_by(put_generated(tmp_path / "good", [wrong, "~nobodyhere/x", "/x\0y"]))
    assert [one.way for one in made.sources] == ["files"] * 3
    training_content("n", "f", [ContentTraining("t", "b", [ContentCorpus("c", "p", 1, 2, made)])])


@pytest.mark.parametrize("train", ["abc", None, [], 1.5])
def test_a_prepared_report_with_counts_of_other_types_states_nothing(runs, train):
    run = runs["asked"]
    for change in ({"splits": {"train": train}}, {"made": {"swap": {"train": train or "x"}}}):
        Path(run.uri, "report.json").write_text(json.dumps(run.report | change))
        assert RunsBehind(Store()).made_by(run.uri) is None


MODULE = "raymill.training.export.training_content"


def content_of(made: MadeBy | None, name: str = "n") -> str:
    return training_content(name, "f1", [ContentTraining(name, name, [ContentCorpus(name, "c", 205, 10**9, made)])])


def test_sources_and_rows_beyond_the_bounds_are_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{MODULE}._MOST_SOURCES", 5)
    first = put_generated(tmp_path / "first", ["a.txt"] * 6)
    made = RunsBehind(Store()).made_by(put_generated(tmp_path / "last", [first, "b.txt"]))
    assert [one.name for one in made.sources] == ["s0", "s1"]
    names = ["s0", "s1", "s2", "3 more sources, not listed"]
    assert [one.name for one in made.sources[0].made.sources] == names
    others = table(section(content_of(made), "2.6"), "Run")
    assert others[-1] == ["generate first", "3 more sources, not listed", "", "not counted records"]
    monkeypatch.setattr(f"{MODULE}._MOST_ROWS", 4)
    assert [row[0] for row in table(section(content_of(made), "2."), "Source")] == ["s0", "s1"], "after a row of 1.3"
    last = section(content_of(made), "2.").rpartition("Sources of")[2]
    assert [row[0] for row in table(last, "Source")] == ["s0", "3 more, not listed"]


def test_the_reports_that_are_read_are_bounded(tmp_path, monkeypatch, reads):
    many = [put_generated(tmp_path / f"{number}", []) for number in range(9)]
    last = put_generated(tmp_path / "last", many)
    sizes = [sum(file.stat().st_size for file in Path(one).iterdir()) for one in (last, *many)]
    monkeypatch.setattr(f"{MODULE}._MOST_BYTES", sum(sizes[:4]))
    made = RunsBehind(Store()).made_by(last)
    assert [one.way for one in made.sources] == ["run"] * 3 + ["files"] * 6 and reads == [last, *many[:3]]


def test_a_name_in_many_rows_is_short(tmp_path):
    long = put_generated(tmp_path / "long", ["a"])
    manifest = tmp_path / "long/manifest.json"
    manifest.write_text(manifest.read_text().replace('"s0"', f'"{"s" * 1001}"'))
    assert RunsBehind(Store()).made_by(long) is None


def put_pages(folder: Path, hosts: int) -> None:
    """The record and the rows of a fetched source `guides`: of each host as many letters as its number."""
    texts = [json.dumps({"url": f"http://h{number}.org/", "text": "x" * number}) for number in range(hosts)]
    rows = pa.table({"record": texts, "problem": pa.nulls(hosts, pa.string())})
    part = folder / "fetched/guides/000000"
    part.mkdir(parents=True)
    pq.write_table(rows, part / "part-000000.parquet")
    data = (part / "part-000000.parquet").read_bytes()
    file = DataFile("part-000000.parquet", 0, hosts, len(data), hashlib.sha256(data).hexdigest())
    manifest = Manifest(
        "fetched", "f", files=[file], counters={}, seconds=0.0, made="2026-01-01T00:00:00Z", version="0",
        **describe_schema(rows.schema),
    )  # fmt: skip
    (part / "_manifest.json").write_bytes(manifest.to_json())
    (folder / "fetched/guides.json").write_text('{"fingerprint": "f", "began": "2026", "ended": "2026", "parts": 1}')


def test_pages_are_read_once_and_are_bounded(runs, tmp_path, monkeypatch):
    run = Path(runs["asked"].uri)
    report = json.loads((run / "report.json").read_text())
    settings = report["config"]["inputs"][1] | {"source": "guides", "pages": {"urls": ["http://h1.org"]}}
    report["config"]["inputs"] = [settings]
    report["sources"] = [report["sources"][1] | {"source": "guides"}] * 20
    (run / "report.json").write_text(json.dumps(report))
    put_pages(run, 205)
    read, real = [], Artifact.tables
    monkeypatch.setattr(Artifact, "tables", lambda self, *of: read.append(self.uri) or real(self, *of))
    first, *others = RunsBehind(Store()).made_by(str(run)).sources
    assert first.crawl.domains == 205 == first.crawl.asked and all(one.crawl is first.crawl for one in others)
    assert len(read) == 2, "the pages, and the training split for its newest record"
    assert first.crawl.largest == [(f"h{number}.org", 1, number) for number in range(204, 183, -1)]
    monkeypatch.setattr(f"{MODULE}._MOST_READ", 2000)
    made = RunsBehind(Store()).made_by(str(run))
    assert made.sources[0].crawl is None and "gone or too large" in content_of(made)


def test_hosts_beyond_those_with_the_most_text_are_others(runs, monkeypatch):
    run = runs["curate"]
    sides = [{"documents": number, "characters": number} for number in (1, 3, 2)]
    hosts = [{"host": f"h{one['documents']}.org", "input": one} for one in sides]
    report = run.report | {"hosts": {"hosts": hosts, "others": {"input": {"documents": 10}}}}
    Path(run.uri, "report.json").write_text(json.dumps(report))
    monkeypatch.setattr(f"{MODULE}._MOST_HOSTS", 2)
    assert RunsBehind(Store()).made_by(run.uri).hosts == ([("h3.org", 3, 3), ("h2.org", 2, 2)], 11)


def test_the_hosts_with_the_most_text_are_listed_and_names_are_no_markup():
    name = "<b>|x"
    crawl = Crawl(
        "raymill/0", "2026-01-01", "2026-01-02", 205, 0, 205, [(f"h{number}.org", 1, 9) for number in range(21)]
    )
    source = Origin(name, "pages", "", name, 205, crawl=crawl)
    made = MadeBy("runs/made", "prepare", name, "d1", "records for training", 205, (source,))
    text = content_of(made, name)
    rows = table(section(text, "2.3"), "Domain")
    assert len(rows) == 21 and rows[-1] == ["h20.org", "1", "9"] and "Domains: 205;" in text
    assert "1 billion to 10 trillion tokens" in text
    assert "<" not in text and escaped(name) in text
