"""The card of a version: README.md in the format of the Hugging Face hub.

It is made from manifests, the report, the assessment and the times when the records were collected. Its sections follow
Gebru et al. 2021, "Datasheets for datasets": motivation, composition, collection, preprocessing, uses, distribution,
maintenance; then the assessment, known gaps and the recipe. Values from configs are escaped, so that no name can start
a tag, a link or a table cell.
"""

import json
import posixpath
import re
from collections.abc import Iterable
from typing import Any

import pyarrow.compute as pc
import yaml

from cluster.artifact import Artifact
from cluster.formats import count, plural
from cluster.run import RunFolder
from cluster.secret_values import redacted
from cluster.store.store import Store
from pipelines.prepare.assess.job import read_assessment
from pipelines.prepare.assess.score import Assessment
from pipelines.prepare.assess.section import bound_text, number
from pipelines.prepare.report.schema import PrepareReport
from pipelines.prepare.stages.split import SPLITS
from pipelines.prepare.versions.registry import Version

_LANGUAGE = re.compile(r"[a-z]{2,3}")  # a code of ISO 639, as the hub wants it
_LANGUAGE_SHARE = 0.01
_MARKS = re.compile(r"([\\`*_\[\]<>#|~])")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
          (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip
_TASKS = {"qa": "question-answering", "summarisation": "summarization", "classification": "text-classification"}


# Those of the hub's list of licences that data sets usually have; others are written as `other`, with a name.
# https://huggingface.co/docs/hub/repositories-licenses
_LICENCES = frozenset(
    ("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5",
     "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
     "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0",
     "cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "agpl-3.0", "gpl",
     "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "mpl-2.0", "eupl-1.1", "eupl-1.2", "odc-by", "odbl",
     "pddl", "etalab-2.0", "gfdl", "openrail", "unlicense", "wtfpl", "zlib", "isc", "ncsa", "ofl-1.1",
     "afl-3.0", "artistic-2.0", "bsl-1.0", "ecl-2.0", "epl-1.0", "epl-2.0", "ms-pl", "osl-3.0", "postgresql")
)  # fmt: skip
# Settings whose texts may begin with a slash although they are no paths.
_NO_PATHS = ("templates", "template", "columns", "speakers", "terminology", "labels", "table")


def card(store: Store, version: Version) -> str:
    """The text of the card.

    Raises:
        DataError: the run is gone, or was made again.
    """
    splits = version.splits(store)
    report: PrepareReport = RunFolder(store, version.output).report(*PrepareReport.__required_keys__)
    assessment = read_assessment(store, version.output)
    total = sum(version.records.values())
    head = f"# {_text(version.name)}, {_text(version.version)}"
    parts = [_front(version, report, total, assessment), head, _text(version.note), _motivation(report)]
    parts += [_composition(version, report, total), _collection(version, report, _collected(splits.values()))]
    parts += [_preprocessing(report), _uses(report), _distribution(report), _maintenance(version)]
    parts += [_assessment(assessment), _gaps(report), _recipe(version, report)]
    # Cards are published, and the run may have been made by a version that refused fewer secrets.
    return redacted("\n\n".join(part for part in parts if part) + "\n")


def _collected(splits: Iterable[Artifact]) -> tuple[str, str] | None:
    """(first, last) day on which a record was collected; None if no record has such a time. Reads the metadata."""
    days = list[str]()
    for artifact in splits:
        for table in artifact.tables(["metadata"]):
            times = pc.min_max(pc.struct_field(table["metadata"], "collected_at")).as_py()
            days += [time[:10] for time in times.values() if time]
    return (min(days), max(days)) if days else None


def _tasks(report: PrepareReport) -> list[str]:
    inputs, default = report["config"]["inputs"], report["config"]["records"]["task_type"]
    return sorted({one["task_type"] or default for one in inputs})


def _front(version: Version, report: PrepareReport, total: int, assessment: Assessment | None) -> str:
    tasks = _tasks(report)
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in SPLITS if version.records[split]]
    front: dict[str, Any] = {
        "pretty_name": str(version.name),
        **_languages(assessment),
        **_licence(report),
        "task_categories": sorted({_TASKS.get(task, "text-generation") for task in tasks}),
        "size_categories": [next((name for bound, name in _SIZES if total < bound), "n>1T")],
        "tags": ["raymill", *tasks, *_domains(report)],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---"


def _languages(assessment: Assessment | None) -> dict[str, list[str]]:
    """The entry `language`: those of a hundredth of the records or more, the most frequent first."""
    found = assessment["findings"]["languages"] if assessment else {}
    least = _LANGUAGE_SHARE * sum(found.values())
    known = [name for name, number in found.items() if _LANGUAGE.fullmatch(name) and number >= least]
    return {"language": sorted(known, key=lambda name: -found[name])} if known else {}


def _domains(report: PrepareReport) -> list[str]:
    return sorted({one["domain"] for one in report["config"]["inputs"] if one.get("domain")})


def _licence(report: PrepareReport) -> dict[str, str]:
    """The entries of the front matter: `license`, and the licences of all sources by name where it is `other`."""
    # A source whose records state their own licences is not of one.
    own = ("of each record" if "licence" in one["columns"] else None for one in report["config"]["inputs"])
    stated = {of_record or one["licence"] for of_record, one in zip(own, report["sources"], strict=True)}
    if stated == {None}:
        return {"license": "unknown"}
    names = sorted(one or "not stated" for one in stated)
    if len(names) == 1 and names[0].lower() in _LICENCES:
        return {"license": names[0].lower()}
    return {"license": "other", "license_name": ", ".join(names)}


def _motivation(report: PrepareReport) -> str:
    tasks, domains = ", ".join(map(_text, _tasks(report))), ", ".join(map(_text, _domains(report)))
    sources = plural(len(report["sources"]), "source")
    of_domains = f" Their domains are {domains}." if domains else ""
    return (
        f"## Motivation\n\nRecords of {sources} for fine-tuning language models on tasks of the type {tasks}."
        f"{of_domains} Who made the data set, and for which product, is not recorded."
    )


def _composition(version: Version, report: PrepareReport, total: int) -> str:
    lines = ["## Composition", "", f"{plural(total, 'record')} of the shape `{report['shape']}`.", ""]
    lines += ["| split | records |", "|---|---|"]
    lines += [f"| {split} | {count(version.records[split])} |" for split in SPLITS]
    if report["totals"]["repeated"]:
        repeated = report["totals"]["repeated"]
        lines += [
            "",
            f"{plural(repeated, 'record')} of train {'is' if repeated == 1 else 'are'} repeated to balance classes.",
        ]
    return "\n".join(lines)


def _collection(version: Version, report: PrepareReport, collected: tuple[str, str] | None) -> str:
    """collected: see `_collected`."""
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
    if collected is not None:
        first, last = collected
        days = f"on {first}" if first == last else f"from {first} to {last}"
        lines += [
            "",
            f"The records were collected {days}: that is the time of their file or of the answer that had them.",
        ]
    lines += ["", f"Prepared on {report['finished'][:10]}, tagged on {version.tagged[:10]}."]
    return "\n".join(lines)


def _preprocessing(report: PrepareReport) -> str:
    lines = ["## Preprocessing", ""]
    lines += [f"* {plural(one['records'], 'record')} removed: {_text(one['meaning'])}" for one in report["reasons"]]
    if not report["reasons"]:
        lines.append("No record was removed.")
    redacted = report["config"]["clean"]["redact"]
    if redacted:
        found = plural(report["totals"]["personal_data"], "finding")
        lines.append(f"* Personal data ({', '.join(redacted)}) replaced by placeholders: {found}.")
    return "\n".join(lines)


def _uses(report: PrepareReport) -> str:
    split = report["config"]["split"]
    words = ["Fine-tuning of language models. The splits are fixed: records of one group are in one split"]
    if split["group"]:
        words.append(f" (groups: {', '.join(map(_text, split['group']))})")
    if split["stratify"]:
        words.append(f", with equal shares of {', '.join(map(_text, split['stratify']))}")
    return "## Uses\n\n" + "".join(words) + "."


def _distribution(report: PrepareReport) -> str:
    licences = sorted({one["licence"] for one in report["sources"] if one["licence"]})
    words = "Parquet files for each split, which `datasets.load_dataset` reads."
    if any("licence" in one["columns"] for one in report["config"]["inputs"]):
        words += " Records state their own licences in `metadata.licence`."
    elif not licences:
        words += " No licence is stated: ask the owners of the sources before passing the data set on."
    elif len(licences) == 1 and all(one["licence"] for one in report["sources"]):
        words += f" The licence of all sources is {_text(licences[0])}."
    else:
        words += " The sources have different licences, listed above; each holds for its records."
    return f"## Distribution\n\n{words}"


def _maintenance(version: Version) -> str:
    return (  # of the signs of names only `_` has a meaning in Markdown, and none in code
        f"## Maintenance\n\n{_text(version.version)} never changes. Corrections are tagged as another version, and "
        f"`raymill dataset diff {version.name}:{version.version} {version.name}` lists what differs in the last one. "
        "To ask for a correction, name the `id` of the record."
    )


def _assessment(assessment: Assessment | None) -> str:
    if assessment is None:
        return "## Assessment\n\nNot assessed."
    score = "" if assessment["score"] is None else f" Score {number(assessment['score'])}."
    lines = ["## Assessment", "", f"Of {plural(assessment['records'], 'record')}.{score}"]
    lines += ["", "| metric | value | meaning |", "|---|---|---|"]
    lines += [
        f"| {_text(one['name'])} | {number(one['value'])} | {_text(one['meaning'])} |"
        for one in assessment["metrics"]
        if one["value"] is not None
    ]
    if assessment["gates"]:
        lines += ["", "| gate | value | bound | state |", "|---|---|---|---|"]
    for gate in assessment["gates"]:
        lines.append(f"| {_text(gate['name'])} | {number(gate['value'])} | {bound_text(gate)} | {gate['state']} |")
    return "\n".join(lines)


def _gaps(report: PrepareReport) -> str:
    lines = [f"* {_text(warning)}" for warning in report["warnings"]]
    lines += [
        f"* The licence of {_text(one['source'])} is not stated." for one in report["sources"] if not one["licence"]
    ]
    if not report["config"]["clean"]["redact"]:
        lines.append("* Personal data was not looked for.")
    return "## Known gaps\n\n" + ("\n".join(lines) if lines else "None that the preparation found.")


def _recipe(version: Version, report: PrepareReport) -> str:
    recipe = json.dumps(_without_folders(report["config"]), indent=1, ensure_ascii=False).replace("```", "'''")
    return (
        f"## Recipe\n\nMade by Raymill {_text(report['version'])} on {report['finished'][:10]}; digest "
        f"`{version.digest}`.\n\n```json\n{recipe}\n```"
    )


def _without_folders(settings: Any) -> Any:
    """Settings with the last part of each local path: the folders are of one machine, and may name its user."""
    if isinstance(settings, dict):
        return {
            key: one if key in _NO_PATHS and not isinstance(one, str) else _without_folders(one)
            for key, one in settings.items()
        }
    if isinstance(settings, list):
        return [_without_folders(one) for one in settings]
    if isinstance(settings, str) and settings.startswith("/"):
        return posixpath.basename(settings.rstrip("/"))
    if isinstance(settings, str) and settings.startswith("sqlite:////"):
        return f"sqlite:///{posixpath.basename(settings)}"
    return settings


def _text(value: str) -> str:
    """A value as text of Markdown, on one line."""
    return _MARKS.sub(r"\\\1", " ".join(value.split()))
