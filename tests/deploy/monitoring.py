"""The metrics that alerts and dashboard name, and those that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from raymill.cluster.metrics import METRICS
from tests.deploy.manifests import K8S

MONITORING = K8S / "components" / "monitoring"

# Metrics of Ray 2.60 that alerts and panels use; tests/cluster/test_metrics_scrape.py finds them at a real head.
RAY = frozenset({
    "ray_cluster_active_nodes", "ray_node_cpu_utilization", "ray_node_disk_utilization_percentage",
    "ray_node_mem_total", "ray_node_mem_used", "ray_spill_manager_objects_bytes",
})  # fmt: skip
# Exported from the first such event on, so a healthy head does not have them. Where Ray 2.60 defines each:
RAY_AFTER_AN_EVENT = {
    "ray_cluster_failed_nodes": "ray/dashboard/modules/reporter/reporter_agent.py",
    "ray_memory_manager_worker_eviction_total": "src/ray/raylet/metrics.h, in C++",
}
# Of the KubeRay operator: ray-operator/controllers/ray/metrics/ray_job_metrics.go.
OPERATOR = frozenset({"kuberay_job_deployment_status"})

_NAME = re.compile(r"\b((?:ray|kuberay|raymill)_[a-z0-9_]+)\b(?!\s*[=!]~?)")
_LABELS = frozenset({"ray_io_cluster"})


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_file() -> Path:
    return MONITORING / "dashboard.json"


def expressions() -> Iterator[tuple[str, str]]:
    """(title, PromQL) of every alert and panel."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in json.loads(dashboard_file().read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def metrics_in(expression: str) -> set[str]:
    """The names of metrics in a PromQL expression."""
    return set(_NAME.findall(expression)) - _LABELS


def named_metrics() -> set[str]:
    return {name for _, expression in expressions() for name in metrics_in(expression)}


def own_metrics() -> set[str]:
    return {metric.exported for metric in METRICS.values()}
