"""A conversation as text, with the spans of the assistant's turns, which are learnt.

Few chat templates mark the assistant's turns, so they are found by rendering the conversation twice: up to the message
before the turn, with the generation prompt, and up to the turn. The turn is the text that the second rendering has
after the first one, with which it has to begin. Some templates change earlier turns (they drop their reasoning). For a
turn that is changed in the whole conversation there is a separate rendering, which ends with it. So every turn is
learnt exactly once, in the context in which it would be generated.

An empty `<think></think>` that a template writes before an answer without reasoning is not learnt: the same templates
write it into the prompt when thinking is switched off. The line feed after the end of a turn is not learnt either
(encode.py).
"""

import re
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from training.pack.documents import CALLS, OTHER_CONTENT, Chat, Pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Templates of Qwen3, GLM 4.5 and DeepSeek write it; NVIDIA-NeMo/Automodel #3739 describes learning it by mistake.
_EMPTY_THOUGHT = re.compile(r"<think>\s*</think>\s*")
# Some templates write today's date. This date replaces it, so that examples are the same every day. It is the default
# date of Llama 3.1.
_DAY = date(2024, 7, 26)
_USUAL_ROLES = ("system", "user", "assistant", "tool")
# `message.role == 'x'`, `message['role'] in ['x', "y"]`, and a variable named role; group 1 is the right side.
_COMPARED_ROLE = re.compile(r"""\brole['"]?\]?\s*(?:==|!=|not in|in)\s*(['"][\w-]+['"]|\[[^\]]*\]|\([^)]*\))""")
_QUOTED = re.compile(r"""['"]([\w-]+)['"]""")
_REASONING = ("reasoning_content", "reasoning", "thinking")


# The chat template of `chat_template: chatml` and of fitted tokenizers. ChatML is as in
# https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md: every turn is
# `<|im_start|>ROLE\nCONTENT<|im_end|>\n`. Tools are JSON in a first system turn, an assistant's calls JSON in
# <tool_call> after its content, and a tool's result is a turn of the role `tool`. The rendering of a longer
# conversation begins with that of a shorter one, as `marked_renderings` requires.
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"

CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\nYou can call these tools:\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson + '\\n' }}
    {%- endfor %}
    {{- 'To call one, write <tool_call>{"name": ..., "arguments": {...}}</tool_call>.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- elif message.content %}
        {%- for part in message.content %}
            {{- part.text }}
        {%- endfor %}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {%- set function = call.function or call %}
        {{- '\\n' if message.content or not loop.first }}
        {{- '<tool_call>{"name": ' + function.name | tojson + ', "arguments": ' }}
        {{- function.arguments if function.arguments is string else function.arguments | tojson }}
        {{- '}</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


class Marked(NamedTuple):
    """A text with the spans of characters that are learnt, in order and disjoint."""

    text: str
    spans: tuple[tuple[int, int], ...]


class Unfit(Exception):
    """A document cannot be an example. reason: for counters. preview: its rendering, or what is known of it."""

    def __init__(self, reason: str, preview: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.preview = preview


def as_chat(pair: Pair) -> Chat:
    """A pair as a conversation of two turns, after a system prompt if there is one."""
    turns = [("user", pair.prompt), ("assistant", pair.completion)]
    if pair.system:
        turns.insert(0, ("system", pair.system))
    return Chat([{"role": role, "content": content} for role, content in turns])


@lru_cache(maxsize=16)
def template_roles(template: str) -> tuple[str, ...]:
    """The usual roles, and those that the template compares a message's role with.

    A template may write any role (as ChatML does), or leave out messages of roles that it does not name.
    """
    named = [name for match in _COMPARED_ROLE.finditer(template) for name in _QUOTED.findall(match[1])]
    return tuple(dict.fromkeys([*_USUAL_ROLES, *named]))


def marked_renderings(tokenizer: "PreTrainedTokenizerFast", chat: Chat) -> tuple[list[Marked], int]:
    """The renderings of a conversation, mostly one, and the number of assistant turns that are in none of them.

    Messages after the last assistant turn are left out, since nothing in them is learnt. A turn is in no rendering if
    the template's generation prompt differs from the beginning of the turn.

    Raises:
        Unfit: there is no assistant turn, the template does not name a role, fails for this conversation, or leaves out
            a part of it.
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
            spans[turn] = _turn_span(through[turn], len(before), chat.messages[turn])
    if not spans:
        raise Unfit("prompt_is_no_prefix", through[turns[-1]])
    _require_all_rendered(tokenizer, chat, through)
    renderings = []
    left = list(spans)
    while left:
        whole = through[left[-1]]
        ends = {turn: _end_in(whole, through[turn], tokenizer.eos_token) for turn in left}
        inside = [(spans[turn][0], end) for turn, end in ends.items() if end is not None]
        renderings.append(Marked(whole, tuple(inside)))
        left = [turn for turn in left if ends[turn] is None]
    return renderings[::-1], len(turns) - len(spans)


def _require_all_rendered(tokenizer: "PreTrainedTokenizerFast", chat: Chat, through: dict[int, str]) -> None:
    """Verify that the template writes every message, with tool calls and reasoning.

    Args:
        through: by assistant turn, the rendering that ends with it.

    Raises:
        Unfit: the template leaves out a message or an assistant's tool calls or reasoning.
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
    """Whether the rendering of the messages up to `end` is the same with another message at `number`."""
    messages = [*chat.messages[:number], other, *chat.messages[number + 1 :]]
    try:
        return _render(tokenizer, Chat(messages, chat.tools), end + 1, prompt=False) == rendered
    except Unfit:
        return False


def _end_in(whole: str, shorter: str, end_of_text: str | None) -> int | None:
    """The end of a shorter rendering in the whole one; None if the whole one does not begin with it.

    Some templates (Phi 3's) end a conversation with the end-of-text token, which a longer one does not have there.
    """
    for beginning in (shorter, shorter.removesuffix(end_of_text or "")):
        if whole.startswith(beginning):
            return len(beginning)
    return None


def _with_fixed_date(template: str) -> str:
    """The template with a fixed date: a macro in it has precedence over transformers' `strftime_now`."""
    if "strftime_now" not in template:
        return template
    codes = "".join(f" | replace('%{code}', '{_DAY.strftime('%' + code)}')" for code in "aAbBdHjmMSyY")
    return "{%- macro strftime_now(format) -%}{{ format" + codes + " }}{%- endmacro -%}" + template


def _turn_span(text: str, start: int, message: dict) -> tuple[int, int]:
    """The learnt span of a turn that starts at `start`, without an empty thought that the template wrote."""
    own = "<think>" in str(message.get("content")) or any(message.get(key) for key in _REASONING)
    if not own and (thought := _EMPTY_THOUGHT.match(text, start)):
        start = thought.end()
    return start, len(text)


def _render(tokenizer: "PreTrainedTokenizerFast", chat: Chat, count: int, prompt: bool) -> str:
    """The first `count` messages, rendered by the template. prompt: with the generation prompt."""
    try:
        # A batch of one: for a single conversation transformers reads the first message, and there may be none.
        rendered = tokenizer.apply_chat_template(
            [chat.messages[:count]],
            tools=chat.tools,
            tokenize=False,
            add_generation_prompt=prompt,
            chat_template=_with_fixed_date(str(tokenizer.chat_template)),
        )
    except Exception as error:  # a template is a program and may raise anything
        raise Unfit("template_error", f"{type(error).__name__}: {error}") from error
    return cast(str, rendered[0])
