"""The whole of `raymill train` in this process: everything but Ray, in seconds."""

import json
from pathlib import Path

from raymill.cluster.engine import Engine
from raymill.cluster.frame.job import Run
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.training import job as job
from raymill.training.config import TrainConfig
from raymill.training.pack import job as packing
from raymill.training.records.finished import read_outcome, refuse_or_delete_other_training
from tests.support.fit_jobs import fit_alone
from tests.support.inline import InlineEngine

LENGTH = 64
MODEL = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LENGTH,
    "vocab_size": 300,
}


def train_inline(
    settings: dict,
    monkeypatch,
    *,
    replace: bool = False,
    verify: bool = False,
    engine: type[Engine] | None = None,
    session: Session | None = None,
) -> Run:
    """`train` on a config given as plain settings, on one worker that is this process.

    engine, session: of packing.
    """
    with monkeypatch.context() as patch:
        train_without_ray(patch, engine)
        config = TrainConfig.model_validate(PLAIN | settings)
        return job.train(config, session or Session(), Progress(), replace=replace, verify=verify)


def train_without_ray(patch, engine: type[Engine] | None = None) -> None:
    """Have packing, training and export run in this process."""
    patch.setattr(packing, "Engine", engine or InlineEngine)
    patch.setattr(job, "fit_on_ray", _fit)
    patch.setattr(job, "_check_cluster", lambda workers, session: None)
    patch.setattr(job, "in_worker", lambda session, function, *arguments, **resources: function(*arguments))


PLAIN = {
    "kind": "train",
    "name": "tiny",
    "model": {"config": MODEL, "tokenizer": "train"},
    "sequence_length": LENGTH,
    "tokens_per_step": 4 * LENGTH,
    "steps": 6,
    "optimizer": {"learning_rate": 3e-3},
    "evaluate": {"every_steps": 3},
    "checkpoint": {"every_steps": 3},
    "track": {"tensorboard": False},
}


def _fit(job, session, progress, replace=False, lease=None, afterwards=None):
    refuse_or_delete_other_training(job.folder, replace)
    outcome = read_outcome(job.folder) or fit_alone(job)
    if afterwards is not None:
        afterwards(job, outcome)
    return outcome


def sentences(count: int = 80) -> list[dict]:
    """Documents with an id, a text, a question with its answer, and a label that the text gives away."""
    made = []
    for number in range(count):
        kind = ("river", "mountain")[number % 2]
        text = f"The {kind} number {number} is {number * 3} units long. " * (1 + number % 4)
        made.append(
            {"id": f"d{number}", "text": text, "question": f"How long is {kind} {number}?", "answer": f"{number * 3}",
             "kind": kind}
        )  # fmt: skip
    return made


def write_corpus(folder: Path) -> str:
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in sentences()))
    return str(path)
