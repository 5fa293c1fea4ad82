"""A conversation as text, and which parts of the text an assistant would have to write.

Templates seldom mark what the assistant says, so it is found by rendering prefixes: what a turn adds to the rendering
of everything before it, with the generation prompt, is what a model is to say there. This holds only where the longer
rendering begins with the shorter one. Some templates alter history (they drop the reasoning of earlier turns): then
the turns that stand otherwise in the whole conversation get a rendering of their own, which ends with them, so every
turn is learnt exactly once and in the context in which it would be generated.

An empty `<think></think>` that a template puts before an answer without reasoning is context and not learnt: it is what
the same templates put into the prompt when thinking is switched off. The line feed after the end of a turn is cut off
from the labels later, by token (encode.py).
"""

import re
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from training.pack.documents import CALLS, OTHER_CONTENT, Chat, Pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Qwen3, GLM 4.5 and DeepSeek write it; NVIDIA-NeMo/Automodel #3739 is about learning it by mistake.
_EMPTY_THOUGHT = re.compile(r"<think>\s*</think>\s*")
# Some templates tell the model today's date; an example must be the same tomorrow. Llama 3.1 has this day for default.
_DAY = date(2024, 7, 26)
_USUAL_ROLES = ("system", "user", "assistant", "tool")
# `message.role == 'x'`, `message['role'] in ['x', "y"]`, and a variable named role; [1] is what stands on the right.
_COMPARED_ROLE = re.compile(r"""\brole['"]?\]?\s*(?:==|!=|not in|in)\s*(['"][\w-]+['"]|\[[^\]]*\]|\([^)]*\))""")
_QUOTED = re.compile(r"""['"]([\w-]+)['"]""")
_REASONING = ("reasoning_content", "reasoning", "thinking")


class Marked(NamedTuple):
    """A text, and the spans of characters in it that are learnt, in order and apart from each other."""

    text: str
    spans: tuple[tuple[int, int], ...]


class Unfit(Exception):
    """Why a document cannot be an example. preview: what its rendering looks like, as far as there is one."""

    def __init__(self, reason: str, preview: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.preview = preview


def as_chat(pair: Pair) -> Chat:
    """A prompt and its completion as a conversation of two turns, after a system prompt if there is one."""
    turns = [("user", pair.prompt), ("assistant", pair.completion)]
    if pair.system:
        turns.insert(0, ("system", pair.system))
    return Chat([{"role": role, "content": content} for role, content in turns])


@lru_cache(maxsize=16)
def template_roles(template: str) -> tuple[str, ...]:
    """The usual roles, then those that the template compares a message's role with.

    A template may write any role as it is given (ChatML does) or pass over the messages of one that it does not name.
    """
    named = [name for match in _COMPARED_ROLE.finditer(template) for name in _QUOTED.findall(match[1])]
    return tuple(dict.fromkeys([*_USUAL_ROLES, *named]))


def mark(tokenizer: "PreTrainedTokenizerFast", chat: Chat) -> tuple[list[Marked], int]:
    """The renderings of a conversation, mostly one, and how many assistant turns are in none of them.

    What follows the last assistant turn is left off: nothing in it is learnt. A turn is in no rendering where the
    template writes the generation prompt otherwise than it begins the turn itself.

    Raises:
        Unfit: no assistant turn, a role that is none of the template's, or the template cannot write this conversation
            or leaves a part of it out.
    """
    roles = template_roles(str(tokenizer.chat_template))
    if unknown := next((message["role"] for message in chat.messages if message["role"] not in roles), None):
        raise Unfit("unknown_role", f"a message of role {unknown}; the chat template has: {', '.join(roles)}")
    turns = [number for number, message in enumerate(chat.messages) if message["role"] == "assistant"]
    if not turns:
        raise Unfit("no_assistant_turn", "\n".join(f"{one['role']}: {one.get('content')}" for one in chat.messages))
    spans: dict[int, tuple[int, int]] = {}
    through: dict[int, str] = {}
    for turn in turns:
        before = _render(tokenizer, chat, turn, prompt=True)
        through[turn] = _render(tokenizer, chat, turn + 1, prompt=False)
        if through[turn].startswith(before) and len(through[turn]) > len(before):
            spans[turn] = _said(through[turn], len(before), chat.messages[turn])
    if not spans:
        raise Unfit("prompt_is_no_prefix", through[turns[-1]])
    _require_all_rendered(tokenizer, chat, through)
    renderings = []
    left = list(spans)
    while left:
        whole = through[left[-1]]
        ends = {turn: _end_within(whole, through[turn], tokenizer.eos_token) for turn in left}
        inside = [(spans[turn][0], end) for turn, end in ends.items() if end is not None]
        renderings.append(Marked(whole, tuple(inside)))
        left = [turn for turn in left if ends[turn] is None]
    return renderings[::-1], len(turns) - len(spans)


def _require_all_rendered(tokenizer: "PreTrainedTokenizerFast", chat: Chat, through: dict[int, str]) -> None:
    """
    Args:
        through: by assistant turn, the rendering that ends with it.

    Raises:
        Unfit: the template leaves out a message or an assistant's tool calls, so that something else would be learnt.
    """
    last = max(through)
    for number, message in enumerate(chat.messages[: last + 1]):
        text = str(message.get("content", "")).strip()
        calls = [key for key in CALLS if message.get(key)]
        others = calls if calls or text else [key for key in OTHER_CONTENT if message.get(key)]
        if number in through and others:
            without = {key: value for key, value in message.items() if key not in others}
            if _renders_alike(tokenizer, chat, number, without, number, through[number]):
                raise Unfit(
                    "tool_calls_not_rendered" if calls else "reasoning_not_rendered",
                    f"the chat template leaves out {', '.join(others)} of {message!r}",
                )
        end = number if number in through else last
        if text and not calls and text not in through[end]:
            replaced = message | {"content": "other words"}
            if _renders_alike(tokenizer, chat, number, replaced, end, through[end]):
                raise Unfit("message_not_rendered", f"the chat template leaves out the content of {message!r}")


def _renders_alike(
    tokenizer: "PreTrainedTokenizerFast", chat: Chat, number: int, other: dict[str, Any], end: int, rendered: str
) -> bool:
    """Whether the messages up to `end` are written the same with another message at `number`."""
    messages = [*chat.messages[:number], other, *chat.messages[number + 1 :]]
    try:
        return _render(tokenizer, Chat(messages, chat.tools), end + 1, prompt=False) == rendered
    except Unfit:
        return False


def _end_within(whole: str, shorter: str, end_of_text: str | None) -> int | None:
    """Where a shorter rendering ends in the whole one, None if that does not begin with it.

    Some templates (Phi 3's) close a conversation with the end of the text; in a longer one that is not there.
    """
    for beginning in (shorter, shorter.removesuffix(end_of_text or "")):
        if whole.startswith(beginning):
            return len(beginning)
    return None


def _dateless(template: str) -> str:
    """The template with a clock that stands still: what it defines itself goes before what transformers gives it."""
    if "strftime_now" not in template:
        return template
    codes = "".join(f" | replace('%{code}', '{_DAY.strftime('%' + code)}')" for code in "aAbBdHjmMSyY")
    return "{%- macro strftime_now(format) -%}{{ format" + codes + " }}{%- endmacro -%}" + template


def _said(text: str, start: int, message: dict) -> tuple[int, int]:
    own = "<think>" in str(message.get("content")) or any(message.get(key) for key in _REASONING)
    if not own and (thought := _EMPTY_THOUGHT.match(text, start)):
        start = thought.end()
    return start, len(text)


def _render(tokenizer: "PreTrainedTokenizerFast", chat: Chat, count: int, prompt: bool) -> str:
    """The first `count` messages as the template writes them."""
    try:
        # A batch of one: of a single conversation transformers looks at the first message, and there may be none.
        rendered = tokenizer.apply_chat_template(
            [chat.messages[:count]],
            tools=chat.tools,
            tokenize=False,
            add_generation_prompt=prompt,
            chat_template=_dateless(str(tokenizer.chat_template)),
        )
    except Exception as error:  # a template is a program of its author's, and may fail in any way it likes
        raise Unfit("template_error", f"{type(error).__name__}: {error}") from error
    return cast(str, rendered[0])
