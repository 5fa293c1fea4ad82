"""Repeats in a whole run: the runs are those that a loop over all windows of all documents finds."""

import re
from collections import defaultdict
from functools import partial
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.store.store import Store
from raymill.pipelines.curate import job
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import run_stages
from raymill.pipelines.curate.questions.explain import explain
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.dedup.group import Sizes
from tests.support.inline import curate_inline
from tests.support.sampled import sampled
from tests.support.shown import print_dry_run as print_plan
from tests.support.stories import ledger, story

LENGTH = 12
QUOTE = (
    "In the beginning the harbour was without a light, and every captain who came by night had to wait for the morning "
    "beyond the islands, until the widow of a sailor put a lamp into her window."
)


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def plain_runs(texts: list[str], length: int) -> list[tuple[int, int, int, bool, int]]:
    """(document, first word, last word, whether it is the first, documents) of each run, by a plain loop."""
    split = [words(text) for text in texts]
    holders = defaultdict(list)
    for document, of in enumerate(split):
        for at in range(len(of) - length + 1):
            window = tuple(of[at : at + length])
            if not holders[window] or holders[window][-1] != document:
                holders[window].append(document)
    found = []
    for document, of in enumerate(split):
        for is_first in (True, False):
            covered: dict[int, int] = {}  # word -> the most documents of a window that has it
            for at in range(len(of) - length + 1):
                held = holders[tuple(of[at : at + length])]
                if len(held) > 1 and (held[0] == document) == is_first:
                    covered |= {n: max(covered.get(n, 0), len(held)) for n in range(at, at + length)}
            for _, group in groupby(enumerate(sorted(covered)), key=lambda pair: pair[1] - pair[0]):
                run = [word for _, word in group]
                found.append((document, run[0], run[-1], is_first, max(covered[n] for n in run)))
    return sorted(found)


def written(path, texts: list[str]) -> dict:
    pq.write_table(
        pa.table({"id": [f"d{n}" for n in range(len(texts))], "text": texts}), path / "t.parquet", row_group_size=3
    )
    return {
        "inputs": [{"source": "s", "path": str(path / "t.parquet"), "id": "id"}],
        "output": str(path / "run"),
        "language": None,
        "rules": None,
        "personal_data": None,
        "dedup": None,
        "repeats": {"min_words": LENGTH, "min_words_left": 0},
    }


def rows(run) -> list[dict]:
    return Artifact.load(Store(), f"{run.uri}/repeats").table().to_pylist()


def runs_in(run, texts: list[str]) -> list[tuple[int, int, int, bool, int]]:
    found = []
    for row in rows(run):
        text = texts[row["position"]]
        first = len(words(text[: row["start"]]))
        last = len(words(text[: row["end"]])) - 1
        assert words(text[row["start"] : row["end"]]) == words(text)[first : last + 1]
        assert row["words"] == last - first + 1
        assert row["text"] == text[row["start"] : row["end"]][:1000]
        found.append((row["position"], first, last, row["first_position"] == row["position"], row["documents"]))
    return sorted(found)


def random_texts(seed: int) -> list[str]:
    """Documents over few words, so that runs overlap, touch, and begin and end anywhere."""
    generator = np.random.default_rng(seed)
    pieces = [" ".join(generator.choice(list("abc"), generator.integers(1, 40))) for _ in range(6)]
    texts = []
    for _ in range(12):
        parts = [
            pieces[generator.integers(6)] if generator.random() < 0.5 else
            " ".join(generator.choice(list("abcdefg"), generator.integers(1, 20)))
            for _ in range(generator.integers(1, 7))
        ]  # fmt: skip
        texts.append(". ".join(parts))
    return texts


@pytest.mark.parametrize("seed", sampled(range(8), 2))
def test_the_runs_are_those_of_a_plain_loop_for_any_units_and_slices(tmp_path, monkeypatch, seed):
    texts = random_texts(seed)
    settings = written(tmp_path, texts)
    expected = plain_runs(texts, LENGTH)
    assert expected
    run = curate_inline(settings, monkeypatch)
    assert runs_in(run, texts) == expected
    monkeypatch.setattr("raymill.pipelines.curate.stages.repeats.slices_for", lambda keys: 5)
    monkeypatch.setattr("raymill.cluster.readers.freeze.bytes_of_unit", lambda size: 1 + size // 20)
    many = curate_inline(settings | {"output": settings["output"] + "-2"}, monkeypatch)
    assert len(Artifact.load(Store(), f"{many.uri}/attributes").manifest.files) > 1
    monkeypatch.setattr(job, "run_stages", partial(run_stages, sizes=Sizes(fan=2)))
    levels = curate_inline(settings | {"output": settings["output"] + "-3"}, monkeypatch)
    assert rows(levels) == rows(many) == rows(run)
    assert levels.report["repeats"] == many.report["repeats"] == run.report["repeats"]


@pytest.fixture
def quoted() -> list[str]:
    """Six stories, three of which quote the same; the second of these in other letters and lines, one shortened."""
    texts = [story(n, 8) for n in range(6)]
    texts[1] += f"\n\n{QUOTE}\n\nThat is what they tell."
    texts[3] = f"{QUOTE.upper().replace(' WAS', chr(10) + 'WAS')}\n\n{texts[3]}"
    texts[4] += f" They say: {QUOTE[: QUOTE.index('until')]}and so on."
    return texts


def test_runs_are_listed_and_stay_unless_they_are_to_be_cut(tmp_path, monkeypatch, quoted):
    run = curate_inline(written(tmp_path, quoted), monkeypatch)
    found = [(row["id"], row["first_position"], row["words"], row["documents"], row["cut"]) for row in rows(run)]
    shorter = len(words(QUOTE[: QUOTE.index("until")]))
    whole = len(words(QUOTE))
    assert found == [("d1", 1, whole, 3, False), ("d3", 1, whole, 3, False), ("d4", 1, shorter, 3, False)]
    assert run.corpus.table()["text"].to_pylist() == quoted
    shown = explain(RunReader(Store(), run.uri), "d3")
    assert (
        f"repeats   {whole} words, characters 0 to {len(QUOTE) - 1}, in 3 documents; the first is at position 1"
        in shown
    )
    first = next(line for line in explain(RunReader(Store(), run.uri), "d1").splitlines() if "repeats " in line)
    assert first.endswith("in 3 documents; this is the first") and "; cut" not in shown
    assert "repeats " not in explain(RunReader(Store(), run.uri), "d0")


def test_all_but_the_first_are_cut_if_asked(tmp_path, monkeypatch, quoted):
    settings = written(tmp_path, quoted)
    run = curate_inline(settings | {"repeats": {"min_words": LENGTH, "cut": True, "min_words_left": 0}}, monkeypatch)
    left = dict(zip(run.corpus.table()["id"].to_pylist(), run.corpus.table()["text"].to_pylist(), strict=True))
    assert left["d1"] == quoted[1]
    assert left["d3"] == story(3, 8)
    assert left["d4"] == story(4, 8) + " They say: and so on."
    report = run.report["repeats"]
    assert (report["runs"], report["documents"], report["later_runs"]) == (3, 3, 2)
    assert report["texts"] == [{"source": "s", "text": QUOTE[:-1], "documents": 3}]
    shown = {id: explain(RunReader(Store(), run.uri), id) for id in ("d1", "d3")}
    assert "; the first is at position 1; cut\n" in shown["d3"] and "; cut" not in shown["d1"]
    assert "until the widow of a sailor" in Store().read_bytes(f"{run.uri}/report.html").decode()
    again = curate_inline(
        settings | {"inputs": [{"path": f"{run.uri}/corpus", "id": "id"}], "output": f"{run.uri}-again"}, monkeypatch
    )
    assert rows(again) == []


def test_a_document_of_which_little_is_left_is_removed(tmp_path, monkeypatch, quoted):
    settings = written(tmp_path, [*quoted, f"Some told: {QUOTE}"])
    run = curate_inline(settings | {"repeats": {"min_words": LENGTH, "cut": True, "min_words_left": 5}}, monkeypatch)
    assert {id: (row["stage"], row["reason"], row["value"]) for id, row in ledger(run).items()} == {
        "d6": ("repeats", "too_few_words_left", 2)
    }


def test_the_report_shows_repeats_beside_much_boilerplate(tmp_path, monkeypatch, quoted):
    notices = [f"This is a notice about {letter * 3}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    texts = [text + "".join(f"\n\n{notice}" for notice in notices) for text in quoted]
    settings = written(tmp_path, texts) | {"boilerplate": {"max_documents": 4, "min_words_left": 0}}
    report = curate_inline(settings, monkeypatch).report
    assert [text["text"] for text in report["boilerplate"]["texts"]] == notices[:20]
    assert [text["text"] for text in report["repeats"]["texts"]] == [QUOTE[:-1]]


def test_the_dry_run_says_what_is_cut(tmp_path, quoted, capsys):
    settings = written(tmp_path, quoted) | {"repeats": {"cut": True}, "boilerplate": {"cut": "paragraphs"}}
    print_plan(CurateConfig.model_validate({"kind": "curate", "name": "test"} | settings))
    printed = capsys.readouterr().out
    assert "cut      paragraphs that more than 6 documents of their source have" in printed
    assert "repeats  of 50 words and more are listed, and cut out of all documents but the first" in printed


def test_boilerplate_is_cut_before_repeats_are_looked_for(tmp_path, monkeypatch, quoted):
    settings = written(tmp_path, quoted) | {"boilerplate": {"max_documents": 1, "min_words_left": 0}}
    found = rows(curate_inline(settings, monkeypatch))
    # The quotation of d1 is a line that stays: in d3 it is two. So all of it is found in both.
    assert [row["id"] for row in found] == ["d1", "d3", "d4"]
    quoted[3] = quoted[3].replace("\nWAS", " WAS")
    (tmp_path / "other").mkdir()
    settings = written(tmp_path / "other", quoted) | {"boilerplate": {"max_documents": 1, "min_words_left": 0}}
    assert rows(curate_inline(settings, monkeypatch)) == []


def test_a_document_that_boilerplate_removes_has_no_repeats(tmp_path, monkeypatch):
    """The first has one line that is cut, and 36 words are left."""
    notice = "Please read the rules of this site before you write."
    texts = [
        f"{notice}\nOne told: {QUOTE}",
        f"{notice}\n{story(1)}\nOthers told: {QUOTE}",
        f"{story(2)} Again: {QUOTE}",
    ]
    settings = written(tmp_path, texts) | {"boilerplate": {"max_documents": 1, "min_words_left": 40}}
    run = curate_inline(settings, monkeypatch)
    assert {id: row["stage"] for id, row in ledger(run).items()} == {"d0": "boilerplate"}
    assert [(row["id"], row["documents"], row["first_position"]) for row in rows(run)] == [("d1", 2, 1), ("d2", 2, 1)]
