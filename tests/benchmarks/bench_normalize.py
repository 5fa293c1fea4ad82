"""Speed of normalisation and of personal data, one core: python -m tests.benchmarks.bench_normalize [FILE.parquet]

FILE has a `text` column; left out, it is the technical documents beside the checkout, or else made-up English.
"""

import random
import sys

from raymill.pipelines.text import personal_data
from raymill.pipelines.text.normalize import characters, normalize
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import REAL, load_texts, machine, processor_seconds


def run(texts: Texts) -> None:
    print(machine("numba", "ftfy"))
    size = int(texts.byte_lengths.sum()) / 1e6
    print(f"{len(texts):,} documents, {size:.1f} MB; MB/s per core, processor time")
    clean = normalize(texts)
    spans = personal_data.find(clean)
    broken = Texts.from_strings([f"{text}\nitâ€™s brokÃ©n\n" for text in clean.to_arrow().to_pylist()])
    works = {
        "screen for mojibake": lambda: characters.marked_lines(texts),
        "normalise": lambda: normalize(texts),
        "normalise what is normal": lambda: normalize(clean),
        "normalise, one broken line a document": lambda: normalize(broken),
        "find personal data": lambda: personal_data.find(clean),
        "redact": lambda: personal_data.redact(clean, spans),
    }
    for name, work in works.items():
        print(f"  {name:<40}{size / processor_seconds(work):9.0f}", flush=True)
    counts = personal_data.count(spans, len(clean)).sum(axis=0)
    print("  found:", ", ".join(f"{kind} {number}" for kind, number in zip(personal_data.KINDS, counts, strict=True)))


def made_up(documents: int = 2000, sentences: int = 200) -> Texts:
    """English-like documents of some 12 kB, with a typist's double spaces and an address or number now and then."""
    draw = random.Random(1)
    words = ["the", "of", "language", "and", "to", "type", "that", "for", "function", "module", "value", "naïve"]
    extras = ["me@example.org", "version 1.2.3.4", "8.8.8.8", "PEP 484", "212-555-0143", "2026-11-21"]

    def sentence() -> str:
        chosen = draw.choices(words, k=10) + draw.choices(extras, k=draw.random() < 0.1)
        return " ".join(chosen).capitalize() + "."

    return Texts.from_strings(
        ["\n".join(f"{sentence()}  {sentence()}" for _ in range(sentences // 2)) for _ in range(documents)]
    )


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else None
    run(load_texts(path) if path or REAL.is_file() else made_up())
