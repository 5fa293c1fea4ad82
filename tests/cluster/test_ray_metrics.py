"""Metrics that are exported through Ray: which are registered, with which tags, and where none are."""

import time
from types import SimpleNamespace

import pytest

from raymill.cluster import ray_metrics
from raymill.cluster.metrics import METRICS, NOT_EXPORTED, connect


class Registered:
    """A metric of Ray that keeps what was recorded. Ray's own sends it to the agent of a node."""

    def __init__(self, name, description, tag_keys):
        self.name, self.description, self.tag_keys, self.recorded = name, description, tag_keys, []

    def set(self, value, tags):
        self.recorded.append((value, tags))

    inc = set


class Gauge(Registered): ...


class Counter(Registered): ...


@pytest.fixture
def metrics(monkeypatch):
    monkeypatch.setattr(ray_metrics, "Gauge", Gauge)
    monkeypatch.setattr(ray_metrics, "Counter", Counter)
    return ray_metrics.RayMetrics("run-1")


def test_values_are_recorded_with_the_run_and_the_given_tags(metrics):
    metrics.set("raymill_stage_units", 7, stage="measure")
    metrics.set("raymill_stage_units", 8, stage="group")
    metrics.add("raymill_documents", 3, stage="measure")
    before = time.time()
    metrics.set_to_now("raymill_progress_time")
    units, documents, progress = metrics._found.values()
    assert units.recorded == [(7, {"run": "run-1", "stage": "measure"}), (8, {"run": "run-1", "stage": "group"})]
    assert documents.recorded == [(3, {"run": "run-1", "stage": "measure"})]
    ((moment, tags),) = progress.recorded
    assert before <= moment <= time.time() and tags == {"run": "run-1"}


@pytest.mark.parametrize(
    ("run", "tag"),
    [("pära 1", "p%C3%A4ra 1"), ("データ", "%E3%83%87%E3%83%BC%E3%82%BF"), ("b\udcff", "b?"), ("a%b", "a%b")],
)
def test_ray_takes_the_name_of_any_output_as_a_tag(run, tag):
    metrics = ray_metrics.RayMetrics(run)  # with Ray's own metrics, which refuse tags that are not ASCII
    metrics.set("raymill_run_state", 1)
    metrics.add("raymill_documents", 3, stage="prüfen")
    assert metrics._tags({}) == {"run": tag}


def test_a_counter_does_not_grow_by_nothing(metrics):
    metrics.add("raymill_preemptions", 0)
    metrics.add("raymill_preemptions", -1)
    assert metrics._found["raymill_preemptions"].recorded == []


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_registered_with_its_kind_meaning_unit_and_tags(metrics, name):
    entry = METRICS[name]
    (metrics.add if entry.kind == "counter" else metrics.set)(name, 1)
    found = metrics._found[name]
    assert type(found) is (Counter if entry.kind == "counter" else Gauge)
    assert (found.name, found.tag_keys) == (name, entry.tags)
    assert found.description == entry.meaning + (f" ({entry.unit})" if entry.unit else "")
    with pytest.raises(AssertionError):
        (metrics.set if entry.kind == "counter" else metrics.add)(name, 1)


@pytest.mark.parametrize(
    ("joined", "nodes", "exports"),
    [
        (False, [("own", 5)], False),
        (True, [("other", 5), ("own", 7)], True),
        (True, [("own", 1)], True),
        (True, [("other", 5), ("own", 0)], False),
        (True, [("own", -1)], False),
        (True, [("other", 5)], False),
    ],
)
def test_a_process_exports_if_its_node_has_a_metrics_agent(monkeypatch, joined, nodes, exports):
    monkeypatch.setattr(ray_metrics.ray, "is_initialized", lambda: joined)
    context = SimpleNamespace(get_node_id=lambda: "own")
    monkeypatch.setattr(ray_metrics.ray, "get_runtime_context", lambda: context)
    found = [{"NodeID": node, "MetricsAgentPort": port} for node, port in nodes]
    monkeypatch.setattr(ray_metrics.ray, "nodes", lambda: found)
    metrics = connect("r")
    assert isinstance(metrics, ray_metrics.RayMetrics) == exports
    assert metrics.run == "r" if exports else metrics is NOT_EXPORTED
