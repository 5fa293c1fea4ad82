"""The decision of a gate: bounds on the intervals of paired differences."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raymill.cluster.formats import plural
from raymill.pipelines.compare.config import LESS_IS_BETTER, GateBounds

_LEVEL = 0.05  # as LEVEL of paired.py, which loads scipy
LEAST_GROUPS = 6  # of fewer no test by signs finds p of 5%: 2 x 2^-5 is 6%
_MOST_TIMES = 1e4  # the interval beside the distance from the bound, of which the number of items is stated
_FOUND = (1.959964 + 0.841621) / 1.959964  # difference detected with power 0.8, in half-widths of its interval


def decided(gate: Mapping[str, GateBounds], comparisons: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`gate`, a row for each bound and comparison, `decision` and `passed`; null without a gate.

    promote: all bounds are met. keep: an interval is beyond its bound. undecided: none is, and a bound is inside of its
    interval. comparisons: those of the report, of the first model with each other one.
    """
    rows = [row for one in comparisons for name, bounds in gate.items() for row in _of_measure(name, bounds, one)]
    states = {row["state"] for row in rows}
    decision = "keep" if "failed" in states else "undecided" if "undecided" in states else "promote"
    return {"gate": rows, "decision": decision if rows else None, "passed": decision == "promote" if rows else None}


def _of_measure(name: str, bounds: GateBounds, compared: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    row = compared["measures"].get(name, {"items": 0, "one_sided": 0})
    about = {"measure": name, "beside": compared["b"], "gain": None, "low": None, "high": None, "items": row["items"]}
    groups = compared["equal_groups"]
    if not row["items"] or row["one_sided"] or (groups is not None and groups < LEAST_GROUPS):
        why = "no item has a finite value for both models"
        if row["one_sided"]:
            why = f"{plural(row['one_sided'], 'item')} with a finite value for one model only"
        elif row["items"]:
            why = f"the groups of items are as good as {groups:.2g} of equal size, and {LEAST_GROUPS} are needed"
        text = f"{name}: {why}, so the gain is not known"
        for bound, least in bounds.model_dump(exclude_none=True).items():
            yield about | {"bound": bound, "least": least, "state": "undecided", "needed": None, "text": text}
        return
    sign = -1 if name in LESS_IS_BETTER else 1
    gain, (low, high) = sign * row["difference"], sorted((sign * row["low"], sign * row["high"]))
    about |= {"gain": gain, "low": low, "high": high}
    shown = f"{name}: gain over {compared['b']} {gain:+.4g} ({low:+.4g} to {high:+.4g})"
    for bound, least in (("least_gain", bounds.least_gain), ("most_loss", bounds.most_loss)):
        if least is None:
            continue
        least = least if bound == "least_gain" else -least
        state = "passed" if low > least else "failed" if high < least else "undecided"
        text, needed = f"{shown}, wanted above {least:+.4g}", None
        if state == "undecided" and gain != least:
            root = abs(_FOUND * (high - low) / 2 / (gain - least))
            if root < _MOST_TIMES:
                needed = max(1, math.ceil(row["items"] * root * root) - row["items"])
                text += f"; about {plural(needed, 'more item')} decide it"
        yield about | {"bound": bound, "least": least, "state": state, "needed": needed, "text": text}
    if bounds.most_slice_loss is not None:
        worse = [
            one for one in compared["slices"] if one["high"] < -bounds.most_slice_loss and one["p_corrected"] <= _LEVEL
        ]
        text = f"{name} in slices: {plural(len(worse), 'slice')} with a loss above {bounds.most_slice_loss:g}"
        if worse:
            first = worse[0]
            text += f", such as {first['slice']} ({first['low']:+.4g} to {first['high']:+.4g})"
        if missing := compared["fields_left_out"]:
            text += f", and {plural(missing, 'metadata field')} without slices. Leave fields out of the data set"
        yield about | {
            "bound": "most_slice_loss",
            "least": -bounds.most_slice_loss,
            "state": "failed" if worse else "undecided" if missing else "passed",
            "needed": None,
            "text": text,
        }
