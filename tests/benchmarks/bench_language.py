"""Speed of language identification and of the list rules, one core, processor time, in MB of text a second.

fastText is compared with its own library on the same excerpts in the same run: labels, scores, speed. The Declaration
of Human Rights, in 387 languages, is read beside the checkout, if it is there.
"""

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymill.cluster.store.store import Store
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language.fasttext_classifier import Classifier
from raymill.pipelines.language.identification import excerpts, identify
from raymill.pipelines.rules.bad_words import BadWords
from raymill.pipelines.rules.quality_classifier import QualityClassifier
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.rules.url_blocklist import UrlBlocklist
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine, processor_seconds
from tests.benchmarks.web_texts import LENGTHS, cut
from tests.conftest import SHARED

_DECLARATIONS = SHARED / "udhr.parquet"


def run(texts: Texts) -> None:
    print(machine("numba", "pyarrow", "fasttext-predict"))
    model = fasttext_classifier.load(Store(), None)
    for name, some in {"as they are": texts, **{name: cut(texts, name) for name in LENGTHS}}.items():
        print(f"texts {name}: {len(some):,} documents, {some.byte_lengths.sum() / 1e6:.1f} MB")
        report("excerpts of 1,000 characters", some, excerpts, some, 1000)
        report("identify, 1,000 characters", some, identify, some, model, 1000)
        _beside_the_library(model, excerpts(some, 1000))
    if _DECLARATIONS.exists():
        print("the Declaration of Human Rights")
        declarations = Texts.from_arrow(pq.read_table(_DECLARATIONS, columns=["text"])["text"])
        _beside_the_library(model, excerpts(declarations, 1000))

    analysis = Analysis(texts, "paper", pa.table({"language": pa.array(["en"] * len(texts))}), Store())
    quality = QualityClassifier(model=str(model.path), label="en")
    report("quality_classifier, lid.176 at 5,000 characters", texts, quality.measure, analysis)
    with tempfile.TemporaryDirectory() as folder:
        bench_bad_words(Path(folder), analysis)
        bench_url_blocklist(Path(folder))


def _beside_the_library(model: Classifier, lines: Texts) -> None:
    """Print the speed of the kernel and of fastText's library on texts of one line, and how many answers are equal."""
    library = fasttext.load_model(str(model.path)).f
    strings = [f"{text}\n" for text in lines.to_arrow().to_pylist()]
    labels, scores = model.best(lines)
    began = time.process_time()
    found = [library.predict(text, 1, 0.0, "strict") for text in strings]
    theirs = time.process_time() - began
    best = [one[0] if one else (0.0, "") for one in found]
    names = ["__label__" + model.labels[label] if label >= 0 else "" for label in labels]
    equal = sum(
        label == name and min(np.float32(score), 1) == our_score
        for (score, label), name, our_score in zip(best, names, scores, strict=True)
    )
    ours, size = processor_seconds(lambda: model.best(lines)), lines.byte_lengths.sum() / 1e6
    print(
        f"  fastText on these excerpts: {size / ours:.0f} MB/s, its library {size / theirs:.1f} MB/s, "
        f"{theirs / ours:.1f} x; label and score equal in {equal:,} of {len(strings):,}",
        flush=True,
    )


def report(name: str, texts: Texts, work: Callable, *arguments: object) -> None:
    taken = processor_seconds(lambda: work(*arguments))
    print(f"  {name:<58} {texts.byte_lengths.sum() / 1e6 / taken:9.1f} MB/s  {taken:7.3f} s", flush=True)


def common_words(texts: Texts, count: int) -> list[str]:
    """Words of the corpus itself, from the 2,001st most frequent on: a list that does match now and then."""
    sample = " ".join(texts.to_arrow().to_pylist()[::50]).lower()
    counted = Counter(re.findall(r"[a-z]{3,}", sample))
    return [word for word, _ in counted.most_common(2000 + count)[2000:]]


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
    start = time.process_time()
    blocklist.measure(analysis)
    print(f"  url_blocklist: list of 1,000,000 domains read in {time.process_time() - start:.2f} s")
    taken = processor_seconds(lambda: blocklist.measure(analysis))
    print(f"  url_blocklist: {len(urls) / taken / 1e6:.2f} million URLs/s")
