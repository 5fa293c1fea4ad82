"""Alerts and dashboard: every metric exists, every metric of Raymill is shown, and files stay small."""

import json
import re

import pytest
import yaml

from raymill.cluster.metrics import METRICS, NOT_EXPORTED
from tests.deploy import monitoring
from tests.deploy.schemas import HOW_TO, crds, problems_of

KNOWN = monitoring.own_metrics() | monitoring.RAY | monitoring.RAY_AFTER_AN_EVENT.keys() | monitoring.OPERATOR


def test_every_metric_of_an_alert_or_a_panel_exists():
    unknown = {
        title: missing
        for title, expression in monitoring.expressions()
        if (missing := monitoring.metrics_in(expression) - KNOWN)
    }
    assert unknown == {}


def test_names_are_found_in_promql():
    """A name that the pattern overlooks would never be compared."""
    expression = (
        'sum by (ray_io_cluster) (rate(ray_raymill_x_total{stage="measure"}[5m])) / ray_node_y > 3 and kuberay_z'
    )
    assert monitoring.metrics_in(expression) == {"ray_raymill_x_total", "ray_node_y", "kuberay_z"}


def test_every_metric_of_raymill_is_in_an_alert_or_a_panel():
    assert monitoring.own_metrics() - monitoring.named_metrics() == set()


def test_lists_of_other_metrics_hold_no_more_than_is_used():
    others = monitoring.RAY | monitoring.RAY_AFTER_AN_EVENT.keys() | monitoring.OPERATOR
    assert others - monitoring.named_metrics() == set()


@pytest.mark.parametrize("title_and_expression", list(monitoring.expressions()), ids=lambda one: one[0])
def test_expressions_select_by_labels_that_the_metrics_have(title_and_expression):
    _, expression = title_and_expression
    assert expression.count("(") == expression.count(")")
    own = [METRICS[name.removeprefix("ray_").removesuffix("_total")]
           for name in monitoring.metrics_in(expression) if name in monitoring.own_metrics()]  # fmt: skip
    for listed in re.findall(r"by \(([^)]*)\)", expression):
        labels = {one.strip() for one in listed.split(",")}
        for metric in own:
            assert labels - {"namespace"} <= set(metric.tags), f"{metric.name} has no label of {labels}"
    for metric in own:  # a counter is only ever read as an increase or a ratio, a gauge never as a rate
        rated = re.search(rf"(?:rate|increase)\({metric.exported}\b", expression)
        assert not rated or metric.kind == "counter", f"rate of the gauge {metric.name}"


def test_the_rules_are_valid_and_name_what_to_do():
    if not crds():
        pytest.skip(HOW_TO)
    for name in ("alerts.yaml", "monitors.yaml"):
        (manifest,) = yaml.safe_load_all((monitoring.MONITORING / name).read_text())
        assert problems_of(manifest) == []
        broken = manifest | {"spec": manifest["spec"] | {"gruops": []}}
        assert problems_of(broken) != []
    for rule in monitoring.alerts():
        assert rule["labels"]["severity"] in ("critical", "warning", "info") and rule["annotations"]["summary"]
        assert rule["labels"]["severity"] != "critical" or rule["annotations"]["action"], rule["alert"]


def test_the_dashboard_is_small_and_its_panels_do_not_overlap():
    """A ConfigMap applied on the client's side holds at most 256 KiB, and Grafana's own exports grow past it."""
    data = monitoring.dashboard_file().read_bytes()
    assert len(data) < 50_000
    panels = json.loads(data)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24


def test_a_metric_that_is_not_in_the_table_or_lacks_a_label_is_a_defect():
    """Also where nothing is exported, so that tests without Ray find it."""
    NOT_EXPORTED.set("raymill_stage_units", 3, stage="measure")
    for wrong in (
        lambda: NOT_EXPORTED.set("raymill_stage_units", 3),
        lambda: NOT_EXPORTED.add("raymill_stage_units", 3, stage="measure"),
        lambda: NOT_EXPORTED.add("raymill_absent", 1),
    ):
        with pytest.raises((AssertionError, KeyError)):
            wrong()


def test_the_table_is_well_named():
    for name, metric in METRICS.items():
        assert re.fullmatch(r"raymill_[a-z_]+", name) and not name.endswith("_total"), name
        assert metric.meaning and metric.tags[0] == "run"
