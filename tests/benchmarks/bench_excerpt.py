"""How many characters of a document name its language: python -m tests.benchmarks excerpt

The Declaration of Human Rights in the languages that lid.176 has a label for: whole, in short pieces, and as documents
of two languages, seven parts to three, in turns. For each number of characters in the excerpt: how many documents get
the label of the whole document, and how many the label of their language (of the larger part).

Predicted 2026-11-24: the shares that the guide of curate has (the texts and the model are the same); 1,000 characters
take about 60 us a document of the Declaration on a quiet machine.
"""

import time

import numpy as np
import pyarrow.parquet as pq

from raymill.cluster.store.store import Store
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language.fasttext_classifier import same_language
from raymill.pipelines.language.identification import excerpts
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine
from tests.conftest import SHARED

SIZES = (250, 500, 1000, 2000, 10**6)


def declarations(labels: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(texts, the model's label of each one's language), for the languages that it has."""
    table = pq.read_table(SHARED / "udhr.parquet")
    texts, languages = [], []
    for name, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
        code = name.partition("_")[0]
        label = next((known for known in (code, *same_language(code)) if known in labels), None)
        if label:
            texts.append(text)
            languages.append(label)
    return texts, languages


def pieces(texts: list[str], languages: list[str]) -> tuple[list[str], list[str]]:
    """Each text cut into pieces of 100 to 600 characters, between words."""
    random = np.random.default_rng(1)
    found, of = [], []
    for text, language in zip(texts, languages, strict=True):
        at = 0
        while at < len(text):
            end = text.find(" ", at + int(random.integers(100, 600)))
            end = end if end >= 0 else len(text)
            if end - at >= 100:
                found.append(text[at:end])
                of.append(language)
            at = end
    return found, of


def mixed(texts: list[str], languages: list[str]) -> tuple[list[str], list[str]]:
    """Documents of two languages: ten parts of about 700 characters in a seeded order, seven of the first."""
    random = np.random.default_rng(2)
    found, of = [], []
    for place, (text, language) in enumerate(zip(texts, languages, strict=True)):
        other = (place + 1 + int(random.integers(len(texts) - 1))) % len(texts)
        if languages[other] == language:
            continue
        parts = [text[at : at + 700] for at in range(0, 4900, 700)]
        parts += [texts[other][at : at + 700] for at in range(0, 2100, 700)]
        random.shuffle(parts)
        found.append("\n".join(parts))
        of.append(language)
    return found, of


def run(texts: Texts) -> None:
    print(machine("numba", "fasttext-predict"))
    model = fasttext_classifier.load(Store(), None)
    whole = declarations(model.labels)
    for name, (strings, languages) in {"whole": whole, "short": pieces(*whole), "mixed": mixed(*whole)}.items():
        some = Texts.from_strings(strings)
        expected, _ = model.best(excerpts(some, SIZES[-1]))
        length = int(np.mean([len(text) for text in strings]))
        print(f"{name}: {len(some)} documents, {length:,} characters on average")
        for size in SIZES:
            start = time.process_time()
            found, _ = model.best(excerpts(some, size))
            taken = time.process_time() - start
            right = np.mean([model.labels[label] == language for label, language in zip(found, languages, strict=True)])
            print(f"  {'all' if size == SIZES[-1] else format(size, ','):>6} characters: the whole document's label "
                  f"{(found == expected).mean():7.2%}, the language's {right:7.2%}; "
                  f"{taken / len(some) * 1e6:6.1f} us a document")  # fmt: skip
