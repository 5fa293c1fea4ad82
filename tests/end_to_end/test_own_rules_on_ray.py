"""Rules of the user reach the workers of Ray: from beside a config, and from a script without a module."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.ray_cluster import RayCluster

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "own_rule"
REMOVED = {"draft": "no_placeholder", "links": "few_links", "sale": "too_many_capitals"}

SCRIPT = """
import raymill

CAPITALS = 0.3

def keep_quiet(text: str) -> bool:
    return sum(map(str.isupper, text)) <= CAPITALS * len(text)

raymill.curate(
    inputs=[{"path": "texts.jsonl", "id": "id"}], output="runs/own-rule", language=None,
    rules={"packs": [], "custom": [keep_quiet]}, execution={"cpus": 1}, progress=False,
)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The example of the guide."""
    shutil.copytree(EXAMPLE, tmp_path / "own")
    return tmp_path / "own"


def python(cwd: Path, *words: str, **environment: str) -> None:
    there = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=there, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def removed(folder: Path) -> dict[str, str]:
    table = pq.read_table(next((folder / "runs" / "own-rule" / "removed").glob("*.parquet")))
    return {row["id"]: row["reason"] for row in table.to_pylist()}


def curate(folder: Path, *words: str, **environment: str) -> dict[str, str]:
    """The reasons of a run that is started in another folder than the config's."""
    inputs = json.dumps([{"path": str(folder / "texts.jsonl"), "id": "id"}])
    places = (f"-oinputs={inputs}", f"-ooutput={folder}/runs/own-rule", "-oexecution.cpus=1")
    config = str(folder / "curate.yaml")
    python(folder.parent, "-m", "raymill.cluster.cli", "curate", config, *places, *words, **environment)
    return removed(folder)


@pytest.mark.ray
def test_rules_beside_a_config_run_on_workers(folder):
    assert curate(folder) == REMOVED


@pytest.mark.ray
def test_a_function_of_a_script_runs_on_workers(folder):
    (folder / "script.py").write_text(SCRIPT)
    python(folder, "script.py")
    assert removed(folder) == {"sale": "keep_quiet"}


@pytest.mark.cluster
def test_rules_beside_a_config_run_on_the_workers_of_a_cluster(folder):
    with RayCluster(workers=1) as ray:
        there = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ray.token, "RAY_ADDRESS": ""}
        assert curate(folder, "--address", ray.gcs, **there) == REMOVED
