"""Finished tiny trainings, made in this process: packed rows, a tokenizer, a checkpoint, an outcome."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.data.batch import collate
from raymill.training.data.packed import PackedRows
from raymill.training.evaluation.job import initial_objective
from raymill.training.fit.checkpoint import pack_file
from raymill.training.pack.packed_run import PackedRun
from raymill.training.pack.template import CHATML, TURN_END, TURN_START
from raymill.training.records.checkpoint import CheckpointManifest, folder_name
from raymill.training.records.job import Job, TrainingFolder
from raymill.training.records.schema import Outcome, TrainingProgress
from tests.support.packed_examples import pack_examples, write_examples

LENGTH = 80
END, PAD = "<|endoftext|>", "<|pad|>"
LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 264, "max_position_embeddings": 128,
}  # fmt: skip
CLASSES = ("even", "odd")
COLUMNS = {
    "text": {"text": "text"}, "pair": {"prompt": "question", "completion": "answer"}, "chat": {"messages": "messages"},
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    job: Job
    outcome: Outcome
    packed: PackedRun
    tokenizer: PreTrainedTokenizerFast
    trained: Any  # the objective with the trained weights

    @property
    def export(self) -> Path:
        return Path(self.job.folder.uri, "export")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, and ChatML's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({sign: number for number, sign in enumerate(alphabet)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, pad_token=PAD)
    found.add_special_tokens({"additional_special_tokens": [TURN_START, TURN_END]})
    found.chat_template = CHATML
    return found


def example(tokenizer: Any, form: str, number: int, split: int) -> dict[str, Any]:
    """Document `number`: a sum, and its result in GSM8K's way."""
    question, answer = f"What is {number} plus 1?", f"#### {number + 1}"
    match form:
        case "chat":
            start = tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
            )
            stop = f"{answer}{TURN_END}"
        case "pair":
            start, stop = question, answer + END
        case _:
            start, stop = "", f"{question} {answer}{END}"
    given, wanted = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (start, stop))
    labels = [False] * len(given) + [True] * len(wanted)
    label = {"label": number % 2} if form == "probe" else {"label": None}
    return {
        "split": split, "place": number * 7919, "document": f"doc-{number}", "ids": given + wanted,
        "labels": [False, *labels[1:]], **label,
    }  # fmt: skip


def make_run(root: Path, method: str = "lora", form: str = "chat", steps: int = 3, **more: Any) -> Run:
    """Trained for some steps by plain AdamW; `more`: settings of the config."""
    torch.set_num_threads(1)
    virtual = method in ("prefix", "prompt", "probe")
    settings: dict[str, Any] = {
        "kind": "train", "name": "tiny-sums", "corpus": [{"path": f"{root}/corpus", "name": "test"}],
        "columns": {"text": "text", "label": "parity"} if method == "probe" else COLUMNS[form],
        "model": {"config": LLAMA, "tokenizer": "train"}, "method": method, "lora": {"rank": 4, "alpha": 8},
        "sequence_length": LENGTH, "tokens_per_step": 8 * LENGTH, "steps": 50, "output": f"{root}/run",
        "packing": {"mode": "none" if virtual else "best_fit", "overflow": "truncate"}, "packed": f"{root}/packed",
        "optimizer": {"learning_rate": 1e-2},
    }  # fmt: skip
    config = TrainConfig.model_validate(settings | more)
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(f"{root}/packed/tokenizer")
    shape = "probe" if method == "probe" else form
    documents = [example(tokenizer, shape, number, (0, 0, 1, 2)[number % 4]) for number in range(48)]
    artifacts = pack_examples(f"{root}/packed", write_examples(f"{root}/packed", documents), config)
    classes = CLASSES if method == "probe" else ()
    packed = PackedRun(Store(), f"{root}/packed", "tiny", classes, {"test": artifacts})
    folder = TrainingFolder(config.store, f"{root}/run", {"model": "random-1", "data": packed.fingerprint})
    job = Job(config, folder, packed.uri, classes, 50)
    trained = initial_objective(job)
    _train(trained, artifacts["train"], tokenizer.pad_token_id, steps)
    return Run(job, save_outcome(job, trained, steps), packed, tokenizer, trained.eval())


def _train(objective: Any, artifact: Any, pad: int, steps: int) -> None:
    rows = PackedRows(artifact)
    batch = collate(rows.read(range(min(8, rows.rows))), min(8, rows.rows), LENGTH, pad)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=2e-2, weight_decay=0)
    for _ in range(steps):
        loss, _ = objective(**objective.tensors(batch, "cpu"))
        (loss / objective.loss_denominator(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()


def save_outcome(job: Job, objective: Any, step: int) -> Outcome:
    """Its trained weights as a checkpoint of the run, and how the run ended."""
    trained = {name: p.detach() for name, p in objective.named_parameters() if p.requires_grad}
    uri = paths.join(job.folder.checkpoints, folder_name(step, "test"))
    pieces = {(name, "param", 0): values.reshape(-1).numpy() for name, values in trained.items()}
    file, data = pack_file("rank-00000-00000.safetensors", pieces)
    job.folder.store.write_bytes(paths.join(uri, file.path), data)
    shapes = {name: tuple(values.shape) for name, values in trained.items()}
    manifest = CheckpointManifest(
        job.folder.fingerprint_parts, TrainingProgress(step=step), shapes, (file,), 1, "2026-01-01", {}
    )
    job.folder.store.write_bytes(paths.join(uri, "manifest.json"), manifest.to_json())
    return {
        "fingerprint": f"{job.folder.fingerprint}-{step}", "ended": "steps", "steps": step, "best_step": step,
        "checkpoint": uri, "best_checkpoint": uri, "trainable_parameters": sum(p.numel() for p in trained.values()),
        "all_parameters": sum(p.numel() for p in objective.parameters()), "unmoved": [], "skipped": [], "restarts": 0,
        "seconds": 1.0,
    }  # fmt: skip
