"""NEFTune: uniform noise on the token embeddings in training (Jain et al. 2023, arXiv 2310.05914).

Of a document of L tokens with embeddings of D values, each value gets alpha / sqrt(L D) times a number from -1 to 1.
Each row of a step draws its numbers with a seed of its own, from the run's seed, the number of the step and the row's
tokens. So they depend neither on the number of workers nor on the rows of a micro-batch, and a resumed training draws
them again. Packing changes the numbers of a document but not their scale. Padding has no noise.

TRL and axolotl divide by the tokens of the row, which for packed rows is less noise on each document.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from raymill.training.data.batch import Batch


class EmbeddingNoise:
    """The noise of one training. embeddings: the module that gives the token embeddings."""

    def __init__(self, alpha: float, seed: int, embeddings: nn.Module) -> None:
        self.alpha, self.seed = alpha, seed
        weight = embeddings.weight
        assert isinstance(weight, Tensor)
        self.width = weight.shape[1]  # before an engine shards it
        self._current: Tensor | None = None  # of the forward pass that is running
        embeddings.register_forward_hook(self._add)

    def of(self, batch: Batch, step: int, device: torch.device | str) -> Tensor:
        """The noise of a micro-batch. step: counted from 0, over all runs that were continued."""
        scale = self.alpha / np.sqrt(document_lengths(batch) * float(self.width)) * batch.real
        noise = torch.zeros((*batch.input_ids.shape, self.width), device=device)
        generator = torch.Generator(device)
        for row, digest in zip(noise, batch.row_digests.tolist(), strict=False):
            generator.manual_seed(_seed(self.seed, step, digest))
            row.uniform_(-1, 1, generator=generator)
        return noise.mul_(torch.from_numpy(scale.astype(np.float32)).to(device)[..., None])

    @contextmanager
    def added(self, noise: Tensor | None) -> Iterator[None]:
        """Inside this context, the noise is added to the embeddings. noise: float32[B, T, D]; None: none."""
        self._current = noise
        try:
            yield
        finally:
            self._current = None

    def _add(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output if self._current is None else output + self._current.to(output.dtype)


def document_lengths(batch: Batch) -> np.ndarray:
    """The tokens of each position's document, int64[B, T]; padding after a row's documents counts as one."""
    begins = np.flatnonzero(batch.position_ids == 0)
    lengths = np.diff(begins, append=batch.position_ids.size)
    return np.repeat(lengths, lengths).reshape(batch.position_ids.shape)


def _seed(seed: int, step: int, digest: int) -> int:
    return int.from_bytes(hashlib.sha256(f"noise,{seed},{step},{digest}".encode()).digest()[:8], "big") >> 1
