"""Which attention computes a model, and the variable-length kernel for packed rows.

Letters: B rows, T positions, H heads, K key-value heads, D head size, N documents of the batch.

Attention stays inside a document (position ids restart where one begins). sdpa and eager get a [T, T] mask of that from
transformers, which costs memory and leaves the fast kernels unused. `varlen` (torch's own FlashAttention binding, no
package besides) lays the batch's rows end to end and is told where documents begin: work falls from T x T to the sum
of squares of the documents' lengths. It needs a GPU and 16-bit values.
"""

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface

from cluster.errors import ConfigError

VARLEN = "raymill_varlen"
# Those that are told of document boundaries by these arguments, and need no mask.
_TOLD = (VARLEN, "flash_attention_2")
_MAX_HEAD_DIM = 256
_ASKED_OF_KERNEL = {"scale", "window_size", "enable_gqa"}


def choose_attention(wanted: str, config: Any, device: str, bf16: bool, virtual_tokens: bool) -> str | None:
    """transformers' name of the attention to use; None leaves the choice to it: sdpa where the model can, else eager.

    wanted: the config's setting. config: the model's. virtual_tokens: keys are more than queries (prefix tuning).

    Raises:
        ConfigError: the wanted one cannot compute this model here.
    """
    reasons = _unfit_for_varlen(config, device, bf16, virtual_tokens)
    if wanted == "auto":
        return None if reasons or _KERNEL is None else VARLEN
    if wanted not in ("varlen", "flash_attention_2"):
        return wanted
    if reasons:
        raise ConfigError(f"attention: {wanted} does not fit: {'; '.join(reasons)}. Use auto.")
    if wanted == "varlen":
        if _KERNEL is None:
            raise ConfigError("attention: varlen needs a newer torch, with FlashAttention. Use auto.")
        return VARLEN
    from transformers.utils import is_flash_attn_2_available

    if not is_flash_attn_2_available():
        raise ConfigError(
            "attention: flash_attention_2 is wanted, and the package flash-attn is not installed. Install it, or use "
            "attention: auto, which needs no package."
        )
    return wanted


def _unfit_for_varlen(model_config: Any, device: str, bf16: bool, virtual_tokens: bool) -> list[str]:
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(model_config), None)
    config = model_config.get_text_config()
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
        f"attention dropout is {dropout}": bool(dropout),
    }
    return [reason for reason, holds in found.items() if holds]


def boundaries(implementation: str, starts: Tensor, length: int) -> dict[str, Any]:
    """The arguments that tell an attention of the documents of a batch; none for those that read a mask.

    Args:
        starts: int32[S + 1], `Batch.starts` on the device. length: T. It stands for the longest document too: an upper
            bound, as the true one differs from batch to batch and a compiled model has a graph for each.
    """
    if implementation not in _TOLD:
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
    assert _KERNEL is not None
    out = _KERNEL(
        *(_end_to_end(states) for states in (query, key, value)),
        how["cu_seq_lens_q"], how["cu_seq_lens_q"], how["max_length_q"], how["max_length_q"],
        scale=how.get("scaling"), window_size=(window - 1 if window else -1, 0 if causal else -1),
        enable_gqa=key.shape[1] != heads,
    )  # fmt: skip
    return out.view(rows, length, heads, head_dim), None


def _end_to_end(states: Tensor) -> Tensor:
    """[B, H, T, D] to [B T, H, D]."""
    return states.transpose(1, 2).flatten(0, 1)


def _kernel() -> Any:
    """torch's variable-length attention, None where this torch has none or one that knows less (as 2.10's)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if inspect.signature(varlen_attn).parameters.keys() >= _ASKED_OF_KERNEL else None


# Looked up once: a compiler that traces the model's layers must not meet the looking.
_KERNEL = _kernel()

# Not registered as a kind of mask: transformers then makes none.
AttentionInterface.register(VARLEN, varlen_attention)
