"""Who holds weights, gradients and optimizer state, and how a step is taken: DDP, DeepSpeed ZeRO 1 to 3, FSDP2.

The loop knows only this file. Gradients add up: over the micro-batches of a step and over all workers. So the loop
divides each loss by the one denominator of the whole step (its label tokens over all workers and micro-batches), and
an engine whose library averages over workers undoes that average.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from training.config import TrainConfig

# What is kept of a trained parameter: the float32 master weight, and AdamW's two running averages.
STATES = ("param", "exp_avg", "exp_avg_sq")

# ZeRO: values of one communication, and of the buffer it needs.
BUCKET_VALUES = 1 << 26
# ZeRO-3 keeps tensors of fewer values whole on every worker: norms, and the matrices of most adapters.
WHOLE_BELOW_VALUES = 100_000


@dataclass(frozen=True)
class Slice:
    """A run of values of one state of one parameter, in the parameter's flattened (row-major) order.

    name: as the model names the parameter, without what an engine's wrapper puts before it. values: float32, flat, on
    the CPU or the device; a view is allowed, the taker copies. The whole parameter has `shape`.
    """

    name: str
    state: str
    shape: tuple[int, ...]
    start: int
    values: "torch.Tensor"


# (name, state, start, stop) -> float32 values on the CPU: reads any run of a saved state.
Fetch = Callable[[str, str, int, int], "torch.Tensor"]


class Engine(Protocol):
    """One worker's part of a model in training. Every method is called by all workers alike.

    module: call it on a batch's tensors; it returns (sum of losses, number of correct predictions).
    """

    module: "torch.nn.Module"

    def backward(self, loss: "torch.Tensor", last: bool) -> None:
        """Add the gradients of `loss`; `last`: of the step's micro-batches. Workers may be synchronised only then."""

    def step(self, learning_rate: float, clip: float | None) -> float:
        """Update the weights and forget the gradients; the global gradient norm before clipping, also when not finite.

        A gradient that is not finite changes nothing.
        """

    def slices(self) -> Iterator[Slice]:
        """The training state as far as this worker has it to save: over all workers, every value exactly once."""

    def load(self, fetch: Fetch, steps_taken: int) -> None:
        """Take over a saved state, made by any engine on any number of workers. `steps_taken` by its optimizer."""

    def close(self) -> None:
        """Free what the engine holds. The process group stays."""


def make_engine(config: "TrainConfig", module: "torch.nn.Module", device: "torch.device") -> Engine:
    """The engine that `config.engine` names, around a module with equal weights on every worker.

    Parameters that need no gradient are frozen: they are neither saved nor updated. Needs torch.distributed set up.
    """
    match config.engine:
        case "ddp":
            from training.engines.ddp import Ddp

            return Ddp(config, module, device)
        case "fsdp2":
            from training.engines.fsdp import Fsdp

            return Fsdp(config, module, device)
        case _:
            from training.engines.zero import Zero

            return Zero(config, module, device)
