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

from tests.support.versions import TORCH, TRANSFORMERS

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
    from raymill.training.models.build import enable_activation_checkpointing

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
    python = _environment(transformers, [f"transformers=={transformers}", f"torch=={TORCH[1]}"])
    done = subprocess.run(
        [python, "-m", "tests.support.versions_check"],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["transformers"] == transformers
    assert Version(found["torch"]).base_version == TORCH[1]
    for name, (first, last) in found["losses"].items():
        assert last < 0.95 * first, (name, first, last)


@pytest.mark.slow
def test_the_next_minor_release_of_ray_has_what_is_used_of_it():
    """With the pin alone changed: every private name, units in tasks and actors, and a training by two workers."""
    (pin,) = (wanted for line in PROJECT["dependencies"] if (wanted := Requirement(line)).name == "ray")
    major, minor = Version(next(iter(pin.specifier)).version.removesuffix(".*")).release
    series = f"{major}.{minor + 1}.*"
    look_up = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", f"ray=={series}"]
    if "No matching distribution" in subprocess.run(look_up, capture_output=True, text=True).stderr:
        pytest.skip(f"the registry has no ray {series}")
    python = _environment(f"ray-{series.removesuffix('.*')}", [f"ray=={series}"])
    tests = ["tests/cluster/test_ray_private.py", "tests/cluster/test_engine.py", "tests/cluster/test_engine_actors.py",
             "tests/training/test_train.py::test_on_ray_two_workers_come_to_the_loss_of_one"]  # fmt: skip
    done = subprocess.run(
        [python, "-m", "pytest", "-q", *tests],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]


def _environment(name: str, wanted: list[str]) -> str:
    """Python of a virtual environment below .venv-versions with these packages, made once."""
    folder = ROOT / ".venv-versions" / name
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        own = Path(subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True, text=True, check=True,
        ).stdout.strip())  # fmt: skip
        # Its own packages come first on the path, then all that are installed here.
        (own / "zz-others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        (folder / ".installed").touch()
    return str(python)
