"""The models that compute vectors of texts: sentence-transformers in the process, or an endpoint."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from raymill.cluster.asking.embedding_model import EmbeddingModel
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.entry import Entry, require_extra
from raymill.cluster.errors import DataError
from raymill.cluster.formats import count, money, plural
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store

# Loads torch, which an endpoint does without.
_sentence_model = Entry("raymill.pipelines.prepare.assess.sentence_model:load")
MODELS = "Give the folder that `SentenceTransformer.save` wrote, the URI of one, or a name of the Hugging Face hub."


class Embedder(Protocol):
    """Computes vectors of texts."""

    def embed(self, texts: list[str]) -> np.ndarray:
        """float32[N, D] of length 1, so that a product is the cosine; 0 for a text without a known word."""
        ...


def embedder_of(model: EmbeddingModel, store: Store, run: EmbeddingRun | None, setting: str) -> Embedder:
    """The embedder of a model, loaded once a worker.

    store: store of a folder. setting: path of the setting with the model, for errors.

    Raises:
        ConfigError, DataError: there is no such model.
    """
    if model.endpoint is not None:
        assert run is not None, f"{setting}: an endpoint is asked within a run"
        return run.embedder(model, setting)
    found: Embedder = _sentence_model.load()(store, model.path, setting)
    return found


def embeddings_text(spent: Mapping[str, Any]) -> str:
    """Requests, tokens and cost at an endpoint, as a sentence. spent: one row of `EmbeddingRun.close`."""
    cost = "" if spent["cost"] is None else f", cost {money(spent['cost'])}"
    refused = spent["outcomes"].get("refused", 0)
    without = f"; it refused {plural(refused, 'request')}, and texts that it refuses have no vector" if refused else ""
    return (
        f"{spent['model']} at {spent['endpoint']} computed text vectors: {plural(spent['tries'], 'request')} with "
        f"retries, {count(spent['tokens'])} tokens{cost}{without}."
    )


def require_models(models: Mapping[str, EmbeddingModel]) -> None:
    """Verify that the library of the models in folders is installed on this machine.

    models: path of the setting -> the model.

    Raises:
        ConfigError: it is not.
    """
    for setting, model in models.items():
        if model.path is not None:
            require_extra("embeddings", setting, "Or leave `model` out.")


def check_models(models: Mapping[str, EmbeddingModel], store: Store) -> None:
    """Verify that the folders and the keys of models are there, before records are read for hours.

    models: path of the setting -> the model.

    Raises:
        UserError: one is missing or damaged.
    """
    for setting, one in models.items():
        if one.endpoint is not None:
            one.secret(setting)
        if one.path is None or not one.is_folder:
            continue
        if not store.list_files(one.path):
            raise DataError(f"{setting}: there is no folder {one.path}, or it is empty. {MODELS}")
        if not any(store.exists(paths.join(one.path, name)) for name in ("modules.json", "config.json")):
            raise DataError(f"{setting}: {one.path} has neither modules.json nor config.json. {MODELS}")
