"""The page of the report, with examples. Texts of records are data and are escaped."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from raymill.cluster.formats import count
from raymill.cluster.report.sections import (
    Content,
    DataTable,
    Fold,
    Passage,
    Section,
    Tiles,
    code,
    config_section,
    heading,
    join,
    name,
    note,
    outside,
    sentence,
    styled,
    table_section,
    warnings_section,
    with_code,
    wrapped,
)

_CAUSES = {
    "missing": "no training record is near",
    "label_error": "near training records have the model's answer: the expected one is suspected",
    "contradictory": "near training records have almost equal prompts and different answers",
    "model_error": "none of these",
}
_USES = {
    "candidates.jsonl": "`inputs` of `annotate`",
    "seeds.jsonl": "`inputs` of `generate`",
    "patch.jsonl": "corrections for `prepare`",
}
_SLICES_SHOWN = 30
_SLICES = (
    "Slices by how unlikely their errors are by chance (Fisher's exact test, one-sided, p corrected by Holm). Leaves "
    "of a tree are tested on the half of the items that did not choose them. Difference: percentage points to the "
    "items outside, with a 95% interval."
)
_NEAR = "A training record is near from the cosine {:.2f} on."


def sections(report: Mapping[str, Any], config: Mapping[str, Any], folder: str) -> list[Section | None]:
    """The sections of the page. folder: URI of the findings' files."""
    items, errors = report["items"], report["errors"]
    tiles = [
        ("Items", count(items), ""),
        ("Errors", count(errors), f"{errors / items:.1%}" if items else ""),
        ("Findings", count(len(report["findings"])), ""),
        ("Training records", count(report["records"]), ""),
    ]
    return [
        warnings_section(report["warnings"]),
        Section("result", "Result", [Tiles(tiles)]),
        _findings(report["findings"], folder),
        _slices(report["slices"]),
        _causes(report["causes"], report["near"]),
        _confusions(report["confusions"]),
        config_section(config),
    ]


def _findings(findings: Sequence[Mapping[str, Any]], folder: str) -> Section:
    content: list[Content] = [note("Files of each finding are below ", code(folder), ".")] if findings else []
    content += [_finding(one, opened=number < 2) for number, one in enumerate(findings)]
    return Section("findings", "Findings", content or [sentence("None.")])


def _finding(one: Mapping[str, Any], *, opened: bool) -> Fold:
    rows = [[code(file), lines, with_code(_USES[file])] for file, lines in one["files"].items() if file in _USES]
    files = DataTable(None, ["File", ">Lines", "Is"], rows)
    examples = [_example(example) for example in one["examples"]]
    return Fold([heading(outside(one["title"]), outside(one["name"]))], [files, *examples], opened)


def _example(example: Mapping[str, Any]) -> Content:
    boxes = []
    for key, style in (("prompt", "prompt"), ("expected", "reference"), ("answer", "generated")):
        words = example.get(key)
        if words is not None:
            shown = Passage([words]) if words.strip() else sentence("Empty: no visible text.")
            boxes.append(styled(style, Markup("<h4>{}</h4>").format(key.capitalize()), shown, tag="div"))
    return join(note(outside(example["id"])), styled("answer", *boxes, tag="div"))


def _slices(slices: Sequence[Mapping[str, Any]]) -> Section:
    columns = ["Slice", "By", ">Items", ">Errors", ">Rate", ">Outside", ">Difference", ">p (Holm)", "Found"]
    rows = [
        [
            name(one["slice"]), one["by"], one["items"], one["errors"], f"{one['rate']:.1%}",
            f"{one['rate_outside']:.1%}",
            f"{100 * one['difference']:+.1f} ({100 * one['difference_low']:+.1f} to "
            f"{100 * one['difference_high']:+.1f})",
            f"{one['p_corrected']:.2g}", "yes" if one["found"] else "",
        ]
        for one in slices[:_SLICES_SHOWN]
    ]  # fmt: skip
    rest = f" {len(slices) - _SLICES_SHOWN:,} more are in slices.json." if len(slices) > _SLICES_SHOWN else ""
    none = "No slice has enough items inside and outside (10) to be tested."
    return table_section("slices", "Slices", DataTable(None, columns, rows), words=_SLICES + rest, none=none)


def _causes(causes: Sequence[Mapping[str, Any]], near: float | None) -> Section:
    rows = [[code(one["cause"]), one["errors"], wrapped(_CAUSES[one["cause"]])] for one in causes]
    words = None if near is None else _NEAR.format(near)
    table = DataTable(None, ["Cause", ">Errors", "Means"], rows)
    return table_section("causes", "Causes", table, words=words, none="The training records are not known.")


def _confusions(confusions: Sequence[Mapping[str, Any]]) -> Section:
    rows = [
        [name(one["expected"]), name(one["answer"]), one["items"], one["of"],
         f"{one['share']:.1%} ({one['share_low']:.1%} to {one['share_high']:.1%})"]
        for one in confusions[:_SLICES_SHOWN]
    ]  # fmt: skip
    columns = ["Expected", "Answer", ">Items", ">Of", ">Share (95%)"]
    none = "Expected answers are no classes, or none is confused with another."
    return table_section("confusions", "Confusions", DataTable(None, columns, rows), none=none)
