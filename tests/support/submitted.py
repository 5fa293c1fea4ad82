"""The demo's configs, submitted by the command line to a Ray cluster of this machine."""

import json
import re
from itertools import islice
from pathlib import Path

from raymill.cluster.store.store import Store
from raymill.pipelines.demo.commands import config_text as curate_config
from raymill.pipelines.demo.commands import stage_inputs
from raymill.pipelines.demo.installed import collect, packages
from raymill.training.model_commands import config_text as train_config
from tests.support.processes import Command
from tests.support.ray_cluster import RayCluster

VERBS = ("submit", "runs", "status", "logs", "cancel")
SMALL_UNITS = ("-o", "execution.unit_mib=1")


def write_demo(folder: Path, documents: int = 4000) -> Path:
    """The folder of a demo's run, with its two configs in it and its inputs beside it. Fewer documents than there."""
    stage_inputs(f"{folder}-input", islice(collect(packages()), documents))
    Store().write_bytes(str(folder / "curate.yaml"), curate_config(str(folder)).encode())
    Store().write_bytes(str(folder / "train.yaml"), train_config("lora", str(folder)).encode())
    return folder


def raymill(cluster: RayCluster, *words: str, url: str = "", token: str = "") -> Command:
    address = ["--address", url or cluster.url] if words[0] in VERBS else []
    # An address in the environment must not replace the one that is given.
    return Command(*words, *address, RAY_AUTH_TOKEN=token or cluster.token, RAY_ADDRESS="http://127.0.0.1:9")


def run_of(err: str) -> str:
    """The name of the attempt that `raymill submit` started."""
    found = re.search(r"^(\S+): submitted", err, re.MULTILINE)
    assert found, err
    return found[1]


def digest(output: Path) -> str:
    return json.loads((output / "manifest.json").read_text())["digest"]


def records(output: Path) -> dict[str, bytes]:
    """The committed units of a run: file -> record, with the id of the attempt that committed it."""
    found = {}
    for path in sorted((output / "_commits").glob("*/*.json")):
        found[str(path.relative_to(output))] = path.read_bytes()
    return found


def losses(output: Path) -> dict[int, float]:
    """Step -> loss of a training; the last line counts, if a step was taken again."""
    lines = (json.loads(line) for path in output.rglob("steps.jsonl") for line in path.read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}
