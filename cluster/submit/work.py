"""The work of a config: run id, machines, and the files that must exist before the job starts.

WORK names the function that computes it for each kind of config. The function runs where `raymill submit` is called,
and reads listings and manifests but no data.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from pydantic import BaseModel

from cluster.artifact import fingerprint
from cluster.config import load
from cluster.entry import Entry
from cluster.errors import ConfigError
from cluster.extras import require_extra


class WorkOf(Protocol):
    """Computes the work of a config.

    seconds: wanted duration of the run, None for any. replace: the job runs with `--replace`.
    """

    def __call__(self, config: BaseModel, seconds: float | None = None, *, replace: bool = False) -> "Work": ...


# kind -> function that computes the work.
WORK: dict[str, WorkOf] = {
    "curate": Entry("pipelines.curate.work:work"),
    "prepare": Entry("pipelines.prepare.work:work"),
    "train": Entry("training.work:work"),
}

# kind -> function that verifies that the libraries of the config's settings are installed on this machine.
_EXTRAS: dict[str, Callable[..., None]] = {
    "prepare": Entry("pipelines.prepare.job:require_extras"),
    "train": Entry("training.job:require_extras"),
}

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
        return dataclasses.replace(
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


def work_of(
    config: str,
    override: list[str],
    name: str | None,
    within: str | None,
    replace: bool = False,
    runs_here: bool = False,
) -> Work:
    """The work of a config file.

    Args:
        override: settings to change, as `key.sub=value`. name: replaces the config's name. within: wanted duration,
            such as 8h. replace: the job runs with `--replace`. runs_here: the job runs on this machine.

    Raises:
        ConfigError: the config is wrong or holds secrets, a package that its kind needs is not installed, or one that
            its settings need where the job runs here, or `within` is no duration.
    """
    seconds = None if within is None else seconds_of(within)
    settings = load(config, override)
    if settings.kind == "train":  # type: ignore[attr-defined]
        require_extra("train", f"{config}, kind: train", "It is needed here to check the config.")
    if runs_here and settings.kind in _EXTRAS:  # type: ignore[attr-defined]
        _EXTRAS[settings.kind](settings)  # type: ignore[attr-defined]
    work = WORK[settings.kind](settings, seconds, replace=replace)  # type: ignore[attr-defined]
    return work if name is None else dataclasses.replace(work, name=name)


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
