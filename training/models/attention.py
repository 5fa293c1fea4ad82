"""Which attention computes a model, and the variable-length kernel for packed rows.

Letters: B rows, T positions, H heads, K key-value heads, D head size, S documents that the boundaries have room for.

Attention stays inside a document (position ids restart where one begins). sdpa and eager get a [T, T] mask of that from
transformers, which costs memory and leaves the fast kernels unused. `varlen` (torch's own FlashAttention binding, no
package besides) takes the batch's rows end to end and the places where documents begin: work falls from T x T to the
sum of squares of the documents' lengths. It needs a GPU and 16-bit values.
"""

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface

from cluster.errors import ConfigError

VARLEN = "raymill_varlen"
# Those that take document boundaries as arguments, and need no mask.
_BOUNDED = (VARLEN, "flash_attention_2")
# Of PyTorch's and FlashAttention's flash_api.cpp.
_MAX_HEAD_DIM = 256
_HEAD_DIM_STEP = 8


def choose_attention(wanted: str, config: Any, device: str, bf16: bool, virtual_tokens: bool) -> str | None:
    """transformers' name of the attention to use; None leaves the choice to it: sdpa where the model can, else eager.

    Args:
        wanted: the config's setting. config: the model's.
        device: type of the device that will compute; the model may be built on another.
        virtual_tokens: keys are more than queries (prefix tuning).

    Raises:
        ConfigError: the wanted one cannot compute this model there.
    """
    if wanted == "auto":
        return None if _not_varlen(config, device, bf16, virtual_tokens) else VARLEN
    if wanted not in ("varlen", "flash_attention_2"):
        return wanted
    reasons = (_not_varlen if wanted == "varlen" else _not_flash)(config, device, bf16, virtual_tokens)
    if reasons:
        raise ConfigError(f"attention: {wanted} does not fit: {'; '.join(reasons)}. Use auto.")
    if wanted == "varlen":
        return VARLEN
    from transformers.utils import is_flash_attn_2_available

    if not is_flash_attn_2_available():
        raise ConfigError(
            "attention: flash_attention_2 is wanted, and the package flash-attn is not installed. Install it, or use "
            "attention: auto, which needs no package."
        )
    return wanted


def dense_mask_warning(
    wanted: str, used: str, config: Any, device: str, bf16: bool, virtual_tokens: bool, length: int
) -> str | None:
    """What it costs that `auto` found no kernel on a GPU, and why it found none; else None. Arguments as above.

    used: transformers' name of the attention in use. length: T. Rows behind virtual tokens are one document and need
    no mask.
    """
    if wanted != "auto" or device != "cuda" or used in _BOUNDED or virtual_tokens:
        return None
    why = "; ".join(_not_varlen(config, device, bf16, virtual_tokens))
    return (
        f"attention {used} with a dense mask of {length} x {length} for each row, since the variable-length kernel "
        f"does not fit: {why}. A step takes more than twice as long as with the kernel, and more memory."
    )


def _not_varlen(config: Any, device: str, bf16: bool, virtual_tokens: bool) -> list[str]:
    """Why torch's kernel cannot compute this model; nothing where it can."""
    missing = [] if _KERNEL else ["this torch has no varlen_attn that takes a scale and a window (2.11 has)"]
    return _not_flash(config, device, bf16, virtual_tokens) + missing


def _not_flash(config: Any, device: str, bf16: bool, virtual_tokens: bool) -> list[str]:
    """Why no FlashAttention can, whosever binding it is."""
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    config = config.get_text_config()
    heads = getattr(config, "num_attention_heads", 1)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    dropout = getattr(config, "attention_dropout", 0.0) or getattr(config, "attn_pdrop", 0.0)
    softcap = getattr(config, "attn_logit_softcapping", None)
    found = {
        "it needs a GPU": device != "cuda",
        "it needs precision bf16": not bf16,
        "the model computes attention in its own way": not getattr(model, "_supports_attention_backend", False),
        "virtual tokens stand before every row": virtual_tokens,
        "the model caps its attention scores": bool(softcap),
        "the model has attention sinks": config.model_type.startswith("gpt_oss"),
        f"heads of {head_dim} are over {_MAX_HEAD_DIM}": head_dim > _MAX_HEAD_DIM,
        f"heads of {head_dim} are no multiple of {_HEAD_DIM_STEP}": head_dim % _HEAD_DIM_STEP > 0,
        f"attention dropout is {dropout}": bool(dropout),
    }
    return [reason for reason, holds in found.items() if holds]


def boundaries(implementation: str, starts: Tensor, length: int) -> dict[str, Any]:
    """The arguments by which an attention gets the documents of a batch; none for those that read a mask.

    Args:
        starts: int32[S + 1], `Batch.starts` on the device. length: T. It stands for the longest document too: an upper
            bound, as the true one differs from batch to batch and a compiled model has a graph for each.
    """
    if implementation not in _BOUNDED:
        return {}
    return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": length, "max_length_k": length}


def varlen_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **how: Any
) -> tuple[Tensor, None]:
    """As transformers calls an attention: query [B, H, T, D], key and value [B, K, T, D] to [B, T, H, D].

    how: cu_seq_lens_q and max_length_q from `boundaries`; scaling, sliding_window (positions seen, itself included).
    """
    assert how.get("cu_seq_lens_q") is not None, f"{VARLEN} was called without document boundaries"
    assert attention_mask is None, f"{VARLEN} takes no mask"
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if how.get(name) is not None]
    assert not unknown and not how.get("dropout"), f"{VARLEN} does not compute {unknown or 'dropout'}"
    rows, heads, length, head_dim = query.shape
    window = how.get("sliding_window")
    causal = getattr(module, "is_causal", True)
    # Rotary embedding in float32 leaves queries and keys in float32 where the rest is bf16; the kernel takes one type.
    query, key = query.to(value.dtype), key.to(value.dtype)
    grouped = key.shape[1] != heads
    if grouped and not _GROUPS_HEADS:
        key, value = (states.repeat_interleave(heads // states.shape[1], dim=1) for states in (key, value))
    assert _KERNEL is not None
    out = _KERNEL(
        *(_end_to_end(states) for states in (query, key, value)),
        how["cu_seq_lens_q"], how["cu_seq_lens_q"], how["max_length_q"], how["max_length_q"],
        scale=how.get("scaling"), window_size=(window - 1 if window else -1, 0 if causal else -1),
        **({"enable_gqa": True} if grouped and _GROUPS_HEADS else {}),
    )  # fmt: skip
    return out.view(rows, length, heads, head_dim), None


def _end_to_end(states: Tensor) -> Tensor:
    """[B, H, T, D] to [B T, H, D]."""
    return states.transpose(1, 2).flatten(0, 1)


def _kernel() -> tuple[Any, bool]:
    """torch's variable-length attention, and whether it takes fewer key-value heads than heads.

    None where this torch has none, or one without a scale and a window (2.10).
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None, False
    takes = inspect.signature(varlen_attn).parameters.keys()
    return (varlen_attn if {"scale", "window_size"} <= takes else None), "enable_gqa" in takes


# Looked up once: a compiler that traces the model's layers must not meet the looking.
_KERNEL, _GROUPS_HEADS = _kernel()

# Not registered as a kind of mask: transformers then makes none.
AttentionInterface.register(VARLEN, varlen_attention)
