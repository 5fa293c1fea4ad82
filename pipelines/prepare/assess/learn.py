"""The stage `learn`: what the vectors of all records say together. One unit.

VECTORS  ->  LEARNED   sizes of k-means groups, similarities, predicted labels: one row of JSON
             SUSPECTS  the records whose label is probably wrong

Memory: 10,000 vectors; of labels, at most a million records with 4 bytes a dimension each, and 40 bytes for each of at
most 20 million pairs of a record and a class. Of more records, those with the smallest hashes are taken. The driver
reads the row and no vector.
"""

import json
from functools import partial
from typing import NotRequired, TypedDict

import numpy as np
import pyarrow as pa

from cluster.artifact import Artifact, fingerprint
from cluster.entry import Entry
from cluster.stage import Output, Stage
from cluster.store.copies import local_file, sha256_of
from pipelines.prepare.assess.embed import LIBRARIES
from pipelines.prepare.assess.settings import Assess, Embeddings

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

_LEARNED_SCHEMA = pa.schema([("learned", pa.string())])
SUSPECTS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.string()),
        ("suggested", pa.string()),  # the label with the highest probability
        ("probability", pa.float32()),  # of the record's own label
        ("text", pa.string()),  # the beginning of its text
    ]
)


class Suspect(TypedDict):
    """A record whose label is probably wrong. probability: of its label."""

    id: str
    label: str
    suggested: str
    probability: float
    text: NotRequired[str]


class Similar(TypedDict):
    """Similarity of answers to something. ids: of the least similar records."""

    records: int
    mean: float | None
    ids: list[str]


class Labels(TypedDict):
    """What was predicted of a field.

    records: that were predicted. left_out: records with a value that fewer than 5 records have. rare, rare_ids: the
    first such values with their records, and the ids of the first ones. classes: other distinct values. most_frequent:
    share of the most frequent one. scores: of each fold, by name. missed: records that are predicted otherwise.
    hardest: the first ones of these, the least probable value first. judged: records whose label is judged. errors:
    probably wrong labels; None if the predictions are no better than chance. suspects: the first ones.
    """

    records: int
    left_out: int
    rare: dict[str, int]
    rare_ids: list[str]
    classes: int
    most_frequent: float
    scores: dict[str, list[float]]
    missed: int
    hardest: list[Suspect]
    judged: int
    errors: int | None
    suspects: list[Suspect]


class Learned(TypedDict):
    """groups: records of each k-means group, largest first. largest: ids of the first records of the largest. similar:
    of answers to the nearest example. relevant: of answers to their questions. labels: by field.
    """

    groups: list[int]
    largest: list[str]
    similar: Similar
    relevant: Similar
    labels: dict[str, Labels]


def learn_stage(vectors: Artifact, embeddings: Embeddings, options: Assess) -> Stage:
    """The stage that writes LEARNED and SUSPECTS. options: what is predicted, and by what it is judged."""
    fields, file = options.predicted, options.predictions_file
    sha256 = sha256_of(local_file(vectors.store, file, "assess.predictions")) if file else None
    depends_on = [LEARN_VERSION, vectors.manifest.digest, embeddings.groups, fields, options.label, sha256]
    work = partial(
        Entry("pipelines.prepare.assess.groups:learn"),
        *(vectors, embeddings.groups, fields, options.label, options.predictions),
    )
    outputs = (Output(LEARNED, _LEARNED_SCHEMA), Output(SUSPECTS, SUSPECTS_SCHEMA))
    memory = learn_memory(embeddings, vectors.manifest.rows if fields else 0)
    memory += _OF_A_PREDICTION * min(LABELLED, vectors.manifest.rows) if options.predictions else 0
    return Stage("learn", outputs, (None,), work, fingerprint(depends_on), vectors.store, memory=memory)


def learn_memory(embeddings: Embeddings, labelled: int) -> int:
    """Bytes of the stage. labelled: records with a label that is predicted."""
    dimensions = _OF_MODELS if embeddings.model else embeddings.dimensions
    of_records = min(LABELLED, labelled) * (_OF_A_RECORD + 4 * dimensions)
    return LIBRARIES + _FIXED + of_records + min(PAIRS, labelled**2 // LEAST) * _OF_A_PAIR


def matrix(table: pa.Table) -> np.ndarray:
    """float16[N, D]: the vectors of a table."""
    column = table["vector"].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(table.num_rows, len(values) // max(1, table.num_rows))


def learned_table(learned: Learned) -> pa.Table:
    """The row of LEARNED."""
    return pa.table([[json.dumps(learned, ensure_ascii=False)]], schema=_LEARNED_SCHEMA)


def learned_of(artifact: Artifact) -> Learned:
    """What the stage found."""
    return json.loads(artifact.table()["learned"][0].as_py())
