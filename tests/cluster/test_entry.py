"""Installed without extras, every verb and setting names the extra that it needs, before anything else is done."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from raymill.cluster import cli, entry
from raymill.cluster.entry import EXTRAS, require_extra
from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.work import work_of
from raymill.cluster.plan.plan import plan, plan_settings
from raymill.cluster.session import Session
from raymill.cluster.submit.commands import Place
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.training.config import TrainConfig
from raymill.training.job import train
from tests.support.inline import prepare_inline
from tests.support.shown import print_dry_run

ROOT = Path(__file__).parents[2]
# What the extras bring besides; none of it is a dependency of the package itself.
_OTHERS = ("accelerate", "deepspeed", "mlflow", "psycopg", "sacrebleu", "tensorboard", "wandb")
_LORA = {"kind": "train", "name": "x", "steps": 1, "model": {"name": "/models/none"}, "sequence_length": 64}


@pytest.fixture
def bare(monkeypatch):
    """No extra is installed."""
    monkeypatch.setattr(entry, "find_spec", lambda name: None)


def test_each_extra_is_one_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, modules in EXTRAS.items():
        listed = " ".join(project["optional-dependencies"][extra]).replace("-", "_")
        assert modules[0] in listed, extra
        assert not any(module in " ".join(project["dependencies"]) for module in modules)


def test_what_is_not_installed_is_named_with_the_command_and_the_rest_is_not(monkeypatch):
    monkeypatch.setattr(entry, "find_spec", lambda name: None if name in ("tokenizers", "peft") else name)
    with pytest.raises(ConfigError) as refused:
        require_extra("train", "raymill train", "Or do without.")
    wanted = f"tokenizers, peft not installed for {sys.executable}. Run: pip install 'raymill[train]'. Or do without."
    assert str(refused.value) == f"raymill.train: {wanted}" and refused.value.exit_code == 2
    require_extra("k8s", "--to kuberay")


def test_without_extras_every_verb_explains_itself_or_names_its_extra():
    """The libraries of the extras cannot be imported in this process."""
    blocked = [name for modules in EXTRAS.values() for name in modules] + [*_OTHERS]
    code = f"""
import contextlib, io, json, sys
sys.modules |= dict.fromkeys({blocked!r})
from raymill.cluster import cli
found = {{}}
for verb in cli.verbs():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([verb, "--help"])
        except SystemExit as left:
            code = left.code
    found[verb] = [code, out.getvalue() + err.getvalue()]
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    refused = {verb for verb, (code, _) in found.items() if code}
    assert found.keys() == cli.verbs().keys()
    of_train = {"train", "pack", "export", "answer", "add-tokens", "compose", "tune-demo", "cross-validate"}
    assert refused == of_train | {"prompt", "compare"}
    for verb, (code, said) in found.items():
        if verb in refused:
            assert code == 2 and said.startswith(f"raymill {verb}: torch, transformers, ")
            assert said.rstrip().endswith("Run: pip install 'raymill[train]'.")
        else:
            assert f"raymill {verb}" in said, verb


def test_a_config_of_training_is_planned_and_submitted_with_the_extra_only(bare, tmp_path):
    (config := tmp_path / "c.yaml").write_text(json.dumps(_LORA | {"corpus": "in.jsonl", "output": "out"}))
    for use in (lambda: plan(str(config)), lambda: work_of(str(config), [], None, None)):
        with pytest.raises(ConfigError, match=r"c\.yaml.*torch, .*Run: pip install 'raymill\[train\]'"):
            use()
    assert list(tmp_path.iterdir()) == [config]


def test_kubernetes_is_reached_with_the_extra_only(bare):
    with pytest.raises(ConfigError, match=r"^to=\"kuberay\": kubernetes not installed .*'raymill\[k8s\]'\.$"):
        Place(to="kuberay").backend()


def test_4_bit_training_without_its_extra_is_refused_before_the_model_is_looked_for(bare, tmp_path):
    settings = _LORA | {"method": "qlora", "workers": {"gpus_each": 1}, "corpus": "in.jsonl", "output": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"^method: qlora: bitsandbytes .*'raymill\[qlora\]'\. Or use method lora\.$"):
        train(TrainConfig.model_validate(settings), Session(), None)
    assert list(tmp_path.iterdir()) == []


def test_a_job_of_this_machine_is_not_submitted_without_the_extras_of_its_settings(bare, tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.cluster.frame.work.require_extra", lambda *_: None)  # of kind: train
    full = _LORA | {"workers": {"gpus_each": 1}, "corpus": "in.jsonl", "output": "out", "method": "full"}
    phases = [{"name": "one"}, {"name": "two", "method": "qlora", "lora": {"rank": 2}}]
    database = {"url": "postgresql+psycopg://h/d", "query": "select * from tickets"}
    tickets = {
        "kind": "prepare",
        "name": "x",
        "output": "out",
        "inputs": [{"database": database, "id": "id", "source": "a"}],
    }
    (config := tmp_path / "c.json").write_text("{}")
    for settings, message in (
        (full | {"phases": phases}, "method: qlora: bitsandbytes"),
        (tickets, "database: sqlalchemy"),
    ):
        config.write_text(json.dumps(settings))
        with pytest.raises(ConfigError, match=message):
            work_of(str(config), [], None, None, runs_here=True)
    assert list(tmp_path.iterdir()) == [config]


def _looks(settings):
    """What is asked of a config before it runs."""
    config = PrepareConfig.model_validate({"kind": "prepare", "name": "x"} | settings)
    return (lambda: print_dry_run(config)), (lambda: plan_settings(config))


def test_a_database_without_its_extra_is_refused_before_another_source_is_fetched(bare, tmp_path, monkeypatch):
    columns = {"prompt": "q", "completion": "a"}
    inputs = [
        {"source": "web", "api": {"url": "http://127.0.0.1:9/x"}, "id": "id", "columns": columns},
        {"source": "crm", "database": {"url": "sqlite:////x", "query": "select 1"}, "id": "id", "columns": columns},
    ]
    settings = {"inputs": inputs, "output": str(tmp_path / "out")}
    named = r"^inputs \(crm\)\.database: sqlalchemy not installed .*'raymill\[sql\]'\.$"
    for use in (lambda: prepare_inline(settings, monkeypatch), *_looks(settings)):
        with pytest.raises(ConfigError, match=named):
            use()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"assess": {"embeddings": {"model": "/models/none"}}}, "assess.embeddings.model"),
        ({"validate": {"answer_relevance": {"model": "/models/none"}}}, "validate.answer_relevance.model"),
    ],
)
def test_a_sentence_model_without_its_extra_is_refused_before_records_are_read(
    bare, tmp_path, monkeypatch, settings, setting
):
    columns = {"prompt": "q", "completion": "a"}
    inputs = [{"source": "s", "path": str(tmp_path / "none.jsonl"), "id": "id", "columns": columns}]
    settings = {"inputs": inputs, "output": str(tmp_path / "out")} | settings
    named = rf"^{setting}: sentence_transformers not installed .*raymill\[embeddings\]"
    for use in (lambda: prepare_inline(settings, monkeypatch), *_looks(settings)):
        with pytest.raises(ConfigError, match=named):
            use()
    assert list(tmp_path.iterdir()) == []
