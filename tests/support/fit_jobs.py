"""Tiny trainings for tests of the loop: packed rows with a pattern, a job, and functions that ranks import.

Importing this loads no torch: a driver uses it too.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.data.order import Order
from raymill.training.pack.encode import Example, with_prompts
from raymill.training.pack.packed_run import PackedRun
from raymill.training.records.job import Job, TrainingFolder
from raymill.training.records.schema import Outcome
from tests.support.packed_examples import pack_examples, write_examples

LENGTH = 16
VOCABULARY = 64
MODEL = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": LENGTH,
}
STEPS = 12


def settings(root: str, **more: Any) -> TrainConfig:
    plain: dict[str, Any] = {
        "kind": "train",
        "name": "tiny",
        "corpus": "nowhere",
        "model": {"config": MODEL, "tokenizer": "train"},
        "sequence_length": LENGTH,
        "tokens_per_step": 8 * LENGTH,
        "micro_batch": 2,
        "steps": STEPS,
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
        "evaluate": {"every_steps": 4},
        "checkpoint": {"every_steps": 3},
        "track": {"tensorboard": False},
        "output": f"{root}/run",
        "packed": f"{root}/packed",
    }
    return TrainConfig.model_validate(plain | more)


def pack_tiny(
    root: str, documents: int = 200, validation: int = 20, test: int = 0, prompt_weight: float | None = None
) -> None:
    """Documents that count upwards from a random token: a model finds that out soon. Some are shorter than a row.

    prompt_weight: weight of the loss of the first half of each document to train on; None: all have 1.
    """
    generator = np.random.default_rng(5)
    rows = []
    for number in range(documents):
        size = int(generator.integers(4, LENGTH + 1))
        ids = ((np.arange(size) + generator.integers(VOCABULARY)) % VOCABULARY).tolist()
        rows.append(
            {
                "split": int(number < validation) or 2 * int(documents - number <= test),
                "place": int(generator.integers(1 << 62)),
                "document": f"doc-{number}",
                "ids": ids,
                "labels": [False] + [True] * (size - 1),
                "label": None,
            }
        )
        if prompt_weight is not None:
            example = Example(0, 0, np.array(ids, np.int32), np.arange(size) >= size // 2)
            if number >= validation:
                example = with_prompts(example, prompt_weight)
            weights = None if example.weights is None else example.weights.tolist()
            rows[-1] |= {"labels": example.trained.tolist(), "weights": weights}
    packed = f"{root}/packed"
    artifacts = pack_examples(packed, write_examples(packed, rows), settings(root))
    told = {
        "settings": {"corpora": {"test": {"files": "made here"}}, "tokenizer": {}},
        "tokenizer": "tiny",
        "classes": [],
        "artifacts": {"test": {split: artifacts[split].manifest.digest for split in SPLITS}},
    }
    Store().write_bytes(f"{packed}/pack.json", json.dumps(told).encode())


def tiny_job(root: str, **more: Any) -> Job:
    config = settings(root, **more)
    packed = PackedRun.load(Store(), f"{root}/packed")
    parts = {f"settings.{name}": json.dumps(value) for name, value in config.fit_settings().items()}
    steps = Order.for_training(config, packed).steps(config)
    folder = TrainingFolder(config.store, config.output, parts | {"data": packed.fingerprint})
    return Job(config, folder, packed.uri, (), steps)


def fit_here(job: Job) -> Outcome:
    """In the process group that this process is in."""
    from raymill.training.fit.loop import fit
    from tests.support.ranks import joined_ranks

    return fit(job, joined_ranks())


def fit_alone(job: Job) -> Outcome:
    """As the only worker, in a process group that is gone afterwards."""
    from raymill.training.fit.loop import fit
    from raymill.training.fit.process_group import own_group

    with own_group(0) as ranks:
        return fit(job, ranks)


class Interrupted(Exception):
    """What stands for a kill where processes are not to die."""


def fit_until(job: Job, step: int, alone: bool = False) -> None:
    """Fit, and break off after a step was taken and logged, on every worker."""
    from raymill.training.fit.loop import Training

    after = Training._after

    def interrupted(self: Training, record: Any, late: bool) -> None:
        after(self, record, late)
        if self.progress.step == step:
            raise Interrupted

    Training._after = interrupted  # type: ignore[method-assign]
    try:
        (fit_alone if alone else fit_here)(job)
    except Interrupted:
        return
    finally:
        Training._after = after  # type: ignore[method-assign]
    raise AssertionError(f"step {step} was never taken")


def final_weights(outcome: Outcome) -> dict[str, np.ndarray]:
    """All state of the last checkpoint, by name and kind of state."""
    return state_of(outcome["checkpoint"])


def state_of(uri: str) -> dict[str, np.ndarray]:
    """All state of a checkpoint, by name and kind of state."""
    from raymill.training.records.checkpoint import Checkpoint

    checkpoint = Checkpoint.load(Store(), uri)
    saved = sorted({(piece.name, piece.state) for file in checkpoint.files for piece in file.pieces})
    return {
        f"{name}.{state}": checkpoint.fetch(name, state, 0, int(np.prod(checkpoint.shapes[name])))
        for name, state in saved
    }


def lines(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(job.folder.step_log).read_text().splitlines()]


def column(job: Job, name: str) -> list[Any]:
    return [line[name] for line in lines(job) if name in line]
