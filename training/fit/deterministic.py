"""Equal bits from equal runs on a GPU, at a price in speed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Read when a library is first used.
# cuBLAS: "Results reproducibility" in its documentation; two buffers of fixed size for each stream.
# NCCL: NVLS, and between nodes NVLSTree, add inside the NVLink switch, in no fixed order. A list that begins with ^
# excludes (https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-algo). torch's ProcessGroupNCCL and
# Megatron-LM's deterministic mode set ^NVLS; NVLSTree has the same additions.
ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NCCL_ALGO": "^NVLS,NVLSTree"}


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Inside, if it is wanted, every operator of torch adds in a fixed order; one that cannot raises an error.

    Of this training's operators that changes the backward of the attention kernels, of embeddings and of indexing,
    which add with atomics otherwise. Memory that is allocated is not filled, since all of it is written before it is
    read. ENVIRONMENT is set where the user has not set it, and stays. Enter it before the workers' first collective,
    at which NCCL reads its part.
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
