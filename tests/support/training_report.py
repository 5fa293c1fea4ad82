"""A made-up finished training for the tests of its report: on storage, and as the report gathered from it."""

import json
import math
import random
from typing import Any

import yaml

from raymill.training.config import TrainConfig
from raymill.training.report.gather import Log, restarts

CONFIG = """
kind: train
name: notes-lora
corpus: [{path: s3://bucket/notes/corpus, name: notes}, {path: s3://bucket/faq/corpus, name: faq}]
model: {config: {model_type: llama, hidden_size: 64, num_hidden_layers: 2, vocab_size: 512}, tokenizer: train}
method: lora
workers: {count: 2}
sequence_length: 256
tokens_per_step: 4096
steps: 300
optimizer: {learning_rate: 2.0e-3, warmup_steps: 20}
evaluate: {every_steps: 25}
output: runs/notes-lora
"""


def config(**changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(yaml.safe_load(CONFIG) | changes)


def measured(loss: float) -> dict[str, Any]:
    return {"loss": loss, "perplexity": math.exp(loss), "accuracy": 0.6 * math.exp(-loss / 4), "label_tokens": 120_345}


def records(steps: int = 300, *, every: int = 25, seed: int = 1) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    found: list[dict[str, Any]] = [
        {"step": 0, "time": "2026-01-02T03:04:05+00:00", "workers": 2, "validation": measured(6.25)}
    ]
    for step in range(1, steps + 1):
        loss = 2.9 + 3.3 * math.exp(-5 * step / steps) + chance.gauss(0, 0.12)
        record: dict[str, Any] = {
            "step": step,
            "time": "2026-01-02T03:04:06+00:00",
            "workers": 2 if step <= steps // 2 else 1,
            "loss": loss,
            "grad_norm": math.exp(chance.gauss(-0.5, 0.4)) + (40 if step == 3 else 0),
            "learning_rate": 2e-3 * min(step / 20, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
            "tokens": 4000,
            "label_tokens": 3900,
            "samples": "00ff00ff00ff00ff",
            "seconds": 0.2,
            "tokens_per_s": chance.gauss(20_000, 900),
            "mfu": None,
            "memory_gib": 0.9 + 0.1 * (step > 40),
            "data_wait_s": abs(chance.gauss(0.002, 0.002)),
            "checkpoint_stall_s": 0.0,
        }
        if step % every == 0:
            record["validation"] = measured(loss + 0.15)
        found.append(record)
    return found


ATTEMPTS = [
    {"attempt": "a", "time": "2026-01-02T03:04:05+00:00", "workers": 2, "step": 0, "trainable_parameters": 8192,
     "all_parameters": 140_000, "attention": "sdpa", "attention_warning": None},
    {"attempt": "b", "time": "2026-01-02T03:05:05+00:00", "workers": 1, "step": 150, "trainable_parameters": 8192,
     "all_parameters": 140_000, "attention": "sdpa", "attention_warning": None},
]  # fmt: skip

EVALUATION = {
    "before": {"validation": measured(6.25), "test": measured(6.3)},
    "after": {"validation": measured(2.95), "test": measured(3.01)},
    "best_step": 300,
    "generation": {"exact_match": 0.0, "f1": 0.214, "bleu": 3.41, "rouge1": 0.25, "rougeL": 0.19},
    "answers": [
        {
            "document": f"notes/{number}",
            "prompt": "The meeting begins at nine, and everyone who has a question",
            "reference": " should bring it along on paper, so that nobody has to wait for the others.",
            "generated": " should bring the paper to the meeting and the meeting and the meeting." * (1 + 8 * number),
        }
        for number in range(4)
    ],
    "merged_check": {"matrices": 14, "max_abs_difference": 3.1e-06, "tolerance": 1.0e-04},
}


def split(name: str, documents: int, rows: int, tokens: int) -> dict[str, Any]:
    return {"split": name, "documents": documents, "rows": rows, "tokens": tokens,
            "label_tokens": max(0, tokens - documents), "filled": tokens / (rows * 256) if rows else 0.0}  # fmt: skip


def report() -> Any:
    """As `gather` would make it."""
    log = Log(records())  # type: ignore[arg-type]
    fit = {
        "name": "notes-lora",
        "output": "runs/notes-lora",
        "recipe": {
            "base_model": "llama with random weights, hidden 64, layers 2, vocabulary 512",
            "method": "lora, rank 16, alpha 32", "engine": "ddp", "precision": "float32", "sequence_length": 256,
            "tokens_per_step": 4096, "attention": "sdpa", "attention_warning": None,
        },
        "totals": {
            "steps": 300, "planned_steps": 300, "unlogged_steps": 0,
            "tokens": log.tokens, "label_tokens": log.label_tokens,
            "seconds": 75.25, "validation_s": 6.5,
            "tokens_per_s": log.median("tokens_per_s"), "mfu": None, "compile_s": 0.0,
            "workers": [1, 2],
            "trainable_parameters": 8192, "all_parameters": 140_000,
        },
        "validation": log.validation,
        "curves": log.curves(),
        "events": restarts(ATTEMPTS, [77]),  # type: ignore[arg-type]
        "damaged_checkpoints": [],
        "rows": log.rows(),
        "corpora": [
            {
                "name": "notes", "path": "s3://bucket/notes/corpus", "documents": 5000, "text_bytes": 12_345_678,
                "left_out": {"empty": 12, "no_label": 3}, "packing": {"documents_split": 120},
                "tokenised": {"examples": 5000, "tokens": 2_860_000, "label_tokens": 2_855_000},
                "splits": [split("train", 4000, 9000, 2_290_000), split("validation", 490, 1100, 280_000),
                           split("test", 495, 1120, 283_000)],
            },
            {
                "name": "faq", "path": "s3://bucket/faq/corpus", "documents": 800, "text_bytes": 345_678,
                "left_out": {}, "packing": {},
                "tokenised": {"examples": 800, "tokens": 247_000, "label_tokens": 246_200},
                "splits": [split("train", 640, 900, 222_000), split("validation", 80, 100, 25_000),
                           split("test", 80, 0, 0)],
            },
        ],
        "before": EVALUATION["before"],
        "after": EVALUATION["after"],
        "best_step": min(log.validation, key=lambda measured: measured["loss"])["step"],
        "ended": "steps",
        "unmoved": [],
        "generation": EVALUATION["generation"],
        "answers": EVALUATION["answers"],
        "merged_check": EVALUATION["merged_check"],
        "evaluation_notes": [],
        "folders": [
            {"kind": "adapter", "uri": "runs/notes-lora/export/adapter", "bytes": 345_678, "code": 'folder = "."'},
            {"kind": "merged", "uri": "runs/notes-lora/export/merged", "bytes": 5_600_000, "code": "model = ..."},
        ],
    }  # fmt: skip
    run = {
        "name": "notes-lora", "kind": "train", "output": "runs/notes-lora", "version": "0.1.0",
        "finished": "2026-01-02T03:06:07+00:00",
        "config": json.loads(config().model_dump_json(exclude={"storage", "track"}, exclude_none=True)),
    }  # fmt: skip
    warnings = ["The workers were restarted once, from a checkpoint."]
    return {"schema": 1, "run": run, "fits": [fit], "warnings": warnings}
