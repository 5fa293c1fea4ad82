"""Small trainings for the tests of engines: a config, its rows, and the same training by an engine and by the oracle.

Imported by ranks, so nothing here starts when the module is imported.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed

from raymill.training.config import TrainConfig
from raymill.training.data.batch import Batch, collate
from raymill.training.data.packed import PACKED
from raymill.training.engines import make_engine, zero
from raymill.training.engines.engine import TrainingEngine
from raymill.training.fit.loop import learning_rate
from raymill.training.models.build import build_objective
from raymill.training.models.context import join_context
from tests.support.reference_loop import Trained, train_plainly

VOCABULARY = 300
LENGTH = 24
PAD_ID = 0
MODEL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": LENGTH,
}


@dataclass(frozen=True)
class Case:
    """One training. rows: of a step, over all workers. packed: several documents a row, else one and padding.

    weighted: tokens of every second row have weights, from 0 to 2.

    model: further settings of the model. more: further settings of the config, in place of those below. whole_below:
    see raymill.training.engines.zero. compute: type of the device that chooses the attention; what computes is the CPU.
    """

    engine: str = "ddp"
    method: str = "full"
    micro_rows: int = 2
    rows: int = 8
    packed: bool = True
    steps: int = 6
    tied: bool = False
    weighted: bool = False
    whole_below: int = 100
    compute: str = "cpu"
    more: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [
            self.engine,
            self.method,
            f"{self.rows} rows by {self.micro_rows}",
            "packed" if self.packed else "padded",
        ]
        return ", ".join(
            words
            + ["tied"] * self.tied
            + ["weighted"] * self.weighted
            + [f"{name}={value}" for name, value in (self.more | self.model).items()]
        )

    def config(self) -> TrainConfig:
        probe = self.method == "probe"
        settings: dict[str, Any] = {
            "kind": "train",
            "name": "case",
            "corpus": "nowhere",
            "columns": {"text": "text", "label": "label"} if probe else {"text": "text"},
            "model": {"config": MODEL | {"tie_word_embeddings": self.tied} | self.model, "tokenizer": "train"},
            "method": self.method,
            "engine": self.engine,
            "precision": "float32",
            "lora": {"rank": 4, "alpha": 8},
            "loss_chunk_tokens": 20,
            "sequence_length": LENGTH,
            "tokens_per_step": self.rows * LENGTH,
            "packing": {"mode": "best_fit" if self.packed else "none", "overflow": "truncate"},
            "steps": 50,
            # AdamW's first updates are g / (|g| + epsilon): with a tiny epsilon, +-1 where g is nothing but rounding.
            "optimizer": {"learning_rate": 1e-2, "weight_decay": 0.1, "warmup_steps": 2, "epsilon": 1e-3},
            "output": "nowhere",
        }
        return TrainConfig.model_validate(settings | self.more)

    def step_rows(self, step: int) -> list[pa.Table]:
        """The rows of a step, each a table of the packed schema; the same whoever asks."""
        return [
            packed_row(np.random.default_rng((7, step, row)), self.packed, self.weighted and row % 2 == 1)
            for row in range(self.rows)
        ]


def packed_row(random: np.random.Generator, several: bool, weighted: bool = False) -> pa.Table:
    """One row: documents of random tokens, with a pattern in them that training finds, and labels on most tokens."""
    lengths = random.integers(3, 9, 3) if several else random.integers(4, LENGTH, 1)
    ids, labels = [], []
    for length in lengths:
        start = int(random.integers(1, VOCABULARY - LENGTH))
        ids += [start + place % 3 for place in range(length)]
        labels += [False, *(random.random(length - 1) < 0.8)]
    row = {
        "ids": ids,
        "labels": labels,
        "lengths": lengths.tolist(),
        "documents": [str(one) for one in range(len(lengths))],
        "label": int(random.integers(0, 3)),
        "weights": random.integers(0, 9, len(ids)) / 4 if weighted else None,
    }
    return pa.Table.from_pylist([row], schema=PACKED)


def micro_batches(case: Case, step: int, rank: int, world: int) -> list[Batch]:
    """Of one worker: every worker gets equally many, of equal shape; what is missing is padding."""
    sharing = case.config().workers.context
    groups = world // sharing
    own = case.step_rows(step)[rank // sharing :: groups]
    each = -(-case.rows // groups)
    return [
        collate(own[start : start + case.micro_rows], case.micro_rows, LENGTH, PAD_ID).part(rank % sharing, sharing)
        for start in range(0, each, case.micro_rows)
    ]


def step_units(case: Case, objective: Any, step: int) -> float:
    return sum(objective.loss_denominator(collate([row], 1, LENGTH, PAD_ID)) for row in case.step_rows(step))


def train_reference(case: Case) -> Trained:
    """By the oracle, in this process."""
    torch.set_num_threads(1)
    config = case.config()
    objective = build_objective(config, classes=3)
    rows = [[collate([row], 1, LENGTH, PAD_ID) for row in case.step_rows(step)] for step in range(case.steps)]
    steps = [[objective.tensors(row, "cpu") for row in step] for step in rows]
    units = [step_units(case, objective, step) for step in range(case.steps)]
    return train_plainly(config, objective, steps, units, lambda step: learning_rate(config.optimizer, step, 50))


def new_engine(case: Case) -> tuple[TrainingEngine, Any]:
    """(engine, the objective in it) on the CPU, for the rank that calls."""
    zero.WHOLE_BELOW_VALUES = case.whole_below
    config = case.config()
    how = {"compute": case.compute, "as_stored": case.engine != "ddp", "context": join_context(config.workers.context)}
    objective = build_objective(config, classes=3, **how)
    return make_engine(config, objective, torch.device("cpu")), objective


def take_steps(
    case: Case, engine: TrainingEngine, objective: Any, first: int, last: int
) -> tuple[list[float], list[float]]:
    """Steps [first, last) as a loop takes them: (losses, norms)."""
    config = case.config()
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    losses, norms = [], []
    for step in range(first, last):
        batches = micro_batches(case, step, rank, world)
        units = step_units(case, objective, step)
        total = torch.zeros(())
        for number, batch in enumerate(batches):
            loss, _ = engine.module(**objective.tensors(batch, "cpu"))
            engine.backward(loss / units, last=number == len(batches) - 1)
            total += loss.detach()
        torch.distributed.all_reduce(total)
        losses.append(float(total) / units)
        norms.append(engine.step(learning_rate(config.optimizer, step, 50), config.optimizer.clip))
    return losses, norms


# Whole values, flat, by name of the parameter and of the state.
Saved = dict[tuple[str, str], torch.Tensor]


def saved_state(engine: TrainingEngine) -> Saved | None:
    """The whole saved state, put together from all ranks; on rank 0, None elsewhere. Every value comes once."""
    own = [replace(one, values=one.values.detach().cpu().clone()) for one in engine.slices()]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    if torch.distributed.get_rank():
        return None
    saved: Saved = {}
    times: dict[tuple[str, str], torch.Tensor] = {}
    for one in (one for part in gathered for one in part):
        assert one.values.dtype == torch.float32, f"{one.name}: {one.values.dtype}"
        key = (one.name, one.state)
        if key not in saved:
            size = int(np.prod(one.shape))
            saved[key], times[key] = torch.full((size,), torch.nan), torch.zeros(size)
        saved[key][one.start : one.start + one.values.numel()] = one.values
        times[key][one.start : one.start + one.values.numel()] += 1
    for key, count in times.items():
        assert (count == 1).all(), f"{key}: values saved {count.min():g} to {count.max():g} times"
    return saved


def fetch_from(saved: Saved) -> Any:
    return lambda name, state, start, stop: saved[name, state][start:stop].clone()


def save_midway(case: Case, steps: int) -> Saved | None:
    """On a rank: the state after `steps` steps."""
    engine, objective = new_engine(case)
    try:
        take_steps(case, engine, objective, 0, steps)
        return saved_state(engine)
    finally:
        engine.close()


def continue_from(case: Case, saved: Saved, steps: int) -> dict[str, Any]:
    """On a rank: steps [steps, case.steps) from a state saved after `steps`."""
    engine, objective = new_engine(case)
    try:
        engine.load(fetch_from(saved), steps)
        losses, norms = take_steps(case, engine, objective, steps, case.steps)
        return {"losses": losses, "norms": norms, "saved": saved_state(engine)}
    finally:
        engine.close()


def train_with_engine(case: Case) -> dict[str, Any]:
    """On a rank: all steps of a case. `saved` on rank 0."""
    engine, objective = new_engine(case)
    try:
        losses, norms = take_steps(case, engine, objective, 0, case.steps)
        return {"losses": losses, "norms": norms, "saved": saved_state(engine)}
    finally:
        engine.close()


def differences(result: dict[str, Any], wanted: Trained, first: int = 0) -> dict[str, float]:
    """The largest: of losses and norms from step `first` on; of weights, relative to their tensor's largest."""
    names = {name for name, state in result["saved"] if state == "param"}
    assert names == wanted.weights.keys()
    return {
        "loss": _largest(result["losses"], wanted.losses[first:]),
        "norm": _largest(result["norms"], wanted.norms[first:]),
        "weight": max(
            float((result["saved"][name, "param"].view(weight.shape) - weight).abs().max() / weight.abs().max())
            for name, weight in wanted.weights.items()
        ),
    }


def _largest(found: list[float], wanted: list[float]) -> float:
    return max(abs(one - other) / abs(other) for one, other in zip(found, wanted, strict=True))
