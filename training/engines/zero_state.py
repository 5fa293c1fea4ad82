"""Where DeepSpeed keeps the masters and averages of a worker, and how to read and replace them.

    stages 1 and 2   one flat float32 tensor a parameter group, cut into equal parts: a worker's part holds some
                     parameters whole and one or two in part; `_hp_mapping` of a parameter says which values
    stage 3          every parameter flat and cut into equal parts on its own, the last part filled up with zeros

Both change the masters only, then bring what the model computes with up to date.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed

from training.engines import STATES, Fetch, Slice
from training.engines.adamw import start_state
from training.engines.runs import Run, fill_runs, read_runs

_MASTER, _AVERAGES = STATES[0], STATES[1:]


class FlatState:
    """Of stages 1 and 2. `zero`: DeepSpeed's optimizer around `adamw`; `trained`: by name, with their `shapes`."""

    def __init__(
        self,
        zero: Any,
        adamw: torch.optim.AdamW,
        trained: dict[str, torch.nn.Parameter],
        shapes: dict[str, tuple[int, ...]],
    ) -> None:
        self.zero, self.adamw, self.trained, self.shapes = zero, adamw, trained, shapes
        # From here on AdamW's groups hold one tensor each: this worker's part.
        self.parts = [group["params"][0] for group in adamw.param_groups]
        start_state(adamw, self.parts)

    def slices(self) -> Iterator[Slice]:
        return read_runs(self._runs(STATES))

    def set_masters(self, fetch: Fetch) -> None:
        fill_runs(self._runs((_MASTER,)), fetch)
        self.zero.update_lp_params()

    def set_averages(self, fetch: Fetch) -> None:
        fill_runs(self._runs(_AVERAGES), fetch)

    def _runs(self, states: tuple[str, ...]) -> Iterator[Run]:
        for name, parameter in self.trained.items():
            held = parameter._hp_mapping  # type: ignore[attr-defined]
            if held is None:
                continue
            part = self.parts[held.param_group_index]
            flat = {_MASTER: part.detach()} | {one: self.adamw.state[part][one] for one in _AVERAGES}
            where = held.hp_fragment_address
            runs = {state: flat[state].narrow(0, where.start, where.numel) for state in states}
            yield Run(name, self.shapes[name], held.lp_fragment_address.start, runs)


class PartedState:
    """Of stage 3; the arguments are FlatState's."""

    def __init__(
        self,
        zero: Any,
        adamw: torch.optim.AdamW,
        trained: dict[str, torch.nn.Parameter],
        shapes: dict[str, tuple[int, ...]],
    ) -> None:
        self.zero, self.adamw, self.trained, self.shapes = zero, adamw, trained, shapes
        start_state(adamw, zero.fp32_partitioned_groups_flat)

    def slices(self) -> Iterator[Slice]:
        for name, parameter in self.trained.items():
            start, real = self._place(name)
            for state in STATES if real else ():
                yield Slice(name, state, self.shapes[name], start, _part(parameter, state)[:real])

    def set_masters(self, fetch: Fetch) -> None:
        self.zero.checkpoint_event_prologue()  # gives up what is whole, which would be out of date
        self._fill((_MASTER,), fetch)
        for group in range(len(self.zero.fp16_groups)):
            self.zero._reassign_or_swap_out_partitioned_parameters(group)
        self.zero.checkpoint_event_epilogue()

    def set_averages(self, fetch: Fetch) -> None:
        self._fill(_AVERAGES, fetch)

    def _fill(self, states: tuple[str, ...], fetch: Fetch) -> None:
        for name, parameter in self.trained.items():
            start, real = self._place(name)
            for state in states if real else ():
                part = _part(parameter, state)
                part[:real] = fetch(name, state, start, start + real)
                _set_part(parameter, state, part)

    def _place(self, name: str) -> tuple[int, int]:
        """Where this worker's part begins in the flattened parameter, and how many of its values are real."""
        values = math.prod(self.shapes[name])
        size = self.trained[name].partition_numel()  # type: ignore[attr-defined]
        start = min(size * torch.distributed.get_rank(), values)
        return start, min(size, values - start)


def _part(parameter: torch.nn.Parameter, state: str) -> torch.Tensor:
    """This worker's part, flat; a view, or a copy on the device of what is in CPU memory."""
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    if state == _MASTER:
        return safe_get_local_fp32_param(parameter).detach()
    return safe_get_local_optimizer_state(parameter, state)


def _set_part(parameter: torch.nn.Parameter, state: str, part: torch.Tensor) -> None:
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    if state == _MASTER:
        safe_set_local_fp32_param(parameter, part)
    else:
        safe_set_local_optimizer_state(parameter, part, state)
