"""`open` returns what is at a folder as the functions return it: runs with their artifacts, tables and pages."""

import dataclasses
import pickle
import shutil

import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.frame.opening import open
from raymill.pipelines.curate.job import CurateRun
from raymill.pipelines.prepare.job import PrepareRun
from raymill.training.train_run import TrainRun
from tests.support.inline import curate_inline, prepare_inline
from tests.support.stories import story
from tests.support.train_inline import train_inline, write_corpus


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def curated(tmp_path_factory, patch) -> CurateRun:
    """Six documents, of which one is a copy and one is short."""
    folder = tmp_path_factory.mktemp("curated")
    texts = [*(story(number) for number in range(4)), story(0), "Short & <b>bold</b>."]
    for number, text in enumerate(texts):
        (folder / "in").mkdir(exist_ok=True)
        (folder / "in" / f"{number}.txt").write_text(text)
    return curate_inline({"inputs": [{"path": str(folder / "in")}], "output": str(folder / "run")}, patch)


def test_a_run_is_opened_as_the_function_returned_it(curated):
    found = open(curated.uri)
    assert type(found) is CurateRun and found.manifest == curated.manifest and found.report == curated.report
    assert str(found) == str(curated) and found.results == curated.results
    assert open(found) is found


@pytest.mark.parametrize("report", [{}, {"warnings": 1}, {"removed": "x"}, {"documents": "many"}, {"funnel": [[]]}])
def test_a_report_with_other_values_is_named_when_its_run_is_shown(curated, report):
    found = dataclasses.replace(open(curated.uri), report=report)
    for show in (lambda: found.text, found._repr_html_):
        with pytest.raises(DataError, match=r"report\.json: not the report of this run \("):
            show()
    with pytest.raises((KeyError, TypeError)):  # of a report that was just made, it is a defect
        _ = dataclasses.replace(found, fresh=True).text


def test_artifacts_are_attributes_of_the_run(curated):
    assert curated.corpus.rows == 4 and curated.removed.rows == 2
    assert curated.quarantine.rows == 0 and "quarantine" in dir(curated)
    with pytest.raises(AttributeError, match="no attribute or artifact 'corpse'"):
        _ = curated.corpse


def test_a_run_survives_pickle(curated):
    again = pickle.loads(pickle.dumps(open(curated.uri)))
    assert again.corpus.manifest == curated.corpus.manifest


def test_an_artifact_is_opened_by_its_path_and_becomes_a_table_of_other_libraries(curated):
    corpus = open(f"{curated.uri}/corpus")
    assert isinstance(corpus, Artifact)
    ids = corpus.to_arrow(["id"])["id"].to_pylist()
    assert len(ids) == 4
    assert corpus.to_pandas()["id"].tolist() == ids
    assert corpus.to_polars(["id"])["id"].to_list() == ids
    assert corpus.to_datasets(["id"])["id"][:] == ids


def test_rows_are_sampled_by_their_values(curated):
    (copy,) = curated.removed.sample(5, reason="exact_duplicate")
    assert copy["stage"] == "exact_duplicates"
    (row,) = curated.removed.sample(5, where=["reason!=exact_duplicate"])
    assert row["stage"] != "exact_duplicates"


def test_a_notebook_shows_the_funnel_and_a_link_to_the_report(curated, monkeypatch):
    page = curated._repr_html_()
    assert "<th>removed</th>" in page and "exact_duplicate 1" in page
    assert f'<a href="file://{curated.uri}/report.html"' in page
    monkeypatch.chdir(f"{curated.uri}/..")
    assert '<a href="run/report.html"' in curated._repr_html_(), "which the server of a notebook there has"
    shutil.copytree(curated.uri, "javascript:alert(1)")
    assert '<a href="javascript%3Aalert%281%29/report.html"' in open("./javascript:alert(1)")._repr_html_()
    assert "<td>id</td><td>string</td>" in curated.corpus._repr_html_()


def test_other_folders_are_an_error_that_says_what_is_there(curated, tmp_path):
    with pytest.raises(DataError, match="there is no run and no artifact here"):
        open(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="no finished run and no finished artifact here"):
        open(tmp_path)


def test_a_prepared_data_set_has_its_splits(tmp_path, monkeypatch):
    rows = "".join(f"Question {number}?,The answer to it is number {number}.\n" for number in range(40))
    (tmp_path / "pairs.csv").write_text("prompt,completion\n" + rows)
    made = prepare_inline({"inputs": [{"path": str(tmp_path / "pairs.csv")}], "output": str(tmp_path / "data")},
                          monkeypatch)  # fmt: skip
    found = open(made.uri)
    assert isinstance(found, PrepareRun) and str(found) == str(made)
    assert found.train.rows + found.validation.rows + found.test.rows + found.removed.rows == 40
    assert "<td>train</td>" in found._repr_html_()


def test_a_training_has_its_losses_and_exports(tmp_path, monkeypatch):
    made = train_inline({"corpus": write_corpus(tmp_path), "output": str(tmp_path / "run")}, monkeypatch)
    found = open(made.uri)
    assert isinstance(found, TrainRun) and found.export == {"full": f"{made.uri}/export/full"}
    losses = found.losses.to_pylist()
    assert [row["step"] for row in losses] == list(range(7))
    assert losses[0]["loss"] is None and losses[6]["validation_loss"] < losses[0]["validation_loss"]
    assert "<td>tiny</td>" in found._repr_html_()


def test_a_training_in_phases_has_those_of_its_phases(tmp_path, monkeypatch):
    corpus = write_corpus(tmp_path)
    phases = [{"name": "first", "corpus": corpus}, {"name": "second", "corpus": corpus}]
    settings = {"phases": phases, "output": str(tmp_path / "run"), "steps": 2, "corpus": corpus}
    made = train_inline(settings, monkeypatch)
    found = open(made.uri)
    assert [part.uri for part in found.parts] == [part.uri for part in made.parts]
    assert found.export == made.export and found.losses.num_rows == 6
