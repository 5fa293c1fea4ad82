"""What became of the documents of packed corpora: sentences about those left out, split or cut, and the summary."""

from collections.abc import Mapping
from typing import NamedTuple

from raymill.cluster.artifact import Counters
from raymill.cluster.examples.splits import SPLITS
from raymill.training.config import TrainConfig
from raymill.training.pack.chat import DESIRABLE, NOT_TRAINED, THINKING_OFF, UNDESIRABLE, WITHOUT_REASONING
from raymill.training.pack.corpus import set_name
from raymill.training.pack.documents import FIRST_LEFT_OUT
from raymill.training.pack.packed_run import PackedRun

# A note is a warning if it is about a larger share of documents, examples or tokens.
WARNED_SHARE = 0.01

# Counters of examples longer than a row (see `cut`): examples -> (tokens, sentence).
_LOST = {
    "documents_dropped": (
        "tokens_dropped",
        "are longer than a row of {length} tokens and left out, with {tokens}",
    ),
    "documents_truncated": (
        "tokens_truncated",
        "are longer than a row of {length} tokens and truncated: {tokens} are lost",
    ),
    "documents_all_question": (
        "tokens_all_question",
        "have a question that fills a row of {length} tokens and are left out, with {tokens}",
    ),
}
COUNTERS = (
    *(name for documents, (tokens, _) in _LOST.items() for name in (documents, tokens)),
    "documents_split",
    "label_tokens_apart",
)


class Note(NamedTuple):
    """A sentence about examples. words: without a full stop. share: the largest lost share that it names."""

    words: str
    share: float

    @property
    def warned(self) -> bool:
        """Whether more than WARNED_SHARE is lost."""
        return self.share > WARNED_SHARE


def totals(tokenised: Counters) -> dict[str, int]:
    """{examples, tokens, label_tokens} of a corpus before packing, from the counters of tokenising."""
    sums = {
        name: sum(int(tokenised.get(f"{name}/{split}", 0)) for split in SPLITS) for name in ("tokens", "label_tokens")
    }
    return {"examples": int(tokenised.get("examples", tokenised.get("documents", 0)))} | sums


def left_out(tokenised: Counters) -> list[Note]:
    """At most one note: the number of documents left out for each reason, with the place of one, from the counters of
    tokenising.
    """
    reasons = {name.partition("/")[2]: int(n) for name, n in tokenised.items() if n and name.startswith("left_out/")}
    lost = sum(reasons.values())
    whole = lost + tokenised.get("documents", 0)
    words = f"{_of(lost, whole, 'documents')} are left out: {by_reason(reasons, first_left_out(tokenised))}"
    return [Note(words, _share(lost, whole))] if lost else []


def turns(tokenised: Mapping[str, float]) -> list[Note]:
    """Notes about assistant turns, from the counters of tokenising: not trained on, without reasoning, not thinking."""
    every = tokenised.get("turns", 0)
    reasons = {name.removeprefix(NOT_TRAINED): int(n) for name, n in tokenised.items() if name.startswith(NOT_TRAINED)}
    without = "are trained on without their reasoning, which the chat template does not write"
    off = (
        "have no reasoning and are trained on after the prompt with thinking switched off: switch it off at "
        "inference too, or make it the default by model.chat_template_kwargs (enable_thinking: false)"
    )
    each = (
        (sum(reasons.values()), f"are not trained on: {by_reason(reasons)}"),
        (tokenised.get(WITHOUT_REASONING, 0), without),
        (tokenised.get(THINKING_OFF, 0), off),
    )
    return [
        Note(f"{_of(count, every, 'assistant turns')} {words}", 0 if words == off else _share(count, every))
        for count, words in each
        if count
    ] + _judged(int(tokenised.get(DESIRABLE, 0)), int(tokenised.get(UNDESIRABLE, 0)))


def _judged(desirable: int, undesirable: int) -> list[Note]:
    """A note about labelled answers of one class, or of far more of one than of the other (Ethayarajh et al. 2024)."""
    if not (desirable or undesirable) or undesirable <= desirable <= 4 / 3 * undesirable:
        return []
    if not (desirable and undesirable):
        kind, other = ("desirable", "undesirable") if desirable else ("undesirable", "desirable")
        words = f"all {desirable + undesirable:,} answers to train on are {kind}, and the loss compares them with"
        return [
            Note(f"{words} {other} ones: give answers of both kinds, or train on the good ones by objective sft", 1)
        ]
    words = (
        f"{desirable:,} answers to train on are desirable and {undesirable:,} are not: Ethayarajh et al. 2024 advise "
        f"kto.desirable_weight / kto.undesirable_weight from {undesirable / desirable:.2g} to "
        f"{4 / 3 * undesirable / desirable:.2g} for them"
    )
    return [Note(words, 0)]


def first_left_out(tokenised: Counters) -> dict[str, str]:
    """Position of a row that is left out, by reason, from the counters of tokenising."""
    places: dict[str, str] = {}
    for name in sorted(tokenised, key=lambda name: (len(name), name)):  # line 9 before line 10
        if name.startswith(FIRST_LEFT_OUT):
            reason, _, where = name.removeprefix(FIRST_LEFT_OUT).partition("/")
            places.setdefault(reason, where)
    return places


def by_reason(reasons: Mapping[str, int], places: Mapping[str, str] = {}) -> str:
    """Numbers by reason, the largest first, each with the position of one. places: reason -> position."""

    def words(name: str, count: int) -> str:
        at = f" ({'' if count == 1 else 'such as '}{places[name]})" if name in places else ""
        return f"{count:,} {name}{at}"

    return ", ".join(words(*one) for one in sorted(reasons.items(), key=lambda one: -one[1]))


def overflow(whole: Mapping[str, int], counted: Mapping[str, float], length: int) -> list[Note]:
    """Notes about examples longer than a row: one for each of dropped, truncated, all question, and split.

    Args:
        whole: `totals` of the corpus. counted: COUNTERS of its packing. length: tokens of a row.
    """
    found = []
    for documents, (tokens, words) in _LOST.items():
        if number := counted.get(documents, 0):
            lost = counted.get(tokens, 0)
            sentence = words.format(length=f"{length:,}", tokens=_of(lost, whole["tokens"], "tokens"))
            share = max(_share(number, whole["examples"]), _share(lost, whole["tokens"]))
            found.append(Note(f"{_of(number, whole['examples'], 'examples')} {sentence}", share))
    if number := counted.get("documents_split", 0):
        sentence = f"{_of(number, whole['examples'], 'examples')} are longer than a row of {length:,} tokens and split"
        apart = counted.get("label_tokens_apart", 0)
        if apart:
            sentence += f": {_of(apart, whole['label_tokens'], 'label tokens')} are in pieces without their question"
        found.append(Note(sentence, _share(apart, whole["label_tokens"])))
    return found


def _of(part: float, whole: float, what: str) -> str:
    return f"{part:,.0f} of {whole:,.0f} {what} ({_share(part, whole):.1%})"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def summary(config: TrainConfig, packed: PackedRun) -> str:
    """A text about packed corpora: documents, tokens, padding, and the documents that were left out."""
    lines = [line for name in packed.corpora for line in _corpus_lines(config, packed, name)]
    lines += [line for name in packed.sets for line in _set_lines(packed, name)]
    steps = packed.rows("train") / config.rows_per_step
    lines.append(f"one epoch is {steps:,.1f} steps of {config.rows_per_step:,} rows, {config.tokens_per_step:,} tokens")
    return "\n".join([*lines, "", f"packed     {packed.uri}", f"tokenizer  {packed.tokenizer_uri}"])


def _corpus_lines(config: TrainConfig, packed: PackedRun, name: str) -> list[str]:
    tokenised, counters = packed.tokenised(name), packed.packed(name)
    tokens = sum(counters[f"tokens/{split}"] for split in SPLITS)
    trained = sum(counters[f"label_tokens/{split}"] for split in SPLITS)
    classifies = config.training_method.classifies
    share = "" if classifies else f", {_percent(trained, tokens)} of them trained on"
    rows = [("split", "documents", "rows", "tokens", *(() if classifies else ("trained on",)), "rows filled")]
    for split in SPLITS:
        of = {key: counters[f"{key}/{split}"] for key in ("documents", "rows", "tokens", "label_tokens", "padding")}
        counts = (f"{of[key]:,.0f}" for key in ("documents", "rows", "tokens"))
        trained_on = () if classifies else (_percent(of["label_tokens"], of["tokens"]),)
        rows.append((split, *counts, *trained_on, _percent(of["tokens"], of["tokens"] + of["padding"])))
    notes = _lost(packed, name)
    notes += [note.words for note in overflow(totals(tokenised), counters, config.sequence_length)]
    if pieces := counters.get("pieces_without_label"):
        lost = counters["tokens_without_label"]
        notes.append(f"{pieces:,.0f} pieces without a token to train on, left out: {lost:,.0f} tokens")
    if documents := tokenised.get("special_tokens_as_text", 0):
        notes.append(f"{documents:,.0f} documents have control tokens in their messages, which are text there")
    return [
        f"{name}: {tokenised['documents']:,.0f} documents, {tokens:,.0f} tokens{share}",
        *(f"  {first:<12}" + "".join(f"{cell:>14}" for cell in cells) for first, *cells in rows),
        *(f"  {note}" for note in notes),
    ]


def _set_lines(packed: PackedRun, name: str) -> list[str]:
    """One of `evaluate.sets`: what is measured of it, and the documents that were left out."""
    counters, split = packed.sets[name].manifest.counters, packed.sets[name].uri.rpartition("/")[2]
    documents, rows, tokens = (counters[f"{what}/{split}"] for what in ("documents", "rows", "tokens"))
    head = f"evaluate.sets.{name}: {documents:,.0f} documents, {rows:,.0f} rows, {tokens:,.0f} tokens to measure"
    return [head, *(f"  {note}" for note in _lost(packed, set_name(name)))]


def _lost(packed: PackedRun, name: str) -> list[str]:
    """Sentences about skipped files, documents that were left out, and turns that are not trained on."""
    tokenised = packed.tokenised(name)
    notes = [note.words for note in [*left_out(tokenised), *turns(tokenised)]]
    return [packed.passed_over[name], *notes] if packed.passed_over.get(name) else notes


def _percent(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"
