"""Requests a second to a model's server through the answer store: python -m tests.benchmarks asking

A server in processes of its own answers at once, so the client is measured: rendering is not part of it, keys, the
journal, the client's HTTP, the reading of answers and the Parquet files are. Prediction before the first run: 1.2 ms of
processor time a request, so 800 requests a second and core. The server takes about as much as the client, so on a
machine with two cores one client leaves none idle.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager

from raymill.cluster.asking.answers import AnswerRange, Answers
from raymill.cluster.asking.ask import ask_all
from raymill.cluster.asking.endpoint import Endpoint
from raymill.cluster.asking.requests import boundaries, request_of
from raymill.cluster.asking.throttle import AskingBounds, Grant, Report, Throttle
from raymill.cluster.store.store import Store
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine

_REQUESTS = 4000
_RANGE = 250  # requests of a unit, as of `generate`
_ROUNDS = 3


@contextmanager
def _server() -> Iterator[str]:
    words = [sys.executable, "-m", "raymill.cluster.asking.faulty_server", "--port", "0", "--share", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[0]
    finally:
        process.kill()
        process.wait()


def _request(number: int) -> tuple[str, object]:
    text = f"This is the text with number {number}. It has two sentences that differ, and asks for a third one."
    made = request_of(
        {"at": "private"}, {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 50}
    )
    return made.key, made


def run(texts: Texts) -> None:
    print(machine("httpx2", "pyarrow"))
    requests = dict(_request(number) for number in range(_REQUESTS))
    firsts = boundaries(_REQUESTS // _RANGE)
    rates, costs, again = [], [], []
    with _server() as url:

        @asynccontextmanager
        async def opened():
            async with Endpoint(url, "", 60) as endpoint:
                yield endpoint

        for _ in range(_ROUNDS):
            throttle = Throttle(AskingBounds(64, None, None, None, None, 60), 0)

            async def report(worker: str, made: Report, throttle: Throttle = throttle) -> Grant:
                return throttle.report(worker, made)

            with tempfile.TemporaryDirectory() as folder:
                answers = Answers(Store(), f"{folder}/answers", "bench")
                for measured in ((rates, costs), (again, None)):
                    began, used = time.perf_counter(), time.process_time()
                    for at, first in enumerate(firsts):
                        keys = AnswerRange(first, firsts[at + 1] if at + 1 < len(firsts) else "")
                        own = {key: one for key, one in requests.items() if key in keys}
                        ask_all(own, opened, answers, keys, report, None, 6, 50)  # type: ignore[arg-type]
                    measured[0].append(_REQUESTS / (time.perf_counter() - began))
                    if measured[1] is not None:
                        measured[1].append(1000 * (time.process_time() - used) / _REQUESTS)
                answers.close()
    rate, cost, stored = (sorted(some)[_ROUNDS // 2] for some in (rates, costs, again))
    print(f"{_REQUESTS:,} requests in {len(firsts)} units, medians of {_ROUNDS} rounds")
    print(f"asked: {rate:,.0f} a second; the client takes {cost:.2f} ms of processor time a request")
    print(f"stored answers read: {stored:,.0f} a second")
    print(f"largest memory of the client: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")
