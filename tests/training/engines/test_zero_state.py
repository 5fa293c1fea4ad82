"""The optimizer state of ZeRO's stages, from parts as DeepSpeed makes them, without DeepSpeed and process groups."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raymill.training.engines.engine import STATES
from raymill.training.engines.zero import FlatState, ShardedState

SHAPES = {"a": (2, 5), "b": (2,)}


def numbers(name: str, state: str, start: int, stop: int) -> torch.Tensor:
    """The values of a range of a parameter's state: each says what it is."""
    return torch.arange(start, stop) + 100.0 * (1 + STATES.index(state)) + 1000.0 * (name == "b")


class Zero3:
    """DeepSpeed's optimizer of stage 3, as far as the state uses it: parts with padding, and what is called when."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.parameters: dict[str, Any] = {
            name: SimpleNamespace(name=name, partition_numel=lambda size=size: size) for name, size in sizes.items()
        }
        self.parts = {(name, state): torch.full((size,), -1.0) for name, size in sizes.items() for state in STATES}
        self.fp32_partitioned_groups_flat = [torch.zeros(3, requires_grad=True)]
        self.fp16_groups = ["first", "second"]
        self.calls: list[str] = []

    def checkpoint_event_prologue(self) -> None:
        self.calls.append("prologue")

    def checkpoint_event_epilogue(self) -> None:
        self.calls.append("epilogue")

    def _reassign_or_swap_out_partitioned_parameters(self, group: int) -> None:
        self.calls.append(self.fp16_groups[group])

    # The functions of deepspeed.utils.

    def safe_get_local_fp32_param(self, parameter: Any) -> torch.Tensor:
        return self.parts[parameter.name, STATES[0]].clone()  # as of an offloaded state: a copy

    def safe_get_local_optimizer_state(self, parameter: Any, state: str) -> torch.Tensor:
        return self.parts[parameter.name, state].clone()

    def safe_set_local_fp32_param(self, parameter: Any, part: torch.Tensor) -> None:
        self.calls.append("set")
        self.parts[parameter.name, STATES[0]] = part

    def safe_set_local_optimizer_state(self, parameter: Any, part: torch.Tensor, state: str) -> None:
        self.parts[parameter.name, state] = part


@pytest.mark.parametrize(
    ("rank", "ranges"),
    [(0, {"a": (0, 3), "b": (0, 1)}), (1, {"a": (3, 6), "b": (1, 2)}), (2, {"a": (6, 9)}), (3, {"a": (9, 10)})],
)
def test_a_shard_of_stage_3_has_its_values_and_its_padding_is_left_alone(rank, ranges, monkeypatch):
    """10 values in four parts of 3, and 2 values in four parts of 1."""
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    zero: Any = Zero3({"a": 3, "b": 1})
    adamw = torch.optim.AdamW(zero.fp32_partitioned_groups_flat)
    state = ShardedState(zero, adamw, zero.parameters, SHAPES, STATES, zero)
    state.set_masters(numbers)
    assert zero.calls == ["prologue", *["set"] * len(ranges), "first", "second", "epilogue"]
    assert all((zero.parts[name, one] == -1).all() for name in SHAPES for one in STATES[1:])
    state.set_averages(numbers)
    found = list(state.slices())
    assert [(one.name, one.state, one.start) for one in found] == [
        (name, state, start) for name, (start, _) in ranges.items() for state in STATES
    ]
    for one in found:
        wanted = numbers(one.name, one.state, *ranges[one.name])
        assert one.shape == SHAPES[one.name] and one.values.tolist() == wanted.tolist()
        padding = zero.parts[one.name, one.state][len(wanted) :]
        assert (padding == -1).all()


def test_a_part_of_stages_1_and_2_holds_ranges_of_parameters():
    """The second of two workers: of `a` the values from 6 on, in the second group `b` from its first value; no `c`."""
    parts = [torch.zeros(5, requires_grad=True), torch.zeros(3, requires_grad=True)]
    adamw = torch.optim.AdamW([{"params": [part]} for part in parts])

    def held(group: int, start: int, numel: int, own: int) -> Any:
        return SimpleNamespace(
            _hp_mapping=SimpleNamespace(
                param_group_index=group, hp_fragment_address=SimpleNamespace(start=start, numel=numel),
                lp_fragment_address=SimpleNamespace(start=own),
            )
        )  # fmt: skip

    trained: Any = {"a": held(0, 1, 4, 6), "b": held(1, 0, 2, 0), "c": SimpleNamespace(_hp_mapping=None)}
    updated: list[list[float]] = []
    zero = SimpleNamespace(update_lp_params=lambda: updated.append(parts[0].tolist()))
    state = FlatState(zero, adamw, trained, SHAPES | {"c": (4,)}, STATES)
    state.set_masters(numbers)
    assert updated == [[0, 106, 107, 108, 109]], "the weights follow the master weights once these are set"
    state.set_averages(numbers)
    assert parts[1].tolist() == [1100, 1101, 0]
    assert adamw.state[parts[0]]["exp_avg"].tolist() == [0, 206, 207, 208, 209]
    assert adamw.state[parts[1]]["exp_avg_sq"].tolist() == [1300, 1301, 0]
    assert [(one.name, one.state, one.shape, one.start, len(one.values)) for one in state.slices()] == [
        *[("a", one, (2, 5), 6, 4) for one in STATES], *[("b", one, (2,), 0, 2) for one in STATES]
    ]  # fmt: skip
