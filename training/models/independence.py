"""Check that a model predicts each token from the earlier tokens of its document alone, as packed rows require.

The check computes a small batch, because the model type does not tell: the attention of encoders that transformers
loads as causal language models includes later tokens, and recurrent models (Mamba, RWKV) carry their state from one
document of a row to the next.
"""

from typing import Any

import numpy as np
import torch

from cluster.errors import ConfigError
from training.data.batch import document_starts
from training.models.attention import boundaries

_DOCUMENT, _ROW = 6, 12  # tokens; two documents make a row
# Largest difference due to rounding, as a fraction of the largest hidden state.
_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}


def require_independence(body: Any, packed: bool, bf16: bool) -> None:
    """Check a model on one small batch.

    Args:
        body: a transformers model without its lm_head, on its device.
        packed: rows hold several documents.

    Raises:
        ConfigError: hidden states depend on later tokens, or on another document of the row.
    """
    kind = body.config.model_type
    first, later = _changes(body, bf16)
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


def _changes(body: Any, bf16: bool) -> tuple[bool, bool]:
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
    body.train(was_training)
    states = hidden.float()
    tolerance = _ROUNDING[torch.bfloat16 if bf16 else hidden.dtype] * states[0].abs().max()
    return (
        bool((states[1, _DOCUMENT:] - states[0, _DOCUMENT:]).abs().max() > tolerance),
        bool((states[2, :-1] - states[0, :-1]).abs().max() > tolerance),
    )
