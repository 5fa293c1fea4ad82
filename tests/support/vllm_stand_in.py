"""A program in place of vLLM, which is not installed here."""

import os
from pathlib import Path

import pytest


def install_vllm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Put the script into PATH as `vllm`. Returns the file to which it adds what it was given (its variable SEEN)."""
    program = folder / "bin/vllm"
    program.parent.mkdir()
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(folder / "seen"))
    monkeypatch.setattr("raymill.cluster.asking.vllm_server._POLL_S", 0.05)
    return folder / "seen"
