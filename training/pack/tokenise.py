"""The stage that makes examples of a corpus: read, tokenise, mask, and say where each stands in the global shuffle.

A unit's examples are held until it ends, to be sorted by (split, place): 5 bytes a token and as much again while they
are written, so a unit of 32 MiB takes about 80 MiB at 4 bytes of text a token, and 320 MiB at the very worst, one token
a byte. Documents are tokenised in tables of about _TABLE_BYTES by the tokenizer's own batch call, one thread; while it
works it takes some 60 bytes for each byte of the table, so a single document of 10 MB takes 600 MB.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow as pa

from cluster.artifact import Artifact, Counters, fingerprint
from cluster.errors import ConfigError, DataError
from cluster.stage import Output, Scratch, Stage, files_from
from cluster.store.store import Store
from training.config import TrainConfig
from training.config_parts import Columns
from training.data.schema import EXAMPLES, SPLITS
from training.models.checks import embedded_tokens
from training.pack.documents import Document, LeftOut, all_documents, documents_of, hash64
from training.pack.encode import TEMPLATE_REASONS, Encoder, Example, Misfit
from training.pack.sources import FrozenCorpus, Unit, as_json
from training.pack.split import Cuts, choose_cuts, survey
from training.pack.tokenizer import load_prepared

log = logging.getLogger(__name__)

VERSION = 3  # of what an example is; another one makes examples anew

_TABLE_BYTES = 1 << 19
_TABLE_DOCUMENTS = 2048
# Small row groups: who merges the units holds one of each in memory.
_ROW_GROUP_BYTES = 1 << 20
_WRITTEN_ROWS = 1024
# So many documents of a unit that the template fails for, and none that it does not: it is the template. In a corpus of
# one unit any number tells.
_TELLING = 32

# Tokenised in about 3 s by one core, while workers of Ray take 5 s to start and to import transformers.
SMALL_BYTES = 8 << 20


def tokenise_stage(
    config: TrainConfig,
    name: str,
    frozen: FrozenCorpus,
    tokenizer_uri: str,
    tokenizer_fingerprint: str,
    classes: Sequence[str] = (),
) -> Stage:
    """Examples of one corpus, in `_work/examples/{name}`. classes: of method probe, in the order of their indices.

    Raises:
        DataError: no row of the corpus can be used.
        ConfigError: too many values to stratify by.
    """
    keyed = ((document.key, document.stratum) for document in all_documents(frozen))
    cuts = choose_cuts(survey(keyed, frozen.columns.stratify is not None), config.split)
    telling = _TELLING if len(frozen.units) > 1 else 1
    output = f"_work/examples/{name}"
    decides = [VERSION, name, frozen.fingerprint, as_json(frozen.units), frozen.columns.model_dump()]
    decides += [tokenizer_fingerprint, config.split.model_dump(), config.seed, list(classes)]
    return Stage(
        name=f"tokenise-{name}",
        outputs=(Output(output, EXAMPLES, row_group_bytes=_ROW_GROUP_BYTES),),
        units=frozen.units,
        work=Tokenise(
            source=frozen.store,
            output=output,
            columns=frozen.columns,
            cuts=cuts,
            seed=config.seed,
            store=config.store,
            tokenizer_uri=tokenizer_uri,
            tokenizer_fingerprint=tokenizer_fingerprint,
            classes=tuple(classes),
            telling=telling,
            vocabulary=embedded_tokens(config.store, config.model),
        ),
        fingerprint=fingerprint(decides),
        store=config.store,
        describe=_files,
        small=sum(frozen.unit_bytes) <= SMALL_BYTES,
    )


def _files(unit: Unit) -> str:
    return files_from(list(dict.fromkeys(span.uri for span in unit)))


@lru_cache(maxsize=2)
def _encoder(store: Store, uri: str, fingerprint: str, vocabulary: int | None) -> Encoder:
    """Made once a process, however many units it does."""
    return Encoder(load_prepared(store, uri, fingerprint), vocabulary)


def refuse_no_examples(examples: Artifact, path: str) -> None:
    """
    Raises:
        DataError: a whole corpus without an example; the message says what became of its documents.
    """
    if not examples.manifest.rows:
        counters = examples.manifest.counters
        reasons = [f"{int(n)} {name.partition('/')[2]}" for name, n in counters.items() if name.startswith("left_out/")]
        raise DataError(
            f"{path}: no document gives an example to learn from. Left out: "
            f"{', '.join(reasons) or 'none'}. Check `columns`, and look at one with `raymill pack CONFIG --preview 3`."
        )


@dataclass(frozen=True)
class Tokenise:
    """The work of one unit; a worker gets it by pickle.

    source: store of the corpus. store: of the tokenizer. vocabulary: of the model, None where it is not known.
    """

    source: Store
    output: str
    columns: Columns
    cuts: Cuts
    seed: int
    store: Store
    tokenizer_uri: str
    tokenizer_fingerprint: str
    classes: tuple[str, ...]
    telling: int
    vocabulary: int | None

    def __call__(self, unit: Unit, scratch: Scratch) -> Counters:
        encoder = _encoder(self.store, self.tokenizer_uri, self.tokenizer_fingerprint, self.vocabulary)
        left_out = LeftOut()
        tally = _Tally()
        tables = []
        for documents in _tables(documents_of(self.source, unit, self.columns, left_out)):
            encoded = encoder.encode(documents)
            learnt = {example.document for example in encoded.examples}
            tally.add(documents, learnt, encoded.notes, encoded.misfits, left_out)
            _refuse_template(tally, encoded.misfits, self.telling)
            tables.append(self._table(documents, encoded.examples, tally))
        for reason, (where, _) in left_out.first.items():
            log.info("left out: %d %s, the first at %s", left_out.reasons[reason], reason, where)
        examples = pa.concat_tables([EXAMPLES.empty_table(), *tables])
        for table in _sorted(examples):
            scratch.write(self.output, table)
        return dict(sorted((tally.counters | left_out.counters).items()))

    def _table(self, documents: Sequence[Document], examples: Sequence[Example], tally: "_Tally") -> pa.Table:
        owners = [documents[example.document] for example in examples]
        number = {name: index for index, name in enumerate(self.classes)}
        places = [
            hash64(str(self.seed).encode(), owner.id.encode(), str(example.piece).encode())
            for owner, example in zip(owners, examples, strict=True)
        ]
        splits = [self.cuts.split_of(owner.key, owner.stratum) for owner in owners]
        tally.count(splits, examples)
        columns = [
            pa.array(splits, pa.int8()),
            pa.array(np.array(places, np.uint64)),
            pa.array([owner.id for owner in owners], pa.string()),
            _lists([example.ids for example in examples], np.int32),
            _lists([example.labels for example in examples], np.bool_),
            pa.array([number.get(owner.label) if owner.label is not None else None for owner in owners], pa.int32()),
        ]
        return pa.Table.from_arrays(columns, schema=EXAMPLES)


@dataclass
class _Tally:
    """Counters of a unit."""

    counters: Counters = field(default_factory=dict)
    unfit: int = 0  # documents that the template failed for

    def add(
        self,
        documents: Sequence[Document],
        learnt: set[int],
        notes: Counter[str],
        misfits: Sequence[Misfit],
        left_out: LeftOut,
    ) -> None:
        """learnt: indices of the documents that give an example."""
        # Of a chat that history rewrites, one rendering may be refused and another learnt.
        unfit = {misfit.document for misfit in misfits} - learnt
        self._count("documents", len(documents) - len(unfit))
        self._count("text_bytes", sum(document.bytes for document in documents))
        for note, times in notes.items():
            if times:
                self._count(note, times)
        for document, reason, preview in misfits:
            if document in unfit:
                left_out.add(reason, f"document {documents[document].id}", preview)
                unfit.remove(document)
        self.unfit += len({misfit.document for misfit in misfits if misfit.reason in TEMPLATE_REASONS})

    def count(self, splits: Sequence[int], examples: Sequence[Example]) -> None:
        self._count("examples", len(examples))
        which = np.array(splits, np.int64)
        tokens = np.array([len(example.ids) for example in examples], np.int64)
        labels = np.array([np.count_nonzero(example.labels) for example in examples], np.int64)
        for index, name in enumerate(SPLITS):
            own = which == index
            self._count(f"examples/{name}", int(own.sum()))
            self._count(f"tokens/{name}", int(tokens[own].sum()))
            self._count(f"label_tokens/{name}", int(labels[own].sum()))

    def _count(self, name: str, by: int) -> None:
        self.counters[name] = self.counters.get(name, 0) + by


def _tables(documents: Iterator[Document]) -> Iterator[list[Document]]:
    held: list[Document] = []
    held_bytes = 0
    for document in documents:
        held.append(document)
        held_bytes += document.bytes
        if held_bytes >= _TABLE_BYTES or len(held) >= _TABLE_DOCUMENTS:
            yield held
            held, held_bytes = [], 0
    if held:
        yield held


def _lists(arrays: Sequence[np.ndarray], kind: type) -> pa.ListArray:
    values = np.concatenate(arrays) if arrays else np.empty(0, kind)
    ends = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values))


def _sorted(examples: pa.Table) -> Iterator[pa.Table]:
    """By (split, place), then as they stand in the corpus; some rows at a time."""
    order = np.lexsort((examples["place"].to_numpy(), examples["split"].to_numpy()))
    whole = examples.combine_chunks()
    for start in range(0, len(order), _WRITTEN_ROWS):
        yield whole.take(pa.array(order[start : start + _WRITTEN_ROWS]))


def _refuse_template(tally: _Tally, misfits: Sequence[Misfit], telling: int) -> None:
    """A template or tokenizer that has failed for every document so far will fail for all of the corpus."""
    if tally.counters["documents"] or tally.unfit < telling:
        return
    failed = [misfit for misfit in misfits if misfit.reason in TEMPLATE_REASONS]
    mends = {
        "template_error": "The template refuses these conversations.",
        "unknown_role": "Rename the roles in the data, or give a template that has them.",
        "prompt_is_no_prefix": "The template begins an assistant's turn otherwise than its generation prompt does.",
        "no_end_of_turn": "An assistant's turn ends with no token of its own, so a model could not learn to stop.",
        "doubled_bos": "Texts begin with two BOS tokens: one of the tokenizer's or template's, one of the texts'.",
        "message_not_rendered": "The template leaves out messages of a role: remove them, or give another template.",
        "tool_calls_not_rendered": "The template does not write tool calls: give one that does, such as `chatml`.",
        "reasoning_not_rendered": "The template does not write reasoning: put it into the content, or give another.",
    }
    first = failed[0]
    raise ConfigError(
        f"model.chat_template: of the first {tally.unfit} documents none can be an example ({first.reason}). "
        f"{mends[first.reason]} The first one reads:\n{first.preview:.1500}\n"
        "Set model.chat_template to a Jinja file that suits, or give another tokenizer."
    )
