"""Checks of a model before a training starts, from its small files and the headers of its weight files.

No weights are fetched, and torch and transformers are loaded only where the files do not settle a question (their
import takes seconds). A question that cannot be settled here is left to the worker that loads the model.

The tables are of common model types, and tests compare them with transformers. For other types, transformers' own
tables of types are read, and loading the model reports weights that do not fit.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.model_settings import is_tokenizer_file
from raymill.cluster.store import paths
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.store import Store
from raymill.training.compile_choice import refuse_selective
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Model
from raymill.training.context_heads import refuse_heads
from raymill.training.model_folder.adapter_settings import adapter_settings
from raymill.training.model_folder.folder import (
    Addition,
    Shapes,
    addition_in,
    cached_folder,
    on_hub,
    read_object,
    read_shapes,
    refuse_adapter,
    refuse_foreign_files,
    require_safetensors,
    shape_text,
    weight_shapes,
)
from raymill.training.pack.template import CHATML

_module_names = Entry("raymill.training.models.cost:module_names")
_transformers_config = Entry("raymill.training.models.cost:transformers_config")

# Optional files that transformers reads, besides config.json and tokenizer.json.
_JSON_FILES = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json"}
# Names of embeddings and of heads, of all model types.
_EMBEDDINGS = ("embed_tokens", "embed_in", "wte", "lm_head", "embed_out")
_POSITIONS = ("max_position_embeddings", "n_positions")

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

_ENDS = ("bos_token", "eos_token")


def check_model(config: TrainConfig) -> list[str]:
    """Warnings about this model, a sentence each.

    A hub name is looked up in this machine's cache only; if it is not there, nothing is checked.

    Raises:
        ConfigError: transformers has no causal language model of this type, or `lora.target`, `sequence_length`,
            `workers.context` or the tokenizer does not fit it; or a model in `grpo.rewards` is not a reward model.
        DataError: a file of the model's folder is missing, damaged, or does not fit its config.json.
        StorageError: there is no such folder.
    """
    store, model = config.store, config.model
    _check_reward_models(config)
    folder = _folder(model)
    if model.config is None and folder is None:
        return []
    names = {file.uri.removeprefix(folder).lstrip("/") for file in store.list_files(folder)} if folder else set()
    # The hub's cache may hold a model without its weights.
    has_weights = folder and not (on_hub(model) and not any(name.endswith(".safetensors") for name in names))
    if folder and has_weights:
        require_safetensors(folder, names)
    plain = _model_config(store, model, folder)
    assert plain is not None
    where = paths.join(folder, "config.json") if folder else "model.config"
    check_architecture(plain, where, body_only=config.training_method.classifies)
    described = _text_config(plain)
    size = described.get("vocab_size")
    if size is not None and not isinstance(size, int):
        raise ConfigError(f"{where}: vocab_size is {str(size)[:40]!a}; a whole number was wanted. Correct the file.")
    refuse_selective(config, str(plain.get("model_type")))
    _check_heads(config.workers.context, described)
    if folder:
        refuse_adapter(folder, names)
    if config.training_method.merges and config.lora.target != "all-linear":
        targets = config.lora.targets
        _check_targets(store, model, targets, described)
    if config.training_method.merges:
        _check_saved(store, model, config.lora.modules_to_save, str(described["model_type"]))
    warnings = _check_length(config, described)
    if folder:
        for name in names & _JSON_FILES:
            read_object(store, paths.join(folder, name))
        if has_weights:
            _check_weights(config, folder, names, plain)
    return [*warnings, *check_tokenizer(store, model, folder, size)]


def _check_reward_models(config: TrainConfig) -> None:
    """Check that the models in `grpo.rewards` have a score as head. Hub names are looked up as those of base models."""
    for number, reward in enumerate(config.grpo.rewards):
        if reward.model is None:
            continue
        setting = f"grpo.rewards.{number}.model"
        try:
            if (found := addition_in(config.store, reward.model)) is not None:
                refuse_other_adapter(config.store, reward.model, found)
                continue
            if (folder := _folder(Model(name=reward.model))) is None:
                continue
            names = {file.uri.removeprefix(folder).lstrip("/") for file in config.store.list_files(folder)}
            require_safetensors(folder, names)
            head = weight_shapes(config.store, folder, names).get("score.weight")
        except UserError as error:
            error.args = (f"{setting}: {error.as_written}", *error.args[1:])
            raise
        if head is None or head[0] != 1:
            seen = "no score.weight" if head is None else f"a score.weight of {shape_text(head)}"
            raise ConfigError(
                f"{setting}: {reward.model} is not a reward model: it has {seen}. Give one with one score, such as the "
                "export of a training with objective: reward."
            )


def refuse_other_adapter(store: Store, folder: str, found: Addition) -> None:
    """Check that an adapter is one of a reward model.

    Raises:
        DataError: it has no score, or as of `adapter_settings`.
    """
    adapter_settings(store, folder, found, ("LORA",), "SEQ_CLS")
    heads = [shape for name, shape in read_shapes(store, found.tensors).items() if name.endswith(".score.weight")]
    if [one[0] for one in heads] != [1]:
        raise DataError(
            f"{folder}: its adapter has no score, as a reward model has. Give the export of a training with objective: "
            "reward."
        )


def embedded_tokens(store: Store, model: Model) -> int | None:
    """The number of tokens that a model has embeddings for, by its config; None if the config is not here or lacks it.

    Raises:
        DataError, StorageError: its config.json cannot be read.
    """
    plain = _model_config(store, model, _folder(model))
    size = _text_config(plain).get("vocab_size") if plain else None
    return size if isinstance(size, int) else None


def _folder(model: Model) -> str | None:
    """URI of the folder of a named model; None if it would have to be fetched from a hub first."""
    if model.name is None:
        return None
    if paths.is_remote(model.name):
        return paths.absolute(model.name)
    path = Path(paths.absolute(model.name))
    if path.is_dir():
        refuse_foreign_files(path)
        return str(path)
    return cached_folder(model)


def _model_config(store: Store, model: Model, folder: str | None) -> dict[str, Any] | None:
    """config.json, or the config of a random model; None if there is neither here."""
    return (
        model.config if folder is None else read_object(store, paths.join(folder, "config.json"), {"model_type": str})
    )


def _text_config(plain: dict[str, Any]) -> dict[str, Any]:
    """A config in which the settings of a `text_config`, if it has one, override the others."""
    inner = plain.get("text_config")
    return plain | inner if isinstance(inner, dict) else plain


def _check_weights(config: TrainConfig, folder: str, names: Collection[str], plain: dict[str, Any]) -> None:
    """Refuse weights that are quantised or damaged, or tensors that are not those that the config describes."""
    quantised = plain.get("quantization_config")
    if quantised is not None:
        how = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        if not (config.training_method.four_bit and how == "bitsandbytes"):
            raise ConfigError(
                f"{paths.join(folder, 'config.json')}: the weights are quantised (quant_method {how}); weights "
                "in float32, bf16 or float16 are needed. Give the model in its original precision; method qlora "
                "quantises it by itself."
            )
    shapes = weight_shapes(config.store, folder, names)
    if quantised is None and (found := differences(plain, shapes, needs_head=not config.training_method.classifies)):
        more = f" and {len(found) - 2} more" if len(found) > 2 else ""
        raise DataError(
            f"model {folder}: its weights do not fit its config.json: {'; '.join(found[:2])}{more}. Fetch both again "
            "from the same version of the model, or correct config.json."
        )


def _check_heads(workers: int, described: dict[str, Any]) -> None:
    """Check that workers that share rows can divide the heads, if the config states their numbers."""
    heads = described.get("num_attention_heads")
    kv_heads = described.get("num_key_value_heads") or heads
    if isinstance(heads, int) and isinstance(kv_heads, int) and min(heads, kv_heads) > 0:
        refuse_heads(heads, kv_heads, workers)


def _check_length(config: TrainConfig, described: dict[str, Any]) -> list[str]:
    """A warning, or an error, if sequence_length is above the model's number of positions."""
    stated = [described.get(name) for name in _POSITIONS]
    positions = next((one for one in stated if isinstance(one, int) and one > 0), None)
    if positions is None and config.model.config is not None:  # what transformers assumes
        text = _transformers_config(config.store, config.model).get_text_config()
        positions = next((getattr(text, name) for name in _POSITIONS if getattr(text, name, None)), None)
    if positions is None or config.sequence_length <= positions:
        return []
    seen = f"sequence_length: {config.sequence_length:,} is above the model's max_position_embeddings, {positions:,}"
    # `rope_parameters` of transformers 5; both may have a part for each kind of layers.
    scalings = [one for name in ("rope_scaling", "rope_parameters") if isinstance(one := described.get(name), dict)]
    parts = [part for one in scalings for part in (one, *(inner for inner in one.values() if isinstance(inner, dict)))]
    if any(part.get("rope_type", part.get("type", "default")) != "default" for part in parts):
        return [
            f"{seen}. Its RoPE scaling lets it run, but it has not seen such positions: compare the loss of long and "
            "short documents."
        ]
    where = (
        f"set model.config.max_position_embeddings to {config.sequence_length}"
        if config.model.config is not None
        else "add a rope_scaling to its config.json"
    )
    raise ConfigError(f"{seen}, and it has no RoPE scaling. Set sequence_length to {positions} or less, or {where}.")


def _check_targets(store: Store, model: Model, wanted: Sequence[str], described: dict[str, Any]) -> None:
    """Check that each name of `lora.target` is a module's name or the end of a module's path, as peft matches them.

    Raises:
        ConfigError: no module matches a name, or it is the lm_head or the embedding, and both have one weight.
    """
    kind = described["model_type"]
    names: Sequence[str] = LINEAR_NAMES.get(kind, ())
    if not names or any("." in name for name in wanted):
        names = _module_names(store, model)
    missing = [name for name in wanted if not any(name == one or one.endswith(f".{name}") for one in names)]
    if missing:
        ends = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
        near = difflib.get_close_matches(missing[0].rpartition(".")[2], ends, n=3)
        hint = f" The nearest: {', '.join(near)}." if near else ""
        raise ConfigError(
            f"lora.target: no module of this {kind} is named {missing[0]}.{hint} Its modules: {', '.join(ends)}; or "
            "all-linear."
        )
    shared = next((name for name in wanted if name.rpartition(".")[2] in _EMBEDDINGS), None)
    if shared is None:
        return
    tied = described.get("tie_word_embeddings")
    if tied is None:
        tied = _transformers_config(store, model).get_text_config().tie_word_embeddings
    if tied:
        raise ConfigError(tied_target(shared))


def _check_saved(store: Store, model: Model, wanted: Sequence[str], kind: str) -> None:
    """
    Raises:
        ConfigError: no module has the name or the end of a path in `lora.modules_to_save`.
    """
    if not {*wanted} - {*LINEAR_NAMES.get(kind, ())}:
        return
    names = _module_names(store, model, 1)
    for name in wanted:
        if not any(f".{one}".endswith(f".{name}") for one in names):
            ends = list(dict.fromkeys(one.rpartition(".")[2] for one in names))
            raise ConfigError(
                f"lora.modules_to_save: no module of this {kind} is named {name}. Its modules: {', '.join(ends)}."
            )


def tied_target(name: str) -> str:
    """The error about a target of LoRA whose weight the lm_head and the embedding share."""
    return (
        f"lora.target: this model's embedding and lm_head share one weight, so an adapter of {name} could not be "
        f"merged. Leave {name} out."
    )


# --- architecture


def refuse_later_tokens(settings: Mapping[str, Any], where: str) -> None:
    """Check that the attention of a model excludes later tokens.

    Args:
        settings: of the model or of its `text_config`. where: their origin, for messages.

    Raises:
        ConfigError: it is an encoder, or a setting makes a decoder an encoder.
    """
    kind = settings.get("model_type")
    why = ""
    if kind in ENCODERS and not settings.get("causal" if kind == "xlm" else "is_decoder"):
        why = f"{kind} is an encoder"
    elif not settings.get("is_causal", True):  # transformers reads it in every model that has a mask
        why = f"is_causal is {settings['is_causal']!r:.20}"
    elif (wide := settings.get("use_bidirectional_attention")) and wide != "vision":  # among tokens of an image
        why = f"use_bidirectional_attention is {wide!r:.20}"
    if why:
        raise ConfigError(
            f"{where}: {why}: its attention includes later tokens, so it copies them instead of predicting them. Give "
            "a causal language model, such as a llama or qwen3."
        )


def check_architecture(plain: dict[str, Any], where: str, body_only: bool) -> None:
    """Check that transformers can load a model of this type as a causal language model.

    Args:
        plain: config.json. where: its origin, for messages. body_only: the lm_head is not used.

    Raises:
        ConfigError: transformers has no model of this type, or none that predicts each token from those before it.
    """
    kind = plain["model_type"]
    for settings in (plain, _text_config(plain)):
        refuse_later_tokens(settings, where)
    if plain.get("is_encoder_decoder"):
        raise ConfigError(
            f"{where}: {kind} is an encoder-decoder model. Give a causal language model (a decoder alone)."
        )
    if kind in LINEAR_NAMES:
        return
    # Imported here, since it takes seconds and most models are of a type in LINEAR_NAMES. It does not load torch.
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

    if kind not in CONFIG_MAPPING_NAMES:
        near = difflib.get_close_matches(kind, CONFIG_MAPPING_NAMES, n=3)
        raise ConfigError(
            f"{where}: transformers has no model_type {kind}. Did you mean {', '.join(near) or 'llama'}? "
            "Code from a model's folder is never run."
        )
    if kind not in (MODEL_MAPPING_NAMES if body_only else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
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
    ends = {path: path.rpartition(".")[2] for path in matrices}
    found = []
    key = "n_layer" if kind == "gpt2" else "num_hidden_layers"
    stated = described.get(key)
    names = [name for name in LINEAR_NAMES[kind] if name not in _OUTSIDE_OF_LAYERS]
    there = {(int(layer[1]), end) for path, end in ends.items() if (layer := _LAYER.search(path)) is not None}
    layers = {layer for layer, end in there if end in names}
    if isinstance(stated, int) and len(layers) != stated:
        found.append(f"there are {len(layers)} layers, but config.json has {key}: {stated}")
    elif isinstance(stated, int):
        missing = [f"{end} of layer {layer}" for layer in range(stated) for end in names if (layer, end) not in there]
        if missing:
            more = f", nor {len(missing) - 1} more" if missing[1:] else ""
            found.append(f"there is no {missing[0]}{more}")
    wanted = _sizes(kind, described)
    for path, shape in matrices.items():
        size = wanted.get(ends[path])
        if size and len(shape) == 2 and any(a not in (None, b) for a, b in zip(size, shape, strict=True)):
            described_as = " x ".join("any" if one is None else f"{one:,}" for one in size)
            found.append(f"{path}.weight is {shape_text(shape)}, but config.json describes {described_as}")
    heads = {"lm_head", "embed_out"} if kind == "gpt_neox" else {"lm_head"}
    tied = described.get("tie_word_embeddings", kind in TIED)
    if needs_head and not tied and not heads & {*ends.values()}:
        found.append("there is no lm_head.weight, but config.json does not state tie_word_embeddings: true")
    return found


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


# --- tokenizer


def check_tokenizer(store: Store, model: Model, folder: str | None, embedded: int | None) -> list[str]:
    """Warnings about a model's tokenizer, a sentence each.

    Args:
        folder: the model's. embedded: number of tokens that the model has embeddings for; None: unknown.

    Raises:
        ConfigError: a token that the data or the chat template can use has no embedding, the tokenizer is not the
            model's own and has more tokens, or the chat template lacks a variable of `model.chat_template_kwargs`.
        DataError: tokenizer.json is damaged.
    """
    if model.tokenizer == "train":
        return []
    source = folder
    if model.tokenizer is not None and (
        paths.is_remote(model.tokenizer) or Path(paths.absolute(model.tokenizer)).is_dir()
    ):
        source = paths.absolute(model.tokenizer)
    elif model.tokenizer is not None:
        source = cached_folder(Model(name=model.tokenizer))
    if source is None:
        return []
    if not any(is_tokenizer_file(file.uri.rpartition("/")[2]) for file in store.list_files(source)):
        raise no_tokenizer(source)
    if model.chat_template_kwargs:
        check_template_variables(_template(store, model, source), model.chat_template_kwargs)
    ids, added = _ids(store, paths.join(source, "tokenizer.json"))
    tokens = 1 + max((*ids.values(), *added.values()), default=-1)
    if embedded is None or tokens <= embedded:
        return []
    if source != folder:
        raise ConfigError(
            f"model.tokenizer: it has {tokens:,} tokens, and the model embeds {embedded:,}. Give the model's own "
            f"(leave `tokenizer` out), or for random weights set config.vocab_size: {tokens}."
        )
    seen = f"model {model.name}: its tokenizer has {tokens:,} tokens, and the model embeds {embedded:,}"
    fix = f"enlarge the embeddings (`resize_token_embeddings({tokens})` of transformers) and save the model"
    # Of added tokens, those that training uses: begin and end of text, and those in the chat template.
    settings = _read_if_there(store, paths.join(source, "tokenizer_config.json")) or {}
    named = [one.get("content") if isinstance(one, dict) else one for one in map(settings.get, _ENDS)]
    template = _template(store, model, source)
    used = {token: id for token, id in added.items() if token in named or token in template}
    for token, id in (ids | used).items():
        if id >= embedded:
            raise ConfigError(
                f"{seen}, so {token!r} (id {id:,}) has no embedding. Give tokenizer and weights of the same version of "
                f"the model, or {fix}."
            )
    return [
        f"{seen}. A document with one of the other tokens cannot be trained on, and packing stops at the first such "
        f"document. If you added tokens, {fix}."
    ]


def check_template_variables(template: str, names: Iterable[str]) -> None:
    """Verify that a chat template has variables of these names.

    Raises:
        ConfigError: it lacks one.
    """
    for name in names:
        # Not an attribute or key of this name, as in `message.thinking` and `message['thinking']`.
        if not re.search(rf"""(?<![\w.'"]){name}(?![\w'"])""", template):
            raise ConfigError(
                f"model.chat_template_kwargs: the chat template has no variable {name}. Correct its name, or leave it "
                "out."
            )


def no_tokenizer(uri: str) -> ConfigError:
    """The error for a folder without a tokenizer."""
    return ConfigError(
        f"{uri}: no tokenizer here. Give the path or URI of a folder with a tokenizer.json as model.tokenizer."
    )


def _ids(store: Store, uri: str) -> tuple[dict[str, int], dict[str, int]]:
    """(ids by token of the vocabulary, ids of added tokens) of a tokenizer.json; empty if there is no file."""
    plain = _read_if_there(store, uri, {"model": dict})
    if plain is None:
        return {}, {}
    vocabulary = plain["model"].get("vocab") or {}
    try:
        added = {str(token["content"]): int(token["id"]) for token in plain.get("added_tokens") or []}
        if isinstance(vocabulary, dict):
            ids = {str(token): int(id) for token, id in vocabulary.items()}
        else:  # of a unigram model: [token, score]
            ids = {str(entry[0]): number for number, entry in enumerate(vocabulary)}
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise DataError(
            f"{uri}: its vocabulary or added_tokens cannot be read ({type(error).__name__}: {error}). "
            "Fetch the file again."
        ) from error
    return {token: id for token, id in ids.items() if token not in added}, added


def _template(store: Store, model: Model, source: str) -> str:
    """The chat template of a tokenizer's folder, or the file that the config gives."""
    file = paths.join(source, "chat_template.jinja") if model.chat_template is None else model.chat_template
    if file == "chatml":
        return CHATML
    try:
        return store.read_bytes(file).decode(errors="replace")
    except NotFound:
        settings = _read_if_there(store, paths.join(source, "tokenizer_config.json")) or {}
        return str(settings.get("chat_template") or "")


def _read_if_there(store: Store, uri: str, keys: Mapping[str, type] | None = None) -> dict[str, Any] | None:
    try:
        return read_object(store, uri, keys)
    except NotFound:
        return None
