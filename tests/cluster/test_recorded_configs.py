"""Configs in records are read by `load_recorded`, and never by the loader of the user's configs, which imports code."""

import ast
from pathlib import Path

from raymill.cluster.config import load_recorded
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig

ROOT = Path(__file__).parents[2]
LOADERS = {"load_values", "config_of", "context_for"}

# Function that calls a loader -> where the settings come from.
GIVEN_BY_THE_USER = {
    "cluster/config.py:load": "a file that the user names",
    "cluster/config.py:load_values": "its caller, which is in this table",
    "cluster/frame/calls.py:config_of": "its caller, which is in this table",
    "cluster/frame/calls.py:run_of": "the argument config",
    "cluster/frame/commands.py:call": "the argument CONFIG",
    "cluster/frame/config_calls.py:check": "the argument config",
    "cluster/frame/dry_run.py:dry_run": "the argument config",
    "cluster/frame/work.py:work_of": "the argument config",
    "cluster/inspection.py:config": "the argument FILE",
    "cluster/inspection.py:store_for": "the option --config",
    "cluster/plan/plan.py:plan_config": "the argument config",
    "pipelines/curate/job.py:what_if": "the config that this process made the run with",
    "pipelines/curate/questions/explain.py:explain_document": "the option --config",
    "pipelines/curate/questions/sample.py:sample": "the option --config",
    "pipelines/curate/questions/what_if.py:what_if": "the argument config",
    "pipelines/prepare/commands.py:assess_data": "the option --config, or what this process made the run with",
    "pipelines/prepare/commands.py:configs_of": "settings of Raymill, with options -o",
    "pipelines/ray_data/documents.py:settings_of": "the arguments of an operator",
    "training/commands.py:_checked": "the argument config",
    "pipelines/annotate/commands.py:round_of": "the argument CONFIG",
    "pipelines/compare/commands.py:compare": "the arguments CONFIG or MODELS, and --on",
}


def calls() -> set[str]:
    """PATH:FUNCTION of each call of a loader."""
    found = set()
    for package in ("cluster", "pipelines", "training"):
        for path in (ROOT / package).rglob("*.py"):
            for function in ast.walk(ast.parse(path.read_text())):
                if isinstance(function, ast.FunctionDef) and function.name != "verb_of":  # defines `call`
                    called = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
                    if LOADERS & {getattr(one, "id", getattr(one, "attr", "")) for one in called}:
                        found.add(f"{path.relative_to(ROOT)}:{function.name}")
    return found


def test_every_call_of_the_loader_of_configs_has_settings_of_the_user():
    """Whoever adds a call says here where its settings come from; those of a record go through `load_recorded`."""
    assert calls() == GIVEN_BY_THE_USER.keys()


def test_the_storage_that_a_record_names_is_replaced_by_the_storage_of_the_run():
    theirs = {"endpoint_url": "http://theirs", "access_key_id": "${HOME}"}
    record = {"kind": "curate", "name": "x", "output": "/run", "storage": theirs}
    inputs = [{"source": name, "path": f"/{name}", "storage": theirs} for name in "ab"]
    own = StorageOptions(endpoint_url="http://ours")
    found = load_recorded(CurateConfig, record | {"inputs": inputs}, "/run/report.json", Store(own))
    assert found.storage == own and [one.storage for one in found.inputs] == [None, None]
