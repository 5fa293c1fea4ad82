"""Uncertainty by models of `raymill train`: a probe, and one that was trained to answer with a label."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.record import OtherSettings
from raymill.cluster.store.store import Store
from raymill.pipelines.annotate import stages
from raymill.pipelines.annotate.config import AnnotateConfig
from raymill.pipelines.annotate.job import AnnotateJob
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.rounds import next_round
from raymill.pipelines.annotate.trained import trained_classifier
from tests.support.annotate_inline import LABELS, annotate_inline, settings_of, simulated_answers, write_records
from tests.support.train_inline import sentences, train_inline, write_corpus

pytestmark = pytest.mark.filterwarnings("ignore")

TASK = {"type": "classify", "show": ["text"], "labels": ["mountain", "river"]}
OF_A_PROBE = {"method": "probe", "packing": {"mode": "none"}, "steps": 20, "optimizer": {"learning_rate": 3e-2}}


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    settings = {"corpus": write_corpus(folder), "columns": {"text": "text", "label": "kind"}}
    with pytest.MonkeyPatch.context() as patch:
        train_inline(settings | OF_A_PROBE | {"output": str(folder / "run")}, patch)
    return folder / "run"


def records(folder):
    """40 texts about rivers and mountains, and 8 about something between them."""
    rows = [{"id": f"a{number}", "text": row["text"]} for number, row in enumerate(sentences(40))]
    rows += [{"id": f"b{number}", "text": f"The mountain river number {number} is long. "} for number in range(8)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "in.parquet")
    return {row["id"]: row["text"] for row in rows}


def test_the_records_of_which_a_probe_is_least_certain_are_chosen(probe, tmp_path, monkeypatch):
    texts = records(tmp_path)
    choose = {"count": 10, "uncertainty": 0.8, "classifier": str(probe)}
    settings = settings_of(tmp_path / "in.parquet", tmp_path / "out", task=TASK, choose=choose)
    run = annotate_inline(settings, monkeypatch)
    assert AnnotateJob(run.config).machines(None).largest_task > 4 << 30  # with the model
    tasks = {row.id: row for row in run.round.tasks}
    model = trained_classifier(Store(), str(probe), TASK["labels"])
    sure = dict(zip(texts, model.probabilities([*texts.values()], TASK["labels"]).max(axis=1), strict=True))
    chosen = {id for id, row in tasks.items() if row.chosen_by == "uncertainty"}
    assert chosen == set(sorted(sure, key=sure.__getitem__)[:8])
    assert {id: row.certainty for id, row in tasks.items()} == pytest.approx({id: sure[id] for id in tasks}, abs=1e-5)
    assert {row.prediction for row in tasks.values()} <= {"river", "mountain"}


def test_memory_is_reserved_for_the_files_of_a_model_whatever_its_run_states(probe, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(probe, copy)
    manifest = json.loads((probe / "manifest.json").read_text())
    stated = [one | {"bytes": 0} for one in manifest["export"]["files"]]
    (copy / "manifest.json").write_text(json.dumps(manifest | {"export": manifest["export"] | {"files": stated}}))
    size = sum(path.stat().st_size for path in (copy / "export").rglob("*") if path.is_file())
    assert trained_classifier(Store(), str(copy), TASK["labels"]).bytes == size > 10_000


def test_a_model_sees_the_pool_and_all_tasks(probe, tmp_path, monkeypatch):
    records(tmp_path)
    monkeypatch.setattr(stages, "_POOL", 12)
    seen = list[str]()
    whole = stages.TrainedClassifier.probabilities
    counted = lambda self, texts, labels: (seen.extend(texts), whole(self, texts, labels))[1]  # noqa: E731
    monkeypatch.setattr(stages.TrainedClassifier, "probabilities", counted)
    choose = {"count": 20, "uncertainty": 0.2, "classifier": str(probe)}
    settings = settings_of(tmp_path / "in.parquet", tmp_path / "out", task=TASK, choose=choose)
    run = annotate_inline(settings, monkeypatch)
    assert len(run.round.tasks) == 20 and all(row.prediction and row.certainty for row in run.round.tasks)
    assert sum(row.chosen_by == "uncertainty" for row in run.round.tasks) == 4
    assert 20 <= len(seen) < 40  # of 48 records: about 12, and the random tasks that are not among them


def test_a_probe_that_was_trained_again_makes_another_round(probe, tmp_path, monkeypatch):
    records(tmp_path)
    choose = {"count": 10, "uncertainty": 0.8, "classifier": str(probe)}
    settings = settings_of(tmp_path / "in.parquet", tmp_path / "out", task=TASK, choose=choose)
    annotate_inline(settings, monkeypatch)
    manifest = json.loads((probe / "manifest.json").read_text())
    try:
        (probe / "manifest.json").write_text(json.dumps(manifest | {"artifacts": {"export": "0" * 32}}))
        with pytest.raises(OtherSettings, match="classifier"):
            annotate_inline(settings, monkeypatch)
    finally:
        (probe / "manifest.json").write_text(json.dumps(manifest))


def test_what_gives_no_probabilities_is_refused(probe, tmp_path, monkeypatch):
    store = Store()
    with pytest.raises(ConfigError, match="predicts mountain, river, and none of the labels yes, no"):
        trained_classifier(store, str(probe), ["yes", "no"])
    with pytest.raises(DataError, match="there is no run"):
        trained_classifier(store, str(tmp_path), ["yes", "no"])
    manifest = json.loads((probe / "manifest.json").read_text())
    of_phases = {name: value for name, value in manifest.items() if name != "export"}
    adapter = manifest | {"export": manifest["export"] | {"folders": {"adapter": "adapter"}}}
    for length in ("long", "5", float("inf"), 0, -5, True, None):
        damaged = manifest | {"config": {"sequence_length": length}}
        (tmp_path / "manifest.json").write_text(json.dumps(damaged))
        with pytest.raises(DataError, match="its manifest is none of"):
            trained_classifier(store, str(tmp_path), ["river"])
    for written, problem in ((of_phases, "exported no probe"), (adapter, "merged: true")):
        (tmp_path / "manifest.json").write_text(json.dumps(written))
        with pytest.raises((ConfigError, DataError), match=problem):
            trained_classifier(store, str(tmp_path), ["river"])
    for wrong, problem in (
        ({"choose": {"classifier": "a", "probabilities": "p"}}, "leave one out"),
        ({"choose": {"classifier": "a"}, "rounds": {"train": "b"}}, "leave out choose.classifier"),
        ({"choose": {"classifier": "a"}, "task": {"type": "write", "show": ["text"]}}, "needs labels"),
    ):
        with pytest.raises(ValidationError, match=problem):
            AnnotateConfig.model_validate(settings_of(tmp_path, tmp_path / "out", **wrong))


@pytest.mark.parametrize("method", ["probe", "lora"])
def test_each_round_trains_on_the_labels_of_those_before(tmp_path, monkeypatch, method):
    path = write_records(tmp_path / "in.parquet", 300)
    own = OF_A_PROBE if method == "probe" else {"method": "lora", "steps": 6, "evaluate": {"every_steps": 6}}
    (tmp_path / "train.yaml").write_text(json.dumps({"kind": "train", "output": "x", "corpus": "x"} | own))
    choose = {"count": 30, "uncertainty": 0.5}
    given = {"choose": choose, "rounds": {"train": str(tmp_path / "train.yaml")}}
    config = AnnotateConfig.model_validate(settings_of(path, tmp_path / "rounds", **given))
    trained = []

    def train(file, changes):
        trained.append(changes)
        return train_inline(json.loads(Path(file).read_text()) | dict(changes), monkeypatch)

    for number in (1, 2, 3):
        found = next_round(config, lambda one: annotate_inline(one.model_dump(), monkeypatch), train)
        assert (found["round"], found["left"], len(trained)) == (number, 30, number - 1)
        round = Round.at(config.store, found["output"])
        round.answers.add(simulated_answers(round, {"a1": 1, "a2": 1, "a3": 1}))
    first, second = ([json.loads(line) for line in Path(one["corpus"]).read_text().splitlines()] for one in trained)
    known = {row.id: row.record["prompt"] for row in Round.at(config.store, f"{tmp_path}/rounds/1").tasks}
    assert {row["id"]: row["text"] for row in first} == known
    assert {row["label"] for row in first} == set(LABELS) and len(second) == 60
    tasks = Round.at(config.store, f"{tmp_path}/rounds/3").tasks
    model = trained_classifier(config.store, trained[1]["output"], LABELS)
    wanted = model.probabilities([row.record["prompt"] for row in tasks], LABELS).max(axis=1)
    np.testing.assert_allclose([row.certainty for row in tasks], wanted, atol=1e-5)
    assert found["learning"][1]["accuracy"]
