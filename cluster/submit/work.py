"""What a config asks of a cluster: its run's id, machines, and what must exist before it starts.

Each kind of config has a function that computes this, named in WORK; it runs where `raymill submit` is called and reads
listings and manifests, no data.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from cluster.artifact import fingerprint
from cluster.entry import Entry

# kind -> function (config, seconds or None) -> Work. seconds: the wanted duration of the run; None: no wish.
WORK: dict[str, Callable[[BaseModel, float | None], "Work"]] = {
    "curate": Entry("pipelines.curate.work:work"),
    "train": Entry("training.work:work"),
}

# A RayJob's name has at most 47 characters, and `-a99` counts attempts.
_LONGEST_NAME = 30


@dataclass(frozen=True)
class Machines:
    """A group of equal machines.

    name: DNS label, such as `cpu`. cpus, gpus: of one machine. memory, disk: bytes of one machine; disk is local
    scratch. least, most: number of machines; an autoscaler chooses between them. reasons: name of a field -> sentence
    that says where its value comes from.
    """

    name: str
    cpus: int
    memory: int
    disk: int
    gpus: int = 0
    least: int = 1
    most: int = 1
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """A config as a job.

    verb: of `raymill`. config: its settings as plain JSON values, without secrets. result: fingerprint of the settings
    that decide the result, of the input files and of the output. finished: whether the output has this result already.
    workers: the groups of machines that compute; head: the machine of the driver. must_exist: URIs of files that the
    workers read (the first file of each input, model, tokenizer, lists).
    """

    kind: str
    verb: str
    name: str
    config: Mapping[str, Any]
    result: str
    output: str
    finished: bool
    head: Machines
    workers: tuple[Machines, ...]
    must_exist: tuple[str, ...] = ()

    @property
    def run_id(self) -> str:
        """NAME-FINGERPRINT, a DNS label: equal for equal configs, inputs and outputs."""
        label = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:_LONGEST_NAME].strip("-") or self.kind
        label = label if label[0].isalpha() else f"{self.kind}-{label}"[:_LONGEST_NAME].rstrip("-")
        return f"{label}-{fingerprint([self.kind, self.result, self.output])[:8]}"

    @property
    def config_fingerprint(self) -> str:
        """Of the whole config; two jobs of one run id with different ones (such as other `execution`) are compared."""
        return fingerprint(self.config)
