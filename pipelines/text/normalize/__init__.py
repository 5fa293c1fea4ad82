"""Normalisation of text. Its steps are defined in steps.py."""

from raymill.pipelines.text.normalize.steps import NORMALIZE_VERSION, normalize

__all__ = ["NORMALIZE_VERSION", "normalize"]
