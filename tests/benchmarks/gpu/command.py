"""python -m tests.benchmarks.gpu, alone or under torchrun: tokens per second, MFU and memory of training here.

    python -m tests.benchmarks.gpu --shape 1b --sequence 4096 --parts --peer
    torchrun --nproc-per-node 8 -m tests.benchmarks.gpu --shape 8b --method lora --engine fsdp2

Needs no Ray, no data and no download. MFU is printed with its formula. --json prints one line: the result; with --peer
another one when the peer has finished, with both.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from pydantic import ValidationError

from raymill.cluster.errors import ConfigError, RaymillError
from raymill.training.config import EngineName, TrainConfig
from raymill.training.fit.process_group import own_group
from raymill.training.fit.ranks import Ranks
from raymill.training.models.cost import shape_of
from raymill.training.plan.memory import most_rows
from tests.benchmarks.gpu import WARM_UP
from tests.benchmarks.gpu.measure import PutBack, Step, Timing, freed_afterwards, measure_ours, worker_steps
from tests.benchmarks.gpu.parts import measure_parts
from tests.benchmarks.gpu.peer import measure_peer
from tests.benchmarks.gpu.result import benchmark_result, peer_text, result_text
from tests.benchmarks.gpu.workload import SHAPES, bench_config, document_lengths, mean_context
from tests.support.versions import missing


def main(words: Sequence[str] | None = None) -> int:
    """Measure training steps with the settings of the command line and print the result. Returns the exit status."""
    arguments = parser().parse_args(words)

    def show(result: dict[str, Any]) -> None:
        peer = result["peer"] or result["peer_failed"]
        text = json.dumps(result) if arguments.json else peer_text(result) if peer else result_text(result)
        print(text, flush=True)

    try:
        run(arguments, show)
    except RaymillError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def run(arguments: argparse.Namespace, show: Callable[[dict[str, Any]], None]) -> None:
    """Measure, and call `show` on rank 0 with the result; with --peer again with the peer's."""
    gpus = int(torch.cuda.is_available() and not arguments.cpu)
    with own_group(gpus) as ranks:
        config = make_config(arguments, ranks)
        put_back = PutBack(arguments.optimize_ddp, arguments.peft_input_casts)
        drawn = worker_steps(config, ranks, arguments.documents)
        try:
            ours = measure_ours(config, drawn, ranks, arguments.steps, arguments.profile, put_back)
        except torch.OutOfMemoryError as error:
            raise ConfigError(f"bench: {_out_of_memory(config, error)}. Give a smaller --micro-batch.") from error
        context = mean_context(document_lengths([batch for step in drawn for batch in step]))
        parts = measure_parts(config, drawn[0][0], context, ranks.device) if arguments.parts else []
        if ranks.first:
            show(benchmark_result(config, ranks, drawn, ours, arguments.peak_tflops, parts=parts))
        if arguments.peer:
            peer = _peer(config, drawn, ranks, arguments.steps, arguments.peer_compiled)
            if ranks.first:
                show(benchmark_result(config, ranks, drawn, ours, arguments.peak_tflops, peer=peer, parts=parts))


def _peer(config: TrainConfig, drawn: Sequence[Step], ranks: Ranks, steps: int, compiled: bool) -> Timing | str:
    """The Trainer's times, or a message that it ran out of memory."""
    with freed_afterwards(ranks.device):
        try:
            return measure_peer(config, drawn, ranks, steps, compiled)
        except torch.OutOfMemoryError as error:
            return _out_of_memory(config, error)


def _out_of_memory(config: TrainConfig, error: Exception) -> str:
    said = (str(error).strip() or "no message").splitlines()[0][:200]
    return f"out of memory with {config.micro_batch} rows of {config.sequence_length} tokens at once ({said})"


def make_config(arguments: argparse.Namespace, ranks: Ranks) -> TrainConfig:
    """The config of the arguments. Without --micro-batch it is the largest that the memory model fits to the GPU.

    Raises:
        ConfigError: the settings contradict each other.
    """
    settings = {
        "world": ranks.world,
        "gpus": ranks.device.type == "cuda",
        "sequence_length": arguments.sequence,
        "accumulation": arguments.accumulation,
        "method": arguments.method,
        "engine": arguments.engine,
        "offload": arguments.offload,
        "compile": arguments.compile,
        "attention": arguments.attention,
        "precision": arguments.precision,
        "activation_checkpointing": arguments.activation_checkpointing,
        "loss_chunk_tokens": arguments.loss_chunk_tokens,
        "steps": arguments.steps + WARM_UP,
        "optimizer": {"learning_rate": arguments.learning_rate},
        "lora": {"rank": arguments.lora_rank},
    }
    if arguments.peer and (arguments.engine != "ddp" or arguments.method not in ("full", "lora")):
        raise ConfigError("--peer: the Trainer stands beside engine ddp and methods full and lora only; leave it out.")
    if arguments.method == "qlora":
        _require_quantising(arguments.engine)
    if not 1 <= arguments.documents < arguments.sequence:
        raise ConfigError(f"--documents {arguments.documents}: give 1 to {arguments.sequence - 1} per row.")
    try:
        config = bench_config(arguments.shape, micro_batch=arguments.micro_batch or 1, **settings)
        if arguments.micro_batch is None and ranks.device.type == "cuda":
            device = torch.cuda.get_device_properties(ranks.device).total_memory
            rows = max(1, most_rows(config, shape_of(config), device, 1024, ranks.world))
            config = bench_config(arguments.shape, micro_batch=rows, **settings)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(f"bench: {one['msg'].removeprefix('Value error, ')}" for one in error.errors())
        ) from error
    return config


def _require_quantising(engine: str) -> None:
    """
    Raises:
        ConfigError: bitsandbytes is not installed, or the engine cannot shard 4-bit weights.
    """
    if missing(["bitsandbytes"]):
        raise ConfigError("--method qlora: bitsandbytes is not installed here. Use pip install bitsandbytes.")
    if engine != "ddp":
        raise ConfigError(f"--engine {engine}: cannot shard 4-bit weights; --method qlora needs --engine ddp.")


def parser() -> argparse.ArgumentParser:
    """The options of `python -m tests.benchmarks.gpu`."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.gpu", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--shape", default="tiny", choices=list(SHAPES))
    add("--method", default="full", choices=["full", "lora", "qlora"])
    add("--lora-rank", type=int, default=16)
    add("--sequence", type=int, default=4096, help="positions of a row")
    add("--documents", type=int, default=4, help="mean documents of a row; attention stays inside each")
    add("--micro-batch", type=int, help="rows at once; default: the most the memory model says fit the GPU, 1 on a CPU")
    add("--accumulation", type=int, default=1, help="micro-batches of a step")
    add("--steps", type=int, default=20, help="measured, after the warm-up")
    add("--engine", default="ddp", choices=get_args(EngineName))
    add("--offload", default="none", choices=["none", "optimizer", "parameters"])
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="torch.compile of the layers; default: on GPUs, for models that are tested to compile",
    )
    add("--attention", default="auto", help="auto, eager, sdpa, varlen, flash_attention_2")
    add("--precision", default="auto", choices=["auto", "float32", "bf16"])
    add("--activation-checkpointing", nargs="?", const=True, default=False, choices=["selective"])
    add("--loss-chunk-tokens", type=int)
    add("--learning-rate", type=float, default=1e-5)
    add("--optimize-ddp", action="store_true", help="leave torch's splitting of compiled graphs on, to compare")
    add("--peft-input-casts", action="store_true", help="leave peft's casts to float32 on in bf16, to compare")
    add("--parts", action="store_true", help="also time products, attention and loss alone: the ceiling of the rate")
    add("--profile", action="store_true", help="also print the ten costliest kernels of a step with their share")
    add("--peer", action="store_true", help="the same model and rows under transformers' Trainer, afterwards")
    add("--peer-compiled", action="store_true", help="compile the Trainer's model, as one graph: minutes")
    add("--peak-tflops", type=float, help="peak of one device at the precision used; default: in bf16, by its name")
    add("--cpu", action="store_true", help="even if there is a GPU")
    add("--json", action="store_true", help="print numbers for a program, a line each time")
    return parser
