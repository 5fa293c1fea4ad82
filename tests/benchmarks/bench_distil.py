"""Speed of a distilled classifier: training, and applying by the rule `judge_score`, one core, processor time.

Predicted before it was measured: a text of 3.3 kB has 1,000 words and pairs of words, each a row of 64 bytes that is
read and written once an epoch, so 5,000 to 10,000 texts a second and epoch; applying as fast as the fastText kernel
without n-grams of characters, above 100 MB/s.

MODEL=FOLDER, a model of sentence-transformers, measures the linear head on its vectors too. Predicted: a model of 22
million parameters takes 2 x 22e6 x 256 tokens = 11 GFLOP a text, so some 5 texts a second on a core of 60 GFLOP/s.
"""

import json
import os
import tempfile
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa

from raymill.cluster.asking.embedding_model import EmbeddingModel
from raymill.cluster.store.store import Store
from raymill.pipelines.distil.train_head import train_head
from raymill.pipelines.language.fasttext_file import model_bytes
from raymill.pipelines.language.fasttext_training import TrainingSettings, train
from raymill.pipelines.language.identification import excerpts
from raymill.pipelines.rules.judge_score import HEAD, MODEL, THRESHOLD, JudgeScore
from raymill.pipelines.rules.linear_head import LinearHead
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine, processor_seconds
from tests.benchmarks.web_texts import LENGTHS, cut

_TEXTS, _EMBEDDED = 5000, 200
_SCORES = [str(score) for score in range(6)]


def run(texts: Texts) -> None:
    print(machine("numba", "fasttext-predict"))
    for name in LENGTHS:
        whole = cut(texts, name)
        some = Texts(whole.data, whole.offsets[: _TEXTS + 1])
        print(f"texts of {name}: {len(some):,} documents, {some.byte_lengths.sum() / 1e6:.1f} MB")
        _bench(some)


def _bench(texts: Texts) -> None:
    # Any labels take the same time.
    labels, settings = np.random.default_rng(0).integers(0, 6, len(texts)), TrainingSettings()
    lines = excerpts(texts, settings.max_chars)
    taken = processor_seconds(lambda: train(lines, labels, _SCORES, settings), 3)
    one = processor_seconds(lambda: train(lines, labels, _SCORES, settings.model_copy(update={"epochs": 1})), 3)
    epoch = (taken - one) / (settings.epochs - 1)
    print(
        f"  training, {settings.epochs} epochs: {taken:.1f} s, {len(texts) / taken:,.0f} documents/s; "
        f"an epoch {len(texts) / epoch:,.0f} documents/s",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, MODEL)
        file.write_bytes(model_bytes(train(lines, labels, _SCORES, settings), settings.epochs, len(texts)))
        Path(folder, THRESHOLD).write_text('{"min_score": 3, "max_chars": 5000}')
        analysis = Analysis(texts, "paper", pa.table({}), Store())
        rule = JudgeScore(classifier=folder)
        ours = processor_seconds(lambda: rule.measure(analysis))
        library, strings = fasttext.load_model(str(file)).f, [f"{text}\n" for text in lines.to_arrow().to_pylist()]
        theirs = processor_seconds(lambda: [library.predict(text, 6, 0.0, "strict") for text in strings], 1)
        if model := os.environ.get("MODEL"):
            _bench_head(folder, model, texts)
    size = texts.byte_lengths.sum() / 1e6
    print(
        f"  judge_score: {len(texts) / ours:,.0f} documents/s, {size / ours:.0f} MB/s; "
        f"fastText's library {len(texts) / theirs:,.0f} documents/s, {theirs / ours:.1f} x; "
        f"a million documents {ours / len(texts) * 1e6 / 3600:.3f} core hours",
        flush=True,
    )


def _bench_head(folder: str, model: str, texts: Texts) -> None:
    some = Texts(texts.data, texts.offsets[: _EMBEDDED + 1])
    vectors = np.random.default_rng(0).normal(size=(_TEXTS, 384)).astype(np.float32)
    labels = np.random.default_rng(0).integers(0, 6, _TEXTS)
    part = 9 * _TEXTS // 10
    taken = processor_seconds(
        lambda: train_head(vectors[:part], labels[:part], vectors[part:], labels[part:], len(_SCORES)), 1
    )
    Path(folder, HEAD).write_bytes(LinearHead(np.zeros((384, 6)), np.zeros(6)).to_json())
    Path(folder, THRESHOLD).write_text(json.dumps({"min_score": 3, "max_chars": 5000, "embedding": model}))
    rule = JudgeScore(classifier=folder, embedding=EmbeddingModel(path=model))
    analysis = Analysis(some, "paper", pa.table({}), Store())
    rule.measure(analysis)  # loads the model
    seconds = processor_seconds(lambda: rule.measure(analysis), 1)
    print(
        f"  linear head on vectors: training {taken:.1f} s; {len(some) / seconds:,.1f} documents/s, a million "
        f"documents {seconds / len(some) * 1e6 / 3600:,.0f} core hours",
        flush=True,
    )
