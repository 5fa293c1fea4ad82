"""Tests of raymill.cluster.submit."""
