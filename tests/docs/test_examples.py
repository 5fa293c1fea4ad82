"""Programs of docs/examples on small inputs, without Ray; test_deduplicate.py and test_python_on_ray.py run others."""

import contextlib
import importlib
import shutil
import sys
from pathlib import Path

import pytest

import raymill
from docs.build import ROOT
from tests.support.distil_inline import JudgeServer, document, points, write_documents
from tests.support.inline import InlineEngine, without_ray
from tests.support.stories import GERMAN, story
from tests.support.train_inline import train_without_ray
from tests.support.warc_records import COMPRESS, record, response
from tests.support.word_model import word_model

EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Returns a program of the examples as a module, imported in a copy of its folder, where it then works."""
    imported = []

    def load(path: str):
        folder, name = path.split("/")
        shutil.copytree(EXAMPLES / folder, tmp_path / folder)
        monkeypatch.chdir(tmp_path / folder)
        monkeypatch.syspath_prepend(tmp_path / folder)
        imported.append(name)
        return importlib.import_module(name)

    without_ray(monkeypatch)
    yield load
    for name in imported:
        sys.modules.pop(name, None)


def removed(output: str) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in raymill.open(output).removed.to_arrow().to_pylist()}


def test_the_corpus_of_a_language_has_that_language_alone(program):
    program("language/afrikaans").main("texts.jsonl", "out")
    assert removed("out") == {
        "skip-weer": "near_duplicate",
        "schip": "language_not_kept",
        "ship": "language_not_kept",
        "bladsy": "running_text",
        "kort": "gopher_short_doc",
    }
    assert raymill.open("out").corpus.to_arrow(["id"])["id"].to_pylist() == ["skip", "tuin"]


def page(text: str) -> bytes:
    paragraphs = "".join(f"<p>{line}</p>" for line in text.splitlines())
    return f"<html><body><article>{paragraphs}</article></body></html>".encode()


def test_finewebs_recipe_removes_what_it_says_and_compares_pages_within_a_crawl(program):
    fineweb = program("fineweb/fineweb")
    Path("blocked.txt").write_text("x/5\n")  # pages have the addresses http://x/0, http://x/1 and so on
    for crawl in ("CC-1", "CC-2"):
        Path(crawl).mkdir()
        texts = [story(1), story(1), story(2), GERMAN, story(4, sentences=2), story(3)]
        records = [record("response", response(page(text)), number) for number, text in enumerate(texts)]
        Path(crawl, "a.warc.gz").write_bytes(b"".join(map(COMPRESS[".gz"], records)))
    fineweb.main("out", "CC-1", "CC-2")
    rows = raymill.open("out").removed.to_arrow().to_pylist()
    reasons = {(row["source"], row["url"]): (row["stage"], row["reason"]) for row in rows}
    of_one = {
        "http://x/1": ("exact_duplicates", "exact_duplicate"),
        "http://x/3": ("language", "language_not_kept"),
        "http://x/4": ("gopher_quality", "gopher_short_doc"),
        "http://x/5": ("url_blocklist", "blocked_url"),
    }
    assert reasons == {(crawl, url): reason for crawl in ("CC-1", "CC-2") for url, reason in of_one.items()}


@pytest.mark.parametrize("vectors", ["", "small"])
def test_a_judge_is_distilled_and_filters_the_rest(program, tmp_path, monkeypatch, capsys, vectors):
    monkeypatch.setenv("LLM_KEY", "sk-of-the-judge")
    monkeypatch.setattr("raymill.cluster.asking.ask.REPORT_S", 0.02)
    monkeypatch.setattr("raymill.cluster.asking.ask.pause_before", lambda tries, wait: 0.01)
    documents = write_documents(tmp_path / "docs", 260)
    with JudgeServer(share=0.1, seed=2, faults=("slow", "rate", "overloaded", "error", "cut")) as server:
        server.dimensions = 256
        educational = program("judge/educational")
        educational.main(str(documents), "out", server.url, "judge", *([vectors] if vectors else []))
        asked = server.stats()
        educational.main(str(documents), "out", server.url, "judge", *([vectors] if vectors else []))
        assert server.stats()["requests"] == asked["requests"], "the same command again asks nothing"
        assert b"Bearer sk-of-the-judge" in server.head and asked["twice"] == 0
    printed = capsys.readouterr().out
    assert "documents are judged" in printed and "classifier: F1" in printed
    kept = {*raymill.open("out/lessons").corpus.to_arrow(["id"])["id"].to_pylist()}
    good = {f"d{n}" for n in range(260) if points(document(n)) >= 3}
    assert len(kept & good) > 0.8 * len(good) and len(kept - good) < 0.2 * len(kept)
    assert {*removed("out/lessons").values()} == {"low_judge_score"}


def test_a_judge_that_no_classifier_can_follow_filters_nothing(program, tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.cluster.asking.ask.REPORT_S", 0.02)
    documents = write_documents(tmp_path / "docs", 200)
    with JudgeServer() as server:
        server.points = lambda text: len(text) % 6
        with pytest.raises(SystemExit, match=r"F1 may be below 0\.6: enlarge"):
            program("judge/educational").main(str(documents), "out", server.url, "judge")
    assert not Path("out/lessons").exists()


def test_a_model_is_trained_on_its_own_answers_about_documents(program, tmp_path, monkeypatch, capsys):
    units = {}

    class Counting(InlineEngine):
        def run(self, stage):
            units[stage.name] = len(stage.units)
            return super().run(stage)

    model = word_model(tmp_path / "model")
    offline = program("offline/offline")
    without_ray(monkeypatch, Counting)
    train_without_ray(monkeypatch)
    monkeypatch.setattr(raymill, "session", contextlib.nullcontext)
    monkeypatch.setattr(offline, "MODULES", ["glob", "heapq", "shutil", "textwrap"])
    offline.main(model)
    made, data = raymill.open("data/questions").report, raymill.open("data/prepared")
    assert made["requests"] == made["tries"] == 2 * made["documents"] > 30
    assert units["ask.0"] > 2, "few requests are divided over all workers, each of which computes one at a time"
    assert made["records"] > 20 and made["records"] + sum(one["count"] for one in made["removed"]) == made["requests"]
    assert data.train.to_arrow().num_rows > 10 and data.test.to_arrow().num_rows
    (fit,) = raymill.open("runs/offline").report["fits"]
    assert fit["validation"][-1]["loss"] < fit["validation"][0]["loss"]
    compared = raymill.open("runs/before-and-after").report
    assert {one["model"] for one in compared["variants"]} == {"before", "after"}
    printed = capsys.readouterr().out
    offline.main(model)
    assert printed.endswith(capsys.readouterr().out), "the same results"
    assert raymill.open("data/questions").report == made, "nothing is made again"
