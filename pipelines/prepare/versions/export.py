"""A version in other formats (a folder that `datasets` loads, Parquet, JSON Lines, ShareGPT, Alpaca), its
card, and its push to the Hugging Face hub.

The card is README.md in the format of the hub. It is made from manifests, the report, the assessment and the times when
the records were collected. Its sections follow Gebru et al. 2021, "Datasheets for datasets": motivation, composition,
collection, preprocessing, uses, distribution, maintenance; then the assessment, known gaps and the recipe. card.md is
the template.
"""

import json
import posixpath
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc
from jinja2 import TemplateError

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.content import REASONS, Content, Unusable, from_shape, shape_of, to_shape
from raymill.cluster.examples.messages import without_nulls
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.formats import count, plural
from raymill.cluster.hub_push import HubRepository, Pushed
from raymill.cluster.readers.reader import few_rows
from raymill.cluster.report.markdown import card as hub_card
from raymill.cluster.run import RunFolder, reading_report
from raymill.cluster.secret_values import redacted
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.assess.job import read_assessment
from raymill.pipelines.prepare.assess.score import Assessment
from raymill.pipelines.prepare.report.gather import REQUIRED, PrepareReport
from raymill.pipelines.prepare.report.page import bound_text, number
from raymill.pipelines.prepare.versions.registry import Version

_LANGUAGE = re.compile(r"[a-z]{2,3}")  # a code of ISO 639, as the hub wants it
_LANGUAGE_SHARE = 0.01  # of the records; rarer languages are not named
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
ExportFormat = Literal["hf", "parquet", "jsonl", "sharegpt", "alpaca"]
# The names of speakers in ShareGPT's messages.
_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def card(store: Store, version: Version) -> str:
    """The text of the card.

    Raises:
        DataError: the run is gone, or was made again.
    """
    splits = version.splits(store)
    report: PrepareReport = RunFolder(store, version.output).report(*REQUIRED)
    days = list[str]()  # on which records were collected
    for artifact in splits.values():
        for table in artifact.tables(["metadata"]):
            times = pc.min_max(pc.struct_field(table["metadata"], "collected_at")).as_py()
            days += [time[:10] for time in times.values() if time]
    collected = (min(days), max(days)) if days else None
    assessment = read_assessment(store, version.output)
    with reading_report(version.output, also=(TemplateError,)):
        return card_text(version, report, assessment, collected)


def card_text(
    version: Version, report: PrepareReport, assessment: Assessment | None, collected: tuple[str, str] | None
) -> str:
    """The text of the card from the facts of a run. collected: the first and the last
    day on which a record was collected; None if no record has such a time."""
    total, config, totals = sum(version.records.values()), report["config"], report["totals"]
    inputs, redacted_kinds, sources = config["inputs"], config["clean"]["redact"], report["sources"]
    generated = report.get("generated", [])
    tasks = sorted({one["task_type"] or config["records"]["task_type"] for one in inputs})
    domains = sorted({one["domain"] for one in inputs if one.get("domain")})
    found = assessment["findings"]["languages"] if assessment else {}
    least = _LANGUAGE_SHARE * sum(found.values())
    languages = [name for name, number in found.items() if _LANGUAGE.fullmatch(name) and number >= least]
    front: dict[str, Any] = {
        "pretty_name": str(version.name),
        **({"language": sorted(languages, key=lambda name: -found[name])} if languages else {}),
        **_licence(report),
        "task_categories": sorted({_TASKS.get(task, "text-generation") for task in tasks}),
        "size_categories": [next((name for bound, name in _SIZES if total < bound), "n>1T")],
        "tags": [
            "raymill",
            *(["synthetic"] if generated else []),
            *(["augmented"] if totals.get("augmented") else []),
            *tasks,
            *domains,
        ],
        **({"annotations_creators": ["machine-generated"]} if generated else {}),
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"data/{split}-*.parquet"} for split in SPLITS if version.records[split]
                ],
            }
        ],
    }
    gaps = [*report["warnings"]]
    gaps += [f"The licence of {one['source']} is not stated." for one in sources if not one["licence"]]
    gaps += [] if redacted_kinds else ["Personal data was not looked for."]
    licences = sorted({one["licence"] or "" for one in sources})
    first, last = collected or ("", "")
    values = {
        "version": version,
        "report": report,
        "split": config["split"],
        "sources": plural(len(sources), "source"),
        "tasks": ", ".join(tasks),
        "domains": ", ".join(domains),
        "total": plural(total, "record"),
        "splits": [(split, count(version.records[split])) for split in SPLITS],
        "repeated": plural(totals["repeated"], "record") if totals["repeated"] else "",
        "made": [(step, *(count(of[split]) for split in SPLITS)) for step, of in report.get("made", {}).items()],
        "kept": [
            (one["source"], one["licence"] or "not stated", count(one["records"]), count(sum(one["splits"].values())))
            for one in sources
        ],
        "generated": [
            (one["generator"], one["terms"] or "not stated", count(sum(one["splits"].values()))) for one in generated
        ],
        "collected": first and (f"on {first}" if first == last else f"from {first} to {last}"),
        "removed": [(plural(one["records"], "record"), one["meaning"]) for one in report["reasons"]],
        "redacted": redacted_kinds,
        "findings": plural(totals["personal_data"], "finding"),
        "own_licences": any("licence" in one["columns"] for one in inputs),
        "licences": licences if any(licences) else [],
        "gaps": gaps,
        "recipe": json.dumps(_without_folders(config), indent=1, ensure_ascii=False).replace("```", "'''"),
        "assessment": assessment,
    }
    if assessment is not None:
        values |= {
            "assessed": plural(assessment["records"], "record"),
            "score": "" if assessment["score"] is None else number(assessment["score"]),
            "metrics": [
                (one["name"], number(one["value"]), one["meaning"])
                for one in assessment["metrics"]
                if one["value"] is not None
            ],
            "gates": [
                (one["name"], number(one["value"]), bound_text(one), one["state"]) for one in assessment["gates"]
            ],
        }
    # Cards are published, and the run may have been made by a version that refused fewer secrets.
    return redacted(hub_card(__package__, front, values))


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


def export(store: Store, version: Version, folder: str, format: ExportFormat) -> list[str]:
    """Write a version to an empty folder or URI. Returns the URIs of the files.

    hf: `data/SPLIT-00000-of-00002.parquet` and README.md, the card; it loads with `datasets.load_dataset(FOLDER)`.
    parquet: the same without the card. jsonl: a file for each split with records, a line each; sharegpt and alpaca: the
    same with the id and the columns of that format alone.

    Raises:
        ConfigError: the folder has files.
        DataError: the run is gone, or was made again; or a record does not fit the format.
    """
    if store.list_files(folder):
        raise ConfigError(f"{folder}: has files already. Choose an empty folder, or another one.")
    written, lines = [], list[Path]()
    with tempfile.TemporaryDirectory() as scratch:
        for split, artifact in version.splits(store).items():
            if not artifact.manifest.rows:
                continue
            if format not in ("hf", "parquet"):
                local = Path(scratch, f"{split}.jsonl")
                with local.open("w", encoding="utf-8") as file:
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(artifact, format))
                lines.append(local)
                continue
            uris = [uri for uri, one in zip(artifact.file_uris, artifact.manifest.files, strict=True) if one.rows]
            for number, uri in enumerate(uris):
                local = Path(scratch, "part.parquet")
                local.write_bytes(store.read_bytes(uri))
                written.append(paths.join(folder, "data", f"{split}-{number:05}-of-{len(uris):05}.parquet"))
                store.upload(local, written[-1])
        for local in lines:  # when all records have become lines
            written.append(paths.join(folder, local.name))
            store.upload(local, written[-1])
    if format == "hf":
        written.append(paths.join(folder, "README.md"))
        store.write_bytes(written[-1], card(store, version).encode("utf-8", "backslashreplace"))
    return written


def as_sharegpt(content: Content) -> dict[str, Any]:
    """ShareGPT's column `conversations`, a list of {from, value}, and of a chat with tools `tools`, these as JSON text.

    Tool calls are messages from `function_call`, in the order of their results, without ids.

    Raises:
        Unusable: the record is no chat, or has messages with text beside their calls, reasoning or weights.
    """
    conversations, columns = [], to_shape(content, "messages")
    for one in columns["messages"]:
        if calls := [call["function"] for call in one.get("tool_calls", ())]:
            said = [call | {"arguments": json.loads(call["arguments"])} for call in calls]
            value = json.dumps(said if len(said) > 1 else said[0], ensure_ascii=False)
            conversations.append({"from": "function_call", "value": value})
        else:
            conversations.append({"from": _SPEAKERS[one["role"]], "value": one["content"]})
        if one.keys() - {"role", "content", "tool_calls", "tool_call_id", "name"} or (calls and one["content"]):
            raise Unusable("other_keys")
    return {"conversations": conversations} | {name: columns[name] for name in columns.keys() - {"messages"}}


def as_alpaca(content: Content) -> dict[str, Any]:
    """Alpaca's columns `instruction`, `input` and `output`, and `system`, which may be empty.

    Raises:
        Unusable: the record is not one question and one answer.
    """
    return to_shape(content, "instruction")


def _rows(artifact: Artifact, format: ExportFormat) -> Iterator[dict[str, Any]]:
    """The records as the lines of a format."""
    for table in artifact.tables():
        shape = shape_of(table.column_names)
        for row in few_rows(table, artifact.uri):
            if format == "jsonl":
                if shape == "messages":
                    row |= {"messages": without_nulls(row["messages"])}
                if row.get("tools"):
                    row |= {"tools": json.loads(row["tools"])}
                yield row
                continue
            try:
                content = from_shape(row, shape)
                yield {"id": row["id"]} | (as_sharegpt(content) if format == "sharegpt" else as_alpaca(content))
            except Unusable as error:
                raise DataError(
                    f"{artifact.uri}: record {row['id']} does not fit the format {format} ({REASONS[error.reason]})."
                    " Export it as jsonl, or prepare the records in another shape."
                ) from error


def push(store: Store, version: Version, place: str, *, public: bool = False) -> Pushed:
    """Make `hf://ORG/NAME` hold a version and nothing else but files outside `data/`.

    Writes the files to a temporary folder first.

    Args:
        public: of a data set that is created; one that is there stays public or private.

    Raises:
        ConfigError: the place is not of that form, or there is no token.
        StorageError: the hub refuses the token or the request, or cannot be reached.
        DataError: the run is gone, or was made again.
    """
    repository = HubRepository(place, "dataset")
    with tempfile.TemporaryDirectory(prefix="raymill-push-") as folder:
        export(store, version, folder, "hf")
        title, description = f"{version.name}:{version.version}", f"Raymill, digest {version.digest}"
        return repository.push(Path(folder), title, description, ["data/*"], public=public)
