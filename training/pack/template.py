"""Chat templates: ChatML, and of any template its roles, switches and variables, and the forms of messages it reads.

Templates differ in what they take: a system prompt has the role `system` or `developer`, reasoning the key
`reasoning_content`, `reasoning` or `thinking`, arguments of a tool call are an object or JSON text, content is text or
a list of parts. A conversation is given to a template in the first form of which it writes everything.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, cast

from raymill.cluster.guard import Exceeded, Guard, WorkBounds, once
from raymill.cluster.readers.inputs import Limits
from raymill.training.pack.documents import REASONING, Chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

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

# Some templates write today's date. This date replaces it, so that examples are the same every day. It is the default
# date of Llama 3.1.
_DAY = date(2024, 7, 26)
_USUAL_ROLES = ("system", "user", "assistant", "tool")
# Variables by which templates switch thinking on and off: Qwen, GLM, Nemotron and Gemma; DeepSeek 3.1 and Granite.
_SWITCHES = ("enable_thinking", "thinking")
# `message.role == 'x'`, `message['role'] in ['x', "y"]`, and a variable named role; group 1 is the right side.
_COMPARED_ROLE = re.compile(r"""\brole['"]?\]?\s*(?:==|!=|not in|in)\s*(['"][\w-]+['"]|\[[^\[\]]*\]|\([^()]*\))""")
_QUOTED = re.compile(r"""['"]([\w-]+)['"]""")
# `message.thinking`, `message['reasoning']`, `message.get('reasoning_content')`.
_READ_REASONING = re.compile(rf"""[.'"]({"|".join(REASONING)})\b""")
THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
# A line of `with_defaults`.
_DEFAULT = re.compile(r"\{%- set (\w+) = \1 if \1 is defined else .* %\}\n")


# A template is a program. A conversation takes milliseconds.
LIMITS = Limits()
OF_A_CHECK = WorkBounds(3.0, 512 << 20)  # of a conversation of a few words


class Unfit(Exception):
    """A document cannot be an example. reason: for counters. preview: its rendering, or what is known of it."""

    def __init__(self, reason: str, preview: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.preview = preview


@lru_cache(maxsize=16)
def template_roles(template: str) -> tuple[str, ...]:
    """The usual roles, and those that the template compares a message's role with.

    A template may write any role (as ChatML does), or leave out messages of roles that it does not name.
    """
    named = [name for match in _COMPARED_ROLE.finditer(template) for name in _QUOTED.findall(match[1])]
    return tuple(dict.fromkeys([*_USUAL_ROLES, *named]))


def with_defaults(template: str, variables: Mapping[str, Any]) -> str:
    """The template with defaults for its variables, which arguments of `apply_chat_template` override."""
    lines = [
        f"{{%- set {name} = {name} if {name} is defined else {_literal(variables[name])} %}}\n" for name in variables
    ]
    return "".join(lines) + template


def thinking_switches(template: str, thinking: bool) -> dict[str, bool]:
    """The variables that switch the template's thinking on or off; none if a default of `with_defaults` decides it."""
    fixed, at = set(), 0
    while found := _DEFAULT.match(template, at):
        fixed.add(found[1])
        at = found.end()
    return {} if fixed.intersection(_SWITCHES) else {name: thinking for name in _SWITCHES if name in template}


def presentations(template: str, chat: Chat) -> Iterator[Chat]:
    """The conversation in the forms that templates read, the most frequent form first.

    1. Content is text, arguments of tool calls are objects, and reasoning, also in <think> at the beginning of the
       content, has the key that the template reads.
    2. Content of a tool call is part of its reasoning: gpt-oss refuses a message that has both.
    3. Arguments are JSON text: DeepSeek V3.
    4. Content is a list of parts: templates for images.
    """
    messages = [_usual(message, template) for message in chat.messages]
    yield Chat(messages, chat.tools)
    if any("tool_calls" in message for message in messages):
        yield Chat([_with_one_thought(message) for message in messages], chat.tools)
        yield Chat([_with_text_arguments(message) for message in messages], chat.tools)
    parts = [[{"type": "text", "text": one["content"]}] if one["content"] else [] for one in messages]
    yield Chat([one | {"content": of_one} for one, of_one in zip(messages, parts, strict=True)], chat.tools)


def _usual(message: dict[str, Any], template: str) -> dict[str, Any]:
    """The message in the first form; of the role `system` for `developer` if the template does not have that role."""
    role = message["role"]
    if role == "developer" and "developer" not in template_roles(template):
        role = "system"
    message = message | {"role": role, "content": message.get("content", "")}
    read = _READ_REASONING.findall(template)
    given = next((message[key] for key in REASONING if message.get(key)), None)
    content = message["content"]
    if given is None and message["role"] == "assistant" and (thought := THOUGHT.match(content)):
        given, content = thought[1].strip(), content[thought.end() :]
    if not read or not given or any(message.get(key) for key in read):
        return message
    rest = {key: value for key, value in message.items() if key not in REASONING}
    return rest | {"content": content, read[0]: given}


def _with_one_thought(message: dict[str, Any]) -> dict[str, Any]:
    """A message with tool calls whose content is at the end of its reasoning, if it has both."""
    key = next((key for key in REASONING if message.get(key)), None)
    if key is None or "tool_calls" not in message or not message["content"]:
        return message
    return message | {key: f"{message[key]}\n\n{message['content']}", "content": ""}


def _with_text_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """The message with arguments of tool calls as JSON text."""
    calls = [
        call
        | {"function": call["function"] | {"arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False)}}
        for call in message.get("tool_calls", ())
    ]
    return message | {"tool_calls": calls} if calls else message


def render(
    tokenizer: "PreTrainedTokenizerFast", chat: Chat, count: int, prompt: bool, switches: Mapping[str, Any] = {}
) -> str:
    """The first `count` messages, rendered by the template. For a Guard, as all that calls it.

    Args:
        prompt: whether the generation prompt follows. switches: variables of the template.

    Raises:
        Unfit: the template fails.
    """
    try:
        # A batch of one: for a single conversation transformers reads the first message, and there may be none.
        rendered = tokenizer.apply_chat_template(
            [chat.messages[:count]],
            tools=chat.tools,
            tokenize=False,
            add_generation_prompt=prompt,
            chat_template=_with_fixed_date(str(tokenizer.chat_template)),
            **switches,
        )
    except MemoryError:
        raise  # the bound of the process
    except Exception as error:  # a template is a program and may raise anything
        raise Unfit("template_error", f"{type(error).__name__}: {error}") from error
    return cast(str, rendered[0])


_SYSTEM, _FIRST, _ANSWER, _SECOND = (
    {"role": role, "content": content}
    for role, content in (("system", "d"), ("user", "a"), ("assistant", "b"), ("user", "c"))
)
# Conversations that every template has to end for before it is used, each with or without the prompt of an answer.
CHECKED: tuple[tuple[list[dict[str, str]], bool], ...] = (
    ([_FIRST], False),
    ([_FIRST], True),
    ([_FIRST, _ANSWER], False),
    ([_FIRST, _ANSWER, _SECOND], True),
    ([_SYSTEM, _FIRST, _ANSWER, _SECOND], True),
)


def render_checked(tokenizer: "PreTrainedTokenizerFast") -> None:
    """Render each of CHECKED, in a child process with a few seconds: a template may end once and not again.

    A conversation is rendered once per process with the same template and special tokens.

    Raises:
        Exceeded: one takes too much time or memory.
        Exception: what the template raises of the first that it refuses.
    """
    guard, refused = Guard(partial(written, tokenizer)), list[Exception]()
    settings = json.dumps([tokenizer.chat_template, tokenizer.special_tokens_map], default=str)
    for one in CHECKED:
        try:
            once(("rendering", settings, json.dumps(one)), partial(guard, one, OF_A_CHECK))
        except Exceeded:
            raise
        except Exception as error:  # it may not end for another one
            refused.append(error)
    if refused:
        raise refused[0]


def written(tokenizer: "PreTrainedTokenizerFast", conversation: tuple[Sequence[Mapping[str, Any]], bool]) -> str:
    """A conversation, rendered by the template, with or without the prompt of an answer. For a Guard."""
    messages, prompt = conversation
    batch: Any = [list(messages)]
    found = tokenizer.apply_chat_template(batch, tokenize=False, add_generation_prompt=prompt)
    return cast(str, found[0])


def _literal(value: Any) -> str:
    """A value of JSON as a literal of Jinja."""
    match value:
        case dict():
            return "{" + ", ".join(f"{_literal(key)}: {_literal(inner)}" for key, inner in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_literal, value)) + "]"
        case None:
            return "none"
    return json.dumps(value, ensure_ascii=False)


def _with_fixed_date(template: str) -> str:
    """The template with a fixed date: a macro in it has precedence over transformers' `strftime_now`."""
    if "strftime_now" not in template:
        return template
    codes = "".join(f" | replace('%{code}', '{_DAY.strftime('%' + code)}')" for code in "aAbBdHjmMSyY")
    return "{%- macro strftime_now(format) -%}{{ format" + codes + " }}{%- endmacro -%}" + template
