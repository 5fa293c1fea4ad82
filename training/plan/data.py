"""The number of rows and tokens to train on: counted in packed corpora, else from a sample or from bytes."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.cost import Cost
from cluster.errors import UserError
from training.config import TrainConfig
from training.data.order import Order, shares
from training.data.packed import rows_per_group
from training.pack.columns import with_columns
from training.pack.job import pack_settings
from training.pack.packed_run import PackedRun, manifest_file, packed_uri
from training.pack.sources import freeze_corpora, freeze_sets
from training.plan.packing import PlannedPacking, plan_packing

# Best-fit packing leaves about this share of a row's positions empty.
_EMPTY = 0.02
# Counters of the examples that packing leaves out because of their length (training/pack/overflow.py).
_LEFT_OUT = ("documents_dropped", "documents_all_question")


@dataclass(frozen=True)
class Data:
    """The train split of all corpora.

    exact: counted in packed corpora, not estimated. how: a description of that. rows, tokens: by corpus. documents: in
    all; None if not counted. order: of training, which converts epochs and tokens to steps. label_share: share of the
    tokens that the loss counts; 1 if not counted. packing: what each stage of packing takes; empty if it is done, or if
    no sample could be packed.
    """

    exact: bool
    how: str
    rows: dict[str, int]
    tokens: dict[str, int]
    documents: int | None
    order: Order
    label_share: float = 1.0
    packing: Sequence[Cost] = ()

    @property
    def documents_per_row(self) -> float | None:
        """None if documents are not counted."""
        return self.documents / sum(self.rows.values()) if self.documents else None

    @property
    def tokens_per_row(self) -> float:
        """Mean tokens of a row without padding, over all corpora in their shares."""
        return self.order.tokens_per_row

    def epochs(self, steps: int) -> float:
        """Number of passes over the data in that many steps, on average over corpora."""
        return steps * self.order.rows_per_step / self.order.rows_per_pass


def find_data(config: TrainConfig, vocabulary: int) -> Data:
    """Count the data of a config in packed corpora, else from a sample that is packed in this process.

    Without a tokenizer, which `tokenizer: train` makes in the run, tokens are guessed from bytes and the vocabulary.

    Args:
        vocabulary: of the model, for the guess.

    Raises:
        DataError, ConfigError, StorageError: a corpus or a column is missing.
    """
    config = with_columns(config)
    unit_bytes = config.execution.unit_mib << 20
    frozen = freeze_corpora(config, unit_bytes)
    root, store = packed_uri(config.packed, config.output), config.store
    manifest = manifest_file(store, root).read()
    everything = frozen | freeze_sets(config, unit_bytes)
    if manifest is not None and manifest["settings"] == pack_settings(config, everything):
        return _counted(config, PackedRun.load(store, root))
    notes = [f"; {name}: {corpus.note}" for name, corpus in frozen.items() if corpus.note]
    sizes = {name: sum(corpus.unit_bytes) for name, corpus in frozen.items()}
    try:
        found = None if config.model.tokenizer == "train" else plan_packing(config, frozen)
    except UserError as error:
        found, notes = None, [*notes, f"; no sample was packed: {str(error).splitlines()[0]}"]
    data = _guessed(config, sizes, vocabulary) if found is None else _sampled(config, sizes, found)
    return dataclasses.replace(data, how=data.how + "".join(notes))


def _counted(config: TrainConfig, packed: PackedRun) -> Data:
    train = {name: artifacts["train"].manifest for name, artifacts in packed.corpora.items()}
    damaged = len(packed.damage())
    files = "1 packed file is" if damaged == 1 else f"{damaged:,} packed files are"
    repair = f"; {files} damaged or gone, and `raymill pack` packs them again" if damaged else ""
    # Counted in the rows, so without the examples that packing left out.
    counters = [manifest.counters for manifest in train.values()]
    tokens = sum(one["tokens/train"] for one in counters)
    left_out = sum(one.get(name, 0) for one in counters for name in _LEFT_OUT)
    without = f", without {left_out:,.0f} examples longer than a row" if left_out else ""
    passed_over = "".join(f"; {name}: {note}" for name, note in packed.passed_over.items())
    return Data(
        exact=True,
        how=f"counted in {packed.uri}{without}{repair}{passed_over}",
        rows={name: manifest.rows for name, manifest in train.items()},
        tokens={name: int(manifest.counters["tokens/train"]) for name, manifest in train.items()},
        documents=int(sum(one["documents/train"] for one in counters)) or None,
        order=Order.for_training(config, packed),
        label_share=sum(one["label_tokens/train"] for one in counters) / tokens,
    )


def _guessed(config: TrainConfig, text_bytes: dict[str, int], vocabulary: int) -> Data:
    ratio = bytes_per_token(vocabulary)
    tokens = {name: max(1, round(size * config.split.train / ratio)) for name, size in text_bytes.items()}
    how = (
        f"estimated: {sum(text_bytes.values()) / 1e6:,.1f} MB of documents at {ratio:.1f} bytes a token (a guess for "
        f"{vocabulary:,} tokens of vocabulary and English), {config.split.train:.0%} of them to train on; "
        "`raymill pack` counts them"
    )
    if any(config.overflow(columns) == "drop" for columns in config.all_columns):
        how += f" and leaves out examples longer than {config.sequence_length:,} tokens, which this includes"
    rows = _rows(config, tokens)
    return Data(False, how, rows, tokens, None, _order(config, tokens, rows))


def _sampled(config: TrainConfig, text_bytes: dict[str, int], packing: PlannedPacking) -> Data:
    found = packing.counters
    tokens = {name: max(1, round(one["tokens/train"])) for name, one in found.items()}
    pieces = {name: max(1, round(one["pieces/train"])) for name, one in found.items()}
    rows = pieces if config.packing.mode == "none" else _rows(config, tokens)
    how = (
        f"estimated: {sum(text_bytes.values()) / 1e6:,.1f} MB of documents, of which {packing.sample_bytes / 1e6:,.2f} "
        f"MB were packed here: {sum(text_bytes.values()) / sum(tokens.values()):.2f} bytes for each token to train on; "
        "`raymill pack` counts them"
    )
    documents = round(sum(one["documents/train"] for one in found.values()))
    labels = sum(one["label_tokens/train"] for one in found.values()) / sum(tokens.values())
    return Data(False, how, rows, tokens, documents, _order(config, tokens, rows), labels, packing.costs)


def _rows(config: TrainConfig, tokens: dict[str, int]) -> dict[str, int]:
    per_row = config.sequence_length * (1 - _EMPTY)
    return {name: max(1, math.ceil(count / per_row)) for name, count in tokens.items()}


def _order(config: TrainConfig, tokens: dict[str, int], rows: dict[str, int]) -> Order:
    """The order of training, for the number of steps, which does not depend on the order of stages."""
    counts, filled = list(rows.values()), [tokens[name] / rows[name] for name in rows]
    mixture = shares(config.corpus, counts, filled)
    return Order(counts, mixture, config.rows_per_step, rows_per_group(config.sequence_length), config.seed, filled)


def bytes_per_token(vocabulary: int) -> float:
    """Bytes per token of English prose and code, by the size of a byte-level BPE vocabulary.

    1 at 256 entries and 0.4 more per doubling, at most 4.6. Measured: GPT-2 (50k) 4.2 to 4.4, Llama-3 (128k) 4.5 to
    4.7. Other scripts and short documents have fewer.
    """
    return min(4.6, 1 + 0.4 * max(0.0, math.log2(max(vocabulary, 256) / 256)))
