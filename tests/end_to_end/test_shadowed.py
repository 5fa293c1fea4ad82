"""The package `raymill` where a user's own modules have the names of its parts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ray_cluster import RayCluster
from tests.support.train_inline import sentences

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose modules `cluster`, `pipelines` and `training` cannot be imported, with a config of curate."""
    for name in ("cluster/__init__.py", "pipelines.py", "training/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise ImportError('the module of the user')\n")
    (tmp_path / "raymill").mkdir()  # with data
    texts = [{"id": str(row), "text": text["text"]} for row, text in enumerate(sentences(40))]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    config = {"kind": "curate", "name": "texts", "inputs": [{"path": "texts.jsonl"}], "output": "out"}
    few = {"language": None, "personal_data": None, "execution": {"cpus": 1}}  # workers import what all runs need
    (tmp_path / "curate.json").write_text(json.dumps(config | few))
    return tmp_path


def python(folder: Path, *words: str, **environment: str) -> str:
    """What Python printed that was started in `folder`, which comes first on its path."""
    beside = os.pathsep.join((str(folder), str(ROOT)))
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": beside} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_package_and_the_command_import_their_own_modules(folder):
    code = "import raymill.cluster.cli, raymill.pipelines.curate.kind, raymill.training.kind; print(raymill.__file__)"
    assert python(folder, "-c", code).strip() == str(ROOT / "raymill" / "__init__.py")
    assert "texts.jsonl" in python(folder, "-m", "raymill.cluster.cli", "config", "check", "curate.json")


@pytest.mark.ray
def test_workers_import_their_own_modules(folder):
    python(folder, "-m", "raymill.cluster.cli", "curate", "curate.json")
    assert (folder / "out" / "corpus" / "_manifest.json").exists()


@pytest.fixture
def downloaded(folder: Path) -> Path:
    """The folder, with modules that hide those of the installation where the folder comes first on the path."""
    (folder / "raymill" / "__init__.py").touch()
    for name in ("raymill/__init__.py", "pydantic.py", "pyarrow.py", "numba.py", "typer.py"):
        (folder / name).write_text(f"import pathlib; pathlib.Path({str(folder)!r}, 'imported').touch()\n")
    return folder


def raymill(folder: Path, *words: str) -> str:
    """What the command printed that was started in `folder`, whose path has the checkout alone."""
    code = "from raymill.cluster.cli import command; command()"
    environment = {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder / "state")}
    return python(folder, "-P", "-c", code, *words, **environment)


@pytest.mark.ray
def test_no_module_beside_the_data_is_imported_by_a_worker_or_a_job(downloaded):
    raymill(downloaded, "curate", "curate.json")
    assert not (downloaded / "imported").exists()
    raymill(downloaded, "submit", "curate.json", "-o", "output=again")
    (name,) = [path.name for path in (downloaded / "state" / "raymill" / "runs").iterdir()]
    raymill(downloaded, "logs", name, "-f")
    assert not (downloaded / "imported").exists()
    assert (downloaded / "again" / "corpus" / "_manifest.json").exists()


@pytest.mark.cluster
def test_workers_of_a_cluster_import_the_modules_that_the_session_sends(folder):
    with RayCluster(workers=1, environment={"PYTHONPATH": str(folder)}) as ray:
        there = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ray.token, "RAY_ADDRESS": ""}
        python(folder, "-m", "raymill.cluster.cli", "curate", "curate.json", "--address", ray.gcs, **there)
    assert (folder / "out" / "corpus" / "_manifest.json").exists()
