"""Stages as people read them."""

_STAGE_NAMES = {"read": "Read", "c4": "C4", "fineweb": "FineWeb"}


def stage_name(stage: str) -> str:
    """`gopher_quality` as `Gopher quality`."""
    spaced = stage.replace("_", " ")
    return _STAGE_NAMES.get(stage, spaced[:1].upper() + spaced[1:])
