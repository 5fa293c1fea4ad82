"""The verbs `raymill inspect` (runs and artifacts) and `raymill config` (schema and check)."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer

from raymill.cluster.answer import Answer
from raymill.cluster.artifact import EARLIER_MANIFEST, MANIFEST, Artifact, fingerprint, require_files
from raymill.cluster.asking.answers import ANSWERS, OUTCOMES
from raymill.cluster.asking.compaction import StoreFacts, stores_below, summary
from raymill.cluster.config import load_storage, schema
from raymill.cluster.errors import DataError, Problem, StorageError
from raymill.cluster.formats import byte_size, plural
from raymill.cluster.frame.calls import AnyConfig, Changes, changes_of, config_of
from raymill.cluster.frame.config_calls import settings as settings_of
from raymill.cluster.frame.job import Run
from raymill.cluster.readers.reader import few_rows
from raymill.cluster.record import RecordFile, record_json
from raymill.cluster.run import RUN_MANIFEST, exported_folders
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store

_TEXT_SHOWN, _VALUES_SHOWN = 60, 1000  # characters of a text, values of a list

RunConfig = Annotated[
    str | None, typer.Option("--config", metavar="CONFIG", help="the run's config, for its `storage:` settings")
]
StorageOverrides = Annotated[
    list[str] | None, typer.Option("-o", help="change one storage setting: storage.endpoint_url=http://HOST:PORT")
]


@contextmanager
def store_for(
    uri: str | os.PathLike[str] | Run | Artifact, config: AnyConfig = None, override: Changes = None
) -> Iterator[tuple[Store, str]]:
    """Yield the store of a run, with the storage settings of a config if one is given, and the run's absolute URI.

    uri: a path or URI, or what is open already. override: changes of the config; without one, of `storage` alone.

    Raises:
        ConfigError: the config or an override is wrong.
        StorageError: raised in the body; the message names `--config` if no settings were given.
    """
    is_given = config is not None or bool(override)
    if isinstance(uri, Run | Artifact):
        store, uri = uri.store, uri.uri
    else:
        store, uri = Store(), os.fspath(uri)
    if config is not None:
        store = Store(config_of(config, None, override).storage)
    elif override:
        store = Store(load_storage(changes_of(override)))
    try:
        yield store, paths.absolute(uri)
    except StorageError as error:
        if not is_given and paths.is_remote(uri) and store == Store():
            raise StorageError(
                f"{error} If the run's config has `storage:` settings, give them: --config CONFIG, or "
                "-o storage.endpoint_url=URL."
            ) from error
        raise


def inspect(
    artifact: Annotated[str, typer.Argument(help="folder or URI of a run, or of an artifact in it")],
    rows: Annotated[int, typer.Option("--rows", "-n", min=0, help="rows to show")] = 3,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """Print an artifact's manifest, schema, counts and first rows; of a run or folder, its artifacts and digests."""
    print(describe(artifact, rows, config, override))


def describe(
    artifact: str | os.PathLike[str] | Run | Artifact,
    rows: int = 3,
    config: AnyConfig = None,
    override: Changes = None,
) -> Answer:
    """An artifact's manifest, schema, counts and first rows; of a run or folder, its artifacts and digests; of an
    answer store, its tries and tokens by run.

    Args:
        artifact: folder or URI of a run, or of an artifact or answer store in it; or what is open already.
        rows: number of rows, with long values shortened.
        config: the run's config, for its `storage` settings.
        override: changes of single settings, as in {"storage.endpoint_url": "http://HOST:PORT"}.

    Raises:
        DataError: there is neither.
    """
    with store_for(artifact, config, override) as (store, uri):
        if (found := Artifact.find(store, uri)) is not None:
            shown = first_rows(found, rows) if rows else []
            return Answer(asdict(found.manifest) | {"rows": shown}, "\n".join(_artifact_lines(found, shown)))
        if (manifest := read_run_manifest(store, uri)) is None and (names := _artifacts_below(store, uri)):
            head = [f"folder    {plural(len(names), 'finished artifact')}, and no finished run of its own"]
            parts = _parts_lines(store, uri, dict.fromkeys(names, ""))
            return Answer({"artifacts": names}, "\n".join([*head, f"at        {uri}", *parts]))
        if manifest is None and (facts := stores_below(store, uri).get("")):
            runs = summary(store, uri)
            return Answer(asdict(facts) | {"runs": runs}, "\n".join(_store_lines(uri, facts, runs)))
        if manifest is None:
            missing = f"no {RUN_MANIFEST} and no {MANIFEST} here, so this is no finished run and no finished artifact"
            raise nothing_here(store, uri, missing)
        if not is_run(manifest):
            raise nothing_here(store, uri, f"{RUN_MANIFEST} belongs to no run and no artifact")
        return Answer(manifest, "\n".join(_run_lines(store, uri, manifest)))


def _run_lines(store: Store, uri: str, manifest: dict[str, Any]) -> Iterator[str]:
    yield f"run       {manifest['name']} ({manifest['kind']}), finished {manifest['finished']}"
    yield f"at        {uri}"
    yield f"made by   raymill {manifest['version']}"
    yield f"digest    {manifest['digest']}"
    for name, line in manifest.get("told", {}).items():
        yield f"{name:<9} {line}"
    yield from _parts_lines(store, uri, manifest["artifacts"])
    for folder, facts in stores_below(store, paths.join(uri, ANSWERS)).items():
        name = paths.join(ANSWERS, folder) if folder else ANSWERS
        yield f"  {name:<16} {facts.text}; `raymill inspect {paths.join(uri, name)}` has their tries and tokens"


def _store_lines(uri: str, facts: StoreFacts, runs: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    yield f"answers   {facts.text}"
    yield f"at        {uri}"
    for run, counts in runs.items():
        outcomes = ", ".join(f"{counts[one]:,} {one}" for one in OUTCOMES if one in counts)
        tokens = f"{counts['input_tokens']:,} tokens in, {counts['output_tokens']:,} out"
        yield f"  {run}: {counts['tries']:,} tries ({outcomes}), {tokens}"


def read_run_manifest(store: Store, uri: str) -> Any:
    """The content of the folder's manifest.json; None if there is no such file."""
    at = paths.join(uri, RUN_MANIFEST)
    fix = "If a run of Raymill wrote it, delete it and start that run again; else point elsewhere."
    return RecordFile(store, at, "JSON", _parse, fix).read()


def _parse(data: bytes) -> Any:
    manifest = record_json(data)
    if is_run(manifest):
        manifest["artifacts"] = {paths.RelativePath(name): digest for name, digest in manifest["artifacts"].items()}
        manifest["digest"] = fingerprint(manifest["artifacts"])  # whatever is stated
        if "export" in manifest:
            manifest["export"]["folders"] = exported_folders(manifest)
    return manifest


def is_run(manifest: Any) -> bool:
    """Whether the content of a manifest.json describes a finished run."""
    return isinstance(manifest, dict) and "artifacts" in manifest


def nothing_here(store: Store, uri: str, seen: str) -> DataError:
    """The error for a folder without a manifest. For a part of a finished run it names the run."""
    if run := _run_above(store, uri):
        fix = f"It is part of the finished run at {run}. Run `raymill inspect {run}`."
        return DataError.about(Problem.of(uri, seen, fix=fix))
    require_files(store, uri)
    fix = "Check the path, or run the command that makes it again: it continues."
    return DataError.about(Problem.of(uri, seen, fix=fix))


def _run_above(store: Store, uri: str) -> str | None:
    """The finished run that contains this folder, at most two levels down; None if there is none."""
    for _ in range(2):
        uri = uri.rpartition("/")[0]
        if not uri or uri.endswith(":/"):
            return None
        try:
            manifest = read_run_manifest(store, uri)
        except (StorageError, DataError):
            continue  # the folder above may be unreadable
        if is_run(manifest):
            return uri
    return None


def _parts_lines(store: Store, uri: str, digests: dict[str, str]) -> Iterator[str]:
    """One line per part. digests: from the run's manifest, shown for parts that are not artifacts."""
    width = max([16, *map(len, digests)])
    for name, digest in digests.items():
        part = paths.join(uri, name)
        try:
            found = Artifact.load(store, part).manifest
            contents = f"{found.rows:>12,} rows  {byte_size(found.bytes):>10}  {found.digest}"
        except DataError:
            files = store.list_files(part)
            contents = f"{len(files):>12,} files {byte_size(sum(file.size for file in files)):>10}  {digest}"
        yield f"  {name:<{width}} {contents}"


def _artifacts_below(store: Store, uri: str) -> list[str]:
    """Names of the finished artifacts in a folder, without intermediate ones."""
    try:
        files = store.list_files(uri)
    except StorageError:
        return []  # the folder holds something that cannot be listed
    names = [file.uri.removeprefix(uri).strip("/").rpartition("/")[0] for file in files
             if file.uri.endswith((f"/{MANIFEST}", f"/{EARLIER_MANIFEST}"))]  # fmt: skip
    return [name for name in names if not name.startswith("_") and _is_artifact(store, paths.join(uri, name))]


def _is_artifact(store: Store, uri: str) -> bool:
    try:
        return Artifact.find(store, uri) is not None
    except DataError:
        return False


def _artifact_lines(artifact: Artifact, rows: Sequence[dict]) -> Iterator[str]:
    manifest = artifact.manifest
    size = f"{plural(manifest.rows, 'row')}, {byte_size(manifest.bytes)}, {plural(len(manifest.files), 'file')}"
    yield f"artifact  {manifest.kind}, made {manifest.made} by raymill {manifest.version}"
    yield f"at        {artifact.uri}"
    yield f"digest    {manifest.digest}"
    yield f"made from {manifest.fingerprint}"
    yield f"holds     {size}"
    yield "columns"
    for name, kind in manifest.schema:
        yield f"  {name:<28} {kind}"
    yield "counters"
    for name, value in manifest.counters.items():
        yield f"  {name:<28} {value:,.0f}"
    if rows:
        yield "rows"
        for row in rows:
            yield "  " + json.dumps(row, ensure_ascii=False, default=str)


def first_rows(artifact: Artifact, count: int) -> list[dict]:
    """The first `count` rows, with long values shortened."""
    found: list[dict] = []
    for table in artifact.tables():
        found += few_rows(table.slice(0, count - len(found)), artifact.uri)
        if len(found) >= count:
            break
    return [{name: shortened(value) for name, value in row.items()} for row in found]


def shortened(value: object, characters: int = _TEXT_SHOWN) -> object:
    """A value of a row for display: text of more characters, and bytes, are cut, with their length."""
    if isinstance(value, bytes):
        return f"{value[:8].hex()}... ({len(value)} bytes)" if len(value) > 16 else value.hex()
    if isinstance(value, str) and len(value) > characters:
        return f"{value[:characters]}... ({len(value):,} characters)"
    if isinstance(value, list):
        more = [f"... ({len(value):,} values)"] * (len(value) > _VALUES_SHOWN)
        return [shortened(one, characters) for one in value[:_VALUES_SHOWN]] + more
    if isinstance(value, dict):
        return {name: shortened(one, characters) for name, one in value.items()}
    return value


def config(
    action: Annotated[str, typer.Argument(help="settings, check, or schema")],
    file: Annotated[str | None, typer.Argument(help="with settings: the kind; with check: the config to read")] = None,
    override: Annotated[list[str] | None, typer.Option("-o", help="key.sub=value")] = None,
) -> None:
    """`settings KIND` prints all settings of a kind, with their values, defaults and meanings.

    `check FILE` prints a config with its defaults; `schema` the JSON schema of every kind.
    """
    if action == "schema" and file is None:
        print(json.dumps(schema(), indent=1))
    elif action == "settings" and file is not None:
        print(settings_of(file))
    elif action == "check" and file is not None:
        settings = config_of(file, None, override)
        for warning in getattr(settings, "without_effect", ()):
            print(f"warning: {warning}", file=sys.stderr)
        print(settings.model_dump_json(indent=1))
    else:
        raise typer.BadParameter(
            "write `raymill config settings KIND`, `raymill config check FILE`, or `raymill config schema`"
        )
