"""Packing before it runs: its stages on a sample of each corpus, in this process."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

from cluster.artifact import Artifact, Counters
from cluster.cost import Cost
from cluster.plan.trial import Trial, sampled
from cluster.plan.whole import PlannedInput, Whole
from cluster.readers.streams import Span
from cluster.stage import RunStage
from cluster.store import paths
from cluster.store.store import Store
from training.config import TrainConfig
from training.model_folder.checks import embedded_tokens
from training.pack.packed_run import examples_name, packed_uri
from training.pack.packing import PackingRule, pack_stage
from training.pack.sources import FrozenCorpus, SplitSpan
from training.pack.survey import Surveyed, find_classes, survey_here
from training.pack.tokenise import refuse_no_examples, tokenise_stage
from training.pack.tokenizer import TokenizerAt, prepare_tokenizer, tokenizer_folder

_UNITS, _UNIT_BYTES = 8, 64 << 10  # of the sample of a corpus, and the text of each

# A row, the split of its file, and its bytes as `FrozenCorpus.unit_bytes` counts them.
SampledRow = tuple[dict[str, Any], str | None, int]


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
        probe = config.method == "probe"
        surveys = {name: survey_here(one, config.split, probe) for name, one in samples.items()}
        classes = find_classes(list(samples.values()), list(surveys.values())) if probe else ()

        def stages(name: str, corpus: FrozenCorpus, surveyed: Surveyed, run: RunStage) -> dict[str, Artifact]:
            split, cuts, seed = config.split, surveyed.cuts, config.seed
            examples = run(tokenise_stage(name, corpus, tokenizer, split, cuts, seed, classes, vocabulary))
            refuse_no_examples(examples[examples_name(name)], corpus.path)
            return run(pack_stage(name, PackingRule.of(config, corpus.columns), examples[examples_name(name)]))

        for name, corpus in frozen.items():

            def try_out(trial: Trial, every: int, name=name, corpus=corpus) -> Mapping[str, Artifact]:  # type: ignore[no-untyped-def]
                part = rows[name][::every]
                trial.rows = sum(size for _, _, size in part)
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
    return PlannedPacking(costs, counters, sum(size for of_corpus in rows.values() for _, _, size in of_corpus))


def _first_rows(corpus: FrozenCorpus) -> Iterator[SampledRow]:
    """The beginnings of some units."""
    count = len(corpus.units)
    for number in sorted({count * part // _UNITS for part in range(_UNITS)}):
        taken = 0
        for span, row, _ in corpus.reading.rows(corpus.units[number]):
            if isinstance(row, dict):
                texts = row.values() if span.format in ("parquet", "hf") else [json.dumps(row, default=str)]
                size = sum(len(str(value).encode()) for value in texts if value is not None)
                yield row, getattr(span, "split", None), size
                taken += size
                if taken >= _UNIT_BYTES:
                    break


def _sample(corpus: FrozenCorpus, rows: Sequence[SampledRow], folder: str, store: Store) -> FrozenCorpus:
    """The corpus with these rows alone, as JSON Lines in a folder, a file and a unit for each split of its files."""
    units, sizes = [], []
    for number, split in enumerate(dict.fromkeys(split for _, split, _ in rows)):
        part = [(row, size) for row, of, size in rows if of == split]
        data = "".join(json.dumps(row, default=str) + "\n" for row, _ in part).encode()
        span = Span(f"{folder}/{number}.jsonl", len(data), "", "jsonl", 0, len(data))
        store.write_bytes(span.uri, data)
        units.append((span if split is None else SplitSpan(**asdict(span), split=split),))
        sizes.append(sum(size for _, size in part))
    input = corpus.reading.input.model_copy(update={"path": folder, "format": None})
    reading = replace(corpus.reading, store=store, input=input)
    return replace(corpus, reading=reading, units=tuple(units), unit_bytes=tuple(sizes), fingerprint="sample")
