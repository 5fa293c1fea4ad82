"""Small EXAMPLES artifacts and what is packed from them, for tests of rows, orders and loaders."""

import hashlib

import pyarrow as pa

from raymill.cluster.artifact import Artifact, Counters
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.stage import Output, Scratch, Stage
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.data.packed import EXAMPLES
from raymill.training.pack.job import packing_rule
from raymill.training.pack.packing import pack_stage
from tests.support.stages import run_inline


def config(**settings) -> TrainConfig:
    plain = {
        "kind": "train",
        "name": "test",
        "corpus": "corpus",
        "model": {"config": {"model_type": "llama", "vocab_size": 300}, "tokenizer": "train"},
        "sequence_length": 16,
        "tokens_per_step": 64,
        "steps": 10,
        "output": "runs/test",
    }
    return TrainConfig.model_validate(plain | settings)


def document(name: str, size: int, split: int = 0, labelled: slice = slice(1, None), label: int | None = None) -> dict:
    """Tokens that are pairwise different over all documents of a test, as far as 31 bits allow."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    first = int.from_bytes(digest[:3], "little") * 100
    labels = [False] * size
    labels[labelled] = [True] * len(labels[labelled])
    return {
        "split": split,
        "place": int.from_bytes(digest, "little"),
        "document": name,
        "ids": [first + token for token in range(size)],
        "labels": labels,
        "label": label,
    }


def write_examples(
    root: str,
    documents: list[dict],
    units: int = 1,
    row_group_bytes: int = 16 << 20,
    store: Store = Store(),  # noqa: B008 - a value without state
    schema: pa.Schema = EXAMPLES,
) -> Artifact:
    """The artifact that tokenising would leave, its documents dealt to `units` units."""

    def work(unit: int, scratch: Scratch) -> Counters:
        mine = sorted(documents[unit::units], key=lambda row: (row["split"], row["place"]))
        scratch.write("_work/examples/test", pa.Table.from_pylist(mine, schema))
        counters: Counters = {}
        for row in mine:
            name = f"tokens/{SPLITS[row['split']]}"
            counters[name] = counters.get(name, 0) + len(row["ids"])
        return counters

    output = Output("_work/examples/test", schema, row_group_bytes=row_group_bytes)
    stage = Stage("tokenise-test", (output,), list(range(units)), work, "e" * 32, store)
    return run_inline(stage, root)["_work/examples/test"]


def pack_examples(root: str, examples: Artifact, settings: TrainConfig, unit_tokens: int = 1 << 20) -> dict:
    """Artifacts by split."""
    made = run_inline(pack_stage("test", packing_rule(settings, settings.columns.form), examples, unit_tokens), root)
    return {split: made[f"test/{split}"] for split in SPLITS}
