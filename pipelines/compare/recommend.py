"""The recommendation: of the models that are not decidedly worse than the best, the one that costs least.

    candidates   models that are not decidedly worse in `score` than the one with the highest (paired, corrected)
    forgetting   candidates whose rise in bits per byte of general text is decidedly above the bound, and trained ones
                 whose rise is not known, are passed over, if others are left
    answer       of the rest those whose cost to answer is within 10% of the lowest
    training     of these the one that cost least to train; untrained models cost nothing

Costs are money where it is known of all that are compared, else seconds: of an answer, and of workers that train.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raymill.cluster.formats import money, plural

_LEVEL = 0.05
_ALIKE = 1.1  # costs to answer up to this multiple of the lowest count as equal: seconds differ so from call to call

Row = Mapping[str, Any]


def recommended(rows: Sequence[Row], standing: Mapping[str, Any], most_forgetting: float | None) -> dict[str, Any]:
    """`model`, a letter, and `reasons`, sentences; model is None if no model has a right answer.

    Args:
        rows: of the table of approaches. standing: `best`, a letter, and `others`: letter -> its score less the best
            one's, with `difference`, `low`, `high`, `p_corrected`, `worse` and `needed`.
        most_forgetting: bits per byte; None: forgetting is not measured.
    """
    by_letter = {row["model"]: row for row in rows}
    best, others = standing["best"], standing["others"]
    score = by_letter[best]["score"]
    if score["value"] == 0:
        return {"model": None, "reasons": ["No model has a score above 0, so none is recommended."]}
    interval = "" if score["low"] is None else f" ({score['low']:.3f} to {score['high']:.3f})"
    reasons = [f"{best} has the highest score: {score['value']:.3f}{interval}."]
    for letter, one in others.items():
        seen = f"{one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f}"
        if one["worse"]:
            reasons.append(f"{letter} is decidedly worse than {best}: {seen}, p {one['p_corrected']:.2g}).")
        else:
            more = "no difference was seen" if not one["difference"] else "no number of items is known to decide it"
            if one["needed"] is not None:
                more = f"about {plural(one['needed'], 'more item')} decide a difference of this size"
            reasons.append(f"{letter} is not decidedly worse than {best}: {seen}); {more}.")
    candidates = [best, *(letter for letter, one in others.items() if not one["worse"])]
    if len(candidates) == len(rows):
        reasons.append("So no score is decided: more items may change this recommendation.")
    pool, against = _without_forgetting(candidates, by_letter, most_forgetting)
    reasons += against
    chosen, why = _cheapest([by_letter[one] for one in pool])
    return {"model": chosen, "reasons": reasons + why}


def _without_forgetting(
    candidates: Sequence[str], by_letter: Mapping[str, Row], bound: float | None
) -> tuple[Sequence[str], list[str]]:
    """(candidates without a rise that is decidedly above the bound or not known, or all of them if none is left; a
    reason for each other)."""
    kept, reasons = [], []
    for letter in candidates:
        found = by_letter[letter]["forgetting"]
        if bound is not None and (why := by_letter[letter]["forgetting_unknown"]) is not None:
            reasons.append(f"Against {letter}: its forgetting is not known. {why}")
            continue
        if bound is None or found is None or found["low"] <= bound or found["p_corrected"] > _LEVEL:
            kept.append(letter)
            continue
        reasons.append(
            f"Against {letter}: its loss on general text is {found['difference']:.3f} bits per byte above the loss of "
            f"its base ({found['low']:.3f} to {found['high']:.3f}); {bound:g} are allowed."
        )
    if not kept:
        return candidates, [*reasons, "All candidates are affected, so forgetting does not decide."]
    return kept, reasons


def _cheapest(rows: Sequence[Row]) -> tuple[str, list[str]]:
    """(the model that costs least to answer, then to train; why)."""
    if len(rows) == 1:
        return rows[0]["model"], [f"So {rows[0]['model']} is recommended."]
    answers, unit = _costs(rows, lambda row, name: row["answer"][name])
    reasons = [f"An answer costs: {_shown(answers, unit)}."]
    cheapest = min(answers, key=answers.__getitem__)
    alike = [row for row in rows if answers[row["model"]] <= _ALIKE * answers[cheapest]]
    if len(alike) == 1:
        return cheapest, [*reasons, f"{cheapest} costs least to answer, so it is recommended."]
    trainings, unit = _costs(alike, _of_training)
    chosen = min(trainings, key=trainings.__getitem__)
    names = ", ".join(trainings)
    reasons.append(f"{names} cost about the same to answer (within 10%). To train: {_shown(trainings, unit)}.")
    least = [letter for letter, cost in trainings.items() if cost == trainings[chosen]]
    if len(least) > 1:
        seen = "cost the same" if math.isfinite(trainings[chosen]) else "cost an unknown amount"
        return chosen, [
            *reasons,
            f"{' and '.join(least)} {seen} to train, so {chosen}, the first of them, is recommended.",
        ]
    return chosen, [*reasons, f"{chosen} cost least to train, so it is recommended."]


def _costs(rows: Sequence[Row], of: Callable[[Row, str], float | None]) -> tuple[dict[str, float], str]:
    """(letter -> cost, infinite if it is not known; its unit). of: the `money` or the `seconds` of a model."""
    found = {row["model"]: of(row, "money") for row in rows}
    unit = ""
    if None in found.values():
        found, unit = {row["model"]: of(row, "seconds") for row in rows}, " s"
    return {letter: math.inf if one is None else one for letter, one in found.items()}, unit


def _of_training(row: Row, name: str) -> float | None:
    """The cost of a training; 0 of a model that is not trained."""
    if not row["is_trained"]:
        return 0.0
    return row["training"] and row["training"][name]


def _shown(costs: Mapping[str, float], unit: str) -> str:
    """Costs as text, the lowest first."""
    ranked = sorted(costs.items(), key=lambda one: one[1])
    return ", ".join(
        f"{letter} " + ("not known" if math.isinf(one) else f"{money(one) if not unit else f'{one:.3g}'}{unit}")
        for letter, one in ranked
    )
