"""The log of requests: a record for each, with the names of OpenTelemetry's conventions for generative AI.

Prompts and answers are left out unless requested.
Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/ (2026-05).
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from raymill.training.serving.api import ApiError, ChatRequest, TextRequest
from raymill.training.serving.completion import Completion
from raymill.training.serving.served import ServedModel

_LONGEST_NAME = 100  # characters of the model that a request names


class RequestRecord:
    """The log record of one request, filled while it is processed.

    with_content: whether prompts and answers are logged.
    """

    def __init__(self, served: ServedModel, path: str, with_content: bool) -> None:
        self._with_content = with_content
        self._started, self._first = time.monotonic(), 0.0
        self._fields: dict[str, Any] = {
            "start_time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "gen_ai.operation.name": "chat" if path.endswith("/chat/completions") else "text_completion",
            "gen_ai.provider.name": "raymill",
            "gen_ai.response.model": served.name,
            "openai.response.system_fingerprint": served.fingerprint,
            "url.path": path,
        }

    def asked(self, request: ChatRequest | TextRequest) -> None:
        """Add the parameters of the request."""
        given = {
            "model": request.model[:_LONGEST_NAME], "max_tokens": request.wanted, "temperature": request.temperature,
            "top_p": request.top_p, "seed": request.seed, "stream": request.stream,
        }  # fmt: skip
        self._fields |= {f"gen_ai.request.{name}": value for name, value in given.items() if value is not None}
        if self._with_content:
            prompt = request.prompt_given
            turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            self._fields["gen_ai.input.messages"] = [_message(one["role"], one["content"]) for one in turns]

    def first_chunk(self) -> None:
        """Measure the time to the first part of the text."""
        self._first = time.monotonic()

    def answered(self, id: str, text: str, completion: Completion) -> None:
        """Add the answer, or the part before it failed."""
        self._fields |= {
            "gen_ai.response.id": id,
            "gen_ai.usage.input_tokens": len(completion.ids),
            "gen_ai.usage.output_tokens": len(completion.output),
        }
        if completion.finish:
            self._fields["gen_ai.response.finish_reasons"] = [completion.finish]
        if self._with_content:
            self._fields["gen_ai.output.messages"] = [
                _message("assistant", text) | {"finish_reason": completion.finish or "error"}
            ]

    def ended(self, status: int, error: ApiError | None = None, kind: str | None = None) -> Mapping[str, Any]:
        """The record. kind: `error.type` if no error was sent, as after a client disconnected."""
        now = time.monotonic()
        self._fields |= {
            "end_time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "gen_ai.server.request.duration": round(now - self._started, 4),
            "http.response.status_code": status,
        }
        if self._first:
            self._fields["gen_ai.response.time_to_first_chunk"] = round(self._first - self._started, 4)
        if error is not None:
            kind = error.code or error.kind
        if kind is not None:
            self._fields["error.type"] = kind
        return self._fields


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}
