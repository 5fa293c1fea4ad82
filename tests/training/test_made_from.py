"""What the parts of a training are made from: a setting makes the parts again that depend on it, and no others.

Nothing is packed or trained: the corpora are listed, and the stages are planned on artifacts without content.
"""

import json
from typing import Any

import pytest

from raymill.cluster.artifact import Artifact, DataFile, Manifest, describe_schema, fingerprint
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.data.packed import EXAMPLES, PACKED
from raymill.training.job import make_job, run_settings
from raymill.training.pack.corpus import freeze_corpora, freeze_sets, with_columns
from raymill.training.pack.job import pack_settings, packing_rule
from raymill.training.pack.packed_run import PackedRun, TokenizerAt
from raymill.training.pack.packing import pack_stage
from raymill.training.pack.split import Cuts
from raymill.training.pack.tokenise import tokenise_stage
from raymill.training.records.finished import evaluation_fingerprint, export_fingerprint
from tests.support.settings import changed, untold

COLUMNS_WITH_STAGE = {"text": "text", "stage": "level"}
# Settings with another value, by what they make again. HERE is the folder of the corpus.
CHANGES: dict[tuple[str, ...], dict[str, Any]] = {
    ("examples", "rows", "weights", "evaluation", "export", "run"): {
        "corpus.0.path": "HERE/other.jsonl",
        "corpus.0.name": "n",
        "corpus.0.format": "jsonl",
        "corpus.0.encoding": "ascii",
        "corpus.0.delimiter": ";",
        "corpus.0.columns.text": "other",
        "corpus.0.columns.prompt": {"text": None, "prompt": "text", "completion": "other"},
        "corpus.0.columns.input": {"text": None, "prompt": "text", "completion": "other", "input": "id"},
        "corpus.0.columns.history": {"text": None, "prompt": "text", "completion": "other", "history": "tools"},
        "corpus.0.columns.ignore": ["other"],
        "prompt_loss_weight": 0.5,
        "ignore": ["other"],
        "terms": {"forbid": ["no-training"]},
        "corpus.0.columns.system": {"text": None, "prompt": "text", "completion": "other", "system": "id"},
        "corpus.0.columns.system_prompt": {
            "text": None,
            "prompt": "text",
            "completion": "other",
            "system_prompt": "Be brief.",
        },
        "corpus.0.columns.messages": {"text": None, "messages": "chat"},
        "corpus.0.columns.tools": {"text": None, "messages": "chat", "tools": "tools"},
        "corpus.0.columns.id": "other",
        "corpus.0.columns.group": "other",
        "corpus.0.columns.stratify": "other",
        "corpus.0.columns.split": "other",
        "model.config.vocab_size": 400,
        "model.tokenizer": "HERE",
        "model.chat_template": "chatml",
        "model.chat_template_kwargs": {"chat_template": "chatml", "chat_template_kwargs": {"x": 1}},
        "split": {"train": 0.8, "validation": 0.2, "test": 0.0},
        "order": {"order": "curriculum", "corpus": [{"path": "HERE/corpus.jsonl", "columns": COLUMNS_WITH_STAGE}]},
        "seed": 2,
    },
    ("rows", "weights", "evaluation", "export", "run"): {
        "sequence_length": 32,
        "packing.mode": "none",
        "packing.overflow": "drop",
    },
    ("weights", "evaluation", "export", "run"): {
        "corpus.0.weight": 2.0,
        "corpus.0.epochs": 2.0,
        "corpus.0.tokens": 100,
        "model.config.hidden_size": 16,
        "method": "lora",
        "lora.rank": 2,
        "lora.alpha": 2,
        "lora.dropout": 0.5,
        "lora.target": ["q_proj"],
        "lora.rslora": True,
        "lora.dora": True,
        "lora.loraplus_ratio": 16.0,
        "lora.modules_to_save": ["lm_head"],
        "lora.init": "pissa",
        "prefix.tokens": 2,
        "prompt.tokens": 2,
        "probe.pool": "mean",
        "precision": "bf16",
        "attention": "eager",
        "activation_checkpointing": True,
        "tokens_per_step": 128,
        "steps": 7,
        "epochs": {"steps": None, "epochs": 2.0},
        "tokens": {"steps": None, "tokens": 1000},
        "neftune_alpha": 5.0,
        "optimizer.learning_rate": 0.5,
        "optimizer.weight_decay": 0.5,
        "optimizer.schedule": "linear",
        "optimizer.warmup_steps": 2,
        "optimizer.warmup_fraction": 0.5,
        "optimizer.restarts": 2,
        "optimizer.layer_decay": 0.5,
        "optimizer.ema_decay": 0.5,
        "optimizer.algorithm": "muon",
        "optimizer.decay_steps": 2,
        "optimizer.final_fraction": 0.5,
        "optimizer.clip": 0.5,
        "optimizer.betas": [0.5, 0.5],
        "optimizer.epsilon": 0.5,
        "evaluate.every_steps": 2,
        "evaluate.rows": 2,
        "evaluate.tokens": 2,
        "evaluate.patience": 2,
        "evaluate.least_gain": 0.5,
    },
    ("rows", "evaluation", "run"): {"evaluate.sets": {"more": "HERE/other.jsonl"}},
    ("evaluation", "run"): {
        "evaluate.test_tokens": 2,
        "generate": None,
        "generate.prompts": 2,
        "generate.max_new_tokens": 2,
        "generate.prompt_tokens": 2,
        "generate.answer": "label",
        "generate.decimal_mark": ",",
    },
    ("export", "run"): {"export.merged": False, "export.dtype": "bfloat16"},
    ("run",): {"name": "other", "phases": [{"name": "one"}]},
    (): {
        "output": "HERE/another",
        "packed": "HERE/packed",
        "corpus.0.storage": {"timeout_s": 5},
        "corpus.0.follow_links": True,
        "corpus.0.exclude": ["draft-*"],
        "columns": {"text": "other"},
        "engine": "zero3",
        "shard": {"engine": "fsdp2", "shard": "machine"},
        "reduce_every_micro_batch": {"engine": "fsdp2", "reduce_every_micro_batch": False},
        "offload": {"engine": "zero3", "offload": "parameters"},
        "compile": True,
        "deterministic": True,
        "loss_chunk_tokens": 2,
        "workers.count": 2,
        "workers.context": {"count": 2, "context": 2},
        "workers.gpus_each": {"gpus_each": 1},
        "workers.cpus_each": 2,
        "workers.timeout_s": 5,
        "workers.step_timeout_s": 5,
        "workers.accelerator_type": "H100",
        "workers.labels": {"labels": {"zone": "a"}},
        "workers.placement": "spread",
        "micro_batch": 2,
        "callbacks": ["my_callbacks:count"],
        "checkpoint.every_steps": 2,
        "checkpoint.every_minutes": 2,
        "checkpoint.keep": 5,
        "failures.max": 5,
        "failures.max_preemptions": 5,
        "failures.skip_back": 5,
        "failures.loss_limit": 5,
        "track.tensorboard": False,
        "track.mlflow": "http://mlflow",
        "track.wandb": "p",
        "device_memory_gib": 5,
        "execution.unit_mib": 5,
        "execution.attempts": 5,
        "execution.losses": 6,
        "execution.stall_s": 5,
        "execution.cpus": 5,
        "storage": {"timeout_s": 5, "anonymous": True},
    },
}
# `kind` has one value. The others go with settings that are tried, or need a model of the hub or a finished run.
# Settings of each objective: other values than their defaults.
OBJECTIVES = {
    "dpo": {"beta": 0.5, "loss": "hinge", "label_smoothing": 0.2, "by_length": True, "sft": 0.5},
    "ipo": {"beta": 0.5, "by_length": False, "sft": 0.5},
    "simpo": {"beta": 0.5, "gamma": 0.5, "sft": 0.5},
    "orpo": {"beta": 0.5},
    "kto": {"beta": 0.5, "desirable_weight": 0.5, "undesirable_weight": 0.5},
    "reward": {"centring": 0.5},
    "grpo": {
        "samples": 4,
        "max_new_tokens": 8,
        "rewards": [{"score": "f1"}, {"custom": {"use": "rewards:one", "code": "a" * 64}}],
        "advantage": "centred",
        "mean": "length",
        "reward_s": 1.0,
        "updates": 2,
        "clip": 0.1,
        "clip_high": 0.3,
    },
}
UNTRIED = (
    {"kind", "corpus.0.split", "continue_from", "model.config.model_type", "model.name", "model.revision", "objective"}
    | {f"corpus.0.columns.{name}" for name in ("completion", "fold", "label", "margin", "stage")}
    | {f"{objective}.{name}" for objective, values in OBJECTIVES.items() for name in values}
    | {"grpo.kl", "grpo.engine", "grpo.vllm_memory"}  # with method lora
)


@pytest.fixture
def settings(tmp_path) -> dict[str, Any]:
    row = {"text": "Boats.", "other": "Still.", "id": "d", "chat": [{"role": "user", "content": "a"}], "tools": "[]"}
    row["level"] = 1
    for name in ("corpus", "other"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    given = {
        "kind": "train",
        "name": "test",
        "corpus": [{"path": f"{tmp_path}/corpus.jsonl", "columns": {"text": "text"}}],
        "model": {"config": {"model_type": "llama", "vocab_size": 300, "hidden_size": 32}, "tokenizer": "train"},
        "sequence_length": 64,
        "tokens_per_step": 256,
        "steps": 6,
        "generate": {},
        "output": f"{tmp_path}/out",
    }
    return TrainConfig.model_validate(given).model_dump(mode="json")


def artifact(made_from: str, schema, counters: dict[str, float]) -> Artifact:
    made = {"counters": counters, "seconds": 0.0, "made": "", "version": ""}
    files = [DataFile("file", 0, 100, 1, made_from)]
    return Artifact(Store(), f"/{made_from}", Manifest("", made_from, files=files, **describe_schema(schema), **made))


def made_from(settings: dict[str, Any]) -> dict[str, Any]:
    """What each part of a training is made from. What depends on an earlier part has its value in its own."""
    config = with_columns(TrainConfig.model_validate(settings))
    ((name, corpus),) = freeze_corpora(config, config.execution.unit_mib << 20).items()
    frozen_sets = freeze_sets(config, config.execution.unit_mib << 20)
    packing = pack_settings(config, {name: corpus} | frozen_sets)
    tokenizer = TokenizerAt(config.store, "/tokenizer", fingerprint(packing["tokenizer"]))
    prompts = config.prompt_loss_weight
    tokenise = tokenise_stage(name, corpus, tokenizer, config.split, Cuts((0, 0)), config.seed, prompt_weight=prompts)
    examples = artifact(tokenise.fingerprint, EXAMPLES, {"tokens/train": 100, "examples/train": 100})
    rows = pack_stage(name, packing_rule(config, corpus.columns.form), examples).fingerprint
    packed = {split: artifact(rows, PACKED, {"tokens/train": 6400, "stage_rows/1": 100}) for split in SPLITS}
    sets = {name: artifact(one.fingerprint, PACKED, {}) for name, one in frozen_sets.items()}
    run = PackedRun(config.store, "/packed", tokenizer.fingerprint, (), {name: packed}, sets=sets)
    job = make_job(config, run)
    fit: Any = {"fingerprint": job.folder.fingerprint, "best_checkpoint": None, "checkpoint": "/checkpoint"}
    return {
        "examples": tokenise.fingerprint,
        "rows": [rows, packing],
        "weights": job.folder.fingerprint,
        "evaluation": evaluation_fingerprint(job, fit),
        "export": export_fingerprint(job, fit),
        "run": [run_settings(config), job.folder.fingerprint],
    }


@pytest.mark.parametrize("parts", CHANGES, ids=lambda parts: parts[0] if parts else "nothing")
def test_a_setting_makes_the_parts_again_that_depend_on_it(settings, tmp_path, parts):
    before = made_from(settings)
    for name, value in CHANGES[parts].items():
        here = json.loads(json.dumps(value).replace("HERE", str(tmp_path)))
        after = made_from(changed(settings, name, here))
        assert tuple(part for part in before if before[part] != after[part]) == parts, name


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_settings_of_an_objective_decide_the_weights(settings, objective):
    columns: dict[str, Any] = {"text": None, "prompt": "text", "chosen": "other", "rejected": "id"}
    if objective in ("kto", "grpo"):
        columns = {"text": None, "prompt": "text", "completion": "other"}
        columns |= {"label": "id"} if objective == "kto" else {}
    plain = changed(settings, "corpus.0.columns.prompt", columns) | {"objective": objective}
    if objective == "grpo":
        plain |= {"grpo": {"max_new_tokens": 4, "rewards": [{"score": "exact_match"}]}, "packing": {"mode": "none"}}
    before = made_from(plain | {"generate": None})
    parts = ("weights", "evaluation", "export", "run")
    for name, value in OBJECTIVES[objective].items():
        after = made_from(plain | {"generate": None, objective: plain[objective] | {name: value}})
        assert tuple(part for part in before if before[part] != after[part]) == parts, name
    of_texts = made_from(settings)
    assert all(of_texts[part] != before[part] for part in before)


def test_every_setting_is_tried(settings):
    assert not untold(settings, {name for some in CHANGES.values() for name in some} | UNTRIED)
