"""What must hold before a job starts on a Ray cluster: versions, machines, the store and the files that the run reads.

The client compares Ray's version. The rest is checked on the cluster: `cluster_check.py` runs there as a short job and
prints a report, which `problems` compares with what the run needs.
"""

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter, ValidationError

from raymill import cluster
from raymill.cluster.errors import RaymillError
from raymill.cluster.formats import plural
from raymill.cluster.output_folder import check_output, fixed_folder
from raymill.cluster.store import paths
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.store import Store
from raymill.cluster.submit.work import GIB, Work
from raymill.cluster.wording import of_the_command

MARK = "raymill check: "
# Short time-outs: a store that does not answer is one of the problems to report.
_QUICK = {"timeout_s": 15, "retries": 1, "retry_deadline_s": 30}


@dataclass(frozen=True)
class CheckRequest:
    """What the check looks at.

    files: (URI, storage settings without keys) of each file that must exist. needed: see `needed`. variables: names of
    environment variables that the driver needs.
    """

    output: str
    storage: Mapping[str, Any]
    files: Sequence[tuple[str, Mapping[str, Any]]]
    needed: Mapping[str, float] = field(default_factory=dict)
    variables: Sequence[str] = ()

    VARIABLE: ClassVar = "RAYMILL_CHECK"

    @classmethod
    def of(cls, work: Work) -> Self:
        storage = work.config.get("storage") or {}
        files = tuple((uri, storage_of(work.config, uri)) for uri in work.must_exist)
        return cls(work.output, storage, files, needed(work), work.variables)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class CheckReport:
    """What the check saw.

    on_path: whether the command `raymill` is found. now: resources of all machines, such as {"CPU": 8}. largest_memory:
    bytes of the largest machine. can_add: whether the autoscaler can add what is missing; False without an autoscaler;
    None if nothing is missing, or the autoscaler does not report it. problems: text -> addresses of the machines with
    this problem. machines: number of those that were checked. address: HOST:PORT for further machines.
    """

    python: str
    ray: str
    raymill: str
    on_path: bool
    machines: int
    now: Mapping[str, float]
    largest_memory: float
    can_add: bool | None
    problems: Mapping[str, Sequence[str]]
    address: str = "HEAD:PORT"

    def to_line(self) -> str:
        return MARK + json.dumps(asdict(self))


_REPORT = TypeAdapter(CheckReport)


def read_report(text: str) -> CheckReport | None:
    """The report in the log of a check; None if it has none of this form."""
    lines = [line.removeprefix(MARK) for line in text.splitlines() if line.startswith(MARK)]
    with suppress(ValidationError):
        return _REPORT.validate_json(lines[-1]) if lines else None
    return None


def mismatched_ray(theirs: str) -> str | None:
    """The problem with a cluster's version of Ray; None if this machine has the same."""
    ours = importlib.metadata.version("ray")
    if theirs == ours:
        return None
    return (
        f"the cluster runs Ray {theirs}, this machine has {ours}. Install ray=={theirs} here, or start the cluster "
        f"from an image with {ours}."
    )


def needed(work: Work) -> dict[str, float]:
    """The least CPUs and GPUs of all machines, and bytes of memory of one machine, with which the run can end.

    `work.workers` are the machines to create for the run. A running cluster may have other ones, so only this is
    compared: GPUs, the CPUs of workers that run all at once (else one), memory for the largest task.
    """
    cpus = sum(group.cpus * group.least for group in work.workers if not group.gpus) if work.all_at_once else 1
    return {
        "GPU": sum(group.gpus * group.least for group in work.workers),
        "CPU": max(1, cpus),
        "memory": max((group.largest_task for group in work.workers), default=0),
    }


def lacking(needed: Mapping[str, float], now: Mapping[str, float], largest_memory: float) -> list[str]:
    """The names in `needed` of which the machines have too little. Without any CPU, memory is not compared."""
    found = [name for name in ("GPU", "CPU") if now.get(name, 0) < needed.get(name, 0)]
    return found + (["memory"] if now.get("CPU", 0) >= 1 and largest_memory < needed.get("memory", 0) else [])


def problems(work: Work, report: CheckReport, ships_code: bool) -> list[str]:
    """Why the job would fail on the cluster of this report, one line each with its fix."""
    found, ours = [], platform.python_version()
    if report.python.split(".")[:2] != ours.split(".")[:2]:
        found.append(
            f"the cluster runs Python {report.python}, this machine has {ours}. Use an environment with the cluster's "
            f"Python here, or start the cluster from an image with {ours}."
        )
    if problem := mismatched_ray(report.ray):
        found.append(problem)
    if not ships_code and report.raymill != cluster.__version__:
        found.append(
            f"the cluster has Raymill {report.raymill}, this machine has {cluster.__version__}; they may read a config "
            "differently. Install the same version, or ship this checkout with --ship-code."
        )
    if not ships_code and not report.on_path:
        found.append(
            "the command raymill is not on the PATH of the cluster's processes. Start Ray with the environment's bin "
            "folder on PATH, or ship this checkout with --ship-code."
        )
    wanted = needed(work)
    for name in lacking(wanted, report.now, report.largest_memory) if report.can_add is False else ():
        if name == "memory":
            found.append(
                f"the largest task needs {wanted[name] / GIB:.1f} GiB of memory: the largest machine has "
                f"{report.largest_memory / GIB:.1f} GiB for Ray. Add a larger machine."
            )
        else:
            # The workers of a training are a setting; the units of curate are done by any number of CPUs.
            fewer = ", or lower the number of workers in the config" if work.all_at_once else ""
            found.append(
                f"{plural(int(wanted[name]), name)} needed: the cluster has {report.now.get(name, 0):g}, and no "
                f"autoscaler can add the others. Join another machine to it (`ray start --address {report.address}` "
                f"there) or raise the autoscaler's limits{fewer}."
            )
    for text, addresses in report.problems.items():
        if len(addresses) < report.machines:
            shown = ", ".join(addresses[:3]) + (", ..." if len(addresses) > 3 else "")
            text = f"on {len(addresses)} of {plural(report.machines, 'machine')} ({shown}): {text}"
        found.append(text)
    return found


def unset(request: CheckRequest) -> list[str]:
    """The problems with the environment of this process, which is where the driver will run."""
    return [
        f"the environment has no {name}, which the config names for a secret. Set it where Ray is started on the head "
        "(in Kubernetes by a Secret of the pods)."
        for name in request.variables
        if not os.environ.get(name)
    ]


@of_the_command()
def problems_here(request: CheckRequest, marker: str | None) -> list[str]:
    """The problems on this machine.

    marker: a file that the check wrote to a local output from its machine; None: write to the output instead.
    """
    found = []
    for uri, storage in request.files:
        if paths.scheme(uri) == "hf":
            continue
        try:
            _store(storage).info(uri)
        except RaymillError as error:
            found.append(str(error))
    try:
        if marker is None:
            check_output(_store(request.storage), request.output)
        elif not Store().exists(marker):
            found.append(
                f"{request.output}: this local folder is not shared with all machines of the cluster. Choose an output "
                "on an object store, or on a file system that every machine has mounted at the same path."
            )
    except RaymillError as error:
        found.append(str(error))
    # Random names and durations are removed, so that one problem has one text on all machines.
    return [re.sub(r"/_probe-\w+| in [\d.]+[mµ]?s\b", "", problem) for problem in found]


def _store(storage: Mapping[str, Any]) -> Store:
    return Store(StorageOptions.model_validate({**storage, **_QUICK}))


def storage_of(config: Any, uri: str) -> Mapping[str, Any]:
    """The `storage` settings for a file: its input's, else the run's."""
    return next(_own_storage(config, uri), None) or (config.get("storage") or {})


def _own_storage(value: Any, uri: str) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if isinstance(value.get("path"), str) and value.get("storage"):
            folder = fixed_folder(value["path"])[0].rstrip("/")
            if uri == folder or uri.startswith(folder + "/"):
                yield value["storage"]
        for inner in value.values():
            yield from _own_storage(inner, uri)
    elif isinstance(value, list):
        for inner in value:
            yield from _own_storage(inner, uri)
