"""`raymill train` on answers that were compared or judged, whole and with bad input."""

import json
from pathlib import Path

import pytest

from tests.support.inline import prepare_inline
from tests.support.pack_runs import write_lines
from tests.support.train_inline import train_inline

MORE = {"model": {"config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
                             "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                             "max_position_embeddings": 128, "vocab_size": 400},
                  "tokenizer": "train", "chat_template": "chatml"},
        "sequence_length": 128, "tokens_per_step": 512}  # fmt: skip


def rows(count: int = 60) -> list[dict]:
    return [
        {"key": f"p{at}", "prompt": f"how long is river {at}?", "chosen": f"{3 * at} units", "rejected": f"a fox, {at}"}
        for at in range(count)
    ]


def trained(tmp_path: Path, monkeypatch, corpus: list[dict] | str, **more):
    path = corpus if isinstance(corpus, str) else write_lines(tmp_path / "corpus.jsonl", corpus)
    return train_inline(MORE | {"corpus": path, "output": str(tmp_path / "run")} | more, monkeypatch)


def steps(run) -> list[dict]:
    lines = [json.loads(line) for line in Path(run.uri, "steps.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


@pytest.mark.parametrize("objective", ["dpo", "reward", "kto"])
def test_a_prepared_data_set_of_preferences_needs_no_columns(tmp_path, monkeypatch, objective):
    source = write_lines(tmp_path / "rows.jsonl", rows())
    settings = {
        "inputs": [{"path": source, "id": "key"}],
        "records": {"shape": "preference"},
        "validate": {"question_chars": None, "answer_chars": None, "truncated_answers": "keep"},
        "output": str(tmp_path / "prepared"),
    }
    prepared = prepare_inline(settings, monkeypatch)
    run = trained(tmp_path, monkeypatch, prepared.uri, objective=objective)
    first = steps(run)[0]
    assert {"reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy"} <= first.keys()
    if objective == "dpo":
        assert first["loss"] == pytest.approx(0.6931472, abs=1e-6)
    report = Path(run.uri, "report.html").read_text()
    assert "reward" in report
    card = next(Path(run.uri, "export").rglob("README.md")).read_text()
    assert f"- {objective}" in card or objective in card
