"""A stand-in for torch.nn.attention.varlen.varlen_attn on CPUs: it refuses what the real operator refuses.

The refusals and their messages are those of `mha_varlen_fwd` in PyTorch's
aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp (FlashAttention's csrc/flash_attn/flash_api.cpp has the
same ones) and of `varlen_attn` in torch/nn/attention/varlen.py. Two differ. A tensor must be on the query's device,
where the real operator wants CUDA. And boundaries must begin at 0, never fall, end at the number of positions and hold
no document longer than the given length: the real operator reads outside its tensors, or computes nothing for some of
them, without an error.

It is a custom operator, as the real one is, so a compiler sees one opaque call.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SIXTEEN_BITS = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Call:
    """documents: places of the boundaries, those without a token included."""

    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype]
    documents: int
    heads: tuple[int, int]


# Every call since it was last cleared, of the forward pass.
CALLS: list[Call] = []
# Tests of the arithmetic alone want the digits of float32.
_allowed = SIXTEEN_BITS


def allow_float32(allow: bool) -> None:
    global _allowed
    _allowed = (*SIXTEEN_BITS, torch.float32) if allow else SIXTEEN_BITS


def varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """See torch.nn.attention.varlen: query [positions, heads, D] to the same shape."""
    # Before the call: an operator with an argument on another device would not be reached.
    devices = {part.device for part in (query, key, value, cu_seq_q, cu_seq_k)}
    _check(len(devices) == 1, f"query, key, value and cu_seqlens must be on one device, and are on {devices}")
    heads, kv_heads = query.size(1), key.size(1)
    _check(enable_gqa or heads == kv_heads, "Expect query and key/value to have the same number of heads")
    return _attend(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, list(window_size))


def varlen_attn_without_gqa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """As torch 2.11 has it: it takes fewer key-value heads without being told, as an H100 showed."""
    how = {"scale": scale, "window_size": window_size, "enable_gqa": True}
    return varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **how)


@torch.library.custom_op("raymill_tests::varlen_attn", mutates_args=())
def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    scale: float | None,
    window_size: list[int],
) -> Tensor:
    _refuse(query, key, value, cu_seq_q, max_q)
    _refuse(query, key, value, cu_seq_k, max_k)
    CALLS.append(
        Call((query.dtype, key.dtype, value.dtype), len(cu_seq_q) - 1, (query.shape[1], key.shape[1])),
    )
    weights, _, _, values = _weights(query, key, value, cu_seq_q, scale, window_size)
    return (weights @ values).transpose(0, 1).to(query.dtype, memory_format=torch.contiguous_format, copy=True)


@_attend.register_fake
def _(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size):
    return torch.empty_like(query, memory_format=torch.contiguous_format)


@torch.library.custom_op("raymill_tests::varlen_attn_backward", mutates_args=())
def _attend_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    scale: float | None,
    window_size: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    _check(gradient.dtype == query.dtype, "query and dout must have the same dtype")
    weights, queries, keys, values = _weights(query, key, value, starts, scale, window_size)
    outer = _heads_first(gradient)
    by_weights = outer @ values.transpose(1, 2)
    by_scores = weights * (by_weights - (by_weights * weights).sum(-1, keepdim=True)) * _scale(query, scale)
    by_query = by_scores @ keys
    by_key, by_value = (
        by_heads.unflatten(0, (key.shape[1], -1)).sum(1)
        for by_heads in (by_scores.transpose(1, 2) @ queries, weights.transpose(1, 2) @ outer)
    )
    by_query, by_key, by_value = (
        one.transpose(0, 1).to(query.dtype, memory_format=torch.contiguous_format, copy=True)
        for one in (by_query, by_key, by_value)
    )
    return by_query, by_key, by_value


@_attend_backward.register_fake
def _(gradient, query, key, value, starts, scale, window_size):
    return tuple(torch.empty_like(part, memory_format=torch.contiguous_format) for part in (query, key, value))


def _save(ctx, inputs, output):
    query, key, value, starts, _, _, _, ctx.scale, ctx.window_size = inputs
    ctx.save_for_backward(query, key, value, starts)


def _backward(ctx, gradient):
    gradients = torch.ops.raymill_tests.varlen_attn_backward(gradient, *ctx.saved_tensors, ctx.scale, ctx.window_size)
    return (*gradients, None, None, None, None, None, None)


_attend.register_autograd(_backward, setup_context=_save)


def _refuse(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int) -> None:
    _check(query.dtype in _allowed, "FlashAttention only support fp16 and bf16 data type")
    _check(key.dtype == query.dtype, "query and key must have the same dtype")
    _check(value.dtype == query.dtype, "query and value must have the same dtype")
    _check(starts.dtype == torch.int32, "cu_seqlens must have dtype int32")
    strides = [part.stride(-1) for part in (query, key, value)]
    _check(strides == [1, 1, 1], "Input tensor must have contiguous last dimension")
    _check(starts.is_contiguous(), "cu_seqlens must be contiguous")
    _check(starts.dim() == 1 and len(starts) > 1, "batch size must be positive")
    positions, heads, size = query.shape
    _check(size <= 256, "FlashAttention forward only supports head dimension at most 256")
    _check(size % 8 == 0, "head_size must be a multiple of 8, this is ensured by padding!")
    _check(heads % key.shape[1] == 0, "Number of heads in key/value must divide number of heads in query")
    _check(key.shape == value.shape == (positions, key.shape[1], size), "k must have shape (total_k, num_heads_k, D)")
    lengths = starts.diff()
    _check(int(starts[0]) == 0, f"boundaries begin at {int(starts[0])}, not at 0")
    _check(bool((lengths >= 0).all()), f"boundaries fall: {starts.tolist()}")
    _check(int(starts[-1]) == positions, f"boundaries end at {int(starts[-1])} of {positions} positions")
    _check(int(lengths.max()) <= longest, f"a document of {int(lengths.max())}, and {longest} is given as the longest")


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise RuntimeError(message)


def _weights(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scale: float | None, window_size: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights [H, positions, positions]; queries, keys and values [H, positions, D]; all in float32."""
    queries, keys, values = map(_heads_first, (query, key, value))
    keys, values = (part.repeat_interleave(query.shape[1] // key.shape[1], 0) for part in (keys, values))
    place = torch.arange(len(query))
    document = torch.searchsorted(starts, place, right=True)
    distance = place[:, None] - place
    hidden = document[:, None] != document
    left, right = window_size
    if right >= 0:
        hidden = hidden | (distance < -right)
    if left >= 0:
        hidden = hidden | (distance > left)
    scores = queries @ keys.transpose(1, 2) * _scale(query, scale)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1), queries, keys, values


def _heads_first(states: Tensor) -> Tensor:
    return states.transpose(0, 1).float()


def _scale(query: Tensor, scale: float | None) -> float:
    return query.shape[-1] ** -0.5 if scale is None else scale
