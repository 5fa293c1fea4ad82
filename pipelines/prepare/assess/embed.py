"""The stages `fit` and `embed`: a vector of every record.

SAMPLE           ->  MODEL     words and directions of the default embedding. One unit
files of splits  ->  VECTORS   of each record its vector, how near its answer is to its question, and to an
                               example of the domain; without the copies that balancing made

Sizes: 2 bytes a dimension and record (128 bytes by default) beside its id. The driver reads none of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from cluster.artifact import Artifact, fingerprint
from cluster.entry import Entry
from cluster.read.limits import Limits
from cluster.stage import Output, Stage, files_from
from cluster.store.store import Store
from pipelines.prepare.assess.facts import units_of
from pipelines.prepare.assess.settings import Embeddings
from pipelines.prepare.records.content import Shape
from pipelines.prepare.stages.collect import collect_memory

MODEL, VECTORS = "model", "vectors"
EMBED_VERSION = "4"
LIBRARIES = 512 << 20  # of a worker; scikit-learn and cleanlab leave it 240 MB
_FIT = 500 << 20  # 65,536 words of 64 dimensions in several copies, and 5,000 texts
_LOADED = 100 << 20

MODEL_SCHEMA = pa.schema([("token", pa.uint64()), ("idf", pa.float32()), ("vector", pa.list_(pa.float32()))])


def vectors_schema(labels: Sequence[str], predictions: str | None) -> pa.Schema:
    """The columns of VECTORS. labels: metadata that is predicted. predictions: metadata with those of another model."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("key", pa.uint64()),  # a hash of the question, or of the text
            ("fold", pa.int8()),  # of the split; null: the record is for testing, or there are no folds
            ("similarity", pa.float32()),  # of the answer, or text, to the nearest example: a cosine, at least 0
            (
                "relevance",
                pa.float32(),
            ),  # likewise of question and answer; null of a plain text or without a known word
            ("vector", pa.list_(pa.float16())),  # of length 1, or 0 without a known word
            *((f"label/{name}", pa.string()) for name in labels),
            *([("predicted", pa.string())] if predictions else []),  # {value: probability} as JSON
        ]
    )


@dataclass(frozen=True)
class EmbedSettings:
    """The settings on which the vectors depend. labels: metadata that is predicted. predictions: metadata with those of
    another model.
    """

    store: Store
    shape: Shape
    embeddings: Embeddings
    examples: tuple[str, ...]
    labels: tuple[str, ...]
    predictions: str | None = None


def fit_stage(settings: EmbedSettings, sample: Artifact) -> Stage:
    """The stage that writes MODEL. sample: SAMPLE of `facts_stage`."""
    made_from = [EMBED_VERSION, sample.manifest.digest, settings.embeddings.model_dump(exclude={"groups"})]
    work = partial(Entry("pipelines.prepare.assess.vectors:fit_model"), settings, sample)
    output, memory = Output(MODEL, MODEL_SCHEMA), fit_memory(settings.embeddings)
    return Stage("fit", (output,), (None,), work, fingerprint(made_from), settings.store, memory=memory)


def fit_memory(embeddings: Embeddings) -> int:
    """Bytes of the stage `fit`."""
    return LIBRARIES + _FIT * max(1, embeddings.dimensions // 64)


def embed_memory(limits: Limits) -> int:
    """Bytes of a unit of the stage `embed`."""
    return collect_memory(limits) + LIBRARIES + _LOADED


def embed_stage(settings: EmbedSettings, splits: Sequence[Artifact], model: Artifact | None, limits: Limits) -> Stage:
    """The stage that writes VECTORS. model: MODEL; None with a model of sentence-transformers."""
    made_from = {
        "version": EMBED_VERSION,
        "splits": [one.manifest.digest for one in splits],
        "shape": settings.shape,
        "model": model.manifest.digest if model else settings.embeddings.model,
        "settings": [settings.examples, settings.labels, settings.predictions],
    }
    work = partial(Entry("pipelines.prepare.assess.vectors:embed_records"), settings, model)
    output, memory = Output(VECTORS, vectors_schema(settings.labels, settings.predictions)), embed_memory(limits)
    made = fingerprint(made_from)
    return Stage("embed", (output,), units_of(splits), work, made, settings.store, files_from, memory=memory)
