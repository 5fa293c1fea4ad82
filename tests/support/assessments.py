"""Metrics and gates of an assessment by name."""


def metric(assessment, name: str) -> float | None:
    (found,) = (one["value"] for one in assessment["metrics"] if one["name"] == name)
    return found


def gate(assessment, name: str) -> dict:
    return next(one for one in assessment["gates"] if one["name"] == name)
