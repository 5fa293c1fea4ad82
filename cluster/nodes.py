"""The nodes of a Ray cluster, and which of them take the units of a stage.

Units compute on CPUs. If a node without GPUs can take a unit, nodes with GPUs do not get it, so that they are free for
trainings; Ray's own scheduler would use them as soon as the CPUs of the others are busy. Session.nodes lists the nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

_ID, _ACCELERATOR = "ray.io/node-id", "ray.io/accelerator-type"


@dataclass(frozen=True)
class Node:
    """A node, with its resources for tasks. memory: bytes. accelerated: whether it has GPUs or other accelerators."""

    id: str
    cpus: float
    memory: float
    accelerated: bool = False

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Self:
        """From an element of `ray.nodes()`."""
        has = described["Resources"]
        accelerated = has.get("GPU", 0) > 0 or _ACCELERATOR in described["Labels"]
        return cls(described["NodeID"], has.get("CPU", 0), has.get("memory", 0), accelerated)

    def with_resources(self, has: Mapping[str, float]) -> Self:
        """The node with these resources for tasks, such as those that are free."""
        return replace(self, cpus=has.get("CPU", 0), memory=has.get("memory", 0))

    def takes(self, memory: float) -> bool:
        """Whether a task with one CPU and `memory` bytes can run here."""
        return self.cpus >= 1 and self.memory >= memory


def candidates(nodes: Sequence[Node], memory: float = 0) -> list[Node]:
    """The nodes that units of `memory` bytes are given to: those without GPUs if one of them can run such a unit."""
    others = [node for node in nodes if not node.accelerated]
    return others if any(node.takes(memory) for node in others) else list(nodes)


def without_accelerators(nodes: Sequence[Node], memory: float = 0) -> dict[str, str]:
    """The label selector that keeps tasks with one CPU and `memory` bytes off nodes with GPUs.

    Empty if no other node can run them.

    Nodes that join later may take the tasks too. The selector excludes nodes by their ids, because Ray has no label for
    nodes without GPUs. There is no `fallback_strategy`, which Ray follows as soon as the selected nodes are busy.
    """
    excluded = {node.id for node in nodes} - {node.id for node in candidates(nodes, memory)}
    return {_ID: f"!in({','.join(sorted(excluded))})"} if excluded else {}
