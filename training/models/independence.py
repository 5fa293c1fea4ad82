"""Whether a model predicts a token from the earlier tokens of its document alone, which packed rows rely on.

Tried on one small batch, because a model type does not show it: encoders that transformers loads as causal language
models see later tokens, and recurrent ones (Mamba, RWKV) carry their state from one document of a row to the next.
"""

from typing import Any

import numpy as np
import torch

from cluster.errors import ConfigError
from training.data.batch import document_starts
from training.models.attention import boundaries

_DOCUMENT, _ROW = 6, 12  # tokens; two documents make a row
# Differences of hidden states up to this share of the largest one are rounding.
_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}


def require_independence(body: Any, packed: bool, bf16: bool) -> None:
    """
    Args:
        body: a transformers model without its lm_head, on the device that it is loaded to.
        packed: rows hold several documents.

    Raises:
        ConfigError: hidden states depend on later tokens, or on another document of the row.
    """
    kind = body.config.model_type
    first, later = _changes(body, bf16)
    if later:
        raise ConfigError(
            f"model: in this {kind}, what is predicted after a token depends on later tokens, so it would learn to "
            "copy them. Give a causal language model."
        )
    if packed and first:
        raise ConfigError(
            f"model: in this {kind}, what is predicted depends on other documents of the same row, since it keeps a "
            "state along the row or counts positions by itself. Set packing: {mode: none}, which puts each document "
            "into a row of its own."
        )


def _changes(body: Any, bf16: bool) -> tuple[bool, bool]:
    """Whether hidden states change: of the second document with the first one; of all positions with the last token."""
    vocabulary = body.get_input_embeddings().num_embeddings
    plain = np.arange(5, 5 + _ROW) % vocabulary
    rows = np.stack([plain, plain, plain])
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
    body.train(was_training)
    wide = hidden.float()
    least = _ROUNDING[torch.bfloat16 if bf16 else hidden.dtype] * wide[0].abs().max()
    return (
        bool((wide[1, _DOCUMENT:] - wide[0, _DOCUMENT:]).abs().max() > least),
        bool((wide[2, :-1] - wide[0, :-1]).abs().max() > least),
    )
