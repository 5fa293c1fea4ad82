"""Checks of a tokenizer without loading it: the model embeds its tokens, and its chat template has named variables."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError, DataError
from cluster.store import paths
from cluster.store.interface import NotFound
from cluster.store.store import Store
from training.config_parts import Model
from training.model_folder.files import read_object
from training.model_folder.folder import cached_folder
from training.pack.chatml import CHATML

_TOKENIZER = re.compile(r"token|vocab|merges|\.model$")


def check_tokenizer(store: Store, model: Model, folder: str | None, embedded: int | None) -> list[str]:
    """Warnings about a model's tokenizer, a sentence each.

    Args:
        folder: the model's. embedded: number of tokens that the model has embeddings for; None: unknown.

    Raises:
        ConfigError: a token that the data or the chat template can use has no embedding, the tokenizer is not the
            model's own and has more tokens, or the chat template lacks a variable of `model.chat_template_kwargs`.
        DataError: tokenizer.json is damaged.
    """
    source = _tokenizer_folder(model, folder)
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
    mend = f"enlarge the embeddings (`resize_token_embeddings({tokens})` of transformers) and save the model"
    used = _UsedTokens.of(store, model, source)
    for token, id in (ids | {token: id for token, id in added.items() if token in used}).items():
        if id >= embedded:
            raise ConfigError(
                f"{seen}, so {token!r} (id {id:,}) has no embedding. Give tokenizer and weights of the same version of "
                f"the model, or {mend}."
            )
    return [
        f"{seen}. A document with one of the other tokens cannot be trained on, and packing stops at the first such "
        f"document. If you added tokens, {mend}."
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


def is_tokenizer_file(name: str) -> bool:
    """Whether a file of this name belongs to a tokenizer."""
    return _TOKENIZER.search(name) is not None


def no_tokenizer(uri: str) -> ConfigError:
    """The error for a folder without a tokenizer."""
    return ConfigError(
        f"{uri}: no tokenizer here. Give the path or URI of a folder with a tokenizer.json as model.tokenizer."
    )


def _tokenizer_folder(model: Model, folder: str | None) -> str | None:
    if model.tokenizer is None:
        return folder
    if model.tokenizer == "train":
        return None
    if paths.is_remote(model.tokenizer) or Path(paths.absolute(model.tokenizer)).is_dir():
        return paths.absolute(model.tokenizer)
    return cached_folder(Model(name=model.tokenizer))


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


class _UsedTokens:
    """The added tokens that training uses: begin and end of text, and those in the chat template."""

    def __init__(self, named: tuple[Any, ...], template: str) -> None:
        self.named = tuple(token.get("content") if isinstance(token, dict) else token for token in named)
        self.template = template

    @classmethod
    def of(cls, store: Store, model: Model, source: str) -> "_UsedTokens":
        settings = _read_if_there(store, paths.join(source, "tokenizer_config.json")) or {}
        return cls((settings.get("bos_token"), settings.get("eos_token")), _template(store, model, source))

    def __contains__(self, token: str) -> bool:
        return token in self.named or token in self.template


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
