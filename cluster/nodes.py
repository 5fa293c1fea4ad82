"""The nodes of a Ray cluster, and which of them take the units of a stage.

Units compute on CPUs. Nodes with GPUs are left to trainings while a node without one can take the unit: Ray's own
scheduler prefers those only until their CPUs are busy. Pure: Session.nodes gives the nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

_ID, _ACCELERATOR = "ray.io/node-id", "ray.io/accelerator-type"


@dataclass(frozen=True)
class Node:
    """A node, with what Ray has there for tasks. memory: bytes. accelerated: it has GPUs, or other accelerators."""

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

    def takes(self, memory: float) -> bool:
        """Whether a task with a CPU and so many bytes of memory can run here."""
        return self.cpus >= 1 and self.memory >= memory


def without_accelerators(nodes: Sequence[Node], memory: float = 0) -> dict[str, str]:
    """The label selector of tasks with a CPU and so many bytes: no node with GPUs. Empty if only such nodes take them.

    Nodes that join later may take the tasks too. A selector of what a node is not, because Ray labels no node as one
    without GPUs; and no `fallback_strategy`, which Ray follows as soon as the nodes of the selector are busy.
    """
    accelerated = [node.id for node in nodes if node.accelerated]
    if not accelerated or not any(node.takes(memory) for node in nodes if not node.accelerated):
        return {}
    return {_ID: f"!in({','.join(sorted(accelerated))})"}
