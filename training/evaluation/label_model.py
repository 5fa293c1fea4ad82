"""Probabilities of labels of texts by the exported model of a finished training.

probe           softmax of the scores by the classification head
full, merged    of each label as the answer to the text: the probability of its tokens, as in the loss of the training,
                divided by the sum over the labels
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModel

from raymill.cluster.errors import DataError
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.data.packed import PACKED
from raymill.training.evaluation.job import batches, class_probabilities
from raymill.training.methods import CLASSIFIER
from raymill.training.model_folder.folder import base_below, model_folder, read_object, read_shapes
from raymill.training.models.base import load_base
from raymill.training.models.objective import NextToken, RowClassifier
from raymill.training.pack.documents import Document, Pair
from raymill.training.pack.encode import Encoder, Example
from raymill.training.tokenizer.load_tokenizer import load_tokenizer, pad_id
from raymill.training.tokenizer.text_bounds import TextBounds

_CHUNK = 1024  # positions whose logits are in memory at once
_TOGETHER = 32  # texts that are tokenised before it is asked how long they took
_POOLS = ("last", "mean")
# Attention takes time and memory by the square, and the run that states its length may be of others.
_MOST_TOKENS = 8192  # of a text


class LabelModel:
    """The model of an exported folder, on a GPU if this process has one, else on the CPU.

    Args:
        folder: URI of EXPORT/probe, EXPORT/full or EXPORT/merged. labels: whose probabilities are computed. length:
            tokens of a row in the training. Longer texts are cut, also those of over 8,192 tokens.

    Raises:
        DataError: the folder is damaged, or its probe predicts none of the labels; later: its chat template or
            tokenizer takes too long for all texts so far.
    """

    def __init__(self, store: Store, folder: str, labels: Sequence[str], length: int) -> None:
        self._labels, self._length = list(labels), min(length, _MOST_TOKENS)
        on_gpu = torch.cuda.is_available()
        self._device = torch.device("cuda" if on_gpu else "cpu")
        how: dict[str, Any] = {"seed": 0, "dtype": torch.bfloat16 if on_gpu else torch.float32, "attention": None}
        tokenizer = load_tokenizer(store, folder)
        self._bounds = TextBounds(tokenizer, folder)
        self._classes: list[str] = []
        self._model: RowClassifier | NextToken
        if folder.rpartition("/")[2] == CLASSIFIER:
            self._model, self._classes = _probe(store, folder, on_gpu, how)
            if not set(self._classes) & set(labels):
                classes = ", ".join(self._classes[:20])
                raise DataError(f"{folder}: predicts {classes}, which are other labels than {', '.join(labels[:20])}.")
        else:
            self._model = NextToken(load_base(store, Model(name=folder), **how), on_gpu, _CHUNK)
        self._model.to(self._device).eval()
        embeddings = self._model.model.get_input_embeddings().num_embeddings
        self._encoder, self._pad = Encoder(tokenizer, embeddings), pad_id(tokenizer)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """float64[N, L]: the probability of each label, of which a row sums to 1; NaN of a text without tokens."""
        if isinstance(self._model, RowClassifier):
            found = self._of_classes(self._model, texts)
        else:
            found = np.array([self._of_answers(self._model, text) for text in texts]).reshape(-1, len(self._labels))
        total = found.sum(axis=1, keepdims=True)
        return found / np.where(total > 0, total, np.nan)

    def tokens(self, text: str) -> int:
        """The number of tokens of a text that are read for its probabilities."""
        return sum(min(len(one.ids), self._length) for one in self._encoded([text]))

    def _of_classes(self, model: RowClassifier, texts: Sequence[str]) -> np.ndarray:
        """float64[N, L]: the probability of each label that is a class of the probe; 0 of the others."""
        found = np.full((len(texts), len(self._labels)), np.nan)
        examples = sorted(self._encoded(texts), key=lambda one: len(one.ids))  # equal lengths have less padding
        rows = [_row(one.document, one.ids[: self._length], one.trained[: self._length]) for one in examples]
        tables = [pa.concat_tables(rows).combine_chunks()] if rows else []
        at_class = [self._classes.index(one) if one in self._classes else -1 for one in self._labels]
        for batch, of_classes in class_probabilities(model, tables, None, self._pad, self._device):
            padded = np.pad(of_classes, ((0, 0), (0, 1)))  # column -1
            found[[int(one) for (one,) in batch.documents]] = padded[:, at_class]
        return found

    def _of_answers(self, model: NextToken, text: str) -> np.ndarray:
        """float64[L]: the probability of each label as the answer, times a constant; NaN where one has no tokens."""
        losses = np.full(len(self._labels), np.nan)
        for one in self._encoded([Pair(text, label) for label in self._labels]):
            # The answer is at the end.
            (batch,) = batches([_row(0, one.ids[-self._length :], one.trained[-self._length :])], 1, self._pad)
            with torch.inference_mode():
                losses[one.document] = float(model(**model.tensors(batch, self._device))[0])
        return np.exp(losses.min() - losses)

    def _encoded(self, contents: Sequence[str | Pair]) -> list[Example]:
        def document(one: str | Pair) -> Document:
            text = one if isinstance(one, str) else one.prompt + one.completion
            return Document("", one, len(text.encode("utf-8", "surrogatepass")), 0, "", None)

        found: list[Example] = []
        for start in range(0, len(contents), _TOGETHER):
            documents, before = [document(one) for one in contents[start : start + _TOGETHER]], self._encoder.seconds
            encoded = self._encoder.encode(documents)
            found += (one._replace(document=start + one.document) for one in encoded.examples)
            size = sum(one.bytes for one in documents)
            self._bounds.count(len(documents), size, self._encoder.seconds - before)
        return found


def _probe(store: Store, folder: str, on_gpu: bool, how: dict[str, Any]) -> tuple[RowClassifier, list[str]]:
    """(classifier, its classes) of an exported probe. how: its base is loaded."""
    at = paths.join(folder, "probe.json")
    plain = read_object(store, at, {"base": dict, "pool": str, "labels": list})
    if plain["pool"] not in _POOLS:
        raise DataError(f"{at}: pool is {plain['pool']!r:.40}, and none of {', '.join(_POOLS)}. Export the run again.")
    base = base_below(store, folder, at, plain["base"])
    try:
        model: Any = load_base(store, base, kind=AutoModel, **how)
        head = model_folder(store, Model(name=folder)) / "head.safetensors"
        hidden, labels = model.config.get_text_config().hidden_size, len(plain["labels"])
        wanted: dict[str, tuple[int, ...]] = {"weight": (labels, hidden), "bias": (labels,)}
        # Before memory is taken for the number of labels that a small file states.
        if (shapes := read_shapes(store, paths.join(folder, "head.safetensors"))) != wanted:
            raise ValueError(f"head.safetensors has {shapes!s:.100}, and its labels and base need {wanted}")
        found = RowClassifier(model, on_gpu, labels, plain["pool"])
        found.classifier.load_state_dict(load_file(head))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise DataError(f"{folder}: cannot be loaded ({reason}). Export the run again.") from error
    return found, [str(one) for one in plain["labels"]]


def _row(number: int, ids: np.ndarray, trained: np.ndarray) -> pa.Table:
    """A packed row of one document, whose id is the number."""
    columns = {"ids": [ids], "labels": [trained], "lengths": [[len(ids)]], "documents": [[str(number)]],
               "label": [None], "weights": [None]}  # fmt: skip
    return pa.table(columns, schema=PACKED)


@lru_cache(maxsize=1)
def load(store: Store, folder: str, labels: tuple[str, ...], length: int) -> LabelModel:
    """The model, loaded once a worker and not once a unit. Arguments and errors: as LabelModel."""
    return LabelModel(store, folder, labels, length)
