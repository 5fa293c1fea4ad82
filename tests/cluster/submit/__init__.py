"""Tests of cluster.submit."""
