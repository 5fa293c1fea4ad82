"""The same text, written one way (steps.py says how)."""

from pipelines.text.normalize.steps import NORMALIZE_VERSION, normalize

__all__ = ["NORMALIZE_VERSION", "normalize"]
