"""python -m training.bench, alone or under torchrun: tokens a second, MFU and memory of training on this machine.

    python -m training.bench --shape 1b --sequence 4096 --compile --peer
    torchrun --nproc-per-node 8 -m training.bench --shape 8b --method lora --engine fsdp2

Needs no Ray, no data, no download. MFU is printed with its formula and the numbers put in.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from cluster.errors import ConfigError, RaymillError
from training.bench import WARM_UP
from training.bench.shapes import SHAPES, bench_config
from training.config import EngineName, TrainConfig

if TYPE_CHECKING:
    from training.fit.place import Place


def main(words: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(words)
    try:
        result = run(arguments)
    except RaymillError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if result is not None:
        from training.bench.text import result_text

        print(json.dumps(result, indent=1) if arguments.json else result_text(result), flush=True)
    return 0


def run(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The numbers, on rank 0; None on the others."""
    import torch

    from training.bench.measure import measure_ours, worker_batches
    from training.bench.result import describe
    from training.fit.place import own_group

    gpus = int(torch.cuda.is_available() and not arguments.cpu)
    with own_group(gpus) as place:
        config = make_config(arguments, place)
        batches = worker_batches(config, place, arguments.documents)
        ours = measure_ours(config, batches, place, arguments.steps)
        peer = None
        if arguments.peer:
            from training.bench.peer import measure_peer

            peer = measure_peer(config, batches, place, arguments.steps)
        return describe(config, place, batches, ours, peer, arguments.peak_tflops) if place.first else None


def make_config(arguments: argparse.Namespace, place: "Place") -> TrainConfig:
    """
    Raises:
        ConfigError: the settings do not go together.
    """
    settings = {
        "world": place.world,
        "gpus": place.device.type == "cuda",
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
    if not 1 <= arguments.documents < arguments.sequence:
        raise ConfigError(f"--documents {arguments.documents}: wanted 1 to {arguments.sequence - 1} a row.")
    try:
        config = bench_config(arguments.shape, micro_batch=arguments.micro_batch or 1, **settings)
        if arguments.micro_batch is None and place.device.type == "cuda":
            import torch

            from training.plan.choices import most_rows
            from training.plan.shape import shape_of

            device = torch.cuda.get_device_properties(place.device).total_memory
            rows = max(1, most_rows(config, shape_of(config), device, 1024, place.world))
            config = bench_config(arguments.shape, micro_batch=rows, **settings)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(f"bench: {one['msg'].removeprefix('Value error, ')}" for one in error.errors())
        ) from error
    return config


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m training.bench", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--shape", default="tiny", choices=list(SHAPES))
    add("--method", default="full", choices=["full", "lora"])
    add("--lora-rank", type=int, default=16)
    add("--sequence", type=int, default=4096, help="positions of a row")
    add("--documents", type=int, default=4, help="documents a row is packed from; attention stays inside each")
    add("--micro-batch", type=int, help="rows at once; default: the most the memory model says fit the GPU, 1 on a CPU")
    add("--accumulation", type=int, default=1, help="micro-batches of a step")
    add("--steps", type=int, default=20, help="measured, after the warm-up")
    add("--engine", default="ddp", choices=get_args(EngineName))
    add("--offload", default="none", choices=["none", "optimizer", "parameters"])
    add("--compile", action="store_true")
    add("--attention", default="auto", help="auto, eager, sdpa, varlen, flash_attention_2")
    add("--precision", default="auto", choices=["auto", "float32", "bf16"])
    add("--activation-checkpointing", action="store_true")
    add("--loss-chunk-tokens", type=int)
    add("--learning-rate", type=float, default=1e-5)
    add("--peer", action="store_true", help="the same model and rows under transformers' Trainer, afterwards")
    add("--peak-tflops", type=float, help="of one device at the precision used; default: in bf16 by its name")
    add("--cpu", action="store_true", help="even if there is a GPU")
    add("--json", action="store_true", help="print numbers for a program")
    return parser


if __name__ == "__main__":
    sys.exit(main())
