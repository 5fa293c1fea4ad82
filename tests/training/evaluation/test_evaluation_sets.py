"""Named sets that are measured before and after training: packed beside the corpora, never trained on."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Columns
from raymill.training.pack.corpus import freeze_sets
from raymill.training.pack.packed_run import PackedRun
from raymill.training.pack.summary import summary
from raymill.training.report.text import summary_text
from tests.support import train_inline as inline
from tests.support.train_inline import PLAIN, sentences, train_inline, write_corpus

pytestmark = pytest.mark.filterwarnings("ignore")

PAIR = {"prompt": "prompt", "completion": "completion"}
FISH = [{"text": f"Fish number {number} swims in the river. " * 2} for number in range(12)]
PAIRS = [{"prompt": one["question"], "completion": one["answer"], "split": "test"} for one in sentences(10)]
# Answers to a question that fills a row, and no answer at all.
UNMEASURED = [
    {"prompt": "why " * 300, "completion": "so", "split": "test"},
    {"prompt": "why", "completion": "", "split": "test"},
]
TRAINED = [{"prompt": "never measured", "completion": "never", "split": "train"}] * 30


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    fish = folder / "fish.json"
    fish.write_text(json.dumps(FISH))
    sets = {
        "fish": str(fish),
        "long": {"path": write(folder / "long.jsonl", [*TRAINED, *PAIRS, *UNMEASURED]), "columns": PAIR},
    }
    settings = {
        "corpus": write_corpus(folder),
        "output": str(folder / "run"),
        "columns": {"text": "text"},
        "evaluate": {"every_steps": 3, "sets": sets},
        "generate": {"prompts": 2, "max_new_tokens": 4},
    }
    with pytest.MonkeyPatch.context() as patch:
        return folder, settings, train_inline(settings, patch)


def test_each_set_has_its_own_loss_and_answers_in_evaluation_report_card_and_console(run):
    folder, _, made = run
    evaluation = json.loads((folder / "run/evaluation.json").read_text())
    assert list(evaluation["before"]) == list(evaluation["after"]) == ["test", "fish", "long"]
    assert evaluation["before"]["long"]["label_tokens"] < evaluation["before"]["fish"]["label_tokens"]
    assert evaluation["set_generation"].keys() == {"fish", "long"}
    assert list(dict.fromkeys(answer.get("set") for answer in evaluation["answers"])) == [None, "fish", "long"]
    told = summary_text(made.report)
    page, card = ((folder / "run" / name).read_text() for name in ("report.html", "export/full/README.md"))
    for name in ("fish", "long"):
        loss = f"{evaluation['after'][name]['loss']:.3f}"
        assert f"  {name:<12}loss " in told and f"-> {loss}" in told
        assert f"| {name}, after |" in card and f"Answers on the set {name}:" in card
        assert loss in page and f"Document of {name}" in page


def test_documents_of_a_set_that_are_not_measured_are_warnings_of_the_report(run):
    told = [words for words in run[2].report["warnings"] if words.startswith("evaluate.sets.")]
    assert [words.partition(" are ")[2].partition(" ")[0] for words in told] == ["left", "longer"]
    assert all(words.startswith("evaluate.sets.long: 1 of ") for words in told)


def test_only_documents_of_the_split_test_are_measured_and_sets_are_not_trained_on(run):
    folder, settings, _ = run
    packed = PackedRun.load(Store(), str(folder / "run/packed"))
    assert packed.corpora.keys() == {"corpus-0"} and packed.rows("train") == packed.split("train")[0].manifest.rows
    assert packed.sets["long"].manifest.counters["documents/test"] == len(PAIRS)
    told = summary(TrainConfig.model_validate(PLAIN | settings), packed)
    assert "evaluate.sets.fish: 12 documents, " in told and "tokens to measure" in told


def test_a_set_that_changed_is_refused_and_replace_measures_it_without_training_again(run, monkeypatch):
    folder, settings, _ = run
    before = json.loads((folder / "run/evaluation.json").read_text())
    assert not train_inline(settings, monkeypatch).fresh
    for left, message in (("fish", "evaluate.sets.long was removed. "), ("long", "evaluate.sets.fish was removed. ")):
        sets = {left: settings["evaluate"]["sets"][left]}
        with pytest.raises(DataError, match=message):
            train_inline(settings | {"evaluate": settings["evaluate"] | {"sets": sets}}, monkeypatch)
    (folder / "fish.json").write_text(json.dumps(FISH[:6]))
    with pytest.raises(DataError, match=r"fish\.json changed .*replace=True"):
        train_inline(settings, monkeypatch)
    monkeypatch.setattr(inline, "fit_alone", lambda job: pytest.fail("trained again"))
    train_inline(settings, monkeypatch, replace=True)
    after = json.loads((folder / "run/evaluation.json").read_text())
    assert after["after"]["fish"]["label_tokens"] < before["after"]["fish"]["label_tokens"]
    assert after["after"]["test"] == before["after"]["test"]


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        ({"test": "a"}, "test: the corpora's own split has this name; give the set another"),
        ({"a/b": "a"}, "String should match pattern"),
    ],
)
def test_names_and_splits_of_sets_are_checked_with_the_config(sets, told):
    with pytest.raises(ValidationError, match=told):
        TrainConfig.model_validate(PLAIN | {"corpus": "c", "output": "o", "evaluate": {"sets": sets}})


@pytest.mark.parametrize(
    ("rows", "split", "measured"),
    [
        (FISH, None, "test"),
        (PAIRS + TRAINED, None, "test"),
        ([one | {"split": "validation"} for one in PAIRS], None, "validation"),
        (PAIRS, "validation", "validation"),
    ],
)
def test_the_split_that_is_measured_of_a_set(tmp_path, rows, split, measured):
    columns = {"text": "text"} if "text" in rows[0] else PAIR
    one = {"path": write(tmp_path / "a.jsonl", rows), "split": split, "columns": columns}
    config = TrainConfig.model_validate(PLAIN | {"corpus": "c", "output": "o", "evaluate": {"sets": {"a": one}}})
    assert [frozen.measured for frozen in freeze_sets(config, 1 << 20).values()] == [measured]


@pytest.mark.parametrize("split", ["dev", "validation"])
def test_a_split_may_have_another_usual_name_as_in_the_column(tmp_path, split):
    rows = [FISH[0] | {"split": "dev"}, FISH[1] | {"split": "train"}]
    one = {"path": write(tmp_path / "a.jsonl", rows), "split": split}
    config = TrainConfig.model_validate(PLAIN | {"corpus": "c", "output": "o", "evaluate": {"sets": {"a": one}}})
    (frozen,) = freeze_sets(
        config.model_copy(update={"columns": Columns(text="text", split="split")}), 1 << 20
    ).values()
    assert frozen.measured == "validation"


@pytest.mark.parametrize(
    ("split", "told"),
    [("test", "no column `split`.*leave `split` out"), ("more", "is more; .*wanted train")],
)
def test_a_split_that_the_documents_do_not_have_is_refused(tmp_path, split, told):
    one = {"path": write(tmp_path / "a.jsonl", FISH), "split": split}
    config = TrainConfig.model_validate(PLAIN | {"corpus": "c", "output": "o", "evaluate": {"sets": {"a": one}}})
    with pytest.raises(ConfigError, match=f"evaluate.sets.a.split: .*{told}"):
        freeze_sets(config, 1 << 20)
