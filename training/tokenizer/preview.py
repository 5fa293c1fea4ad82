"""The preview of `raymill pack --preview N`: a few examples of each corpus, with the tokens that are trained on.

Nothing is packed. Trained tokens are coloured on a terminal, and in ⟦brackets⟧ elsewhere and under NO_COLOR. Special
tokens and line feeds are shown, and control characters are escaped.
"""

import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerFast

from raymill.cluster.artifact import Counters
from raymill.cluster.errors import DataError
from raymill.cluster.store import paths
from raymill.training.config import TrainConfig
from raymill.training.data.packed import EXAMPLES
from raymill.training.methods import CLASS_WORDS
from raymill.training.model_folder.checks import embedded_tokens
from raymill.training.pack import loss_keys, summary
from raymill.training.pack.corpus import FrozenCorpus, freeze_corpora, with_columns
from raymill.training.pack.documents import (
    Document,
    LeftOut,
    Pair,
    TwoAnswers,
    all_documents,
    check_corpora,
    refuse_all,
)
from raymill.training.pack.encode import Encoder, Example, with_prompts
from raymill.training.pack.job import packing_rule, prepare_tokenizer
from raymill.training.pack.packing import PackingRule, cut
from raymill.training.tokenizer.load_tokenizer import load_tokenizer

# Tokens shown of a segment; the middle of a longer one is left out.
_SHOWN_TOKENS = 240
# Documents and bytes of text that are tokenised to count those longer than a row: about a second.
_MEASURED_DOCUMENTS = 1000
_MEASURED_BYTES = 2 << 20
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens, all trained on or all not. special: one special token. text: empty for a cut middle."""

    text: str
    tokens: int
    trained: bool
    special: bool


@dataclass(frozen=True)
class ShownExample:
    """An example of a preview.

    form, label: of its document. overflow: how an example longer than a row is treated; else empty. segments: of a pair
    those of the question with the chosen answer; rejected: those with the rejected one, else empty.
    """

    document: str
    form: str
    label: str | None
    tokens: int
    trained_tokens: int
    overflow: str
    segments: tuple[Segment, ...]
    rejected: tuple[Segment, ...] = ()


@dataclass(frozen=True)
class Preview:
    """The preview of a corpus.

    examples: the first ones. refused: by reason, (position, text) of the first document without an example. left_out:
    documents without an example, by reason. seen: number of documents that were read. notes: sentences about turns that
    are not trained on and examples longer than a row. not_read: files, columns and keys that are not read.
    """

    corpus: str
    examples: tuple[ShownExample, ...]
    refused: dict[str, tuple[str, str]]
    left_out: Counter[str]
    seen: int
    notes: tuple[summary.Note, ...]
    not_read: str


def preview(config: TrainConfig, count: int) -> list[Preview]:
    """The first `count` examples of each corpus, and how many of its first _MEASURED_DOCUMENTS would be left out.

    Raises:
        UserError: as packing raises. DataError also if no document gives a row.
    """
    config = with_columns(config)
    unit_bytes = config.execution.unit_mib << 20
    frozen = freeze_corpora(config, unit_bytes)
    check_corpora(frozen)
    with tempfile.TemporaryDirectory() as scratch:
        prepare_tokenizer(config, scratch)  # a preview leaves no files
        tokenizer = load_tokenizer(config.store, paths.join(scratch, "tokenizer"))
    encoder = Encoder(tokenizer, embedded_tokens(config.store, config.model))
    return [
        _of_corpus(name, corpus, packing_rule(config, corpus.columns.form), encoder, count, config.prompt_loss_weight)
        for name, corpus in frozen.items()
    ]


def print_previews(previews: list[Preview], console: Console | None = None) -> None:
    """Print previews, by default to standard output."""
    console = console or Console(highlight=False, emoji=False)
    colour = console.is_terminal and not console.no_color
    if colour:
        console.print(
            "[green]trained on[/]  [dim]context[/]  [bold green underline]trained on, special[/]  [magenta]special[/]"
        )
    else:
        console.print("⟦trained on⟧  context", markup=False)
    for one in previews:
        for shown in one.examples:
            console.rule(Text(f"{one.corpus}: document {_plain(shown.document)}"), style="dim", align="left")
            console.print(_heading(shown), markup=False, soft_wrap=True)
            for name, segments in (("chosen", shown.segments), ("rejected", shown.rejected)):
                if shown.rejected:
                    size = sum(segment.tokens for segment in segments)
                    console.print(f"{name}, {size:,} tokens:", markup=False, soft_wrap=True)
                if segments:
                    console.print(_text(segments, colour), soft_wrap=True)
        for reason, (where, text) in one.refused.items():
            console.rule(Text(f"{one.corpus}: {_plain(where)}"), style="dim", align="left")
            line = f"left out: {reason}, the first of {one.left_out[reason]:,}.{' It reads:' if text else ''}"
            console.print(line, markup=False, soft_wrap=True)
            if text:
                console.print(_plain(text[: 4 * _SHOWN_TOKENS]), markup=False, soft_wrap=True, style="dim")
        tokens, trained = (sum(getattr(s, name) for s in one.examples) for name in ("tokens", "trained_tokens"))
        line = f"{one.corpus}: {trained:,} of {tokens:,} tokens are trained on ({trained / max(tokens, 1):.0%})"
        if any(shown.label is not None for shown in one.examples):
            line = f"{one.corpus}: {tokens:,} tokens, none trained on: {CLASS_WORDS}"
        console.rule(style="dim")
        console.print(line, markup=False, soft_wrap=True)
        first = f"{one.corpus}, its first {one.seen:,} documents:"
        for note in one.notes:
            console.print(f"{'warning: ' if note.warned else ''}{first} {note.words}", markup=False, soft_wrap=True)
        if one.left_out:
            counted = ", ".join(f"{count:,} {name}" for name, count in one.left_out.items())
            console.print(f"{first} left out: {counted}", markup=False, soft_wrap=True)
        if one.not_read:
            console.print(f"{one.corpus}: {one.not_read}", markup=False, soft_wrap=True)


def segments_of(ids: np.ndarray, trained: np.ndarray, tokenizer: PreTrainedTokenizerFast) -> Iterator[Segment]:
    """The segments of an example."""
    special = np.isin(ids, list(tokenizer.added_tokens_decoder))
    kinds = trained * 2 + special
    # Each special token is a segment.
    cuts = np.flatnonzero((np.diff(kinds) != 0) | special[1:]) + 1
    for run in np.split(np.arange(len(ids)), cuts):
        half = _SHOWN_TOKENS // 2
        parts = [run] if len(run) <= _SHOWN_TOKENS else [run[:half], run[half:-half], run[-half:]]
        for number, part in enumerate(parts):
            text = "" if number == 1 else tokenizer.decode(ids[part].tolist(), clean_up_tokenization_spaces=False)
            assert isinstance(text, str)
            yield Segment(text, len(part), bool(trained[run[0]]), bool(special[run[0]]))


def _of_corpus(
    name: str, frozen: FrozenCorpus, rule: PackingRule, encoder: Encoder, count: int, prompt_weight: float
) -> Preview:
    left_out = LeftOut()
    found: list[ShownExample] = []
    whole: Counter[str] = Counter({"examples": 0, "tokens": 0, "label_tokens": 0})
    counted: Counter[str] = Counter()
    turns: Counter[str] = Counter()
    seen = size = misfits = 0
    documents = all_documents(frozen, left_out)
    while seen < _MEASURED_DOCUMENTS and size < _MEASURED_BYTES:
        if not (some := list(islice(documents, max(count, 16)))):
            break
        encoded = encoder.encode(some)
        if prompt_weight:
            encoded.examples[:] = [with_prompts(one, prompt_weight) for one in encoded.examples]
        turns += encoded.notes
        seen, size = seen + len(some), size + sum(document.bytes for document in some)
        shown = encoded.examples[: max(count - len(found), 0)]
        found += [_shown(rule, some[example.document], example, encoder.tokenizer) for example in shown]
        used = {example.document for example in encoded.examples}
        refused = {one.document: one for one in reversed(encoded.misfits) if one.document not in used}
        misfits += len(refused)
        for _, misfit in sorted(refused.items()):
            left_out.add(misfit.reason, f"document {some[misfit.document].id}", misfit.preview)
        for example in encoded.examples:
            pieces, counters = _cut(example, rule)
            counted.update(counters | {"pieces": pieces})
            label_tokens = int(np.count_nonzero(example.trained))
            whole.update({"examples": 1, "tokens": len(example.ids), "label_tokens": label_tokens})
    seen += left_out.reasons.total() - misfits  # rows that are not documents
    if not whole["examples"]:
        refuse_all(frozen.path, left_out)
    notes = (*summary.turns(turns), *summary.overflow(whole, counted, rule.length))
    if not counted["pieces"]:
        raise DataError(
            f"{frozen.path}: none of the first {seen:,} documents gives a row to train on: "
            f"{'; '.join(note.words for note in notes) or 'nothing in them is trained on'}. "
            "Set a larger sequence_length, or another packing.overflow."
        )
    unread = loss_keys.unread_counters(left_out.unread, str(encoder.tokenizer.chat_template or ""))
    about = "; ".join([*filter(None, [frozen.note]), *loss_keys.notes(frozen.unread, {**turns, **unread})])
    return Preview(name, tuple(found), left_out.first, left_out.reasons, seen, notes, about)


def _cut(example: Example, rule: PackingRule) -> tuple[int, Counters]:
    """The number of pieces of one example, and the counters of cutting it."""
    row = {"ids": example.ids.tolist(), "labels": example.trained.tolist(), "document": ""}
    table = pa.Table.from_pylist([row | {"split": 0, "place": 0}], EXAMPLES)
    pieces, counters = cut(table, rule.length, rule.overflow, rule.classify)
    return len(pieces), counters


def _shown(rule: PackingRule, document: Document, example: Example, tokenizer: PreTrainedTokenizerFast) -> ShownExample:
    match document.content:
        case str():
            form = "text"
        case Pair():
            form = "prompt, completion"
        case TwoAnswers():
            form = "a chosen and a rejected answer"
            if not math.isnan(document.content.margin):
                form += f", margin {document.content.margin:g}"
        case chat:
            form = "turns: " + ", ".join(str(message["role"]) for message in chat.messages)
    # A classifier predicts the class of the document and no token.
    trained = np.zeros_like(example.trained) if rule.classify else example.trained
    if document.desirable is not None:
        form += f", {'desirable' if document.desirable else 'not desirable'}"
    first = example.chosen or len(example.ids)
    segments, rejected = (
        tuple(segments_of(example.ids[part], trained[part], tokenizer)) if len(example.ids[part]) else ()
        for part in (slice(None, first), slice(first, None))
    )
    tokens, trained_tokens = len(example.ids), int(trained.sum())
    overflow = _overflow(example, rule)
    return ShownExample(document.id, form, document.label, tokens, trained_tokens, overflow, segments, rejected)


def _overflow(example: Example, rule: PackingRule) -> str:
    if len(example.ids) <= rule.length:
        return ""
    pieces, counters = _cut(example, rule)
    if rule.overflow == "split":
        return f"split into {pieces}"
    if rule.overflow == "truncate" and pieces:
        return f"truncated after {len(example.ids) - counters['tokens_truncated']:,} tokens"
    return "left out"


def _heading(shown: ShownExample) -> str:
    if shown.label is not None:
        what = f"{shown.tokens:,} tokens; class {_plain(shown.label)}"
    else:
        share = f"{shown.trained_tokens / shown.tokens:.0%}"
        what = f"{shown.trained_tokens:,} of {shown.tokens:,} tokens trained on ({share})"
    long = f"; longer than a row: {shown.overflow}" if shown.overflow else ""
    return f"{_plain(shown.form)}; {what}{long}"


def _text(segments: tuple[Segment, ...], colour: bool) -> Text:
    text = Text()
    within = False
    for segment in segments:
        shown = _plain(segment.text) if segment.text else f" ... {segment.tokens:,} tokens more ... "
        if not colour:
            if segment.trained != within:
                text.append("⟦" if segment.trained else "⟧")
                within = segment.trained
            text.append(shown)
        else:
            kind = "green" if segment.trained else "dim"
            text.append(shown, ("bold green underline" if segment.trained else "magenta") if segment.special else kind)
    if within:
        text.append("⟧")
    return text


def _plain(text: str) -> str:
    """The text with line feeds marked and control characters escaped."""
    escaped = _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)
    return escaped.replace("\n", "↵\n")
