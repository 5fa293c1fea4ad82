"""The verb `raymill plan`: what a training would take, before anything is allocated."""

import json
from typing import Annotated, Any

import typer

from cluster.errors import ConfigError
from training.config import TrainConfig
from training.options import ConfigFile, Overrides, load_train
from training.output_folder import refuse_output_among_inputs
from training.plan.gpus import gpu_named, peak_flops


def plan(
    config: ConfigFile,
    override: Overrides = None,
    gpu: Annotated[str | None, typer.Option(help="by name: A100, H100, H200, L40S, ...")] = None,
    gpu_memory_gib: Annotated[float | None, typer.Option(min=0.1, help="of one GPU; default: of --gpu")] = None,
    peak_tflops: Annotated[
        float | None, typer.Option(min=0.001, help="dense, of one GPU at the precision used; default: of --gpu in bf16")
    ] = None,
    mfu: Annotated[float, typer.Option(min=0.001, max=1, help="share of the peak that training reaches")] = 0.4,
    price_per_gpu_hour: Annotated[float | None, typer.Option(min=0, help="for the cost; in any currency")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print numbers for a program")] = False,
) -> None:
    """Steps, tokens, epochs, memory by part and engine, the smallest change that fits, time, cost, warnings.

    No GPU is allocated or asked: the model is counted without its weights. Exact once the corpus is packed.
    """
    print_plan(
        load_train(config, override),
        gpu=gpu,
        gpu_memory_gib=gpu_memory_gib,
        peak_tflops=peak_tflops,
        mfu=mfu,
        price=price_per_gpu_hour,
        as_json=json_,
    )


def print_plan(
    config: TrainConfig,
    *,
    gpu: str | None = None,
    gpu_memory_gib: float | None = None,
    peak_tflops: float | None = None,
    mfu: float = 0.4,
    price: float | None = None,
    as_json: bool = False,
) -> None:
    """
    Raises:
        UserError: a model, a corpus, a column or a GPU that is not known.
    """
    from training.plan.planning import plan_run
    from training.plan.text import plan_text

    refuse_output_among_inputs(config)
    found: dict[str, Any] = plan_run(config, machine(config, gpu, gpu_memory_gib, peak_tflops, mfu, price))
    print(json.dumps(found, indent=1) if as_json else plan_text(found))


def machine(
    config: TrainConfig,
    gpu: str | None,
    gpu_memory_gib: float | None,
    peak_tflops: float | None,
    mfu: float,
    price: float | None,
) -> Any:
    """What is said of the GPU, with what its name tells; the config's `device_memory_gib` where nothing else does.

    Raises:
        ConfigError: the price of a GPU whose speed is not known.
    """
    from training.plan.planning import Machine

    known = gpu_named(gpu) if gpu else None
    memory_gib = gpu_memory_gib or (known.memory_gib if known else config.device_memory_gib)
    if price is not None and not (known or peak_tflops):
        raise ConfigError(
            "--price-per-gpu-hour: the time is not known without a GPU's speed; give --gpu or --peak-tflops."
        )
    return Machine(
        name=known.name if known else None,
        memory_gib=memory_gib,
        peak_flops=peak_tflops * 1e12 if peak_tflops else None,
        bf16_peak_flops=peak_flops(known.device_name) if known else None,
        mfu=mfu,
        price=price,
    )
