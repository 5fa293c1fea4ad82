"""`raymill curate --dry-run`: the inputs, settings and output of a run, and problems in the first rows of its files."""

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from posixpath import basename
from typing import Any

import pyarrow.compute as pc
import yaml

from cluster import logs
from cluster.artifact import Artifact
from cluster.formats import plural
from cluster.output_folder import check_output
from cluster.readers.files.compression import compression_ending
from cluster.readers.files.file_problems import decompression_problem, first_bytes
from cluster.readers.files.limits import Limits
from cluster.readers.files.span import Span
from cluster.readers.find import skipped_text
from cluster.readers.formats import READERS
from cluster.readers.reader import PROBLEMS, Reader, ReaderCounts
from cluster.readers.recorded import INPUTS_JSON
from cluster.readers.units import InputManifest
from cluster.stage import RunStageIn, finished_stages
from cluster.store import paths
from cluster.store.store import Store
from pipelines.curate.config import CurateConfig
from pipelines.curate.job import CurateJob
from pipelines.curate.stages.contaminated import decontamination_of

_THREADS = 16
_FILES_LOOKED_AT = 100  # per source


def print_plan(settings: CurateConfig, address: str | None = None) -> None:
    """Print the inputs, settings and output of a run. Makes all checks that a run makes before it starts Ray.

    Raises:
        UserError: as `RunJob.run` does.
    """
    job = CurateJob(settings)
    root, inputs = job.root, job.frozen
    job.check()
    found = job.find()
    with job.naming_changes():
        state = output_state(job.store, root, found.run is not None, found.damage_text, job.stages)
    if found.run is None:
        check_output(job.store, root)
    files, size = plural(len(inputs.files), "file"), sum(unit.bytes for unit in inputs.units)
    print(f"inputs   {files}, {plural(len(inputs.units), 'unit')}, about {size / 1e6:,.1f} MB of text")
    print(f"rules    {', '.join(rule.name for rule in settings.active_rules()) or 'none'}")
    if decontamination := decontamination_of(settings.filters):
        for line in decontamination.examples(settings.store).summary:
            print(f"sets     {line}")
    if settings.dedup:
        bands, columns = settings.dedup.banding
        caught = ", ".join(f"{s}: {settings.dedup.caught(s):.0%}" for s in (0.6, 0.7, 0.8, 0.9))
        print(f"dedup    {bands} bands of {columns} signature columns; pairs compared, by similarity: {caught}")
    else:
        print("dedup    none")
    if boilerplate := settings.boilerplate:
        most = plural(boilerplate.max_documents, "document")
        print(f"cut      {boilerplate.cut} that more than {most} of their source have")
    if repeats := settings.repeats:
        what = "listed, and cut out of all documents but the first" if repeats.cut else "listed"
        print(f"repeats  of {repeats.min_words} words and more are {what}")
    print(f"output   {root}: {state}")
    for source, skipped in inputs.skipped.items():
        if skipped:
            print(f"skipped  {source}: {skipped_text(skipped)}")
    look, allowed = first_look(inputs, settings.limits), settings.execution.max_bad_documents
    for note in [*inputs.notes, *look.notes]:
        print(f"note     {note}")
    if look.unreadable > allowed * look.rows:
        share = look.unreadable / look.rows
        print(
            f"note     {share:.1%} of the rows seen cannot be read, and the run allows {allowed:.1%}: if the others "
            "are like them, it stops after measuring. Mend them, or allow more with "
            f"-o execution.max_bad_documents={math.ceil(100 * share) / 100}."
        )
    everything = settings.model_dump(mode="json")
    if logs.is_verbose():
        print("\nEvery setting:\n" + settings_text(everything))
    else:
        print(
            "\nSettings that differ from the defaults (--verbose shows all):\n"
            + settings_text(changed_settings(settings))
        )


def output_state(
    store: Store, root: str, finished: bool, damage: str, run_stages: Callable[[RunStageIn], Mapping[str, Artifact]]
) -> str:
    """The state of the output, and what a run does about it, as text. Starts nothing.

    run_stages: passes each stage of the run to a function that returns its artifacts.

    Raises:
        DataError: an unfinished run with other settings is there, or too many documents are in quarantine.
    """
    if damage:
        return f"{damage}; damaged files will be made again"
    if finished:
        return "finished, nothing to do"
    done = finished_stages(root, run_stages)
    if store.exists(paths.join(root, INPUTS_JSON)):
        return f"unfinished (finished stages: {', '.join(done) or 'none'}), to be continued"
    if store.holds_files(root):
        return "to be made; other files are in this folder, and stay there"
    return "to be made"


def changed_settings(settings: CurateConfig) -> dict[str, Any]:
    """The shortest config with these settings: those that differ from the defaults, and those without a default."""
    required = {"kind": settings.kind, "name": settings.name, "output": settings.output}
    inputs: list[dict[str, Any]] = [
        {"source": entry.source, "path": entry.path} | ({} if entry.storage is None else {"storage": {}})
        for entry in settings.inputs
    ]
    plain = [{name: value for name, value in entry.items() if name != "source"} for entry in inputs]
    defaults = CurateConfig.model_validate(required | {"inputs": plain})
    found = changed(settings.model_dump(mode="json"), defaults.model_dump(mode="json"))
    if "inputs" in found:
        found["inputs"] = [given | other for given, other in zip(inputs, found["inputs"], strict=True)]
    if isinstance(rules := found.get("rules"), dict):  # packs that are not in `packs` are null by default
        found["rules"] = {name: value for name, value in rules.items() if value is not None}
    return {"kind": settings.kind, "name": settings.name, "inputs": inputs, "output": settings.output} | found


def changed(now: Any, default: Any) -> Any:
    """The part of a setting that differs from its default."""
    if isinstance(now, dict) and isinstance(default, dict):
        return {name: changed(value, default.get(name)) for name, value in now.items() if value != default.get(name)}
    if isinstance(now, list) and isinstance(default, list) and len(now) == len(default):
        return [changed(one, other) for one, other in zip(now, default, strict=True)]
    return now


def settings_text(values: dict[str, Any]) -> str:
    """Settings as indented YAML."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return textwrap.indent(text.rstrip(), "  ")


@dataclass
class FirstLook:
    """The result of `first_look`. notes: sentences on problems. rows, unreadable: number of rows read, of bad ones."""

    notes: list[str] = field(default_factory=list)
    rows: int = 0
    unreadable: int = 0


def first_look(inputs: InputManifest, limits: Limits) -> FirstLook:
    """Find problems at the beginning of some files of each source.

    Reads the first block of at most 100 files of each source, and the first table (at most 8 MB of text) of the first
    file of each format with columns.
    """
    look = FirstLook()
    with ThreadPoolExecutor(_THREADS) as pool:
        for source in dict.fromkeys(unit.source for unit in inputs.units):
            store = inputs.reading.store_of(source)
            # The first span of each file: later entries overwrite, so reversed keeps the first.
            spans = {span.uri: span for unit in reversed(inputs.units) if unit.source == source
                     for span in reversed(unit.spans)}  # fmt: skip
            first = [spans[uri] for uri in sorted(spans)[:_FILES_LOOKED_AT]]
            is_stated = inputs.reading.input_of(source).encoding is not None
            problems = list(pool.map(lambda span, store=store: _file_problem(store, span, limits), first))
            problems = [None] * len(first) if is_stated else problems
            look.notes += [f"Source {source}: {note}" for note in _file_notes(first, problems)]
            good = [span for span, problem in zip(first, problems, strict=True) if problem is None]
            by_format = {span.format: span for span in reversed(good) if READERS[span.format].columns != "fixed"}
            row_notes = (_row_note(span, inputs, source, limits, look) for span in by_format.values())
            look.notes += [f"Source {source}: {note}" for note in row_notes if note]
    return look


def _file_problem(store: Store, span: Span, limits: Limits) -> str | None:
    """The problem of a whole file; None if there is none, or if the reader of its format finds none."""
    reader = READERS[span.format]
    if compression_ending(span.uri) and (problem := decompression_problem(store, span, limits)):
        return problem
    if type(reader).file_problem is Reader.file_problem:
        return None
    return reader.file_problem(first_bytes(store, span, limits))


def _file_notes(spans: list[Span], problems: list[str | None]) -> list[str]:
    """One sentence for each problem of whole files, with the first file and the number of others."""
    found: dict[str, list[str]] = {}
    for span, problem in zip(spans, problems, strict=True):
        if problem is not None:
            found.setdefault(problem, []).append(basename(span.uri))
    return [
        f"{names[0]}: {PROBLEMS[problem]}"
        + (f" (and {plural(len(names) - 1, 'more file')})" if len(names) > 1 else "")
        + "."
        for problem, names in found.items()
    ]


def _row_note(span: Span, inputs: InputManifest, source: str, limits: Limits, look: FirstLook) -> str | None:
    """A sentence on the rows of the first table of the reader, None if they have no problem. Counts them in `look`."""
    store, input, counts = inputs.reading.store_of(source), inputs.reading.input_of(source), ReaderCounts()
    table = next(READERS[span.format].read(store, span, input, limits, counts), None)
    if table is None:
        return None
    look.rows += table.num_rows
    look.unreadable += table.num_rows - table["problem"].null_count
    good = table.filter(pc.is_null(table["problem"]))
    empty = pc.sum(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(good["text"])), 0)).as_py() or 0
    found = [
        (good["id"].null_count if input.id else 0, "has no id and is named", "have no id and are named",
         " by the hash of the text"),
        (empty, "has", "have", " an empty text"),
        (counts.repeated_keys, "gives", "give", " a key twice (the last value is used)"),
    ]  # fmt: skip
    parts = [f"{count:,} {one if count == 1 else many}{what}" for count, one, many, what in found if count]
    for problem, count in Counter(table["problem"].drop_null().to_pylist()).most_common():
        parts.append(f"{count:,} cannot be read: {problem} ({PROBLEMS[problem]})")
    if not parts:
        return None
    return f"of the first {plural(table.num_rows, 'row')} of {basename(span.uri)}, {'; '.join(parts)}."
