"""Tiny models learn: their validation loss falls at every look during the first hundred steps, on real text."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.training.config import TrainConfig
from raymill.training.job import make_job
from raymill.training.pack import job as packing
from tests.support.fit_jobs import fit_alone
from tests.support.inline import InlineEngine

LENGTH = 256
MODEL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LENGTH,
    "vocab_size": 1024,
}
SYSTEM = "Answer with the steps, and the number last."


@pytest.fixture(scope="module")
def gsm8k(shared_data, tmp_path_factory) -> str:
    """Chat: a system turn, the question, the worked answer."""
    path = tmp_path_factory.mktemp("gsm8k") / "train.jsonl"
    rows = [json.loads(line) for line in (shared_data / "gsm8k_train.jsonl").read_text().splitlines()]
    with path.open("w") as file:
        for number, row in enumerate(rows):
            turns = [("system", SYSTEM), ("user", row["question"]), ("assistant", row["answer"])]
            messages = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"id": str(number), "messages": messages}) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def peps(shared_data, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("peps") / "peps.parquet"
    # Each tenth: the others are mostly other versions of the same texts.
    table = pq.read_table(shared_data / "peps.parquet", columns=["id", "text"])
    pq.write_table(table.take(list(range(0, len(table), 10))), path)
    return str(path)


def validation_losses(corpus: str, columns: dict, method: str, root: Path, monkeypatch) -> list[float]:
    config = TrainConfig.model_validate(
        {
            "kind": "train",
            "name": "learning",
            "corpus": corpus,
            "columns": columns,
            "model": {"config": MODEL, "tokenizer": "train"},
            "method": method,
            # A random base has nothing that adapters could bring out, so theirs get everything but the embeddings.
            "lora": {"target": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj", "lm_head"]},
            "sequence_length": LENGTH,
            "tokens_per_step": 8 * LENGTH,
            "steps": 100,
            "optimizer": {"learning_rate": 3e-3 if method == "full" else 1e-3, "warmup_steps": 10},
            "evaluate": {"every_steps": 20, "rows": 32},
            "checkpoint": {"every_steps": None},
            "track": {"tensorboard": False},
            "output": str(root / "run"),
        }
    )
    monkeypatch.setattr(packing, "Engine", InlineEngine)
    job = make_job(config, packing.pack(config, Session(), Progress()))
    outcome = fit_alone(job)
    assert outcome["unmoved"] == [], "every trained matrix takes part"
    records = [json.loads(line) for line in Path(job.folder.step_log).read_text().splitlines()]
    return [record["validation"]["loss"] for record in records if "validation" in record]


def assert_falls(losses: list[float], by: float) -> None:
    assert len(losses) == 6
    assert losses == sorted(losses, reverse=True), losses
    assert losses[0] - losses[-1] > by, losses


@pytest.mark.parametrize(
    ("method", "by"),
    [pytest.param("full", 1.2, marks=pytest.mark.slow), pytest.param("lora", 0.5, marks=pytest.mark.slow)],
)
def test_loss_on_gsm8k_as_chat_falls_at_every_look(gsm8k, tmp_path, monkeypatch, method, by):
    assert_falls(validation_losses(gsm8k, {"messages": "messages"}, method, tmp_path, monkeypatch), by)


@pytest.mark.parametrize(
    ("method", "by"),
    [pytest.param("lora", 0.5, marks=pytest.mark.slow), pytest.param("full", 1.2, marks=pytest.mark.slow)],
)
def test_loss_on_packed_text_falls_at_every_look(peps, tmp_path, monkeypatch, method, by):
    assert_falls(validation_losses(peps, {"text": "text"}, method, tmp_path, monkeypatch), by)
