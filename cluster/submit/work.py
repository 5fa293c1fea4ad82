"""A run as a job of a cluster: its id, its config, its machines, and the files that must exist before it starts."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from pydantic import BaseModel, SecretStr

from raymill.cluster.artifact import fingerprint
from raymill.cluster.errors import ConfigError
from raymill.cluster.formats import plural
from raymill.cluster.plugins import context_of_job
from raymill.cluster.readers.units import InputManifest
from raymill.cluster.secret_values import Loc, take_out

# A RayJob's name has at most 47 characters: this part, `-` with 8 digits of a fingerprint, and `-a99` for the attempt.
_LONGEST_NAME = 30

GIB = 1 << 30
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

# Memory of a machine for Ray itself: raylet, agents and log monitor take 0.7 GiB, the object store OBJECT_STORE.
RAY_MEMORY = 2 * GIB
# Ray's default is 30% of the memory. Our datasets have blocks of a few hundred bytes: no documents pass through Ray.
OBJECT_STORE = 512 << 20
# Disk of a machine for Ray's logs, spilled objects and unpacked packages.
RAY_DISK = 10 * GIB
# Fraction of a machine's memory that is planned for. Ray kills tasks when 95% is in use.
USABLE_MEMORY = 0.9

_HEAD_CPUS = 4
_HEAD_MEMORY = 8 * GIB
_HEAD_DISK = 20 * GIB
# Bytes of the driver for each unit: its description and the records of its stages, as JSON and as objects.
_UNIT_MEMORY = 20_000
_LARGEST_CONFIG = 100_000  # bytes; an environment variable has at most 128 KiB on Linux

# Machines, stores and texts differ from those of a measured rate, so twice the cores are planned.
_RESERVE = 2.0
# The time before the first unit, in which machines and Ray start, and kernels are loaded.
_START_S = 180.0
_CORES_OF_A_MACHINE = 16
_UNITS_OF_A_CORE = 4
_MOST_MACHINES = 64


@dataclass(frozen=True)
class Machines:
    """A group of equal machines.

    Attributes:
        name: DNS label, such as `cpu`.
        cpus, gpus: number of CPUs and of GPUs of one machine.
        memory, disk: bytes of one machine; disk is local scratch.
        largest_task: memory of the largest single task, in bytes; every machine has room for it.
        least, most: bounds of the number of machines, for an autoscaler.
        reasons: name of a field -> sentence with the origin of its value.
    """

    name: str
    cpus: int
    memory: int
    disk: int
    gpus: int = 0
    largest_task: int = 0
    least: int = 1
    most: int = 1
    reasons: Mapping[str, str] = field(default_factory=dict)

    def resized(self, cpus: int | None = None, gpus: int | None = None) -> Self:
        """The same CPUs or GPUs on machines with another number of them each; memory and disk change in proportion."""
        now, before = (gpus, self.gpus) if self.gpus else (cpus, self.cpus)
        if now is None or now == before:
            return self
        share = now / before
        tasks = max((self.memory * USABLE_MEMORY - RAY_MEMORY) * share, self.largest_task)
        what = "GPU" if self.gpus else "CPU"
        reason = f"machines of {now} {what}s each were requested; sized for {before}, then changed in proportion"
        return replace(
            self,
            cpus=max(1, math.ceil(self.cpus * share)),
            gpus=math.ceil(self.gpus * share),
            memory=whole_gib((tasks + RAY_MEMORY) / USABLE_MEMORY),
            disk=whole_gib((self.disk - RAY_DISK) * share + RAY_DISK),
            least=math.ceil(self.least / share),
            most=math.ceil(self.most / share),
            reasons={**self.reasons, "machines": reason},
        )


@dataclass(frozen=True)
class Work:
    """A config as a job.

    Attributes:
        verb: subcommand of `raymill` that runs the config.
        config: settings as plain JSON values, without secrets.
        result: fingerprint of the settings that decide the result, of the input files and of the output.
        finished: whether the output has this result already.
        head: machine of the driver.
        workers: groups of machines that compute.
        must_exist: URIs of files that the workers read (the first file of each input, model, tokenizer, lists).
        all_at_once: whether the run starts only when `least` machines of every group are there, as a training does.
        replace: whether the job may delete results made with other settings; part of neither the run id nor the config.
        variables: names of environment variables with secrets that the driver needs.
    """

    kind: str
    verb: str
    name: str
    config: Mapping[str, Any]
    result: str
    output: str
    finished: bool
    head: Machines
    workers: tuple[Machines, ...]
    must_exist: tuple[str, ...] = ()
    all_at_once: bool = False
    replace: bool = False
    variables: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """Options of the job's command, after the config."""
        return ("--replace",) if self.replace else ()

    @property
    def run_id(self) -> str:
        """NAME-FINGERPRINT, a DNS label: equal for equal configs, inputs and outputs."""
        label = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:_LONGEST_NAME].strip("-") or self.kind
        label = label if label[0].isalpha() else f"{self.kind}-{label}"[:_LONGEST_NAME].rstrip("-")
        return f"{label}-{fingerprint([self.kind, self.result, self.output])[:8]}"

    @property
    def config_fingerprint(self) -> str:
        """Fingerprint of the whole config, with the settings that do not decide the result, such as `execution`."""
        return fingerprint(self.config)


def largest(groups: Sequence[Machines]) -> Machines:
    """One group of machines that serves all of these: the largest of each number."""
    first = max(groups, key=lambda one: (one.gpus, one.memory))
    names = ("cpus", "memory", "disk", "largest_task", "least", "most")
    return replace(first, **{name: max(getattr(one, name) for one in groups) for name in names})


def head_machine(units: int) -> Machines:
    """The machine of the driver and Ray's control process, for a run of `units` units. It runs no tasks."""
    memory = whole_gib(_HEAD_MEMORY + units * _UNIT_MEMORY)
    return Machines(
        "head",
        _HEAD_CPUS,
        memory,
        _HEAD_DISK,
        reasons={
            "cpus": f"{_HEAD_CPUS}: the driver, Ray's control process, its dashboard and a core to spare; no tasks",
            "memory": f"{_HEAD_MEMORY // GIB} GiB for Ray's control process, dashboard and driver, and "
            f"{_UNIT_MEMORY // 1000} kB for each of {units:,} units",
            "disk": f"{_HEAD_DISK // GIB} GiB for Ray's logs and the driver's",
        },
    )


def whole_gib(size: float) -> int:
    """Bytes rounded up to whole GiB."""
    return math.ceil(size / GIB) * GIB


def seconds_of(duration: str, option: str = "--within") -> float:
    """The seconds of a duration such as 90m, 1.5h or 2d. option: that it was given to, for the error.

    Raises:
        ConfigError: the text is not a duration.
    """
    number, unit = duration[:-1], duration[-1:]
    try:
        seconds = float(number) * _UNITS_S[unit]
    except (ValueError, KeyError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{option} {duration}: not a duration; wanted a number with s, m, h or d, as in 90m or 8h.")
    return seconds


def job_config(config: BaseModel) -> dict[str, Any]:
    """The settings of a config that were given, as plain JSON values.

    Raises:
        ConfigError: names the settings that hold a secret, without their values; or the config is too large to travel.
    """
    text = config.model_dump_json(exclude_unset=True, context=context_of_job(config))
    found = dict(_keys_of_stores(config)) | {_name(loc): what for loc, what in take_out(json.loads(text))[1]}
    if found:
        named = ", ".join(f"{name} ({what})" for name, what in sorted(found.items()))
        raise ConfigError(
            f"{named}: everyone who may list the cluster's jobs could read it. Take it out of the config: give the "
            "machines a role (in Kubernetes IRSA or workload identity), or set storage.profile, or put the secret "
            "into the environment of the cluster's machines, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (in "
            "Kubernetes by a Secret of the pods)."
        )
    if (size := len(text.encode())) > _LARGEST_CONFIG:
        raise ConfigError(
            f"the config has {size:,} bytes; a job's config has at most {_LARGEST_CONFIG:,}. Name files by a folder or "
            "a pattern instead of one by one."
        )
    return json.loads(text)


def _name(loc: Loc) -> str:
    """The setting as text, such as `inputs[0].path`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc).lstrip(".")


def _keys_of_stores(value: Any, at: Loc = ()) -> Iterator[tuple[str, str]]:
    """(name, kind of secret) of each setting that is for a secret, and has one."""
    if isinstance(value, SecretStr):
        yield _name(at), "a key of a store"
    elif isinstance(value, BaseModel):
        for name in value.model_fields_set:
            yield from _keys_of_stores(getattr(value, name), (*at, name))
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _keys_of_stores(inner, (*at, name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _keys_of_stores(inner, (*at, number))


# ---- machines of a run over units of input ----


def machines_for(
    inputs: InputManifest, seconds: float | None, rate: float, machine: Callable[[int], Machines]
) -> Machines:
    """The machines that do the units of a run over input, each of which is one task on one core.

    Enough that the run ends within the wanted time, and no more than have a unit for each core.

    seconds: wanted duration. rate: bytes of text that a core does in a second. machine: function from a number of cores
    to a machine.
    """
    cores, why = cores_of(inputs, seconds, rate)
    cpus = min(_CORES_OF_A_MACHINE, max(2, cores))
    most = min(_MOST_MACHINES, max(1, math.ceil(cores / cpus)))
    reasons = {
        "cpus": f"{cpus}, at most {_CORES_OF_A_MACHINE} a machine; {plural(cores, 'core')} wanted: {why}",
        "least": "1: the autoscaler starts the others when units wait",
        "most": f"{most}: {why}" + (f"; at most {_MOST_MACHINES}" if cores > cpus * most else ""),
    }
    found = machine(cpus)
    return replace(found, most=most, reasons={**reasons, **found.reasons})


def cores_of(inputs: InputManifest, seconds: float | None, rate: float) -> tuple[int, str]:
    """(number of cores, the reason); see `machines_for`."""
    size, units = sum(unit.bytes for unit in inputs.units), len(inputs.units)
    text = f"{size / 1e9:,.2f} GB of text in {plural(units, 'unit')}"
    if seconds is None:
        cores = min(math.ceil(units / _UNITS_OF_A_CORE), 16 * _CORES_OF_A_MACHINE)
        return cores, f"{text}, {_UNITS_OF_A_CORE} for each core"
    wanted = _RESERVE * size / (rate * max(seconds - _START_S, _START_S))
    cores = max(1, math.ceil(wanted))
    why = f"{text} within {seconds:,.0f} s at {rate / 1e6:g} MB/s a core, twice the cores"
    return (cores, why) if cores <= units else (units, f"{why}; a core for each unit is the most that has work")
