"""The number of rows and tokens to train on: counted in packed corpora, else from a sample or from bytes.

A sample of each corpus passes the stages of packing in this process, which also gives what each stage takes.
"""

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

from raymill.cluster.artifact import Artifact, Counters
from raymill.cluster.cost import Cost
from raymill.cluster.errors import DataError, UserError
from raymill.cluster.formats import amount_of_bytes
from raymill.cluster.plan.trial import Trial, sampled
from raymill.cluster.plan.whole import PlannedInput, Whole
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.streams import Span
from raymill.cluster.stage import RunStage
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.data.order import Order, shares
from raymill.training.data.packed import rows_per_group
from raymill.training.model_folder.checks import embedded_tokens
from raymill.training.model_folder.folder import located
from raymill.training.pack.corpus import FrozenCorpus, SplitSpan, freeze_corpora, freeze_sets, with_columns
from raymill.training.pack.corpus_files import CONTENT
from raymill.training.pack.job import pack_settings, packing_rule, prepare_tokenizer
from raymill.training.pack.packed_run import (
    PackedRun,
    TokenizerAt,
    examples_name,
    manifest_file,
    packed_uri,
    tokenizer_folder,
)
from raymill.training.pack.packing import pack_stage
from raymill.training.pack.split import Surveyed, find_classes, survey_here
from raymill.training.pack.tokenise import refuse_no_examples, tokenise_stage

_UNITS, _UNIT_BYTES = 8, 64 << 10  # of the sample of a corpus, and the text of each

# A row, the split of its file, and its bytes as `FrozenCorpus.unit_bytes` counts them.
SampledRow = tuple[dict[str, Any], str | None, float]


@dataclass(frozen=True)
class PlannedPacking:
    """costs: of each stage. counters: of the train split of each corpus. sample_bytes: text of the sample."""

    costs: list[Cost]
    counters: Mapping[str, Counters]
    sample_bytes: int


def plan_packing(config: TrainConfig, frozen: Mapping[str, FrozenCorpus]) -> PlannedPacking:
    """Plan the packing of the corpora of a config with columns. Loads the tokenizer.

    Raises:
        UserError: as the run, or a sample has no example.
    """
    costs: list[Cost] = []
    counters: dict[str, Counters] = {}
    rows = {name: list(_first_rows(corpus)) for name, corpus in frozen.items()}
    root = packed_uri(config.packed, config.output)
    vocabulary = embedded_tokens(config.store, config.model)
    with TemporaryDirectory(prefix="raymill-plan-") as folder:
        tokenizer = TokenizerAt(config.store, tokenizer_folder(folder), prepare_tokenizer(config, folder))
        samples = {name: _sample(one, rows[name], f"{folder}/{name}", Store()) for name, one in frozen.items()}
        classifies = config.training_method.classifies
        surveys = {name: survey_here(one, config.split, classifies) for name, one in samples.items()}
        classes = find_classes(list(samples.values()), list(surveys.values())) if classifies else ()

        def stages(name: str, corpus: FrozenCorpus, surveyed: Surveyed, run: RunStage) -> dict[str, Artifact]:
            split, cuts, seed = config.split, surveyed.cuts, config.seed
            prompts = config.prompt_loss_weight
            examples = run(tokenise_stage(name, corpus, tokenizer, split, cuts, seed, classes, vocabulary, prompts))
            refuse_no_examples(examples[examples_name(name)], corpus.path)
            return run(pack_stage(name, packing_rule(config, corpus.columns.form), examples[examples_name(name)]))

        for name, corpus in frozen.items():

            def try_out(trial: Trial, every: int, name=name, corpus=corpus) -> Mapping[str, Artifact]:  # type: ignore[no-untyped-def]
                part = rows[name][::every]
                trial.rows = round(sum(size for _, _, size in part))
                sample = _sample(corpus, part, trial.input_folder.rstrip("/"), trial.store)
                return stages(name, sample, surveys[name], trial.run)

            size, spans = sum(corpus.unit_bytes), sum(map(len, corpus.units))
            stored = sum(one for _, one, _ in corpus.listing)
            is_remote = paths.is_remote(corpus.units[0][0].uri)
            input = PlannedInput(size, size, stored, len(corpus.listing), corpus.unit_bytes, spans, is_remote)
            with sampled(config.store, try_out, time.perf_counter) as found:  # tokens are made by a child process
                whole = Whole(root, input, found)
                made = stages(name, corpus, surveys[name], whole.run)
            counters[name] = made[f"{name}/train"].manifest.counters
            costs += whole.costs
    return PlannedPacking(costs, counters, round(sum(size for of_corpus in rows.values() for _, _, size in of_corpus)))


def _first_rows(corpus: FrozenCorpus) -> Iterator[SampledRow]:
    """The beginnings of some units; the bytes of the rows of a unit that is read to its end sum up to the unit's."""
    count, named = len(corpus.units), corpus.reading.columns.named
    content = {named[role] for role in CONTENT if role in named}
    for number in sorted({count * part // _UNITS for part in range(_UNITS)}):
        found, taken, counts = list[SampledRow](), 0, ReaderCounts()
        for span, row, _ in corpus.reading.rows(corpus.units[number], counts):
            if isinstance(row, dict):
                texts = (value for name, value in row.items() if name in content)
                of_row = (
                    sum(map(_text_bytes, texts))
                    if span.format in ("parquet", "hf")
                    else len(json.dumps(row, default=str))
                )
                size = round(counts.row_bytes) or of_row
                found.append((row, getattr(span, "split", None), size))
                taken += size
                if taken >= _UNIT_BYTES:
                    yield from found
                    break
        else:
            scale = corpus.unit_bytes[number] / max(taken, 1)
            yield from ((row, split, size * scale) for row, split, size in found)


def _text_bytes(value: Any) -> int:
    """Bytes of the texts of a value in UTF-8, also of those inside of it."""
    if isinstance(value, dict | list):
        return sum(map(_text_bytes, value.values() if isinstance(value, dict) else value))
    return 0 if value is None else len(str(value).encode(errors="replace"))


def _sample(corpus: FrozenCorpus, rows: Sequence[SampledRow], folder: str, store: Store) -> FrozenCorpus:
    """The corpus with these rows alone, as JSON Lines in a folder, a file and a unit for each split of its files."""
    units, sizes = [], []
    for number, split in enumerate(dict.fromkeys(split for _, split, _ in rows)):
        part = [(row, size) for row, of, size in rows if of == split]
        data = "".join(json.dumps(row, default=str) + "\n" for row, _ in part).encode()
        span = Span(f"{folder}/{number}.jsonl", len(data), "", "jsonl", 0, len(data))
        store.write_bytes(span.uri, data)
        units.append((span if split is None else SplitSpan(**asdict(span), split=split),))
        sizes.append(round(sum(size for _, size in part)))
    input = corpus.reading.input.model_copy(update={"path": folder, "format": None})
    reading = replace(corpus.reading, store=store, input=input)
    return replace(corpus, reading=reading, units=tuple(units), unit_bytes=tuple(sizes), fingerprint="sample")


# Best-fit packing leaves about this share of a row's positions empty.
_EMPTY = 0.02
# Counters of the examples that packing leaves out because of their length (training/pack/packing.py).
_LEFT_OUT = ("documents_dropped", "documents_all_question")
_MOST_COUNTED = 10**15  # tokens, documents and rows of a corpus


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
        """Number of passes over the data in that many steps with rows of their own, on average over corpora."""
        return steps * self.order.rows_per_step / self.order.rows_per_pass


def find_data(config: TrainConfig, vocabulary: int) -> Data:
    """Count the data of a config in packed corpora, else from a sample that is packed in this process.

    Without a tokenizer, which `tokenizer: train` makes in the run, tokens are guessed from bytes and the vocabulary.

    Args:
        vocabulary: of the model, for the guess.

    Raises:
        DataError, ConfigError, StorageError: a corpus or a column is missing.
    """
    config = with_columns(config.model_copy(update={"model": located(config.model)}))
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
    """
    Raises:
        DataError: the counters of packed rows are none that are written.
    """
    train = {name: artifacts["train"].manifest for name, artifacts in packed.corpora.items()}
    for name, manifest in train.items():
        counted = [manifest.counters.get(f"{one}/train", -1) for one in ("tokens", "documents", "label_tokens")]
        if not (all(0 <= one <= _MOST_COUNTED for one in counted) and counted[0] and manifest.rows <= _MOST_COUNTED):
            raise DataError(
                f"{packed.uri}: the counters of corpus {name} were changed after they were written. Delete the folder "
                "and run `raymill pack CONFIG`."
            )
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
        f"estimated: {amount_of_bytes(sum(text_bytes.values()))} of documents at {ratio:.1f} bytes a token (a guess "
        f"for {vocabulary:,} tokens of vocabulary and English), {config.split.train:.0%} of them to train on; "
        "`raymill pack` counts them"
    )
    if any(config.overflow(form) == "drop" for form in config.forms):
        how += f" and leaves out examples longer than {config.sequence_length:,} tokens, which this includes"
    rows = _rows(config, tokens)
    return Data(False, how, rows, tokens, None, _order(config, tokens, rows))


def _sampled(config: TrainConfig, text_bytes: dict[str, int], packing: PlannedPacking) -> Data:
    found = packing.counters
    tokens = {name: max(1, round(one["tokens/train"])) for name, one in found.items()}
    pieces = {name: max(1, round(one["pieces/train"])) for name, one in found.items()}
    rows = pieces if config.packing.mode == "none" else _rows(config, tokens)
    how = (
        f"estimated: {amount_of_bytes(sum(text_bytes.values()))} of documents, of which "
        f"{amount_of_bytes(packing.sample_bytes)} were packed here: "
        f"{sum(text_bytes.values()) / sum(tokens.values()):.2f} bytes for each token to train on; `raymill pack` "
        "counts them"
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
