"""How fast the rule packs are on one core: MB of text a second, per pack and together, in both dialects.

    python -m tests.benchmarks.bench_rules [PATH]

PATH is a Parquet file with a column `text`; without one, English-like text is made up. Each number is the median of
five runs after one that compiles.
"""

import sys
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.analysis import Analysis
from pipelines.rules.c4 import C4
from pipelines.rules.fineweb import FineWeb
from pipelines.rules.gopher_quality import GopherQuality
from pipelines.rules.gopher_repetition import GopherRepetition
from pipelines.rules.rule import Rule
from pipelines.texts import Texts
from pipelines.words import split_words

PACKS: tuple[Rule, ...] = (GopherRepetition(), GopherQuality(), C4(), FineWeb())
RUNS = 5


def made_up_texts(megabytes: int = 20) -> Texts:
    """Sentences of words whose frequencies fall as those of a language do (Zipf), 16 kB a document."""
    random = np.random.default_rng(1)
    letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz"))
    vocabulary = ["".join(random.choice(letters[:20], random.integers(1, 10))) for _ in range(20_000)]
    documents = []
    for _ in range(megabytes * 1_000_000 // 16_000):
        words = [vocabulary[number] for number in np.minimum(random.zipf(1.2, 2_600), len(vocabulary)) - 1]
        sentences = [" ".join(words[at : at + 13]).capitalize() + "." for at in range(0, len(words), 13)]
        documents.append("\n".join(" ".join(sentences[at : at + 4]) for at in range(0, len(sentences), 4)))
    return Texts.from_strings(documents)


def megabytes_per_second(texts: Texts, work) -> float:
    work()
    seconds = []
    for _ in range(RUNS):
        start = perf_counter()
        work()
        seconds.append(perf_counter() - start)
    return float(texts.byte_lengths.sum()) / 1e6 / median(seconds)


def fresh_analysis(texts: Texts, dialect: str) -> Analysis:
    return Analysis(texts, dialect, pa.table({"id": np.arange(len(texts))}))


def measure_all(texts: Texts, dialect: str) -> None:
    analysis = fresh_analysis(texts, dialect)
    for rule in PACKS:
        rule.measure(analysis)


def main(path: Path | None) -> None:
    texts = Texts.from_arrow(pq.read_table(path, columns=["text"])["text"]) if path else made_up_texts()
    print(
        f"{path or 'made-up text'}: {len(texts):,} documents, {texts.byte_lengths.sum() / 1e6:.1f} MB; MB/s on one core"
    )
    for dialect in ("paper", "datatrove"):
        analysis = fresh_analysis(texts, dialect)
        speeds = {"split_words": megabytes_per_second(texts, lambda dialect=dialect: split_words(texts, dialect))}
        for rule in PACKS:
            speeds[rule.name] = megabytes_per_second(texts, lambda rule=rule, seen=analysis: rule.measure(seen))
        others = 1 / sum(1 / speeds[rule.name] for rule in PACKS[1:])
        speeds["quality + c4 + fineweb"] = others
        speeds["words and all packs"] = megabytes_per_second(texts, lambda dialect=dialect: measure_all(texts, dialect))
        for name, speed in speeds.items():
            print(f"{dialect:10} {name:24} {speed:7.0f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
