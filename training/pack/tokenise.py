"""The tokenise stage: documents of a corpus to examples, with trained flags, split and shuffle key.

Reads a unit of the corpus; writes the artifact _work/examples/CORPUS of schema EXAMPLES, sorted by (split, shuffle
key) so that packing finds a range of them in few row groups.

A document to train on with several copies (cluster/examples/copies.py) is tokenised once, and each of its examples is
written as often, each time with another shuffle key. The first key is the one that it has without copies. Documents of
other splits have one copy, so that losses and scores are those of the documents.

Memory: examples are sorted and written when there are _SORTED_BYTES of them, and at the end of the unit. They take 5
bytes per token, and as much again while they are written: about 80 MiB for a unit of 32 MiB at 4 bytes of text per
token, 320 MiB at one token per byte. Documents are tokenised in tables of about _TABLE_BYTES by one thread, which takes
about 60 bytes per byte of the table: 600 MB for a document of 10 MB. That is not reserved.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, Counters, fingerprint
from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.copies import copies_of
from raymill.cluster.examples.splits import SPLITS, hash64
from raymill.cluster.stage import Output, Scratch, Stage
from raymill.training.config_parts import Split
from raymill.training.data.packed import EXAMPLES, JUDGED_EXAMPLES, STAGE_TOKENS, shuffle_key
from raymill.training.objectives import Records
from raymill.training.pack.chat import DESIRABLE, UNDESIRABLE
from raymill.training.pack.corpus import CorpusReading, FrozenCorpus, Unit, as_json, files_of, stage_of
from raymill.training.pack.documents import Document, LeftOut, TwoAnswers, documents_of
from raymill.training.pack.encode import TEMPLATE_REASONS, Encoder, Example, Misfit, with_prompts
from raymill.training.pack.loss_keys import unread_counters
from raymill.training.pack.packed_run import TokenizerAt
from raymill.training.pack.split import Cuts, split_of
from raymill.training.pack.text_time import refuse_slow

_load_prepared = Entry("raymill.training.tokenizer.load_tokenizer:load_prepared")  # imports transformers

log = logging.getLogger(__name__)

VERSION = 5  # of the examples; those of another version are made again

_TABLE_BYTES = 1 << 19
_TABLE_DOCUMENTS = 2048
# Row groups are small, because packing holds one of each unit in memory.
_ROW_GROUP_BYTES = 1 << 20
_WRITTEN_ROWS = 1024
_SORTED_BYTES = 256 << 20
# Bytes of a task, without its examples: 0.5 to 0.7 GiB measured (tests/benchmarks, bench_pack), mostly transformers.
_LIBRARIES = 704 << 20
_BYTES_PER_BYTE = 5  # the most bytes of examples for each byte of text
_BYTES_OF_A_TOKEN = 5
_BYTES_OF_A_COPY = 40  # its row, key and place in the order, also while they are sorted
# Counter of the examples besides the first of each, and the reason of documents without a copy.
REPEATED_EXAMPLES = "repeated_examples"
_NO_COPIES = "no_copies"
# The template is refused if it fails for this many documents of a unit and succeeds for none. In a corpus of one unit,
# one failure and no success in all of it are enough.
_FAILURES_OF_TEMPLATE = 32

# One core tokenises this in about 3 s; workers of Ray take 5 s to start and to import transformers.
SMALL_BYTES = 8 << 20


def tokenise_stage(
    name: str,
    frozen: FrozenCorpus,
    tokenizer: TokenizerAt,
    split: Split,
    cuts: Cuts,
    seed: int,
    classes: Sequence[str] = (),
    vocabulary: int | None = None,
    prompt_weight: float = 0.0,
) -> Stage:
    """The stage that tokenises the documents of one corpus and marks the tokens that the loss counts.

    Reads: the corpus, each document once.
    Writes: examples, a row for each document that is used, sorted by split and shuffle key.
    Cost: 0.4 core-seconds for 1 MB of text; memory for the examples of the largest unit, which are sorted.

    Args:
        cuts: those of its splits, from survey.py. The documents and `split` decide them.
        classes: those to predict, in the order of their indices.
        vocabulary: number of the model's embeddings; None if unknown.
        prompt_weight: weight of the loss of prompts in the train split.
    """
    failures = _FAILURES_OF_TEMPLATE if len(frozen.units) > 1 else 1
    output = f"_work/examples/{name}"
    # Copies of short documents fill what is sorted at once, however small the unit is.
    sorted_bytes = _SORTED_BYTES if frozen.plain_columns.get("copies") else _BYTES_PER_BYTE * max(frozen.unit_bytes)
    decided_by = [VERSION, name, frozen.fingerprint, as_json(frozen.units), frozen.plain_columns]
    decided_by += [tokenizer.fingerprint, split.model_dump(), seed, list(classes)]
    decided_by += [prompt_weight] if prompt_weight else []
    return Stage(
        name=stage_of("tokenise", name),
        outputs=(Output(output, schema_of(frozen.reading.records), row_group_bytes=_ROW_GROUP_BYTES),),
        units=frozen.units,
        work=Tokenise(
            source=frozen.reading,
            output=output,
            cuts=cuts,
            seed=seed,
            tokenizer=tokenizer,
            classes=tuple(classes),
            failures_of_template=failures,
            vocabulary=vocabulary,
            prompt_weight=prompt_weight,
        ),
        fingerprint=fingerprint(decided_by),
        store=tokenizer.store,
        describe=files_of,
        small=sum(frozen.unit_bytes) <= SMALL_BYTES,
        memory=_LIBRARIES + 2 * min(_SORTED_BYTES, sorted_bytes),
    )


def schema_of(records: Records) -> pa.Schema:
    """The schema of the examples of a corpus."""
    return EXAMPLES if records == "text" else JUDGED_EXAMPLES


@lru_cache(maxsize=2)
def _encoder(tokenizer: TokenizerAt, vocabulary: int | None) -> Encoder:
    """The encoder of a process, shared by its units."""
    return Encoder(_load_prepared(tokenizer.store, tokenizer.uri, tokenizer.fingerprint), vocabulary)


def refuse_no_examples(examples: Artifact, path: str) -> None:
    """Verify that a corpus has an example.

    Raises:
        DataError: it has none; the message has the reasons.
    """
    if not examples.manifest.rows:
        counters = examples.manifest.counters
        reasons = [f"{int(n)} {name.partition('/')[2]}" for name, n in counters.items() if name.startswith("left_out/")]
        several = " The chat template changes calls of tools once they are answered: set `model.chat_template` to one "
        several += "that does not, or give the calls and their results as part of the prompt."
        raise DataError(
            f"{path}: no document gives an example to train on. Left out: "
            f"{', '.join(reasons) or 'none'}. Check `columns`, and look at one with `raymill pack CONFIG --preview 3`."
            + several
            * ("left_out/answer_in_several_renderings" in counters)
        )


def note_on_copies(counters: Counters) -> list[str]:
    """A sentence about the examples besides the first of each; empty if there are none."""
    further, examples = counters.get(REPEATED_EXAMPLES, 0), counters["examples"]
    return [f"{further:,.0f} of {examples:,.0f} examples are further copies of documents"] if further else []


@dataclass(frozen=True)
class _Examples:
    """Examples and their copies. table: N rows, each with the shuffle key of its first copy.

    rows: int64[M], the example of each further copy. keys: uint64[M], the shuffle keys of these.
    """

    table: pa.Table
    rows: np.ndarray
    keys: np.ndarray


@dataclass(frozen=True)
class Tokenise:
    """The work of one unit.

    source: the corpus. output: name of the artifact. failures_of_template: failed documents of a unit without
    others for which the template is refused. The others are as in `tokenise_stage`.
    """

    source: CorpusReading
    output: str
    cuts: Cuts
    seed: int
    tokenizer: TokenizerAt
    classes: tuple[str, ...]
    failures_of_template: int
    vocabulary: int | None
    prompt_weight: float

    def __call__(self, unit: Unit, scratch: Scratch) -> Counters:
        encoder = _encoder(self.tokenizer, self.vocabulary)
        seconds, texts, size = encoder.seconds, 0, 0
        left_out, counters = LeftOut(), Counter[str]()
        failed = list[Misfit]()  # a misfit of each document for which the template failed
        tables: list[_Examples] = []
        held = 0
        for documents in _tables(self._with_copies(documents_of(self.source, unit, left_out), left_out)):
            encoded = encoder.encode(documents)
            texts, size = texts + len(documents), size + sum(document.bytes for document in documents)
            refuse_slow(self.tokenizer.uri, texts, size, encoder.seconds - seconds)
            if self.source.records != "text":  # earlier answers of a conversation are a part of the question
                del encoded.notes["turns_excluded"]
            # A chat can have one rendering that is refused and another that is an example.
            unfit = {one.document for one in encoded.misfits} - {one.document for one in encoded.examples}
            counters["documents"] += len(documents) - len(unfit)
            counters["text_bytes"] += sum(document.bytes for document in documents)
            counters.update({note: times for note, times in encoded.notes.items() if times})
            for misfit in encoded.misfits:
                if misfit.document in unfit:
                    left_out.add(misfit.reason, f"document {documents[misfit.document].id}", misfit.preview)
                    unfit.remove(misfit.document)
            failed += {one.document: one for one in encoded.misfits[::-1] if one.reason in TEMPLATE_REASONS}.values()
            _refuse_template(counters["documents"], failed, _FAILURES_OF_TEMPLATE)
            tables.append(self._table(documents, self._with_prompts(documents, encoded.examples), counters))
            held += tables[-1].table.nbytes + _BYTES_OF_A_COPY * len(tables[-1].rows)
            if held >= _SORTED_BYTES:
                self._write(tables, scratch)
                tables, held = [], 0
        _refuse_template(counters["documents"], failed, self.failures_of_template)
        for reason, (where, _) in left_out.first.items():
            log.info("left out: %d %s, the first at %s", left_out.reasons[reason], reason, where)
        self._write(tables, scratch)
        unread = unread_counters(left_out.unread, str(encoder.tokenizer.chat_template or ""))
        return dict(sorted((dict(counters) | left_out.counters | unread).items()))

    def _with_copies(self, documents: Iterator[Document], left_out: LeftOut) -> Iterator[Document]:
        """The documents that have a copy. Those without are added to `left_out`."""
        for document in documents:
            if self._copies(document):
                yield document
            else:
                left_out.add(_NO_COPIES, f"document {document.id}")

    def _copies(self, document: Document) -> int:
        if document.copies == 1 or split_of(document, self.cuts) != 0:
            return 1
        return copies_of(document.copies, self.seed, document.id)

    def _with_prompts(self, documents: Sequence[Document], examples: Sequence[Example]) -> Sequence[Example]:
        """The examples, those to train on with a loss on their prompts. Held-out losses are those of answers."""
        if not self.prompt_weight:
            return examples
        return [
            with_prompts(one, self.prompt_weight) if split_of(documents[one.document], self.cuts) == 0 else one
            for one in examples
        ]

    def _write(self, tables: Sequence[_Examples], scratch: Scratch) -> None:
        """Write the examples sorted by (split, shuffle key), then in the order of the corpus."""
        schema = schema_of(self.source.records)
        whole = pa.concat_tables([schema.empty_table(), *(one.table for one in tables)]).combine_chunks()
        firsts = np.cumsum([0, *(one.table.num_rows for one in tables)])
        further = [one.rows + first for one, first in zip(tables, firsts[:-1], strict=True)]
        rows = np.concatenate([np.arange(len(whole)), *further])
        keys = np.concatenate([whole["place"].to_numpy(), *(one.keys for one in tables)])
        order = np.lexsort((keys, whole["split"].to_numpy()[rows]))
        step = _WRITTEN_ROWS
        if len(rows) > len(whole):  # the copies of a large document may follow each other
            largest = pc.max(pc.list_value_length(whole["ids"])).as_py()
            step = max(1, min(step, _SORTED_BYTES // (_BYTES_OF_A_TOKEN * largest + 1)))
        for start in range(0, len(order), step):
            at = order[start : start + step]
            table = whole.take(pa.array(rows[at]))
            scratch.write(self.output, table.set_column(1, EXAMPLES.field("place"), pa.array(keys[at])))

    def _table(self, documents: Sequence[Document], examples: Sequence[Example], counters: Counter[str]) -> _Examples:
        """The examples as a table. Counts examples and tokens by split and stage, with copies."""
        owners = [documents[example.document] for example in examples]
        number = {name: index for index, name in enumerate(self.classes)}
        splits = [split_of(owner, self.cuts) for owner in owners]
        # Only training has stages: validation takes the first rows of its split, which have to be a random sample.
        stages = [owner.stage if split == 0 else None for owner, split in zip(owners, splits, strict=True)]
        copies = np.array([self._copies(owner) for owner in owners], np.int64)

        def key(row: int, copy: int) -> int:
            decides = [str(self.seed), owners[row].id, str(examples[row].piece), *([f"copy {copy}"] if copy else [])]
            return shuffle_key(hash64(*(part.encode() for part in decides)), stages[row])

        rows = np.repeat(np.arange(len(copies)), np.maximum(copies - 1, 0))
        keys = (key(row, copy) for row in np.flatnonzero(copies > 1).tolist() for copy in range(1, copies[row]))
        counters["examples"] += int(copies.sum())
        if len(rows):
            counters[REPEATED_EXAMPLES] += len(rows)
        tokens = copies * np.array([len(example.ids) for example in examples], np.int64)
        trained = copies * np.array([np.count_nonzero(example.trained) for example in examples], np.int64)
        for index, name in enumerate(SPLITS):
            own = np.array(splits, np.int64) == index
            counters[f"examples/{name}"] += int(copies[own].sum())
            counters[f"tokens/{name}"] += int(tokens[own].sum())
            counters[f"label_tokens/{name}"] += int(trained[own].sum())
        for owner, split, count in zip(owners, splits, copies.tolist(), strict=True):
            if owner.desirable is not None and split == 0:
                counters[DESIRABLE if owner.desirable else UNDESIRABLE] += count
        for stage, count in zip(stages, tokens.tolist(), strict=True):
            if stage is not None:
                counters[f"{STAGE_TOKENS}{stage}"] += count

        def lists(arrays: Sequence[np.ndarray], kind: type) -> pa.ListArray:
            ends = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
            return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.concatenate([np.empty(0, kind), *arrays])))

        columns = [
            pa.array(splits, pa.int8()),
            pa.array(np.array([key(row, 0) for row in range(len(examples))], np.uint64)),
            pa.array([owner.id for owner in owners], pa.string()),
            lists([example.ids for example in examples], np.int32),
            lists([example.trained for example in examples], np.bool_),
            pa.array([number.get(owner.label) if owner.label is not None else None for owner in owners], pa.int32()),
            pa.array([example.weights for example in examples], EXAMPLES.field("weights").type),
        ]
        if self.source.records != "text":
            columns.append(pa.array([example.chosen for example in examples], pa.int32()))
            columns.append(pa.array([_judgement(owner) for owner in owners], pa.float32()))
        return _Examples(
            pa.Table.from_arrays(columns, schema=schema_of(self.source.records)),
            rows,
            np.fromiter(keys, np.uint64, len(rows)),
        )


def _judgement(document: Document) -> float:
    """The value of the column `judgement`."""
    if isinstance(document.content, TwoAnswers):
        return document.content.margin
    assert document.desirable is not None
    return float(document.desirable)


def _tables(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Documents in lists of about _TABLE_BYTES."""
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


def _refuse_template(documents: int, failed: Sequence[Misfit], failures: int) -> None:
    """Refuse a chat template or tokenizer that failed for `failures` documents or more, and succeeded for none.

    documents: number of those for which it succeeded. failed: a misfit of each of those for which it failed.
    """
    if documents or len(failed) < failures:
        return
    first = failed[0]
    advice = {
        "template_error": "The template refuses these conversations.",
        "template_too_slow": "The template takes too long for these conversations.",
        "template_too_large": "The template takes too much memory for these conversations.",
        "tokenizer_error": "The tokenizer fails for these documents.",
        "tokenizer_too_slow": "An expression of the tokenizer takes too long for these documents.",
        "tokenizer_too_large": "The tokenizer takes too much memory for these documents.",
        "no_chat_template": "Prompt and completion are messages, which a chat template writes, and there is none.",
        "unknown_role": "Rename the roles in the data, or give a template that has them.",
        "prompt_is_no_prefix": "The template begins an assistant's turn differently from its generation prompt.",
        "no_end_of_turn": "An assistant's turn does not end with a special token, so a model could not learn to stop.",
        "doubled_bos": "Texts begin with two BOS tokens: one of the tokenizer's or template's, one of the texts'.",
        "message_not_rendered": "The template leaves out messages of a role: remove them, or give another template.",
        "tool_calls_not_rendered": "The template does not write tool calls: give one that does, such as `chatml`.",
        "reasoning_not_rendered": "The template does not write reasoning: put it into the content, or give another.",
    }
    raise ConfigError(
        f"model.chat_template: of the first {len(failed)} documents none is an example ({first.reason}). "
        f"{advice[first.reason]} The first one reads:\n{first.preview:.1500}\n"
        "Set model.chat_template to a suitable Jinja file, or give another tokenizer."
    )
