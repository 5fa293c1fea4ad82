"""Verbs of trained models: `push` to a server with the hub's endpoints for a commit, and the demo of training."""

import json
import shlex
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
import typer

from raymill.cluster import cli
from raymill.cluster.config import load
from raymill.cluster.errors import UserError
from raymill.cluster.stage import Output, Stage
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.model_commands import CONFIGS, OUTPUT, RUNS, comparison, config_text, tune_demo, whats_next
from tests.support import training_report as made
from tests.support.hub_commits import Hub, hub_server, raymill
from tests.support.stages import run_inline
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
    assert "there is no run and no artifact here" in push(tmp_path / "none", "hf://acme/help")[1]
    code, shown = push(runs / "full", "hf://acme/help")
    assert code == 2 and "HF_TOKEN is not set" in shown
    assert hub.site.asked == []


@pytest.fixture
def folder(tmp_path):
    """As `raymill demo` leaves it, as far as this demo looks."""
    run_inline(Stage("select", (Output("corpus", pa.schema([])),), [], print, "f" * 32, Store()), str(tmp_path))
    return tmp_path


@pytest.fixture
def trained(monkeypatch):
    """Trainings that only note their config and leave a report."""
    calls = []

    def train(kind, config, *, address, replace):
        assert kind == "train"
        settings = json.loads(load(config).model_dump_json(exclude_unset=True))
        calls.append((settings, address, replace))
        report = made.report()
        report["fits"][0]["totals"]["trainable_parameters"] = 14_000 if settings["method"] == "lora" else 140_000
        Store().write_bytes(f"{settings['output']}/report.json", json.dumps(report).encode())

    monkeypatch.setattr("raymill.training.model_commands.make_and_print", train)
    return calls


@pytest.mark.parametrize("run", RUNS)
def test_a_config_is_one_for_the_default_output_and_for_any_other(run, tmp_path):
    shipped = load(str(CONFIGS / f"demo-{run}.yaml"))
    assert isinstance(shipped, TrainConfig)
    assert shipped.output == f"{OUTPUT}/tune-{run}"
    folder = str(tmp_path / 'a "quoted" folder, ü')
    (tmp_path / "tune.yaml").write_text(config_text(run, folder), "utf-8")
    config = load(str(tmp_path / "tune.yaml"))
    assert config.output == f"{folder}/tune-{run}"
    assert config.corpus[0].path == f"{folder}/corpus"
    assert config.packed == f"{folder}/packed"


def test_both_runs_train_the_same_model_on_the_same_packed_rows():
    lora, full = (load(str(CONFIGS / f"demo-{run}.yaml")) for run in RUNS)
    assert (lora.method, full.method) == ("lora", "full")
    for name in ("model", "corpus", "columns", "packed", "packing", "split", "seed", "sequence_length", "steps"):
        assert getattr(lora, name) == getattr(full, name), name


def test_no_run_shows_answers_of_a_model_that_is_trained_on_none_yet():
    assert [load(str(CONFIGS / f"demo-{run}.yaml")).generate for run in RUNS] == [None, None]


def test_without_a_corpus_it_says_what_to_run_first(tmp_path):
    with pytest.raises(UserError, match=rf"raymill\.demo\(output=\"{tmp_path}"):
        tune_demo(str(tmp_path))


def test_both_trainings_run_and_what_they_reached_is_printed(folder, trained, capsys):
    tune_demo(str(folder))
    assert [settings["name"] for settings, _, _ in trained] == ["demo-lora", "demo-full"]
    assert {(address, replace) for _, address, replace in trained} == {("local", False)}
    said = capsys.readouterr().out
    assert f"raymill train {folder}/tune-lora.yaml" in said
    assert "What next:" in said
    rows = [line.split() for line in said.splitlines() if line.startswith(("LoRA", "all weights"))]
    assert rows[0] == ["LoRA", "6.250", "2.897", "518", "->", "18", "10.0%", "1", "min", "15", "s"]
    assert rows[1][-5] == "100.0%"


def test_an_edited_config_stays_as_it_was_edited_unless_all_is_made_anew(folder, trained):
    tune_demo(str(folder))
    edited = folder / "tune-lora.yaml"
    edited.write_text(edited.read_text().replace("rank: 8", "rank: 4"))
    tune_demo(str(folder))
    assert trained[2][0]["lora"]["rank"] == 4
    tune_demo(str(folder), replace=True)
    assert trained[4][0]["lora"]["rank"] == 8
    assert trained[4][2] is True


def test_the_comparison_takes_the_best_loss_and_lines_up():
    report = made.report()
    report["fits"][0]["validation"] = [
        {"step": step, **made.measured(loss)} for step, loss in ((0, 7.5), (20, 5.0), (40, 5.25))
    ]
    report["fits"][0]["best_step"] = 20
    lines = comparison({"lora": report, "full": made.report()}).splitlines()
    assert lines[1].split()[1:3] == ["7.500", "5.000"]
    assert len({line.index(title) + len(title) for line, title in ((lines[0], "after"), (lines[1], "5.000"))}) == 1


def test_every_command_it_ends_with_is_one():
    commands_shown = [line.strip() for line in whats_next("runs/a b").splitlines() if line.startswith("    raymill")]
    assert len(commands_shown) == 4
    for command in commands_shown:
        _, verb, *words = shlex.split(command)
        app = typer.Typer(add_completion=False)
        app.command()(cli._function(verb, cli.verbs()[verb]))
        known = {option for parameter in typer.main.get_command(app).params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, command


def test_the_settings_it_suggests_make_a_config(tmp_path):
    for line in whats_next(str(tmp_path)).splitlines():
        if not line.startswith("    raymill train"):
            continue
        words = shlex.split(line)
        run = "lora" if "lora" in words[2] else "full"
        (tmp_path / "tune.yaml").write_text(config_text(run, str(tmp_path)))
        assert load(str(tmp_path / "tune.yaml"), [word for word in words[3:] if word != "-o"])
