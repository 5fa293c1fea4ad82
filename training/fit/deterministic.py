"""Deterministic algorithms of torch, cuBLAS and NCCL: equal runs on GPUs give equal bits, more slowly."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# The libraries read these when they are first used.
# cuBLAS: "Results reproducibility" in its documentation; two workspaces of fixed size per stream.
# NCCL: NVLS, and between nodes NVLSTree, sum inside the NVLink switch in no fixed order. A list that begins with ^
# excludes its algorithms (https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-algo). torch's
# ProcessGroupNCCL and Megatron-LM's deterministic mode set ^NVLS; NVLSTree sums in the same way.
ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NCCL_ALGO": "^NVLS,NVLSTree"}


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Inside the context, if `wanted`, torch sums in a fixed order; an operator that cannot raises a RuntimeError.

    Enter it before the workers' first collective, when NCCL reads its setting. ENVIRONMENT is set as far as the user
    has not set it, and stays set. Of this training's operators the backward passes of attention kernels, embeddings and
    indexing change; otherwise they use atomic additions. Allocated memory is not filled, since it is always written
    before it is read.
    """
    if not wanted:
        yield
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = before[3]
