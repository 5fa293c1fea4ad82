"""The report of a run: report.json, report.html and the lines that `raymill prepare` prints."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NotRequired, TypedDict

import cluster
from cluster.artifact import Artifact
from cluster.page.document import document, header
from cluster.page.formats import count, plural, share
from cluster.page.markup import Column, Html, Section, code, element, fold, join, name, note, table, with_code, wrapped
from pipelines.prepare.assess.score import Assessment
from pipelines.prepare.assess.section import assessment_section
from pipelines.prepare.config import MOST_COPIES, STORES, PrepareConfig
from pipelines.prepare.records import content, validate
from pipelines.prepare.stages.collect import RECORDS
from pipelines.prepare.stages.split import SPLITS
from pipelines.prepare.stages.split_stage import SPLIT_FILES
from pipelines.prepare.stages.write import EXAMPLES, REMOVED
from pipelines.prepare.tables import frame
from pipelines.readers.reader import PROBLEMS
from pipelines.readers.units import InputManifest

_LEFT_OUT = {
    "over_share": "more records of the source than its `share` allows",
    "over_class": "more records of the class than `split.balance` allows in training",
    "exact_duplicate": "the same text as an earlier record",
    "near_duplicate": "a text like that of an earlier record, by `dedup.threshold`",
    "same_question": "the same question as another record",
    "near_question": "a question like that of another record, by `dedup.threshold`",
    "same_answer": "the same answer as another record",
    "near_answer": "an answer like that of another record, by `dedup.threshold`",
    "outlier": "lengths or letters far from those of other records, by `validate.outliers`",
    "contradictory": "a question to which another record has a different answer",
}
_MEANINGS = {**PROBLEMS, **content.REASONS, **frame.REASONS, **validate.REASONS, **_LEFT_OUT}
# stage -> what the report calls its removed records.
_STAGES = {
    "collect": "not readable",
    "table": "rows dropped",
    "validate": "fail a rule",
    "duplicates": "duplicates",
    "contradictions": "contradictory",
    "outliers": "outliers",
    "mixture": "over a share",
    "balance": "over a class",
}
_LEFT_OUT_STAGES = ("contradictions", "outliers", "mixture", "balance")
_ANSWER_SHOWN = 300  # characters
_WARN_REMOVED = 0.5
_WARN_SHARE = 0.02  # of the data set, by which a source differs from its share


class SourceCounts(TypedDict):
    """Records of a source. records: that were read and are records; passed: of these, those that meet all rules."""

    source: str
    licence: str | None
    quarantined: int
    records: int
    passed: int
    splits: dict[str, int]


class Reason(TypedDict):
    """stage: a key of _STAGES; collect is quarantine."""

    stage: str
    reason: str
    meaning: str
    records: int


class Answer(TypedDict):
    """The id of a record, and the beginning of its answer."""

    id: str
    answer: str


class Contradiction(TypedDict):
    """A question and some of its answers."""

    question: str
    answers: list[Answer]


class Report(TypedDict):
    """What a run did.

    listed: records of the splits that were found and stay. contradictions: examples. straddling: group -> number of
    values that are in more than one split. older: records for validation or testing that are older than the newest
    training record; None without `split.by_time`. stages: of the curriculum -> records.
    """

    name: str
    finished: str
    version: str
    output: str
    shape: str
    totals: dict[str, int]
    splits: dict[str, int]
    sources: list[SourceCounts]
    reasons: list[Reason]
    listed: list[Reason]
    contradictions: list[Contradiction]
    straddling: dict[str, int]
    older: NotRequired[int | None]
    stages: NotRequired[dict[str, int]]
    warnings: list[str]
    notes: list[str]
    config: dict[str, Any]


def gather(
    config: PrepareConfig,
    inputs: InputManifest,
    artifacts: dict[str, Artifact],
    root: str,
    fetched: Sequence[dict[str, Any]] = (),
    notes: Sequence[str] = (),
) -> Report:
    """The report of finished stages. fetched: the records of the sources that are not files. notes: on the sources."""
    collected = artifacts[RECORDS].manifest.counters
    split = artifacts[SPLIT_FILES].manifest.counters
    written = artifacts[REMOVED].manifest.counters
    splits = {split: int(written.get(f"split/{split}", 0)) for split in SPLITS}
    sources = [
        SourceCounts(
            source=one.source,
            licence=one.licence,
            quarantined=sum(_starting(collected, f"problem/{one.source}/").values()),
            records=int(collected.get(f"records/{one.source}", 0)),
            passed=int(collected.get(f"passed/{one.source}", 0)),
            splits={split: int(written.get(f"split/{split}/{one.source}", 0)) for split in SPLITS},
        )
        for one in config.inputs
    ]
    totals = {
        "quarantined": int(collected["quarantined"]),
        "records": int(collected["records"]),
        "rejected": int(collected["records"] - collected["passed"]),
        "duplicates": sum(_starting(written, "removed/duplicates/").values()),
        "left_out": sum(sum(_starting(written, f"removed/{stage}/").values()) for stage in _LEFT_OUT_STAGES),
        "repeated": int(written.get("repeated", 0)),
        "written": sum(splits.values()),
        "personal_data": int(collected["replaced"]),
    }
    straddling = _starting(split, "straddling/")
    return Report(
        name=config.name,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        version=cluster.__version__,
        output=root,
        shape=config.records.shape,
        totals=totals,
        splits=splits,
        sources=sources,
        reasons=_reasons(collected, written),
        listed=_ranked({("listed", reason): number for reason, number in _starting(written, "listed/").items()}),
        contradictions=_contradictions(artifacts[EXAMPLES]),
        straddling=straddling,
        older=int(split["older"]) if "older" in split else None,
        stages=_starting(split, "stage/"),
        warnings=[
            *_warnings(config, totals, splits, sources, split, straddling),
            *_time_warnings(collected, split),
            *_balance_warnings(config, split),
            *_fetch_warnings(config, fetched),
        ],
        notes=[*map(_fetched, fetched), *inputs.notes, *notes, *_divided(config, collected), *_kept(split)],
        config=config.model_dump(mode="json", by_alias=True, exclude=STORES),
    )


def _fetched(record: dict[str, Any]) -> str:
    rows, answers = plural(record["rows"], "row"), plural(record["answers"], "answer")
    failed = f", {count(record['failed'])} not readable" if record["failed"] else ""
    return f"Source {record['source']}: {rows} in {answers} of {record['asked']}{failed}, fetched {record['ended']}."


def _divided(config: PrepareConfig, collected: dict[str, float]) -> list[str]:
    """A sentence for each source with texts that were divided."""
    parts = _starting(collected, "parts/")
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


def _starting(counters: dict[str, float], prefix: str) -> dict[str, int]:
    return {key.removeprefix(prefix): int(value) for key, value in counters.items() if key.startswith(prefix)}


def _reasons(collected: dict[str, float], written: dict[str, float]) -> list[Reason]:
    counts: dict[tuple[str, str], int] = {}
    for key, number in _starting(collected, "problem/").items():
        reason = key.rpartition("/")[2]
        counts["collect", reason] = counts.get(("collect", reason), 0) + number
    for key, number in _starting(written, "removed/").items():
        stage, _, reason = key.partition("/")
        counts[stage, reason] = number
    return _ranked(counts)


def _ranked(counts: dict[tuple[str, str], int]) -> list[Reason]:
    """By stage in order, then by number. counts: (stage, reason) -> records."""
    order = (*_STAGES, "listed")
    ranked = sorted(counts.items(), key=lambda one: (order.index(one[0][0]), -one[1], one[0][1]))
    return [
        Reason(stage=stage, reason=reason, meaning=_meaning(stage, reason), records=number)
        for (stage, reason), number in ranked
    ]


def _meaning(stage: str, reason: str) -> str:
    """What a reason says of a record; `empty` is a reason of rules as well as of what is no record."""
    return content.REASONS.get(reason, _MEANINGS[reason]) if stage == "collect" else _MEANINGS[reason]


def _contradictions(examples: Artifact) -> list[Contradiction]:
    by_question: dict[int, Contradiction] = {}
    for row in examples.table().to_pylist():
        one = by_question.setdefault(row["contradictory"], Contradiction(question=row["question"], answers=[]))
        one["answers"].append(Answer(id=row["id"], answer=row["answer"][:_ANSWER_SHOWN]))
    return [by_question[number] for number in sorted(by_question)]


def _warnings(
    config: PrepareConfig,
    totals: dict[str, int],
    splits: dict[str, int],
    sources: list[SourceCounts],
    split: dict[str, float],
    straddling: dict[str, int],
) -> list[str]:
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


def _time_warnings(collected: dict[str, float], split: dict[str, float]) -> list[str]:
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


def _balance_warnings(config: PrepareConfig, split: dict[str, float]) -> list[str]:
    found, balance = _starting(split, "balance/"), config.split.balance
    if balance is not None and isinstance(balance.to, dict):
        lacking = _starting(split, "lacking/")
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


def _fetch_warnings(config: PrepareConfig, fetched: Sequence[dict[str, Any]]) -> list[str]:
    lacking = {one["source"] for one in fetched if one.get("lacks_next")}
    return [
        f"source {one.source}: its first answer has nothing at api.paging.field, {one.api.paging.field}, so there was "
        "no second request. If there are more pages, correct the path and run again with --replace."
        for one in config.inputs
        if one.api and one.source in lacking
    ]


def report_text(report: Report) -> str:
    """The lines that are printed: what was removed and why, then the splits."""
    totals = report["totals"]
    rows = [("records", totals["records"], "")]
    for stage, title in _STAGES.items():
        reasons = [one for one in report["reasons"] if one["stage"] == stage]
        if not reasons and stage in ("table", *_LEFT_OUT_STAGES):
            continue
        why = ", ".join(f"{one['reason']} {count(one['records'])}" for one in reasons[:4])
        more = f", +{len(reasons) - 4} more" if len(reasons) > 4 else ""
        rows.append((title, sum(one["records"] for one in reasons), why + more))
    if listed := report["listed"]:
        why = ", ".join(f"{one['reason']} {count(one['records'])}" for one in listed)
        rows.append(("listed", sum(one["records"] for one in listed), why))
    for split, number in report["splits"].items():
        again = totals["repeated"] if split == "train" else 0
        rows.append((split, number, f"{count(again)} of them repeated" if again else ""))
    width = max(len(count(number)) for _, number, _ in rows)
    return "\n".join(f"{title:<14}{count(number):>{width}}  {why}".rstrip() for title, number, why in rows)


def render(report: Report, assessment: Assessment) -> str:
    """The page as text that can be encoded as UTF-8, whatever the records contain."""
    top = header(report["name"], "Preparation report", report["finished"], report["version"], report["output"])
    warnings = [*report["warnings"], *assessment["warnings"]]
    sections = [_list("warnings", "Warnings", warnings), _result(report), _removed(report), _sources(report)]
    sections += [
        _listed(report),
        _leakage(report, assessment),
        assessment_section(assessment),
        _list("notes", "Notes", report["notes"]),
        _config(report),
    ]
    return document(f"{report['name']}: preparation report", top, sections)


def render_assessment(name: str, output: str, assessment: Assessment) -> str:
    """The page of an assessment alone."""
    top = header(name, "Assessment", datetime.now(UTC).isoformat(timespec="seconds"), cluster.__version__, output)
    return document(f"{name}: assessment", top, [assessment_section(assessment)])


def _list(anchor: str, title: str, lines: list[str]) -> Section | None:
    return Section(anchor, title, element("ul", [element("li", line) for line in lines])) if lines else None


def _result(report: Report) -> Section:
    totals, splits = report["totals"], report["splits"]
    tiles = [("Records written", count(totals["written"]), f"{count(totals['records'])} were read")]
    tiles += [(one.capitalize(), count(splits[one]), share(splits[one], totals["written"])) for one in SPLITS]
    body = [
        element("div", element("dt", title), element("dd", element("strong", big), element("span", small)))
        for title, big, small in tiles
    ]
    words = f"Records have the shape {report['shape']}."
    if totals["personal_data"]:
        words += f" {plural(totals['personal_data'], 'finding')} of personal data were replaced."
    if totals["repeated"]:
        words += f" {plural(totals['repeated'], 'record')} of the training split are repeated."
    if stages := report.get("stages"):
        sizes = ", ".join(map(count, stages.values()))
        words += f" Stages of the curriculum, from easy to hard: {sizes} records (columns complexity and stage)."
    return Section("result", "Result", join(element("dl", body, class_="tiles"), note(words)))


def _removed(report: Report) -> Section:
    columns = [
        Column("Reason", numeric=False),
        Column("Stage", numeric=False),
        Column("Meaning", numeric=False),
        Column("Records"),
    ]
    rows = [
        (code(one["reason"]), _STAGES[one["stage"]], wrapped(with_code(one["meaning"])), count(one["records"]))
        for one in report["reasons"]
    ]
    if not rows:
        return Section("removed", "Removed records", note("No record was removed."))
    body = join(
        table("Why records are not in the data set", columns, rows),
        note(
            "Rows that could not be read are in quarantine/, all other removed records with their content in removed/."
        ),
    )
    return Section("removed", "Removed records", body)


def _listed(report: Report) -> Section | None:
    if not report["listed"] and not report["contradictions"]:
        return None
    columns = [Column("Reason", numeric=False), Column("Meaning", numeric=False), Column("Records")]
    rows = [
        (code(one["reason"]), wrapped(with_code(one["meaning"])), count(one["records"])) for one in report["listed"]
    ]
    parts: list[Html] = []
    if rows:
        parts += [
            table("Records that were found and stay in the data set", columns, rows),
            note("They are in listed/, with the records that they are like."),
        ]
    else:
        parts.append(note("Questions with different answers, which were removed:"))
    for one in report["contradictions"]:
        answers = [element("li", code(answer["id"]), ": ", answer["answer"]) for answer in one["answers"]]
        question = one["question"][:_ANSWER_SHOWN]
        parts.append(fold(f"Different answers to: {question}", element("ul", answers), opened=False))
    return Section("listed", "Listed records" if rows else "Contradictions", join(*parts))


def _sources(report: Report) -> Section:
    columns = [
        Column("Source", numeric=False),
        Column("Licence", numeric=False),
        Column("Not readable"),
        Column("Records"),
    ]
    columns += [Column("Meet all rules"), *(Column(one.capitalize()) for one in SPLITS), Column("Share")]
    written = report["totals"]["written"]
    rows = []
    for one in report["sources"]:
        counts = [one["quarantined"], one["records"], one["passed"], *one["splits"].values()]
        kept = sum(one["splits"].values())
        rows.append((name(one["source"]), one["licence"] or "not stated", *map(count, counts), share(kept, written)))
    return Section("sources", "Sources", table("Records of each source, and its share of the data set", columns, rows))


def _leakage(report: Report, assessment: Assessment) -> Section:
    columns = [Column("Group", numeric=False), Column("Values in more than one split")]
    rows = [(code(group), count(values)) for group, values in report["straddling"].items()]
    words = "Records with an equal value of a group, and duplicates that stay, belong to one split."
    if (older := report.get("older")) is not None:
        words += (
            f" By time: {plural(older, 'record')} for validation or testing are older than the newest training record."
        )
    leaks = assessment["findings"]["leaks"]
    leaked = leaks["validation"] + leaks["test"]
    words += (
        f" {count(leaked)} of {plural(leaks['compared'], 'record')} for validation and testing have a question, or "
        f"text, that is in train: {count(leaks['exact'])} exactly, {count(leaked - leaks['exact'])} nearly."
    )
    return Section("leakage", "Leakage check", join(table("Groups divided by splits", columns, rows), note(words)))


def _config(report: Report) -> Section:
    lines: list[Html] = [
        element("li", code(key), ": ", str(value)) for key, value in report["config"].items() if key != "inputs"
    ]
    return Section("config", "Settings", fold("All settings, with defaults", element("ul", lines), opened=False))
