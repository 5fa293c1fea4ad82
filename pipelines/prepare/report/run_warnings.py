"""The warnings of a report: what in a data set is probably not as it was meant."""

from collections.abc import Sequence
from typing import Any

from cluster.page.formats import count, plural, share
from pipelines.prepare.config import MOST_COPIES, PrepareConfig
from pipelines.prepare.report.schema import SourceCounts, counts_below
from pipelines.prepare.stages.split import SPLITS

_WARN_REMOVED = 0.5
_WARN_SHARE = 0.02  # of the data set, by which a source differs from its share


def data_set_warnings(
    config: PrepareConfig,
    totals: dict[str, int],
    splits: dict[str, int],
    sources: list[SourceCounts],
    split: dict[str, float],
    straddling: dict[str, int],
) -> list[str]:
    """About empty splits, shares of sources, equal ids, many removed records, and groups in several splits.

    Args:
        totals, splits, sources, straddling: of the report. split: the counters of the split's stage.
    """
    found = []
    written = totals["written"]
    if not written:
        found.append(f"the data set is empty: none of {plural(totals['records'], 'record')} is left.")
    for part, wanted in zip(SPLITS, config.split.shares, strict=True):
        if written and wanted and not splits[part]:
            few = f"{plural(written, 'record')} {'is' if written == 1 else 'are'} too few, or of one group"
            found.append(f"the split {part} is empty: {few}.")
    for one, entry in zip(sources, config.inputs, strict=True):
        kept = sum(one["splits"].values())
        if written and not kept:
            found.append(f"source {one['source']}: none of its {plural(one['records'], 'record')} is in the data set.")
        elif entry.share is not None and abs(kept - entry.share * totals["written"]) > _WARN_SHARE * totals["written"]:
            found.append(
                f"source {one['source']}: {share(kept, totals['written'])} of the data set, where its share is "
                f"{entry.share:.1%}; it has {plural(one['passed'], 'record')} that meet all rules."
            )
    if same := int(split.get("same_id", 0)):
        found.append(
            f"{plural(same, 'record')} {'has' if same == 1 else 'have'} the id of another record, by which "
            "`split.keep`, `dataset diff` and the ledger name them. Give `id` a column whose values differ."
        )
    if totals["records"] and totals["rejected"] > _WARN_REMOVED * totals["records"]:
        found.append(
            f"{share(totals['rejected'], totals['records'])} of the records fail a rule. The reasons are in the "
            "report; bounds are set in `validate`."
        )
    for group, values in straddling.items():
        if values:
            found.append(
                f"{plural(values, 'value')} of {group} {'is' if values == 1 else 'are'} in more than one split, "
                "because an earlier run (split.keep, split.stable) has their records there."
            )
    return found


def time_warnings(collected: dict[str, float], split: dict[str, float]) -> list[str]:
    """About records without a time, and a split by time that is not exact; from the counters of two stages."""
    found = []
    if without := sum(number for key, number in collected.items() if key.endswith("/no_time")):
        found.append(
            f"{plural(int(without), 'record')} without a time for split.by_time are in the ledger, as no_time."
        )
    if older := int(split.get("older", 0)):
        found.append(
            f"{plural(older, 'record')} for validation or testing are older than the newest training record: their "
            "group has newer ones, or earlier runs (split.keep, split.stable) have records there."
        )
    return found


def balance_warnings(config: PrepareConfig, split: dict[str, float]) -> list[str]:
    """About classes that stay smaller than wanted; from the counters of the split's stage."""
    found, balance = counts_below(split, "balance/"), config.split.balance
    if balance is not None and isinstance(balance.to, dict):
        lacking = counts_below(split, "lacking/")
        return [
            f"split.balance: {value} has {count(number)} of the {plural(balance.to[value], 'record')} "
            f"wanted in training, because no record is written more than {plural(balance.most_copies, 'time')}. Set "
            "split.balance.most_copies to a larger number, or split.balance.to to a smaller one."
            for value, number in lacking.items()
        ]
    if not found or balance is None:
        return []
    enough = -(-found["wanted"] // found["smallest"])
    copies = f"set split.balance.most_copies to {count(enough)}, or " if enough <= MOST_COPIES else "set "
    classes = "1 class has" if found["smaller"] == 1 else f"{count(found['smaller'])} classes have"
    return [
        f"split.balance: {classes} fewer than the {plural(found['wanted'], 'record')} wanted, because no record is "
        f"written more than {plural(balance.most_copies, 'time')}; the smallest has "
        f"{plural(found['smallest'], 'record')}. For equal classes {copies}split.balance.to to a smaller number."
    ]


def fetch_warnings(config: PrepareConfig, fetched: Sequence[dict[str, Any]]) -> list[str]:
    """About sources whose first page has nothing that leads to the next one."""
    lacking = {one["source"] for one in fetched if one.get("lacks_next")}
    return [
        f"source {one.source}: its first answer has nothing at api.paging.field, {one.api.paging.field}, so there was "
        "no second request. If there are more pages, correct the path and run again with --replace."
        for one in config.inputs
        if one.api and one.source in lacking
    ]
