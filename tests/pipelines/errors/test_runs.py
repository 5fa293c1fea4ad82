"""Errors of finished runs of `train` and `prompt`, which may come from others."""

import json

import pytest

from raymill.cluster.asking.faulty_server import FaultyServer
from raymill.cluster.errors import DataError
from raymill.cluster.examples.splits import hash64
from raymill.cluster.record import json_bytes
from raymill.cluster.run import RunFolder
from raymill.cluster.store.store import Store
from raymill.pipelines.errors import sample
from raymill.pipelines.errors.runs import _of_prompt, evaluated_run
from tests.support.errors_inline import errors_inline, write_lines
from tests.support.generate_inline import rows
from tests.support.inline import prepare_inline
from tests.support.prompt_inline import prompt_inline, questions
from tests.support.train_inline import train_inline


@pytest.fixture
def data(tmp_path, monkeypatch):
    asked, labels = questions(90)
    made = [
        {"id": f"r{n}", "prompt": one, "completion": label, "channel": "mail" if n % 2 else "chat"}
        for n, (one, label) in enumerate(zip(asked, labels, strict=True))
    ]
    write_lines(tmp_path / "a.jsonl", made)
    prepare_inline(
        {
            "inputs": [{"path": str(tmp_path / "a.jsonl"), "id": "id", "columns": {"channel": "channel"}}],
            "records": {"shape": "pairs"},
            "validate": {"answer_chars": None},
            "dedup": None,
            "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
            "output": str(tmp_path / "data"),
        },
        monkeypatch,
    )
    return tmp_path / "data"


def trained(folder, data, answers, **config):
    """What a finished training leaves that is read: manifest.json, evaluation.json, and the config in report.json."""
    folder.mkdir()
    (folder / "evaluation.json").write_bytes(json_bytes({"before": {}, "after": {}, "answers": answers}))
    settings = {"corpus": [{"path": str(data)}], "generate": {"answer": "label"}} | config
    (folder / "report.json").write_bytes(json_bytes({"run": {"config": settings}}))
    RunFolder(Store(), str(folder)).put("train", "sft", {"generate": None}, "inputs", {"export/model": "d"})
    return folder


def answers_of(data, wrong):
    """An answer to each record of test, with the marks of turns in its prompt. wrong: ids of the wrong ones."""
    return [
        {
            "document": one["id"],
            "prompt": f"<|im_start|>user\n{one['prompt']}<|im_end|>",
            "reference": one["completion"],
            "generated": "other" if one["id"] in wrong else one["completion"],
        }
        for one in rows(data, "test")
    ]


def test_a_training_is_read_with_the_records_that_it_names(data, tmp_path, monkeypatch):
    ids = [one["id"] for one in rows(data, "test")]
    run = trained(tmp_path / "sft", data, answers_of(data, ids[:3]))
    found = errors_inline({"run": str(run), "output": str(tmp_path / "out")}, monkeypatch)
    items = {one["id"]: one for one in rows(found, "items")}
    assert items.keys() == set(ids) and {one for one in ids if items[one]["is_error"]} == set(ids[:3])
    assert found.report["records"] == len(rows(data, "train")) and found.report["data"] == str(data)
    assert all("im_start" not in one["prompt"] for one in items.values())
    assert {json.loads(one["fields"])["channel"] for one in items.values()} == {"mail", "chat"}
    assert len(rows(found, "nearest")) == 3 * 5
    assert rows(found, "nearest")[0]["record"] in {one["id"] for one in rows(data, "train")}


def test_a_classifiers_predictions_have_their_confidence(data, tmp_path, monkeypatch):
    answers = [one | {"confidence": 0.75} for one in answers_of(data, ["r1"])]
    run = trained(tmp_path / "probe", data, answers, generate=None)
    assert evaluated_run(Store(), str(run)).compare == "label"
    found = errors_inline({"run": str(run), "output": str(tmp_path / "out")}, monkeypatch)
    assert {one["confidence"] for one in rows(found, "items")} == {0.75}


def read_items_are_bounded(run, every, monkeypatch):
    """By the smallest hashes of ids: their number, the bytes of questions, and the bytes of answers."""
    by_hash = sorted((one["id"] for one in every), key=lambda id: hash64(id.encode()))
    put = sample.SmallestHashes.put
    for settings, size in (
        ({"MOST": 3}, None),
        ({"MOST_BYTES": 3_000}, lambda value: 1_000 if isinstance(value, tuple) else 1),
        ({"MOST_BYTES": 3_000}, lambda value: 1_000 if isinstance(value, str) else 1),
    ):
        with monkeypatch.context() as patch:
            for name, most in settings.items():
                patch.setattr(sample, name, most)
            if size is not None:
                patch.setattr(
                    sample.SmallestHashes,
                    "put",
                    lambda own, id, value, _, size=size: put(own, id, value, size(value)),
                )
            items, counters = _of_prompt(Store(), run)
        kept = {one.id: one for one in items}
        assert 3 <= len(kept) <= 6 < len(every) and kept.keys() <= set(by_hash[:6])
        assert counters == {"documents": len(every), "repeated": 0, "drawn_out": len(every) - len(kept)}
        assert all(kept[one["id"]].answer == one["answer"] for one in every if one["id"] in kept)


def test_a_comparison_of_prompts_is_read_by_its_best_variant(data, tmp_path, monkeypatch):
    class Answering(FaultyServer):
        def said(self, schema, text, draw):
            if "Only the topic" not in text:
                return "I do not know"
            return "login" if "password" in text else "delivery"

    with Answering() as server:
        model = {"endpoint": server.url, "name": "small"}
        prompt_inline(
            {
                "kind": "prompt", "name": "topics", "data": str(data), "models": {"small": model}, "answer": "label",
                "prompts": {"plain": {}, "list": {"prompt": "Only the topic: {{ prompt }}"}},
                "examples": {"number": [0]}, "output": str(tmp_path / "prompted"),
            },
            monkeypatch,
        )  # fmt: skip
    found = errors_inline({"run": str(tmp_path / "prompted"), "output": str(tmp_path / "out")}, monkeypatch)
    wrong = [one for one in rows(found, "items") if one["is_error"]]
    read_items_are_bounded(evaluated_run(Store(), str(tmp_path / "prompted")), rows(found, "items"), monkeypatch)
    assert found.report["items"] == len(rows(data, "validation"))
    assert wrong and {(one["expected"], one["answer"]) for one in wrong} == {("billing", "delivery")}
    assert found.report["confusions"][0]["expected"] == "billing" and found.report["records"]


@pytest.mark.parametrize(
    "answers",
    ["x", [1], [{"document": "a"}], [{"document": 1, "prompt": "", "reference": "", "generated": ""}],
     [{"document": "a", "prompt": "", "reference": "", "generated": "", "confidence": "x"}],
     [{"document": "a", "prompt": "", "reference": "", "generated": "", "confidence": 7}],
     [{"document": "a", "prompt": "", "reference": "", "generated": "\ud800"}],
     [{"document": "a", "prompt": "", "reference": "", "generated": "", "set": 1}]],
)  # fmt: skip
def test_answers_that_a_training_does_not_write_are_refused(answers, tmp_path, monkeypatch):
    run = trained(tmp_path / "sft", tmp_path, answers)
    with pytest.raises(DataError, match=r"are not those that `raymill\.train` writes"):
        errors_inline({"run": str(run), "output": str(tmp_path / "out")}, monkeypatch)


@pytest.mark.parametrize(
    ("config", "compare"),
    [({"corpus": 7, "generate": 7}, "text"), ({"corpus": [7, {"path": 3}], "generate": {"answer": "rm"}}, "text"),
     ({"corpus": [{"path": "../../etc"}], "generate": {"answer": "number"}}, "number")],
)  # fmt: skip
def test_settings_of_a_run_from_others_are_checked(config, compare, tmp_path, monkeypatch):
    answers = [{"document": "a", "prompt": "p", "reference": "1", "generated": "2"}]
    run = evaluated_run(Store(), str(trained(tmp_path / "sft", tmp_path, answers, **config)))
    assert (run.compare, run.data) == (compare, None)


def test_a_report_that_names_another_artifact_opens_none(data, tmp_path, monkeypatch):
    folder = tmp_path / "prompted"
    folder.mkdir()
    RunFolder(Store(), str(folder)).put("prompt", "p", {"data": str(data)}, "inputs", {"items": "d"})
    for variant in ({"model": "../../data/train", "variant": 0}, {"model": "small", "variant": "x"}, {}, 7):
        (folder / "report.json").write_bytes(json_bytes({"variants": [variant]}))
        with pytest.raises(DataError, match="does not name a variant that has answers"):
            errors_inline({"run": str(folder), "output": str(tmp_path / "out")}, monkeypatch)


def test_another_run_or_none_is_refused_with_what_to_do(data, tmp_path, monkeypatch):
    for run in (data, tmp_path / "nothing"):
        with pytest.raises(DataError, match="Point `run` at the output of"):
            errors_inline({"run": str(run), "output": str(tmp_path / "out")}, monkeypatch)
    empty = trained(tmp_path / "sft", data, [])
    with pytest.raises(DataError, match="has no answers"):
        errors_inline({"run": str(empty), "output": str(tmp_path / "out")}, monkeypatch)


@pytest.mark.parametrize("scores", [{"generation": {"accuracy": 0.9}}, {"set_generation": {"old": {"accuracy": 0.9}}}])
def test_a_classifier_without_predictions_is_refused_with_how_to_make_them(data, tmp_path, monkeypatch, scores):
    folder = trained(tmp_path / "probe", data, [], generate=None)
    (folder / "evaluation.json").write_bytes(json_bytes({"before": {}, "after": {}, "answers": []} | scores))
    with pytest.raises(DataError, match=f"Delete {folder}/evaluation.json and run the same"):
        errors_inline({"run": str(folder), "output": str(tmp_path / "out")}, monkeypatch)


def test_what_the_message_says_makes_the_predictions(data, tmp_path, monkeypatch):
    settings = {
        "corpus": [{"path": str(data), "columns": {"text": "prompt", "label": "completion"}}],
        "method": "probe",
        "packing": {"mode": "none"},
        "output": str(tmp_path / "tiny"),
    }
    train_inline(settings, monkeypatch)
    path = tmp_path / "tiny" / "evaluation.json"
    path.write_bytes(json_bytes(json.loads(path.read_bytes()) | {"answers": []}))
    with pytest.raises(DataError, match="without its predictions"):
        evaluated_run(Store(), str(tmp_path / "tiny"))
    path.unlink()
    train_inline(settings, monkeypatch)
    assert evaluated_run(Store(), str(tmp_path / "tiny")).compare == "label"


def test_a_real_training_is_read_by_the_answers_and_the_config_that_it_records(data, tmp_path, monkeypatch):
    train_inline(
        {
            "corpus": str(data),
            "generate": {"answer": "label", "max_new_tokens": 4, "prompts": 6},
            "output": str(tmp_path / "tiny"),
        },
        monkeypatch,
    )
    found = errors_inline({"run": str(tmp_path / "tiny"), "output": str(tmp_path / "out")}, monkeypatch)
    assert found.report["items"] == 6 and found.report["data"] == str(data)
    known = {one["id"]: one for one in rows(data, "test")}
    for one in rows(found, "items"):
        assert (one["prompt"], one["expected"]) == (known[one["id"]]["prompt"], known[one["id"]]["completion"])
    assert found.report["causes"] and len(rows(found, "nearest")) == 5 * found.report["errors"]


@pytest.mark.parametrize("named", ["s3://of-others/data", "s3://of-others/data/train", "hf:of/others", "\x1b[2J/x", 3])
def test_a_data_set_on_another_store_than_the_run_is_not_asked_for(named, data, tmp_path, monkeypatch, caplog):
    run = trained(tmp_path / "sft", data, answers_of(data, []), corpus=[{"path": named}])
    asked = list[str]()
    finished = RunFolder.finished
    monkeypatch.setattr(RunFolder, "finished", lambda folder, kind: asked.append(folder.uri) or finished(folder, kind))
    assert evaluated_run(Store(), str(run)).data is None
    assert not any("of-others" in one for one in asked)
    assert ("name it in `data`" in caplog.text) == str(named).startswith("s3")
