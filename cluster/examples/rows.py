"""A row of a source as the content of a record, from any of the forms in which data sets have examples."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from raymill.cluster.examples.content import (
    KEYS,
    REASONING,
    ROLES,
    Chat,
    Content,
    Message,
    Preference,
    Role,
    ToolCall,
    Unusable,
    is_empty,
    judgement,
    pair,
    preference,
    wanted,
    with_input,
)
from raymill.cluster.examples.messages import (
    BadMessage,
    plain_message,
    standard_tools,
    with_standard_calls,
    without_nulls,
)
from raymill.cluster.examples.plain_numbers import number_in
from raymill.cluster.readers.inputs import Cut

# The first letters of the roles of a conversation.
_ORDER = re.compile(r"s?(?:ua(?:t+a)*)+")
# Keys of a message in exports of chats, of which the first that it has is its speaker or its text.
_SPEAKERS = ("speaker", "role", "from", "author", "author_id", "sender", "name", "user")
_TEXTS = ("content", "text", "body", "plain_body", "message", "value")
# Keys of ranked answers with the answer, and with its score.
_RANKED = ("completion", "response", "answer", "text")
_SCORES = ("overall_score", "score", "rating")
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant): ?")
_DIALOGUE_ROLES = {"Human": "user", "Assistant": "assistant"}


def content_of(
    row: Mapping[str, str | None],
    roles: Mapping[str, Role] | None = None,
    cut: list[Cut] | None = None,
    keeps_undesirable: bool = False,
) -> Content:
    """The content of a source's row.

    Args:
        row: FIELDS that the source has; lists of messages as JSON text. roles: of the speakers of messages, `*` of any
            other; None: messages have roles. cut: messages that `roles` leave out are added to it. keeps_undesirable:
            answers that were judged have their judgement; else undesirable ones are refused.

    Raises:
        Unusable: the row is no record.
    """
    if not keeps_undesirable or "desirable" not in row:
        if _optional(row.get("desirable")).strip().lower() == "false":
            raise Unusable("undesirable")
        return _content(row, roles, cut)
    if (desirable := judgement(row["desirable"])) is None:
        raise Unusable("bad_label")
    content = _content(row, roles, cut)
    if isinstance(content, Chat):
        return replace(content, desirable=desirable)
    if not desirable:  # a text and two answers have no place for it
        raise Unusable("undesirable")
    return content


def _content(row: Mapping[str, str | None], roles: Mapping[str, Role] | None, cut: list[Cut] | None) -> Content:
    if "messages" in row:
        spoken = _spoken(row["messages"], roles, [] if cut is None else cut) if roles else _messages(row["messages"])
        system = _optional(row.get("system"))
        if system and spoken and spoken[0]["role"] != "system":
            spoken = [{"role": "system", "content": system}, *spoken]
        return _chat(spoken, _tools(row.get("tools")))
    if "chosen" in row:
        chosen, rejected = (wanted(row.get(name)) for name in ("chosen", "rejected"))
        margin = None
        if chosen == rejected and (answers := _ranked(chosen)):
            chosen, rejected, margin = _best_and_worst(answers)
        if stated := _optional(row.get("margin")):
            margin = number_in(stated)
            if not math.isfinite(margin):
                raise Unusable("bad_margin")
        if "prompt" not in row:
            # Two conversations that differ in their last message: the messages before it are the question.
            both = [_messages(text) if _is_messages(text) else _dialogue(text) for text in (chosen, rejected)]
            if any(not one or one[0]["role"] not in ("system", "user") for one in both):
                raise Unusable("no_prompt")
            found = _of_chats(_optional(row.get("system")), both)
        else:
            prompt = with_input(wanted(row.get("prompt")), _optional(row.get("input")))
            found = _preference(_optional(row.get("system")), prompt, chosen, rejected)
        return replace(found, tools=_tools(row.get("tools")), margin=margin)
    if "prompt" in row:
        system, input = _optional(row.get("system")), _optional(row.get("input"))
        asked, answer = wanted(row["prompt"]), wanted(row["completion"])
        if any(map(_is_messages, (asked, answer))):  # as TRL has conversations
            spoken = _as_messages(with_input(asked, input), "user") + _as_messages(answer, "assistant")
            if system and spoken[0]["role"] != "system":
                spoken = [{"role": "system", "content": system}, *spoken]
            return _chat(spoken, _tools(row.get("tools")))
        whole = pair(system, asked, input, answer)
        earlier, tools = _history(row.get("history")), _tools(row.get("tools"))
        if earlier:
            *before, question, last = whole.messages
            whole = Chat((*before, *earlier, question, last))
        return replace(whole, tools=tools) if tools else whole
    return wanted(row.get("text"))


def _preference(system: str, prompt: str, chosen: str, rejected: str) -> Preference:
    """prompt, chosen, rejected: texts, or messages as JSON text; the answers may have the question before them, or be
    one message each.
    """
    texts = (prompt, *(f"[{one}]" if _is_message(one) else one for one in (chosen, rejected)))
    if not any(map(_is_messages, texts)):
        return preference(system, texts[0], texts[1], texts[2])
    roles = ("user", "assistant", "assistant")
    question, *answers = map(_as_messages, texts, roles)
    return _of_chats(system, [one if one[0]["role"] != "assistant" else [*question, *one] for one in answers])


def _dialogue(text: str) -> list[dict[str, Any]]:
    """The messages of a text whose turns begin with `Human:` or `Assistant:` after a blank line; empty without these.

    Source: Bai et al. 2022, Training a Helpful and Harmless Assistant (https://huggingface.co/datasets/Anthropic/hh-rlhf).
    """
    before, *turns = _TURN.split(text.lstrip("\n"))
    if before:
        return []
    return [
        {"role": _DIALOGUE_ROLES[speaker], "content": said}
        for speaker, said in zip(turns[::2], turns[1::2], strict=True)
    ]


def _of_chats(system: str, both: list[list[dict[str, Any]]]) -> Preference:
    """Two conversations that differ in what follows their last question. system: of those without one.

    What both have after the question, calls of tools and their results, is a part of what was asked.
    """
    chosen, rejected = (tuple(map(_of_preference, _chat(one).messages)) for one in both)
    most = min(len(chosen), len(rejected)) - 1
    shared = next((at for at in range(most) if chosen[at] != rejected[at]), most)
    while shared and {chosen[shared].role, rejected[shared].role} != {"assistant"}:
        shared -= 1
    asked, better, worse = chosen[:shared], chosen[shared:], rejected[shared:]
    if any(one.role not in ("assistant", "tool") for one in (*better, *worse)):
        raise Unusable("different_questions")
    if asked[0].role == "system" and not asked[0].content:
        asked = asked[1:]
    if system and asked[0].role != "system":
        asked = (Message("system", system), *asked)
    return Preference(asked, better, worse)


def _of_preference(message: Message) -> Message:
    """A message of a preference: without names of speakers. Weights of the loss have no place in one."""
    if any(key not in ("name", "tool_call_id", *REASONING) for key, _ in message.keys):
        raise Unusable("other_keys")
    if message.role == "tool":
        return message
    return replace(message, keys=tuple(one for one in message.keys if one[0] != "name"))


def _ranked(text: str) -> list[dict[str, Any]]:
    """Ranked answers, from a list of objects that are no messages as JSON text; empty for another text."""
    try:
        answers = json.loads(text) if text.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        return []
    if not isinstance(answers, list) or not all(isinstance(one, dict) for one in answers):
        return []
    return [] if any({"role", "from"} & one.keys() for one in answers) else answers


def _best_and_worst(answers: list[dict[str, Any]]) -> tuple[str, str, float | None]:
    """(the best answer, the worst one, the difference of their scores; None where they have ranks).

    Answers are texts, or messages as JSON text. Best is the lowest rank, or the highest score; of equals the first.

    Sources: NeMo RL (`completion`, `rank`), UltraFeedback (`response`, `overall_score`), Nectar (`answer`, `rank`).

    Raises:
        Unusable: they are no ranked answers, or all are equally good.
    """
    found = []
    has_ranks = all("rank" in one for one in answers)
    for one in answers:
        answer = next((one[key] for key in _RANKED if one.get(key)), None)
        value = number_in(next((one[key] for key in (("rank",) if has_ranks else _SCORES) if key in one), None))
        if not math.isfinite(value):
            raise Unusable("bad_ranking")
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False) if answer else ""
        found.append((-value if has_ranks else value, text))
    best, worst = (choose(found, key=lambda one: one[0]) for choose in (max, min))
    if len(found) < 2:
        raise Unusable("bad_ranking")
    if best[0] == worst[0]:
        raise Unusable("tied_answers")
    return wanted(best[1]), wanted(worst[1]), None if has_ranks else best[0] - worst[0]


def _is_message(text: str) -> bool:
    """Whether a text is one message as JSON."""
    try:
        message = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and any(
        keys <= message.keys() for keys in ({"role", "content"}, {"role", "tool_calls"}, {"from", "value"})
    )


def _is_messages(text: str) -> bool:
    """Whether a text is a list of messages as JSON."""
    if not text.lstrip().startswith("["):
        return False
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return bool(messages) and all(isinstance(one, dict) and {"role", "from"} & one.keys() for one in messages)


def _as_messages(text: str, role: str) -> list[dict[str, Any]]:
    """The messages of a list as JSON text; another text as one message of this role."""
    return _messages(text) if _is_messages(text) else [{"role": role, "content": text}]


def _chat(messages: list[dict[str, Any]], tools: str = "") -> Chat:
    found = tuple(map(_message, messages))
    if not _ORDER.fullmatch("".join(one.role[0] for one in found)):
        raise Unusable("wrong_order" if found else "empty")
    if any(map(is_empty, found)):
        raise Unusable("empty")
    return Chat(found, tools=tools)


def _message(message: dict[str, Any]) -> Message:
    """A message of the standard form of examples/messages.py, with arguments as text."""
    if message["role"] not in ROLES:
        raise Unusable("other_roles")
    calls = message.get("tool_calls", ())
    if calls and message["role"] != "assistant":
        raise Unusable("other_keys")
    for call in calls:
        others = {**call, **call["function"], "type": call["type"] != "function"}
        if any(value for key, value in others.items() if key not in ("id", "function", "index", "name", "arguments")):
            raise Unusable("other_keys")
    keys = {}
    for key, value in message.items():
        if key in ("role", "content", "tool_calls"):
            continue
        if key not in KEYS:
            if value:
                raise Unusable("other_keys")
        elif value not in (KEYS[key][1], ""):
            keys[key] = _typed(value, KEYS[key][0])
    return Message(
        message["role"],
        message.get("content") or "",
        tuple(
            ToolCall(
                call["function"]["name"],
                call["function"]["arguments"],
                _typed(call["id"], pa.string()) if "id" in call else None,
            )
            for call in calls
        ),
        tuple((key, keys[key]) for key in KEYS if key in keys),
    )


def _typed(value: Any, type: pa.DataType) -> Any:
    """The value as one of a column of this type."""
    number = number_in(+value) if isinstance(value, int | float) else math.nan  # +True is 1
    if pa.types.is_boolean(type) and value in (True, False):
        return bool(value)
    if pa.types.is_floating(type) and math.isfinite(number):
        return number
    if isinstance(value, str) and not (pa.types.is_boolean(type) or pa.types.is_floating(type)):
        return value
    raise Unusable("bad_messages")


def _tools(value: str | None) -> str:
    """Tools as JSON text, as they are; empty without any."""
    if not _optional(value):
        return ""
    assert value is not None
    try:
        tools = json.loads(value)
        if tools and not (isinstance(tools, list) and all(isinstance(one, dict) for one in standard_tools(tools))):
            raise Unusable("bad_tools")
    except (ValueError, RecursionError, BadMessage) as error:
        raise Unusable("bad_tools") from error
    return value if tools else ""


def _history(value: str | None) -> list[Message]:
    """Earlier turns, of a list of [question, answer] as JSON text."""
    try:
        turns = json.loads(_optional(value) or "[]") or []
    except (ValueError, RecursionError) as error:
        raise Unusable("bad_history") from error
    if not isinstance(turns, list):
        raise Unusable("bad_history")
    found = []
    for turn in turns:
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise Unusable("bad_history")
        found += [Message("user", wanted(turn[0])), Message("assistant", wanted(turn[1]))]
    return found


def _messages(value: str | None) -> list[dict[str, Any]]:
    try:
        messages = json.loads(value or "[]")
        if not isinstance(messages, list):
            raise Unusable("bad_messages")
        return [with_standard_calls(plain_message(without_nulls(message)), text=True) for message in messages]
    except (ValueError, RecursionError) as error:
        raise Unusable("bad_messages") from error
    except BadMessage as error:
        raise Unusable(error.reason) from error


def _spoken(value: str | None, roles: Mapping[str, Role], cut: list[Cut]) -> list[dict[str, Any]]:
    """Messages of speakers as messages with roles, from the first question to the last answer.

    Messages that are not `public` are left out: Zendesk has internal notes among a ticket's comments. cut: what is left
    out is added to it.
    """
    try:
        messages = json.loads(value or "[]")
    except (ValueError, RecursionError) as error:
        raise Unusable("bad_messages") from error
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise Unusable("bad_messages")
    said: list[tuple[Role, list[str]]] = []
    for message in messages:
        speaker = next((message[key] for key in _SPEAKERS if isinstance(message.get(key), str | int)), "")
        text = next((message[key] for key in _TEXTS if isinstance(message.get(key), str)), "").strip()
        role = roles.get(str(speaker), roles.get("*"))
        if role is None:
            raise Unusable("other_roles")
        if not text:
            continue
        if role == "skip" or message.get("public") is False:
            cut.append(("skipped_speaker" if role == "skip" else "not_public", text))
            continue
        if said and said[-1][0] == role:
            said[-1][1].append(text)
        else:
            said.append((role, [text]))
    turns: list[dict[str, Any]] = [{"role": role, "content": "\n".join(texts)} for role, texts in said]
    system = [one for one in turns if one["role"] == "system"][:1]
    spoken = [one for one in turns if one["role"] != "system"]
    first = next((at for at, one in enumerate(spoken) if one["role"] == "user"), len(spoken))
    last = max((at for at, one in enumerate(spoken) if one["role"] == "assistant"), default=-1)
    if last < first:
        return system + spoken
    cut += [("second_system", one["content"]) for one in turns if one["role"] == "system"][1:]
    cut += [("before_question", one["content"]) for one in spoken[:first]]
    cut += [("after_answer", one["content"]) for one in spoken[last + 1 :]]
    return system + spoken[first : last + 1]


def _optional(value: str | None) -> str:
    return "" if not value or value.isspace() else value
