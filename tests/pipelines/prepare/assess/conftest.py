"""The verb `raymill assess` without Ray."""

from functools import partial

import pytest

from raymill.cluster.session import Session
from tests.support.inline import without_ray


@pytest.fixture
def assess(monkeypatch, run_cli):
    """`raymill assess WORDS` in this process, without Ray: (exit code, stdout, stderr)."""
    without_ray(monkeypatch)
    monkeypatch.setattr(Session, "start", lambda self: None)
    return partial(run_cli, "assess")
