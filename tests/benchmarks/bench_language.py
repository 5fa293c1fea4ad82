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

from pipelines import classifiers
from pipelines.analysis import Analysis
from pipelines.language import excerpts, identify
from pipelines.rules.bad_words import BadWords
from pipelines.rules.quality_classifier import QualityClassifier
from pipelines.rules.url_blocklist import UrlBlocklist
from pipelines.texts import Texts
from tests.conftest import SHARED


def seconds(work: Callable[[], object]) -> float:
    work()
    runs = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        runs.append(time.perf_counter() - start)
    return median(runs)


def report(name: str, megabytes: float, work: Callable[[], object]) -> None:
    taken = seconds(work)
    print(f"  {name:<58} {megabytes / taken:9.1f} MB/s  {taken:7.3f} s")


def short_documents(texts: Texts, characters: int = 500) -> Texts:
    """The texts cut into documents of this length: what most of the web looks like."""
    strings = texts.to_arrow().to_pylist()[::20]
    return Texts.from_strings(
        [text[at : at + characters] for text in strings for at in range(0, len(text), characters)]
    )


def common_words(texts: Texts, count: int) -> list[str]:
    """Words of the corpus itself, from the 2,001st most frequent on: a list that does match now and then."""
    counted = Counter(
        word for text in texts.to_arrow().to_pylist()[::50] for word in re.findall(r"[a-z]{3,}", text.lower())
    )
    return [word for word, _ in counted.most_common(2000 + count)[2000:]]


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED / "peps.parquet"
    texts = Texts.from_arrow(pq.read_table(file, columns=["text"])["text"])
    pa.set_cpu_count(1)
    megabytes = texts.byte_lengths.sum() / 1e6
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, pyarrow {pa.__version__}")
    print(f"{file.name}: {len(texts)} documents, {megabytes:.1f} MB")

    model = classifiers.load(None)
    for characters in (1000, 2000, 5000):
        report(f"excerpts of {characters} characters", megabytes, lambda n=characters: excerpts(texts, n))
        report(f"identify, {characters} characters", megabytes, lambda n=characters: identify(texts, model, n))
    lines = Texts.from_arrow(pc.replace_substring(excerpts(texts, 1000).to_arrow(), "\n", " "))
    read = lines.byte_lengths.sum() / 1e6
    report("fastText alone, on those excerpts of 1000", read, lambda: model.best(lines))
    short = short_documents(texts)
    report(
        "identify, documents of 500 characters", short.byte_lengths.sum() / 1e6, lambda: identify(short, model, 1000)
    )

    analysis = Analysis(texts, "paper", pa.table({"language": pa.array(["en"] * len(texts))}))
    quality = QualityClassifier(model=str(model.path), label="en")
    report("quality_classifier, lid.176 at 5000 characters", megabytes, lambda: quality.measure(analysis))

    with tempfile.TemporaryDirectory() as folder:
        for count in (400, 4000):
            words = common_words(texts, count)
            path = Path(folder) / f"{count}.txt"
            path.write_text("\n".join(words))
            rule = BadWords(paths={"en": str(path)})
            report(f"bad_words, {count} words", megabytes, lambda rule=rule: rule.measure(analysis))
            pattern = rf"(?i)(?:^|[^\pL\pM\pN])(?:{'|'.join(words)})(?:[^\pL\pM\pN]|$)"
            some = texts.to_arrow()[::100] if count > 400 else texts.to_arrow()
            size = pc.sum(pc.binary_length(some)).as_py() / 1e6
            report(
                f"  the same in RE2 ({len(some)} documents)",
                size,
                lambda p=pattern, s=some: pc.count_substring_regex(s, p),
            )

        generator = np.random.default_rng(1)
        path = Path(folder) / "domains.txt"
        path.write_text("\n".join(f"site{number}.example" for number in generator.integers(0, 10**9, 1_000_000)))
        urls = [f"https://www.host{number}.net/a/{number}.html?q=1" for number in generator.integers(0, 10**9, 100_000)]
        analysis = Analysis(Texts.from_strings([""] * len(urls)), "paper", pa.table({"url": urls}))
        start = time.perf_counter()
        blocklist = UrlBlocklist(paths=(str(path),))
        blocklist.measure(analysis)
        print(f"  url_blocklist: reading a list of 1,000,000 domains {time.perf_counter() - start:.2f} s")
        taken = seconds(lambda: blocklist.measure(analysis))
        print(f"  url_blocklist: {len(urls) / taken / 1e6:.2f} million URLs/s")


if __name__ == "__main__":
    main()
