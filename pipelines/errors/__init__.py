"""Errors of a model: where they are more frequent, what they have in common, and what to correct."""
