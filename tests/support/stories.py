"""Texts of curated documents: readable English that passes every rule, and German; the ledger of a run of them."""

from functools import cache

import numpy as np

from raymill.cluster.artifact import Artifact
from raymill.cluster.store.store import Store

NOUNS = [
    "river",
    "mountain",
    "letter",
    "garden",
    "teacher",
    "engine",
    "island",
    "winter",
    "bridge",
    "captain",
    "harbour",
    "kitchen",
    "window",
    "market",
    "station",
    "doctor",
    "village",
    "forest",
    "machine",
    "journey",
    "lantern",
    "library",
    "meadow",
    "painter",
    "orchard",
    "quarry",
    "railway",
    "sailor",
    "tower",
    "valley",
    "weaver",
    "anchor",
    "barrel",
    "candle",
    "desert",
    "evening",
    "farmer",
    "glacier",
    "hunter",
    "ladder",
    "miller",
    "neighbour",
    "ocean",
    "piano",
]


VERBS = [
    "followed",
    "remembered",
    "painted",
    "repaired",
    "visited",
    "described",
    "crossed",
    "forgot",
    "carried",
    "found",
    "left",
    "drew",
    "watched",
]


LINKS = ["and that", "while", "because", "although", "so", "after", "before", "until", "with which", "but"]
ADJECTIVES = [
    "old",
    "quiet",
    "narrow",
    "bright",
    "heavy",
    "distant",
    "broken",
    "gentle",
    "frozen",
    "crowded",
    "empty",
    "golden",
    "hidden",
]

GERMAN = " ".join(["Der alte Hafen war am Morgen still, und die Boote kamen erst spät zurück."] * 9)


@cache
def story(number: int, sentences: int = 8) -> str:
    """Readable English that passes every rule, a different one for each number."""
    generator = np.random.default_rng(number)
    lines = []
    for at in range(sentences):
        a, b, c, d = generator.choice(NOUNS, 4, replace=False)
        verb, other = generator.choice(VERBS, 2, replace=False)
        x, y = generator.choice(ADJECTIVES, 2, replace=False)
        link = generator.choice(LINKS)
        tail = generator.choice(["with", "to", "beyond", "under", "against", "near", "past", "behind"])
        lines.append(f"{x.title()} {a} {verb} the {b} of {y} {c} {link} {d} {other} {tail} chapter {at + 10 * number}.")
    return " ".join(lines)


def ledger(run) -> dict[str, dict]:
    return {row["id"]: row for row in Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()}
