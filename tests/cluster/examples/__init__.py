"""Tests of cluster/examples."""
