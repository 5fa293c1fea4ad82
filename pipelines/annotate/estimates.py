"""Shares of the labels in all candidates, estimated from the labelled tasks by the chances of being chosen."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Z95 = 1.959964  # of a 95% interval


def label_shares(
    labels: Sequence[str | None], strata: Sequence[tuple[str, str]], probabilities: Sequence[float]
) -> list[dict[str, Any]]:
    """{label, tasks, share, low, high} of each label, the most frequent first.

    The labelled tasks of a stratum stand for all its candidates (Horvitz and Thompson 1952, stratified); its variance
    has the correction for finite populations. Strata without a labelled task are left out.

    Args:
        labels: of each task; None of one without a label.
        strata: (strategy, stratum) of each task.
        probabilities: chance of each task of being chosen.
    """
    known = [at for at, label in enumerate(labels) if label is not None]
    sizes: dict[tuple[str, str], float] = {}
    for stratum, probability in zip(strata, probabilities, strict=True):
        sizes[stratum] = sizes.get(stratum, 0.0) + 1 / probability
    of_stratum: dict[tuple[str, str], list[int]] = {}
    for at in known:
        of_stratum.setdefault(strata[at], []).append(at)
    total = sum(sizes[stratum] for stratum in of_stratum)
    found = []
    for label in sorted({one for one in labels if one is not None}):
        share = variance = 0.0
        for stratum, tasks in of_stratum.items():
            here, size = np.array([labels[at] == label for at in tasks], float), sizes[stratum]
            share += size * here.mean()
            if len(here) > 1:
                variance += size**2 * max(0.0, 1 - len(here) / size) * here.var(ddof=1) / len(here)
        mean, around = share / total, Z95 * variance**0.5 / total
        found.append(
            {
                "label": label,
                "tasks": sum(labels[at] == label for at in known),
                "share": mean,
                "low": max(0.0, mean - around),
                "high": min(1.0, mean + around),
            }
        )
    return sorted(found, key=lambda row: (-row["share"], row["label"]))
