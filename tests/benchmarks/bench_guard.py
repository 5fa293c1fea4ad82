"""What the child process of cluster/guard.py costs: python -m tests.benchmarks guard

Pages of 50 kB and mails of 0.5 kB, parsed in this process and in a child of it, side by side. Processor time of both
processes: the wall time of a process that waits for another one depends on the machine's scheduler.
"""

import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from statistics import median
from typing import Any

from raymill.cluster.guard import Guard
from raymill.cluster.readers.formats import mail, web_pages
from raymill.cluster.readers.formats.extractors import load
from raymill.cluster.readers.inputs import Limits
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine
from tests.benchmarks.web_texts import cut

ROUNDS = 9
PAGES, PAGE_BYTES, MAILS = 30, 50_000, 1000


def run(texts: Texts) -> None:
    print(machine("lxml", "trafilatura"))
    words = cycle(cut(texts, "0.5 kB").to_arrow().to_pylist())
    pages: Any = [web_pages.HtmlPage(_page(words), "", "trafilatura_fast") for _ in range(PAGES)]
    mails = [(_mail(number, next(words)), number) for number in range(MAILS)]
    load("trafilatura_fast")
    _compare("pages of 50 kB", pages, web_pages._main_content, web_pages._pages, 1)
    _compare("mails of 0.5 kB", mails, mail._parsed, mail._parser, 256)


def _page(words: Any) -> bytes:
    """Paragraphs between a menu and a footer."""
    menu = "".join(f"<a href='/{number}'>Entry</a>" for number in range(30))
    text = "".join(f"<p class='text'>{one} <b>bold</b></p>" for one in islice(words, PAGE_BYTES // 530))
    return f"<html><body><nav>{menu}</nav><article>{text}</article><footer>Imprint</footer></body></html>".encode()


def _mail(number: int, text: str) -> bytes:
    head = f"From: ann@b.org\nSubject: mill {number}\nMessage-ID: <{number}@b>\nReferences: <{number - 1}@b>\n"
    return f"{head}Date: Mon, 1 Jan 2024 00:00:00 +0000\n\n{text}\n\nOn Monday Bob wrote:\n> {text[:80]}\n".encode()


def _compare(
    name: str, items: Sequence[Any], parse: Callable[[Any], Any], guard: Guard[Any, Any], at_once: int
) -> None:
    def here() -> None:
        for one in items:
            parse(one)

    def guarded() -> None:
        for start in range(0, len(items), at_once):
            some = items[start : start + at_once]
            guard.map(some, [Limits().of_parser("", len(one[0])) for one in some])

    guarded()
    assert guard._child is not None
    # The clock of the processor time of another process: clock_getcpuclockid(3).
    clock = (~guard._child._pid << 3) | 2
    each: dict[str, list[float]] = {"in this process": [], "in a child": []}
    for _ in range(ROUNDS):
        for how, work in (("in this process", here), ("in a child", guarded)):
            began = time.process_time() + time.clock_gettime(clock)
            work()
            each[how].append(time.process_time() + time.clock_gettime(clock) - began)
    plain, child = (1000 * median(found) / len(items) for found in each.values())
    print(f"  {name:<18}{plain:8.3f} ms each in this process, {child:8.3f} ms in a child: {child / plain:.3f} times")
