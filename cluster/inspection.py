"""Looking at what a run left, and at configs: `raymill inspect`, `raymill config`."""

import json
from typing import Annotated

import typer

from cluster import storage
from cluster.artifact import MANIFEST, Artifact
from cluster.errors import DataError, StorageError

_TEXT_SHOWN = 60


def inspect(
    artifact: Annotated[str, typer.Argument(help="folder or URI of a run, or of an artifact in it")],
    rows: Annotated[int, typer.Option("--rows", "-n", min=0, help="rows to show")] = 3,
) -> None:
    """Print an artifact's manifest, schema, counts and first rows; of a run or folder, its artifacts and digests."""
    uri = storage.absolute(artifact)
    try:
        manifest = json.loads(storage.read_bytes(storage.join(uri, MANIFEST)))
    except storage.NotFound:
        if names := _artifacts_below(uri):
            _show_folder(uri, names)
            return
        raise DataError(
            f"{uri}: no {MANIFEST} here, so this is no finished run and no finished artifact. "
            "Check the path, or run the command that makes it again: it continues."
        ) from None
    except ValueError as error:
        raise DataError(f"{uri}/{MANIFEST}: not JSON ({error}). It was not written by this project.") from error
    if "artifacts" in manifest:
        _show_run(uri, manifest)
    else:
        _show_artifact(Artifact.load(uri), rows)


def _show_run(uri: str, manifest: dict) -> None:
    print(f"run       {manifest['name']} ({manifest['kind']}), finished {manifest['finished']}")
    print(f"at        {uri}")
    print(f"made by   raymill {manifest['version']}")
    print(f"digest    {manifest['digest']}")
    _show_parts(uri, list(manifest["artifacts"]))


def _show_folder(uri: str, names: list[str]) -> None:
    print(f"folder    {len(names):,} finished artifact{'s' if len(names) > 1 else ''}, and no finished run of its own")
    print(f"at        {uri}")
    _show_parts(uri, names)


def _show_parts(uri: str, names: list[str]) -> None:
    width = max([16, *map(len, names)])
    for name in names:
        found = Artifact.load(storage.join(uri, name)).manifest
        print(f"  {name:<{width}} {found.rows:>12,} rows {_size(found.bytes):>10}  {found.digest}")


def _artifacts_below(uri: str) -> list[str]:
    """Their names in the folder; without those of work in between."""
    try:
        files = storage.list_files(uri)
    except StorageError:
        return []  # a folder with foreign things in it
    names = [file.uri.removeprefix(uri).strip("/").rpartition("/")[0] for file in files
             if file.uri.endswith(f"/{MANIFEST}")]  # fmt: skip
    return [name for name in names if not name.startswith("_") and _is_artifact(storage.join(uri, name))]


def _is_artifact(uri: str) -> bool:
    try:
        return bool(Artifact.load(uri))
    except DataError:
        return False


def _show_artifact(artifact: Artifact, rows: int) -> None:
    manifest = artifact.manifest
    print(f"artifact  {manifest.kind}, made {manifest.made} by raymill {manifest.version}")
    print(f"at        {artifact.uri}")
    print(f"digest    {manifest.digest}")
    print(f"made from {manifest.fingerprint}")
    print(f"holds     {manifest.rows:,} rows, {_size(manifest.bytes)}, {len(manifest.files):,} files")
    print("columns")
    for name, kind in manifest.schema:
        print(f"  {name:<28} {kind}")
    print("counters")
    for name, value in manifest.counters.items():
        print(f"  {name:<28} {value:,.0f}")
    if rows:
        print("rows")
        for row in first_rows(artifact, rows):
            print("  " + json.dumps(row, ensure_ascii=False, default=str))


def first_rows(artifact: Artifact, count: int) -> list[dict]:
    """The first rows, long values cut."""
    found: list[dict] = []
    for table in artifact.tables():
        found += table.slice(0, count - len(found)).to_pylist()
        if len(found) >= count:
            break
    return [{name: shortened(value) for name, value in row.items()} for row in found]


def shortened(value: object) -> object:
    if isinstance(value, bytes):
        return f"{value[:8].hex()}... ({len(value)} bytes)" if len(value) > 16 else value.hex()
    if isinstance(value, str) and len(value) > _TEXT_SHOWN:
        return f"{value[:_TEXT_SHOWN]}... ({len(value):,} characters)"
    return value


def config(
    action: Annotated[str, typer.Argument(help="schema, or check")],
    file: Annotated[str | None, typer.Argument(help="with check: the config to read")] = None,
    override: Annotated[list[str] | None, typer.Option("-o", help="key.sub=value")] = None,
) -> None:
    """`schema` prints the JSON schema of every kind of config; `check FILE` prints it with its defaults."""
    from cluster.config import load, schema

    if action == "schema" and file is None:
        print(json.dumps(schema(), indent=1))
    elif action == "check" and file is not None:
        print(load(file, override or []).model_dump_json(indent=1))
    else:
        raise typer.BadParameter("say `raymill config schema`, or `raymill config check FILE`")


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
