"""The verb `raymill plan`: what a config takes before it runs, for every kind."""

import inspect
import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from cluster.config import load
from cluster.entry import require_extra
from cluster.errors import ConfigError
from cluster.frame.kind import Kind
from cluster.frame.kinds import kind_of, kinds
from cluster.plan.plan import CORES, load_prices, plan_of, plan_text
from cluster.plan.plan import subject as subject_of_files


def plan(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="settings of any kind, YAML or JSON")],
    override: Annotated[
        list[str] | None, typer.Option("-o", help="change one setting: key.sub=value; may be repeated")
    ] = None,
    documents: Annotated[
        float | None,
        typer.Option(min=1, help="curate, prepare: plan for this number of documents of the same kind, as in 1e9"),
    ] = None,
    cores: Annotated[
        list[int] | None,
        typer.Option(min=1, help="plan for this number of cores; of train, to pack; may be repeated; default: several"),
    ] = None,
    duplicates: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="curate: share of the documents that pass the rules and are duplicates"),
    ] = None,
    prices: Annotated[str | None, typer.Option(help="YAML file of prices of cores, memory and requests")] = None,
    gpu: Annotated[str | None, typer.Option(help="train: by name, A100, H100, H200, L40S, ...")] = None,
    gpu_memory_gib: Annotated[float | None, typer.Option(min=0.1, help="train: of one GPU; default: of --gpu")] = None,
    peak_tflops: Annotated[
        float | None,
        typer.Option(min=0.001, help="train: dense, of one GPU at the precision used; default: of --gpu in bf16"),
    ] = None,
    mfu: Annotated[
        float | None, typer.Option(min=0.001, max=1, help="train: share of the peak that it reaches; default: 0.4")
    ] = None,
    price_per_gpu_hour: Annotated[
        float | None, typer.Option(min=0, help="train: for the cost, in any currency")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="print numbers for a program")] = False,
) -> None:
    """What a config takes, before it runs: time, memory, cost. Writes nothing.

    Every kind: core-hours, memory, scratch, requests and money by stage, from a sample of the input that is run here;
    of curate also the share of duplicates, of prepare what becomes of a sample of the records.
    train: also steps, tokens, epochs, memory by part and engine, the smallest change that fits, time, cost, warnings;
    the model is counted without its weights, and counts are exact once the corpus is packed.
    """
    options: dict[str, Any] = {
        "documents": documents,
        "cores": cores or None,
        "duplicates": duplicates,
        "prices": prices,
        "gpu": gpu,
        "gpu_memory_gib": gpu_memory_gib,
        "peak_tflops": peak_tflops,
        "mfu": mfu,
        "price_per_gpu_hour": price_per_gpu_hour,
    }
    settings = load(config, override or [])
    declared = kind_of(settings.kind)  # type: ignore[attr-defined]
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - _taken_by(declared):
        others = " and ".join(kind.name for kind in kinds() if name in _taken_by(kind))
        raise ConfigError(
            f"--{name.replace('_', '-')}: an option for configs of kind {others}; {config} is of kind {declared.name}. "
            "Leave it out."
        )
    if declared.extra:
        require_extra(declared.extra, f"raymill plan {config}")
    if declared.print_plan is not None:
        declared.print_plan(settings, as_json=json_, **given)
    else:
        print_plan(settings, as_json=json_, **given)


def _taken_by(kind: Kind) -> set[str]:
    """The options of the verb that the plan of a kind takes."""
    own = kind.print_plan or kind.plan
    return {"cores", "prices", *inspect.signature(own.load() if own else subject_of_files).parameters}


def print_plan(
    settings: Any, *, cores: Sequence[int] = CORES, prices: str | None = None, as_json: bool = False, **options: Any
) -> None:
    """Print the plan of a config. options: of its kind.

    Raises:
        UserError: a first check of a run fails, or no row of the sample can be read.
    """
    priced = load_prices(prices)
    subject = kind_of(settings.kind).plan or subject_of_files
    found = plan_of(subject(settings, **options), cores, priced)
    print(json.dumps(found, indent=1) if as_json else plan_text(found))
