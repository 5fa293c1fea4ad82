"""Texts as long as web pages: technical texts cut at blank lines, lengths log-normal, in a seeded order."""

import numpy as np
import pyarrow as pa

from raymill.pipelines.text.texts import Texts

# Name -> (mean and standard deviation of the logarithm of the length, shortest, longest) in characters.
LENGTHS = {
    "3.3 kB": (7.8, 0.9, 300, 20_000),
    "0.5 kB": (5.9, 0.7, 100, 3_000),
}


def cut(texts: Texts, lengths: str, seed: int = 1) -> Texts:
    """The texts in pieces of these lengths, about as many bytes as before. A piece ends at the first blank line after
    its length, or at the end of its text."""
    mu, sigma, shortest, longest = LENGTHS[lengths]
    random = np.random.default_rng(seed)
    pieces = []
    for text in texts.to_arrow().to_pylist():
        at = 0
        while at < len(text):
            wanted = int(np.clip(random.lognormal(mu, sigma), shortest, longest))
            end = text.find("\n\n", at + wanted, at + longest)
            end = end if end >= 0 else min(at + wanted, len(text))
            if end - at >= shortest:
                pieces.append(text[at:end])
            at = end
    random.shuffle(pieces)
    return Texts.from_strings(pieces)


def by_length(texts: Texts) -> dict[str, Texts]:
    """The texts as they are, named by their mean length (`16 kB`), and cut to each of LENGTHS."""
    mean = int(texts.byte_lengths.sum()) / max(len(texts), 1) / 1000
    return {f"{mean:.0f} kB": texts, **{name: cut(texts, name) for name in LENGTHS}}


def spread(texts: Texts, megabytes: float) -> Texts:
    """About `megabytes` megabytes of texts, taken at even distances from all of them; all, if they are fewer."""
    share = megabytes * 1e6 / max(int(texts.byte_lengths.sum()), 1)
    if share >= 1:
        return texts
    count = max(1, round(len(texts) * share))
    return Texts.from_arrow(texts.to_arrow().take(pa.array(np.arange(count) * len(texts) // count)))
