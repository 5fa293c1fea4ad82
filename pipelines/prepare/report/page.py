"""report.html, the page of an assessment, and the lines that `raymill prepare` and `raymill assess` print."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from markupsafe import Markup

from raymill import cluster
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.formats import count, plural, share
from raymill.cluster.report.charts import BarSegment, bar
from raymill.cluster.report.markdown import markdown
from raymill.cluster.report.page import page
from raymill.cluster.report.sections import (
    Content,
    DataTable,
    Facts,
    Fold,
    Items,
    Section,
    Tiles,
    code,
    join,
    note,
    outside,
    styled,
    with_code,
)
from raymill.pipelines.prepare.assess.score import Assessment, Gate, failed
from raymill.pipelines.prepare.assess.settings import MAXIMA
from raymill.pipelines.prepare.records.fields import ClassCounts
from raymill.pipelines.prepare.report.gather import ANSWER_SHOWN, LEFT_OUT_STAGES, STAGES, PrepareReport

_OPENED = 3  # fields whose tables of classes are open
_ROWS = 40  # classes of a field that are shown
_REASONS = 3
_FIRST_SENTENCE = ". "
_OF_A_DIFFERENCE: tuple[Literal["difference", "low", "high"], ...] = ("difference", "low", "high")
_MOST_DECIMALS = 9
_SUSPECT: tuple[Literal["id", "label", "suggested"], ...] = ("id", "label", "suggested")


def report_text(report: PrepareReport) -> str:
    """The lines that are printed: what was removed and why, then the splits."""

    def named(counts: Sequence[tuple[str, int]], most: int = 4) -> str:
        more = f", +{len(counts) - most} more" if len(counts) > most else ""
        return ", ".join(f"{name} {count(number)}" for name, number in counts[:most]) + more

    totals = report["totals"]
    rows = [("records", totals["records"], "")]
    for stage, title in STAGES.items():
        reasons = [(one["reason"], one["records"]) for one in report["reasons"] if one["stage"] == stage]
        if reasons or stage not in ("table", "augment", *LEFT_OUT_STAGES):
            rows.append((title, sum(number for _, number in reasons), named(reasons)))
    pieces = Counter[str]()
    for one in report["cut"]:
        pieces[one["kind"]] += one["pieces"]
    listed = [(one["reason"], one["records"]) for one in report["listed"]]
    places = list(report.get("personal_data", {}).items())
    others = (("cut from text", pieces.most_common(), 4), ("listed", listed, 99), ("redacted", places, 99))
    for title, counts, most in others:
        if counts:
            rows.append((title, sum(number for _, number in counts), named(counts, most)))
    assigned = report.get("assigned", {}) if any(report["splits"].values()) else {}
    for split, number in report["splits"].items():
        more = [(totals["repeated"], "repeated"), (totals.get("augmented", 0), "variants")] if split == "train" else []
        shares = [f"{share(assigned[split], sum(assigned.values()))}, {asked(report, split)} asked"] if assigned else []
        more.append((sum(one["splits"][split] for one in report.get("generated", [])), "synthetic"))
        rows.append(
            (split, number, "; ".join([*shares, *(f"{count(some)} of them {how}" for some, how in more if some)]))
        )
    width = max(len(count(number)) for _, number, _ in rows)
    return "\n".join(f"{title:<14}{count(number):>{width}}  {why}".rstrip() for title, number, why in rows)


def asked(report: PrepareReport, split: str) -> str:
    """The share of a split that the config asks for: `80%`."""
    return f"{100 * report['config']['split'][split]:.4g}%"


def render(report: PrepareReport, assessment: Assessment) -> str:
    """The page as text that can be encoded as UTF-8, whatever the records contain."""

    def listed(anchor: str, title: str, lines: Sequence[str]) -> Section | None:
        return Section(anchor, title, [Items(list(map(with_code, lines)))]) if lines else None

    shown = [
        _verdict(report, assessment),
        listed("warnings", "Warnings", [*report["warnings"], *assessment["warnings"]]),
        _result(report), _removed(report), _cut(report), _sources(report), _generated(report), _made(report),
        _classes(report),
        _spread(assessment),
        _listed(report), _leakage(report, assessment), assessment_section(assessment),
        listed("notes", "Notes", report["notes"]), _config(report),
    ]  # fmt: skip
    name, finished = report["name"], report["finished"]
    return page("Preparation report", name, finished, report["version"], report["output"], shown)


def render_assessment(name: str, output: str, assessment: Assessment) -> str:
    """The page of an assessment alone."""
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return page("Assessment", name, finished, cluster.__version__, output, [assessment_section(assessment)])


def _verdict(report: PrepareReport, assessment: Assessment) -> Section:
    verdict = verdict_of(report, assessment)
    words = styled("fit" if verdict.fit else "unfit", Markup("<strong>{}</strong>").format(verdict.words), tag="p")
    return Section("verdict", "Verdict", [words, Items(list(map(with_code, verdict.reasons)), ordered=True)])


def _result(report: PrepareReport) -> Section:
    totals, splits = report["totals"], report["splits"]
    assigned = report.get("assigned") or splits
    tiles = [("Records written", count(totals["written"]), f"{count(totals['records'])} were read")]
    for one in SPLITS:
        shares = f"{share(assigned[one], sum(assigned.values()))}, {asked(report, one)} asked"
        if synthetic := sum(generated["splits"][one] for generated in report.get("generated", [])):
            shares += f"; {count(synthetic)} of them synthetic"
        tiles.append((one.capitalize(), count(splits[one]), shares))
    words = f"Records have the shape {report['shape']}."
    if totals["personal_data"]:
        places = ", ".join(f"{place} {count(number)}" for place, number in report.get("personal_data", {}).items())
        words += f" {plural(totals['personal_data'], 'finding')} of personal data were replaced: {places}."
    if totals["repeated"]:
        words += f" {plural(totals['repeated'], 'record')} of the training split are repeated."
    if augmented := totals.get("augmented"):
        words += f" {plural(augmented, 'record')} of the training split are variants of others."
    if stages := report.get("stages"):
        sizes = ", ".join(map(count, stages.values()))
        words += f" Stages of the curriculum, from easy to hard: {sizes} records (columns complexity and stage)."
    return Section("result", "Result", [Tiles(tiles), note(words)])


def _removed(report: PrepareReport) -> Section:
    if not report["reasons"]:
        return Section("removed", "Removed records", [note("No record was removed.")])
    rows = [(code(one["reason"]), STAGES[one["stage"]], _meaning(one), one["records"]) for one in report["reasons"]]
    examples = [
        Fold([code(one["reason"]), f" {one['example']['id'] or ''}"], _example(one))
        for one in report["reasons"]
        if "example" in one
    ]
    where = "Rows that could not be read are in quarantine/, all other removed records with their content in removed/."
    table = DataTable("Why records are not in the data set", ["Reason", "Stage", "Meaning", ">Records"], rows)
    heading = Markup("<h3>An example of each</h3>") if examples else None
    return Section("removed", "Removed records", [table, heading, *examples, note(where)])


def _meaning(one: Any) -> Markup:
    return styled("wrapped", with_code(one["meaning"]))


def _example(reason: dict[str, Any]) -> list[Content]:
    """A removed record; a row that is no record as it was read."""
    example = reason["example"]
    facts = [("Source", example["source"]), ("Seen", example["value"]), ("Wanted", example["limit"]),
             ("Like", example["partner"])]  # fmt: skip
    is_record = reason["stage"] != "collect"
    text = styled("excerpt", markdown(example["text"]) if is_record else example["text"],
                  tag="div" if is_record else "pre")  # fmt: skip
    return [Facts([(name, outside(value)) for name, value in facts if value]), text]


def _cut(report: PrepareReport) -> Section | None:
    if not report["cut"]:
        return None
    rows = [
        (code(one["kind"]), styled("name", one["source"]), _meaning(one), styled("wrapped", one["example"]),
         one["pieces"], one["characters"])
        for one in report["cut"]
    ]  # fmt: skip
    where = (
        "All of them are in cut/, with the ids of their records."
        if report["config"]["clean"].get("keep_cut")
        else "With clean.keep_cut they are written to cut/, with the ids of their records."
    )
    columns = ["Kind", "Source", "Meaning", "Example", ">Pieces", ">Characters"]
    table = DataTable("What readers and cleaning took out of records", columns, rows)
    return Section("cut", "Cut from texts", [table, note(where)])


def _sources(report: PrepareReport) -> Section:
    rows: list[Sequence[Content]] = []
    for one in report["sources"]:
        of_splits = one["splits"].values()
        rows.append(
            (styled("name", one["source"]), one["licence"] or "not stated", one["quarantined"], one["records"],
             one["passed"], *of_splits, share(sum(of_splits), report["totals"]["written"]))
        )  # fmt: skip
    columns = ["Source", "Licence", ">Not readable", ">Records", ">Meet all rules",
               *(f">{one.capitalize()}" for one in SPLITS), ">Share"]  # fmt: skip
    table = DataTable("Records of each source, and its share of the data set", columns, rows)
    return Section("sources", "Sources", [table])


def _generated(report: PrepareReport) -> Section | None:
    """Records that models generated, by model and terms."""
    rows: list[Sequence[Content]] = [
        (outside(one["generator"]), outside(one["terms"] or "not stated"), *one["splits"].values(),
         share(sum(one["splits"].values()), report["totals"]["written"]))
        for one in report.get("generated", [])
    ]  # fmt: skip
    if not rows:
        return None
    columns = ["Model", "Terms", *(f">{one.capitalize()}" for one in SPLITS), ">Share"]
    return Section("generated", "Generated records", [DataTable("Records that models generated", columns, rows)])


def _classes(report: PrepareReport) -> Section | None:
    """A table for each field that has few values: its classes by split, with those that were removed."""
    fields = {name: values for name, values in report.get("classes", {}).items() if len(values) > 1}
    if not fields:
        return None
    named = [name for name in report["config"]["split"]["stratify"] if name in fields]
    folds = [
        Fold(
            [name, styled("aside", f" {plural(len(fields[name]), 'value')}")],
            [_classes_of(name, fields[name])],
            opened=at < _OPENED,
        )
        for at, name in enumerate(dict.fromkeys([*named, *fields]))
    ]
    key = Markup('<span class="key key-left"></span> in the data set <span class="key key-removed"></span> removed')
    return Section("classes", "Classes", [note(key), *folds])


def _classes_of(name: str, values: Sequence[ClassCounts]) -> DataTable:
    counts = [(sum(one["splits"].values()), sum(one["removed"].values())) for one in values]
    kept, largest = sum(own for own, _ in counts), max(own + gone for own, gone in counts)
    rows: list[Sequence[Content]] = []
    for one, (own, gone) in list(zip(values, counts, strict=True))[:_ROWS]:
        segments = [
            BarSegment(own, "kept", f"{count(own)} kept"),
            BarSegment(gone, "removed", f"{count(gone)} removed"),
        ]
        reason = next(iter(one["removed"]), "").partition("/")[2]
        drawn = bar(segments, largest, "", "small")
        of_splits = (one["splits"][split] for split in SPLITS)
        rows.append((outside(one["value"]), *of_splits, share(own, kept), gone, drawn, reason))
    shown = f"{len(rows)} of " if len(values) > len(rows) else ""
    columns = [name, *(f">{split.capitalize()}" for split in SPLITS), ">Share", ">Removed", "", "Mostly by"]
    return DataTable(f"Records by {name}: {shown}{plural(len(values), 'value')}", columns, rows)


def _made(report: PrepareReport) -> Section | None:
    """Synthetic records by operation, and variants by class."""
    made, classes = report.get("made", {}), report.get("variants", {})
    if not made:
        return None
    rows = [(code(step), *(counts[split] for split in SPLITS)) for step, counts in made.items()]
    columns = ["Made by", *(f">{split.capitalize()}" for split in SPLITS)]
    parts: list[Content] = [DataTable("Records that a model or augmentation made", columns, rows)]
    if classes:
        by = ", ".join(report["config"]["augment"]["by"])
        of_classes = [
            (outside(name), one["records"], one["variants"], one["records"] + one["variants"])
            for name, one in list(classes.items())[:_ROWS]
        ]
        shown = f"{len(of_classes)} of " if len(classes) > len(of_classes) else ""
        title = f"Records for training by {by}: {shown}{plural(len(classes), 'class', 'es')}"
        parts.append(DataTable(title, [by, ">Records", ">Variants", ">Together"], of_classes))
    return Section("made", "Synthetic records", parts)


def _spread(assessment: Assessment) -> Section | None:
    """Bars of lengths, languages and turns."""

    def number(words: str) -> int:
        return int("".join(re.findall(r"\d", words)) or 0)

    def ordered(shown: dict[str, int]) -> dict[str, int]:
        return dict(sorted(shown.items(), key=lambda one: number(one[0])))

    values = assessment["findings"]["values"]
    lengths = ordered(values["length"]["shown"])  # of `below N`
    spread = {
        "Characters": {f"{number(name) // 2:,} to {number(name) - 1:,}": many for name, many in lengths.items()},
        "Languages": assessment["findings"]["languages"],
        "Answers of a conversation": ordered(values["turns"]["shown"]) if values["turns"]["distinct"] > 1 else {},
    }
    tables = []
    for title, counts in spread.items():
        largest, total = max(counts.values(), default=0), sum(counts.values())
        rows = [
            (name, many, share(many, total), bar([BarSegment(many, "kept", name)], largest, "", "small"))
            for name, many in list(counts.items())[:_ROWS]
        ]
        if rows:
            tables.append(DataTable(f"Records by {title.lower()}", [title, ">Records", ">Share", ""], rows))
    return Section("spread", "Lengths and languages", [styled("charts", *tables, tag="div")]) if tables else None


def _listed(report: PrepareReport) -> Section | None:
    if not report["listed"] and not report["contradictions"]:
        return None
    rows = [(code(one["reason"]), _meaning(one), one["records"]) for one in report["listed"]]
    caption = "Records that were found and stay in the data set"
    parts: list[Content] = [note("Questions with different answers, which were removed:")]
    if rows:
        where = note("They are in listed/, with the records that they are like.")
        parts = [DataTable(caption, ["Reason", "Meaning", ">Records"], rows), where]
    for one in report["contradictions"]:
        answers = [
            join(code(answer["id"]), styled("excerpt", markdown(answer["answer"]), tag="div"))
            for answer in one["answers"]
        ]
        parts.append(Fold([f"Different answers to: {one['question'][:ANSWER_SHOWN]}"], [Items(answers)]))
    return Section("listed", "Listed records" if rows else "Contradictions", parts)


def _leakage(report: PrepareReport, assessment: Assessment) -> Section:
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
    rows = [(code(group), values) for group, values in report["straddling"].items()]
    table = DataTable("Groups divided by splits", ["Group", ">Values in more than one split"], rows)
    return Section("leakage", "Leakage check", [table, note(words)])


def _config(report: PrepareReport) -> Section:
    lines = [join(code(key), ": ", str(value)) for key, value in report["config"].items() if key != "inputs"]
    return Section("config", "Settings", [Fold(["All settings, with defaults"], [Items(lines)])])


@dataclass(frozen=True)
class Verdict:
    """fit: whether nothing speaks against training. words: the verdict. reasons: at most three sentences."""

    fit: bool
    words: str
    reasons: list[str]


def gate_warning(gate: Gate) -> str:
    """A failed gate as a sentence."""
    return f"`{gate['name']}` is {gate_value(gate)}; wanted {bound_text(gate)}."


def verdict_of(report: PrepareReport, assessment: Assessment) -> Verdict:
    """Not fit: an empty split that has a share, a failed gate, or questions of validation or test in train.

    The first warnings name the empty splits. Other warnings are reasons to look, not against training.
    """
    shares, against, good = report["config"]["split"], [], []
    is_lacking = any(shares[name] and not records for name, records in report["splits"].items())
    leaks = assessment["findings"]["leaks"]
    if leaked := leaks["validation"] + leaks["test"]:
        against.append(
            f"{count(leaked)} of {plural(leaks['compared'], 'record')} for validation and testing have a question "
            "that is in train, so scores on them are too high."
        )
    against += map(gate_warning, failed(assessment))
    warnings = [f"{one.partition(_FIRST_SENTENCE)[0].rstrip('.')}." for one in report["warnings"]]
    if passed := [gate for gate in assessment["gates"] if gate["state"] == "passed"]:
        names = ", ".join(f"`{gate['name']}`" for gate in passed)
        good.append(f"{plural(len(passed), 'gate')} passed: {names}.")
    if leaks["compared"] and not leaked:
        good.append("No question of validation or test is in train.")
    totals = report["totals"]
    if totals["written"]:
        kept = totals["written"] - totals["repeated"] - totals.get("augmented", 0)
        good.append(f"{share(kept, totals['records'])} of {plural(totals['records'], 'record')} were kept.")
    words = f"Fit for training, with {plural(len(warnings), 'warning')}" if warnings else "Fit for training"
    is_fit = not against and not is_lacking
    return Verdict(is_fit, words if is_fit else "Not fit for training yet", [*against, *warnings, *good][:_REASONS])


def assessment_text(assessment: Assessment) -> str:
    """The lines that are printed: the score, the gates, and what would fix those that fail."""
    unmeasured = _unmeasured(assessment)
    lines = [f"score {number(assessment['score'])} of 1" + (f", without {unmeasured}" if unmeasured else "")]
    width = max((len(one["name"]) for one in assessment["gates"]), default=0)
    for one in assessment["gates"]:
        why = f" ({seen.replace('`', '')})" if one["value"] is None and (seen := one.get("seen")) else ""
        value, bound = gate_value(one), bound_text(one)
        lines.append(f"{one['name']:<{width}}  {value:>6}  {bound}  {one['state']}{why}")
    lines += [f"{one['name']}: {one['mend']}" for one in failed(assessment)]
    # An assessment of an earlier version has no warnings.
    lines += [f"warning: {warning}" for warning in assessment.get("warnings", ())]
    return "\n".join(lines)


def assessment_section(assessment: Assessment) -> Section:
    """Gates, score and all metrics."""
    gates, against = assessment["gates"], failed(assessment)
    tiles = [
        ("Score", number(assessment["score"]), "of 1"),
        ("Gates passed", count(sum(one["state"] == "passed" for one in gates)), f"of {len(gates)}"),
        ("Gates failed", count(len(against)), "with what would fix them below"),
    ]
    fixes = [join(code(one["name"]), ": ", with_code(one["mend"])) for one in against]
    of_gates = [(code(one["name"]), gate_value(one), bound_text(one), _state(one)) for one in gates]
    of_parts = [
        (code(one["name"]), number(one["weight"]), number(one["value"]), _wrapped(one["of"]))
        for one in assessment["parts"]
    ]
    without = _unmeasured(assessment)
    metrics = [
        (code(one["name"]), number(one["value"]), styled("wrapped", one["meaning"]), _wrapped(one["seen"]))
        for one in assessment["metrics"]
    ]
    copies = assessment["findings"]["copies"]
    besides = f", without repeated records and variants ({count(copies)})" if copies else ""
    caption = f"Metrics of {plural(assessment['records'], 'record')}{besides}, from 0 to 1"
    content: list[Content] = [
        Tiles(tiles),
        Items(fixes) if fixes else None,
        DataTable("Gates", ["Gate", ">Value", ">Bound", "Result"], of_gates),
        DataTable("Parts of the score", ["Part", ">Weight", ">Value", ""], of_parts),
        note(f"Not measured: {without}. The weights of the other parts are raised to sum to 1.") if without else None,
        DataTable(caption, ["Metric", ">Value", "Share or mean of", "Seen"], metrics),
        *_tables_of_findings(assessment),
    ]
    return Section("assessment", "Assessment", content)


def _wrapped(words: str) -> Markup:
    return styled("wrapped", with_code(words))


def _state(gate: Gate) -> Markup:
    if gate["value"] is None:
        return join(gate["state"], with_code(f" ({gate['seen']})") if gate["seen"] else "")
    return styled(gate["state"], gate["state"])


def _tables_of_findings(assessment: Assessment) -> Iterator[DataTable]:
    """Values that are probably wrong, and the lengths and a classifier's scores of groups."""
    findings = assessment["findings"]
    rows: list[Sequence[Content]]
    for name, labels in (findings["learned"] or {"labels": {}})["labels"].items():
        suspects = [
            (*(outside(one[key]) for key in _SUSPECT), number(one["probability"]), markdown(one.get("text") or ""))
            for one in labels["suspects"]
        ]
        if suspects:
            total = plural(labels["errors"] or 0, "record")
            title = f"Values of {name} that are probably wrong: {len(suspects)} of {total}"
            yield DataTable(title, ["Record", "Value", "Suggested", ">Probability of the value", "Text"], suspects)
    for name, lengths in findings["lengths"].items():
        if lengths:
            rows = [
                (outside(one["value"]), one["records"], *map(number, (one["ratio"], one["low"], one["high"])))
                for one in lengths["ratios"]
            ]
            title = f"Mean length by {name}, as a ratio to {lengths['against']}, with 95% confidence"
            yield DataTable(title, ["Value", ">Records", ">Ratio", ">Low", ">High"], rows)
    for name, scores in findings["sentiments"].items():
        if scores:
            rows = [
                (outside(one["value"]), one["records"], number(one["mean"]),
                 *(f"{one[key]:+.3f}" for key in _OF_A_DIFFERENCE))
                for one in scores["differences"]
            ]  # fmt: skip
            title = f"Mean score by {name}, less {number(scores['mean'])} of {scores['against']}, with 95% confidence"
            yield DataTable(title, ["Value", ">Records", ">Mean score", ">Difference", ">Low", ">High"], rows)


def _unmeasured(assessment: Assessment) -> str:
    return ", ".join(one["name"] for one in assessment["parts"] if one["value"] is None)


def number(value: float | None) -> str:
    """A value to read: rounded to three decimals."""
    return "–" if value is None else f"{value:.3f}"


def gate_value(gate: Gate) -> str:
    """The value of a gate, with enough decimals that one beyond the bound is not shown as equal to it."""
    value, decimals = gate["value"], 3
    if value is None or gate["state"] == "passed":
        return number(value)
    while decimals < _MOST_DECIMALS and float(f"{value:.{decimals}f}") == gate["bound"]:
        decimals += 1
    return f"{value:.{decimals}f}"


def bound_text(gate: Gate) -> str:
    """`at most 0.01`."""
    return f"{'at most' if gate['name'] in MAXIMA else 'at least'} {gate['bound']:g}"
