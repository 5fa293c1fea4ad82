"""The verb `raymill assess` without Ray."""

import pytest

from raymill.cluster import cli
from raymill.cluster.session import Session
from tests.support.inline import without_ray


@pytest.fixture
def assess(monkeypatch, capsys):
    """`raymill assess WORDS` in this process, without Ray: (exit code, stdout, stderr)."""
    without_ray(monkeypatch)
    monkeypatch.setattr(Session, "start", lambda self: None)

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(("assess", *words))
        return left.value.code or 0, *capsys.readouterr()

    return call
