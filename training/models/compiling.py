"""torch.compile of a model's decoder layers: when it is used, the fallback if it fails, and the time it takes.

The forward of each layer is compiled on its own. Equal layers share one graph, so compile time does not grow with
depth, and an engine's hooks on a layer (FSDP2's gathering, activation checkpointing) stay outside the graph. Training
has one graph, or two if the input of the first layer needs no gradient (a frozen embedding); validation has another.
"""

import functools
import importlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn

from raymill.cluster.errors import ConfigError
from raymill.training.compile_choice import KEPT_SHARE
from raymill.training.models.loss import Elementwise, elementwise, fusable_elementwise

log = logging.getLogger(__name__)

BACKEND = "inductor"


def compile_layers(layers: Iterable[nn.Module], required: bool, selective: bool = False) -> None:
    """Replace each layer's forward by a compiled one; it is compiled at its first call.

    If compiling fails and is not `required`, a warning is logged once and the layers are computed uncompiled, with
    equal results. selective: keep at most KEPT_SHARE of the activations.

    Raises (at the first call):
        ConfigError: compiling failed and is `required`.
    """
    _load_compiler()
    # DDP splits graphs at its bucket borders, which is meant for a model compiled as a whole.
    torch._dynamo.config.optimize_ddp = False
    # Compile the backward graph together with the forward one, so that a failure occurs before anything is computed.
    torch._functorch.config.force_non_lazy_backward_lowering = True
    torch._functorch.config.activation_memory_budget = KEPT_SHARE if selective else 1.0
    compile_clock.start()
    fallback = Fallback(required)
    for layer in layers:
        forward = functools.partial(_forward_of_class, layer)
        # `fullgraph` raises if a layer splits into several graphs (slow) or is recompiled too often (slower than no
        # compile); under `auto` the layer is then computed uncompiled.
        compiled = torch.compile(forward, fullgraph=not required, dynamic=False, backend=BACKEND)
        layer.forward = fallback.wrap(compiled, forward)  # type: ignore[method-assign]


def _forward_of_class(layer: nn.Module, *arguments: Any, **named: Any) -> Any:
    """Call the forward of the layer's class as it is at the time of the call.

    `fully_shard` changes the class after this module has compiled the layer, and transformers recomputes activations
    only in the forward of a layer's present class: the forward of the earlier class would keep them all.
    """
    return type(layer).forward(layer, *arguments, **named)


def elementwise_part(setting: Literal["auto"] | bool, on_gpu: bool) -> Elementwise:
    """The `after_logits` of the fused loss; on GPUs compiled at its first call, whatever the model.

    A failure to compile is handled as in `compile_layers`. setting: the config's `compile`.
    """
    if not on_gpu or setting is False:
        return elementwise
    _load_compiler()
    compile_clock.start()
    # All chunks but the last of a micro-batch have one size: one graph for that size, and a dynamic one for others.
    compiled = torch.compile(fusable_elementwise, fullgraph=True, backend=BACKEND)
    return Fallback(setting is True, "the loss").wrap(compiled, elementwise)


def _load_compiler() -> None:
    """Import torch's compiler. It takes seconds, and most trainings on CPUs never use it, so it is not at the top."""
    for name in ("torch._dynamo", "torch._functorch.config"):
        importlib.import_module(name)


class Fallback:
    """Calls compiled functions until compiling one of them fails; then the uncompiled ones, or raises if `required`.

    what: the compiled thing, for messages.
    """

    def __init__(self, required: bool, what: str = "a decoder layer") -> None:
        self.required, self.what = required, what
        self.failed = False

    def wrap(self, compiled: Callable[..., Any], uncompiled: Callable[..., Any]) -> Callable[..., Any]:
        """A function that calls `compiled`, or `uncompiled` after a failure."""
        failures = (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit)

        @functools.wraps(uncompiled)
        def call(*arguments: Any, **named: Any) -> Any:
            if not self.failed:
                try:
                    return compiled(*arguments, **named)
                except failures as error:
                    self._fail(error)
            return uncompiled(*arguments, **named)

        return call

    def _fail(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {_short(error)}"
        if self.required:
            raise ConfigError(
                f"compile: torch.compile failed on {self.what} ({reason}). Set compile: auto to continue "
                "uncompiled after a failure, or compile: false. TORCH_LOGS=graph_breaks,recompiles prints the details."
            ) from error
        self.failed = True
        # Safe to log: compiler errors quote code, never a document's text.
        log.warning(
            "torch.compile failed on %s (%s); training continues uncompiled, slower and with "
            "equal results. compile: false leaves compiling out; TORCH_LOGS=graph_breaks,recompiles prints the details",
            self.what,
            reason,
        )


def _short(error: Exception) -> str:
    """The first two lines of the message; the first alone often only names the backend."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or "no message"


class CompileClock:
    """Seconds spent in torch.compile in this process since `start`, and the number of compiles."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.compiles = 0
        self._began = 0.0

    def start(self) -> None:
        """Count from now on; calling it again has no effect."""
        handler = torch._dynamo.callback_handler
        if self._begin not in handler.start_callbacks:  # torch._dynamo.reset removes callbacks
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
