"""python -m tests.benchmarks.bench_archives FOLDER: what a record of an archive costs, prefilter by prefilter.

Reads the HTML files of the folder and writes them, repeated, as the responses of one gzip WARC with a member for each
record, as crawls have it. Prints processor time a record of reading without extraction, of extraction, and of each
judgement before it, and how long lists take to load.
"""

import gzip
import random
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from raymill.cluster.guard import processor_seconds as with_children
from raymill.cluster.readers.formats.extractors import extract
from raymill.cluster.readers.formats.extractors import load as load_extractor
from raymill.cluster.readers.formats.web_pages import decoded
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.units import read_unit
from raymill.cluster.stage import Output, Scratch
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.stages.measure import Measure
from raymill.pipelines.curate.stages.repeated_pages import PAGES, PAGES_SCHEMA, FindPages
from raymill.pipelines.language.identification import LanguageId, identify, load
from raymill.pipelines.rules.filters import Filters
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import forget_peak, machine, memory_of_process

RECORDS, DOMAINS = 1000, 4_600_000


def urls_of(count: int) -> list[str]:
    draw = random.Random(1)
    sites = (draw.randrange(10**7) for _ in range(count))
    return [f"https://www.site{site}.com/news/{number}/a-page-of-it.html" for number, site in enumerate(sites)]


def write_archive(path: Path, pages: list[bytes], urls: list[str]) -> None:
    with path.open("wb") as file:
        for number, url in enumerate(urls):
            body = pages[number % len(pages)]
            content = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + body
            head = (
                f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-02T03:04:05Z\r\n"
                f"WARC-Record-ID: <urn:uuid:{number}>\r\nContent-Type: application/http; msgtype=response\r\n"
                f"Content-Length: {len(content)}\r\n\r\n"
            )
            file.write(gzip.compress(head.encode() + content + b"\r\n\r\n", 6))


def config_of(folder: Path, rules: dict[str, object]) -> CurateConfig:
    settings = {"inputs": [{"path": str(folder / "a.warc.gz"), "columns": ["url"]}], "output": str(folder / "run")}
    return CurateConfig.model_validate({"kind": "curate", "name": "b", "rules": {"packs": [], **rules}} | settings)


def us_a_record(folder: Path, rules: dict[str, object]) -> tuple[float, int]:
    """(processor time of reading the archive in microseconds a record, pages that were extracted)."""
    config = config_of(folder, rules)
    reading = freeze(Store(), config.inputs).reading
    units = freeze(Store(), config.inputs).units
    unwanted = Measure(config, config.filters, reading).unwanted({})
    best, read = float("inf"), 0
    for _ in range(3):
        began, read = with_children(), 0
        for unit in units:
            for table in read_unit(unit, reading, Limits(), counts=ReaderCounts(), unwanted=unwanted):
                read += len(table) - table["text"].null_count
        best = min(best, with_children() - began)
    return 1e6 * best / RECORDS, read


def main(pages_in: Path) -> None:
    load_extractor("resiliparse")
    pages = [path.read_bytes() for path in sorted(pages_in.rglob("*.html"))[:200]]
    urls = urls_of(RECORDS)
    print(machine("resiliparse"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_archive(folder / "a.warc.gz", pages, urls)
        size = sum(len(pages[n % len(pages)]) for n in range(RECORDS)) / RECORDS / 1000
        print(f"{RECORDS} pages of {size:.0f} kB, gzip")
        (folder / "none").write_text("nothing.example\n")
        (folder / "all").write_text("com\n")
        (folder / "words").write_text("\n".join(f"word{n}" for n in range(300)))
        draw = np.random.default_rng(2).integers(0, 10**9, DOMAINS)
        (folder / "ut1").write_text("\n".join(f"blocked-site{n}.example" for n in draw))
        words = {"url_words": {name: [str(folder / "words")] for name in ("banned", "soft", "substrings")}}
        forget_peak()
        before, began = memory_of_process("VmRSS"), time.process_time()
        rule = config_of(folder, {"url_blocklist": {"paths": [str(folder / "ut1")]}}).filters.of_url[0]
        measure_urls(rule, urls[:1])
        peak, now = (memory_of_process(kind) - before for kind in ("VmHWM", "VmRSS"))
        taken, file_mb = time.process_time() - began, (folder / "ut1").stat().st_size / 1e6
        held = f"{now / 1e6:.0f} MB of memory, at most {peak / 1e6:.0f} MB"
        print(f"list of {DOMAINS:,} domains, {file_mb:.0f} MB: {taken:.1f} s, {held}")
        for title, rules in {
            "no rule": {},
            "a list that blocks none": {"url_blocklist": {"paths": [str(folder / "none")]}},
            f"a list of {DOMAINS:,} domains": {"url_blocklist": {"paths": [str(folder / "ut1")]}},
            "words, none of which is there": words,
            "a list that blocks all": {"url_blocklist": {"paths": [str(folder / "all")]}},
        }.items():
            us, read = us_a_record(folder, rules)
            print(f"  {title:<34}{us:>9,.0f} us a record, {read:,} extracted")
        config = config_of(folder, {"repeated_pages": {}})
        inputs = freeze(Store(), config.inputs)
        find, began = FindPages(Filters(None, (), "paper"), inputs.reading, config.limits), with_children()
        with Scratch([Output(PAGES, PAGES_SCHEMA)]) as scratch:
            found = sum(find(unit, scratch)["documents"] for unit in inputs.units)
        us = 1e6 * (with_children() - began) / RECORDS
        print(f"  {'the stage pages':<34}{us:>9,.0f} us a record, {found:,.0f} pages")
        bench_language(pages)
        for title, rules in {
            "url_blocklist": {"url_blocklist": {"paths": [str(folder / "ut1")]}},
            "url_words": words,
        }.items():
            rule = config_of(folder, rules).filters.of_url[0]
            for number in (1, 256, 100_000):
                some = urls_of(number)
                measure_urls(rule, some)
                began, runs = time.process_time(), max(1, 2000 // number)
                for _ in range(runs):
                    measure_urls(rule, some)
                us = 1e6 * (time.process_time() - began) / runs / number
                print(f"  {title}, {number:,} URLs at a time: {us:.2f} us a URL")


def bench_language(pages: list[bytes]) -> None:
    """The language of the page's first bytes without tags beside the language of its main content."""
    tags = re.compile(rb"(?is)<(script|style|noscript|template)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>")
    settings = LanguageId()
    classifier = load(Store(), settings)

    def stripped(page: bytes, size: int) -> str:
        start = max(page.find(b"<body"), 0)
        return " ".join(tags.sub(b" ", page[start : start + size]).decode("utf-8", "replace").split())

    def labels(texts: list[str]) -> list[str]:
        return identify(Texts.from_strings(texts), classifier, settings.max_chars)[0].to_pylist()

    wanted = labels([extract(decoded(page, ""), "resiliparse").text for page in pages])
    for size in (4_000, 16_000, 64_000):
        texts = [stripped(page, size) for page in pages]
        equal = sum(one == other for one, other in zip(labels(texts), wanted, strict=True))
        began = time.process_time()
        labels([stripped(page, size) for page in pages])
        us = 1e6 * (time.process_time() - began) / len(pages)
        print(
            f"  language of {size:,} bytes: {us:.0f} us a page, the label of {equal:,} of {len(pages):,} as of its text"
        )


def measure_urls(rule: object, urls: list[str]) -> None:
    rule.measure(Analysis(Texts.from_strings([""] * len(urls)), "paper", pa.table({"url": urls}), Store()))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
