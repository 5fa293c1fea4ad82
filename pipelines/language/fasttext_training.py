"""Training a supervised fastText model: rows of words and of hashed n-grams, their mean, and a softmax over labels.

Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification". As in fastText, a text is the mean of its rows,
and each text in turn changes its rows and the output by gradient descent, at a rate that falls to 0 over the epochs.
Unlike fastText, one thread trains in an order that follows from the seed, so that equal texts make equal bytes. Rows
that no training text has are 0, so that unknown n-grams have no effect.
"""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field, model_validator

from raymill.pipelines.language import fasttext_rows
from raymill.pipelines.language.fasttext_file import LABEL_PREFIX, Loss, ModelFile
from raymill.pipelines.text.kernel import kernel
from raymill.pipelines.text.texts import Texts

_END = "</s>"
_MOST_WORDS = 1 << 20
_COUNTED_TEXTS = 2000  # texts whose words are counted at once
_LARGEST_LOG_TEMPERATURE = 3.0


class TrainingSettings(BaseModel, extra="forbid", frozen=True):
    """The classifier and its training."""

    word_ngrams: int = Field(2, ge=1, le=5, description="Largest number of words of an n-gram; 1: single words")
    char_ngrams: tuple[int, int] | None = Field(
        None,
        description="Smallest and largest number of characters of character n-grams, for texts written without spaces; "
        "null: none",
    )
    buckets: int = Field(
        1 << 18, ge=1, le=1 << 26, description="Number of rows that n-grams share, each by its hash; more make fewer "
        "collisions and a larger file"
    )  # fmt: skip
    dimension: int = Field(16, ge=1, le=512, description="Dimension of the vector of a word or n-gram")
    min_count: int = Field(2, ge=1, description="Minimum number of occurrences of a word in the training texts")
    epochs: int = Field(20, ge=1, le=10_000, description="Number of passes over the training texts")
    learning_rate: float = Field(0.5, gt=0, le=100, description="Learning rate of the first text; it falls to 0")
    max_chars: int = Field(
        5000,
        ge=20,
        le=10_000_000,
        description="Maximum number of characters of a document that the classifier reads, from four positions",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingSettings":
        if self.char_ngrams and not 1 <= self.char_ngrams[0] <= self.char_ngrams[1] <= 10:
            raise ValueError("char_ngrams: wanted two numbers from 1 to 10, the smaller one first")
        return self


def train(texts: Texts, labels: np.ndarray, names: list[str], settings: TrainingSettings, seed: int = 0) -> ModelFile:
    """A model trained on these texts. Memory: 4 bytes for each word and n-gram of the texts, 12 for each weight.

    Args:
        texts: D texts of one line each, as `excerpts` makes them.
        labels: int64[D], the place of each text's label in `names`, without fastText's prefix.
        seed: seed of the first weights and of the order of the texts.
    """
    model = _untrained(texts, labels, names, settings)
    rows, ends = fasttext_rows.row_numbers(texts, fasttext_rows.rows_of(model))
    random = np.random.default_rng(seed)
    weights = random.uniform(-1 / settings.dimension, 1 / settings.dimension, model.rows.shape).astype(np.float32)
    unseen = np.ones(len(weights), np.bool_)
    unseen[rows] = False
    weights[unseen] = 0
    output = np.zeros((len(names), settings.dimension), np.float32)
    scratch = tuple(np.empty(size, np.float32) for size in (settings.dimension, settings.dimension, len(names)))
    done, total = 0, settings.epochs * len(texts)
    for _ in range(settings.epochs):
        order = random.permutation(len(texts))
        _train(rows, ends, labels, order, weights, output, settings.learning_rate, done, total, *scratch)
        done += len(texts)
    return replace(model, rows=weights, output=output)


def _untrained(texts: Texts, labels: np.ndarray, names: list[str], settings: TrainingSettings) -> ModelFile:
    """The model with its words and labels; all weights are 0."""
    words = [_END, *_vocabulary(texts, settings.min_count)]
    minn, maxn = settings.char_ngrams or (0, 0)
    buckets = settings.buckets if maxn or settings.word_ngrams > 1 else 0
    return ModelFile(
        loss=Loss.SOFTMAX,
        dimension=settings.dimension,
        minn=minn,
        maxn=maxn,
        word_ngrams=settings.word_ngrams,
        buckets=buckets,
        words=len(words),
        entries=Texts.from_strings(words + [LABEL_PREFIX + name for name in names]),
        label_counts=np.bincount(labels, minlength=len(names)),
        kept_buckets=None,
        rows_of_buckets=None,
        rows=np.zeros((len(words) + buckets, settings.dimension), np.float32),
        output=np.zeros((len(names), settings.dimension), np.float32),
        output_scales=np.ones(len(names), np.float32),
    )


def _vocabulary(texts: Texts, min_count: int) -> list[str]:
    """The words that occur often enough, the most frequent first; at most _MOST_WORDS."""
    column, counted = texts.to_arrow(), []
    for start in range(0, len(column), _COUNTED_TEXTS):
        words = pc.split_pattern(column.slice(start, _COUNTED_TEXTS), " ").flatten()
        of_part = pc.value_counts(words)
        counted.append(pa.table({"word": of_part.field("values"), "count": of_part.field("counts")}))
    if not counted:
        return []
    total = pa.concat_tables(counted).group_by("word").aggregate([("count", "sum")])
    is_word = pc.and_(pc.greater_equal(total["count_sum"], min_count), pc.greater(pc.binary_length(total["word"]), 0))
    is_label = pc.or_(pc.starts_with(total["word"], LABEL_PREFIX), pc.equal(total["word"], _END))
    total = total.filter(pc.and_(is_word, pc.invert(is_label)))
    return total.sort_by([("count_sum", "descending"), ("word", "ascending")])["word"].to_pylist()[:_MOST_WORDS]


def calibrated(model: ModelFile, probabilities: np.ndarray, labels: np.ndarray) -> tuple[ModelFile, float]:
    """(the model with its output divided by a temperature, the temperature) with the least loss on held-out texts.

    Guo et al. 2017, "On Calibration of Modern Neural Networks". The most probable label of a text stays the same.

    probabilities: float[D, L], those by the model. labels: int64[D].
    """
    temperature = best_temperature(probabilities, labels)
    return replace(model, output=(model.output / np.float32(temperature)).astype(np.float32)), temperature


def best_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that the logits are divided by for the least loss on held-out texts. Arguments: `calibrated`."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-30))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        of_label = scaled[np.arange(len(labels)), labels]
        return float((np.log(np.exp(scaled).sum(axis=1)) - of_label).mean())

    # The loss is convex in the inverse temperature, so it has one minimum.
    low, high = -_LARGEST_LOG_TEMPERATURE, _LARGEST_LOG_TEMPERATURE
    for _ in range(60):
        first, second = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, second) if loss(first) <= loss(second) else (first, high)
    return float(np.exp((low + high) / 2))


@kernel
def _train(rows, ends, labels, order, weights, output, rate, done, total, mean, gradient, products):
    """Train on the texts in this order.

    rows: int32[N], ends: int64[D + 1], as `row_numbers` returns them. weights: float32[R, dimension]. output:
    float32[L, dimension]. rate: learning rate of the first text of the first epoch. done, total: number of texts
    trained on before, and of all epochs. mean, gradient: float32[dimension], products: float32[L]: scratch.
    """
    dimension = len(mean)
    for place in range(len(order)):
        text = order[place]
        start, end = ends[text], ends[text + 1]
        if start == end:
            continue
        step = np.float32(rate * (1.0 - (done + place) / total))
        share = np.float32(1.0 / (end - start))
        for lane in range(dimension):
            mean[lane] = 0
            gradient[lane] = 0
        for at in range(start, end):
            row = rows[at]
            for lane in range(dimension):
                mean[lane] += weights[row, lane]
        for lane in range(dimension):
            mean[lane] *= share
        highest = np.float32(-np.inf)
        for label in range(len(products)):
            product = np.float32(0)
            for lane in range(dimension):
                product += mean[lane] * output[label, lane]
            products[label] = product
            highest = max(highest, product)
        sum_of = 0.0
        for label in range(len(products)):
            products[label] = np.float32(math.exp(np.float64(products[label] - highest)))
            sum_of += products[label]
        for label in range(len(products)):
            right = np.float32(1.0) if label == labels[text] else np.float32(0.0)
            amount = step * (right - np.float32(products[label] / sum_of))
            for lane in range(dimension):
                gradient[lane] += amount * output[label, lane]
                output[label, lane] += amount * mean[lane]
        for lane in range(dimension):
            gradient[lane] *= share
        for at in range(start, end):
            row = rows[at]
            for lane in range(dimension):
                weights[row, lane] += gradient[lane]
