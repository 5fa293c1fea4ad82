"""Requests in batch files: a provider answers them within a day, in any order, at a lower price.

    POST /files        the requests as JSON lines                    -> id of the file
    POST /batches      with the tag of the run and the range of keys  -> id of the batch
    GET  /batches/ID   until it is completed, expired, failed or cancelled
    GET  /files/ID/content   of both files of results

Nothing of a batch is kept here but the ids of its tries, in the journal: a run that continues finds its batches at the
provider by their tag, and reads them before it asks anything. What expired is asked again in another batch.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx2

from raymill import cluster
from raymill.cluster.asking.endpoint import Reply, judged, pause_before
from raymill.cluster.secret_values import redacted, shortened

OPEN_STATES = ("validating", "in_progress", "finalizing", "cancelling")
_FAILED = "failed"
# Codes of a batch that failed because the provider's queue is full; it can be begun again later.
_FULL = ("token_limit_exceeded", "rate_limit_exceeded")
_TAG = "raymill"
_WINDOW = "24h"
_TRIES = 8  # of a call of the interface
_PAGE, _MOST_PAGES = 100, 100
_LARGEST_LINE = 64 << 20
_LARGEST_ANSWER = 16 << 20  # of a call that is no file
# Of a file; providers take 200 MB.
MOST_REQUESTS, MOST_BYTES = 50_000, 190_000_000


class BatchRefused(Exception):
    """The provider takes no batch. why: in words."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class _NoAnswer(Exception):
    """A call has no answer; it may have had its effect."""


class QueueFull(Exception):
    """The provider takes no further batch now."""


class BatchEndpoint:
    """The interface of an endpoint for batch files. Use it in an `async with`.

    key: the secret, or empty. most_bytes: maximum size of an answer to a request.
    """

    def __init__(self, url: str, key: str, timeout_s: float, most_bytes: int = _LARGEST_LINE) -> None:
        self._most_bytes = most_bytes
        self._url = url.rstrip("/")
        headers = {"Accept-Encoding": "identity", "User-Agent": f"raymill/{cluster.__version__}"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx2.AsyncClient(headers=headers, timeout=timeout_s, follow_redirects=False, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self._client.aclose()

    async def submit(self, lines: Sequence[tuple[str, str]], tag: str) -> str:
        """Begin a batch. lines: (custom id, body) of each request. Returns its id.

        Raises:
            BatchRefused: the provider does not take it. QueueFull: not now.
        """
        text = "".join(
            f'{{"custom_id":{json.dumps(id)},"method":"POST","url":"/v1/chat/completions","body":{body}}}\n'
            for id, body in lines
        )
        content = {"file": ("requests.jsonl", text.encode("utf-8", "replace"), "application/jsonl")}
        file = (await self._call("POST", "files", files=content, data={"purpose": "batch"})).get("id")
        wanted = {
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": _WINDOW,
            "metadata": {_TAG: tag},
        }
        for _ in range(_TRIES):
            try:
                return str((await self._call("POST", "batches", tries=1, json=wanted))["id"])
            except (_NoAnswer, KeyError):  # it may have been begun
                begun = [one["id"] for one in await self.of_tag(tag) if one.get("input_file_id") == file]
                if begun:
                    return begun[0]
        raise BatchRefused(f"{self._url}/batches: no answer after {_TRIES} tries")

    async def of_tag(self, tag: str) -> list[dict[str, Any]]:
        """The batches with a tag, the oldest first."""
        found, after = list[dict[str, Any]](), ""
        for _ in range(_MOST_PAGES):
            page = await self._call("GET", f"batches?limit={_PAGE}" + (f"&after={after}" if after else ""))
            listed = [one for one in page.get("data") or () if isinstance(one, dict) and isinstance(one.get("id"), str)]
            found += [one for one in listed if (one.get("metadata") or {}).get(_TAG) == tag]
            if not page.get("has_more") or not listed:
                break
            after = listed[-1]["id"]
        return found[::-1]

    async def look(self, id: str) -> dict[str, Any]:
        """A batch.

        Raises:
            BatchRefused: it failed. QueueFull: it failed, since the queue is full.
        """
        batch = await self._call("GET", f"batches/{id}")
        if batch.get("status") == _FAILED:
            errors = [one for one in (batch.get("errors") or {}).get("data") or () if isinstance(one, dict)]
            if any(one.get("code") in _FULL for one in errors):
                raise QueueFull
            said = "; ".join(str(one.get("message")) for one in errors[:3]) or "without a reason"
            raise BatchRefused(f"batch {id} failed: {shortened(redacted(said), 300)}")
        return batch

    async def results(self, batch: Mapping[str, Any]) -> AsyncIterator[tuple[str, Reply | None]]:
        """(custom id, reply) of each request of a batch that has ended; None of one that was not computed."""
        for name in ("output_file_id", "error_file_id"):
            if isinstance(id := batch.get(name), str):
                async for line in self._lines(f"files/{id}/content"):
                    try:
                        plain = json.loads(line)
                        custom, response = str(plain["custom_id"]), plain["response"]
                        if response is None or len(line) > self._most_bytes:
                            yield custom, None
                            continue
                        body = json.dumps(response["body"], ensure_ascii=False).encode("utf-8", "surrogatepass")
                        yield custom, judged(int(response["status_code"]), {}, body, 0.0)
                    except (ValueError, TypeError, KeyError, RecursionError):
                        continue  # what is no result is asked again

    async def requests_of(self, batch: Mapping[str, Any]) -> dict[str, str]:
        """The id of the try of each request of a batch, by its key; from the file that was sent."""
        if not isinstance(id := batch.get("input_file_id"), str):
            return {}
        for number in range(1, _TRIES + 1):
            try:
                return dict([one async for one in self._requests_in(f"files/{id}/content")])
            except httpx2.TransportError:
                await asyncio.sleep(pause_before(number, None))
        raise BatchRefused(f"{self._url}/files/{id}: its content was not received in {_TRIES} tries")

    async def _requests_in(self, path: str) -> AsyncIterator[tuple[str, str]]:
        """(key, id of the try) of each line of a file that was sent."""
        async for line in self._lines(path):
            try:
                key, _, try_id = json.loads(line)["custom_id"].partition(".")
                yield key, try_id
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue

    async def _lines(self, path: str) -> AsyncIterator[bytes]:
        rest = b""
        async with self._client.stream("GET", f"{self._url}/{path}") as response:
            if response.status_code != 200:
                self._refuse(response.status_code, response.headers, await self._read(response))
                raise httpx2.ReadError(f"status {response.status_code}")
            async for block in response.aiter_raw():
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    yield line
                if len(rest) > _LARGEST_LINE:
                    raise BatchRefused(f"{self._url}/{path}: a line has more than {_LARGEST_LINE >> 20} MiB")
        if rest:
            yield rest

    async def _call(self, method: str, path: str, tries: int = _TRIES, **how: Any) -> dict[str, Any]:
        """The JSON object that a call answers; again after failures that pass.

        Raises:
            BatchRefused: no other try would help, or none has helped. _NoAnswer: with tries=1.
        """
        seen = ""
        for number in range(1, tries + 1):
            wait = None
            try:
                async with self._client.stream(method, f"{self._url}/{path}", **how) as response:
                    body = await self._read(response)
                if response.status_code == 200:
                    plain = json.loads(body)
                    if isinstance(plain, dict):
                        return plain
                    raise BatchRefused(f"{self._url}/{path}: the answer is no JSON object")
                wait, seen = self._refuse(response.status_code, response.headers, body)
            except (httpx2.TransportError, ValueError, RecursionError) as error:
                seen = f"{type(error).__name__}: {shortened(redacted(str(error)), 200)}"
            await asyncio.sleep(pause_before(number, wait))
        if tries == 1:
            raise _NoAnswer
        raise BatchRefused(f"{self._url}/{path}: no answer after {tries} tries: {seen}")

    async def _read(self, response: httpx2.Response) -> bytes:
        blocks, size = [], 0
        async for block in response.aiter_raw():
            blocks.append(block)
            if (size := size + len(block)) > _LARGEST_ANSWER:
                raise BatchRefused(f"{self._url}: an answer has more than {_LARGEST_ANSWER >> 20} MiB")
        return b"".join(blocks)

    def _refuse(self, status: int, headers: Mapping[str, str], body: bytes) -> tuple[float | None, str]:
        """(seconds to wait, what was seen) of an answer after which a call is made again.

        Raises:
            BatchRefused: no other try would help.
        """
        reply = judged(status, headers, body, 0.0)
        if reply.outcome in ("refused", "stopped"):
            raise BatchRefused(f"{self._url}: {reply.reason}")
        return reply.wait, reply.reason
