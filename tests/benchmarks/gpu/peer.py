"""The same model and rows with transformers' Trainer, set up for the same arithmetic.

Equal on both sides: random seed of the weights, rows, micro-batch and accumulation, precision (bf16 autocast on float32
weights; for LoRA a frozen base in bf16), AdamW with the same betas and weight decay, clipping, activation
checkpointing, attention inside documents by position ids. The rows are given as tensors. The Trainer has its own step,
count of labels, loss over all logits, sdpa attention, a log line per step and fused AdamW on GPUs; it saves and
evaluates nothing.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from raymill.training.config import TrainConfig
from raymill.training.data.batch import Batch
from raymill.training.data.packed import NO_TARGET
from raymill.training.fit.memory import memory_gib
from raymill.training.fit.ranks import Ranks
from raymill.training.models.build import enable_activation_checkpointing
from tests.benchmarks.gpu import WARM_UP
from tests.benchmarks.gpu.measure import (
    Step,
    Timing,
    free,
    random_model,
    reset_peak,
    sum_over_workers,
    synchronized_time,
)

# Attention of the config -> of transformers; others are sdpa, its default. Its flash attention needs another package.
ATTENTION = {"eager": "eager", "flash_attention_2": "flash_attention_2"}


def measure_peer(
    config: TrainConfig, drawn: Sequence[Step], ranks: Ranks, steps: int, compiled: bool = False
) -> Timing:
    """Measure the Trainer's steps between its callbacks, after WARM_UP steps, with the same rows.

    compiled: it compiles the model as one graph, which takes minutes. Only engine `ddp` and methods full and lora are
    supported.
    """
    seconds: list[float] = []

    class Stopwatch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = synchronized_time(device)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(synchronized_time(device) - self.start)

    assert config.micro_batch
    device = ranks.device
    attention = ATTENTION.get(config.attention, "sdpa")
    model = _model(config, device, attention)
    sizes = [(one.numel(), one.requires_grad) for one in model.parameters()]
    optimizer = config.optimizer
    with tempfile.TemporaryDirectory(prefix="bench-peer-") as folder, _alone(ranks):
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=WARM_UP + steps,
            per_device_train_batch_size=config.micro_batch,
            gradient_accumulation_steps=len(drawn[0]),
            learning_rate=optimizer.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=optimizer.weight_decay,
            adam_beta1=optimizer.betas[0],
            adam_beta2=optimizer.betas[1],
            adam_epsilon=optimizer.epsilon,
            max_grad_norm=optimizer.clip or 0.0,
            optim="adamw_torch_fused" if device.type == "cuda" else "adamw_torch",
            bf16=config.bf16,
            use_cpu=device.type == "cpu",
            torch_compile=compiled,
            logging_strategy="steps",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=config.seed,
            ddp_find_unused_parameters=False,
        )
        inputs = [[_inputs(batch, device) for batch in step] for step in drawn]
        rows = [one for number in range(WARM_UP + steps) for one in inputs[number % len(inputs)]]

        class InMemory(Trainer):
            def get_train_dataloader(self) -> DataLoader:
                return DataLoader(rows, batch_size=None)  # type: ignore[arg-type]

        trainer = InMemory(model=model, args=settings, train_dataset=rows, callbacks=[Stopwatch()])
        trainer.remove_callback(PrinterCallback)
        reset_peak(device)
        trainer.train()
    timing = Timing(
        seconds=tuple(seconds[WARM_UP:]),
        tokens_per_step=sum_over_workers(ranks, sum(batch.tokens for batch in drawn[0]))[0],
        first_loss=next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry),
        peak_memory_gib=memory_gib(device),
        all_parameters=sum(size for size, _ in sizes),
        trainable_parameters=sum(size for size, trains in sizes if trains),
        attention=attention,
    )
    del trainer, model
    free(device)
    return timing


@contextmanager
def _alone(ranks: Ranks) -> Iterator[None]:
    """Remove the variables of a process group of one worker, for which the Trainer would wrap the model."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE") if ranks.world == 1 else ()
    variables = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(variables)


def _model(config: TrainConfig, device: torch.device, attention: str) -> Any:
    model = random_model(config, device, attention)
    model.config.use_cache = False
    if config.activation_checkpointing:  # transformers has no selective one
        enable_activation_checkpointing(model, use_reentrant=False)
        model.enable_input_require_grads()
    if config.method != "full":
        lora = config.lora
        target = lora.target if isinstance(lora.target, str) else list(lora.target)
        model = get_peft_model(
            model,
            LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,  # type: ignore[arg-type]
                lora_dropout=lora.dropout,
                target_modules=target,
                task_type="CAUSAL_LM",
            ),
        )
    return model


def _inputs(batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
    """The Trainer's inputs. Its model shifts labels: position t+1 has the target of our position t."""
    labels = np.full_like(batch.targets, NO_TARGET)
    labels[:, 1:] = batch.targets[:, :-1]
    arrays = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "labels": labels}
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
