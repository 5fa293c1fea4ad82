"""An endpoint for tests: answers from the text of the prompt by the schema, and fails as real ones do, by a seed.

`POST /embeddings` has vectors of texts by their words.

    python -m raymill.cluster.asking.faulty_server --port 8000 --share 0.2 --seed 1

What it answers depends on the request and the seed alone. What fails depends also on how often the request has come:
so a request that is sent again gets its answer after a while. `GET /stats` has what it counted.
"""

import argparse
import asyncio
import base64
import gzip
import hashlib
import itertools
import json
import random
import re
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

# Faults -> what the client sees.
FAULTS = {
    "slow": "the answer comes late",
    "rate": "429 with Retry-After",
    "overloaded": "503, without a wait",
    "error": "500 with a text that is no JSON",
    "cut": "the connection ends within the answer",
    "broken": "200 with JSON that ends early",
    "encoded": "the answer is compressed, which was not asked for",
    "truncated": "finish_reason length, the content ends early",
    "refused": "a refusal in place of content",
    "null": "no content at all",
    "garbled": "content that is not the JSON of the schema",
    "filtered": "finish_reason content_filter",
    "unknown": "an answer with fields that nobody knows",
    "bad_request": "400, the same each time",
}
# Of these a request has the same one each time.
_LASTING = ("truncated", "refused", "null", "garbled", "filtered", "bad_request")
_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass
class FaultyServer:
    """The server, in a thread of its own. Use it in a `with`.

    Attributes:
        share: fraction of tries that fail. faults: of FAULTS. seed: of all draws.
        seconds: time until an answer is there. capacity: number of requests that are computed at once, others wait;
            None: any number.
        rate: requests in a second, above which it answers 429; None: any number.
        money: number of requests after which it answers 429 about money; None: any number.
        status: of every answer, if not 200; as 401.
        dimensions: of vectors of texts. longest: number of words above which a text has none; None: any number.
        asked: how often each body came. answered: how often each was answered, whatever with.
        tokens: (of prompts, of answers) of all answers that it sent.
        most_in_flight: largest number of requests at a time.
        admitted: number of requests that were not refused. head: of the last request.
        deletes: whether files of batches can be deleted.
        files, batches: of the interface for batch files, by id. calls: the targets of its calls.
    """

    share: float = 0.0
    faults: Sequence[str] = tuple(FAULTS)
    seed: int = 0
    seconds: float = 0.0
    capacity: int | None = None
    rate: float | None = None
    money: int | None = None
    status: int = 200
    dimensions: int = 64
    longest: int | None = None
    deletes: bool = True
    port: int = 0
    host: str = "127.0.0.1"
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    tokens: tuple[int, int] = (0, 0)
    in_flight: int = 0
    most_in_flight: int = 0
    admitted: int = 0
    head: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    _file_numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def url(self) -> str:
        """The address for the setting `endpoint`."""
        return f"http://{self.host}:{self.port}/v1"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        begun = threading.Event()

        async def serve() -> None:
            self._free = asyncio.Semaphore(self.capacity) if self.capacity else None
            self._level, self._at = self.rate or 0.0, self._loop.time()
            self._server = await asyncio.start_server(self._connected, self.host, self.port, limit=1 << 24)
            self.port = self._server.sockets[0].getsockname()[1]
            begun.set()

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(serve())
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        begun.wait()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        def stop() -> None:
            self._server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.call_soon(self._loop.stop)

        self._loop.call_soon_threadsafe(stop)
        self._thread.join()
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
                self.head = head
                body = await reader.readexactly(int(length[1])) if length else b""
                target = head.split(b" ", 2)[1].decode("latin-1")
                if target.startswith(("/stats", "/health")):
                    self._write(writer, 200, json.dumps(self.stats()).encode())
                elif re.match(r"/v1/(files|batches)\b", target):
                    self._write(writer, *self._of_batches(head.split(b" ", 1)[0].decode(), target, body))
                elif not re.match(r"/v1/(chat/completions|embeddings)(\?|$)", target):
                    self._write(writer, 404, b'{"detail": "Not Found"}')
                elif not await self._respond(writer, body, target.endswith("/embeddings")):
                    break
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def stats(self) -> dict[str, Any]:
        """What it counted."""
        return {
            "requests": self.asked.total(),
            "different": len(self.asked),
            "answered": self.answered.total(),
            "twice": sum(count > 1 for count in self.answered.values()),
            "input_tokens": self.tokens[0],
            "output_tokens": self.tokens[1],
            "most_in_flight": self.most_in_flight,
            "statuses": dict(self.statuses),
        }

    # --- batch files

    def _of_batches(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """(status, body) of a call of the interface for batch files."""
        draw = random.Random(f"{self.seed}/{target}/{len(self.calls)}")
        self.calls.append(target)
        if self.status != 200:
            return self.status, b'{"error": {"message": "refused for all"}}'
        if self.share and draw.random() < self.share / 2:
            return 500, b"<html>Internal Server Error</html>"
        path = target.removeprefix("/v1/").partition("?")[0].split("/")
        if path == ["files"]:
            id = f"file-{next(self._file_numbers)}"
            self.files[id] = body.split(b"application/jsonl\r\n\r\n", 1)[1].partition(b"\r\n--")[0]
            return 200, json.dumps({"id": id}).encode()
        if path[0] == "files" and method == "DELETE":
            deleted = self.deletes and self.files.pop(path[1], None) is not None
            return (200, b'{"deleted": true}') if deleted else (404 if self.deletes else 405, b"{}")
        if path[0] == "files":
            found = self.files.get(path[1])
            return (404, b'{"error": {"message": "no such file"}}') if found is None else (200, found)
        if path == ["batches"] and method == "POST":
            batch = {**json.loads(body), "id": f"batch-{len(self.batches)}", "status": "validating"}
            self.batches[batch["id"]] = batch
            if self.share and draw.random() < self.share / 2:  # it is begun, but the answer is lost
                return 502, b"<html>Bad Gateway</html>"
            return 200, json.dumps(batch).encode()
        if path == ["batches"]:
            newest = list(self.batches.values())[::-1]
            after = re.search(r"after=([\w-]+)", target)
            begin = next((at + 1 for at, one in enumerate(newest) if after and one["id"] == after[1]), 0)
            page = newest[begin : begin + 2]
            return 200, json.dumps({"data": page, "has_more": len(newest) > begin + 2}).encode()
        batch = self.batches[path[1]]
        if batch["status"] == "validating":
            batch["status"] = "in_progress"
        elif batch["status"] == "in_progress":
            self._compute(batch)
        return 200, json.dumps(batch).encode()

    def _compute(self, batch: dict[str, Any]) -> None:
        """Answer the requests of a batch, in another order; the rest of one in `share` expires."""
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines() if line]
        draw = random.Random(f"{self.seed}/{batch['id']}")
        draw.shuffle(lines)
        expires = len(lines) // 2 if draw.random() < self.share else len(lines)
        results: dict[str, list[bytes]] = {"output_file_id": [], "error_file_id": []}
        for number, line in enumerate(lines):
            text = json.dumps(line["body"], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
            name = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
            self.asked[name] += number < expires
            fault = self._fault(name, 0)
            fault = fault if fault in _LASTING else None
            result: dict[str, Any] = {"custom_id": line["custom_id"], "response": None, "error": None}
            if number >= expires:
                result["error"] = {"code": "batch_expired", "message": "This request was not computed in time."}
            elif fault == "bad_request":
                error = {"error": {"message": "This request is refused", "type": "invalid_request_error"}}
                result["response"] = {"status_code": 400, "body": error}
            else:
                plain = self._answer(line["body"], name, fault)
                result["response"] = {"status_code": 200, "body": plain}
                self._count(name, plain["usage"])
            of_errors = number >= expires or fault == "bad_request"
            results["error_file_id" if of_errors else "output_file_id"].append(json.dumps(result).encode() + b"\n")
        for field_name, made in results.items():
            if made:
                batch[field_name] = f"file-{next(self._file_numbers)}"
                self.files[batch[field_name]] = b"".join(made)
        batch["status"] = "completed" if expires == len(lines) else "expired"

    def _count(self, name: str, usage: Mapping[str, int]) -> None:
        self.answered[name] += 1
        self.tokens = self.tokens[0] + usage["prompt_tokens"], self.tokens[1] + usage["completion_tokens"]

    async def _respond(self, writer: asyncio.StreamWriter, body: bytes, of_vectors: bool) -> bool:
        """Answer a request. of_vectors: one for vectors of texts. Returns whether the connection stays open."""
        name = hashlib.sha256(body).hexdigest()[:16]
        number = self.asked[name]
        self.asked[name] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._judged(writer, body, name, number, of_vectors)
        finally:
            self.in_flight -= 1

    async def _judged(
        self, writer: asyncio.StreamWriter, body: bytes, name: str, number: int, of_vectors: bool
    ) -> bool:
        if self.status != 200:
            return self._error(writer, self.status, "refused for all", "of_all")
        if self.money is not None and self.admitted >= self.money:
            return self._error(writer, 429, "You exceeded your current quota", "insufficient_quota")
        if self.rate and not self._take():
            return self._error(writer, 429, "Rate limit reached", "rate_limit_exceeded", {"Retry-After": "0.2"})
        self.admitted += 1
        fault = self._fault(name, number, of_vectors)
        if self._free:
            async with self._free:
                await asyncio.sleep(self.seconds)
        elif self.seconds:
            await asyncio.sleep(self.seconds)
        if fault == "slow":
            await asyncio.sleep(0.2)
        if fault == "rate":
            return self._error(writer, 429, "Rate limit reached", "rate_limit_exceeded", {"Retry-After": "0.05"})
        if fault == "overloaded":
            return self._error(writer, 503, "overloaded", "server_is_overloaded")
        if fault == "error":
            self._write(writer, 500, b"<html>Internal Server Error</html>")
            return True
        if fault == "bad_request":
            return self._error(writer, 400, "This request is refused", "invalid_request_error")
        request = json.loads(body)
        if of_vectors and self.longest and any(len(one.split()) > self.longest for one in request["input"]):
            return self._error(writer, 400, "This model's maximum context length is exceeded", "invalid_request_error")
        plain = self._vectors(request, fault) if of_vectors else self._answer(request, name, fault)
        answer = json.dumps(plain).encode()
        if fault == "encoded":
            self._write(writer, 200, gzip.compress(answer), headers={"Content-Encoding": "gzip"})
            return True
        if fault in ("cut", "broken"):
            half = answer[: len(answer) // 2]
            self._write(writer, 200, half, len(answer) if fault == "cut" else None)
            await writer.drain()
            return fault == "broken"
        self._count(name, plain["usage"])
        self._write(writer, 200, answer)
        return True

    def _take(self) -> bool:
        assert self.rate
        now = self._loop.time()
        self._level = min(self.rate, self._level + (now - self._at) * self.rate)
        self._at = now
        self._level -= self._level >= 1
        return self._level >= 0 and (self._level > 0 or self.rate < 1)

    def _fault(self, name: str, number: int, of_vectors: bool = False) -> str | None:
        """The fault of a try. of_vectors: refusals alone are permanent."""
        draw = random.Random(f"{self.seed}/{name}")
        lasts = ("bad_request",) if of_vectors else _LASTING
        lasting = draw.choice([one for one in self.faults if one in lasts] or [""])
        if lasting and draw.random() < self.share / 2:
            return lasting
        draw = random.Random(f"{self.seed}/{name}/{number}")
        passing = [one for one in self.faults if one not in lasts]
        return draw.choice(passing) if passing and draw.random() < self.share else None

    def said(self, schema: Mapping[str, Any] | None, text: str, draw: random.Random) -> str:
        """What it answers about a text. A subclass may answer by a rule of its own."""
        return json.dumps(by_schema(schema, text, draw)) if schema else _sentence(text, draw)

    def _answer(self, request: Mapping[str, Any], name: str, fault: str | None) -> dict[str, Any]:
        text = "\n".join(str(one.get("content")) for one in request.get("messages", ()))
        schema = request.get("response_format", {}).get("json_schema", {}).get("schema")
        draw = random.Random(f"{self.seed}/{name}/answer")
        about = text.rpartition("Text:\n")[2]  # where the templates of Raymill have the seed
        said = self.said(schema, about, draw)
        message: dict[str, Any] = {"role": "assistant", "content": said, "refusal": None}
        finish = "stop"
        if fault == "truncated":
            message["content"], finish = said[: len(said) * 2 // 3], "length"
        elif fault == "refused":
            message |= {"content": None, "refusal": "I cannot help with that."}
        elif fault == "null":
            message["content"] = None
        elif fault == "garbled":
            message["content"] = "Certainly! " + said[1:]
        elif fault == "filtered":
            message["content"], finish = None, "content_filter"
        of_input, of_output = len(_WORDS.findall(text)), len(_WORDS.findall(message["content"] or ""))
        answer = {
            "id": f"chatcmpl-{name}",
            "object": "chat.completion",
            "created": 1_790_000_000,
            "model": request.get("model"),
            "choices": [{"index": 0, "finish_reason": finish, "message": message, "logprobs": None}],
            "usage": {"prompt_tokens": of_input, "completion_tokens": of_output, "total_tokens": of_input + of_output},
        }
        return answer | ({"brand_new": {"a": [1]}} if fault == "unknown" else {})

    def _vectors(self, request: Mapping[str, Any], fault: str | None) -> dict[str, Any]:
        """An answer to a request for vectors: texts with more words in common have nearer ones."""
        texts = request["input"]
        found: list[Any] = [word_vector(one, self.dimensions) for one in texts]
        if request.get("encoding_format") == "base64":
            found = [base64.b64encode(struct.pack(f"<{len(one)}f", *one)).decode() for one in found]
        if fault in ("null", "refused", "filtered"):
            found[-1] = None
        elif fault == "garbled":
            found[-1] = "Certainly!"
        elif fault == "truncated":
            found.pop()
        data = [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(found)]
        tokens = sum(len(_WORDS.findall(one)) for one in texts)
        usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
        answer = {"object": "list", "model": request.get("model"), "data": data[::-1], "usage": usage}
        return answer | ({"brand_new": {"a": [1]}} if fault == "unknown" else {})

    def _error(
        self, writer: asyncio.StreamWriter, status: int, message: str, code: str, headers: Mapping[str, str] = {}
    ) -> bool:
        error = {"error": {"message": message, "type": code, "param": None, "code": code}}
        self._write(writer, status, json.dumps(error).encode(), headers=headers)
        return True

    def _write(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        body: bytes,
        length: int | None = None,
        headers: Mapping[str, str] = {},
    ) -> None:
        self.statuses[status] += 1
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(
            f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n{lines}"
            f"Content-Length: {len(body) if length is None else length}\r\n\r\n".encode()
            + body
        )


def by_schema(schema: Mapping[str, Any], text: str, draw: random.Random) -> Any:
    """A value of a JSON schema, with texts that are drawn from the sentences of a text."""
    if "enum" in schema:
        return draw.choice(schema["enum"])
    match schema.get("type"):
        case "object":
            return {name: by_schema(one, text, draw) for name, one in schema.get("properties", {}).items()}
        case "array":
            count = draw.randint(schema.get("minItems", 1), schema.get("maxItems", schema.get("minItems", 1) + 1))
            return [by_schema(schema.get("items", {}), text, draw) for _ in range(count)]
        case "integer" | "number":
            return draw.randint(schema.get("minimum", 0), schema.get("maximum", 10))
        case "boolean":
            return draw.random() < 0.5
        case _:
            return _sentence(text, draw)


def word_vector(text: str, dimensions: int) -> list[float]:
    """A vector of the words of a text: each word adds to a dimension by its hash."""
    found = [0.0] * dimensions
    for word in _WORDS.findall(text.casefold()):
        digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=4).digest()
        found[int.from_bytes(digest) % dimensions] += 1.0
    return found


def _sentence(text: str, draw: random.Random) -> str:
    found = [one.strip() for one in re.split(r"(?<=[.!?])\s+|\n", text) if len(one.split()) > 3]
    return draw.choice(found) if found else text.strip()[:200] or "Nothing was asked."


def main(words: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000, help="port to listen at, on 127.0.0.1; 0: a free one")
    parser.add_argument("--share", type=float, default=0.1, help="fraction of the tries that fail")
    parser.add_argument("--faults", default=",".join(FAULTS), help=f"separated by commas: {', '.join(FAULTS)}")
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws")
    parser.add_argument("--seconds", type=float, default=0.0, help="seconds until an answer is there")
    given = parser.parse_args(words)
    chosen = [one for one in given.faults.split(",") if one]
    if unknown := sorted({*chosen} - {*FAULTS}):
        parser.error(f"--faults: {', '.join(unknown)} is none of {', '.join(FAULTS)}")
    with FaultyServer(given.share, chosen, given.seed, given.seconds, port=given.port) as server:
        print(f"{server.url}   (counts: {server.url.removesuffix('/v1')}/stats; Ctrl-C ends it)", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
