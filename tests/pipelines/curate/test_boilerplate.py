"""Boilerplate in a whole run: what is cut, what is listed and reported, and that units make no difference."""

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.store.store import Store
from raymill.pipelines.curate import job
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import result_settings, run_stages
from raymill.pipelines.curate.questions.explain import explain
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.curate.stages.kept_texts import CutTexts
from raymill.pipelines.dedup.group import Sizes
from raymill.pipelines.text.texts import Texts
from tests.support.inline import curate_inline
from tests.support.stories import ledger, story

MENU = "Home | About us | Log in"
COOKIES = "We use cookies on this site. Write to office@harbour.org for more."


def texts() -> dict[str, str]:
    """20 pages of a site: all with a menu, the first 12 with a notice, five of these in capitals.

    Four copies of one page, a page with a line of its own three times, and one that is a menu and a notice.
    """
    found = {f"p{n}": f"{MENU}\n\n{story(n, 10)}" for n in range(20)}
    for n in range(12):
        found[f"p{n}"] += f"\n\n{story(100 + n, 3)}\n{COOKIES.upper() if n > 6 else COOKIES}"
    found |= {f"copy{n}": f"{MENU}\n\n{story(40, 10)}" for n in range(4)}
    found["thrice"] = f"{story(50, 10)}\n\n" + "\n".join(["The ballad of the harbour."] * 3)
    found["menu"] = f"{MENU}\n\nAn old notice about the harbour.\n\n{COOKIES}"
    return found


@pytest.fixture
def settings(tmp_path) -> dict:
    """Two sources of the pages, of which the second has three."""
    pages = texts()
    few = {id: pages[id] for id in ("p0", "p1", "p2")}
    for name, rows in (
        ("site", pages),
        ("other", {f"o{id}": text.replace("chapter", "page") for id, text in few.items()}),
    ):
        pq.write_table(
            pa.table({"id": list(rows), "text": list(rows.values())}), tmp_path / f"{name}.parquet", row_group_size=4
        )
    return {
        "inputs": [
            {"source": name, "path": str(tmp_path / f"{name}.parquet"), "id": "id"} for name in ("site", "other")
        ],
        "output": str(tmp_path / "run"),
        "language": None,
        "rules": None,
        "personal_data": None,
        "dedup": {"threshold": 0.9},
        "boilerplate": {"max_documents": 3, "min_words_left": 8},
    }


def corpus(run) -> dict[str, str]:
    table = run.corpus.table()
    return dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


def listed(run) -> list[dict]:
    rows = Artifact.load(Store(), f"{run.uri}/boilerplate").table().to_pylist()
    return [{name: value for name, value in row.items() if name != "key"} for row in rows]


def test_lines_of_many_documents_are_cut_and_listed_with_the_first_of_them(settings, monkeypatch):
    run = curate_inline(settings, monkeypatch)
    left = corpus(run)
    assert left["p15"] == story(15, 10)
    assert left["p0"] == f"{story(0, 10)}\n\n{story(100, 3)}"
    assert left["p7"] == f"{story(7, 10)}\n\n{story(107, 3)}"  # its notice is in capitals
    assert left["thrice"] == texts()["thrice"]  # one document
    assert left["copy0"] == story(40, 10)  # four copies are one document once duplicates are removed
    assert left["op0"].startswith(MENU)  # three documents of its source
    assert listed(run) == [
        {
            "source": "site", "text": MENU, "documents": 22, "words": 5, "characters": len(MENU), "id": "p0",
            "position": 0,
        },
        {
            "source": "site", "text": COOKIES, "documents": 13, "words": 13, "characters": len(COOKIES), "id": "p0",
            "position": 0,
        },
    ]  # fmt: skip


def test_a_document_of_which_little_is_left_is_removed(settings, monkeypatch):
    run = curate_inline(settings, monkeypatch)
    row = ledger(run)["menu"]
    assert (row["stage"], row["reason"], row["value"], row["threshold"]) == ("boilerplate", "too_few_words_left", 6, 8)
    assert "menu" not in corpus(run)
    positions = Artifact.load(Store(), f"{run.uri}/removed").table()["position"].to_pylist()
    assert positions == sorted(positions)
    kept = settings | {"boilerplate": {"max_documents": 3, "min_words_left": 6}, "output": settings["output"] + "-2"}
    assert corpus(curate_inline(kept, monkeypatch))["menu"] == "An old notice about the harbour."


def test_paragraphs_and_short_lines(settings, monkeypatch):
    cut = {"cut": "paragraphs", "max_documents": 3, "min_words_left": 0}
    left = corpus(curate_inline(settings | {"boilerplate": cut}, monkeypatch))
    assert left["p0"] == f"{story(0, 10)}\n\n{story(100, 3)}\n{COOKIES}"  # the notice ends a paragraph
    for min_words, begin in ((5, ""), (6, f"{MENU}\n\n")):  # the menu has five
        cut = {"max_documents": 3, "min_words": min_words, "min_words_left": 0}
        changed = {"boilerplate": cut, "output": f"{settings['output']}-{min_words}"}
        left = corpus(curate_inline(settings | changed, monkeypatch))
        assert left["p0"] == f"{begin}{story(0, 10)}\n\n{story(100, 3)}"


def test_the_corpus_is_the_same_for_any_units_and_slices(settings, monkeypatch):
    def run(number: int, slices: int, fan: int = 64):
        monkeypatch.setattr(job, "run_stages", partial(run_stages, sizes=Sizes(fan=fan)))
        monkeypatch.setattr("raymill.pipelines.curate.stages.boilerplate.slices_for", lambda keys: slices)
        monkeypatch.setattr("raymill.cluster.readers.freeze.bytes_of_unit", lambda size: 1 + size // number)
        return curate_inline(settings | {"output": f"{settings['output']}-{number}-{slices}-{fan}"}, monkeypatch)

    one, many, levels = run(1, 1), run(20, 3), run(20, 3, fan=2)
    units = [Artifact.load(Store(), f"{run.uri}/attributes").manifest.files for run in (one, many)]
    assert len(units[0]) < len(units[1])
    assert corpus(one) == corpus(many) == corpus(levels)
    assert listed(one) == listed(many) == listed(levels)
    assert ledger(one) == ledger(many) == ledger(levels)
    assert one.report["boilerplate"] == many.report["boilerplate"] == levels.report["boilerplate"]


def test_personal_data_in_boilerplate_is_replaced(settings, monkeypatch):
    run = curate_inline(settings | {"personal_data": {"redact": ["email"]}}, monkeypatch)
    assert listed(run)[1]["text"].startswith("We use cookies on this site. Write to <")


def test_the_report_counts_what_is_cut_and_shows_it(settings, monkeypatch):
    run = curate_inline(settings, monkeypatch)
    before, after = texts(), corpus(run)
    gone = sum(len(before[id]) - len(after[id]) for id in after if id in before)
    gone += len(before["menu"]) - len("An old notice about the harbour.")
    assert run.report["boilerplate"] == {
        "cut": "lines",
        "max_documents": 3,
        "different": 2,
        "pieces": 35,
        "documents": 22,
        "characters": gone,
        "texts": [
            {"source": "site", "text": MENU, "documents": 22},
            {"source": "site", "text": COOKIES.replace("office@harbour.org", "<EMAIL>"), "documents": 13},
        ],
    }
    funnel = {stage["stage"]: stage for stage in run.report["funnel"]}
    assert funnel["boilerplate"]["reasons"][0]["reason"] == "too_few_words_left"
    assert funnel["corpus"]["left"]["documents"] == funnel["boilerplate"]["left"]["documents"] == len(after)
    page = Store().read_bytes(f"{run.uri}/report.html").decode()
    assert "Home | About us | Log in" in page


def test_explain_shows_what_was_cut_out_of_a_document(settings, monkeypatch):
    run = RunReader(Store(), curate_inline(settings, monkeypatch).uri)
    assert f"cut       22 documents of site have: {MENU}" in explain(run, "p3")
    assert "cut" not in explain(run, "thrice")
    assert "removed by boilerplate: too_few_words_left" in explain(run, "menu")


def test_without_the_setting_nothing_changes(settings, monkeypatch):
    plain = {name: value for name, value in settings.items() if name != "boilerplate"}
    run = curate_inline(plain, monkeypatch)
    assert "boilerplate" not in run.manifest["artifacts"]
    assert "boilerplate" not in run.report
    config = CurateConfig.model_validate({"kind": "curate", "name": "test"} | plain)
    assert result_settings(config)["boilerplate"] is None


def test_a_document_that_was_cut_stays_with_exactly_the_least_words():
    was_cut, words = np.array([True, True, True, False]), np.array([4, 5, 6, 0])
    left = CutTexts(Texts.from_strings([""] * 4), was_cut, words, None)
    assert left.stays(5).tolist() == [False, True, True, True]
