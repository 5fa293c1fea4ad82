"""What must hold before a job starts on a Ray cluster: versions, machines, the store and the files that the run reads.

The client compares Ray's version. The rest is seen from inside: `probe.py` runs there as a short job and prints a
report, which `problems` compares with what the run needs.
"""

import importlib.metadata
import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import cluster
from cluster.errors import RaymillError
from cluster.output_folder import check_output, fixed_folder
from cluster.page.formats import plural
from cluster.store import paths
from cluster.store.interface import StorageOptions
from cluster.store.store import Store
from cluster.submit.work import Work

MARK = "raymill probe: "
_GIB = 1 << 30
# A store that does not answer is reported, not waited for.
_QUICK = {"timeout_s": 15, "retries": 1, "retry_deadline_s": 30}


@dataclass(frozen=True)
class ProbeRequest:
    """What the probe looks at.

    files: (URI, storage settings without keys) of each file that must exist. needed: see `needed`.
    """

    output: str
    storage: Mapping[str, Any]
    files: Sequence[tuple[str, Mapping[str, Any]]]
    needed: Mapping[str, float] = field(default_factory=dict)

    VARIABLE: ClassVar = "RAYMILL_PROBE"

    @classmethod
    def of(cls, work: Work) -> Self:
        storage = work.config.get("storage") or {}
        files = tuple((uri, storage_of(work.config, uri)) for uri in work.must_exist)
        return cls(work.output, storage, files, needed(work))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class ProbeReport:
    """What the probe saw.

    on_path: whether the command `raymill` is found. now: resources of all machines, such as {"CPU": 8}. largest_memory:
    bytes of the largest machine. can_add: whether the autoscaler can add what is needed and is not there, False also
    without one; None: nothing is missing, or the autoscaler does not report it. problems: text -> addresses of the
    machines that have it. machines: number of them that were looked at.
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

    def to_line(self) -> str:
        return MARK + json.dumps(asdict(self))


def read_report(text: str) -> ProbeReport | None:
    """The report in the log of a probe, None if it has none."""
    lines = [line.removeprefix(MARK) for line in text.splitlines() if line.startswith(MARK)]
    return ProbeReport(**json.loads(lines[-1])) if lines else None


def problems(work: Work, report: ProbeReport, ships_code: bool) -> list[str]:
    """Why the job would fail on the cluster that the report is of, one line each with its mend."""
    return [
        *_mismatches(report, ships_code),
        *_too_small(work, report),
        *(_placed(text, addresses, report.machines) for text, addresses in report.problems.items()),
    ]


def mismatched_ray(theirs: str) -> str | None:
    """Why the Ray of a cluster is the wrong one; None if it is not."""
    ours = importlib.metadata.version("ray")
    if theirs == ours:
        return None
    return (
        f"the cluster runs Ray {theirs}, this machine has {ours}. Install ray=={theirs} here, or start the cluster "
        f"from an image with {ours}."
    )


def _mismatches(report: ProbeReport, ships_code: bool) -> Iterator[str]:
    ours = platform.python_version()
    if report.python.split(".")[:2] != ours.split(".")[:2]:
        yield (
            f"the cluster runs Python {report.python}, this machine {ours}. Use an environment with the cluster's "
            "here, or an image with this one there."
        )
    if problem := mismatched_ray(report.ray):
        yield problem
    if not ships_code and report.raymill != cluster.__version__:
        yield (
            f"the cluster has Raymill {report.raymill}, this machine {cluster.__version__}, which may read a config in "
            "another way. Install the same, or ship this checkout with --ship-code."
        )
    if not ships_code and not report.on_path:
        yield (
            "the command raymill is not on the PATH of the cluster's processes. Start Ray with the environment's bin "
            "folder on PATH, or ship this checkout with --ship-code."
        )


def needed(work: Work) -> dict[str, float]:
    """CPUs, GPUs and bytes of memory on one machine that the run cannot do without.

    The machines of `work` are those to make for it. A cluster that exists may have others, so only these are compared:
    GPUs, the CPUs of workers that run all at once (else one), memory for the largest task.
    """
    cpus = sum(group.cpus * group.least for group in work.workers if not group.gpus) if work.all_at_once else 1
    return {
        "GPU": sum(group.gpus * group.least for group in work.workers),
        "CPU": max(1, cpus),
        "memory": max((group.largest_task for group in work.workers), default=0),
    }


def lacking(needed: Mapping[str, float], now: Mapping[str, float], largest_memory: float) -> list[str]:
    """The names in `needed` of which the machines have too little. Without any CPU the memory is not compared."""
    found = [name for name in ("GPU", "CPU") if now.get(name, 0) < needed.get(name, 0)]
    return found + (["memory"] if now.get("CPU", 0) >= 1 and largest_memory < needed.get("memory", 0) else [])


def _too_small(work: Work, report: ProbeReport) -> Iterator[str]:
    """What the run needs, and neither the machines have nor the autoscaler can add."""
    if report.can_add is not False:
        return
    wanted = needed(work)
    for name in lacking(wanted, report.now, report.largest_memory):
        if name == "memory":
            yield (
                f"the largest task needs {wanted[name] / _GIB:.1f} GiB of memory: the largest machine offers Ray "
                f"{report.largest_memory / _GIB:.1f} GiB. Add a larger machine."
            )
        else:
            # The workers of a training are a setting; the units of curate are done by any number of CPUs.
            fewer = ", or lower the number of workers in the config" if work.all_at_once else ""
            yield (
                f"{plural(int(wanted[name]), name)} needed: the cluster has {report.now.get(name, 0):g}, and no "
                "autoscaler can add the others. Join another machine to it (`ray start --address HEAD:6379` there) or "
                f"raise the autoscaler's limits{fewer}."
            )


def _placed(text: str, addresses: Sequence[str], machines: int) -> str:
    """A problem with the machines that have it."""
    if len(addresses) == machines:
        return text
    shown = ", ".join(addresses[:3]) + (", ..." if len(addresses) > 3 else "")
    return f"on {len(addresses)} of {plural(machines, 'machine')} ({shown}): {text}"


def look(request: ProbeRequest, marker: str | None) -> list[str]:
    """What is wrong on this machine. marker: a file that another machine wrote to a local output."""
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
    # Without what differs from try to try, so that it is one problem on all machines.
    return [re.sub(r"/_probe-\w+| in [\d.]+[mµ]?s\b", "", problem) for problem in found]


def _store(storage: Mapping[str, Any]) -> Store:
    return Store(StorageOptions.model_validate({**storage, **_QUICK}))


def storage_of(config: Any, uri: str) -> Mapping[str, Any]:
    """The `storage` settings that reach a file: those of the input that it belongs to, else the run's."""
    return next(_own_storage(config, uri), None) or (config.get("storage") or {})


def _own_storage(value: Any, uri: str) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if isinstance(value.get("path"), str) and value.get("storage") and _belongs(uri, value["path"]):
            yield value["storage"]
        for inner in value.values():
            yield from _own_storage(inner, uri)
    elif isinstance(value, list):
        for inner in value:
            yield from _own_storage(inner, uri)


def _belongs(uri: str, path: str) -> bool:
    folder = fixed_folder(path)[0].rstrip("/")
    return uri == folder or uri.startswith(folder + "/")
