"""python -m tests.benchmarks.gpu.correct: checks that training computes correctly on this device.

A tiny Llama takes twenty steps with every attention, precision and method; its losses must equal those of float32 on
the CPU. When a document changes, the losses of the others must not. Fused, chunked and plain loss must agree. A
training that is interrupted and continued must come to the same losses. A wider Llama with long rows, compiled or not,
recomputing or not, with ddp and fsdp2, must have the gradients and losses of float32 (--paths). Prints a JSON line for
each check.

--deterministic needs a process of its own: cuBLAS reads its setting at the first product. --paths compiles, which takes
a minute.
"""

import argparse
import functools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch._dynamo
import torch.nn.functional as F
from torch.distributed.tensor import DTensor

from raymill.training.config import TrainConfig
from raymill.training.data.batch import Batch, collate
from raymill.training.data.packed import NO_TARGET, PACKED
from raymill.training.engines import make_engine
from raymill.training.fit.memory import memory_gib
from raymill.training.fit.process_group import deterministic_algorithms, own_group
from raymill.training.models.attention import VARLEN, choose_attention
from raymill.training.models.base import named_config
from raymill.training.models.build import build_objective
from tests.benchmarks.gpu.measure import free, freed_afterwards, reset_peak
from tests.benchmarks.gpu.workload import bench_config, random_batch

STEPS = 20
LENGTH = 64
# Largest relative difference of a loss from float32 on the CPU.
TOLERANCE = {"float32": 1e-4, "bf16": 0.02}

# Of the wider Llama: positions of a row, steps, and the largest distance of all gradients from float32's, relative to
# their norm.
LONG, FEW, GRADIENTS = 2048, 5, 0.03


@dataclass(frozen=True)
class CorrectnessCheck:
    """A check. found, wanted: text. right: null if it cannot be checked here."""

    name: str
    found: str
    wanted: str
    right: bool | None


def main(words: Sequence[str] | None = None) -> int:
    """Print each check as a JSON line. Returns 1 if a check failed."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.gpu.correct", description=__doc__.partition("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="even if there is a GPU")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--deterministic", action="store_true", help="only the check with deterministic algorithms")
    parser.add_argument("--paths", action="store_true", help="only the checks of the wider Llama")
    arguments = parser.parse_args(words)
    wrong = 0
    with (
        deterministic_algorithms(arguments.deterministic),
        own_group(int(torch.cuda.is_available() and not arguments.cpu)) as ranks,
    ):
        if arguments.deterministic:
            found: Iterable[CorrectnessCheck] = [resumes(True, ranks.device, arguments.steps)]
        else:
            found = paths_agree(ranks.device) if arguments.paths else checks(ranks.device, arguments.steps)
        for check in found:
            print(json.dumps(asdict(check)), flush=True)
            wrong += check.right is False
    return 1 if wrong else 0


def checks(device: torch.device, steps: int = STEPS) -> Iterator[CorrectnessCheck]:
    """Run the checks on a device, one after the other. steps: of each training."""
    for method in ("full", "lora"):
        wanted = losses(config_of(method, "float32", "eager", torch.device("cpu")), torch.device("cpu"), steps)
        for precision in TOLERANCE:
            for attention in ("varlen", "sdpa", "eager"):
                with freed_afterwards(device):
                    yield _as_on_the_cpu(method, precision, attention, device, steps, wanted)
    for precision in TOLERANCE:
        with freed_afterwards(device):
            yield documents_apart(precision, device)
            yield losses_agree(precision, device)
    with freed_afterwards(device):
        yield resumes(False, device, steps)


RECOMPUTED = {False: [], "selective": ["recomputing what is cheap"], True: ["recomputing"]}
# (method, head size, engine, compiled, recomputing) of the wider Llama.
PATHS = (
    ("full", 64, "ddp", False, False),
    ("full", 64, "ddp", True, False),
    ("full", 64, "ddp", True, True),
    ("lora", 128, "ddp", True, False),
    ("lora", 128, "ddp", True, True),
    ("full", 128, "fsdp2", True, False),
    ("full", 128, "fsdp2", True, "selective"),
    ("full", 128, "fsdp2", True, True),
)


def paths_agree(device: torch.device, length: int = LONG) -> Iterator[CorrectnessCheck]:
    """Check PATHS in bf16 against float32 with sdpa. length: of a row.

    Recomputing must take less memory than the path before it, which is the same without.
    """
    wanted: dict[tuple[str, int], PathResult] = {}
    kept_gib = 0.0
    for method, head_size, engine, compiled, recomputing in PATHS:
        if (method, head_size) not in wanted:
            plain: dict[str, Any] = {"precision": "float32", "attention": "sdpa", "compile": False}
            wanted[method, head_size] = _path(method, head_size, device, length, **plain)
        found = _path(
            method, head_size, device, length, precision="bf16", engine=engine, compile=compiled,
            activation_checkpointing=recomputing,
        )  # fmt: skip
        right = wanted[method, head_size]
        apart = float((found.gradients - right.gradients).norm() / right.gradients.norm())
        worst = max(abs(one - other) / other for one, other in zip(found.losses, right.losses, strict=True))
        less = not recomputing or found.gib < kept_gib
        kept_gib = found.gib
        words = [method, f"heads of {head_size}", engine, "compiled" if compiled else "eager"]
        yield CorrectnessCheck(
            ", ".join([*words, *RECOMPUTED[recomputing]]),
            f"gradients {apart:.1e}, losses {worst:.1e}, {found.gib:.3f} GiB, {found.attention}",
            f"within {GRADIENTS} and {TOLERANCE['bf16']} of float32{', less memory' if recomputing else ''}",
            apart <= GRADIENTS and worst <= TOLERANCE["bf16"] and less,
        )


@dataclass(frozen=True)
class PathResult:
    """losses: of FEW steps. gradients: all of the first step, float32 on the CPU. gib: peak memory of the steps."""

    losses: list[float]
    gradients: torch.Tensor
    gib: float
    attention: str


def _path(method: str, head_size: int, device: torch.device, length: int, **settings: Any) -> PathResult:
    """Train the wider Llama for FEW steps of one micro-batch."""
    torch._dynamo.reset()  # a process compiles a layer eight times at most
    config = bench_config(
        "tiny", world=1, gpus=device.type == "cuda", sequence_length=length, micro_batch=2, accumulation=1,
        method=method, steps=FEW, optimizer={"learning_rate": 1e-3 if method == "lora" else 3e-4}, **settings,
    )  # fmt: skip
    wider = {"num_attention_heads": 8, "hidden_size": 8 * head_size, "intermediate_size": 24 * head_size}
    assert config.model.config
    model = config.model.model_copy(update={"config": config.model.config | wider})
    config = config.model_copy(update={"model": model})
    objective = build_objective(config, device=device)
    attention, engine = objective.attention, make_engine(config, objective, device)
    found, gradients = [], torch.empty(0)
    reset_peak(device)
    for step in range(FEW):
        batch = random_batch((step,), 2, length, 5, 320)
        loss, _ = engine.module(**objective.tensors(batch, device))
        engine.backward(loss / batch.label_tokens, last=True)
        if step == 0:
            gradients = torch.cat([_whole(one.grad).flatten() for one in objective.parameters() if one.requires_grad])
        engine.step(config.optimizer.learning_rate, config.optimizer.clip)
        found.append(float(loss.detach()) / batch.label_tokens)
    gib = memory_gib(device)
    engine.close()
    del engine, objective
    free(device)
    return PathResult(found, gradients, gib, attention)


def _whole(gradient: Any) -> torch.Tensor:
    """A gradient in float32 on the CPU; fsdp2's is a DTensor."""
    return (gradient.full_tensor() if isinstance(gradient, DTensor) else gradient).float().cpu()


def config_of(method: str, precision: str, attention: str, device: torch.device) -> TrainConfig:
    """A tiny training of STEPS steps with two micro-batches a step."""
    return bench_config(
        "tiny", world=1, gpus=device.type == "cuda", sequence_length=LENGTH, micro_batch=2, accumulation=2,
        method=method, precision=precision, attention=attention, compile=False, steps=STEPS,
        optimizer={"learning_rate": 1e-2 if method == "lora" else 1e-3},
    )  # fmt: skip


def losses(config: TrainConfig, device: torch.device, steps: int, interrupt_at: int | None = None) -> list[float]:
    """The loss of each step, with the config's engine.

    interrupt_at: after this many steps the state is saved, and another model and engine continue with it.
    """
    objective = build_objective(config, device=device)
    engine = make_engine(config, objective, device)
    found = []
    for step in range(steps):
        if step == interrupt_at:
            state = {(one.name, one.state): one.values.detach().cpu().clone() for one in engine.slices()}
            engine.close()
            objective = build_objective(config.model_copy(update={"seed": 7}), device=device)
            with torch.no_grad():  # frozen weights are not in a checkpoint
                for other, own in zip(objective.parameters(), build_objective(config).parameters(), strict=True):
                    if not other.requires_grad:
                        other.copy_(own)
            engine = make_engine(config, objective, device)
            engine.load(functools.partial(_fetch, state), step)
        batches = [random_batch((step, micro), 2, LENGTH, 3, 320) for micro in range(2)]
        labels = sum(batch.label_tokens for batch in batches)
        total = 0.0
        for micro, batch in enumerate(batches):
            loss, _ = engine.module(**objective.tensors(batch, device))
            engine.backward(loss / labels, last=micro == 1)
            total += float(loss.detach())
        engine.step(config.optimizer.learning_rate, config.optimizer.clip)
        found.append(total / labels)
    engine.close()
    return found


def _fetch(state: dict[tuple[str, str], torch.Tensor], name: str, kind: str, start: int, stop: int) -> torch.Tensor:
    return state[name, kind].view(-1)[start:stop]


def _as_on_the_cpu(
    method: str, precision: str, attention: str, device: torch.device, steps: int, wanted: list[float]
) -> CorrectnessCheck:
    name = f"{method}, {precision}, {attention}: losses of {steps} steps"
    config = config_of(method, precision, attention, device)
    bound = f"within {TOLERANCE[precision]:.2%} of float32 on the CPU"
    best = choose_attention("auto", named_config(config.store, config.model), device.type, config.bf16, False)
    if attention == "varlen" and best != VARLEN:
        return CorrectnessCheck(name, "skipped: the kernel needs a GPU and bf16", bound, None)
    found = losses(config, device, steps)
    worst = max(abs(one - other) / other for one, other in zip(found, wanted, strict=True))
    return CorrectnessCheck(name, f"{worst:.2e}, last loss {found[-1]:.4f}", bound, worst <= TOLERANCE[precision])


def documents_apart(precision: str, device: torch.device) -> CorrectnessCheck:
    """Check that the loss of a row's second document does not depend on the first."""
    config = config_of("full", precision, "auto", device)
    objective = build_objective(config, device=device).eval()
    found = []
    for first in (1, 2):
        ids = np.concatenate([np.full(30, first), np.arange(34) % 300])
        labels = np.arange(64) > 30
        row = {"ids": ids, "labels": labels, "lengths": [30, 34], "documents": ["a", "b"], "label": None}
        batch = collate([pa.Table.from_pylist([row], PACKED)], 1, 64, 0)
        with torch.no_grad():
            found.append(float(objective(**objective.tensors(batch, device))[0]))
    apart = abs(found[0] - found[1])
    name = f"{precision}, {objective.attention}: a document's loss after its neighbour changed"
    return CorrectnessCheck(name, f"differs by {apart:.1e}", "0", apart == 0.0)


def losses_agree(precision: str, device: torch.device) -> CorrectnessCheck:
    """Check fused and chunked loss against torch's cross entropy of all logits."""
    config = config_of("full", precision, "auto", device)
    objective: Any = build_objective(config, device=device).eval()
    batch: Batch = random_batch((5,), 2, LENGTH, 3, 320)
    tensors = objective.tensors(batch, device)
    found = {}
    with torch.no_grad():
        for fused in (True, False):
            objective.fused = fused
            found["fused" if fused else "chunked"] = float(objective(**tensors)[0])
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            hidden = objective.hidden(tensors["input_ids"], tensors["position_ids"], tensors["starts"]).flatten(0, 1)
            logits = objective.logits(hidden).float()
        plain = float(F.cross_entropy(logits, tensors["targets"].flatten(), ignore_index=NO_TARGET, reduction="sum"))
    worst = max(abs(one - plain) / plain for one in found.values())
    values = ", ".join(f"{name} {one:.4f}" for name, one in found.items())
    bound = 1e-5 if precision == "float32" else 1e-3
    return CorrectnessCheck(
        f"{precision}: {values}, plain {plain:.4f}", f"{worst:.1e}", f"within {bound:.0e}", worst <= bound
    )


def resumes(deterministic: bool, device: torch.device, steps: int) -> CorrectnessCheck:
    """Check that a training which is interrupted halfway comes to the same losses.

    deterministic: whether the caller is in `deterministic_algorithms`.
    """
    config = config_of("full", "auto", "auto", device).model_copy(update={"deterministic": deterministic})
    whole = losses(config, device, steps)
    resumed = losses(config, device, steps, interrupt_at=steps // 2)
    worst = max(abs(one - other) / one for one, other in zip(whole, resumed, strict=True))
    bound = 0.0 if deterministic or device.type == "cpu" else 1e-3
    name = f"interrupted and continued{', deterministic algorithms' if deterministic else ''}"
    return CorrectnessCheck(name, f"losses differ by {worst:.1e}", f"at most {bound:g}", worst <= bound)


if __name__ == "__main__":
    sys.exit(main())
