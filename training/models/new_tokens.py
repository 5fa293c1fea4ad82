"""New tokens for a model: a folder with a larger tokenizer, and embeddings for it.

The embedding of each new token is the mean of those of all earlier tokens (Hewitt 2021, "Initializing new word
embeddings for pretrained language models"), in the input embeddings and in the lm_head, so that the model gives a new
token about the probability of an average one. Models often have more embeddings than tokens; new tokens take these
first, whose values were never trained, and the embeddings grow only by what is missing.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn

from raymill.cluster.errors import ConfigError
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.models.base import load_base, stored_dtype
from raymill.training.models.quiet import quiet_libraries
from raymill.training.tokenizer.load_tokenizer import load_tokenizer


@quiet_libraries()
def add_tokens(store: Store, name: str, revision: str | None, output: str, tokens: Sequence[str]) -> tuple[int, int]:
    """Write a model with new tokens; returns (id of the first new token, number of embeddings).

    Args:
        name: folder, URI or hub name of the model. revision: of a hub name.
        output: folder or URI to write to.
        tokens: each is one token wherever it occurs in a text.

    Raises:
        ConfigError: there are files at the output, or a token is empty, given twice, or one of the tokenizer already.
        StorageError: there is no such model.
    """
    output = paths.absolute(output)
    if store.list_files(output):
        raise ConfigError(f"{output}: there are files already. Give another folder, or remove them.")
    model = Model(name=name, revision=revision)
    tokenizer: Any = load_tokenizer(store, name, revision)
    first = len(tokenizer)
    known = tokenizer.get_vocab()
    for token in tokens:
        if any("\ud800" <= character <= "\udfff" for character in token):
            raise ConfigError(f"--token {token!r} is no text in UTF-8. Give it in UTF-8.")
        if not token.strip() or token in known or tokens.count(token) > 1:
            why = "is given twice" if tokens.count(token) > 1 else "is a token already" if token.strip() else "is empty"
            raise ConfigError(f"--token {token!r} {why}. Leave it out.")
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    base: Any = load_base(store, model, 0, stored_dtype(store, model), None)
    if first > (rows := len(base.get_input_embeddings().weight)):
        raise ConfigError(
            f"{name}: the tokenizer has {first:,} tokens, and the model {rows:,} embeddings. They do not belong "
            "together."
        )
    embeddings = max(len(tokenizer), len(base.get_input_embeddings().weight))
    if embeddings > len(base.get_input_embeddings().weight):
        # With transformers' own means, rows are random draws around the mean.
        base.resize_token_embeddings(embeddings, mean_resizing=False)
    for one in (base.get_input_embeddings(), base.get_output_embeddings()):
        _fill(one, first, len(tokenizer))
    with tempfile.TemporaryDirectory(prefix="add-tokens-") as scratch:
        base.save_pretrained(scratch, max_shard_size="5GB")
        tokenizer.save_pretrained(scratch)
        # Without config.json a folder is not read as a model.
        for path in sorted(Path(scratch).rglob("*"), key=lambda path: path.name == "config.json"):
            if path.is_file():
                store.upload(path, paths.join(output, path.relative_to(scratch).as_posix()))
    return first, embeddings


@torch.no_grad()
def _fill(module: nn.Module, first: int, stop: int) -> None:
    """Set the rows from `first` to `stop` to the mean of the rows before them; of the bias, too."""
    for values in (module.weight, getattr(module, "bias", None)):
        if isinstance(values, Tensor):
            values[first:stop] = values[:first].mean(0, dtype=torch.float32).to(values.dtype)
