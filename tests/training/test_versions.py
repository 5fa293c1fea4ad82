"""The supported versions: what pyproject.toml promises, and that the oldest and the newest transformers train."""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from training.versions import TORCH, TRANSFORMERS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_pyproject_asks_for_the_oldest_versions_that_are_supported():
    floors = {}
    for line in PROJECT["optional-dependencies"]["train"]:
        wanted = Requirement(line)
        floors[wanted.name] = next(one.version for one in wanted.specifier if one.operator in (">=", "=="))
    assert Version(floors["torch"]) == Version(TORCH[0])
    assert Version(floors["transformers"]) == Version(TRANSFORMERS[0])


def test_what_is_tested_here_is_the_newest_supported():
    assert Version(version("torch")).base_version == TORCH[1]
    assert version("transformers") == TRANSFORMERS[1]


def test_activation_checkpointing_goes_by_either_name_of_transformers():
    from training.versions import enable_activation_checkpointing

    class Model:
        def enable(self, settings):
            self.settings = settings

    class Old(Model):
        gradient_checkpointing_enable = Model.enable

    class New(Model):
        activation_checkpointing_enable = Model.enable

        def gradient_checkpointing_enable(self, settings):
            raise AssertionError("deprecated")

    for model in (Old(), New()):
        enable_activation_checkpointing(model, use_reentrant=False)
        assert model.settings == {"use_reentrant": False}


@pytest.mark.slow
@pytest.mark.parametrize("transformers", TRANSFORMERS)
def test_a_tiny_model_trains_with_the_oldest_and_the_newest_transformers(transformers):
    """In an environment of its own, that takes all other packages from this one."""
    done = subprocess.run(
        [_environment(transformers), "-m", "tests.support.versions_check"],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["transformers"] == transformers
    assert Version(found["torch"]).base_version == TORCH[1]
    for name, (first, last) in found["losses"].items():
        assert last < 0.95 * first, (name, first, last)


def _environment(transformers: str) -> str:
    """Python of a virtual environment below .venv-versions, made once."""
    folder = ROOT / ".venv-versions" / transformers
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        own = Path(subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True, text=True, check=True,
        ).stdout.strip())  # fmt: skip
        # Its own packages come first on the path, then all that are installed here.
        (own / "zz-others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        wanted = [f"transformers=={transformers}", f"torch=={TORCH[1]}"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        (folder / ".installed").touch()
    return str(python)
