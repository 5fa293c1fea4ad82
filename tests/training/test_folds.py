"""A training a fold: each is scored on the fold that it leaves out, and the records for testing take no part."""

import json
from pathlib import Path

import pytest

from raymill.cluster import cli
from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError, DataError, StorageError
from raymill.cluster.frame.work import work_of
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.assess.score import read_trained
from raymill.training.config import TrainConfig
from raymill.training.folds import CrossValidateJob, FoldScores, scores_text, spread
from tests.support.inline import prepare_inline
from tests.support.train_inline import PLAIN, sentences, train_inline, train_without_ray


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A data set of questions whose answer is one of two words, in `folds` folds: the run."""

    def run(count: int | None, name: str = "data"):
        lines = (
            json.dumps({"id": row["id"], "prompt": row["question"], "completion": row["kind"]}) for row in sentences(60)
        )
        (tmp_path / "in.jsonl").write_text("\n".join(lines))
        plain = {
            "inputs": [{"path": str(tmp_path / "in.jsonl"), "id": "id"}],
            "output": str(tmp_path / name),
            "records": {"shape": "pairs"},
            "dedup": None,
            "assess": {"embeddings": None},
            "validate": {"answer_chars": [1, 100], "answer_in_question": None},
            "split": {"folds": count},
        }
        return prepare_inline(plain, monkeypatch)

    return run


def settings(tmp_path, corpus: str, **more) -> dict:
    return {
        "corpus": corpus,
        "output": str(tmp_path / "run"),
        "generate": {"answer": "label", "max_new_tokens": 4},
    } | more


def cross_validate(plain: dict, monkeypatch, **options):
    """The run of `raymill cross-validate`, whose trainings run in this process."""
    with monkeypatch.context() as patch:
        train_without_ray(patch)
        config = TrainConfig.model_validate(PLAIN | plain | {"kind": "cross-validate"})
        return CrossValidateJob(config).run(Session(), Progress(), **options)


def test_each_fold_is_scored_by_a_model_that_was_not_trained_on_it(tmp_path, prepared, monkeypatch):
    data = prepared(2)
    plain = settings(tmp_path, data.uri)
    found = cross_validate(plain, monkeypatch).report
    of_fold = {
        number: {row["id"] for split in ("train", "validation") for row in data.split(split).table().to_pylist()
                 if row["fold"] == number}
        for number in (0, 1)
    }  # fmt: skip
    for one in found["folds"]:
        packed = {
            split: {
                id for table in Artifact.load(Store(), f"{one['output']}/packed/corpus-0/{split}").tables()
                for ids in table["documents"].to_pylist() for id in ids
            }
            for split in ("train", "validation", "test")
        }  # fmt: skip
        assert packed["test"] == of_fold[one["fold"]] and one["documents"] == len(packed["test"])
        assert packed["train"] == of_fold[1 - one["fold"]] and not packed["validation"]
        assert {"loss", "accuracy", "macro_precision", "macro_recall", "macro_f1", "exact_match"} <= set(one["scores"])
    assert found["datasets"] == {data.uri: data.manifest["digest"]}
    losses = [one["scores"]["loss"] for one in found["folds"]]
    assert losses[0] != losses[1] and found["scores"]["loss"]["mean"] == pytest.approx(sum(losses) / 2)
    assert json.loads((tmp_path / "run" / "folds.json").read_text()) == found
    metrics = read_trained(Store(), str(tmp_path / "run"), data.uri, data.manifest["digest"])
    assert metrics["accuracy"]["mean"] == found["scores"]["accuracy"]["mean"] and "loss" not in metrics
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("fold-*/manifest.json")}
    again = cross_validate(plain, monkeypatch)
    assert again.report == found and not again.fresh
    for name in ("report.json", "folds.json"):
        (tmp_path / "run" / name).unlink()
        assert cross_validate(plain, monkeypatch).report == found, "it is made again of the trainings"
    assert json.loads((tmp_path / "run" / "folds.json").read_text()) == found
    assert len(before) == 2 and {path: path.stat().st_mtime_ns for path in before} == before, "nothing is trained again"


def test_the_spread_of_scores_by_hand():
    made = [FoldScores(fold=n, output="", documents=5, scores=one) for n, one in enumerate(
        ({"f1": 0.5, "loss": 1.0, "odd": 1.0}, {"f1": 0.7, "loss": 1.0}, {"f1": 0.9, "loss": 1.0})
    )]  # fmt: skip
    found = spread(made)
    assert set(found) == {"f1", "loss"}
    assert found["f1"] == {"mean": pytest.approx(0.7), "deviation": pytest.approx(0.2), "least": 0.5, "most": 0.9}
    shown = scores_text({"name": "x", "datasets": {}, "folds": made, "scores": found})
    assert shown.splitlines()[0] == "x, 3 folds: 5 documents, 5, 5"
    assert shown.splitlines()[2].split() == ["f1", "0.700", "0.200", "0.500", "0.900"]


def test_what_cannot_be_cross_validated_is_refused(tmp_path, prepared, monkeypatch):
    def refused(kind: type, match: str, **changes) -> None:
        with pytest.raises(kind, match=match):
            cross_validate(settings(tmp_path, plain) | changes, monkeypatch)

    plain, two, three = (prepared(count, f"data-{count}").uri for count in (None, 2, 3))
    refused(DataError, r"has no folds\. Prepare it with `split: \{folds: 5\}`")
    refused(DataError, "wanted the output of `raymill.prepare`", corpus=str(tmp_path / "in.jsonl"))
    refused(ConfigError, "different numbers of folds", corpus=[two, three])
    refused(ConfigError, "every fold is tested", split={"fold": 1})
    refused(ConfigError, "phases", phases=[{"name": "one"}])
    with pytest.raises(DataError, match=r"bad_fold(.|\n)*Prepare the data set with `split: \{folds: 5\}`"):
        train_inline(settings(tmp_path, plain, split={"fold": 0}), monkeypatch)
    with pytest.raises(ConfigError, match=r"name their column in columns\.fold"):
        more = {"split": {"fold": 0}, "columns": {"prompt": "prompt", "completion": "completion"}}
        train_inline(settings(tmp_path, str(tmp_path / "in.jsonl"), **more), monkeypatch)


def test_the_verb_takes_a_config_of_a_training_and_is_planned_submitted_and_looked_at(
    tmp_path, prepared, monkeypatch, capsys
):
    def raymill(*words: str) -> str:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as left:
            train_without_ray(patch)
            cli.main(words)
        assert not left.value.code
        return capsys.readouterr().out

    config = str(tmp_path / "train.json")
    (tmp_path / "train.json").write_text(json.dumps(PLAIN | settings(tmp_path, prepared(2).uri, steps=1, evaluate={})))
    planned = raymill("cross-validate", config, "--dry-run")
    assert "tiny-fold-0: full" in planned and "tiny-fold-1: full" in planned and not (tmp_path / "run").exists()
    work = work_of(config, ["kind=cross-validate"], None, None)
    assert (work.verb, work.finished, work.all_at_once) == ("cross-validate", False, True)
    shown = raymill("cross-validate", config)
    assert "tiny, 2 folds: 2" in shown and "accuracy" in shown and f"scores  {tmp_path}/run/folds.json" in shown
    assert "finished before, nothing to do" in raymill("cross-validate", config)
    assert work_of(config, ["kind=cross-validate"], None, None).finished
    assert "tiny (cross-validate), finished" in raymill("inspect", str(tmp_path / "run"))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Cross-validation" in page and "Data sets" in page


def test_a_fold_that_is_a_link_out_of_the_output_is_refused(tmp_path, prepared, monkeypatch):
    data = prepared(2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/fold-0").symlink_to(tmp_path / "mine")
    with pytest.raises(StorageError, match="a link to"):
        cross_validate(settings(tmp_path, data.uri), monkeypatch)
    assert not any((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("stated", [101, -3, "x", [2], 2.5, True])
def test_a_data_set_of_others_states_a_number_of_folds_that_prepare_makes(tmp_path, prepared, monkeypatch, stated):
    data = prepared(2)
    manifest = Path(data.uri, "manifest.json")
    plain = json.loads(manifest.read_text())
    plain["config"]["split"]["folds"] = stated
    manifest.write_text(json.dumps(plain))
    with pytest.raises(DataError, match="its manifest states"):
        cross_validate(settings(tmp_path, data.uri), monkeypatch)
