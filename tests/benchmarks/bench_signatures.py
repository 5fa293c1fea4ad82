"""Signatures from text, one core, beside datasketch and rensa on the same documents: 128 permutations, word 5-grams.

The peers get the same shingles, cut the usual way: a regular expression for words, then join. Their own time without
cutting stands beside.
"""

import re

import rensa
from datasketch import MinHash

from raymill.pipelines.dedup.signatures import permutations
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine, processor_seconds
from tests.support.dedup_loops import signatures

PERMUTATIONS, NGRAM_WORDS = 128, 5
_WORD = re.compile(r"[^\W_]+")
_EVERY = 20  # the peers are slow: they do one document in this many


def shingles(text: str) -> list[str]:
    words = _WORD.findall(text.lower())
    return [" ".join(words[at : at + NGRAM_WORDS]) for at in range(len(words) - NGRAM_WORDS + 1)]


def run(texts: Texts) -> None:
    print(machine("datasketch", "rensa", "numba"))
    strings = texts.to_arrow().to_pylist()[::_EVERY]
    some = Texts.from_strings(strings)
    size = int(some.byte_lengths.sum()) / 1e6
    a, b = permutations(PERMUTATIONS, 1)
    whole = texts.byte_lengths.sum() / 1e6 / processor_seconds(lambda: signatures(texts, NGRAM_WORDS, a, b))
    ours = size / processor_seconds(lambda: signatures(some, NGRAM_WORDS, a, b))
    cut = [shingles(text) for text in strings]
    encoded = [[shingle.encode() for shingle in document] for document in cut]

    def with_datasketch(documents: list[list[bytes]]) -> None:
        for document in documents:
            MinHash(PERMUTATIONS).update_batch(document)

    def with_rensa(documents: list[list[str]]) -> None:
        for document in documents:
            rensa.RMinHash(PERMUTATIONS, 1).update(document)

    def cut_and(work, encode: bool) -> None:
        documents = [shingles(text) for text in strings]
        work([[s.encode() for s in document] for document in documents] if encode else documents)

    rows = [
        ("raymill, all documents", whole, None),
        ("raymill, the peers' documents", ours, None),
        ("rensa", size / processor_seconds(lambda: cut_and(with_rensa, False), 3), ours),
        ("rensa without shingling", size / processor_seconds(lambda: with_rensa(cut), 3), ours),
        ("datasketch", size / processor_seconds(lambda: cut_and(with_datasketch, True), 3), ours),
        ("datasketch without shingling", size / processor_seconds(lambda: with_datasketch(encoded), 3), ours),
    ]
    print(f"signatures, {PERMUTATIONS} permutations, word {NGRAM_WORDS}-grams, from text; MB/s per core")
    for name, speed, against in rows:
        print(f"  {name:<34}{speed:9.1f}" + (f"   raymill is {against / speed:6.1f} x" if against else ""))
