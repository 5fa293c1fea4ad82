"""A few examples of each corpus as a model will meet them: which tokens are learnt, and which are only read.

Nothing is packed for it. Learnt tokens are coloured on a terminal and stand in ⟦brackets⟧ elsewhere (and under
NO_COLOR); special tokens are written out, line feeds are shown, and what could steer a terminal is escaped.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from cluster import storage
from training.config import TrainConfig
from training.pack.documents import Content, Document, LeftOut, Pair, documents_of
from training.pack.encode import Encoder, Example, Misfit
from training.pack.sources import FrozenCorpus, freeze_corpus
from training.pack.tokenizer import load_tokenizer, prepare_tokenizer

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerFast

# Of one run of tokens, learnt or not: more than this is cut out of its middle.
_SHOWN_TOKENS = 240
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens that are learnt alike; `special` ones stand alone. `text` is empty for what is cut out."""

    text: str
    tokens: int
    learnt: bool
    special: bool


@dataclass(frozen=True)
class Shown:
    """One example of a preview."""

    corpus: str
    document: str
    form: str
    label: str | None
    tokens: int
    learnt_tokens: int
    rows: int
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Preview:
    """examples: of one corpus. refused: documents seen on the way that give none, with reason and rendering."""

    corpus: str
    examples: tuple[Shown, ...]
    refused: tuple[tuple[str, str, str], ...]
    left_out: Counter[str]


def preview(config: TrainConfig, count: int) -> list[Preview]:
    """The first `count` examples of each corpus. Reads as many documents as that takes, and the tokenizer.

    Raises:
        UserError: as packing would.
    """
    unit_bytes = config.execution.unit_mib << 20
    with tempfile.TemporaryDirectory() as scratch:
        prepare_tokenizer(config, scratch)  # nothing is left behind: a preview is for trying things out
        tokenizer = load_tokenizer(storage.join(scratch, "tokenizer"))
    corpora = zip(config.corpus_names, config.corpus, config.all_columns, strict=True)
    return [
        _of_corpus(config, name, freeze_corpus(corpus, columns, unit_bytes), tokenizer, count)
        for name, corpus, columns in corpora
    ]


def draw(previews: list[Preview], console: "Console") -> None:
    from rich.text import Text

    colour = console.is_terminal and not console.no_color
    if colour:
        console.print(
            "[green]learnt[/]  [dim]only read[/]  [bold green underline]learnt special[/]  [magenta]special[/]"
        )
    else:
        console.print("⟦learnt⟧  only read", markup=False)
    for one in previews:
        for shown in one.examples:
            console.rule(Text(f"{one.corpus}: document {_plain(shown.document)}"), style="dim", align="left")
            console.print(_heading(shown), markup=False)
            console.print(_text(shown.runs, colour), soft_wrap=True)
        for document, reason, text in one.refused:
            console.rule(Text(f"{one.corpus}: document {_plain(document)}"), style="dim", align="left")
            console.print(f"left out: {reason}.{' It reads:' if text else ''}", markup=False)
            if text:
                console.print(_plain(text), markup=False, soft_wrap=True, style="dim")
        tokens, learnt = (sum(getattr(s, name) for s in one.examples) for name in ("tokens", "learnt_tokens"))
        told = f"{one.corpus}: {learnt:,} of {tokens:,} tokens are learnt ({learnt / max(tokens, 1):.0%})"
        if any(shown.label is not None for shown in one.examples):
            told = f"{one.corpus}: {tokens:,} tokens, which are only read; what is learnt is the class of each document"
        if one.left_out:
            told += "; left out on the way: " + ", ".join(f"{count} {name}" for name, count in one.left_out.items())
        console.rule(style="dim")
        console.print(told, markup=False, soft_wrap=True)


def runs_of(ids: np.ndarray, labels: np.ndarray, tokenizer: "PreTrainedTokenizerFast") -> Iterator[Run]:
    """An example's tokens as text, cut where it starts or ends to be learnt and around each special token."""
    special = np.isin(ids, list(tokenizer.added_tokens_decoder))
    kinds = labels * 2 + special
    # Special tokens stand alone, even beside their like.
    cuts = np.flatnonzero((np.diff(kinds) != 0) | special[1:]) + 1
    for run in np.split(np.arange(len(ids)), cuts):
        learnt, alone = bool(labels[run[0]]), bool(special[run[0]])
        half = _SHOWN_TOKENS // 2
        if len(run) <= _SHOWN_TOKENS:
            yield Run(_decode(tokenizer, ids[run]), len(run), learnt, alone)
        else:
            yield Run(_decode(tokenizer, ids[run[:half]]), half, learnt, alone)
            yield Run("", len(run) - 2 * half, learnt, alone)
            yield Run(_decode(tokenizer, ids[run[-half:]]), half, learnt, alone)


def _of_corpus(
    config: TrainConfig, name: str, frozen: FrozenCorpus, tokenizer: "PreTrainedTokenizerFast", count: int
) -> Preview:
    encoder, left_out = Encoder(tokenizer), LeftOut()
    found: list[Shown] = []
    refused: list[tuple[str, str, str]] = []
    documents = (document for unit in frozen.units for document in documents_of(unit, frozen.columns, left_out))
    while len(found) < count and len(refused) < count:
        if not (some := list(islice(documents, count))):
            break
        encoded = encoder.encode(some)
        found += [_shown(config, name, some[example.document], example, tokenizer) for example in encoded.examples]
        refused += [_refused(some, misfit) for misfit in encoded.misfits]
        left_out.reasons.update(misfit.reason for misfit in encoded.misfits)
    return Preview(name, tuple(found[:count]), tuple(refused[:count]), left_out.reasons)


def _shown(
    config: TrainConfig, corpus: str, document: Document, example: Example, tokenizer: "PreTrainedTokenizerFast"
) -> Shown:
    size, length = len(example.ids), config.sequence_length
    # A probe learns the document's class: it reads all tokens, and predicts none.
    labels = np.zeros_like(example.labels) if config.method == "probe" else example.labels
    rows = 1
    if size > length:
        rows = {"split": 1 + -(-(size - length) // (length - 1)), "truncate": 1, "drop": 0}[config.packing.overflow]
    return Shown(
        corpus=corpus,
        document=document.id,
        form=_form(document.content),
        label=document.label,
        tokens=size,
        learnt_tokens=int(labels.sum()),
        rows=rows,
        runs=tuple(runs_of(example.ids, labels, tokenizer)),
    )


def _refused(documents: list[Document], misfit: Misfit) -> tuple[str, str, str]:
    return documents[misfit.document].id, misfit.reason, misfit.preview[: 4 * _SHOWN_TOKENS]


def _form(content: Content) -> str:
    match content:
        case str():
            return "text"
        case Pair():
            return "prompt, completion"
        case _:
            return "turns: " + ", ".join(str(message["role"]) for message in content.messages)


def _heading(shown: Shown) -> str:
    if shown.label is not None:
        parts = [_plain(shown.form), f"{shown.tokens:,} tokens", f"class {_plain(shown.label)}"]
    else:
        share = f"{shown.learnt_tokens / shown.tokens:.0%}"
        parts = [_plain(shown.form), f"{shown.learnt_tokens:,} of {shown.tokens:,} tokens learnt ({share})"]
    if shown.rows != 1:
        parts.append(f"longer than a row: {f'cut into {shown.rows}' if shown.rows else 'left out'}")
    return "; ".join(parts)


def _text(runs: tuple[Run, ...], colour: bool) -> "object":
    from rich.text import Text

    text = Text()
    within = False
    for run in runs:
        shown = _plain(run.text) if run.text else f" ... {run.tokens:,} tokens more ... "
        if not colour:
            if run.learnt != within:
                text.append("⟦" if run.learnt else "⟧")
                within = run.learnt
            text.append(shown)
        else:
            kind = "green" if run.learnt else "dim"
            text.append(shown, ("bold green underline" if run.learnt else "magenta") if run.special else kind)
    if within:
        text.append("⟧")
    return text


def _decode(tokenizer: "PreTrainedTokenizerFast", ids: np.ndarray) -> str:
    decoded = tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(decoded, str)
    return decoded


def _plain(text: str) -> str:
    """Line feeds marked, and characters that a terminal would obey written out."""
    escaped = _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)
    return escaped.replace("\n", "↵\n")
