"""Decontamination of GSM8K's test set: leaks found by kind, false alarms by text, and the speed on one core.

    python -m tests.benchmarks.bench_decontamination [PATH]

PATH is a Parquet file with a column `text`; the default is timing.load_texts's. The other files lie beside the default:
gsm8k_test.jsonl, gsm8k_train.jsonl and udhr.parquet.
"""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from raymill.cluster.store.store import Store
from raymill.pipelines.rules.decontamination import SIGNAL, Decontamination, EvaluationSet
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import REAL, load_texts, machine, processor_seconds

DATA = REAL.parent
FILLER_CHARACTERS = 2000
BOUNDS = (0.3, 0.5, 0.7)
NGRAM_WORDS = (13, 8)

LEAKS: dict[str, Callable[[str], str]] = {
    "verbatim": str,
    "re-spaced": lambda text: re.sub(r"\s+", " \n\t ", text),
    "upper case": str.upper,
    "other punctuation": lambda text: re.sub(r"[^\w\s]", " -- ", text),
    "first 60% of the characters": lambda text: text[: round(0.6 * len(text))],
    "last 60% of the characters": lambda text: text[round(0.4 * len(text)) :],
    "first 40% of the characters": lambda text: text[: round(0.4 * len(text))],
}


def run(texts: Texts) -> None:
    print(machine("numba", "numpy"))
    examples = _read_lines(DATA / "gsm8k_test.jsonl")
    a_set = EvaluationSet(name="gsm8k_test", path=str(DATA / "gsm8k_test.jsonl"), columns=("question", "answer"))
    rule = Decontamination(sets=(a_set,))
    print(rule.examples(Store()).summary[0])
    for ngram_words in NGRAM_WORDS:
        print(f"\nngram_words: {ngram_words}; texts found of {len(examples):,}, among {FILLER_CHARACTERS:,} characters")
        _print_found(replace(rule, ngram_words=ngram_words), examples, texts[0][:FILLER_CHARACTERS])
        print(f"documents above {', '.join(map(str, BOUNDS))}; with {ngram_words} words in a row; of; largest fraction")
        _print_false_alarms(replace(rule, ngram_words=ngram_words), texts)
    megabytes = texts.byte_lengths.sum() / 1e6
    print(f"\n{megabytes / processor_seconds(lambda: _fractions(rule, texts)):.0f} MB/s of text on one core")


def _print_found(rule: Decontamination, examples: list[dict], filler: str) -> None:
    a_set = rule.sets[0]
    for kind, leak in LEAKS.items():
        found = []
        for column in a_set.columns:
            of_column = replace(rule, sets=(replace(a_set, columns=(column,)),))
            planted = Texts.from_strings([f"{filler}\n{leak(one[column])}\n{filler}" for one in examples])
            count = np.count_nonzero(_fractions(of_column, planted) > rule.max_fraction)
            found.append(f"{count:,} ({column})")
        print(f"  {kind:30} {', '.join(found)}")


def _print_false_alarms(rule: Decontamination, texts: Texts) -> None:
    train = [f"{one['question']}\n{one['answer']}" for one in _read_lines(DATA / "gsm8k_train.jsonl")]
    udhr = load_texts(str(DATA / "udhr.parquet"))
    for name, documents in (("given texts", texts), ("udhr", udhr), ("gsm8k_train", Texts.from_strings(train))):
        fractions = _fractions(rule, documents)
        above = ", ".join(f"{np.count_nonzero(fractions > bound):,}" for bound in BOUNDS)
        shared = np.count_nonzero(fractions)
        print(f"  {name:12} {above}; {shared:,}; {len(documents):,}; {fractions.max(initial=0):.2f}")


def _read_lines(path: Path) -> list[dict]:
    if not path.is_file():
        raise SystemExit(f"{path}: no such file. It is one of GSM8K's, https://github.com/openai/grade-school-math")
    return [json.loads(line) for line in path.read_text().splitlines()]


def _fractions(rule: Decontamination, texts: Texts) -> np.ndarray:
    return rule.measure(Analysis(texts, "paper", pa.table({"row": np.arange(len(texts))}), Store()))[SIGNAL]


if __name__ == "__main__":
    run(load_texts(sys.argv[1] if len(sys.argv) > 1 else None))
