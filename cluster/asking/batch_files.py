"""Requests in batch files: a provider answers them within a day, in any order, at a lower price.

    POST /files        the requests as JSON lines                    -> id of the file
    POST /batches      with the tag of the run and the range of keys  -> id of the batch
    GET  /batches/ID   until it is completed, expired, failed or cancelled
    GET  /files/ID/content   of both files of results
    DELETE /files/ID         of these three files, once their answers are stored

A provider is not trusted: ids have the form of ids, files have a bound in bytes and time, and a try counts only if this
run can have begun it (ask_in_batches.py).

Nothing of a batch is kept here but the ids of its tries, in the journal: a run that continues finds its batches at the
provider by their tag, and reads them before it asks anything. What expired is asked again in another batch.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeGuard

import httpx2

from raymill import cluster
from raymill.cluster.asking.endpoint import Reply, certificates, judged, pause_before
from raymill.cluster.secret_values import redacted, shortened

log = logging.getLogger(__name__)

OPEN_STATES = ("validating", "in_progress", "finalizing", "cancelling")
_FAILED = "failed"
# Codes of a batch that failed because the provider's queue is full; it can be begun again later.
_FULL = ("token_limit_exceeded", "rate_limit_exceeded")
_TAG = "raymill"
_WINDOW = "24h"
_TRIES, _DELETE_TRIES = 8, 3  # of a call of the interface, and of the deletion of a file
_FILES = ("input_file_id", "output_file_id", "error_file_id")  # of a batch
MOST_FAILURES = 8  # in a row, of reading the results of a batch
_PAGE, _MOST_PAGES = 100, 100
_LARGEST_LINE = 64 << 20
_LARGEST_ANSWER = 16 << 20  # of a call that is no file
_BYTES_PER_S = 32 << 10  # a file that comes more slowly is given up
# Of a file; providers take 200 MB.
MOST_REQUESTS, MOST_BYTES = 50_000, 190_000_000
_LINE_BYTES = 1000  # of a line of a file besides the body of the request or the answer
# Ids of batches and files, which become parts of addresses; of keys and tries, as they were sent.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}")
_CUSTOM_ID = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{16})")


class BatchRefused(Exception):
    """The provider takes no batch. why: in words."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class _NoAnswer(Exception):
    """A call has no answer; it may have had its effect."""


class _Gone(BatchRefused):
    """What is asked for is not there."""


class QueueFull(Exception):
    """The provider takes no further batch now."""


class BatchEndpoint:
    """The interface of an endpoint for batch files. Use it in an `async with`.

    key: the secret, or empty. most_bytes: maximum size of an answer to a request.
    """

    def __init__(self, url: str, key: str, timeout_s: float, most_bytes: int = _LARGEST_LINE) -> None:
        self._most_bytes, self._timeout_s = most_bytes, timeout_s
        self._url = url.rstrip("/")
        headers = {"Accept-Encoding": "identity", "User-Agent": f"raymill/{cluster.__version__}"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx2.AsyncClient(
            headers=headers, timeout=timeout_s, follow_redirects=False, trust_env=False, verify=certificates()
        )

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
        file = (await self._call("POST", "files", len(text), files=content, data={"purpose": "batch"})).get("id")
        if not _is_id(file):
            raise BatchRefused(f"{self._url}/files: the answer has no id of a file")
        wanted = {
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": _WINDOW,
            "metadata": {_TAG: tag},
        }
        for _ in range(_TRIES):
            try:
                if _is_id(id := (await self._call("POST", "batches", tries=1, json=wanted)).get("id")):
                    return id
                raise _NoAnswer
            except _NoAnswer:  # it may have been begun
                begun = [one["id"] for one in await self.of_tag(tag) if one.get("input_file_id") == file]
                if begun:
                    return begun[0]
        raise BatchRefused(f"{self._url}/batches: no answer after {_TRIES} tries")

    async def of_tag(self, tag: str) -> list[dict[str, Any]]:
        """The batches with a tag, the oldest first."""
        found, after = list[dict[str, Any]](), ""
        for _ in range(_MOST_PAGES):
            page = await self._call("GET", f"batches?limit={_PAGE}" + (f"&after={after}" if after else ""))
            listed = [one for one in _objects(page.get("data")) if _is_id(one.get("id"))]
            found += [one for one in listed if _object(one.get("metadata")).get(_TAG) == tag]
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
            errors = _objects(_object(batch.get("errors")).get("data"))
            if any(one.get("code") in _FULL for one in errors):
                raise QueueFull
            said = "; ".join(str(one.get("message")) for one in errors[:3]) or "without a reason"
            raise BatchRefused(f"batch {id} failed: {shortened(redacted(said), 300)}")
        return batch

    async def results(self, batch: Mapping[str, Any], requests: int) -> AsyncIterator[tuple[str, str, Reply | None]]:
        """(key, id of the try, reply) of each request of a batch that has ended; None of one that was not computed.

        requests: number of those in the batch. A file with far more bytes than their answers is refused.
        """
        most = _LARGEST_ANSWER + 2 * requests * (self._most_bytes + _LINE_BYTES)
        for name in ("output_file_id", "error_file_id"):
            if _is_id(id := batch.get(name)):
                async for line in self._lines(f"files/{id}/content", most):
                    try:
                        plain = json.loads(line)
                        if (sent := _CUSTOM_ID.fullmatch(plain["custom_id"])) is None:
                            continue
                        (key, try_id), response = sent.groups(), plain["response"]
                        if response is None or len(line) > self._most_bytes:
                            yield key, try_id, None
                            continue
                        body = json.dumps(response["body"], ensure_ascii=False).encode("utf-8", "surrogatepass")
                        if 0 < (status := int(response["status_code"])) < 1000:
                            yield key, try_id, judged(status, {}, body, 0.0)
                    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                        continue  # what is no result is asked again

    async def delete(self, batch: Mapping[str, Any]) -> None:
        """Delete the files of a batch that has ended: of the requests, and of the results. What fails is a warning."""
        for name in _FILES:
            if _is_id(id := batch.get(name)):
                try:
                    await self._call("DELETE", f"files/{id}", tries=_DELETE_TRIES)
                except _Gone:
                    pass
                except BatchRefused as error:
                    log.warning(
                        "a file of a batch whose answers are stored was not deleted: %s. Delete it there.", error
                    )

    async def requests_of(self, batch: Mapping[str, Any]) -> dict[str, str]:
        """The id of the try of each request of a batch, by its key, as the provider has the file that was sent.

        Empty if the file was deleted, as after the answers of the batch were stored.
        """
        if not _is_id(id := batch.get("input_file_id")):
            return {}
        for number in range(1, _TRIES + 1):
            try:
                return await self._requests_in(f"files/{id}/content")
            except _Gone:
                return {}
            except httpx2.TransportError:
                await asyncio.sleep(pause_before(number, None))
        raise BatchRefused(f"{self._url}/files/{id}: its content was not received in {_TRIES} tries")

    async def _requests_in(self, path: str) -> dict[str, str]:
        """Key -> id of the try, of each line of a file that was sent."""
        found = dict[str, str]()
        async for line in self._lines(path, 2 * (MOST_BYTES + MOST_REQUESTS * _LINE_BYTES)):
            try:
                sent = _CUSTOM_ID.fullmatch(json.loads(line)["custom_id"])
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
            if sent and len(found) < MOST_REQUESTS:
                found[sent[1]] = sent[2]
        return found

    async def _lines(self, path: str, most: int) -> AsyncIterator[bytes]:
        """The lines of a file.

        Raises:
            BatchRefused: it has more than `most` bytes, or a line without end.
            httpx2.TransportError: it was not received, or too slowly.
        """
        rest, size, began = b"", 0, time.monotonic()
        async with self._opened(path) as response:
            if response.status_code != 200:
                try:
                    async with asyncio.timeout(self._timeout_s):
                        body = await self._read(response)
                except TimeoutError as error:
                    raise httpx2.ReadTimeout("no whole answer") from error
                self._refuse(response.status_code, response.headers, body)
                raise httpx2.ReadError(f"status {response.status_code}")
            async for block in response.aiter_raw():
                size += len(block)
                if size > most:
                    raise BatchRefused(f"{self._url}/{path}: the file has more than {most >> 20:,} MiB")
                if time.monotonic() - began > self._timeout_s + size / _BYTES_PER_S:
                    raise httpx2.ReadError(f"{size:,} bytes in {time.monotonic() - began:.0f} s")
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    yield line
                if len(rest) > _LARGEST_LINE:
                    raise BatchRefused(f"{self._url}/{path}: a line has more than {_LARGEST_LINE >> 20} MiB")
        if rest:
            yield rest

    @asynccontextmanager
    async def _opened(self, path: str) -> AsyncIterator[httpx2.Response]:
        """An answer of which the headers are there. Raises httpx2.TransportError: not in time, or at all."""
        try:
            request = self._client.build_request("GET", f"{self._url}/{path}")
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.send(request, stream=True)
        except TimeoutError as error:
            raise httpx2.ReadTimeout("no headers") from error
        try:
            yield response
        finally:
            await response.aclose()

    async def _call(self, method: str, path: str, size: int = 0, tries: int = _TRIES, **how: Any) -> dict[str, Any]:
        """The JSON object that a call answers; again after failures that pass. size: bytes that are sent.

        Raises:
            BatchRefused: no other try would help, or none has helped. _NoAnswer: with tries=1.
        """
        seen = ""
        for number in range(1, tries + 1):
            wait = None
            try:
                async with (
                    asyncio.timeout(self._timeout_s + size / _BYTES_PER_S),
                    self._client.stream(method, f"{self._url}/{path}", **how) as response,
                ):
                    body = await self._read(response)
                if response.status_code == 200:
                    plain = json.loads(body)
                    if isinstance(plain, dict):
                        return plain
                    raise BatchRefused(f"{self._url}/{path}: the answer is no JSON object")
                wait, seen = self._refuse(response.status_code, response.headers, body)
            except (httpx2.TransportError, TimeoutError, ValueError, RecursionError) as error:
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
        if status == 404:
            raise _Gone(f"{self._url}: {reply.reason}")
        if reply.outcome in ("refused", "stopped"):
            raise BatchRefused(f"{self._url}: {reply.reason}")
        return reply.wait, reply.reason


def _is_id(value: Any) -> TypeGuard[str]:
    """Whether it can be the id of a batch or a file."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _object(value: Any) -> Mapping[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    """The JSON objects of a list; none of another value."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
