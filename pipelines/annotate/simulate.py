"""Rounds of active learning on records whose labels are known: what each strategy would have saved.

A unit is a strategy with a seed. It starts with random records, and in each round trains the classifier on what is
labelled, measures it on held-out records, and labels the next records by its strategy. All strategies of a seed have
the same records held out and start with the same ones, so their differences are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student
from sklearn.metrics import f1_score

from raymill.cluster.entry import Entry
from raymill.pipelines.agreement import cross_table, kappa
from raymill.pipelines.annotate.choose import farthest_first, uncertainty
from raymill.pipelines.annotate.classifier import features_of, fit_features
from raymill.pipelines.annotate.config import Strategy
from raymill.pipelines.annotate.stopping import WINDOW, is_stable

_fit_embedding = Entry("raymill.pipelines.prepare.assess.vectors:fit_embedding")

_DIMENSIONS = 64


@dataclass(frozen=True)
class KnownRecords:
    """Records with known labels. texts, labels: of each, by number. names: of all labels. draw: uint64[N]."""

    texts: Sequence[str]
    labels: np.ndarray
    names: Sequence[str]
    draw: np.ndarray


def simulate(
    records: KnownRecords, strategy: Strategy, seed: int, rounds: int, batch: int, held_out: float
) -> list[dict]:
    """A row for each round: labels, accuracy and macro F1 on the records held out, kappa with the round before.

    batch: labels of each round. held_out: fraction of the records that measure the classifier.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(records.texts))
    test, pool = np.split(order, [round(held_out * len(order))])
    labelled = np.zeros(len(pool), bool)
    labelled[: min(batch, len(pool))] = True  # the order is random
    vectors = None
    if strategy == "diversity":
        texts = [records.texts[at] for at in pool]
        vectors = _fit_embedding.load()(texts, _DIMENSIONS).embed(texts)
    features = features_of([*records.texts, *records.names])
    of_names = np.arange(len(records.texts), features.shape[0])
    rows = list[dict[str, Any]]()
    before: np.ndarray | None = None
    for number in range(rounds):
        known = np.flatnonzero(labelled)
        learned = pool[known]
        rows_of = np.concatenate([learned, of_names])
        model = fit_features(
            features[rows_of], records.labels[learned].tolist(), records.draw[learned], out_of_fold=False
        )
        found = model.of_features(features[test], records.draw[test]).argmax(axis=1)
        truth = records.labels[test]
        # Without a kappa all predictions of both rounds are one label.
        stable = None if before is None else kappa(cross_table(before, found, len(records.names)), "nominal")
        rows.append(
            {
                "strategy": strategy,
                "seed": seed,
                "round": number + 1,
                "labels": len(known),
                "accuracy": float((found == truth).mean()),
                "macro_f1": float(f1_score(truth, found, average="macro", zero_division=0)),
                "stability": 1.0 if stable is None and before is not None else stable,
            }
        )
        before = found
        left = np.flatnonzero(~labelled)
        if not len(left):
            break
        size = min(batch, len(left))
        if strategy == "random":
            chosen = left[:size]
        elif vectors is not None:
            chosen = farthest_first(vectors, ~labelled, size)
        elif strategy != "diversity":
            probabilities = model.of_features(features[pool[left]], records.draw[pool[left]])
            chosen = left[np.argsort(-uncertainty(probabilities, strategy), kind="stable")[:size]]
        labelled[chosen] = True
    return rows


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Learning curves, what each strategy saves beside random, and where stopping rules would have stopped.

    rows: of `simulate`, of all strategies and seeds.
    """
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    by = {(row["strategy"], row["seed"], row["round"]): row for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    numbers = sorted({row["round"] for row in rows})
    curves = []
    for strategy in strategies:
        for number in numbers:
            here = [by[strategy, seed, number] for seed in seeds if (strategy, seed, number) in by]
            if here:
                mean, low, high = interval([row["accuracy"] for row in here])
                macro = float(np.mean([row["macro_f1"] for row in here]))
                point = {"accuracy": mean, "low": low, "high": high, "macro_f1": macro}
                curves.append({"strategy": strategy, "labels": here[0]["labels"]} | point)
    found = [_beside_random(strategy, curves, by, seeds, numbers) for strategy in strategies if strategy != "random"]
    return {"curves": curves, "strategies": found, "stopping": _stopping(strategies, by, seeds, numbers)}


def interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """(mean, low, high): a 95% interval by Student's t; None of one value."""
    mean, size = float(np.mean(values)), len(values)
    if size < 2:
        return mean, None, None
    around = float(student.ppf(0.975, size - 1)) * float(np.std(values, ddof=1)) / size**0.5
    return mean, mean - around, mean + around


def _beside_random(
    strategy: str, curves: Sequence[Mapping[str, Any]], by: Mapping[Any, Any], seeds: Sequence[int],
    numbers: Sequence[int],
) -> dict[str, Any]:  # fmt: skip
    """A strategy beside random: the mean difference over all rounds, paired by seed, and the labels that it saves."""
    differences = [
        float(np.mean([by[strategy, seed, number]["accuracy"] - by["random", seed, number]["accuracy"]
                       for number in numbers[1:] if ("random", seed, number) in by and (strategy, seed, number) in by]))
        for seed in seeds
    ] if len(numbers) > 1 else []  # fmt: skip
    mean, low, high = interval(differences) if differences else (0.0, None, None)
    own = [one for one in curves if one["strategy"] == strategy]
    others = [one for one in curves if one["strategy"] == "random"]
    wanted = others[-1]["accuracy"]
    reached = labels_to_reach(own, wanted)
    verdict = "no difference"
    if low is not None and high is not None:
        verdict = "better than random" if low > 0 else "worse than random" if high < 0 else "no difference"
    return {
        "strategy": strategy,
        "difference": mean,
        "low": low,
        "high": high,
        "verdict": verdict,
        "accuracy": own[-1]["accuracy"],
        "random_accuracy": wanted,
        "labels_to_reach_random": reached,
        "labels_saved": None if reached is None else others[-1]["labels"] - reached,
    }


def labels_to_reach(curve: Sequence[Mapping[str, Any]], accuracy: float) -> int | None:
    """Number of labels after which a curve has an accuracy, between its points in a straight line; None if never."""
    before: Mapping[str, Any] | None = None
    for point in curve:
        if point["accuracy"] >= accuracy:
            if before is None or point["accuracy"] == before["accuracy"]:
                return int(point["labels"])
            part = (accuracy - before["accuracy"]) / (point["accuracy"] - before["accuracy"])
            return int(np.ceil(before["labels"] + max(0.0, part) * (point["labels"] - before["labels"])))
        before = point
    return None


def _stopping(
    strategies: Sequence[str], by: Mapping[Any, Any], seeds: Sequence[int], numbers: Sequence[int]
) -> list[dict[str, Any]]:
    """Where predictions were stable (stopping.py), and what further labels then brought."""
    found = []
    for strategy in strategies:
        stops = []
        for seed in seeds:
            rows = [by[strategy, seed, number] for number in numbers if (strategy, seed, number) in by]
            for at in range(WINDOW, len(rows)):
                if is_stable([row["stability"] for row in rows[: at + 1]]):
                    stops.append((rows[at]["labels"], rows[-1]["accuracy"] - rows[at]["accuracy"]))
                    break
        found.append(
            {
                "strategy": strategy,
                "rule": "stable predictions",
                "stopped": len(stops),
                "seeds": len(seeds),
                "labels": float(np.mean([labels for labels, _ in stops])) if stops else None,
                "accuracy_lost": float(np.mean([lost for _, lost in stops])) if stops else None,
            }
        )
    return found
