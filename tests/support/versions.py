"""Supported versions of torch and transformers, and the packages that parts of the tree need.

`make versions` trains a tiny model with the oldest and the newest supported transformers
(tests/training/test_versions.py). Older versions train too but silently ignore capped attention scores (Gemma 2 with
sdpa).

Tests run with torch 2.13.0 (the build for CPUs) and Python 3.11. torch 2.11, the first release whose variable-length
attention takes a scale and a window, ran the benchmark on an H100 with Python 3.12 on 2026-11-27; 2.12 was not run.

On Python 3.13.0, with torch 2.13.0 on CPUs, `demo` and `tune-demo` (LoRA and full training on Ray), the tests of
`cluster` without Ray, and most of `training` and `pipelines` without Ray were run on 2026-11-25. One result differs: a
line of JSON that nests arrays deeper than Python 3.11 can parse is parsed there, and refused for another reason. Python
3.12 ran the benchmark of a GPU alone. `make wheel` checks that every dependency has a wheel for 3.12 and 3.13, except
DeepSpeed, which is published as source of pure Python.
"""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

# (oldest, newest); pyproject.toml and tests/training/test_versions.py agree with these.
TORCH = ("2.11", "2.13.0")
TRANSFORMERS = ("5.21.0", "5.23.0")

# Import names of the packages that `python -m tests.benchmarks.gpu` needs. It runs without Ray and, except for ZeRO,
# without DeepSpeed.
BENCH_NEEDS = (
    *("torch", "transformers", "peft", "accelerate", "pydantic", "numpy", "pyarrow", "safetensors"),
    *("brotli", "zstandard", "lxml", "httpx2"),  # readers of corpora
)

# And those that `raymill train` needs besides.
RUN_NEEDS = ("ray", "typer", "rich", "yaml", "obstore", "boto3")


def installed(package: str) -> str | None:
    """The version of an installed distribution; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def missing(packages: Iterable[str]) -> list[str]:
    """The packages that are not installed."""
    return [name for name in packages if find_spec(name) is None]
