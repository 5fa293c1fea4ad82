"""An endpoint with OpenAI's interface: sends a request, and judges what came back.

Why not a client library: the official one repeats a refusal about money, hides the tries in between, and decides by
itself how long to wait. Here each try is seen, stored and counted.
"""

import asyncio
import email.utils
import json
import math
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import TracebackType
from typing import Any, Self

import httpx2

from raymill import cluster
from raymill.cluster.asking.money import TokenCounts, tokens_of
from raymill.cluster.secret_values import redacted, shortened

# Bytes of an answer: of its frame, of each token, and of each log-probability beside a token.
_FRAME_BYTES, _TOKEN_BYTES, _LOGPROB_BYTES = 1 << 20, 256, 512
_MOST_BYTES = 64 << 20
_MOST_PARTS = 1_000_000  # lists and objects of an answer, which take 60 bytes each and more
_LONGEST_NAME = 100  # characters of `finish_reason`
_SAID = 4000  # characters of a server's message that are looked at
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_LONGEST_WAIT_S = 3600.0  # that a server may ask for; more, as of a daily quota, ends the run
# Connections of one client: it looks through all of them for each request.
_CONNECTIONS = 8
_REFUSED = (400, 413, 422)
_OF_ALL = (401, 403, 404)
_OVERLOADED = (429, 503, 529)
# What to look at when a server refuses all requests.
_LOOK_AT = {
    401: "Look at `model.key_env`, the variable with the key.",
    403: "Look at `model.key_env`, the variable with the key, and at what the key may do.",
    404: "Look at the model's `endpoint`, which ends with the version as in /v1, and at its `name`.",
    429: "All answers are stored: raise the limit of the account, and run the same command again.",
}
# A refused rate with one of these codes or types is about money, and waiting does not help.
_MONEY = (
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "billing_hard_limit_reached",
    "billing_not_active",
)


@dataclass(frozen=True)
class Reply:
    """What a try came to.

    Attributes:
        outcome: of answers.OUTCOMES. reason: in words, without a full stop.
        status: of HTTP; 0 without an answer. body: as received.
        unreachable: there was no connection.
        billed: whether it may have been billed although the tokens are not known. An answer whose `usage` lacks a
            number is: its largest cost counts, so that a budget holds.
        wait: seconds to wait before the next try; None: as usual. overloaded: the limit is to be lowered.
        seconds: from the request to the last byte.
        content: the text of the answer; None: it has none. finish: finish_reason.
        tokens: as counted by the server.
    """

    outcome: str
    reason: str = ""
    status: int = 0
    body: bytes = b""
    billed: bool = False
    unreachable: bool = False
    wait: float | None = None
    overloaded: bool = False
    seconds: float = 0.0
    content: str | None = None
    refusal: str = ""
    finish: str = ""
    tokens: TokenCounts = field(default_factory=TokenCounts)


class Endpoint:
    """A client of an endpoint. Use it in an `async with`.

    key: the secret, or empty. most_bytes: of an answer. path: of the interface. judge: the outcome of its answers.
    """

    def __init__(
        self,
        url: str,
        key: str,
        timeout_s: float,
        most_bytes: int = _MOST_BYTES,
        path: str = "chat/completions",
        judge: "Judge | None" = None,
    ) -> None:
        self._most_bytes, self._judge = most_bytes, judge or judged_chat
        self._url = f"{url.rstrip('/')}/{path}"
        self._key, self._timeout_s = key, timeout_s
        self._clients: list[tuple[httpx2.AsyncClient, int]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for client, _ in self._clients:
            await client.aclose()
        self._clients = []

    async def send(self, body: str) -> Reply:
        """The outcome of one try."""
        started = time.monotonic()
        client = self._take()
        try:
            async with asyncio.timeout(self._timeout_s):
                status, headers, answer = await self._post(client, body)
        except TimeoutError:
            return _again(f"no whole answer within {self._timeout_s:g} s", started)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            seen = f"no connection to {self._url} ({shortened(redacted(str(error)), 200)})"
            return replace(_again(seen, started), billed=False, unreachable=True)
        except httpx2.TransportError as error:
            return _again(f"no whole answer ({shortened(redacted(str(error) or type(error).__name__), 200)})", started)
        except _Unusable as error:
            return _again(shortened(str(error), 200), started)
        finally:
            self._give_back(client)
        reply = self._judge(body, status, headers, answer, time.monotonic() - started)
        return replace(reply, reason=f"{self._url}: {reply.reason}") if reply.outcome == "stopped" else reply

    async def _post(self, client: httpx2.AsyncClient, body: str) -> tuple[int, Mapping[str, str], bytes]:
        data = body.encode("utf-8", "replace")
        async with client.stream("POST", self._url, content=data) as response:
            encoding = response.headers.get("content-encoding", "").strip().lower()
            if encoding not in ("", "identity"):  # unpacking it has no bound
                raise _Unusable(f"the answer is encoded as {encoding[:50]}, which was not asked for")
            answer = bytearray()
            async for block in response.aiter_raw():
                answer += block
                if len(answer) > self._most_bytes:
                    raise _Unusable(f"the answer has more than {self._most_bytes:,} bytes")
            return response.status_code, response.headers, bytes(answer)

    def _take(self) -> httpx2.AsyncClient:
        for index, (client, busy) in enumerate(self._clients):
            if busy < _CONNECTIONS:
                self._clients[index] = client, busy + 1
                return client
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        headers["User-Agent"] = f"raymill/{cluster.__version__}"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        limits = httpx2.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
        made = httpx2.AsyncClient(
            headers=headers,
            timeout=self._timeout_s,
            follow_redirects=False,
            trust_env=False,
            limits=limits,
            verify=certificates(),
        )
        self._clients.append((made, 1))
        return made

    def _give_back(self, client: httpx2.AsyncClient) -> None:
        for index, (one, busy) in enumerate(self._clients):
            if one is client:
                self._clients[index] = one, busy - 1


@cache
def certificates() -> ssl.SSLContext:
    """The certificates that servers are checked with; reading them takes 20 ms."""
    return httpx2.create_ssl_context(trust_env=False)


class _Unusable(Exception):
    """An answer that is not read to its end."""


def most_bytes(max_tokens: int, logprobs: int | None) -> int:
    """Maximum size of an answer in bytes. logprobs: number of log-probabilities beside each token; None: none."""
    beside = 0 if logprobs is None else 1 + logprobs
    return min(_MOST_BYTES, _FRAME_BYTES + max_tokens * (_TOKEN_BYTES + beside * _LOGPROB_BYTES))


def valid_text(text: str) -> str:
    """The text with question marks for halves of surrogate pairs, which JSON may have and UTF-8 may not."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _again(reason: str, started: float) -> Reply:
    return Reply("again", reason, seconds=time.monotonic() - started, billed=True)


def pause_before(attempt: int, asked: float | None) -> float:
    """Seconds to wait before a further try. attempt: number of tries before. asked: what the server asked for."""
    if asked is not None:
        return asked
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 1)) * random.uniform(0.75, 1)


# (body of the request, status, headers, body of the answer, seconds) -> outcome
Judge = Callable[[str, int, Mapping[str, str], bytes, float], Reply]


def judged_chat(request: str, status: int, headers: Mapping[str, str], body: bytes, seconds: float) -> Reply:
    """The outcome of an answer of HTTP to a chat completion. request: the body that was sent."""
    return judged(status, headers, body, seconds)


def judged(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    seconds: float,
    of_answer: "Callable[[Any, bytes, float], Reply] | None" = None,
) -> Reply:
    """The outcome of an answer of HTTP. of_answer: the outcome of its JSON if the status is 200; None: of a chat."""
    try:
        if body.count(b"[") + body.count(b"{") > _MOST_PARTS:
            raise ValueError("an answer of very many parts")
        plain: Any = json.loads(json_text(body))
    except (ValueError, RecursionError):
        plain = None
    if status == 200:
        return (of_answer or _of_chat)(plain, body, seconds)
    code, kind, said = _error_of(plain, body)
    reason = f"status {status}" + (f" ({said})" if said else "")
    if status in _REFUSED:
        return Reply("refused", reason, status, body, seconds=seconds)
    if status in _OF_ALL or 300 <= status < 400 or (status == 429 and {code, kind} & set(_MONEY)):
        return Reply("stopped", f"{reason}. {_LOOK_AT.get(status, '')}".rstrip(), status, body, seconds=seconds)
    wait = _wait(headers)
    if wait is not None and wait > _LONGEST_WAIT_S:
        return Reply("stopped", f"{reason}, and asks to wait for {wait:,.0f} s", status, body, seconds=seconds)
    return Reply("again", reason, status, body, wait=wait, overloaded=status in _OVERLOADED, seconds=seconds)


def json_text(body: bytes) -> str:
    """The text of an answer, which JSON has in UTF-8. Raises ValueError: it has another encoding."""
    return body.decode("utf-8", "surrogatepass").removeprefix("\ufeff")


def _of_chat(plain: Any, body: bytes, seconds: float) -> Reply:
    try:
        choice = plain["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish = choice.get("finish_reason")
    except (TypeError, KeyError, IndexError, AttributeError):
        return no_answer("`choices`", body, seconds)
    tokens = tokens_of(plain.get("usage"))
    counted = tokens.input > 0 and (tokens.output > 0 or not content)
    return Reply(
        "answered",
        status=200,
        body=body,
        billed=not counted,
        seconds=seconds,
        content=valid_text(content) if isinstance(content, str) else None,
        refusal=valid_text(refusal) if isinstance(refusal, str) else "",
        finish=valid_text(finish[:_LONGEST_NAME]) if isinstance(finish, str) else "",
        tokens=tokens if counted else TokenCounts(),
    )


def no_answer(lacks: str, body: bytes, seconds: float) -> Reply:
    """The outcome of a body without what an answer has."""
    begin = shortened(redacted(" ".join(body[:300].decode("utf-8", "replace").split())), 80)
    return Reply("again", f"the answer is no JSON with {lacks}: {begin}", 200, body, True, seconds=seconds)


def _error_of(plain: Any, body: bytes) -> tuple[str, str, str]:
    """(code, type, message) of an error's JSON."""
    error = plain.get("error", plain) if isinstance(plain, dict) else {}
    if not isinstance(error, dict):
        error = {"message": str(error)}
    said = (
        error.get("message")
        or error.get("detail")
        or ("" if plain is not None else body[:300].decode("utf-8", "replace"))
    )
    said = " ".join(str(said)[:_SAID].split())
    return str(error.get("code")), str(error.get("type")), valid_text(shortened(said, 200))


def _wait(headers: Mapping[str, str]) -> float | None:
    """What the server asks to wait, in seconds: `retry-after-ms`, or `retry-after` as a number or a date."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        if text := headers.get(name):
            try:
                seconds = float(text) / unit
            except ValueError:
                try:
                    seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
                except (ValueError, OverflowError, TypeError):
                    continue
            if 0 <= seconds < math.inf:
                return seconds
    return None
