"""Write the lock files of the images: every package with its version and the sha256 of its file.

    python deploy/lock.py        needs a package index and pip >= 23; takes about a minute, installs nothing

Versions come from pyproject.toml and constraints.txt; packages that only the images have (Ray's dashboard and metrics
agent) are the newest that fit. The files are those of this Python on x86-64 Linux, so run it with the images' Python.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "deploy" / "lock"
PYTHON = (3, 11)  # version in the images; the client's minor version has to be the same
# Without a wheel on the index. Their source is built in the image's first stage.
FROM_SOURCE = ("deepspeed",)
BUILD = ["setuptools>=77", "wheel", "packaging"]


def requirements() -> dict[str, list[str]]:
    """Name of each lock file -> what has to be installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    # `cluster`: the head's dashboard, Jobs API and metrics agent. `k8s`: the nightly CronJob submits from the image.
    # `sql`: databases as sources of `prepare`.
    base = [*project["dependencies"], *extras["cluster"], *extras["k8s"], *extras["sql"]]
    return {"build": BUILD, "cpu": base, "cuda": base + extras["train"] + extras["embeddings"]}


def resolved(wanted: list[str]) -> list[dict[str, Any]]:
    """The packages that pip would install for `wanted`: parts of its report."""
    with tempfile.TemporaryDirectory() as folder:
        report, constraints = Path(folder, "report.json"), Path(folder, "constraints.txt")
        constraints.write_text((ROOT / "constraints.txt").read_text())
        subprocess.run(
            [
                sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
                "--only-binary", ":all:", "--no-binary", ",".join(FROM_SOURCE),
                "--constraint", str(constraints), "--report", str(report), *wanted,
            ],
            check=True,
        )  # fmt: skip
        return json.loads(report.read_text())["install"]


def lock_text(packages: list[dict[str, Any]]) -> str:
    """The lock file, for `pip install --require-hashes`."""
    lines = []
    for package in packages:
        name, version = package["metadata"]["name"], package["metadata"]["version"]
        if "+" in version:
            raise SystemExit(f"{name} {version} is a build of this machine. Unset PIP_FIND_LINKS and run it again.")
        digest = package["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name.lower()}=={version} --hash=sha256:{digest}")
    return "# Written by deploy/lock.py; see there.\n" + "\n".join(sorted(lines)) + "\n"


def main() -> None:
    if sys.version_info[:2] != PYTHON:
        raise SystemExit(f"deploy/lock.py: Python {'.'.join(map(str, PYTHON))} is wanted, as in the images.")
    LOCK.mkdir(exist_ok=True)
    for name, wanted in requirements().items():
        path = LOCK / f"{name}.txt"
        path.write_text(lock_text(resolved(wanted)))
        print(f"{path.relative_to(ROOT)}: {len(path.read_text().splitlines()) - 1} packages")


if __name__ == "__main__":
    main()
