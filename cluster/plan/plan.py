"""The verb `raymill plan`: what a config takes before it runs, for every kind.

What a kind of run gives to its plan, its costs on several numbers of cores, and the plan as text.
"""

import inspect
import json
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raymill.cluster.answer import Answer
from raymill.cluster.artifact import Artifact
from raymill.cluster.cost import REQUEST_CORE_S, REQUEST_S, Cost
from raymill.cluster.entry import require_extra
from raymill.cluster.errors import ConfigError
from raymill.cluster.formats import amount_of_bytes, duration, plural, short
from raymill.cluster.frame.calls import AnyConfig, Changes, config_of, shown_config
from raymill.cluster.frame.files import FilesJob
from raymill.cluster.frame.kind import Kind
from raymill.cluster.frame.kinds import kind_of, kinds
from raymill.cluster.plan.sample import Sample, a_unit_for_each_file, draw_sample, planned_input
from raymill.cluster.plan.trial import Trial, TryOut, sampled
from raymill.cluster.plan.whole import PlannedInput, Whole
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input
from raymill.cluster.store.store import Store

# Seconds from the first call to the first unit, on machines that are running. Source: tests/benchmarks/README.md, 500
# MB on 2 cores.
START_S = 15.0
CORES = (2, 16, 64, 256)
MOST_CORES = 16  # of a machine
_GIB = 1 << 30

_NOT_SHOWN = ("rows", "counters")
ASSUMED = (
    "The input is like the sample: speed, size, shares and languages.",
    "Cores are as fast as those of this machine; grouping is as fast as in tests/benchmarks/README.md.",
    "Units of a stage take equally long, and nothing fails.",
    f"A request to an object store takes {1000 * REQUEST_S:g} ms, of them {1000 * REQUEST_CORE_S:g} ms of a core; the "
    "network is not the bottleneck.",
    f"The machines are running; the start of Ray takes {START_S:g} s. The report at the end (up to 2 minutes for "
    "20,000 units) is not included.",
)

_WIDTH = 120
_NAME_WIDTH = 22


class Prices(BaseModel):
    """Prices. The defaults are an example: AWS, US East (N. Virginia), on demand."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(
        "an example, not an offer: AWS Fargate and S3 Standard, US East, on demand, USD, as published in March 2026 "
        "(aws.amazon.com/fargate/pricing, aws.amazon.com/s3/pricing)",
        description="Name of the prices in the plan, with their date, currency and source",
    )
    core_hour: float = Field(0.04048, ge=0, description="Price of one core for an hour")
    gib_hour: float = Field(0.004445, ge=0, description="Price of one GiB of memory for an hour")
    thousand_puts: float = Field(
        0.005, ge=0, description="Price of 1,000 requests to the object store that write or list"
    )
    thousand_gets: float = Field(0.0004, ge=0, description="Price of 1,000 requests to the object store that read")
    egress_gb: float = Field(
        0.0, ge=0, description="Price of 10^9 bytes read from the object store; usually 0 within a region"
    )


def load_prices(path: str | None) -> Prices:
    """The prices in a YAML file; without one, the example. Settings that the file leaves out are 0.

    Raises:
        ConfigError: the file is not a mapping of these settings.
    """
    if path is None:
        return Prices()  # type: ignore[call-arg]
    zero: dict[str, object] = dict.fromkeys(Prices.model_fields, 0.0) | {"name": path}
    try:
        given = yaml.safe_load(Store().read_bytes(path).decode())
        return Prices.model_validate(zero | given)
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ConfigError(f"{path}: not a YAML mapping of prices, such as `core_hour: 0.04` ({error}).") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"{path}, {key}: {first['msg']}. The settings are {', '.join(Prices.model_fields)}."
        ) from error


@dataclass(frozen=True)
class Subject:
    """A run to plan.

    Attributes:
        config: its settings. root: the output.
        noun: what a row is.
        exact: whether the number of rows is counted, or given.
        sample: what the sample is, as JSON values: documents, text_bytes, pieces, unreadable and others of the kind.
        try_out: runs all stages on a part of the sample.
        run_all: passes all stages of the run to `Whole.run`, after it has set what the sample does not show.
        outcome: what became of the sample, in a few words, and the same as JSON values; among them `unusable`, the
            fraction of its rows that count for `execution.max_bad_documents`, if these are not the unreadable ones.
        machine: function from the cores of a machine to the bytes of its memory.
        assumed: sentences beside those of every plan; complete when the stages are planned.
    """

    config: Any
    root: str
    noun: str
    input: PlannedInput
    exact: bool
    sample: Mapping[str, Any]
    try_out: TryOut
    run_all: Callable[[Whole], object]
    outcome: Callable[[Mapping[str, Artifact]], tuple[str, Mapping[str, Any]]]
    machine: Callable[[int], int]
    assumed: Sequence[str] = ()


def plan_of(subject: Subject, cores: Sequence[int], prices: Prices) -> dict[str, Any]:
    """The plan as JSON values. Runs the sample in this process.

    Raises:
        UserError: as the run.
    """
    with sampled(subject.config.store, subject.try_out) as found:
        whole = Whole(subject.root, subject.input, found)
        subject.run_all(whole)
        outcome, numbers = subject.outcome(found.artifacts)
    input = subject.input
    bad = numbers.get("unusable", subject.sample["unreadable"])
    allowed = getattr(subject.config.execution, "max_bad_documents", 1.0)  # a kind of a package may have no such bound
    too_many = (
        f"{bad:.1%} of the {subject.noun}s of the sample cannot be used, and execution.max_bad_documents allows "
        f"{allowed:.1%}: if the others are like them, the run stops after reading."
    )
    return {
        "kind": subject.config.kind,
        "name": subject.config.name,
        "noun": subject.noun,
        "sample": {**subject.sample, **numbers, "outcome": outcome},
        "input": {
            "documents": input.rows,
            "exact": subject.exact,
            "text_bytes": round(input.text_bytes),
            "stored_bytes": round(input.stored_bytes),
            "files": input.files,
            "units": len(input.weights),
        },
        **whole.assumed,
        **costs_of(whole.costs, subject.machine, cores, prices),
        "assumed": [*ASSUMED, *subject.assumed],
        "warnings": [too_many] if bad > allowed else [],
    }


def costs_of(
    stages: Sequence[Cost], machine: Callable[[int], int], cores: Sequence[int], prices: Prices
) -> dict[str, Any]:
    """What stages take, and all of them on each number of cores, as JSON values. machine: as of a Subject.

    All cores run from the first stage to the last.
    """
    requests, on_cores = store_money(stages, prices), []
    for count in cores:
        seconds = START_S + sum(stage.seconds(count) for stage in stages)
        of_machine = min(count, MOST_CORES)
        memory = machine(of_machine) / _GIB
        hourly = count * prices.core_hour + math.ceil(count / of_machine) * memory * prices.gib_hour
        money = seconds / 3600 * hourly + requests
        on_cores.append({"cores": count, "seconds": seconds, "machine_gib": memory, "money": money})
    return {
        "stages": [{name: value for name, value in asdict(one).items() if name not in _NOT_SHOWN} for one in stages],
        "core_s": sum(stage.core_s for stage in stages),
        "shuffle_bytes": sum(stage.written for stage in stages if "group." in stage.name),
        "store_money": requests,
        "on_cores": on_cores,
        "prices": prices.model_dump(),
    }


def store_money(stages: Sequence[Cost], prices: Prices) -> float:
    """The cost of requests and of bytes that leave the store."""
    gets, puts = sum(stage.gets for stage in stages), sum(stage.puts for stage in stages)
    read = sum(stage.read for stage in stages if stage.gets)
    return gets / 1000 * prices.thousand_gets + puts / 1000 * prices.thousand_puts + read / 1e9 * prices.egress_gb


def plan_text(plan: dict[str, Any]) -> str:
    """The plan of a run of stages."""
    size, sample = plan["input"], plan["sample"]
    about = "" if size["exact"] else "about "
    unreadable = f", {sample['unreadable']:.1%} cannot be read" if sample["unreadable"] else ""
    lines = [
        f"plan of {plan['name']}",
        f"input    {about}{plural(size['documents'], plan['noun'])}, {amount_of_bytes(size['text_bytes'])} of text, "
        f"{amount_of_bytes(size['stored_bytes'])} in {plural(size['files'], 'file')}, {plural(size['units'], 'unit')}",
        f"sample   {plural(sample['documents'], plan['noun'])}, {amount_of_bytes(sample['text_bytes'])}, from "
        f"{plural(sample['pieces'], 'unit')}: {sample['outcome']}{unreadable}",
        *(f"warning  {one}" for one in plan["warnings"]),
        "",
        *costs_lines(plan),
        *assumed_lines(plan["assumed"]),
    ]
    return wrapped(lines)


def costs_lines(plan: dict[str, Any]) -> list[str]:
    """What stages take, then time and money, then prices. plan: as from `costs_of`."""
    stages, prices = plan["stages"], plan["prices"]
    sums = {name: sum(stage[name] for stage in stages) for name in ("core_s", "read", "written", "gets", "puts")}
    most = {name: max(stage[name] for stage in stages) for name in ("memory", "scratch")}
    lines = [
        _row("stage", "units", "core time", "read", "written", "GETs", "PUTs", "memory", "scratch"),
        *(_stage(one["name"], f"{one['units']:,}", one) for one in stages),
        _stage("all", "", sums | most),
        "",
        "Memory and scratch are of one task; a dash: the stage states none. "
        f"Shuffled by grouping: {amount_of_bytes(plan['shuffle_bytes'])}.",
        "",
        f"{'cores':>8}  {'time':<14}{'memory of a machine':>20}  cost",
    ]
    for one in plan["on_cores"]:
        time, memory = duration(one["seconds"]), f"{one['machine_gib']:,.0f} GiB"
        lines.append(f"{one['cores']:>8,}  {time:<14}{memory:>20}  {money(one['money'])}")
    return [
        *lines,
        "",
        f"Cost: the machines from start to end, at most {MOST_CORES} cores each; of it {money(plan['store_money'])} "
        "for requests and egress. "
        f"Prices: {prices['name']}: {prices['core_hour']:g} a core-hour, {prices['gib_hour']:g} a GiB-hour, "
        f"{prices['thousand_puts']:g} and {prices['thousand_gets']:g} for 1,000 PUTs and GETs, "
        f"{prices['egress_gb']:g} a GB of egress (--prices).",
    ]


def assumed_lines(sentences: Sequence[str]) -> list[str]:
    """The assumptions of a plan."""
    return ["Assumed:", *(f"- {sentence}" for sentence in sentences)]


def wrapped(lines: Sequence[str]) -> str:
    """The lines as text: sentences of at most 120 characters, rows of a table as they are."""
    found = []
    for line in lines:
        if "  " in line or len(line) <= _WIDTH:
            found.append(line)
        else:
            indent = "  " if line.startswith("- ") else ""
            found += textwrap.wrap(line, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(found)


def _stage(name: str, units: str, one: dict[str, Any]) -> str:
    sizes = [amount_of_bytes(one[key]) for key in ("read", "written")]
    counts = [short(math.ceil(one[key])) if one[key] else "-" for key in ("gets", "puts")]
    memory = f"{one['memory'] / (1 << 30):,.1f} GiB" if one["memory"] else "-"
    return _row(name, units, core_time(one["core_s"]), *sizes, *counts, memory, amount_of_bytes(one["scratch"]))


def _row(name: str, *cells: str) -> str:
    return f"{name:<{_NAME_WIDTH}}" + "".join(f"{cell:>11}" for cell in cells)


def core_time(seconds: float) -> str:
    """Processor time in seconds, minutes or hours."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.{0 if seconds >= 100 * unit else 1}f} {name}"
    return f"{seconds:.1f} s"


def money(amount: float) -> str:
    """An amount of money."""
    return f"{amount:,.2f}" if amount >= 0.01 or not amount else "under 0.01"


def subject_of_files(config: Any, documents: float | None = None) -> Subject:
    """The run of a config whose kind has no plan of its own. Lists the inputs, and reads a sample of some 16 MB.

    documents: number of documents to plan for; default: those of the input.

    Raises:
        UserError: an input is missing, or no document of the sample can be read.
    """
    job: FilesJob[Any] = kind_of(config.kind).job(config)
    sample = draw_sample(job.frozen, job.document_limits)
    inputs, input, is_exact = planned_input(job.frozen, sample, config.execution.unit_bytes, documents)

    def try_out(trial: Trial, every: int) -> Mapping[str, Artifact]:
        sources = sampled_inputs(config.inputs, sample, trial, every)
        local = type(job)(config.model_copy(update={"inputs": sources, "output": trial.root}))
        local.frozen = a_unit_for_each_file(freeze(trial.store, sources, 1 << 40))
        return local.stages(trial.run)

    def run_all(whole: Whole) -> None:
        planned = type(job)(config)
        planned.frozen = inputs
        planned.stages(whole.run)

    def outcome(found: Mapping[str, Artifact]) -> tuple[str, Mapping[str, float]]:
        return "read", {}

    def machine(cores: int) -> int:
        return job.machines(None).memory

    return Subject(config, job.root, "document", input, is_exact, sample.numbers, try_out, run_all, outcome, machine)


def sampled_inputs(inputs: Sequence[Input], sample: Sample, trial: Trial, every: int) -> tuple[Input, ...]:
    """Inputs that have every `every`-th row of a sample in place of their files."""
    columns = {entry.source: ["id", "text", *entry.columns] for entry in inputs}
    folders = sample.write(trial, every, lambda source, table: table.select(list(dict.fromkeys(columns[source]))))
    return tuple(
        one.model_copy(
            update={"path": folders[one.source], "format": None, "text": "text", "id": one.id and "id",
                    "exclude": (), "storage": None}
        )
        for one in inputs if one.source in folders
    )  # fmt: skip


# ---- the verb ----


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
    repeated_pages: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="curate: share of the pages of archives that `repeated_pages` removes"),
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
    found = plan_config(
        config,
        override,
        documents=documents,
        cores=cores,
        duplicates=duplicates,
        repeated_pages=repeated_pages,
        prices=prices,
        gpu=gpu,
        gpu_memory_gib=gpu_memory_gib,
        peak_tflops=peak_tflops,
        mfu=mfu,
        price_per_gpu_hour=price_per_gpu_hour,
    )
    print(json.dumps(found, indent=1) if json_ else found)


def plan_config(
    config: AnyConfig = None,
    override: Changes = None,
    *,
    documents: float | None = None,
    cores: Sequence[int] | None = None,
    duplicates: float | None = None,
    repeated_pages: float | None = None,
    prices: str | None = None,
    gpu: str | None = None,
    gpu_memory_gib: float | None = None,
    peak_tflops: float | None = None,
    mfu: float | None = None,
    price_per_gpu_hour: float | None = None,
    **settings: Any,
) -> Answer:
    """What a config takes, before it runs: time, memory, cost. Writes nothing.

    Args:
        config: a file, a dict, or a config object, of any kind.
        override: changes of single settings, as in {"rules.gopher_quality.min_words": 30}.
        documents: curate, prepare: plan for this number of documents of the same kind.
        cores: numbers of cores to plan for; of train, to pack.
        duplicates: curate: share of the documents that pass the rules and are duplicates.
        repeated_pages: curate: share of the pages of web archives that the rule `repeated_pages` removes.
        prices: YAML file of prices of cores, memory and requests.
        gpu: train: name of the GPU, such as H100.
        gpu_memory_gib: train: memory of one GPU; None: as `gpu` has it.
        peak_tflops: train: dense, of one GPU at the precision used; None: of `gpu` in bf16.
        mfu: train: share of the peak that is reached; None: 0.4.
        price_per_gpu_hour: train: for the cost, in any currency.
        settings: settings that replace those of the config.

    Raises:
        UserError: a first check of a run fails, or no row of the sample can be read.
    """
    options: dict[str, Any] = {
        "documents": documents,
        "cores": cores or None,
        "duplicates": duplicates,
        "repeated_pages": repeated_pages,
        "prices": prices,
        "gpu": gpu,
        "gpu_memory_gib": gpu_memory_gib,
        "peak_tflops": peak_tflops,
        "mfu": mfu,
        "price_per_gpu_hour": price_per_gpu_hour,
    }
    whole = config_of(config, settings, override)
    declared = kind_of(whole.kind)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - taken_by(declared):
        others = " and ".join(kind.name for kind in kinds() if name in taken_by(kind))
        raise ConfigError(
            f"--{name.replace('_', '-')}: an option for configs of kind {others}; {shown_config(config)} is of kind "
            f"{declared.name}. Leave it out."
        )
    if declared.extra:
        require_extra(declared.extra, f"raymill plan {shown_config(config)}")
    return (declared.own_plan or plan_settings)(whole, **given)


def taken_by(kind: Kind) -> set[str]:
    """The options of the verb that the plan of a kind takes."""
    own = kind.own_plan or kind.plan
    return {"cores", "prices", *inspect.signature(own.load() if own else subject_of_files).parameters}


def plan_settings(settings: Any, *, cores: Sequence[int] = CORES, prices: str | None = None, **options: Any) -> Answer:
    """The plan of a config of a run over files. options: of its kind.

    Raises:
        UserError: a first check of a run fails, or no row of the sample can be read.
    """
    priced = load_prices(prices)
    subject = kind_of(settings.kind).plan or subject_of_files
    found = plan_of(subject(settings, **options), cores, priced)
    return Answer(found, plan_text(found))
