"""The report of a run, from the counters of its stages."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import cluster
from cluster.artifact import Artifact
from cluster.examples import content
from cluster.examples.splits import SPLITS
from cluster.formats import count, plural
from cluster.readers.inputs import CUT_KINDS, STORES
from cluster.readers.listing import skipped_text
from cluster.readers.reader import PROBLEMS
from cluster.readers.units import InputManifest
from pipelines.prepare.config import PrepareConfig
from pipelines.prepare.records import validate
from pipelines.prepare.report.run_warnings import (
    balance_warnings,
    class_warnings,
    data_set_warnings,
    fetch_warnings,
    split_warnings,
    time_warnings,
)
from pipelines.prepare.report.schema import (
    ANSWER_SHOWN,
    EXAMPLE_SHOWN,
    LEFT_OUT_STAGES,
    STAGES,
    PrepareReport,
    counts_below,
)
from pipelines.prepare.stages.classes import CLASSES, classes_of
from pipelines.prepare.stages.collect import CUT_EXAMPLES, QUARANTINE, RECORDS
from pipelines.prepare.stages.split_stage import SPLIT_FILES
from pipelines.prepare.stages.write import EXAMPLES, REMOVED, REMOVED_EXAMPLES
from pipelines.prepare.tables import frame

_LEFT_OUT = {
    "over_share": "more records of the source than its `share` allows",
    "over_class": "more records of the class than `split.balance` allows in training",
    "exact_duplicate": "the same text as an earlier record",
    "near_duplicate": "a text like that of an earlier record, by `dedup.threshold`",
    "same_question": "the same question as another record",
    "near_question": "a question like that of another record, by `dedup.threshold`",
    "same_answer": "the same answer as another record",
    "near_answer": "an answer like that of another record, by `dedup.threshold`",
    "unrelated_answer": "question and answer have less similar vectors than `validate.answer_relevance`",
    "outlier": "lengths or letters far from those of other records, by `validate.outliers`",
    "contradictory": "a question to which another record has a different answer",
}
_MEANINGS = {**PROBLEMS, **content.REASONS, **frame.REASONS, **validate.REASONS, **_LEFT_OUT}


def gather(
    config: PrepareConfig,
    inputs: InputManifest,
    artifacts: dict[str, Artifact],
    root: str,
    fetched: Sequence[dict[str, Any]] = (),
    notes: Sequence[str] = (),
) -> PrepareReport:
    """The report of finished stages. fetched: the records of the sources that are not files. notes: on the sources."""
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
    totals = {
        "quarantined": int(collected["quarantined"]),
        "records": int(collected["records"]),
        "rejected": int(collected["records"] - collected["passed"]),
        "duplicates": sum(counts_below(written, "removed/duplicates/").values()),
        "left_out": sum(sum(counts_below(written, f"removed/{stage}/").values()) for stage in LEFT_OUT_STAGES),
        "repeated": int(written.get("repeated", 0)),
        "written": sum(splits.values()),
        "personal_data": int(collected["replaced"]),
    }
    straddling = counts_below(split, "straddling/")
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
        "classes": classes,
        "warnings": [
            *data_set_warnings(config, totals, splits, sources, split, straddling),
            *class_warnings(classes, _MEANINGS),
            *split_warnings(config, split, sources, classes),
            *time_warnings(collected, split),
            *balance_warnings(config, split),
            *fetch_warnings(config, fetched),
        ],
        "notes": [
            *map(_fetched, fetched),
            *inputs.notes,
            *_passed_over(config, inputs, collected),
            *notes,
            *_divided(config, collected),
            *_kept(split),
        ],
        "config": config.model_dump(mode="json", by_alias=True, exclude=STORES),
    }


def _fetched(record: dict[str, Any]) -> str:
    rows, answers = plural(record["rows"], "row"), plural(record["answers"], "answer")
    failed = f", {count(record['failed'])} not readable" if record["failed"] else ""
    return f"Source {record['source']}: {rows} in {answers} of {record['asked']}{failed}, fetched {record['ended']}."


def _passed_over(config: PrepareConfig, inputs: InputManifest, collected: dict[str, float]) -> list[str]:
    """Sentences on the files and parts of files that were passed over, and on what readers left out of texts."""
    found = []
    for one in config.inputs:
        counts = Counter(inputs.skipped.get(one.source, {})) + Counter(
            counts_below(collected, f"skipped/{one.source}/")
        )
        if counts:
            found.append(f"Source {one.source}: passed over: {skipped_text(counts)}.")
        notes = counts_below(collected, f"note/{one.source}/").items()
        found += [f"Source {one.source}: {count(number)} {note}." for note, number in notes]
    return found


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


def _divided(config: PrepareConfig, collected: dict[str, float]) -> list[str]:
    """A sentence for each source with texts that were divided."""
    parts = counts_below(collected, "parts/")
    return [
        f"Source {one.source}: {plural(int(collected[f'divided/{one.source}']), 'text')} longer than "
        f"`records.section_chars` became {plural(parts[one.source], 'record')}, by headings and paragraphs."
        for one in config.inputs
        if one.source in parts
    ]


def _kept(split: dict[str, float]) -> list[str]:
    """A sentence about the records that an earlier run has."""
    if "new" not in split or split["new"] == split["records"]:
        return []
    old, new = plural(int(split["records"] - split["new"]), "record"), count(int(split["new"]))
    return [f"{old} stay in the split where an earlier run (split.keep, split.stable) has them; {new} are new."]


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
        said = [(one.get("role", name), str(one.get("content"))) for one in turns if isinstance(one, dict)]
        # Marks of Markdown count at the beginning of a line.
        lines += [role + (":\n\n" if "\n" in text else ": ") + text for role, text in said]
    return "\n\n".join(lines)[:EXAMPLE_SHOWN]


def _ranked(counts: dict[tuple[str, str], int]) -> list[dict[str, Any]]:
    """By stage in order, then by number. counts: (stage, reason) -> records."""
    order = (*STAGES, "listed")
    ranked = sorted(counts.items(), key=lambda one: (order.index(one[0][0]), -one[1], one[0][1]))
    return [
        {"stage": stage, "reason": reason, "meaning": _meaning(stage, reason), "records": number}
        for (stage, reason), number in ranked
    ]


def _meaning(stage: str, reason: str) -> str:
    """What a reason says of a record; `empty` is a reason of rules as well as of what is no record."""
    return content.REASONS.get(reason, _MEANINGS[reason]) if stage == "collect" else _MEANINGS[reason]


def _contradictions(examples: Artifact) -> list[dict[str, Any]]:
    by_question: dict[int, dict[str, Any]] = {}
    for row in examples.table().to_pylist():
        one = by_question.setdefault(row["contradictory"], {"question": row["question"], "answers": []})
        one["answers"].append({"id": row["id"], "answer": row["answer"][:ANSWER_SHOWN]})
    return [by_question[number] for number in sorted(by_question)]
