"""The nodes of a Ray cluster, and which of them take the units of a stage.

Units compute on CPUs, unless their stage asks for more. If a node without GPUs can take a unit, nodes with GPUs do not
get it, so that they are free for trainings; Ray's own scheduler would use them as soon as the CPUs of the others are
busy. Session.nodes lists the nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

_ID, _ACCELERATOR = "ray.io/node-id", "ray.io/accelerator-type"

# Amounts by Ray's names of resources: CPU, GPU, memory in bytes, and custom ones.
Resources = Mapping[str, float]


@dataclass(frozen=True)
class Node:
    """A node, with its resources for tasks. accelerated: whether it has GPUs or other accelerators."""

    id: str
    has: Resources
    accelerated: bool = False

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Self:
        """From an element of `ray.nodes()`."""
        has = described["Resources"]
        return cls(described["NodeID"], has, has.get("GPU", 0) > 0 or _ACCELERATOR in described["Labels"])

    def takes(self, wanted: Resources) -> bool:
        """Whether a task that reserves these resources can run here."""
        return all(self.has.get(name, 0) >= amount for name, amount in wanted.items())


ONE_CPU: Resources = {"CPU": 1}


def candidates(nodes: Sequence[Node], wanted: Resources = ONE_CPU) -> list[Node]:
    """The nodes that units are given to: those without GPUs if one of them can run such a unit."""
    others = [node for node in nodes if not node.accelerated]
    return others if any(node.takes(wanted) for node in others) else list(nodes)


def without_accelerators(nodes: Sequence[Node], wanted: Resources = ONE_CPU) -> dict[str, str]:
    """The label selector that keeps tasks off nodes with GPUs; empty if no other node can run them.

    Nodes that join later may take the tasks too. The selector excludes nodes by their ids, because Ray has no label for
    nodes without GPUs. There is no `fallback_strategy`, which Ray follows as soon as the selected nodes are busy.
    """
    excluded = {node.id for node in nodes} - {node.id for node in candidates(nodes, wanted)}
    return {_ID: f"!in({','.join(sorted(excluded))})"} if excluded else {}
