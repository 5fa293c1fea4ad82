"""The report of a run, from the counters of its stages, and its warnings: what is probably not as it was meant."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from raymill import cluster
from raymill.cluster.artifact import Artifact
from raymill.cluster.examples import content
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.formats import count, plural, share
from raymill.cluster.readers.inputs import CUT_KINDS, STORES
from raymill.cluster.readers.listing import skipped_text
from raymill.cluster.readers.quarantine import loss_warnings, quarantine_entries
from raymill.cluster.readers.reader import PROBLEMS
from raymill.cluster.readers.units import InputManifest
from raymill.pipelines.prepare.augment import variants
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.records import tables, validate
from raymill.pipelines.prepare.records.fields import AUGMENT, CLASSES, ClassCounts, classes_of
from raymill.pipelines.prepare.records.patches import Patches
from raymill.pipelines.prepare.stages.augment import AUGMENTED
from raymill.pipelines.prepare.stages.collect import CUT_EXAMPLES, QUARANTINE, RECORDS
from raymill.pipelines.prepare.stages.split import MOST_COPIES
from raymill.pipelines.prepare.stages.split_stage import SPLIT_FILES
from raymill.pipelines.prepare.stages.write import EXAMPLES, REMOVED, REMOVED_EXAMPLES

PrepareReport = dict[str, Any]
# stage -> what the report calls its removed records.
STAGES = {
    "collect": "not readable",
    "table": "rows dropped",
    "validate": "fail a rule",
    "relevance": "unrelated",
    "duplicates": "duplicates",
    "contradictions": "contradictory",
    "outliers": "outliers",
    "mixture": "over a share",
    "synthetic": "synthetic",
    "balance": "over a class",
    "augment": "no variant",
}
LEFT_OUT_STAGES = ("relevance", "contradictions", "outliers", "mixture", "synthetic", "balance")
ANSWER_SHOWN = 300  # characters
EXAMPLE_SHOWN = 600  # characters of a removed record
# stage: a key of STAGES; collect is quarantine. example: the first record, none of listed ones; its value and limit are
# as in the ledger, of quarantine where it was; its text is the beginning.
_REASONS = [{
    "stage": str, "reason": str, "meaning": str, "records": int,
    "example?": {
        "id": str | None, "source": str, "value": str | None, "limit": str | None, "partner": str | None, "text": str,
    },
}]  # fmt: skip
REPORT = {
    "name": str, "finished": str, "version": str, "output": str, "shape": str,
    "totals": dict[str, int],
    "splits": dict[str, int],
    # records: that were read and are records; passed: of these, those that meet all rules.
    "sources": [{
        "source": str, "licence": str | None, "quarantined": int, "records": int, "passed": int,
        "splits": dict[str, int],
    }],
    "reasons": _REASONS,
    # Texts that readers and cleaning took out of records. example: the beginning of one.
    "cut": [{"source": str, "kind": str, "meaning": str, "pieces": int, "characters": int, "example": str}],
    "listed": _REASONS,  # records of the splits that were found and stay
    "contradictions": [{"question": str, "answers": [{"id": str, "answer": str}]}],  # examples
    "straddling": dict[str, int],  # group -> number of values that are in more than one split
    # Records for validation or testing that are older than the newest training record; null without `split.by_time`.
    "older?": int | None,
    "stages?": dict[str, int],  # of the curriculum -> records
    # Records of each split before balancing, without synthetic ones that may only be in train.
    "assigned?": dict[str, int],
    # Synthetic records: operation of their provenance -> split -> records.
    "made?": dict[str, dict[str, int]],
    # Class of `augment.by` -> `records` of training, with repeated ones, and their `variants`.
    "variants?": dict[str, dict[str, int]],
    "personal_data?": dict[str, int],  # findings that were replaced, by place
    # Records that models generated, by model and terms of its answers.
    "generated?": [{"generator": str, "terms": str | None, "splits": dict[str, int]}],
    # Corrections: source -> records that were corrected, and the numbers of those that changed nothing.
    "patches?": {"applied": dict[str, int], "other_value": int, "no_record": int, "proposed": int},
    # What endpoints were asked for text vectors: tries by outcome, tokens, and what they cost by `price`.
    "embeddings?": [{
        "model": str, "endpoint": str, "tries": int, "outcomes": dict[str, int], "tokens": int, "cost": float | None,
        "cost_uncounted": float | None,
    }],
    "classes?": dict[str, list],  # of each field that has few values: stages.classes.ClassCounts
    "passed?": bool,  # whether no gate failed when the data set was made
    "warnings": [str],
    "notes": [str],
    "config": dict[str, Any],
}  # fmt: skip
REQUIRED = tuple(key for key in REPORT if not key.endswith("?"))
_WARN_REMOVED = 0.5
_WARN_SHARE = 0.02  # of the data set, by which a source differs from its share
_WARN_REFUSED = 0.1  # fraction of variants left out, above which a warning is given
_WARN_OFF = 0.01  # of the records, by which a split differs from its share
_LARGE_GROUP = 20  # records; a smaller group is no warning, whatever the shares
_EXPECTED = 5  # records of a source or stratum in a split; with fewer, none there is chance
_RECORDS_GONE = 2  # of a class; one record is chance
_MEANT = {"validate/not_allowed", "validate/language_not_kept"}  # what a setting removes by its value
_SHOWN = 5  # classes that a warning names
_SETTING = re.compile(r"`((?:validate|split|dedup|duplicates)\.[\w.]+)`")
_LEFT_OUT = {
    "over_share": "more records of the source than its `share` allows",
    "over_class": "more records of the class than `split.balance` allows in training",
    "over_synthetic": "more records that a model or augmentation made than `split.synthetic` allows in the split",
    "exact_duplicate": "the same text as an earlier record",
    "near_duplicate": "a text like an earlier record's, by `dedup.threshold`",
    "same_question": "the same question as another record",
    "near_question": "a question like another record's, by `dedup.threshold`",
    "same_answer": "the same answer as another record",
    "near_answer": "an answer like another record's, by `dedup.threshold`",
    "unrelated_answer": "question and answer have less similar vectors than `validate.answer_relevance`",
    "outlier": "lengths or letters far from those of other records, by `validate.outliers`",
    "contradictory": "a question to which another record has a different answer",
}
_MEANINGS = {**PROBLEMS, **content.REASONS, **tables.REASONS, **validate.REASONS, **_LEFT_OUT, **variants.REASONS}


def counts_below(counters: dict[str, float], prefix: str) -> dict[str, int]:
    """The counters whose names begin with a prefix, by the rest of their names."""
    return {key.removeprefix(prefix): int(value) for key, value in counters.items() if key.startswith(prefix)}


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
            if not sum(split.get(f"assigned/{name}", 1) for name in SPLITS):
                few = (
                    f"all records are synthetic, and split.synthetic.{part} is "
                    f"{getattr(config.split.synthetic, part):g}. Add records that no model made, or set it to 1"
                )
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
                fix = (
                    ""
                    if field in config.split.stratify or value in swallowed
                    else f" `split.stratify: [{field}]` gives each its share."
                )
                found.append(
                    f"{field} {value}: none of its {plural(records, 'record')} is in {' or '.join(lacks)}.{fix}"
                )
    return found


def _large_group(
    config: PrepareConfig, split: dict[str, float], swallowed: Sequence[str], total: int, wanted: Mapping[str, float]
) -> Iterator[str]:
    """The warning of a group that is larger than a split's share. swallowed: sources without other records."""
    records = int(split.get("component/records", 0))
    smaller = [name for name in SPLITS if 0 < wanted[name] * total < records]
    if records < _LARGE_GROUP or not smaller:
        return
    without = counts_below(split, "component/without/")
    names = {"questions": "equal questions", "duplicates": "near-duplicates", "parents": "a text they were made of"}
    names |= {"generated": "a record that a model was asked about"}
    fixes = {"questions": "`duplicates.questions: remove`", "duplicates": "`dedup.remove: true`"}
    joined = " and ".join(names.get(name, name) for name in without) or " and ".join(config.split.group) or "one value"
    parts = "; ".join(f"without {names.get(name, name)} its largest part has {n:,}" for name, n in without.items())
    settings = [f"`split.group` without {name}" for name in without if name in config.split.group]
    settings += [fixes[name] for name in without if name in fixes]
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


def augment_warnings(config: PrepareConfig, split: dict[str, float], written: dict[str, float]) -> list[str]:
    """Warnings about classes that stay smaller than wanted, and variants that were left out or exceed a limit.

    split, written: counters of the stages `split` and `write`.
    """
    found = []
    if smaller := int(split.get("variants/smaller", 0)):
        found.append(
            f"augment: {plural(smaller, 'class', 'es')} cannot be filled up to augment.to, because no record has more "
            "variants than augment.most_variants. Set it to a larger number, or augment.to to a smaller one."
        )
    if over := int(split.get("variants/over", 0)):
        found.append(
            f"augment: {plural(over, 'variant')} {'was' if over == 1 else 'were'} not made, because "
            f"split.synthetic.train allows {config.split.synthetic.train:.0%} of the training split."
        )
    refused, wanted = sum(counts_below(written, "removed/augment/").values()), int(split.get("variants/wanted", 0))
    if refused > _WARN_REFUSED * wanted:
        found.append(
            f"augment: {share(refused, wanted)} of the variants are left out; the reasons are in the report. Add "
            "operations, or change the bounds in augment."
        )
    return found


def fetch_warnings(config: PrepareConfig, fetched: Sequence[dict[str, Any]]) -> list[str]:
    """About sources whose first page has nothing that leads to the next one."""
    lacking = {one["source"] for one in fetched if one.get("lacks_next")}
    return [
        f"source {one.source}: its first answer has nothing at api.paging.field, {one.api.paging.field}, so there was "
        "no second request. If there are more pages, correct the path and run again with --replace."
        for one in config.inputs
        if one.api and one.source in lacking
    ]


_NO_PATCHES = Patches()


def _corrected(patches: Patches, collected: dict[str, float]) -> dict[str, Any]:
    applied, other = counts_below(collected, "patched/"), int(collected.get("patch-other-value", 0))
    return {
        "applied": applied,
        "other_value": other,
        "no_record": max(0, len(patches.edits) - sum(applied.values()) - other),
        "proposed": patches.proposed,
    }


def patch_warnings(corrected: Mapping[str, Any] | None) -> Iterator[str]:
    """About corrections that changed nothing. corrected: `patches` of the report."""
    if corrected is None:
        return
    if other := corrected["other_value"]:
        yield f"patches: {plural(other, 'correction')} changed nothing: the record has another value than `old`."
    if gone := corrected["no_record"]:
        yield f"patches: {plural(gone, 'correction')} changed nothing: no record has this id."
    if proposed := corrected["proposed"]:
        yield (
            f"patches: {plural(proposed, 'correction')} changed nothing: nobody has accepted them. Set their `status` "
            "to accepted, or have the records labelled by `raymill annotate`."
        )


def gather(
    config: PrepareConfig,
    inputs: InputManifest,
    artifacts: dict[str, Artifact],
    root: str,
    fetched: Sequence[dict[str, Any]] = (),
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    patches: Patches = _NO_PATCHES,
) -> PrepareReport:
    """The report of finished stages.

    fetched: the records of the sources that are not files. notes, warnings: on the sources. patches: of the config.
    """
    collected = artifacts[RECORDS].manifest.counters
    split = artifacts[SPLIT_FILES].manifest.counters
    written = artifacts[REMOVED].manifest.counters
    splits = {split: int(written.get(f"split/{split}", 0)) for split in SPLITS}
    sources = [
        {
            "source": one.source,
            "licence": one.licence,
            "quarantined": sum(counts_below(collected, f"problem/{one.source}/").values()),
            "records": int(collected.get(f"records/{one.source}", 0)),
            "passed": int(collected.get(f"passed/{one.source}", 0)),
            "splits": {split: int(written.get(f"split/{split}/{one.source}", 0)) for split in SPLITS},
        }
        for one in config.inputs
    ]
    made = _made(written)
    totals = {
        "quarantined": int(collected["quarantined"]),
        "records": int(collected["records"]),
        "rejected": int(collected["records"] - collected["passed"]),
        "duplicates": sum(counts_below(written, "removed/duplicates/").values()),
        "left_out": sum(sum(counts_below(written, f"removed/{stage}/").values()) for stage in LEFT_OUT_STAGES),
        "repeated": int(written.get("repeated", 0)),
        "augmented": int(written.get("augmented", 0)),
        "synthetic": sum(sum(of.values()) for step, of in made.items() if not step.startswith(AUGMENT)),
        "written": sum(splits.values()),
        "personal_data": int(collected["replaced"]),
    }
    straddling = counts_below(split, "straddling/")
    corrected = _corrected(patches, collected) if config.patches else None
    on_inputs, on_records = _notes(config, inputs, collected, split)
    classes = {name: some for name, some in classes_of(artifacts[CLASSES]).items() if name not in config.split.group}
    return {
        "name": config.name,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": cluster.__version__,
        "output": root,
        "shape": config.records.shape,
        "totals": totals,
        "personal_data": counts_below(collected, "replaced/"),
        "splits": splits,
        "sources": sources,
        "reasons": _with_examples(_reasons(collected, written), artifacts),
        "cut": _cut(config, collected, artifacts[CUT_EXAMPLES]),
        "listed": _ranked({("listed", reason): number for reason, number in counts_below(written, "listed/").items()}),
        "contradictions": _contradictions(artifacts[EXAMPLES]),
        "straddling": straddling,
        "older": int(split["older"]) if "older" in split else None,
        "stages": counts_below(split, "stage/"),
        "assigned": counts_below(split, "assigned/"),
        "generated": _generated(written),
        "made": made,
        "variants": _variants(artifacts),
        **({"patches": corrected} if corrected else {}),
        "classes": classes,
        "warnings": [
            *data_set_warnings(config, totals, splits, sources, split, straddling),
            *class_warnings(classes, _MEANINGS),
            *split_warnings(config, split, sources, classes),
            *time_warnings(collected, split),
            *balance_warnings(config, split),
            *augment_warnings(config, split, written),
            *fetch_warnings(config, fetched),
            *patch_warnings(corrected),
            *warnings,
            *loss_warnings(quarantine_entries(artifacts[QUARANTINE])),
        ],
        "notes": [*map(_fetched, fetched), *inputs.notes, *on_inputs, *notes, *on_records],
        "config": config.model_dump(mode="json", by_alias=True, exclude=STORES),
    }


def _generated(written: dict[str, float]) -> list[dict[str, Any]]:
    """The entry `generated` of the report. written: the counters of the stage `write`."""
    found: dict[tuple[str, str | None], dict[str, int]] = {}
    for split in SPLITS:
        for by, records in counts_below(written, f"generated/{split}/").items():
            found.setdefault(tuple(json.loads(by)), dict.fromkeys(SPLITS, 0))[split] += records
    ranked = sorted(found.items(), key=lambda one: (-sum(one[1].values()), str(one[0])))
    return [{"generator": model, "terms": terms, "splits": splits} for (model, terms), splits in ranked]


def _made(written: dict[str, float]) -> dict[str, dict[str, int]]:
    """Synthetic records of each split by operation, the most frequent first. written: counters of `write`."""
    found: dict[str, dict[str, int]] = {}
    for key, number in counts_below(written, "made/").items():
        split, _, operation = key.partition("/")
        found.setdefault(operation, dict.fromkeys(SPLITS, 0))[split] = number
    return dict(sorted(found.items(), key=lambda one: (-sum(one[1].values()), one[0])))


def _variants(artifacts: Mapping[str, Artifact]) -> dict[str, dict[str, int]]:
    """Records and variants of each class of `augment.by`, the smallest classes first."""
    counters = artifacts[AUGMENTED].manifest.counters if AUGMENTED in artifacts else {}
    made, has = counts_below(counters, "class-variants/"), counts_below(counters, "class/")
    ranked = sorted(has.items(), key=lambda one: (one[1], one[0]))
    return {name: {"records": number, "variants": made.get(name, 0)} for name, number in ranked}


def _fetched(record: dict[str, Any]) -> str:
    rows, answers = plural(record["rows"], "row"), plural(record["answers"], "answer")
    failed = f", {count(record['failed'])} not readable" if record["failed"] else ""
    return f"Source {record['source']}: {rows} in {answers} of {record['asked']}{failed}, fetched {record['ended']}."


def _notes(
    config: PrepareConfig, inputs: InputManifest, collected: dict[str, float], split: dict[str, float]
) -> tuple[list[str], list[str]]:
    """(sentences on the files and parts of files that were passed over, and on what readers left out of texts; on texts
    that were divided, and on records that an earlier run has).
    """
    found, after = [], []
    parts = counts_below(collected, "parts/")
    for one in config.inputs:
        of_files, of_rows = inputs.skipped.get(one.source, {}), counts_below(collected, f"skipped/{one.source}/")
        if counts := Counter(of_files) + Counter(of_rows):
            found.append(f"Source {one.source}: passed over: {skipped_text(counts)}.")
        notes = counts_below(collected, f"note/{one.source}/").items()
        found += [f"Source {one.source}: {count(number)} {note}." for note, number in notes]
        if one.source in parts:
            after.append(
                f"Source {one.source}: {plural(int(collected[f'divided/{one.source}']), 'text')} longer than "
                f"`records.section_chars` became {plural(parts[one.source], 'record')}, by headings and paragraphs."
            )
    if "new" in split and split["new"] != split["records"]:
        old, new = plural(int(split["records"] - split["new"]), "record"), count(int(split["new"]))
        after.append(
            f"{old} stay in the split where an earlier run (split.keep, split.stable) has them; {new} are new."
        )
    return found, after


def _cut(config: PrepareConfig, collected: dict[str, float], examples: Artifact) -> list[dict[str, Any]]:
    """What was taken out of texts, of each source by number."""
    first: dict[tuple[str, str], str] = {}
    for row in examples.table().to_pylist():
        first.setdefault((row["source"], row["kind"]), row["text"])
    return [
        {
            "source": one.source,
            "kind": kind,
            "meaning": CUT_KINDS[kind],
            "pieces": pieces,
            "characters": int(collected[f"cut-characters/{one.source}/{kind}"]),
            "example": first[one.source, kind][:ANSWER_SHOWN],
        }
        for one in config.inputs
        for kind, pieces in sorted(counts_below(collected, f"cut/{one.source}/").items(), key=lambda one: -one[1])
    ]


def _reasons(collected: dict[str, float], written: dict[str, float]) -> list[dict[str, Any]]:
    counts: dict[tuple[str, str], int] = {}
    for key, number in counts_below(collected, "problem/").items():
        reason = key.rpartition("/")[2]
        counts["collect", reason] = counts.get(("collect", reason), 0) + number
    for key, number in counts_below(written, "removed/").items():
        stage, _, reason = key.partition("/")
        counts[stage, reason] = number
    return _ranked(counts)


def _with_examples(reasons: list[dict[str, Any]], artifacts: dict[str, Artifact]) -> list[dict[str, Any]]:
    """The reasons, each with its first record."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in (row for table in artifacts[REMOVED_EXAMPLES].tables() for row in table.to_pylist()):
        example = {key: row[key] for key in ("id", "source", "value", "limit", "partner")}
        found.setdefault((row["stage"], row["reason"]), example | {"text": _text_of(row["content"])})
    lacking = {one["reason"] for one in reasons if one["stage"] == "collect"}
    for row in (row for table in artifacts[QUARANTINE].tables() for row in table.to_pylist()):
        if not lacking:
            break
        if row["problem"] in lacking:
            lacking.remove(row["problem"])
            example = {"id": None, "source": row["source"], "value": row["where"], "limit": None, "partner": None}
            found["collect", row["problem"]] = example | {"text": (row["content"] or "")[:EXAMPLE_SHOWN]}
    for one in reasons:
        if (one["stage"], one["reason"]) in found:
            one["example"] = found[one["stage"], one["reason"]]
    return reasons


def _text_of(content: str) -> str:
    """The texts of a record of the ledger. content: the beginning of its columns as JSON."""
    try:
        columns = json.loads(content)
    except ValueError:  # it was cut
        return content[:EXAMPLE_SHOWN]
    lines = []
    for name, value in columns.items():
        turns = value if isinstance(value, list) else [{"role": name, "content": value}]
        said = [
            (name if name in ("chosen", "rejected") else one.get("role", name), str(one.get("content")))
            for one in turns
            if isinstance(one, dict)
        ]
        # Marks of Markdown count at the beginning of a line.
        lines += [role + (":\n\n" if "\n" in text else ": ") + text for role, text in said]
    return "\n\n".join(lines)[:EXAMPLE_SHOWN]


def _ranked(counts: dict[tuple[str, str], int]) -> list[dict[str, Any]]:
    """By stage in order, then by number. counts: (stage, reason) -> records."""
    order = (*STAGES, "listed")
    ranked = sorted(counts.items(), key=lambda one: (order.index(one[0][0]), -one[1], one[0][1]))
    # `empty` is a reason of rules as well as of what is no record.
    meanings = {"collect": _MEANINGS | content.REASONS}

    def meaning(stage: str, reason: str) -> str:
        return meanings.get(stage, _MEANINGS).get(
            reason, "a check of your own, of `validate.custom` or `validate.rules.custom`"
        )

    return [
        {"stage": stage, "reason": reason, "meaning": meaning(stage, reason), "records": number}
        for (stage, reason), number in ranked
    ]


def _contradictions(examples: Artifact) -> list[dict[str, Any]]:
    by_question: dict[int, dict[str, Any]] = {}
    for row in examples.table().to_pylist():
        one = by_question.setdefault(row["contradictory"], {"question": row["question"], "answers": []})
        one["answers"].append({"id": row["id"], "answer": row["answer"][:ANSWER_SHOWN]})
    return [by_question[number] for number in sorted(by_question)]
