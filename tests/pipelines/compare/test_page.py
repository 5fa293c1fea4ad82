"""Sections of the page of a comparison."""

import re

from raymill.cluster.report.sections import Figure
from raymill.pipelines.compare.page import _calibration


def test_calibration_has_a_diagram_of_reliability():
    """Of answers with a confidence of 60% half are right, with 90% eight of ten."""
    bins = [(0.6, 10, 0.6, 0.5), (0.9, 10, 0.9, 0.8)]
    measured = {"error": 0.1, "low": 0.0, "high": 0.2, "brier": 0.2, "bins": bins}
    section = _calibration({"A": {"calibration": measured}, "B": {"calibration": None}})
    (figure,) = [one for one in section.content if isinstance(one, Figure)]
    assert re.findall(r"<title>(.*?)</title>", figure.drawing) == ["right, 60: 50", "right, 90: 80"]
    assert re.findall(r'cx="(.*?)"', figure.drawing) == ["60.00%", "90.00%"]
    assert "of A by confidence" in figure.drawing and _calibration({"B": {"calibration": None}}) is None
