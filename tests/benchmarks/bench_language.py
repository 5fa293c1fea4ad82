"""Speed of language identification and of the list rules, one core: python -m tests.benchmarks.bench_language FILE

FILE is a Parquet file with a `text` column; left out, it is the technical documents beside the checkout. Every number
is the median of five runs after one for compilation, in MB of document text a second.
"""

import platform
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.store.store import Store
from pipelines.language import fasttext_model
from pipelines.language.identification import excerpts, identify
from pipelines.rules.bad_words import BadWords
from pipelines.rules.quality_classifier import QualityClassifier
from pipelines.rules.rule import Analysis
from pipelines.rules.url_blocklist import UrlBlocklist
from pipelines.text.texts import Texts
from tests.conftest import SHARED


def seconds(work: Callable, *arguments: object) -> float:
    work(*arguments)
    runs = []
    for _ in range(5):
        start = time.perf_counter()
        work(*arguments)
        runs.append(time.perf_counter() - start)
    return median(runs)


def report(name: str, texts: Texts, work: Callable, *arguments: object) -> None:
    taken = seconds(work, *arguments)
    print(f"  {name:<58} {texts.byte_lengths.sum() / 1e6 / taken:9.1f} MB/s  {taken:7.3f} s", flush=True)


def short_documents(texts: Texts, characters: int = 500) -> Texts:
    """The texts cut into documents of this length: what most of the web looks like."""
    strings = texts.to_arrow().to_pylist()[::20]
    cuts = [text[at : at + characters] for text in strings for at in range(0, len(text), characters)]
    return Texts.from_strings(cuts)


def common_words(texts: Texts, count: int) -> list[str]:
    """Words of the corpus itself, from the 2,001st most frequent on: a list that does match now and then."""
    sample = " ".join(texts.to_arrow().to_pylist()[::50]).lower()
    counted = Counter(re.findall(r"[a-z]{3,}", sample))
    return [word for word, _ in counted.most_common(2000 + count)[2000:]]


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED / "peps.parquet"
    texts = Texts.from_arrow(pq.read_table(file, columns=["text"])["text"])
    pa.set_cpu_count(1)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, pyarrow {pa.__version__}")
    print(f"{file.name}: {len(texts)} documents, {texts.byte_lengths.sum() / 1e6:.1f} MB")

    model = fasttext_model.load(Store(), None)
    for characters in (1000, 2000, 5000):
        report(f"excerpts of {characters} characters", texts, excerpts, texts, characters)
        report(f"identify, {characters} characters", texts, identify, texts, model, characters)
    lines, short = excerpts(texts, 1000), short_documents(texts)
    report("fastText alone, on those excerpts of 1000", lines, model.best, lines)
    report("identify, documents of 500 characters", short, identify, short, model, 1000)

    analysis = Analysis(texts, "paper", pa.table({"language": pa.array(["en"] * len(texts))}), Store())
    quality = QualityClassifier(model=str(model.path), label="en")
    report("quality_classifier, lid.176 at 5000 characters", texts, quality.measure, analysis)

    with tempfile.TemporaryDirectory() as folder:
        bench_bad_words(Path(folder), analysis)
        bench_url_blocklist(Path(folder))


def bench_bad_words(folder: Path, analysis: Analysis) -> None:
    """The trie against one RE2 alternation, which gets fewer documents for the longer list so that it ends at all."""
    for count, every in ((400, 1), (4000, 100)):
        words = common_words(analysis.texts, count)
        path = folder / f"{count}.txt"
        path.write_text("\n".join(words))
        report(f"bad_words, {count} words", analysis.texts, BadWords(paths={"en": str(path)}).measure, analysis)
        pattern = rf"(?i)(?:^|[^\pL\pM\pN])(?:{'|'.join(words)})(?:[^\pL\pM\pN]|$)"
        some = Texts.from_strings(analysis.texts.to_arrow().to_pylist()[::every])
        name = f"  the same in RE2, {len(some)} documents"
        report(name, some, pc.count_substring_regex, some.to_arrow(), pattern)


def bench_url_blocklist(folder: Path) -> None:
    numbers = np.random.default_rng(1).integers(0, 10**9, 1_000_000)
    path = folder / "domains.txt"
    path.write_text("\n".join(f"site{number}.example" for number in numbers))
    urls = [f"https://www.host{number}.net/a/{number}.html?q=1" for number in numbers[:100_000]]
    analysis = Analysis(Texts.from_strings([""] * len(urls)), "paper", pa.table({"url": urls}), Store())
    blocklist = UrlBlocklist(paths=(str(path),))
    start = time.perf_counter()
    blocklist.measure(analysis)
    print(f"  url_blocklist: list of 1,000,000 domains read in {time.perf_counter() - start:.2f} s")
    print(f"  url_blocklist: {len(urls) / seconds(blocklist.measure, analysis) / 1e6:.2f} million URLs/s")


if __name__ == "__main__":
    main()
