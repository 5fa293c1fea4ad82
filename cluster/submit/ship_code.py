"""Packs the source of a checkout for `raymill submit --ship-code`, so that a cluster runs it instead of its own.

Left out: what .gitignore and .rayignore list, and EXCLUDES. The cluster's dashboard takes at most 100 MiB.
"""

import logging
import sys
import tempfile
from pathlib import Path

import cluster
from cluster.errors import ConfigError
from cluster.ray_private import private
from cluster.submit.backend import NotThere
from cluster.submit.ray_api import RayApi

# client_max_size of the dashboard (ray/dashboard/http_server_head.py).
MOST_BYTES = 100 << 20
EXCLUDES = [".git", ".venv*", "tests", "runs", "build", "*.egg-info", "__pycache__", "deploy", "k8s"]


def ship_code(api: RayApi) -> str:
    """Upload the checkout, unless the cluster has this version of it. Returns the package's URI.

    Raises:
        ConfigError: Raymill is not run from a checkout, or the package is too large.
    """
    root = Path(cluster.__file__).parents[1]
    if not (root / "pyproject.toml").is_file():
        raise ConfigError(
            f"--ship-code: Raymill is installed at {root} and not run from a checkout, so there is no source to ship. "
            "Install a checkout (pip install --editable .), or leave out --ship-code to use the cluster's Raymill."
        )
    uri_of = private("get_uri_for_directory")  # imports Ray, which sets the level of its loggers
    logging.getLogger("ray").setLevel(logging.WARNING)  # it logs each file that it ignores and each step of packing
    uri = uri_of(str(root), include_gitignore=True, excludes=EXCLUDES)
    protocol, _, name = uri.partition("://")
    path = f"/api/packages/{protocol}/{name}"
    try:
        api.get(path)
    except NotThere:
        package = _package(root, name)
        print(f"sending {len(package) / (1 << 20):.1f} MiB of code to {api.address}", file=sys.stderr, flush=True)
        api.put(path, package)
    return uri


def _package(root: Path, name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        private("create_package")(str(root), file, include_gitignore=True, excludes=EXCLUDES)
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise ConfigError(
                f"--ship-code: {root} is {size / (1 << 20):,.0f} MiB packed; a cluster takes {MOST_BYTES >> 20} MiB. "
                "List data and results in .gitignore or .rayignore, or move them out of the checkout."
            )
        return file.read_bytes()
