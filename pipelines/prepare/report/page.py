"""report.html, the page of an assessment, and the lines that `raymill prepare` prints."""

from collections import Counter
from datetime import UTC, datetime

import cluster
from cluster.formats import count, plural, share
from cluster.page.document import document, header
from cluster.page.markdown import markdown
from cluster.page.markup import (
    Column,
    Markup,
    Section,
    code,
    element,
    fold,
    join,
    name,
    note,
    outside_text,
    table,
    with_code,
    wrapped,
)
from pipelines.prepare.assess.score import Assessment
from pipelines.prepare.assess.section import assessment_section
from pipelines.prepare.report.distributions import classes_section, spread_section
from pipelines.prepare.report.schema import ANSWER_SHOWN, LEFT_OUT_STAGES, STAGES, PrepareReport, Reason
from pipelines.prepare.report.verdict import verdict_of
from pipelines.prepare.stages.split import SPLITS

_STYLE = """
#verdict p { font-size: 1.375rem; padding: 0.5rem 0.875rem; border-left: 6px solid; margin-bottom: 0.5rem; }
#verdict .fit { border-color: var(--added-ink); background: var(--added-pale); }
#verdict .unfit { border-color: var(--removed); background: var(--removed-pale); }
#verdict ol { padding-left: 1.5rem; display: grid; gap: 0.25rem; }
#removed h3 { margin: 0.75rem 0 0.5rem; }
#classes td .bar { width: 12rem; }
"""


def report_text(report: PrepareReport) -> str:
    """The lines that are printed: what was removed and why, then the splits."""
    totals = report["totals"]
    rows = [("records", totals["records"], "")]
    for stage, title in STAGES.items():
        reasons = [one for one in report["reasons"] if one["stage"] == stage]
        if not reasons and stage in ("table", *LEFT_OUT_STAGES):
            continue
        why = ", ".join(f"{one['reason']} {count(one['records'])}" for one in reasons[:4])
        more = f", +{len(reasons) - 4} more" if len(reasons) > 4 else ""
        rows.append((title, sum(one["records"] for one in reasons), why + more))
    if cut := report["cut"]:
        pieces = Counter[str]()
        for one in cut:
            pieces[one["kind"]] += one["pieces"]
        why = ", ".join(f"{kind} {count(number)}" for kind, number in pieces.most_common(4))
        more = f", +{len(pieces) - 4} more" if len(pieces) > 4 else ""
        rows.append(("cut from text", pieces.total(), why + more))
    if listed := report["listed"]:
        why = ", ".join(f"{one['reason']} {count(one['records'])}" for one in listed)
        rows.append(("listed", sum(one["records"] for one in listed), why))
    assigned = report.get("assigned", {}) if any(report["splits"].values()) else {}
    if places := report.get("personal_data"):
        why = ", ".join(f"{place} {count(number)}" for place, number in places.items())
        rows.append(("redacted", sum(places.values()), why))
    for split, number in report["splits"].items():
        again = totals["repeated"] if split == "train" else 0
        shares = [f"{share(assigned[split], sum(assigned.values()))}, {asked(report, split)} asked"] if assigned else []
        rows.append((split, number, "; ".join([*shares, *([f"{count(again)} of them repeated"] if again else [])])))
    width = max(len(count(number)) for _, number, _ in rows)
    return "\n".join(f"{title:<14}{count(number):>{width}}  {why}".rstrip() for title, number, why in rows)


def asked(report: PrepareReport, split: str) -> str:
    """The share of a split that the config asks for: `80%`."""
    return f"{100 * report['config']['split'][split]:.4g}%"


def render(report: PrepareReport, assessment: Assessment) -> str:
    """The page as text that can be encoded as UTF-8, whatever the records contain."""
    top = header(report["name"], "Preparation report", report["finished"], report["version"], report["output"])
    warnings = [*report["warnings"], *assessment["warnings"]]
    sections = [_verdict(report, assessment), _list("warnings", "Warnings", warnings), _result(report)]
    sections += [_removed(report), _cut(report), _sources(report), classes_section(report), spread_section(assessment)]
    sections += [
        _listed(report),
        _leakage(report, assessment),
        assessment_section(assessment),
        _list("notes", "Notes", report["notes"]),
        _config(report),
    ]
    return document(f"{report['name']}: preparation report", top, sections, _STYLE)


def render_assessment(name: str, output: str, assessment: Assessment) -> str:
    """The page of an assessment alone."""
    top = header(name, "Assessment", datetime.now(UTC).isoformat(timespec="seconds"), cluster.__version__, output)
    return document(f"{name}: assessment", top, [assessment_section(assessment)])


def _list(anchor: str, title: str, lines: list[str]) -> Section | None:
    return Section(anchor, title, element("ul", [element("li", with_code(line)) for line in lines])) if lines else None


def _verdict(report: PrepareReport, assessment: Assessment) -> Section:
    verdict = verdict_of(report, assessment)
    body = join(
        element("p", element("strong", verdict.words), class_="fit" if verdict.fit else "unfit"),
        element("ol", [element("li", with_code(reason)) for reason in verdict.reasons]),
    )
    return Section("verdict", "Verdict", body)


def _result(report: PrepareReport) -> Section:
    totals, splits = report["totals"], report["splits"]
    tiles = [("Records written", count(totals["written"]), f"{count(totals['records'])} were read")]
    assigned = report.get("assigned", splits)
    tiles += [
        (
            one.capitalize(),
            count(splits[one]),
            f"{share(assigned[one], sum(assigned.values()))}, {asked(report, one)} asked",
        )
        for one in SPLITS
    ]
    body = [
        element("div", element("dt", title), element("dd", element("strong", big), element("span", small)))
        for title, big, small in tiles
    ]
    words = f"Records have the shape {report['shape']}."
    if totals["personal_data"]:
        places = ", ".join(f"{place} {count(number)}" for place, number in report.get("personal_data", {}).items())
        words += f" {plural(totals['personal_data'], 'finding')} of personal data were replaced: {places}."
    if totals["repeated"]:
        words += f" {plural(totals['repeated'], 'record')} of the training split are repeated."
    if stages := report.get("stages"):
        sizes = ", ".join(map(count, stages.values()))
        words += f" Stages of the curriculum, from easy to hard: {sizes} records (columns complexity and stage)."
    return Section("result", "Result", join(element("dl", body, class_="tiles"), note(words)))


def _removed(report: PrepareReport) -> Section:
    columns = [
        Column("Reason", numeric=False),
        Column("Stage", numeric=False),
        Column("Meaning", numeric=False),
        Column("Records"),
    ]
    rows = [
        (code(one["reason"]), STAGES[one["stage"]], wrapped(with_code(one["meaning"])), count(one["records"]))
        for one in report["reasons"]
    ]
    if not rows:
        return Section("removed", "Removed records", note("No record was removed."))
    examples = [
        fold(join(code(one["reason"]), f" {one['example']['id'] or ''}"), _example(one), opened=False)
        for one in report["reasons"]
        if "example" in one
    ]
    body = join(
        table("Why records are not in the data set", columns, rows),
        element("h3", "An example of each") if examples else None,
        examples,
        note(
            "Rows that could not be read are in quarantine/, all other removed records with their content in removed/."
        ),
    )
    return Section("removed", "Removed records", body)


def _cut(report: PrepareReport) -> Section | None:
    if not report["cut"]:
        return None
    columns = [Column(title, numeric=False) for title in ("Kind", "Source", "Meaning", "Example")]
    columns += [Column("Pieces"), Column("Characters")]
    rows = [
        (
            code(one["kind"]),
            name(one["source"]),
            wrapped(with_code(one["meaning"])),
            wrapped(one["example"]),
            count(one["pieces"]),
            count(one["characters"]),
        )
        for one in report["cut"]
    ]
    where = (
        "All of them are in cut/, with the ids of their records."
        if report["config"]["clean"].get("keep_cut")
        else "With clean.keep_cut they are written to cut/, with the ids of their records."
    )
    body = join(
        table("What readers and cleaning took out of records", columns, rows),
        note(where),
    )
    return Section("cut", "Cut from texts", body)


def _example(reason: Reason) -> Markup:
    """A removed record; a row that is no record as it was read."""
    example = reason["example"]
    facts = [("Source", example["source"]), ("Seen", example["value"]), ("Wanted", example["limit"])]
    facts.append(("Like", example["partner"]))
    shown = [element("div", element("dt", name), element("dd", outside_text(value))) for name, value in facts if value]
    is_record = reason["stage"] != "collect"
    words = markdown(example["text"]) if is_record else example["text"]
    text = element("div" if is_record else "pre", words, class_="excerpt")
    return join(element("dl", shown, class_="facts"), text)


def _listed(report: PrepareReport) -> Section | None:
    if not report["listed"] and not report["contradictions"]:
        return None
    columns = [Column("Reason", numeric=False), Column("Meaning", numeric=False), Column("Records")]
    rows = [
        (code(one["reason"]), wrapped(with_code(one["meaning"])), count(one["records"])) for one in report["listed"]
    ]
    parts: list[Markup] = []
    if rows:
        parts += [
            table("Records that were found and stay in the data set", columns, rows),
            note("They are in listed/, with the records that they are like."),
        ]
    else:
        parts.append(note("Questions with different answers, which were removed:"))
    for one in report["contradictions"]:
        answers = [
            element("li", code(answer["id"]), element("div", markdown(answer["answer"]), class_="excerpt"))
            for answer in one["answers"]
        ]
        question = one["question"][:ANSWER_SHOWN]
        parts.append(fold(f"Different answers to: {question}", element("ul", answers), opened=False))
    return Section("listed", "Listed records" if rows else "Contradictions", join(*parts))


def _sources(report: PrepareReport) -> Section:
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


def _leakage(report: PrepareReport, assessment: Assessment) -> Section:
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


def _config(report: PrepareReport) -> Section:
    lines: list[Markup] = [
        element("li", code(key), ": ", str(value)) for key, value in report["config"].items() if key != "inputs"
    ]
    return Section("config", "Settings", fold("All settings, with defaults", element("ul", lines), opened=False))
