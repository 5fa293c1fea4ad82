"""The card of a version: README.md in the format of the Hugging Face hub, from manifests and the report alone.

Its sections follow Gebru et al. 2021, "Datasheets for datasets": composition, collection, preprocessing, uses, known
gaps. Values from configs are escaped, so that no name can start a tag, a link or a table cell.
"""

import json
import re
from typing import Any

import yaml

from cluster.page.formats import count
from cluster.store import paths
from cluster.store.store import Store
from pipelines.prepare.report import Report
from pipelines.prepare.split import SPLITS
from pipelines.prepare.versions.registry import Version

_MARKS = re.compile(r"([\\`*_\[\]<>#|~])")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
          (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip
_TASKS = {"qa": "question-answering", "summarisation": "summarization", "classification": "text-classification"}


def card(store: Store, version: Version) -> str:
    """The text of the card.

    Raises:
        DataError: the run is gone, or was made again.
    """
    version.splits(store)
    report: Report = json.loads(store.read_bytes(paths.join(version.output, "report.json")))
    total = sum(version.records.values())
    parts = [_front(version, report, total), f"# {_text(version.name)}, {_text(version.version)}", _text(version.note)]
    parts += [_composition(version, report, total), _collection(report), _preprocessing(report), _uses(report)]
    parts += [_gaps(report), _recipe(version, report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(version: Version, report: Report, total: int) -> str:
    licences = sorted({one["licence"] for one in report["sources"] if one["licence"]})
    tasks = {one["task_type"] or report["config"]["records"]["task_type"] for one in report["config"]["inputs"]}
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in SPLITS if version.records[split]]
    front: dict[str, Any] = {
        "pretty_name": version.name,
        "license": licences[0] if len(licences) == 1 else "other",
        "task_categories": sorted({_TASKS.get(task, "text-generation") for task in tasks}),
        "size_categories": [next((name for bound, name in _SIZES if total < bound), "n>1T")],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---"


def _composition(version: Version, report: Report, total: int) -> str:
    lines = ["## Composition", "", f"{count(total)} records of the shape `{report['shape']}`.", ""]
    lines += ["| split | records |", "|---|---|"]
    lines += [f"| {split} | {count(version.records[split])} |" for split in SPLITS]
    if report["totals"]["repeated"]:
        lines += ["", f"{count(report['totals']['repeated'])} records of train are repeated to balance classes."]
    return "\n".join(lines)


def _collection(report: Report) -> str:
    lines = [
        "## Collection",
        "",
        "| source | licence | records that were read | in the data set |",
        "|---|---|---|---|",
    ]
    for one in report["sources"]:
        kept = sum(one["splits"].values())
        licence = _text(one["licence"] or "not stated")
        lines.append(f"| {_text(one['source'])} | {licence} | {count(one['records'])} | {count(kept)} |")
    return "\n".join(lines)


def _preprocessing(report: Report) -> str:
    lines = ["## Preprocessing", ""]
    lines += [f"* {count(one['records'])} records removed: {_text(one['meaning'])}" for one in report["reasons"]]
    if not report["reasons"]:
        lines.append("No record was removed.")
    redacted = report["config"]["clean"]["redact"]
    if redacted:
        found = count(report["totals"]["personal_data"])
        lines.append(f"* Personal data ({', '.join(redacted)}) replaced by placeholders: {found} findings.")
    return "\n".join(lines)


def _uses(report: Report) -> str:
    split = report["config"]["split"]
    words = ["Fine-tuning of language models. The splits are fixed: records of one group are in one split"]
    if split["group"]:
        words.append(f" (groups: {', '.join(map(_text, split['group']))})")
    if split["stratify"]:
        words.append(f", with equal shares of {', '.join(map(_text, split['stratify']))}")
    return "## Uses\n\n" + "".join(words) + "."


def _gaps(report: Report) -> str:
    lines = [f"* {_text(warning)}" for warning in report["warnings"]]
    lines += [
        f"* The licence of {_text(one['source'])} is not stated." for one in report["sources"] if not one["licence"]
    ]
    if not report["config"]["clean"]["redact"]:
        lines.append("* Personal data was not looked for.")
    return "## Known gaps\n\n" + ("\n".join(lines) if lines else "None that the preparation found.")


def _recipe(version: Version, report: Report) -> str:
    recipe = json.dumps(report["config"], indent=1, ensure_ascii=False).replace("```", "'''")
    return (
        f"## Recipe\n\nMade by Raymill {_text(report['version'])} on {report['finished'][:10]}; digest "
        f"`{version.digest}`.\n\n```json\n{recipe}\n```"
    )


def _text(value: str) -> str:
    """A value as text of Markdown, on one line."""
    return _MARKS.sub(r"\\\1", " ".join(value.split()))
