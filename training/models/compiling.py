"""torch.compile of a model's decoder layers: when it is used, how, what it cost, and what happens where it fails.

The layers are compiled one by one, by their forward alone: equal layers share one graph, so compile time does not grow
with depth, and what an engine hooks to a layer (FSDP2's gathering, activation checkpointing) stays outside the graph.
Training has one graph, two where the input of the first layer needs no gradient (a frozen embedding), and validation
has another.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from cluster.errors import ConfigError
from training.config import TrainConfig
from training.models.fused_loss import Elementwise, elementwise, fusable_elementwise

log = logging.getLogger(__name__)

# transformers' model types whose decoder layer was compiled to one graph, forward and backward, by
# tests/training/models/test_compiling.py. Mixtures of experts are not among them: their routing depends on the data.
KNOWN_TO_COMPILE = frozenset({
    "cohere", "gemma", "gemma2", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3",
    "smollm3", "stablelm", "starcoder2",
})  # fmt: skip

BACKEND = "inductor"


def compile_refusal(config: TrainConfig, model_type: str) -> str | None:
    """Why the layers of this model are not compiled; None where they are. A setting true or false decides alone."""
    if config.compile != "auto":
        return None if config.compile else "compile: false"
    found = {
        "workers have no GPU": config.workers.gpus_each == 0,
        "zero3's gathering hooks break the graphs": config.engine == "zero3",
        "4-bit layers are not known to compile": config.method == "qlora",
        "the cache of method prefix breaks the graphs": config.method == "prefix",
        f"model type {model_type} is not known to compile": model_type not in KNOWN_TO_COMPILE,
    }
    return next((reason for reason, holds in found.items() if holds), None)


def compile_layers(config: TrainConfig, layers: Iterable[nn.Module]) -> None:
    """Compile each layer's forward at its first call.

    Where compiling fails, `compile: auto` warns once and computes the layers uncompiled, with equal results.

    Raises (at the first call):
        ConfigError: compiling failed under `compile: true`.
    """
    # Loaded here alone: it takes seconds, and most trainings on CPUs never compile.
    import torch._dynamo
    import torch._functorch.config

    # DDP's own splitting of graphs at the borders of its buckets is for a model compiled as a whole.
    torch._dynamo.config.optimize_ddp = False
    # The backward graph is compiled with the forward one, so that a failure shows before anything is computed.
    torch._functorch.config.force_non_lazy_backward_lowering = True
    compile_clock.start()
    required = config.compile is True
    fallback = Fallback(required)
    for layer in layers:
        # A layer that falls into several graphs is slow, and a recompile at every step slower than no compile at all:
        # `fullgraph` makes errors of both, which `auto` answers by going without.
        compiled = torch.compile(layer.forward, fullgraph=not required, dynamic=False, backend=BACKEND)
        layer.forward = fallback.around(compiled, layer.forward)  # type: ignore[method-assign]


def elementwise_part(config: TrainConfig) -> Elementwise:
    """What the fused loss does after its logits: on GPUs compiled at its first call, for any model.

    Where compiling fails, as `compile_layers`.
    """
    if not config.workers.gpus_each or config.compile is False:
        return elementwise
    import torch._dynamo

    compile_clock.start()
    # Chunks have one size and the last of a micro-batch any: a graph for the first size, and one for all others.
    compiled = torch.compile(fusable_elementwise, fullgraph=True, backend=BACKEND)
    return Fallback(config.compile is True, "the loss").around(compiled, elementwise)


class Fallback:
    """Calls compiled functions until compiling one fails, and the plain ones after that, or raises if `required`."""

    def __init__(self, required: bool, what: str = "a decoder layer") -> None:
        self.required, self.what = required, what
        self.failed = False

    def around(self, compiled: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
        failures = (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit)

        @functools.wraps(plain)
        def call(*arguments: Any, **named: Any) -> Any:
            if not self.failed:
                try:
                    return compiled(*arguments, **named)
                except failures as error:
                    self._fail(error)
            return plain(*arguments, **named)

        return call

    def _fail(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {_short(error)}"
        if self.required:
            raise ConfigError(
                f"compile: torch.compile failed on {self.what} ({reason}). Set compile: auto to train without it "
                "where it fails, or compile: false. TORCH_LOGS=graph_breaks,recompiles prints the details."
            ) from error
        self.failed = True
        # An error of the compiler quotes code, never a document's text.
        log.warning(
            "torch.compile failed on %s (%s); training goes on uncompiled, slower and with "
            "equal results. compile: false avoids the attempt; TORCH_LOGS=graph_breaks,recompiles prints the details",
            self.what,
            reason,
        )


def _short(error: Exception) -> str:
    """The first two lines: the first often names the backend alone."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or "no message"


class CompileClock:
    """Seconds that torch.compile has taken in this process, counted from `start`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.compiles = 0
        self._began = 0.0

    def start(self) -> None:
        handler = torch._dynamo.callback_handler
        if self._begin not in handler.start_callbacks:  # `torch._dynamo.reset` removes them
            handler.register_start_callback(self._begin)
            handler.register_end_callback(self._end)

    def _begin(self, _: Any) -> None:
        self._began = time.perf_counter()

    def _end(self, _: Any) -> None:
        took = time.perf_counter() - self._began
        self.seconds += took
        self.compiles += 1
        log.info("torch.compile: compile %d took %.1f s", self.compiles, took)


compile_clock = CompileClock()
