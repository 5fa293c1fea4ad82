"""How fast the rule packs are on one core: MB of text a second, per pack and together, in both dialects.

    python -m tests.benchmarks.bench_rules [PATH]

PATH is a Parquet file with a column `text`; the default is timing.load_texts's.
"""

import sys
from functools import partial

import numpy as np
import pyarrow as pa

from raymill.cluster.store.store import Store
from raymill.pipelines.rules import PACKS
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import load_texts, machine, processor_seconds

DIALECTS = ("paper", "datatrove")


def run(texts: Texts) -> None:
    megabytes = texts.byte_lengths.sum() / 1e6
    print(machine("numba", "numpy"))
    print(f"{len(texts):,} documents, {megabytes:.1f} MB; MB of text per second of processor time, one thread")
    for dialect in DIALECTS:
        analysis = fresh_analysis(texts, dialect)
        seconds = {"words": processor_seconds(lambda dialect=dialect: fresh_analysis(texts, dialect).words)}
        for name, pack in PACKS.items():
            seconds[name] = processor_seconds(partial(pack().measure, analysis))
        seconds["all but repetition"] = sum(seconds[name] for name in PACKS if name != "gopher_repetition")
        seconds["words and all packs"] = processor_seconds(partial(measure_all, texts, dialect))
        for name, taken in seconds.items():
            print(f"{dialect:10} {name:20} {megabytes / taken:7.0f}")


def fresh_analysis(texts: Texts, dialect: str) -> Analysis:
    return Analysis(texts, dialect, pa.table({"id": np.arange(len(texts))}), Store())


def measure_all(texts: Texts, dialect: str) -> None:
    analysis = fresh_analysis(texts, dialect)
    for pack in PACKS.values():
        pack().measure(analysis)


if __name__ == "__main__":
    run(load_texts(sys.argv[1] if len(sys.argv) > 1 else None))
