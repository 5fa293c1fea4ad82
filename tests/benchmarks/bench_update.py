"""One clipped update of AdamW: processor time with clipping inside of its kernel, and before it, one core.

    python -m tests.benchmarks.bench_update [--values 48000000]

And the adapters of rank 16 of one layer, forward and backward pass: each with a product of its own, as they are, and
with one product for those that share an input (q, k, v; gate, up).
"""

import argparse
import time
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from raymill.training.engines.muon import USES_MUON, MuonAdamW
from raymill.training.engines.optimizer import take_step
from tests.benchmarks.timing import machine, processor_seconds

_PARTS, _RUNS = 24, 25
_HIDDEN, _TOKENS, _RANK = 1024, 1024, 16
_GROUPS = ({"q": 1024, "k": 256, "v": 256}, {"gate": 3584, "up": 3584})  # rows of matrices that share an input


def update(values: int, inside: bool) -> float:
    """Seconds of a clipped update. MuonAdamW without matrices of its own is AdamW that is clipped before."""
    parameters = [torch.nn.Parameter(torch.randn(values // _PARTS)) for _ in range(_PARTS)]
    kind = torch.optim.AdamW if inside else MuonAdamW
    adamw = kind([{"params": parameters, "rate_factor": 1.0, USES_MUON: False}], fused=True)
    gradients = [torch.randn_like(one) for one in parameters]
    taken = []
    for _ in range(_RUNS):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        start = time.process_time()
        take_step(adamw, 1e-3, 1.0, sharded=False)
        taken.append(time.process_time() - start)
    return median(taken)


def adapters(stacked: bool, with_base: bool) -> float:
    """Seconds of the adapted products of a layer that share an input. with_base: with the base's own products."""

    def drawn(*shape: int) -> Tensor:
        return (torch.randn(shape) * 0.02).requires_grad_()

    hidden = drawn(1, _TOKENS, _HIDDEN)
    weights = [[torch.randn(rows, _HIDDEN) for rows in group.values()] for group in _GROUPS]
    a = [
        [drawn(_RANK * len(group), _HIDDEN)] if stacked else [drawn(_RANK, _HIDDEN) for _ in group] for group in _GROUPS
    ]
    b = [[drawn(rows, _RANK) for rows in group.values()] for group in _GROUPS]

    def passes() -> None:
        total = torch.zeros(())
        for of_base, of_a, of_b in zip(weights, a, b, strict=True):
            narrow = F.linear(hidden, of_a[0]).split(_RANK, -1) if stacked else [F.linear(hidden, one) for one in of_a]
            for base, part, wide in zip(of_base, narrow, of_b, strict=True):
                result = F.linear(part, wide)
                total = total + (result + F.linear(hidden, base) if with_base else result).sum()
        total.backward()

    return processor_seconds(passes, _RUNS)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--values", type=int, default=48_000_000)
    values = parser.parse_args().values
    torch.set_num_threads(1)
    print(machine("torch"))
    for inside in (False, True) * 2:
        name = "inside of the kernel" if inside else "before"
        print(f"update of {values:,} values, clipped {name}: {1000 * update(values, inside):.1f} ms")
    for with_base in (False, True):
        for stacked in (False, True):
            name = "stacked" if stacked else "each its own"
            beside = " with the base's products" if with_base else ""
            print(f"adapters of a layer, A {name}{beside}: {1000 * adapters(stacked, with_base):.1f} ms")


if __name__ == "__main__":
    main()
