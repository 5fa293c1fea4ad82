"""The warnings of a report: what in a data set is probably not as it was meant."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cluster.examples.splits import SPLITS
from cluster.formats import count, plural, share
from pipelines.prepare.config import MOST_COPIES, PrepareConfig
from pipelines.prepare.report.schema import counts_below
from pipelines.prepare.stages.classes import ClassCounts

_WARN_REMOVED = 0.5
_WARN_SHARE = 0.02  # of the data set, by which a source differs from its share
_WARN_OFF = 0.01  # of the records, by which a split differs from its share
_LARGE_GROUP = 20  # records; a smaller group is no warning, whatever the shares
_EXPECTED = 5  # records of a source or stratum in a split; with fewer, none there is chance
_RECORDS_GONE = 2  # of a class; one record is chance
_MEANT = {"validate/not_allowed", "validate/language_not_kept"}  # what a setting removes by its value
_SHOWN = 5  # classes that a warning names
_SETTING = re.compile(r"`((?:validate|split|dedup|duplicates)\.[\w.]+)`")


def data_set_warnings(
    config: PrepareConfig,
    totals: dict[str, int],
    splits: dict[str, int],
    sources: list[dict[str, Any]],
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
        if written and not one["records"]:
            unread = plural(one["quarantined"], "row")
            found.append(f"source {one['source']}: it has no record; in quarantine: {unread} that could not be read.")
        elif written and not kept:
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


def class_warnings(classes: Mapping[str, Sequence[ClassCounts]], meanings: Mapping[str, str]) -> list[str]:
    """About classes of which no record is in the data set, because one rule removed most of them.

    meanings: reason -> what it says of a record.
    """
    found = []
    for field, values in classes.items():
        gone = [
            one
            for one in values
            if not sum(one["splits"].values())
            and sum(one["removed"].values()) >= _RECORDS_GONE
            and 2 * max(one["removed"].values()) > sum(one["removed"].values())
            and not _MEANT & one["removed"].keys()
        ]
        if not gone:
            continue
        reasons = sum((Counter(one["removed"]) for one in gone), Counter())
        place, number = reasons.most_common(1)[0]
        reason = place.partition("/")[2]
        setting = _SETTING.search(meanings.get(reason, ""))
        shown = ", ".join(one["value"] for one in gone[:_SHOWN]) + (", .." if len(gone) > _SHOWN else "")
        found.append(
            f"{field}: {count(len(gone))} of {plural(len(values), 'value')} {'has' if len(gone) == 1 else 'have'} no "
            f"record in the data set ({shown}): {reason} removed {count(number)} of their "
            f"{plural(reasons.total(), 'record')}"
            + (f", by `{setting[1]}`. Change it if these records are good." if setting else ".")
        )
    return found


def split_warnings(
    config: PrepareConfig,
    split: dict[str, float],
    sources: Sequence[dict[str, Any]],
    classes: Mapping[str, Sequence[ClassCounts]],
) -> list[str]:
    """About shares that could not be kept, a group that is larger than a split, and sources and strata that a split
    lacks. split: the counters of the split's stage.
    """
    assigned = {name: int(split.get(f"assigned/{name}", 0)) for name in SPLITS}
    total, wanted = sum(assigned.values()), dict(zip(SPLITS, config.split.shares, strict=True))
    if not total:
        return []
    swallowed = [
        one["source"]
        for number, one in enumerate(sources)
        if len(sources) > 1 and sum(one["splits"].values()) == split.get(f"component/source/{number}", 0) > 0
    ]
    found = list(_large_group(config, split, swallowed, total, wanted))
    off = max(abs(assigned[name] - wanted[name] * total) for name in SPLITS)
    if off > max(1, _WARN_OFF * total):
        has = ", ".join(f"{name} {share(assigned[name], total)} of {wanted[name]:.0%}" for name in SPLITS)
        earlier = "new" in split and split["new"] < total
        why = "records of an earlier run stay where they are" if earlier else "groups of records are not divided"
        largest = f"; the largest group has {plural(int(split.get('component/records', 0)), 'record')}"
        found.append(
            f"split: {has}, {plural(round(off), 'record')} off at the most, because {why}{'' if earlier else largest}."
        )
    strata = {name: classes[name] for name in config.split.stratify if name in classes}
    parts = {"source": [(one["source"], one["splits"]) for one in sources] if len(sources) > 1 else []}
    parts |= {name: [(one["value"], one["splits"]) for one in values] for name, values in strata.items()}
    for field, values in parts.items():
        lacking = (
            value
            for value, counts in values
            if any(
                assigned[name] and not counts.get(name) and wanted[name] * sum(counts.values()) < _EXPECTED
                for name in SPLITS
            )
        )
        if field in strata and (rare := list(lacking)):
            named = ", ".join(rare[:_SHOWN]) + (", .." if len(rare) > _SHOWN else "")
            found.append(
                f"{field}: {len(rare)} of {plural(len(values), 'value')} have too few records for one in each split "
                f"({named}), so a score on the splits that lack them says nothing of them."
            )
        for value, counts in values:
            records = sum(counts.values())
            lacks = [
                name
                for name in SPLITS
                if assigned[name] and not counts.get(name) and wanted[name] * records >= _EXPECTED
            ]
            if lacks:
                mend = (
                    ""
                    if field in config.split.stratify or value in swallowed
                    else f" `split.stratify: [{field}]` gives each its share."
                )
                found.append(
                    f"{field} {value}: none of its {plural(records, 'record')} is in {' or '.join(lacks)}.{mend}"
                )
    return found


def _large_group(
    config: PrepareConfig,
    split: dict[str, float],
    swallowed: Sequence[str],
    total: int,
    wanted: Mapping[str, float],
) -> Iterator[str]:
    """The warning of a group that is larger than a split's share. swallowed: sources without other records."""
    records = int(split.get("component/records", 0))
    smaller = [name for name in SPLITS if 0 < wanted[name] * total < records]
    if records < _LARGE_GROUP or not smaller:
        return
    without = counts_below(split, "component/without/")
    names = {"questions": "equal questions", "duplicates": "near-duplicates", "parents": "a text they were made of"}
    mends = {"questions": "`duplicates.questions: remove`", "duplicates": "`dedup.remove: true`"}
    joined = " and ".join(names.get(name, name) for name in without) or " and ".join(config.split.group) or "one value"
    parts = "; ".join(f"without {names.get(name, name)} its largest part has {n:,}" for name, n in without.items())
    settings = [f"`split.group` without {name}" for name in without if name in config.split.group]
    settings += [mends[name] for name in without if name in mends]
    yield (
        f"one group has {count(records)} of {plural(total, 'record')} ({share(records, total)}), more than the share "
        f"of {' and '.join(smaller)}, and all of it is in {SPLITS[int(split['component/split'])]}. Its records are "
        f"joined by {joined}{f' ({parts})' if parts else ''}."
        + (f" It has every record of source {', '.join(swallowed)}." if swallowed else "")
        + (f" To divide it: {', or '.join(settings)}." if settings else "")
    )


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
