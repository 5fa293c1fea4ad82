"""What a model card is made from."""

from typing import Any

from raymill.cluster.examples.splits import SPLITS
from raymill.training.config import TrainConfig
from raymill.training.export.card import CardFacts, CorpusFacts, Lineage
from raymill.training.model_folder.loading import Base

NAMES = [f"{what}/{split}" for what in ("documents", "tokens", "label_tokens") for split in SPLITS]
COUNTERS = {name: float(number) for number, name in enumerate(NAMES, 1000)}


OUTCOME: Any = {
    "fingerprint": "f" * 32, "ended": "patience", "steps": 150, "best_step": 100, "checkpoint": "c",
    "best_checkpoint": "b", "trainable_parameters": 4_000, "all_parameters": 1_000_000, "unmoved": [], "skipped": [],
    "restarts": 0, "seconds": 9.0,
}  # fmt: skip


CHECK: Any = {"matrices": 14, "inputs": 8, "max_abs_difference": 2.5e-6, "tolerance": 3e-4, "adapter_effect": 0.5,
              "largest_output": 9.0}  # fmt: skip


def measured(loss: float) -> Any:
    return {"loss": loss, "perplexity": 2.5, "accuracy": 0.625, "label_tokens": 12345}


def evaluation(**more: Any) -> Any:
    return {
        "before": {"test": measured(5.5)}, "after": {"test": measured(1.25)}, "best_step": 100,
        "generation": {"exact_match": 0.4375, "number_match": 0.5},
        "answers": [{"document": "doc-1", "prompt": "SECRET", "reference": "SECRET", "generated": "SECRET"}],
        "merged_check": None, "notes": [],
    } | more  # fmt: skip


def config(**more: Any) -> TrainConfig:
    plain_settings = {
        "kind": "train", "name": "demo", "corpus": "corpus", "model": {"name": "org/model", "revision": "main"},
        "method": "lora", "steps": 200, "output": "o", "optimizer": {"learning_rate": 2e-4, "warmup_steps": 20},
    }  # fmt: skip
    return TrainConfig.model_validate(plain_settings | more)


def facts(settings_: TrainConfig | None = None, origin: Lineage | None = None, **more: Any) -> CardFacts:
    steps: Any = [
        {"step": 0, "validation": measured(6.0)},
        {"step": 50, "tokens": 100, "label_tokens": 60, "validation": measured(3.0)},
        {"step": 100, "tokens": 100, "label_tokens": 60, "validation": measured(2.0)},
        {"step": 150, "tokens": 100, "label_tokens": 60, "validation": measured(2.5)},
    ]
    known: dict[str, Any] = {
        "config": settings_ or config(), "outcome": OUTCOME, "base": Base("org/model", "0a1b2c"), "chat": True,
        "corpora": {"peps": CorpusFacts(origin or Lineage("corpus"), COUNTERS)}, "steps": steps,
        "evaluation": evaluation(), "merged_check": CHECK, "dtype": "float32",
    }  # fmt: skip
    return CardFacts(**known | more)
