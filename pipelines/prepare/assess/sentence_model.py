"""Vectors of a sentence-transformers model, an optional package that loads torch. Only workers import this module."""

from functools import lru_cache

import numpy as np

from cluster.errors import ConfigError

try:
    from sentence_transformers import SentenceTransformer
except ImportError:
    SentenceTransformer = None

_BATCH = 64  # texts at a time


class SentenceModel:
    """An `Embedder` of vectors.py: a model in a local folder.

    Raises:
        ConfigError: sentence-transformers is not installed.
    """

    def __init__(self, folder: str) -> None:
        if SentenceTransformer is None:
            raise ConfigError(
                f"assess.embeddings.model: {folder} given, and sentence-transformers is not installed. Run "
                "`pip install 'raymill[embeddings]'` on every machine, or leave `model` out."
            )
        self.model = SentenceTransformer(folder, local_files_only=True)

    def embed(self, texts: list[str]) -> np.ndarray:
        """float32[N, D] of length 1."""
        found = self.model.encode(texts, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, np.float32)


@lru_cache(maxsize=1)
def load(folder: str) -> SentenceModel:
    """The model, loaded once a worker and not once a unit."""
    return SentenceModel(folder)
