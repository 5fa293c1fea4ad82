"""A conversation as text, with the spans of the assistant's turns, which are trained on.

Few chat templates mark the assistant's turns, so they are found by rendering the conversation twice: up to the message
before the turn, with the generation prompt, and up to the turn. The turn is the text that the second rendering has
after the first one, with which it has to begin. Some templates change earlier turns (they drop their reasoning). For a
turn that is changed in the whole conversation there is a separate rendering, which ends with it. So every turn is
trained on exactly once, in the context in which it would be generated.

A template with a switch for thinking (`enable_thinking`) is rendered with thinking on for turns that have reasoning,
and off for the others. Where a rendering still does not begin with its prompt, the turn is cut out of it and appended
to the prompt. If the prompt opens a thought (`<think>`, as DeepSeek R1's does) that the turn lacks, the reasoning of
the data, or none, and `</think>` precede the answer: the model has to generate them.

An empty `<think></think>` that a template writes before an answer without reasoning is not trained on: the same
templates write it into the prompt when thinking is switched off. The line feed after the end of a turn is not trained
on either (encode.py). Where a template ends a turn only by the token that begins the next message (GLM 4.5), that token
is its end.
"""

import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from raymill.training.pack.documents import REASONING, Chat, is_empty
from raymill.training.pack.template import THOUGHT, Unfit, presentations, render, template_roles, thinking_switches

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Counters of assistant turns whose conversation is an example. NOT_TRAINED is a prefix, which the reason follows.
NOT_TRAINED = "turns_not_trained/"
WITHOUT_REASONING = "turns_without_reasoning"
THINKING_OFF = "turns_with_thinking_off"
# Counters of labelled answers to train on.
DESIRABLE, UNDESIRABLE = "turns_desirable", "turns_undesirable"

# Templates of Qwen3, GLM 4.5 and DeepSeek write it; NVIDIA-NeMo/Automodel #3739 describes training on it by mistake.
_EMPTY_THOUGHT = re.compile(r"\s*<think>\s*</think>\s*")
_OPEN_THOUGHT = re.compile(r"<think>(\s*)$")
_THOUGHT_OF_PROMPT = re.compile(r"<think>\s*(</think>\s*)?$")
_ANY_USER = {"role": "user", "content": "a"}
# Reasons for which another form of the conversation is tried.
_OF_FORM = ("template_error", "message_not_rendered", "tool_calls_not_rendered", "reasoning_not_rendered")


class Marked(NamedTuple):
    """A text with the spans of characters that are trained on, in order and disjoint. turns: message of each span."""

    text: str
    spans: tuple[tuple[int, int], ...]
    turns: tuple[int, ...] = ()


class _Turn(NamedTuple):
    """A rendering that ends with an assistant's turn, and the position where the turn starts.

    through: the template's rendering up to the turn, with `switches`. It differs from `text` where the turn was cut out
    of it.
    """

    text: str
    start: int
    through: str
    switches: dict[str, bool]

    def writes(self, words: str) -> bool:
        """Whether the turn contains these words."""
        return self.text.find(words, self.start) >= 0


def marked_renderings(tokenizer: "PreTrainedTokenizerFast", chat: Chat) -> tuple[list[Marked], Counter[str]]:
    """The renderings of a conversation, mostly one, and counters of its assistant turns.

    Messages after the last assistant turn are left out, since nothing in them is trained on. A turn is not trained on
    if it is empty (counter `turns_not_trained/empty_turn`), if the template fails for the messages up to it
    (`/template_error`), leaves out reasoning that is all of it (`/reasoning_not_rendered`), or writes it without its
    generation prompt (`/prompt_is_no_prefix`). `turns_without_reasoning` counts turns of which the template writes the
    answer without the reasoning.

    Raises:
        Unfit: no assistant turn can be trained on, the template does not name a role, or leaves out a part of the
            conversation.
    """
    template = str(tokenizer.chat_template)
    failed: Unfit | None = None
    for shown in presentations(template, chat):
        try:
            return _marked(tokenizer, shown, template)
        except Unfit as unfit:
            failed = failed or unfit
            if unfit.reason not in _OF_FORM:
                break
    assert failed is not None
    raise failed


def closing_token(tokenizer: "PreTrainedTokenizerFast", chat: Chat, switches: dict[str, bool]) -> str:
    """The token that begins the message after a conversation's last turn, if nothing else ends a turn; else empty.

    The message is the result of a tool if the turn has tool calls, else a user's.
    """
    if not _next_role_ends_turns(tokenizer):
        return ""
    *earlier, turn = chat.messages
    following = {"role": "tool", "content": "a"} if turn.get("tool_calls") else _ANY_USER
    # A template may drop the reasoning of a turn that a user's message follows.
    plain = {key: turn[key] for key in turn if key not in REASONING}
    return _next_token(tokenizer, Chat([*earlier, plain, following], chat.tools), switches)


@lru_cache(maxsize=8)
def _next_role_ends_turns(tokenizer: "PreTrainedTokenizerFast") -> bool:
    """Whether the template writes no token after a turn, and one before the next message."""
    chat = Chat([_ANY_USER, {"role": "assistant", "content": "a"}, _ANY_USER])
    try:
        ended = render(tokenizer, chat, 2, prompt=False)
    except Unfit:
        return False
    return not ended.rstrip().endswith(_added_tokens(tokenizer)) and bool(_next_token(tokenizer, chat, {}))


def _next_token(tokenizer: "PreTrainedTokenizerFast", chat: Chat, switches: dict[str, bool]) -> str:
    """The token that begins the last message; empty if text does, or the template fails."""
    count = len(chat.messages)
    try:
        before = render(tokenizer, chat, count - 1, prompt=False, switches=switches)
        longer = render(tokenizer, chat, count, prompt=False, switches=switches)
    except Unfit:
        return ""
    if not longer.startswith(before):
        return ""
    return next((token for token in _added_tokens(tokenizer) if longer.startswith(token, len(before))), "")


def _marked(tokenizer: "PreTrainedTokenizerFast", chat: Chat, template: str) -> tuple[list[Marked], Counter[str]]:
    roles = template_roles(template)
    if unknown := next((message["role"] for message in chat.messages if message["role"] not in roles), None):
        raise Unfit("unknown_role", f"a message of role {unknown}; the chat template has: {', '.join(roles)}")
    numbers = [number for number, message in enumerate(chat.messages) if message["role"] == "assistant"]
    if not numbers:
        raise Unfit("no_assistant_turn", "\n".join(f"{one['role']}: {one.get('content')}" for one in chat.messages))
    notes = Counter(turns=len(numbers))
    turns: dict[int, _Turn] = {}
    failed: Unfit | None = None
    for number in numbers:
        message = chat.messages[number]
        if is_empty(message | {"content": _text_of(message)}):
            notes[f"{NOT_TRAINED}empty_turn"] += 1
            continue
        try:
            turns[number] = _turn(tokenizer, Chat(chat.messages[: number + 1], chat.tools), template)
        except Unfit as unfit:
            notes[f"{NOT_TRAINED}{unfit.reason}"] += 1
            failed = unfit
    if not turns:
        raise failed or Unfit("empty_completion")
    _require_all_rendered(tokenizer, chat, turns)
    own = {number: own_thought(chat.messages[number]) for number in turns}
    if _thinks_by_default(tokenizer):
        notes[THINKING_OFF] = sum(bool(turn.switches) and not any(turn.switches.values()) for turn in turns.values())
    notes[WITHOUT_REASONING] = sum(not turn.writes(own[number] or "") for number, turn in turns.items())
    renderings = []
    left = list(turns)
    while left:
        whole = turns[left[-1]].text
        ends = {number: _end_in(whole, turns[number].text, tokenizer) for number in left}
        inside = {number: (turns[number].start, end) for number, end in ends.items() if end is not None}
        renderings.append(Marked(whole, tuple(inside.values()), tuple(inside)))
        left = [number for number in left if ends[number] is None]
    return renderings[::-1], notes


def _text_of(message: dict[str, Any]) -> str:
    """The content of a presented message as text."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _turn(tokenizer: "PreTrainedTokenizerFast", chat: Chat, template: str) -> _Turn:
    """The last message of a conversation, an assistant's turn: with its reasoning, if the template writes it then.

    Raises:
        Unfit: the template fails, or the turn does not begin with the generation prompt.
    """
    own = own_thought(chat.messages[-1])
    try:
        turn = _found(tokenizer, chat, own, thinking_switches(template, own is not None))
        if not own or turn.writes(own):
            return turn
    except Unfit as unfit:
        if not own or unfit.reason != "prompt_is_no_prefix":
            raise
    plain = {key: value for key, value in chat.messages[-1].items() if key not in REASONING}
    if is_empty(plain | {"content": _text_of(plain)}):
        raise Unfit("reasoning_not_rendered", f"the chat template leaves out the reasoning of {chat.messages[-1]!r}")
    without = Chat([*chat.messages[:-1], plain], chat.tools)
    return _found(tokenizer, without, None, thinking_switches(template, False))


def _found(tokenizer: "PreTrainedTokenizerFast", chat: Chat, own: str | None, switches: dict[str, bool]) -> _Turn:
    """The last message of a conversation, rendered with `switches`, or with none if only then its prompt is found."""
    count = len(chat.messages)
    refused = []
    for chosen in [switches, {}] if switches else [{}]:
        before = render(tokenizer, chat, count - 1, prompt=True, switches=chosen)
        text = through = render(tokenizer, chat, count, prompt=False, switches=chosen)
        if through.startswith(before) and len(through) > len(before):
            break
        refused.append((chosen, before, through))
    else:
        chosen, before, through = refused[0]
        text = before + _cut_out(tokenizer, chat, own, chosen, before, through)
    start = len(before)
    if own is None and (thought := _EMPTY_THOUGHT.match(text, start)):
        start = thought.end()
    return _Turn(text + closing_token(tokenizer, chat, chosen), start, through, chosen)


def own_thought(message: dict[str, Any]) -> str | None:
    """The reasoning of an assistant's message, in a key of its own or before `</think>`; None if it has none."""
    for key in REASONING:
        if isinstance(message.get(key), str) and message[key]:
            return str(message[key]).strip()
    content = _text_of(message)
    if "<think>" not in content and "</think>" not in content:
        return None
    return content.partition("</think>")[0].rpartition("<think>")[2].strip()


def _cut_out(
    tokenizer: "PreTrainedTokenizerFast",
    chat: Chat,
    own: str | None,
    switches: dict[str, bool],
    before: str,
    through: str,
) -> str:
    """The text of the last turn after its generation prompt, cut out of a rendering that does not begin with it.

    Args:
        own: the reasoning of the turn. before: the rendering that ends with the generation prompt. through: the
            rendering up to the turn.

    Raises:
        Unfit: the rendering has no generation prompt before the turn, or the turn is the first message.
    """
    count = len(chat.messages)
    if count == 1:
        raise Unfit("prompt_is_no_prefix", through)
    changed = Chat([*chat.messages[:-1], _changed(chat.messages[-1])], chat.tools)
    # The prompt precedes the turn's own text, and is not all in the rendering of the messages before.
    latest = _shared(through, render(tokenizer, changed, count, prompt=False, switches=switches))
    earliest = _shared(through, render(tokenizer, chat, count - 1, prompt=False, switches=switches))

    def end_of(prompt: str) -> int | None:
        """Where the last occurrence of a prompt ends that ends after `earliest` and not after `latest`."""
        at = through.rfind(prompt, 0, latest) if prompt else -1
        return at + len(prompt) if at >= 0 and at + len(prompt) > earliest else None

    for earlier in (chat, Chat([_ANY_USER, chat.messages[-1]], chat.tools)):
        last = len(earlier.messages) - 1
        plain = render(tokenizer, earlier, last, prompt=False, switches=switches)
        asked = render(tokenizer, earlier, last, prompt=True, switches=switches)
        prompt = asked[len(plain) :] if asked.startswith(plain) else ""
        if end := end_of(prompt):
            return through[end:]
        opened = _OPEN_THOUGHT.search(before)
        if opened and (end := end_of(_THOUGHT_OF_PROMPT.sub("", prompt))):
            written = THOUGHT.match(through, end)
            rest = through[written.end() if written else end :].lstrip("\n")
            thought = (written and written[1].strip()) or own or ""
            gap = opened[1]  # line feeds, if the prompt has one
            return f"{thought}{gap}</think>{2 * gap}{rest}"
    raise Unfit("prompt_is_no_prefix", through)


def _shared(one: str, other: str) -> int:
    """Number of characters that both texts begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _changed(message: dict[str, Any]) -> dict[str, Any]:
    """An assistant's message with other text at the beginning of each part that is trained on."""
    mark = "\ue000"
    changed = {key: mark + message[key] for key in REASONING if isinstance(message.get(key), str) and message[key]}
    if text := _text_of(message):
        changed["content"] = _like(message["content"], mark + text)
    if calls := message.get("tool_calls"):
        named = [call | {"function": call["function"] | {"name": mark + call["function"]["name"]}} for call in calls]
        return message | changed | {"tool_calls": named}
    return message | changed


def _like(content: Any, text: str) -> Any:
    """The text in the form of `content`: text, or a list of parts."""
    return [{"type": "text", "text": text}] if isinstance(content, list) else text


@lru_cache(maxsize=8)
def _added_tokens(tokenizer: "PreTrainedTokenizerFast") -> tuple[str, ...]:
    """The tokens that are not part of text, the longest first."""
    names = (token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip())
    return tuple(sorted(names, key=len, reverse=True))


@lru_cache(maxsize=8)
def _thinks_by_default(tokenizer: "PreTrainedTokenizerFast") -> bool:
    """Whether the prompt differs from that with thinking switched off, if the template has a switch."""
    switches = thinking_switches(str(tokenizer.chat_template), False)
    try:
        usual, off = (render(tokenizer, Chat([_ANY_USER]), 1, prompt=True, switches=how) for how in ({}, switches))
    except Unfit:
        return False
    return usual != off


def _require_all_rendered(tokenizer: "PreTrainedTokenizerFast", chat: Chat, turns: dict[int, _Turn]) -> None:
    """Verify that the template writes every message with every tool call.

    Raises:
        Unfit: the template leaves out a message or a tool call.
    """
    last = max(turns)
    for number, message in enumerate(chat.messages[: last + 1]):
        text, calls = _text_of(message).strip(), message.get("tool_calls") or []
        end = number if number in turns else last

        def alike(other: dict[str, Any], number: int = number, end: int = end) -> bool:
            """Whether the rendering up to `end` is the same with another message in place of this one."""
            messages = [*chat.messages[:number], other, *chat.messages[number + 1 : end + 1]]
            try:
                rendered = render(tokenizer, Chat(messages, chat.tools), end + 1, False, turns[end].switches)
            except Unfit:
                return False
            return rendered == turns[end].through

        if number in turns:
            for left in range(len(calls)):
                fewer = [*calls[:left], *calls[left + 1 :]]
                rest = {key: value for key, value in message.items() if key != "tool_calls"}
                if alike(rest | ({"tool_calls": fewer} if fewer else {})):
                    raise Unfit("tool_calls_not_rendered", f"the chat template leaves out {calls[left]} of {message!r}")
        if text and text not in turns[end].text:
            other = _like(message["content"], "other words")
            if alike(message | {"content": other}):
                raise Unfit("message_not_rendered", f"the chat template leaves out the content of {message!r}")


def _end_in(whole: str, shorter: str, tokenizer: "PreTrainedTokenizerFast") -> int | None:
    """The end of a shorter rendering in the whole one; None if the whole one does not begin with it.

    Some templates (Phi 3's) end a conversation with the end-of-text token, which a longer one does not have there. If
    that token alone ends the turn (gpt-oss), the whole rendering does not have the turn with its end.
    """
    without = shorter.removesuffix(tokenizer.eos_token or "")
    beginnings = [shorter, without] if without.rstrip().endswith(_added_tokens(tokenizer)) else [shorter]
    return next((len(beginning) for beginning in beginnings if whole.startswith(beginning)), None)
