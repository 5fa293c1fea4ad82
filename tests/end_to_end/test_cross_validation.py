"""`raymill prepare` in folds, then `raymill cross-validate`, as commands on Ray."""

import json

import pytest

from tests.support.processes import Command, end_commands
from tests.support.train_inline import PLAIN, sentences

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_a_label_that_the_text_gives_away_is_predicted_in_every_fold(tmp_path):
    rows = ({"id": row["id"], "prompt": row["question"], "completion": row["kind"]} for row in sentences(240))
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare = {
        "kind": "prepare", "name": "rivers", "inputs": [{"path": str(tmp_path / "in.jsonl"), "id": "id"}],
        "output": str(tmp_path / "data"), "records": {"shape": "pairs"}, "dedup": None,
        "validate": {"answer_chars": [1, 100], "answer_in_question": None}, "split": {"folds": 3},
    }  # fmt: skip
    train = PLAIN | {
        "corpus": str(tmp_path / "data"), "output": str(tmp_path / "run"), "steps": 150, "workers": {"count": 2},
        "optimizer": {"learning_rate": 1e-2}, "generate": {"answer": "label", "max_new_tokens": 8, "prompts": 60},
    }  # fmt: skip
    for verb, settings in (("prepare", prepare), ("cross-validate", train), ("cross-validate", train)):
        (tmp_path / f"{verb}.json").write_text(json.dumps(settings))
        try:
            code, out, err = Command(verb, str(tmp_path / f"{verb}.json")).wait(580)
        finally:
            end_commands()
        assert code == 0, err
    found = json.loads((tmp_path / "run" / "folds.json").read_text())
    assert [one["fold"] for one in found["folds"]] == [0, 1, 2]
    assert found["scores"]["accuracy"]["least"] > 0.9, found["scores"]
    assert found["scores"]["macro_f1"]["deviation"] < 0.1
    assert "accuracy" in out and "3 folds" in out
