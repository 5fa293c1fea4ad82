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

inputs = [{"path": "own/texts.jsonl", "id": "id"}]
with raymill.session(cpus=1):
    raymill.curate("own/curate.yaml", inputs=inputs, output="of-the-config", progress=False)
    raymill.curate(
        inputs=inputs, output="of-the-script", language=None,
        rules={"packs": [], "custom": [keep_quiet]}, progress=False,
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


def removed(output: Path) -> dict[str, str]:
    table = pq.read_table(next((output / "removed").glob("*.parquet")))
    return {row["id"]: row["reason"] for row in table.to_pylist()}


@pytest.mark.ray
def test_rules_beside_a_config_and_a_function_of_a_script_run_on_workers(folder):
    """The script is started in another folder than the config's, so that workers cannot import either."""
    (folder.parent / "script.py").write_text(SCRIPT)
    python(folder.parent, "script.py")
    assert removed(folder.parent / "of-the-config") == REMOVED
    assert removed(folder.parent / "of-the-script") == {"sale": "keep_quiet"}


@pytest.mark.cluster
def test_rules_beside_a_config_run_on_the_workers_of_a_cluster(folder):
    with RayCluster(workers=1) as ray:
        there = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ray.token, "RAY_ADDRESS": ""}
        inputs = json.dumps([{"path": str(folder / "texts.jsonl"), "id": "id"}])
        words = ("curate", str(folder / "curate.yaml"), f"-oinputs={inputs}", f"-ooutput={folder}/run")
        python(folder.parent, "-m", "raymill.cluster.cli", *words, "--address", ray.gcs, **there)
    assert removed(folder / "run") == REMOVED
