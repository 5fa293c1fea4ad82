"""Extractors on pages with known main content: python -m tests.benchmarks.bench_extract FOLDER [PART]

FOLDER is a copy of one of three repositories, of which the pages' truth is read as its authors do:

    WCXB            Murrough-Foley/web-content-extraction-benchmark; PART is dev or test
    article bodies  scrapinghub/article-extraction-benchmark
    segments        adbar/trafilatura (tests/evaldata.json, tests/eval, tests/cache)

Precision, recall, F1 (WCXB: words of a page, mean over pages, also by kind; article bodies: runs of four words, mean
over pages; segments: wanted and unwanted pieces, over all), pages without text, and milliseconds of processor time a
page, the extractors in turns page by page, the better of two rounds on TIMED pages. Times include decoding and bounds.

With `stages FOLDER [extractor=NAME]`, FOLDER has .html files: milliseconds of processor time a page of each stage of
`curate`, without Ray.

Predicted 2026-11-26, before the first run here. From web_extraction.md, F1 on WCXB test, article bodies: resiliparse
.84, .92; trafilatura .86, .96; trafilatura_fast .83, .96; justext .75, .85; router .87, .94. Milliseconds a page of
100 kB: resiliparse 2.5 (parse 0.4, main 1.4, characters shown 0.3, bounds 0.2, decoding 0.1), trafilatura_fast 12,
trafilatura 18, justext 15, router 6. `measure` and `select` together, pages of 50 kB of documentation: before 20 ms
(10 each), after 3.5 ms with resiliparse and 12 ms with trafilatura_fast.
"""

import gzip
import json
import os
import re
import sys
import tempfile
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from raymill.cluster.guard import processor_seconds
from raymill.cluster.progress import Progress
from raymill.cluster.readers.formats.extractors import LIBRARIES
from raymill.cluster.readers.formats.web_pages import HtmlPage, _main_content
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.session import Session
from raymill.pipelines.all_kernels import compile_kernels
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import run_stages
from tests.benchmarks.timing import machine
from tests.support.inline import InlineEngine

TIMED = 150
PACKAGES = ("resiliparse", "trafilatura", "justext", "lxml")


class Gold(NamedTuple):
    """A page with its truth. kind: of page."""

    html: bytes
    truth: Any
    kind: str


Scores = tuple[float, float, float]  # precision, recall, F1
TRUE_POSITIVE, FALSE_NEGATIVE, FALSE_POSITIVE, TRUE_NEGATIVE = range(4)


def wcxb(folder: Path, part: str) -> Iterator[Gold]:
    for file in sorted((folder / part / "ground-truth").glob("*.json")):
        record = json.loads(file.read_text())
        kind = (record.get("_internal") or {}).get("page_type") or "article"
        kind = kind.get("primary", "article") if isinstance(kind, dict) else kind
        kind = "collection" if kind == "category" else kind
        page = folder / part / "html" / f"{file.stem}.html.gz"
        yield Gold(gzip.decompress(page.read_bytes()), record["ground_truth"].get("main_content") or "", kind)


def bodies(folder: Path, part: str) -> Iterator[Gold]:
    for name, record in json.loads((folder / "ground-truth.json").read_text()).items():
        page = gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes())
        yield Gold(page, record["articleBody"], "article")


def segments(folder: Path, part: str) -> Iterator[Gold]:
    for record in json.loads((folder / "tests" / "evaldata.json").read_text()).values():
        found = (folder / "tests" / at / record["file"] for at in ("cache", "eval"))
        page = next((one for one in found if one.is_file()), None)
        if page is not None:
            yield Gold(page.read_bytes(), (record["with"], record["without"]), "article")


def words(text: str) -> Counter[Any]:
    return Counter(re.findall(r"\w+", text.lower()))


def shingles(text: str) -> Counter[Any]:
    found = re.findall(r"\w+", text)
    return Counter(tuple(found[at : at + 4]) for at in range(max(1, len(found) - 3)) if found)


def overlap(found: Counter[Any], truth: Counter[Any]) -> tuple[float | None, float | None]:
    """Precision and recall; None of one that has no meaning."""
    same = (found & truth).total()
    return (same / found.total() if found else None), (same / truth.total() if truth else None)


def scores_of_words(results: list[tuple[str, Gold]]) -> Scores:
    each = []
    for text, page in results:
        found, truth = words(text), words(page.truth)
        precision, recall = overlap(found, truth)
        if not truth:
            precision = recall = float(not found)
        p, r = precision or 0.0, recall or 0.0
        each.append((p, r, 2 * p * r / (p + r) if p + r else 0.0))
    return tuple(map(mean, zip(*each, strict=True)))  # type: ignore[return-value]


def scores_of_shingles(results: list[tuple[str, Gold]]) -> Scores:
    pairs = [overlap(shingles(text), shingles(page.truth)) for text, page in results]
    p, r = (mean(one for one in side if one is not None) for side in zip(*pairs, strict=True))
    return p, r, 2 * p * r / (p + r)


def scores_of_segments(results: list[tuple[str, Gold]]) -> Scores:
    counts = [0] * 4
    for text, page in results:
        folded = " ".join(text.split())
        for wanted, there, missing in ((page.truth[0], 0, 1), (page.truth[1], 2, 3)):
            for piece in wanted:
                counts[there if " ".join(piece.split()) in folded else missing] += 1
    p = counts[TRUE_POSITIVE] / max(counts[TRUE_POSITIVE] + counts[FALSE_POSITIVE], 1)
    r = counts[TRUE_POSITIVE] / max(counts[TRUE_POSITIVE] + counts[FALSE_NEGATIVE], 1)
    return p, r, 2 * p * r / (p + r)


def layout_of(folder: Path) -> tuple[Callable[[Path, str], Iterator[Gold]], Callable[[list[tuple[str, Gold]]], Scores]]:
    if (folder / "ground-truth.json").is_file():
        return bodies, scores_of_shingles
    if (folder / "tests" / "evaldata.json").is_file():
        return segments, scores_of_segments
    if (folder / "dev").is_dir() or (folder / "test").is_dir():
        return wcxb, scores_of_words
    raise SystemExit(f"{folder}: none of the three layouts. See the first lines of {__file__}.")


def quality(folder: Path, part: str) -> None:
    def text_of(page: bytes, name: Any) -> str:
        try:
            return _main_content(HtmlPage(page, "", name)).text
        except Exception:  # of any library: such a page is in quarantine, and counts as one without text here
            return ""

    read, score = layout_of(folder)
    pages = list(read(folder, part))
    names = os.environ.get("EXTRACTORS", ",".join(LIBRARIES)).split(",")
    size = mean(len(one.html) for one in pages) / 1000
    print(f"{machine(*PACKAGES)}\n{folder.name} {part}: {len(pages)} pages of {size:.0f} kB")
    timed = {zlib.crc32(one.html): one.html for one in pages}
    few = [timed[key] for key in sorted(timed)[:TIMED]]
    best = dict.fromkeys(names, float("inf"))
    for _ in range(2):
        spent = dict.fromkeys(names, 0.0)
        for page in few:
            for name in names:
                began = time.process_time()
                text_of(page, name)
                spent[name] += time.process_time() - began
        best = {name: min(best[name], spent[name]) for name in names}
    print(f"{'':<18}{'P':>7}{'R':>7}{'F1':>7}{'empty':>7}{'ms':>8}")
    for name in names:
        results = [(text_of(one.html, name), one) for one in pages]
        by_kind: Mapping[str, list[tuple[str, Gold]]] = defaultdict(list)
        for one in results:
            by_kind[one[1].kind].append(one)
        empty = sum(not text for text, _ in results)
        shown = "".join(f"{number:>7.3f}" for number in score(results))
        print(f"{name:<18}{shown}{empty:>7}{1000 * best[name] / len(few):>8.2f}", end="")
        print("".join(f"  {kind} {score(some)[2]:.3f}" for kind, some in sorted(by_kind.items()) if len(by_kind) > 1))


def stages(folder: Path, more: list[str]) -> None:
    """`measure` and `select` without Ray on the pages of a folder. more: settings of the input, as extractor=router."""
    compile_kernels()
    spent: dict[str, float] = {}

    class Timed(InlineEngine):
        def run(self, stage: Any) -> Any:
            began = processor_seconds()
            made = super().run(stage)
            spent[stage.name] = spent.get(stage.name, 0.0) + processor_seconds() - began
            return made

    with tempfile.TemporaryDirectory() as output:
        source = {"path": str(folder), **dict(one.split("=", 1) for one in more)}
        settings = {"kind": "curate", "name": "b", "inputs": [source], "output": output}
        config = CurateConfig.model_validate(settings | {"execution": {"max_bad_documents": 1.0}})
        inputs = freeze(config.store, config.inputs, config.execution.unit_bytes)
        artifacts = run_stages(config, inputs, Timed(output, Session(), Progress()).run)
        pages, read = len(inputs.files), artifacts["attributes"].manifest.rows
        size = sum(file.size for file in inputs.files) / pages / 1000
        texts = sum(one.manifest.bytes for name, one in artifacts.items() if name == "_work/texts")
    stored = texts / max(read, 1) / 1000
    print(f"{pages} pages of {size:.0f} kB, {read} with text, {stored:.2f} kB stored a page; {' '.join(more)}")
    print("  ms a page: " + ", ".join(f"{name} {1000 * seconds / pages:.2f}" for name, seconds in spent.items()))


def main(arguments: list[str]) -> None:
    if arguments and arguments[0] == "stages":
        stages(Path(arguments[1]), arguments[2:])
    elif arguments:
        quality(Path(arguments[0]), arguments[1] if len(arguments) > 1 else "test")
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
