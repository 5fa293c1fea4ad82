"""The choice of a model's attention implementation, and the variable-length kernel for packed rows.

Letters: B rows, T positions, H heads, K key-value heads, D head size, S the capacity of the document boundaries.

Attention stays inside a document (position ids restart at each). For sdpa and eager, transformers builds a [T, T] mask
from the position ids, which costs memory and excludes the fast kernels. `varlen` (torch's own FlashAttention binding,
no further package) takes the batch's rows laid end to end and the positions where documents begin: work falls from
T x T to the sum of squares of the documents' lengths. It needs a GPU and 16-bit values.

Where several workers share a row (context.py), both functions of this file exchange positions for heads around the
kernel. `documents` is for devices and number types that the kernel does not compute: torch's sdpa of one document after
the other.
"""

import inspect
import itertools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry, register_flop_formula
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface
from transformers.utils import is_flash_attn_2_available

from raymill.cluster.errors import ConfigError
from raymill.training.context_heads import refuse_heads, repeats_of
from raymill.training.data.batch import document_starts
from raymill.training.models.context import ContextParallel, all_heads, all_positions

try:
    from torch.nn.attention.varlen import varlen_attn as _varlen_attn
except ImportError:  # torch before 2.10
    _varlen_attn = None  # type: ignore[assignment]

_PARAMETERS = inspect.signature(_varlen_attn).parameters.keys() if _varlen_attn is not None else set()
# torch's kernel; None in versions without the arguments for scale and window (2.10).
_KERNEL: Any = _varlen_attn if {"scale", "window_size"} <= _PARAMETERS else None
# Fewer key-value heads than heads: torch 2.13 wants this flag, 2.11 takes them without one, with equal results and
# gradients (measured on an H100).
_GROUPED = {"enable_gqa": True} if "enable_gqa" in _PARAMETERS else {}

VARLEN, DOCUMENTS = "raymill_varlen", "raymill_documents"
# Implementations that take document boundaries as arguments and need no mask.
_WITH_BOUNDARIES = (VARLEN, DOCUMENTS, "flash_attention_2")
# Limits in PyTorch's and FlashAttention's flash_api.cpp.
_MAX_HEAD_DIM = 256
_HEAD_DIM_STEP = 8

# Of the batch with which `require_independence` checks a model: tokens; two documents make a row.
_DOCUMENT, _ROW = 6, 12
# Largest differences due to rounding: as a fraction of the largest hidden state; of probabilities, half their sum.
_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
_MOST_MOVED = {torch.float32: 0.01, torch.bfloat16: 0.2, torch.float16: 0.1}


def choose_attention(
    wanted: str, config: Any, device: str, bf16: bool, virtual_tokens: bool, context_workers: int = 1
) -> str | None:
    """transformers' name of the attention; None for its default (sdpa if the model supports it, else eager).

    Args:
        wanted: the setting `attention`. config: the model's transformers config.
        device: type of the device that will compute; the model may be built on another.
        virtual_tokens: virtual tokens precede each row, so there are more keys than queries.
        context_workers: number of workers that share a row.

    Raises:
        ConfigError: the wanted implementation cannot compute this model on this device, or workers cannot share a row.
    """
    if context_workers > 1:
        refuse_context(config, context_workers)
        if wanted == "sdpa" or (wanted == "auto" and _not_varlen(config, device, bf16, virtual_tokens)):
            return DOCUMENTS
    if wanted == "auto":
        return None if _not_varlen(config, device, bf16, virtual_tokens) else VARLEN
    if wanted not in ("varlen", "flash_attention_2"):
        return wanted
    reasons = (_not_varlen if wanted == "varlen" else _not_flash)(config, device, bf16, virtual_tokens)
    if reasons:
        raise ConfigError(f"attention: {wanted} does not fit: {'; '.join(reasons)}. Use auto.")
    if wanted == "varlen":
        return VARLEN
    if not is_flash_attn_2_available():
        raise ConfigError(
            "attention: flash_attention_2 needs the package flash-attn, which is not installed. Install it, or use "
            "attention: auto, which needs no further package."
        )
    return wanted


def refuse_context(config: Any, workers: int) -> None:
    """Check that `workers` workers can share the rows of this model. config: the model's transformers config.

    Raises:
        ConfigError: they cannot; the message has the reasons.
    """
    if reasons := _not_by_boundaries(config):
        raise ConfigError(
            f"workers.context: workers cannot share rows of this model: {'; '.join(reasons)}. Set workers.context: 1."
        )
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", 1)
    refuse_heads(heads, getattr(text, "num_key_value_heads", None) or heads, workers)


def dense_mask_warning(
    wanted: str, used: str, config: Any, device: str, bf16: bool, virtual_tokens: bool, length: int
) -> str | None:
    """A warning if `auto` uses a dense mask on a GPU, with the reasons and the cost; else None.

    Arguments as `choose_attention`; used: transformers' name of the attention in use; length: T. With virtual tokens a
    row is one document and needs no mask.
    """
    if wanted != "auto" or device != "cuda" or used in _WITH_BOUNDARIES or virtual_tokens:
        return None
    why = "; ".join(_not_varlen(config, device, bf16, virtual_tokens))
    return (
        f"attention {used} with a dense mask of {length} x {length} for each row, since the variable-length kernel "
        f"does not fit: {why}. A step takes more than twice as long as with the kernel, and more memory."
    )


def _not_varlen(config: Any, device: str, bf16: bool, virtual_tokens: bool) -> list[str]:
    """The reasons why torch's variable-length kernel cannot compute this model; empty if it can."""
    missing = [] if _KERNEL else ["this version of torch has no varlen_attn with a scale and a window (2.11 has)"]
    return _not_flash(config, device, bf16, virtual_tokens) + missing


def _not_flash(config: Any, device: str, bf16: bool, virtual_tokens: bool) -> list[str]:
    """The reasons why FlashAttention, in any binding, cannot compute this model; empty if it can."""
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", 1)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    found = {
        "it needs a GPU": device != "cuda",
        "it needs precision bf16": not bf16,
        "virtual tokens precede every row": virtual_tokens,
        f"head size {head_dim} is above {_MAX_HEAD_DIM}": head_dim > _MAX_HEAD_DIM,
        f"head size {head_dim} is no multiple of {_HEAD_DIM_STEP}": head_dim % _HEAD_DIM_STEP > 0,
    }
    return [reason for reason, holds in found.items() if holds] + _not_by_boundaries(config)


def _not_by_boundaries(config: Any) -> list[str]:
    """The reasons why no implementation that takes document boundaries can compute this model; empty if one can."""
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    config = config.get_text_config()
    dropout = getattr(config, "attention_dropout", 0.0) or getattr(config, "attn_pdrop", 0.0)
    found = {
        "the model has its own implementation of attention": not getattr(model, "_supports_attention_backend", False),
        "the model caps its attention scores": bool(getattr(config, "attn_logit_softcapping", None)),
        "the model has attention sinks": config.model_type.startswith("gpt_oss"),
        f"attention dropout is {dropout}": bool(dropout),
    }
    return [reason for reason, holds in found.items() if holds]


def boundaries(
    implementation: str, starts: Tensor, length: int, context: ContextParallel | None = None
) -> dict[str, Any]:
    """The attention's arguments that mark the documents of a batch; empty for implementations that read a mask.

    Args:
        starts: int32[S + 1], `Batch.starts` on the device.
        length: positions of a row on this worker. T is passed as the length of the longest document too: an upper
            bound, because a compiled model has one graph for each value.
        context: the workers that share the rows.
    """
    if implementation not in _WITH_BOUNDARIES:
        return {}
    shared = {} if context is None else {"context": context}
    length *= 1 if context is None else context.workers
    return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": length, "max_length_k": length, **shared}


def varlen_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **how: Any
) -> tuple[Tensor, None]:
    """The kernel as an attention function of transformers: query [B, H, T, D], key, value [B, K, T, D] to [B, T, H, D].

    how: cu_seq_lens_q and max_length_q from `boundaries`; scaling, sliding_window (positions seen, itself included).
    """
    query, key, value = _gathered(VARLEN, query, key, value, attention_mask, how)
    rows, heads, length, head_dim = query.shape
    window = how.get("sliding_window")
    causal = getattr(module, "is_causal", True)
    # A rotary embedding in float32 leaves queries and keys in float32 and values in bf16; the kernel takes one type.
    query, key = query.to(value.dtype), key.to(value.dtype)
    assert _KERNEL is not None
    out = _KERNEL(
        *(states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)),  # [B, H, T, D] to [B T, H, D]
        how["cu_seq_lens_q"], how["cu_seq_lens_q"], how["max_length_q"], how["max_length_q"],
        scale=how.get("scaling"), window_size=(window - 1 if window else -1, 0 if causal else -1),
        **(_GROUPED if key.shape[1] != heads else {}),
    )  # fmt: skip
    return all_heads(out.view(rows, length, heads, head_dim), how.get("context")), None


def documents_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **how: Any
) -> tuple[Tensor, None]:
    """torch's sdpa of one document after the other, as an attention function of transformers; see `varlen_attention`.

    On a GPU every call waits for the boundaries.
    """
    query, key, value = _gathered(DOCUMENTS, query, key, value, attention_mask, how)
    rows, _, length, _ = query.shape
    key, query = key.to(value.dtype), query.to(value.dtype)
    query, key, value = (states.transpose(0, 1).flatten(1, 2) for states in (query, key, value))  # to [H, B T, D]
    scale, window = how.get("scaling"), how.get("sliding_window")
    starts = how["cu_seq_lens_q"].tolist()
    found = []
    for start, stop in itertools.pairwise(starts):
        if start == stop:
            continue
        q, k, v = (states[None, :, start:stop] for states in (query, key, value))
        mask = _window_mask(stop - start, window, query.device) if window and window < stop - start else None
        found.append(
            F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=True)
        )
    out = torch.cat(found, 2).squeeze(0).unflatten(1, (rows, length))  # [H, B, T, D]
    return all_heads(out.permute(1, 2, 0, 3), how.get("context")), None


def _window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """Whether a position sees another, bool[length, length]: the `window` last ones, itself included."""
    place = torch.arange(length, device=device)
    distance = place[:, None] - place
    return (distance >= 0) & (distance < window)


def _gathered(
    name: str, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, how: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """Check an attention function's arguments, and give this worker's heads at all positions of the rows."""
    assert how.get("cu_seq_lens_q") is not None, f"{name} was called without document boundaries"
    assert attention_mask is None, f"{name} takes no mask"
    unknown = [one for one in ("softcap", "s_aux", "position_bias") if how.get(one) is not None]
    assert not unknown and not how.get("dropout"), f"{name} does not compute {unknown or 'dropout'}"
    context: ContextParallel | None = how.get("context")
    if context is not None and (repeats := repeats_of(key.shape[1], context.workers)) > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    return all_positions(query, context), all_positions(key, context), all_positions(value, context)


# Without a registered mask function for these names, transformers builds no mask.
AttentionInterface.register(VARLEN, varlen_attention)
AttentionInterface.register(DOCUMENTS, documents_attention)


def register_cost(kernel: Any) -> None:
    """Register the number of operations of a kernel for the compiler, unless torch has it (2.13).

    Without it the kernel counts as no operation, so selective recomputing calls it again first.

    kernel: an operator with the arguments of `torch.ops.torch_attn._varlen_attn`.
    """
    if kernel in flop_registry:
        return

    def operations(
        query: torch.Size, key: Any, value: Any, starts_q: Any, starts_k: Any, longest: int, *more: Any, **named: Any
    ) -> int:
        """Of two products, of each query with as many keys and values as the longest document has."""
        positions, heads, size = query
        return 4 * positions * longest * heads * size

    register_flop_formula(kernel)(operations)


def require_independence(body: Any, packed: bool, bf16: bool, head: nn.Module | None = None) -> None:
    """Check that a model predicts each token from the earlier tokens of its document alone, as packed rows require.

    The check computes one small batch, since the model type does not decide it: the attention of encoders that
    transformers loads as causal language models includes later tokens, and recurrent models (Mamba, RWKV) carry their
    state from one document of a row to the next.

    Args:
        body: a transformers model without its lm_head, on its device.
        packed: rows hold several documents.
        head: the lm_head; None: the model has none. With it, probabilities are compared as well, since one large value
            in all hidden states hides their differences.

    Raises:
        ConfigError: hidden states or probabilities depend on later tokens, or on another document of the row.
    """
    kind = body.config.model_type
    first, later = _changes(body, bf16, head)
    if later:
        raise ConfigError(
            f"model: the predictions of this {kind} depend on later tokens, so it would learn to copy them. "
            "Give a causal language model."
        )
    if packed and first:
        raise ConfigError(
            f"model: the predictions of this {kind} depend on other documents of the same row, because it carries a "
            "state along the row or counts positions itself. Set packing: {mode: none}: one document per row."
        )


def _changes(body: Any, bf16: bool, head: nn.Module | None) -> tuple[bool, bool]:
    """(the second document's hidden states depend on the first, earlier hidden states depend on the last token)."""
    vocabulary = body.get_input_embeddings().num_embeddings
    ids = np.arange(5, 5 + _ROW) % vocabulary
    rows = np.stack([ids, ids, ids])
    rows[1, :_DOCUMENT] = (rows[1, :_DOCUMENT] + 7) % vocabulary
    rows[2, -1] = (rows[2, -1] + 7) % vocabulary
    positions = np.tile(np.arange(_DOCUMENT), (3, 2))
    device = body.get_input_embeddings().weight.device
    starts = torch.from_numpy(document_starts(positions, 6)).to(device)
    was_training = body.training
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        hidden = body.eval()(
            input_ids=torch.from_numpy(rows).to(device),
            position_ids=torch.from_numpy(positions).to(device),
            use_cache=False,
            **boundaries(body.config._attn_implementation, starts, _ROW),
        ).last_hidden_state  # fmt: skip
        chances = None if head is None else head(hidden).float().softmax(-1)
    body.train(was_training)
    states = hidden.float()
    dtype = torch.bfloat16 if bf16 else hidden.dtype
    tolerance = _ROUNDING[dtype] * states[0].abs().max()

    def differ(row: int, places: slice) -> bool:
        moved = chances is not None and (chances[row, places] - chances[0, places]).abs().sum(-1).max() / 2
        return bool((states[row, places] - states[0, places]).abs().max() > tolerance or moved > _MOST_MOVED[dtype])

    return differ(1, slice(_DOCUMENT, None)), differ(2, slice(-1))
