"""Compare the tensors of a model's weight files with its config.json: layers, shapes of matrices, lm_head.

Only for the model types of LINEAR_NAMES; for others, loading the model reports differences.
"""

import re
from typing import Any

from training.models.linear_names import LINEAR_NAMES, TIED
from training.models.safetensors_files import Shapes, shape_text

_OUTSIDE_OF_LAYERS = ("embed_tokens", "embed_in", "wte", "wpe", "lm_head")
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
# (rows, columns) by a matrix' name; None: not checked.
_Sizes = dict[str, tuple[int | None, int | None]]
# Types whose default head_dim is not hidden_size / num_attention_heads.
_OWN_HEAD_DIM = ("gemma", "gemma2", "qwen3")


def differences(described: dict[str, Any], shapes: Shapes, needs_head: bool) -> list[str]:
    """The differences between config.json and the weights, a clause each.

    Args:
        described: config.json. shapes: of all tensors, by name. needs_head: the training uses the lm_head.
    """
    kind = described["model_type"]
    if kind not in LINEAR_NAMES:
        return []
    matrices = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith(".weight")}
    found = _layers(described, matrices)
    wanted = _sizes(kind, described)
    for path, shape in matrices.items():
        size = wanted.get(path.rpartition(".")[2])
        if size and len(shape) == 2 and any(a not in (None, b) for a, b in zip(size, shape, strict=True)):
            described_as = " x ".join("any" if one is None else f"{one:,}" for one in size)
            found.append(f"{path}.weight is {shape_text(shape)}, but config.json describes {described_as}")
    if needs_head and not _has_head(kind, described, matrices):
        found.append("there is no lm_head.weight, but config.json does not state tie_word_embeddings: true")
    return found


def _layers(described: dict[str, Any], matrices: Shapes) -> list[str]:
    """Differences in the number of layers and in the matrices that each layer has."""
    key = "n_layer" if described["model_type"] == "gpt2" else "num_hidden_layers"
    stated = described.get(key)
    names = [name for name in LINEAR_NAMES[described["model_type"]] if name not in _OUTSIDE_OF_LAYERS]
    there = {
        (int(layer[1]), path.rpartition(".")[2]) for path in matrices if (layer := _LAYER.search(path)) is not None
    }
    layers = {layer for layer, end in there if end in names}
    if not isinstance(stated, int):
        return []
    if len(layers) != stated:
        return [f"there are {len(layers)} layers, but config.json has {key}: {stated}"]
    missing = [f"{end} of layer {layer}" for layer in range(stated) for end in names if (layer, end) not in there]
    return [f"there is no {missing[0]}" + (f", nor {len(missing) - 1} more" if missing[1:] else "")] if missing else []


def _sizes(kind: str, described: dict[str, Any]) -> _Sizes:
    """The sizes of matrices that a config describes."""

    def of(key: str) -> int | None:
        value = described.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    vocabulary = of("vocab_size")
    if kind == "gpt2":
        width = of("n_embd")
        return {
            "wte": (vocabulary, width),
            "wpe": (of("n_positions"), width),
            "c_attn": (width, 3 * width if width else None),
            "c_fc": (width, of("n_inner") or (4 * width if width else None)),
        }
    hidden, wide, heads = of("hidden_size"), of("intermediate_size"), of("num_attention_heads")
    if kind == "gpt_neox":
        return {
            "embed_in": (vocabulary, hidden),
            "query_key_value": (3 * hidden if hidden else None, hidden),
            "dense_h_to_4h": (wide, hidden),
            "dense_4h_to_h": (hidden, wide),
        }
    head = of("head_dim")
    if head is None and hidden and heads and kind not in _OWN_HEAD_DIM:
        head = hidden // heads
    query = heads * head if heads and head else None
    groups = of("num_key_value_heads")
    key = groups * head if groups and head else None
    sizes: _Sizes = {
        "embed_tokens": (vocabulary, hidden),
        "lm_head": (vocabulary, hidden),
        "q_proj": (query, hidden),
        "k_proj": (key, hidden),
        "v_proj": (key, hidden),
        "o_proj": (hidden, query),
        "gate_proj": (wide, hidden),
        "up_proj": (wide, hidden),
        "down_proj": (hidden, wide),
        "qkv_proj": (query + 2 * key if query and key else None, hidden),
        "gate_up_proj": (2 * wide if wide else None, hidden),
    }
    return {name: size for name, size in sizes.items() if name in LINEAR_NAMES[kind]}


def _has_head(kind: str, described: dict[str, Any], matrices: Shapes) -> bool:
    if described.get("tie_word_embeddings", kind in TIED):
        return True
    names = ("lm_head", "embed_out") if kind == "gpt_neox" else ("lm_head",)
    return any(path.rpartition(".")[2] in names for path in matrices)
