"""Checks of a model's config.json by its type, without torch: the type itself, and the tensors of the weight files.

The tables are of common model types, and tests compare them with transformers. For other types, transformers' own
tables of types are read, and loading the model reports weights that do not fit.
"""

import difflib
import re
from typing import Any

from cluster.errors import ConfigError
from training.model_folder.files import Shapes, shape_text

_SEPARATE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head")

_OUTSIDE_OF_LAYERS = ("embed_tokens", "embed_in", "wte", "wpe", "lm_head")
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
# (rows, columns) by a matrix' name; None: not checked.
_Sizes = dict[str, tuple[int | None, int | None]]
# Types whose default head_dim is not hidden_size / num_attention_heads.
_OWN_HEAD_DIM = ("gemma", "gemma2", "qwen3")

# Names of the modules that LoRA can adapt, by model type.
LINEAR_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "smollm3", "olmo2"), _SEPARATE),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "embed_tokens", "lm_head"),
    "gpt2": ("c_attn", "c_proj", "c_fc", "wte", "wpe", "lm_head"),
    "gpt_neox": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "embed_in", "lm_head"),
}

# Types whose lm_head shares its weight with the embedding unless config.json states tie_word_embeddings.
TIED = frozenset({"gpt2", "gemma", "gemma2", "smollm3"})

# Types that transformers loads as causal language models although their attention includes later tokens, unless
# config.json has is_decoder (XLM: causal).
ENCODERS = frozenset({
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert",
    "reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta",
    "xlm-roberta-xl", "xlnet", "xmod",
})  # fmt: skip


def check_architecture(plain: dict[str, Any], where: str, probe: bool) -> None:
    """Check that transformers can load a model of this type as a causal language model.

    Args:
        plain: config.json. where: its origin, for messages. probe: only the model's body is used.

    Raises:
        ConfigError: transformers has no model of this type, or none that predicts each token from those before it.
    """
    kind = plain["model_type"]
    if kind in ENCODERS and not plain.get("causal" if kind == "xlm" else "is_decoder"):
        raise ConfigError(
            f"{where}: {kind} is an encoder: its attention includes later tokens, so it would learn to copy "
            "them instead of predicting them. Give a causal language model, such as a llama or qwen3."
        )
    if plain.get("is_encoder_decoder"):
        raise ConfigError(
            f"{where}: {kind} is an encoder-decoder model. Give a causal language model (a decoder alone)."
        )
    if kind not in LINEAR_NAMES:
        _check_type(kind, where, probe)


def _check_type(kind: str, where: str, probe: bool) -> None:
    """Check the model type against transformers' tables."""
    # Imported here, since it takes seconds and most models are of a type in LINEAR_NAMES. It does not load torch.
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

    if kind not in CONFIG_MAPPING_NAMES:
        near = difflib.get_close_matches(kind, CONFIG_MAPPING_NAMES, n=3)
        raise ConfigError(
            f"{where}: transformers has no model_type {kind}. Did you mean {', '.join(near) or 'llama'}? "
            "Code from a model's folder is never run."
        )
    if kind not in (MODEL_MAPPING_NAMES if probe else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        raise ConfigError(
            f"{where}: transformers has no causal language model of type {kind}. Give one that it has, such as a "
            "llama or qwen3."
        )


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
