"""The job that checks a Ray cluster before a run is submitted to it: `python -m raymill.cluster.submit.cluster_check`.

It prints one line: versions, resources, and what went wrong on each machine with the store and the files of the run.
"""

import json
import logging
import os
import platform
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymill import cluster
from raymill.cluster.autoscaler import can_add
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.cluster.submit.preflight import CheckReport, CheckRequest, lacking, problems_here, unset

_MACHINES = 16  # that are checked, at most
_MACHINE_S = 90


def main() -> None:
    """Print the report on the request in the environment."""
    request = CheckRequest.from_json(os.environ[CheckRequest.VARIABLE])
    ray.init(log_to_driver=False, logging_level=logging.CRITICAL)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    # The head is one of them: its driver commits to the store.
    looked_at = nodes[:_MACHINES]
    now = dict(ray.cluster_resources())
    largest_memory = max((node["Resources"].get("memory", 0) for node in nodes), default=0)
    report = CheckReport(
        python=platform.python_version(),
        ray=ray.__version__,
        raymill=cluster.__version__,
        on_path=shutil.which("raymill") is not None,
        machines=len(looked_at),
        now=now,
        largest_memory=largest_memory,
        can_add=_can_add(request, lacking(request.needed, now, largest_memory)),
        problems=_problems(request, looked_at) | {one: [ray.util.get_node_ip_address()] for one in unset(request)},
        address=ray.get_runtime_context().gcs_address,
    )
    print(report.to_line(), flush=True)


def _can_add(request: CheckRequest, lacks: Sequence[str]) -> bool | None:
    """Whether the autoscaler can add what the machines lack; None if they lack nothing."""
    bundles: list[dict[str, float]] = []
    for name in lacks:
        amount = request.needed[name]
        bundles += [{name: amount}] if name == "memory" else [{name: 1}] * int(amount)
    return can_add(bundles) if bundles else None


def _problems(request: CheckRequest, nodes: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Problem -> addresses of the machines that have it."""
    marker = None if paths.is_remote(request.output) else paths.join(request.output, f"_probe-{uuid.uuid4().hex}")
    found: dict[str, list[str]] = {}
    if marker is not None:
        if problems := problems_here(request, None):
            return {problem: [nodes[0]["NodeManagerAddress"]] for problem in problems}
        Store().create(marker, b"")
    try:
        task = ray.remote(num_cpus=0, max_retries=1)(problems_here)
        waiting = []
        for node in nodes:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            waiting.append((node["NodeManagerAddress"], task.options(scheduling_strategy=here).remote(request, marker)))
        for address, answer in waiting:
            try:
                problems = ray.get(answer, timeout=_MACHINE_S)
            except ray.exceptions.RayError as error:
                line = (str(error).strip().splitlines() or ["?"])[-1][:300]
                problems = [
                    f"a task did not end there within {_MACHINE_S} s, or failed ({type(error).__name__}: {line})"
                ]
            for problem in problems:
                found.setdefault(problem, []).append(address)
    finally:
        if marker is not None:
            Store().delete([marker])
            Store().delete_empty_folder(request.output)
    return found


if __name__ == "__main__":
    try:
        main()
    except (KeyError, json.JSONDecodeError):
        sys.exit(f"{CheckRequest.VARIABLE}: wanted the request of a check as JSON. `raymill submit` starts this job.")
