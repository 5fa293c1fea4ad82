"""An exported model on the Hugging Face hub: the real client, and a server with the hub's endpoints for a commit."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.hub_commits import Hub, hub_server, raymill
from tests.support.train_inline import train_inline, write_corpus


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    with hub_server(monkeypatch, "model") as found:
        yield found


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two finished runs, of LoRA and in full."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        common = {"corpus": write_corpus(folder), "packed": str(folder / "packed"), "steps": 1}
        train_inline(common | {"output": str(folder / "full")}, patch)
        train_inline(common | {"output": str(folder / "lora"), "method": "lora"}, patch)
    return folder


@pytest.fixture
def push(capfd):
    """`raymill push WORDS`: (exit code, what is printed)."""
    return partial(raymill, capfd, "push")


def content(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def test_a_push_is_one_commit_of_the_model_and_its_card_to_a_private_model(hub, push, runs):
    code, shown = push(runs / "full", "hf://acme/help")
    assert code == 0, shown
    assert f"commit  {hub.place}/commit/{1:040}" in shown and f"hf://acme/help holds {len(hub.files)} files" in shown
    assert hub.private is True and hub.commits == ["tiny, full"]
    assert hub.files == content(runs / "full" / "export" / "full")
    assert b"library_name: transformers" in hub.files["README.md"]


def test_the_same_push_again_commits_nothing_and_another_replaces_the_weights(hub, push, runs):
    hub.exists, hub.private = True, True
    hub.files = {"model-00002-of-00002.safetensors": b"old", "notes.txt": b"kept"}
    for _ in range(2):
        code, shown = push(runs / "lora", "acme/help", "--folder", "merged", "--public")
        assert code == 0, shown
    assert hub.private is True, "it stays as it was"
    assert hub.files == content(runs / "lora" / "export" / "merged") | {"notes.txt": b"kept"}
    assert len(hub.commits) == 1


def test_which_folder_is_meant_is_asked(hub, push, runs):
    code, shown = push(runs / "lora", "hf://acme/help")
    assert code == 2 and "adapter and merged" in shown and "--folder" in shown
    code, shown = push(runs / "lora", "hf://acme/help", "--folder", "adapter")
    assert code == 2 and "model with random weights that the hub does not have" in shown
    assert push(runs / "lora", "hf://acme/help", "--folder", "gguf")[0] == 2
    assert hub.site.asked == []


def test_a_changed_file_an_unfinished_run_or_no_token_sends_nothing(hub, push, runs, tmp_path, monkeypatch):
    shutil.copytree(runs / "full", tmp_path / "run")
    (tmp_path / "run" / "export" / "full" / "config.json").write_text(json.dumps({}))
    code, shown = push(tmp_path / "run", "hf://acme/help")
    assert code == 2 and "config.json: its content is not what was exported" in shown
    (tmp_path / "run" / "manifest.json").unlink()
    assert "no finished run" in push(tmp_path / "run", "hf://acme/help")[1]
    monkeypatch.delenv("HF_TOKEN")
    code, shown = push(runs / "full", "hf://acme/help")
    assert code == 2 and "HF_TOKEN is not set" in shown
    assert hub.site.asked == []
