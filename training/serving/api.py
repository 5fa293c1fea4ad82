"""Requests, answers and errors of OpenAI's interface: /v1/models, /v1/chat/completions and /v1/completions.

Supported: one choice of text, sampling parameters, stop texts and streams. Any other parameter is refused by name,
unless it has the value that changes nothing: if it were ignored, answers would differ without an error.

Source: https://platform.openai.com/docs/api-reference/chat
"""

import json
import secrets
import time
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from raymill.training.serving.completion import Completion
from raymill.training.serving.served import ServedModel

MOST_MESSAGES = 10_000
MOST_VALUES = 200_000  # values and names of a body; MOST_MESSAGES with a name and one part each have 120,000
_MOST_NAMES = 64  # of an object
_MOST_STOPS, _LONGEST_STOP = 4, 200  # as OpenAI's; characters
_SHOWN = 300  # characters of an error message

_Zero = Annotated[float, Field(ge=0, le=0)]


class ApiError(Exception):
    """An error in OpenAI's form. status: HTTP status. kind: its `type`. code, param: as there, or None."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", code: str | None = None,
        param: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.kind, self.code = status, kind, code
        self.body = {"error": {"message": message[:_SHOWN], "type": kind, "param": param, "code": code}}


class _Part(BaseModel, extra="forbid"):
    type: Literal["text"]
    text: str


def _listed(value: Any) -> Any:
    """A single text as a list. With a union of both types, a wrong value would have an error for each."""
    return [value] if isinstance(value, str) else value


def _in_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


_StopText = Annotated[str, Field(min_length=1, max_length=_LONGEST_STOP)]
_Stops = Annotated[list[_StopText], Field(fail_fast=True, max_length=_MOST_STOPS)]


class _Message(BaseModel, extra="forbid"):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[_Part], Field(fail_fast=True), BeforeValidator(_in_parts)]
    name: str | None = None


class _StreamOptions(BaseModel, extra="forbid"):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class _Request(BaseModel):
    """Parameters of both kinds of completion."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Annotated[_Stops | None, BeforeValidator(_listed)] = None
    ignore_eos: bool | None = None  # of vLLM; its benchmark's requests have it
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    # Labels for the caller's own use.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    # Only the values that change nothing are allowed.
    n: Literal[1] | None = None
    frequency_penalty: _Zero | None = None
    presence_penalty: _Zero | None = None
    repetition_penalty: Annotated[float, Field(ge=1, le=1)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def wanted(self) -> int | None:
        """Largest number of tokens of the answer; None: not stated."""
        return self.max_tokens


class ChatRequest(_Request):
    """The body of a request to /v1/chat/completions."""

    messages: Annotated[list[_Message], Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none"] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None

    @property
    def wanted(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def prompt_given(self) -> str | list[dict[str, str]]:
        """The conversation, for the chat template."""
        return [{"role": one.role, "content": "".join(part.text for part in one.content)} for one in self.messages]


class TextRequest(_Request):
    """The body of a request to /v1/completions."""

    prompt: Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=1), BeforeValidator(_listed)]
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: Literal[""] | None = None

    @property
    def prompt_given(self) -> str | list[dict[str, str]]:
        """The text."""
        return self.prompt[0]


def parsed(data: bytes, kind: type[ChatRequest] | type[TextRequest]) -> ChatRequest | TextRequest:
    """The request in a body. Raises ApiError: the body is not a valid request.

    The number of values is bounded before they become objects, and pydantic makes an error of each wrong one: lists
    end at their first, and objects have few names.
    """
    if _values(data) > MOST_VALUES:
        raise ApiError(400, f"the body has more than {MOST_VALUES:,} values")
    try:
        plain = json.loads(data.decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON ({type(error).__name__})") from error
    try:
        return kind.model_validate(plain)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = ".".join(str(one) for one in first["loc"])
        extra = first["type"] == "extra_forbidden"
        problem = "this parameter is not supported here" if extra else first["msg"]
        code = "unsupported_parameter" if extra else "invalid_value"
        raise ApiError(400, f"{param or 'body'}: {problem}", code=code, param=param[:100] or None) from error


def _values(data: bytes) -> int:
    """A bound on the number of values and names in JSON of UTF-8: 1 and those after `[`, `{`, `,` and `:` in no string.

    After the first error of the JSON the number is of no use, and the parser does not come that far.
    """
    plain = np.frombuffer(data.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    is_in_string = np.bitwise_xor.accumulate(plain == ord('"'))
    return 1 + int(np.isin(plain[~is_in_string], list(b"[{,:")).sum())


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > _MOST_NAMES:
        raise ApiError(400, f"the body has an object with more than {_MOST_NAMES} names")
    return dict(pairs)


class AnswerForm:
    """The answers to one request, whole or in chunks, in the form of its interface."""

    def __init__(self, served: ServedModel, is_chat: bool) -> None:
        self.id = f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(12)}"
        self._is_chat = is_chat
        self._frame = {
            "id": self.id, "created": int(time.time()), "model": served.name, "system_fingerprint": served.fingerprint,
        }  # fmt: skip
        self._whole = "chat.completion" if is_chat else "text_completion"
        self._chunk = "chat.completion.chunk" if is_chat else "text_completion"

    def whole(self, text: str, completion: Completion) -> dict[str, Any]:
        """The whole answer, for a request without `stream`."""
        content: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text, "refusal": None}} if self._is_chat else {"text": text}
        )
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": completion.finish}
        return self._frame | {"object": self._whole, "choices": [choice], "usage": usage(completion)}

    def first(self) -> list[dict[str, Any]]:
        """The chunks before the text."""
        return [self._with({"delta": {"role": "assistant", "content": ""}}, None)] if self._is_chat else []

    def part(self, text: str) -> dict[str, Any]:
        """The chunk with a part of the text."""
        return self._with({"delta": {"content": text}} if self._is_chat else {"text": text}, None)

    def last(self, completion: Completion, with_usage: bool) -> list[dict[str, Any]]:
        """The chunks after the text: the finish reason, and the token counts if requested."""
        chunks = [self._with({"delta": {}} if self._is_chat else {"text": ""}, completion.finish)]
        if with_usage:
            chunks.append(self._frame | {"object": self._chunk, "choices": [], "usage": usage(completion)})
        return chunks

    def _with(self, content: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
        return self._frame | {"object": self._chunk, "choices": [choice]}


def usage(completion: Completion) -> dict[str, int]:
    """Tokens of the prompt, of the answer with the token that ends it, and their sum."""
    prompt, answer = len(completion.ids), len(completion.output)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
