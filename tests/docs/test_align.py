"""The example of preferences and rewards: each step makes the model better than the examples alone did."""

import importlib
import sys

import pytest

from docs.build import ROOT


@pytest.mark.slow
@pytest.mark.ray
def test_preferences_and_rewards_repair_what_wrong_examples_taught(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "docs/examples/align"))
    found = importlib.import_module("align").main(str(tmp_path / "out"))
    sys.modules.pop("align")
    assert 0.2 < found["sft"] < 0.7
    assert min(found["dpo"], found["grpo"], found["reward"]) > 0.9
    assert "the reward model prefers the right answer" in capsys.readouterr().out
