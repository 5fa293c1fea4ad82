"""A model's parameters one by one, without a byte of weights: the real model and its adapter on torch's meta device.

So every count is that of the model that will be trained, for any architecture that transformers knows: tied weights
count once, adapters stand where they will stand. An 8B model takes about five seconds.
"""

import functools
import json
from dataclasses import dataclass
from typing import Any

from cluster import storage
from cluster.errors import ConfigError
from training.config import TrainConfig
from training.settings import Model


@dataclass(frozen=True)
class Parameter:
    """layer: the decoder layer it belongs to; None outside of them (embedding, last norm, lm_head)."""

    name: str
    size: int
    trained: bool
    layer: int | None


@dataclass(frozen=True)
class Shape:
    """What the memory model and the price ask of a model.

    Letters: hidden H, feed_forward F, query Q = heads x head size, key K = key-value heads x head size.

    exact: the architecture is a decoder of the Llama kind, whose activations the formulas know; of others they are an
    estimate.
    """

    model_type: str
    parameters: tuple[Parameter, ...]
    layers: int
    hidden: int
    feed_forward: int
    query: int
    key: int
    heads: int
    vocabulary: int
    exact: bool

    @functools.cached_property
    def total(self) -> int:
        return sum(parameter.size for parameter in self.parameters)

    @functools.cached_property
    def trained(self) -> int:
        return sum(parameter.size for parameter in self.parameters if parameter.trained)

    @property
    def frozen(self) -> int:
        return self.total - self.trained
