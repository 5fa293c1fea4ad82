"""The versions of torch and transformers that training supports, and the names that differ between them.

`make versions` installs the oldest and the newest supported transformers and trains a tiny model with each
(tests/training/test_versions.py). Older ones train too, but silently ignore scores that a model caps (Gemma 2 with
sdpa).

Tested are torch 2.13.0 (the build for CPUs) and Python 3.11 alone. torch 2.11, the first release whose variable-length
attention takes a scale and a window, and 2.12 were not run. Of Python 3.12 and 3.13 it is known that every dependency
of curation has wheels and that mypy passes.
"""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

# (oldest, newest); pyproject.toml and tests/training/test_versions.py agree with these.
TORCH = ("2.11", "2.13.0")
TRANSFORMERS = ("5.21.0", "5.23.0")

# Packages without which `python -m training.bench` cannot run, by the names that they are imported by. Ray and
# DeepSpeed are not among them: what asks for them loads them.
BENCH_NEEDS = ("torch", "transformers", "peft", "accelerate", "pydantic", "numpy", "pyarrow", "safetensors")

# And those that `raymill train` needs besides.
RUN_NEEDS = ("ray", "typer", "rich", "yaml", "obstore", "boto3")


def installed(package: str) -> str | None:
    """The version of a distribution, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def missing(packages: Iterable[str]) -> list[str]:
    """Those that cannot be imported here."""
    return [name for name in packages if find_spec(name) is None]


def enable_activation_checkpointing(model: Any, **settings: Any) -> None:
    """transformers 5.21 has gradient_checkpointing_enable; 5.23 has another name for it and deprecates the old one.

    settings: of torch.utils.checkpoint.
    """
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(settings)
