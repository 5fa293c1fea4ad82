"""Keys of a corpus by which its author decides the loss: weights of messages, and columns that exclude answers from it.

These keys of a message are read:

    weight, loss_weight   0, 1 or another factor of the loss of an assistant's turn (OpenAI; LLaMA-Factory)
    train, training       false: the turn is not trained on (axolotl)
    train_detail          [{begin_offset, end_offset, train}]: which characters of the content are trained on, both ends
                          included; characters of no range are not (axolotl)

Other keys that decide the loss are an error, unless `ignore` names them: the author excluded answers that would be
trained on. `ignore` also switches off the keys above.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush
from itertools import groupby, pairwise
from typing import Any

from raymill.cluster.errors import ConfigError
from raymill.cluster.examples.plain_numbers import number_in
from raymill.training.config_parts import ReadColumns

_FACTORS = ("weight", "loss_weight")
_SWITCHES = ("train", "training")
_DETAIL = "train_detail"
_READ_OF_MESSAGES = {"role", "content", "tool_calls", "function_call", *_FACTORS, *_SWITCHES, _DETAIL}
# Different names that a unit counts; a corpus may have an object with a key for each row.
_COUNTED_NAMES = 100
_LONGEST_NAME = 100  # characters of each

Weighted = tuple[int, int, float]  # first character, end, weight


class BadWeight(ValueError):
    """A key of a message that decides its loss has an unusable value."""


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in ("true", "false"))


def _is_factor(value: Any) -> bool:
    return isinstance(value, int | float) and value != 1


def _is_label(value: Any) -> bool:
    return _is_switch(value) or (isinstance(value, int | float) and value in (0, 1))


def _is_off(value: Any) -> bool:
    return value is False or value == 0 or (isinstance(value, str) and value.lower() == "false")


_PREFERENCE = (
    "is preference data, of which each answer would be trained on. Name both, to train on the good ones alone, as in "
    "`columns: {prompt: prompt, chosen: chosen, rejected: rejected}`"
)
_UNDESIRABLE = (
    "marks desirable and undesirable answers (as for KTO), and all would be trained on. Remove the undesirable ones"
)
_OF_ROWS = "decides the loss of a row, which is not supported. Put `weight` into its messages, or remove the rows"
_OF_MESSAGES = "decides the loss of a message. Rename it to `weight` (0 or 1), which is read"
# Keys that decide the loss: which values do, and the advice.
_DECIDE: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "chosen": (bool, _PREFERENCE),
    "rejected": (bool, _PREFERENCE),
    "rejected_response": (bool, _PREFERENCE),
    "rejected_messages": (bool, _PREFERENCE),
    "label": (_is_label, _UNDESIRABLE),
    "kto_tag": (_is_label, _UNDESIRABLE),
    "weight": (_is_factor, _OF_ROWS),
    "loss_weight": (_is_factor, _OF_ROWS),
    "sample_weight": (_is_factor, _OF_ROWS),
    "loss": (_is_off, _OF_ROWS),
    "train": (_is_off, _OF_ROWS),
    "training": (_is_off, _OF_ROWS),
    "train_detail": (bool, _OF_ROWS),
    "mask": (bool, _OF_ROWS),
    "loss_mask": (bool, _OF_ROWS),
    "completion_mask": (bool, _OF_ROWS),
    "assistant_masks": (bool, _OF_ROWS),
    "history": (bool, "has the earlier turns. Name it in columns.history, with prompt and completion"),
}
_DECIDE_IN_MESSAGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    name: (_is_switch if name == "label" else lambda value: value is not None and value != "", _OF_MESSAGES)
    for name in (
        *("mask", "masked", "is_masked", "loss_mask", "loss", "loss_scale", "ignore_loss", "no_loss", "compute_loss"),
        *("label", "trainable", "is_trainable", "learn", "train_on_turn", "train_on", "training_detail", "exclude"),
    )
}
ROW_KEYS = tuple(_DECIDE)


def refuse_deciding_keys(row: Mapping[str, Any], columns: ReadColumns, where: str) -> None:
    """Verify that no column that is not read decides which answers of a row are trained on. Plain text has none.

    Raises:
        ConfigError: one does, and columns.ignore does not name it.
    """
    if columns.form == "text":
        return
    for name in row.keys() & _DECIDE.keys():
        decides, advice = _DECIDE[name]
        chooses = name in ("chosen", "rejected") and {"chosen", "rejected"} & set(columns.named.values())
        if not chooses and name not in columns.known and decides(row[name]):
            raise ConfigError(
                f"{where}: column {name} ({row[name]!r:.80}) {advice}; or, to train on all rows alike, set "
                f"`ignore: [{name}]`."
            )


def without_ignored(message: dict[str, Any], columns: ReadColumns) -> dict[str, Any]:
    """The message without the keys of columns.ignore, whose other keys are verified.

    Raises:
        BadWeight: a key that decides the loss has an unusable value. ConfigError: another key decides it.
    """
    kept = {key: value for key, value in message.items() if key not in columns.ignored or key in ("role", "content")}
    for name in kept.keys() & _DECIDE_IN_MESSAGES.keys():
        decides, advice = _DECIDE_IN_MESSAGES[name]
        if decides(kept[name]):
            raise ConfigError(
                f"a message has the key {name} ({kept[name]!r:.80}), which {advice}; to train on all messages alike, "
                f"set `ignore: [{name}]`."
            )
    factor_of(kept)
    _trained_characters(kept)
    return kept


def factor_of(message: Mapping[str, Any]) -> float:
    """The factor of the loss of a message: the product of its keys; 1 without any.

    Raises:
        BadWeight: it is negative, not finite or no number, or a switch is neither true nor false.
    """
    factor = 1.0
    for key in _FACTORS:
        value = message.get(key, 1)
        factor *= number_in(+value) if isinstance(value, int | float) else math.nan
        if not 0 <= factor < math.inf:
            raise BadWeight(f"{key} is {value!r:.80}; wanted 0, 1 or another number that is not negative")
    for key in _SWITCHES:
        value = message.get(key, True)
        if value not in (True, False):
            raise BadWeight(f"{key} is {value!r}; wanted true or false")
        factor *= bool(value)
    return factor


def turn_notes(messages: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Counters of the messages whose keys decide their loss."""
    found: Counter[str] = Counter()
    for message in messages:
        factor = factor_of(message)
        if message["role"] == "assistant":
            found["turns_excluded"] += factor == 0
            found["turns_weighted"] += factor not in (0, 1) or _DETAIL in message
        else:
            found["loss_of_other_roles"] += factor > 0 and any(key in message for key in (*_FACTORS, *_SWITCHES))
    return found


def weights_of_turn(message: Mapping[str, Any], text: str, start: int, end: int) -> list[Weighted] | None:
    """The weights of the characters of an assistant's turn, which is text[start:end]; None if all are 1.

    `train_detail` is about the content; the rest of the turn (its end, tool calls) has the factor of the message.

    Raises:
        BadWeight: `train_detail` is given, and the text does not have the content as it is.
    """
    factor, trained = factor_of(message), _trained_characters(message)
    if trained is None:
        return None if factor == 1 else [(start, end, factor)]
    content = message["content"]
    plain = content if text.find(content, start, end) >= 0 else content.strip()  # many templates trim it
    at = text.find(plain, start, end)
    if at < 0 or not plain:
        raise BadWeight(f"the chat template changes the content, so that {_DETAIL} is about another text: {content!r}")
    first, stop = at - content.index(plain), at + len(plain)
    spans = [(start, at, factor)]
    for flag, run in groupby(range(len(content)), trained.__getitem__):
        characters = list(run)
        spans.append((max(first + characters[0], at), min(first + characters[-1] + 1, stop), factor * flag))
    spans.append((stop, end, factor))
    return [(low, high, weight) for low, high, weight in spans if low < high]


def _trained_characters(message: Mapping[str, Any]) -> list[bool] | None:
    """Whether each character of the content is trained on; None without `train_detail`."""
    ranges = message.get(_DETAIL)
    if ranges is None:
        return None
    trained = [False] * len(str(message.get("content", "")))
    waiting: list[tuple[int, int, int, bool]] = []
    for number, one in enumerate(ranges if isinstance(ranges, list) else [ranges]):
        first, last, train = (
            one.get(key) if isinstance(one, dict) else None for key in ("begin_offset", "end_offset", "train")
        )
        if type(first) is not int or type(last) is not int or not 0 <= first <= last or train not in (True, False):
            raise BadWeight(f"{_DETAIL} has {one!r}; wanted {{begin_offset: 0, end_offset: 8, train: false}}")
        waiting.append((first, -number, min(last + 1, len(trained)), bool(train)))
    # Of ranges that overlap, the last one decides. Each character is written once, however many ranges name it.
    cuts = sorted({place for first, _, end, _ in waiting for place in (first, end)})
    waiting.sort(reverse=True)
    named: list[tuple[int, int, bool]] = []
    for low, high in pairwise(cuts):
        while waiting and waiting[-1][0] <= low:
            heappush(named, waiting.pop()[1:])
        while named and named[0][1] <= low:
            heappop(named)
        if named:
            trained[low:high] = [named[0][2]] * (high - low)
    return trained


# --- columns and keys that are not read

_UNREAD = "unread/"
# `message.name`, `message['name']`, `'name' in message`.
_KEY_OF_TEMPLATE = re.compile(r"""[.'"](\w+)\b""")
# Counters of `turn_notes` -> what the counted ones are.
_NOTES = {
    "turns_excluded": "assistant turns are not trained on, because their weight is 0",
    "turns_weighted": "assistant turns are trained on in part, or with another weight than 1",
    "loss_of_other_roles": "messages of other roles have a weight above 0; only the assistant's are trained on",
}
_OF_MESSAGE = "messages[]."


def count_unread(unread: Counter[str], row: Mapping[str, Any], columns: ReadColumns) -> None:
    """Count the columns of a row that are not read and not empty."""
    _count(unread, (key for key in row if key not in columns.known and row[key] not in (None, "", [], {})))


def count_unread_columns(unread: Counter[str], rows: Mapping[str, int], columns: ReadColumns) -> None:
    """Count the columns that are not read. rows: of a file that states it, the rows with a value in each column."""
    for name, count in rows.items():
        if name not in columns.known and (name in unread or len(unread) < _COUNTED_NAMES):
            unread[name] += count


def count_unread_of_messages(unread: Counter[str], messages: Iterable[Mapping[str, Any]]) -> None:
    """Count the keys of a conversation's messages that only a chat template may read."""
    _count(unread, {f"{_OF_MESSAGE}{key}" for message in messages for key in message if key not in _READ_OF_MESSAGES})


def _count(unread: Counter[str], names: Iterable[str]) -> None:
    for name in (one if len(one) <= _LONGEST_NAME else f"{one[:_LONGEST_NAME]}..." for one in names):
        if name in unread or len(unread) < _COUNTED_NAMES:
            unread[name] += 1


def unread_counters(unread: Mapping[str, int], template: str) -> dict[str, float]:
    """Counters of the names that the chat template does not read either. template: empty if there is none."""
    read = {f"{_OF_MESSAGE}{name}" for name in _KEY_OF_TEMPLATE.findall(template)}
    return {f"{_UNREAD}{name}": count for name, count in unread.items() if name not in read}


def notes(of_files: Mapping[str, int], counters: Mapping[str, float]) -> list[str]:
    """Sentences about turns that are excluded or weighted, and about what is not read, with the number of rows.

    Args:
        of_files: rows by column, of Parquet. counters: with those of `unread_counters`.
    """
    found: Counter[str] = Counter(of_files)
    found.update({name.removeprefix(_UNREAD): int(n) for name, n in counters.items() if name.startswith(_UNREAD)})
    named = ", ".join(f"{name} ({count:,})" for name, count in sorted(found.items(), key=lambda one: -one[1]))
    unread = [f"columns and keys that are not used, with the number of rows that have them: {named}"] if found else []
    return [f"{counters[name]:,.0f} {words}" for name, words in _NOTES.items() if counters.get(name)] + unread
