"""The stages `fit`, `embed`, `cosines` and `learn`: vectors of texts, and what they say together.

SAMPLE           ->  MODEL     words and directions of the default embedding. One unit
files of splits  ->  VECTORS   of each record its vector, how near its answer is to its question, and to an
                               example of the domain; without the copies that balancing made
records          ->  COSINES   of each record how near its answer is to its question, in their order
VECTORS          ->  LEARNED   sizes of k-means groups, similarities, predicted labels: one row of JSON. One unit
                     SUSPECTS  the records whose label is probably wrong

Sizes of VECTORS: 2 bytes a dimension and record (128 bytes by default) beside its id. The driver reads none of it.
Memory of `learn`: 10,000 vectors; of labels, at most a million records with 4 bytes a dimension each, and 40 bytes for
each of at most 20 million pairs of a record and a class. Of more records, those with the smallest hashes are taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from raymill.cluster.artifact import Artifact, fingerprint
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.entry import Entry
from raymill.cluster.examples.content import Shape
from raymill.cluster.stage import Output, Stage, files_from
from raymill.cluster.store.copies import local_file, sha256_of
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.assess.facts import units_of
from raymill.pipelines.prepare.assess.settings import Embeddings, TextVectors

MODEL, VECTORS, COSINES = "model", "vectors", "cosines"
EMBED_VERSION = "5"
LIBRARIES = 512 << 20  # of a worker; scikit-learn and cleanlab leave it 240 MB
_FIT = 500 << 20  # 65,536 words of 64 dimensions in several copies, and 5,000 texts
_LOADED = 100 << 20
MODEL_SCHEMA = pa.schema([("token", pa.uint64()), ("idf", pa.float32()), ("vector", pa.list_(pa.float32()))])
# Null: a plain text, or a question or answer without a known word.
COSINES_SCHEMA = pa.schema([("cosine", pa.float32())])
LEARNED, SUSPECTS = "learned", "suspects"
LEARN_VERSION = "4"
LABELLED = 1_000_000  # records whose labels are predicted
PAIRS = 20_000_000  # of a record and a class
LEAST = 5  # records of a class
_OF_A_PAIR = 40  # with the copies that cleanlab makes
_OF_A_RECORD = 60
_OF_A_PREDICTION = 500  # of another model: its record's id, and its text
_OF_MODELS = 1024  # dimensions of a sentence-transformers model, at most in common ones
_FIXED = 200 << 20
LEARNED_SCHEMA = pa.schema([("learned", pa.string())])
SUSPECTS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.string()),
        ("suggested", pa.string()),  # the label with the highest probability
        ("probability", pa.float32()),  # of the record's own label
        ("text", pa.string()),  # the beginning of its text
    ]
)


def vectors_schema(labels: Sequence[str], predictions: str | None) -> pa.Schema:
    """The columns of VECTORS. labels: metadata that is predicted. predictions: metadata with those of another model."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("key", pa.uint64()),  # a hash of the question, or of the text
            ("fold", pa.int8()),  # of the split; null: the record is for testing, or there are no folds
            ("similarity", pa.float32()),  # of the answer, or text, to the nearest example: a cosine, at least 0
            # The cosine of question and answer; null for a plain text, or without a known word.
            ("relevance", pa.float32()),
            ("vector", pa.list_(pa.float16())),  # of length 1, or 0 without a known word
            *((f"label/{name}", pa.string()) for name in labels),
            *([("text", pa.string())] if labels else []),  # its beginning
            *([("predicted", pa.string())] if predictions else []),  # {value: probability} as JSON
        ]
    )


@dataclass(frozen=True)
class EmbedSettings:
    """The settings on which the vectors depend.

    Attributes:
        labels: metadata that is predicted. predictions: metadata with the predictions of another model.
        embedding_run: the endpoints for text vectors.
        setting: path of the setting with the model, for errors.
    """

    store: Store
    shape: Shape
    embeddings: TextVectors
    examples: tuple[str, ...]
    labels: tuple[str, ...]
    embedding_run: EmbeddingRun
    predictions: str | None = None
    setting: str = "assess.embeddings.model"


def fit_stage(settings: EmbedSettings, sample: Artifact) -> Stage:
    """The stage that writes MODEL. sample: SAMPLE of `facts_stage`."""
    depends_on = [
        EMBED_VERSION,
        sample.manifest.digest,
        settings.embeddings.model_dump(exclude={"groups", "min_cosine"}),
    ]
    work = partial(Entry("raymill.pipelines.prepare.assess.vectors:fit_model"), settings, sample)
    output, memory = Output(MODEL, MODEL_SCHEMA), fit_memory(settings.embeddings)
    return Stage("fit", (output,), (None,), work, fingerprint(depends_on), settings.store, memory=memory)


def fit_memory(embeddings: TextVectors) -> int:
    """Bytes of the stage `fit`."""
    return LIBRARIES + _FIT * max(1, embeddings.dimensions // 64)


def embed_memory(of_records: int) -> int:
    """Bytes of a unit of the stage `embed`. of_records: those of a unit of records."""
    return of_records + LIBRARIES + _LOADED


def embed_stage(settings: EmbedSettings, splits: Sequence[Artifact], model: Artifact | None, memory: int) -> Stage:
    """The stage that writes VECTORS.

    model: MODEL; None with `embeddings.model`. memory: bytes of a unit, as of `embed_memory`.
    """
    depends_on = {
        "version": EMBED_VERSION,
        "splits": [one.manifest.digest for one in splits],
        "shape": settings.shape,
        "model": _model(settings, model),
        "settings": [settings.examples, settings.labels, settings.predictions],
    }
    work = partial(Entry("raymill.pipelines.prepare.assess.vectors:embed_records"), settings, model)
    output = Output(VECTORS, vectors_schema(settings.labels, settings.predictions))
    made_from = fingerprint(depends_on)
    return Stage("embed", (output,), units_of(splits), work, made_from, settings.store, files_from, memory=memory)


def _model(settings: EmbedSettings, model: Artifact | None) -> Any:
    """What the vectors depend on besides the texts: the digest of MODEL, or the other model."""
    if model is not None:
        return model.manifest.digest
    assert settings.embeddings.model is not None
    return settings.embeddings.model.decisive


def cosines_stage(settings: EmbedSettings, records: Artifact, model: Artifact | None, units: int, memory: int) -> Stage:
    """The stage that writes COSINES, with a row for each of `records`. model, memory: as of `embed_stage`."""
    depends_on = [
        EMBED_VERSION,
        records.manifest.fingerprint,
        model.manifest.fingerprint if model else _model(settings, None),
    ]
    work = partial(Entry("raymill.pipelines.prepare.assess.vectors:measure_relevance"), settings, model)
    output, parts = Output(COSINES, COSINES_SCHEMA), records.files_by_unit(units)
    return Stage("cosines", (output,), parts, work, fingerprint(depends_on), settings.store, files_from, memory=memory)


def learn_stage(
    vectors: Artifact,
    embeddings: Embeddings,
    fields: tuple[str, ...],
    label: str | None,
    predictions: str | None,
    file: str | None,
) -> Stage:
    """The stage that writes LEARNED and SUSPECTS.

    fields: that are predicted. label: the one of them that is judged, by `predictions`, which may be a file.
    """
    sha256 = sha256_of(local_file(vectors.store, file, "assess.predictions")) if file else None
    depends_on = [LEARN_VERSION, vectors.manifest.digest, embeddings.groups, fields, label, sha256]
    work = partial(
        Entry("raymill.pipelines.prepare.assess.vectors:learn"),
        *(vectors, embeddings.groups, fields, label, predictions),
    )
    outputs = (Output(LEARNED, LEARNED_SCHEMA), Output(SUSPECTS, SUSPECTS_SCHEMA))
    memory = learn_memory(embeddings, vectors.manifest.rows if fields else 0)
    memory += _OF_A_PREDICTION * min(LABELLED, vectors.manifest.rows) if predictions else 0
    return Stage("learn", outputs, (None,), work, fingerprint(depends_on), vectors.store, memory=memory)


def learn_memory(embeddings: Embeddings, labelled: int) -> int:
    """Bytes of the stage. labelled: records with a label that is predicted."""
    dimensions = _OF_MODELS if embeddings.model else embeddings.dimensions
    of_records = min(LABELLED, labelled) * (_OF_A_RECORD + 4 * dimensions)
    return LIBRARIES + _FIXED + of_records + min(PAIRS, labelled**2 // LEAST) * _OF_A_PAIR
