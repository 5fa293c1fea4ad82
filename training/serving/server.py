"""The HTTP server of `raymill answer`: /v1/models, /v1/chat/completions and /v1/completions for one model.

It uses aiohttp, which `datasets` and Ray's dashboard depend on. Ray Serve would add ten packages, HAProxy among them,
and the start of Ray, for one process with one model.

    request -> check of access -> parsed body -> tokens of the prompt, in a child process -> batch -> answer

A request that exceeds `RequestBounds` is refused before the model is used, with an error in OpenAI's form, and
`x-should-retry: false` if the same request would fail again.
"""

import asyncio
import hmac
import ipaddress
import json
import logging
import os
import re
import secrets
import socket
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self

from aiohttp import web

from raymill.cluster.errors import ConfigError
from raymill.training.serving.api import AnswerForm, ApiError, ChatRequest, TextRequest, parsed
from raymill.training.serving.completion import Completion
from raymill.training.serving.request_log import RequestRecord
from raymill.training.serving.served import ServedModel

log = logging.getLogger(__name__)

_http_log = logging.getLogger(f"{__name__}.http")

_BODY_BYTES = 4 << 20
_CHAT, _TEXT, _MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
_CLOSING_S = 5.0  # time for unfinished answers when the server is closed
_PORT = re.compile(r":\d+$")  # in the header Host
_ERROR_EVENT_S = 1.0  # time for sending the error and the end of a stream
_RECORD = web.RequestKey("record", RequestRecord)
_FAILED = web.RequestKey("failed", str)  # `error.type` of a stream that ended with an error


def _without_traceback(record: logging.LogRecord) -> bool:
    """A filter of log records. aiohttp logs the exception of what is no HTTP, which has bytes of the request."""
    if isinstance(record.exc_info, tuple) and record.exc_info[1] is not None:
        record.msg, record.args = f"{record.getMessage()}: {type(record.exc_info[1]).__name__}", ()
    record.exc_info = None
    return True


_http_log.addFilter(_without_traceback)


@dataclass(frozen=True)
class RequestBounds:
    """Bounds on requests.

    Attributes:
        max_tokens: tokens of an answer, and the number if a request states none.
        max_context: tokens of a prompt and its answer; the model's own bound holds, too.
        concurrent: requests in work or waiting, with those whose client left or got an error until the model or its
            tokenizer is done with them.
        timeout_s: seconds from the arrival of a request to the end of its answer.
    """

    max_tokens: int
    max_context: int
    concurrent: int
    timeout_s: float


class Completes(Protocol):
    """A loaded model (evaluation/completing.py)."""

    longest: int

    def prompt(self, given: str | list[dict[str, str]]) -> list[int]: ...
    def add(self, completion: Completion) -> None: ...
    def cancel(self, completion: Completion) -> None: ...
    def close(self) -> None: ...


class AnswerServer:
    """A running server with a model. Use it in a `with`, or call `close`.

    Attributes:
        url: base URL of the endpoint, such as http://127.0.0.1:8000/v1.
        token: bearer token that requests must have; None: none is needed.
        served: the model, its digest and the version of its alias.
    """

    def __init__(
        self,
        model: Completes,
        served: ServedModel,
        bounds: RequestBounds,
        host: str,
        port: int,
        token: str | None,
        on_request: Callable[[Mapping[str, Any]], object] | None,
        with_content: bool,
    ) -> None:
        self.served, self.token = served, token
        self._model, self._bounds = model, bounds
        self._on_request, self._with_content = on_request, with_content
        self._open = 0
        self._prompts = ThreadPoolExecutor(1, "prompts")
        self._listening = _listening(host, port)
        at = f"[{host}]" if ":" in host else host
        self.url = f"http://{at}:{self._listening.getsockname()[1]}/v1"
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._thread.start()
        self._ready.wait()
        _servers.add(self)

    def __repr__(self) -> str:
        return f"<{self.served.name} at {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def wait(self) -> None:
        """Wait until the server is closed."""
        self._thread.join()

    def close(self) -> None:
        """Stop unfinished answers, and free the port and the model."""
        self._model.close()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._prompts.shutdown(cancel_futures=True)

    def sockets(self) -> list[socket.socket]:
        """The listening socket and those of open connections."""
        connections = self._runner.server.connections if self._runner and self._runner.server else []
        found = [one.transport.get_extra_info("socket") for one in connections if one.transport is not None]
        return [self._listening, *filter(None, found)]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        application = web.Application(client_max_size=_BODY_BYTES, middlewares=[self._guarded])
        application.router.add_get(_MODELS, self._models)
        application.router.add_get(_MODELS + "/{model}", self._one_model)
        application.router.add_post(_CHAT, self._chat)
        application.router.add_post(_TEXT, self._text)
        # handler_cancellation: a handler is cancelled when its client disconnects.
        self._runner = web.AppRunner(
            application, access_log=None, logger=_http_log, handler_cancellation=True, auto_decompress=False,
            shutdown_timeout=_CLOSING_S,
        )  # fmt: skip
        self._loop.run_until_complete(self._runner.setup())
        self._loop.run_until_complete(web.SockSite(self._runner, self._listening).start())
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._runner.cleanup())
            self._loop.close()
            self._listening.close()

    # --- access and errors

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Check access, send errors in OpenAI's form, and log requests."""
        record = request[_RECORD] = RequestRecord(self.served, request.path, self._with_content)
        error: ApiError | None = None
        kind, status = None, 0
        try:
            self._check_access(request)
            response = await handler(request)
            status, kind = response.status, request.get(_FAILED)
            return response
        except ApiError as found:
            error = found
        except web.HTTPRequestEntityTooLarge:
            error = ApiError(413, f"the body has more than {_BODY_BYTES:,} bytes", code="request_too_large")
        except web.HTTPException as found:
            error = ApiError(found.status, f"{request.method} {request.path}: {found.reason}")
        except (asyncio.CancelledError, ConnectionError):
            kind, status = request.get(_FAILED, "client_closed_request"), 499
            raise
        except Exception as found:
            log.warning("a request failed: %s", type(found).__name__)
            error = ApiError(500, "internal error; the log of the server has its class", "server_error")
        finally:
            if request.method == "POST" and self._on_request is not None:
                self._on_request(record.ended(error.status if error else status, error, kind))
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
        headers |= {"Retry-After": "1"} if error.status == 429 else {"x-should-retry": "false"}
        return web.json_response(error.body, status=error.status, headers=headers)

    def _check_access(self, request: web.Request) -> None:
        if self.token is not None:
            kind, _, given = request.headers.get("Authorization", "").partition(" ")
            given_bytes, wanted = given.strip().encode("utf-8", "replace"), self.token.encode()
            if kind.lower() != "bearer" or not hmac.compare_digest(given_bytes, wanted):
                raise ApiError(401, "the bearer token is missing or wrong", "authentication_error", "invalid_api_key")
        elif not is_loopback(_PORT.sub("", request.host).strip("[]")):
            # DNS rebinding: a web page in a browser here, whose host name resolves to this machine.
            raise ApiError(
                403, f"without a token, answers are for loopback hosts only, not for {request.host}", "access_error"
            )
        if request.method == "POST" and request.content_type != "application/json":
            # Browsers let any page send forms and plain text to other origins, but not JSON.
            raise ApiError(415, f"the body is {request.content_type}; wanted application/json")

    # --- models

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._described()]})

    async def _one_model(self, request: web.Request) -> web.Response:
        self._check_model(request.match_info["model"])
        return web.json_response(self._described())

    def _described(self) -> dict[str, Any]:
        one = self.served
        described = {"id": one.name, "object": "model", "created": 0, "owned_by": "raymill", "digest": one.digest}
        return described | ({} if one.version is None else {"version": one.version})

    def _check_model(self, name: str) -> None:
        if name != self.served.name:
            message = f"there is no model {name[:100]!r} here; it is {self.served.name!r}"
            raise ApiError(404, message, code="model_not_found", param="model")

    # --- completions

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, ChatRequest)

    async def _text(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, TextRequest)

    async def _answer(self, request: web.Request, kind: type[ChatRequest] | type[TextRequest]) -> web.StreamResponse:
        if self._open >= self._bounds.concurrent:
            message = f"{self._open} requests are in work or waiting, which is the bound of the server"
            raise ApiError(429, message, "rate_limit_error", "rate_limit_exceeded")
        self._open += 1
        work: list[asyncio.Future[Any]] = []
        try:
            return await self._answer_within_bounds(request, kind, work)
        finally:
            # The completion begins after its prompt has ended, so the last one ends last.
            if work and not work[-1].done():
                work[-1].add_done_callback(self._end)
            else:
                self._end()

    def _end(self, work: object = None) -> None:
        self._open -= 1

    async def _answer_within_bounds(
        self, http: web.Request, kind: type[ChatRequest] | type[TextRequest], work: list[asyncio.Future[Any]]
    ) -> web.StreamResponse:
        """The answer. work: gets what other threads do for it."""
        record = http[_RECORD]
        form = AnswerForm(self.served, kind is ChatRequest)
        parts: asyncio.Queue[str | None] = asyncio.Queue()
        completion: Completion | None = None
        stream: web.StreamResponse | None = None
        text = ""
        try:
            async with asyncio.timeout(self._bounds.timeout_s):
                asked = parsed(await http.read(), kind)
                record.asked(asked)
                self._check_model(asked.model)
                completion = await self._completion(asked, parts, work)
                self._model.add(completion)
                part = await parts.get()
                record.first_chunk()
                if asked.stream and completion.error is None:  # an error before the first part has a status
                    stream = web.StreamResponse(
                        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
                    )
                    await stream.prepare(http)
                    await _send(stream, *form.first())
                while part is not None:
                    text += part
                    if stream is not None:
                        await _send(stream, form.part(part))
                    part = await parts.get()
                if completion.error is not None:
                    log.warning("a completion failed: %s", type(completion.error).__name__)
                    raise ApiError(500, f"the model failed ({type(completion.error).__name__})", "server_error")
                if stream is None:
                    return web.json_response(form.whole(text, completion))
                with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
                await _send(stream, *form.last(completion, with_usage))
                await _end(stream)
        except (ApiError, TimeoutError) as found:
            late = f"no whole answer within {self._bounds.timeout_s:g} s"
            error = found if isinstance(found, ApiError) else ApiError(504, late, "server_error", "timeout")
            if stream is None:
                raise error from None
            http[_FAILED] = error.code or error.kind
            try:
                async with asyncio.timeout(_ERROR_EVENT_S):
                    await _send(stream, error.body)
                    await _end(stream)
            except TimeoutError:  # the client has stopped reading, and would keep its place for ever
                if http.transport is not None:
                    http.transport.abort()
        finally:
            if completion is not None:
                self._model.cancel(completion)
                record.answered(form.id, text, completion)
        return stream

    async def _completion(
        self,
        asked: ChatRequest | TextRequest,
        parts: "asyncio.Queue[str | None]",
        work: list[asyncio.Future[Any]],
    ) -> Completion:
        """The completion of a request. Raises ApiError: its prompt is invalid, or it has too many tokens."""
        left = threading.Event()

        def prompt() -> list[int]:
            return [] if left.is_set() else self._model.prompt(asked.prompt_given)

        work.append(self._loop.run_in_executor(self._prompts, prompt))
        try:
            ids = await asyncio.shield(work[-1])
        except ValueError as error:
            raise ApiError(400, str(error), code="invalid_prompt") from error
        finally:
            left.set()
        most = self._bounds.max_tokens
        if (asked.wanted or 0) > most:
            message = f"max_tokens is {asked.wanted:,}, and the server gives at most {most:,}"
            raise ApiError(400, message, code="invalid_value", param="max_tokens")
        context = min(self._bounds.max_context, self._model.longest)
        room = context - len(ids)
        if room < (asked.wanted or 1):
            answer = f" and the answer {asked.wanted:,}" if asked.wanted else ""
            raise ApiError(
                400, f"the prompt has {len(ids):,} tokens{answer}; together they may have {context:,}",
                code="context_length_exceeded",
            )  # fmt: skip
        work.append(ended := self._loop.create_future())
        return Completion(
            ids=ids,
            most=asked.wanted or min(most, room),
            temperature=1.0 if asked.temperature is None else asked.temperature,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            seed=secrets.randbits(63) if asked.seed is None else asked.seed,
            ignore_eos=bool(asked.ignore_eos),
            stop=asked.stop or (),
            streams=bool(asked.stream),
            on_text=lambda part: self._later(parts, ended, part),
        )

    def _later(self, parts: "asyncio.Queue[str | None]", ended: "asyncio.Future[None]", part: str | None) -> None:
        """Pass a part of the text to its request, from another thread."""
        if self._loop.is_closed():
            return
        if part is None:
            self._loop.call_soon_threadsafe(ended.set_result, None)
        self._loop.call_soon_threadsafe(parts.put_nowait, part)


async def _end(response: web.StreamResponse) -> None:
    """Send the end of a stream, and wait until all of it is sent."""
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()


async def _send(response: web.StreamResponse, *events: Mapping[str, Any]) -> None:
    for event in events:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ConfigError: the port is taken, or there is no such address."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"{host}, port {port}: cannot listen there ({str(error.strerror).partition(' (while')[0]}). Give another "
            "--host or --port; port 0 is any that is free."
        ) from error


def is_loopback(host: str) -> bool:
    """Whether a host name or address is loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_servers: "weakref.WeakSet[AnswerServer]" = weakref.WeakSet()


def _close_in_child() -> None:
    """Close inherited sockets in a forked process, such as a child of a Guard, so that ports and clients are freed."""
    with suppress(OSError, RuntimeError):  # a set that another thread changed at the fork
        nowhere, _ = os.pipe()
        for server in list(_servers):
            for one in server.sockets():
                if (at := one.fileno()) >= 0:
                    os.dup2(nowhere, at)


os.register_at_fork(after_in_child=_close_in_child)
