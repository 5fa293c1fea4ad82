"""Exports metrics through Ray. Imported only by a process that has joined a Ray; see metrics.py."""

import string
from urllib.parse import quote

import ray
from ray.util.metrics import Counter, Gauge

from raymill.cluster.metrics import METRICS, Metrics


class RayMetrics(Metrics):
    """The metrics of a run in this process. A metric is registered when it is first recorded."""

    def __init__(self, run: str) -> None:
        self.run = run
        self._found: dict[str, Counter | Gauge] = {}

    def set(self, name: str, value: float | None, **tags: str) -> None:
        metric = self._metric(name)
        assert isinstance(metric, Gauge), f"{name} is a counter"
        metric.set(value, tags=self._tags(tags))

    def add(self, name: str, value: float, **tags: str) -> None:
        metric = self._metric(name)
        assert isinstance(metric, Counter), f"{name} is a gauge"
        if value > 0:
            metric.inc(value, tags=self._tags(tags))

    def _tags(self, tags: dict[str, str]) -> dict[str, str]:
        """The values of tags in ASCII, as Ray requires; other characters are percent-encoded as UTF-8."""
        return {
            name: quote(value, string.printable, errors="replace") for name, value in {"run": self.run, **tags}.items()
        }

    def _metric(self, name: str) -> Counter | Gauge:
        if name not in self._found:
            entry = METRICS[name]
            kind = Counter if entry.kind == "counter" else Gauge
            text = f"{entry.meaning} ({entry.unit})" if entry.unit else entry.meaning
            self._found[name] = kind(name, description=text, tag_keys=entry.tags)
        return self._found[name]


def exporter(run: str) -> RayMetrics | None:
    """The metrics of a run; None if this process has not joined a Ray, or its node has no metrics agent."""
    if not ray.is_initialized():
        return None
    own = ray.get_runtime_context().get_node_id()
    agents = [node["MetricsAgentPort"] for node in ray.nodes() if node["NodeID"] == own]
    return RayMetrics(run) if any(port > 0 for port in agents) else None
