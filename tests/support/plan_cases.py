"""Configs and models to plan a training of."""

from raymill.training.config import TrainConfig
from raymill.training.data.order import Order
from raymill.training.models.cost import shape_of
from raymill.training.plan.advice import PlannedTraining
from raymill.training.plan.data import Data

TINY = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320}  # fmt: skip


# The dimensions of Llama-3.1-8B, as its config.json has them.
BIG = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
       "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}  # fmt: skip


def config(**settings) -> TrainConfig:
    plain = {
        "kind": "train",
        "name": "planned",
        "corpus": "nowhere",
        "model": {"config": TINY, "tokenizer": "train"},
        "sequence_length": 128,
        "tokens_per_step": 1024,
        "steps": 100,
        "optimizer": {"learning_rate": 1e-3},
        "output": "nowhere-either",
    }
    return TrainConfig.model_validate(plain | settings)


def big(**settings) -> TrainConfig:
    plain = {
        "model": {"config": BIG, "tokenizer": "train"},
        "workers": {"count": 8, "gpus_each": 1},
        "sequence_length": 4096,
        "tokens_per_step": 262144,
        "micro_batch": 1,
        "optimizer": {"learning_rate": 1e-4},
    }
    return config(**plain | settings)


def facts(
    settings: TrainConfig, *, tokens: int = 10**9, documents: int | None = None, gib: float | None = None
) -> PlannedTraining:
    rows = max(1, tokens // settings.sequence_length)
    filled = tokens / rows
    order = Order([rows], [rows], settings.rows_per_step, 64, 1, [filled])
    data = Data(True, "told", {"corpus-0": rows}, {"corpus-0": tokens}, documents, order)
    return PlannedTraining(settings, shape_of(settings), data, order.steps(settings), gib)


LORA = {"method": "lora", "optimizer": {"learning_rate": 2e-4}, "lora": {"rank": 32}}
