"""The metrics of runs, for Prometheus: one table of names, units and meanings, and how a process exports them.

The driver exports the metrics of stages, the first worker of a training those of its steps. They travel through
`ray.util.metrics` to the metrics agent of the node, which Prometheus scrapes. Without such an agent (an embedded Ray,
torchrun, Ray without its extra `default`) nothing is exported. Recording a value takes a few microseconds.

The alerts and the dashboard in k8s/components/monitoring name these metrics; tests compare them with the table.
"""

import sys
import time
from dataclasses import dataclass
from typing import Literal

from raymill.cluster.entry import Entry

RUNNING, ENDED, FAILED = 1, 0, 2  # values of raymill_run_state

_exporter = Entry("raymill.cluster.ray_metrics:exporter")


@dataclass(frozen=True)
class Metric:
    """A metric. tags: names of its labels, besides those that Ray adds."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    meaning: str
    tags: tuple[str, ...] = ("run",)

    @property
    def exported(self) -> str:
        """The name in Prometheus: Ray adds a prefix, and a suffix to counters."""
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")


_STAGE = ("run", "stage")

# A rate is computed by Prometheus from a counter. Times are Unix times, so that an alert can compute an age.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("raymill_run_state", "gauge", "", "1 a stage or training runs, 0 it ended, 2 it failed"),
        Metric("raymill_progress_time", "gauge", "s", "Unix time of the last committed unit, or of the last step"),
        Metric("raymill_stage_units", "gauge", "units", "units of the stage", _STAGE),
        Metric(
            "raymill_stage_units_done",
            "gauge",
            "units",
            "committed units of the stage, of earlier sessions too",
            _STAGE,
        ),
        Metric("raymill_units_committed", "counter", "units", "units committed by this driver", _STAGE),
        Metric("raymill_rows_committed", "counter", "rows", "rows of the committed units' files", _STAGE),
        Metric("raymill_documents", "counter", "documents", "readable documents that were measured", _STAGE),
        Metric("raymill_documents_quarantined", "counter", "documents", "documents that could not be read", _STAGE),
        Metric("raymill_failed_attempts", "counter", "units", "tries of units that ended with an error", _STAGE),
        Metric("raymill_units_retried", "counter", "units", "units that were begun once more", _STAGE),
        Metric(
            "raymill_stalls", "counter", "stalls", "rounds ended for lack of progress, with a restart of Ray", _STAGE
        ),
        Metric("raymill_training_step", "gauge", "steps", "optimizer steps taken"),
        Metric("raymill_training_steps", "gauge", "steps", "optimizer steps wanted"),
        Metric("raymill_training_workers", "gauge", "workers", "workers of the training"),
        Metric("raymill_training_loss", "gauge", "nats", "mean loss of the last step"),
        Metric("raymill_training_tokens", "counter", "tokens", "tokens trained on, without padding"),
        Metric("raymill_training_tokens_per_second", "gauge", "tokens/s", "of the last step, over all workers"),
        Metric("raymill_training_mfu", "gauge", "fraction", "model FLOPs utilisation of the last step, 0 to 1"),
        Metric("raymill_checkpoint_time", "gauge", "s", "Unix time of the last committed checkpoint, or of the start"),
        Metric("raymill_preemptions", "counter", "notices", "notices that a node of the training will be taken away"),
    )
}


class Metrics:
    """The metrics of one run; this one exports none. Names are those of METRICS; tags other than `run` are given."""

    def set(self, name: str, value: float | None, **tags: str) -> None:
        """Set a gauge; None has no effect."""
        assert METRICS[name].kind == "gauge" and {"run", *tags} == set(METRICS[name].tags), name

    def add(self, name: str, value: float, **tags: str) -> None:
        """Increase a counter; 0 has no effect."""
        assert METRICS[name].kind == "counter" and {"run", *tags} == set(METRICS[name].tags), name

    def set_to_now(self, name: str) -> None:
        """Set a gauge to the present Unix time."""
        self.set(name, time.time())


NOT_EXPORTED = Metrics()


def connect(run: str) -> Metrics:
    """The metrics of a run, exported if this process has joined a Ray whose node has a metrics agent."""
    if "ray" not in sys.modules:
        return NOT_EXPORTED
    return _exporter(run) or NOT_EXPORTED
