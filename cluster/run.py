"""The manifest of a run: its settings, the fingerprint of its inputs and the digest of each artifact. Written last.

A run with a manifest is finished. The same command finds it and does nothing; a command with other settings is refused,
or replaces the run if `--replace` is given.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from raymill import cluster
from raymill.cluster.artifact import fingerprint, require_files
from raymill.cluster.errors import DataError, Problem
from raymill.cluster.record import RecordFile, json_bytes, json_with, read_json, with_paths
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store

RUN_MANIFEST, RUN_REPORT = "manifest.json", "report.json"
# What code that shows a report raises for values that it does not expect.
_OF_OTHER_VALUES: tuple[type[Exception], ...] = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError),
)
_TEXTS = ("kind", "name", "version", "digest")


@contextmanager
def reading_report(root: str, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Show a report that anybody may have written.

    Args:
        root: URI of its run.
        also: further errors that it can have what shows it raise, as those of a template.

    Raises:
        DataError: it has other values than a report of the run.
    """
    try:
        yield
    except _OF_OTHER_VALUES + also as error:
        raise DataError(
            f"{paths.join(root, RUN_REPORT)}: not the report of this run ({type(error).__name__}: {error!s:.200}). "
            f"Delete {RUN_MANIFEST} there and run the same command again: both are made again."
        ) from error


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, local or on a store, and the manifest in it."""

    store: Store
    uri: str

    @property
    def manifest_file(self) -> RecordFile[dict[str, Any]]:
        at = paths.join(self.uri, RUN_MANIFEST)
        fix = "If a run of Raymill wrote it, delete it and start that run again: what it finished is kept. Else choose "
        return RecordFile(self.store, at, "the manifest of a run", _parse, f"{fix}another folder.")

    def finished(self, kind: str) -> dict[str, Any] | None:
        """The manifest of the finished run of this kind, such as `curate`; None if there is none.

        Raises:
            DataError: the manifest is damaged, or another program's.
        """
        manifest = self.manifest_file.read()
        return manifest if manifest is not None and manifest.get("kind") == kind else None

    def report(self, *keys: str) -> Any:
        """The content of report.json, which has these keys.

        Raises:
            DataError: it is missing or damaged, or has not one of them.
        """
        uri = paths.join(self.uri, RUN_REPORT)
        if (found := read_json(self.store, uri, "the report of a run", *keys)) is None:
            fix = "Run the command that wrote it again: it is made again."
            raise DataError.about(Problem.of(uri, "is gone", fix=fix))
        return found

    def require(self, kind: str, advice: str = "Point at one, or run it again: it continues.") -> dict[str, Any]:
        """The manifest of the finished run of this kind.

        Raises:
            DataError: there is none; the message ends with `advice`.
        """
        if (found := self.finished(kind)) is not None:
            return found
        manifest = self.manifest_file.read()
        require_files(self.store, self.uri)
        seen = "no finished run" if manifest is None else f"a run of kind {manifest.get('kind')}"
        raise DataError.about(Problem.of(self.uri, seen, f"the output of `raymill {kind}`", advice))

    def find(
        self,
        settings: dict[str, Any],
        inputs: str,
        replace: bool,
        input_changes: Callable[[], str] = lambda: "the input files changed",
    ) -> dict[str, Any] | None:
        """The manifest of the finished run with these settings and inputs; None if there is none.

        Args:
            settings: those that decide the result, as plain JSON values.
            inputs: fingerprint of the input files.
            replace: remove the manifest of a run with other settings or inputs instead of raising an error.
            input_changes: returns a text about the differing input files, for the error.

        Raises:
            OtherSettings: without `replace`: a run with other settings or inputs is finished there.
        """

        def refusal(manifest: dict[str, Any]) -> Problem | None:
            found, wanted = manifest.get("kind"), settings.get("kind", manifest.get("kind"))
            if found != wanted:
                return other_settings(self.uri, "a finished run", [f"its kind is {found}, not {wanted}"])
            changed = differences(manifest["config"], settings)
            if not changed and manifest["inputs"] != inputs:
                changed = [input_changes()]
            if not changed:
                return None
            return other_settings(self.uri, "a finished run", changed)

        return self.manifest_file.find_or_discard(refusal, replace)

    def put(
        self, kind: str, name: str, settings: dict[str, Any], inputs: str, artifacts: dict[str, str], **more: Any
    ) -> dict[str, Any]:
        """Create the manifest of a finished run. Returns it, or the one that another driver created first.

        Args:
            artifacts: path below this folder -> digest, for each result of the run: artifacts and other folders (an
                exported model, a phase). The run's digest is computed from these alone.
            more: further entries. `told` (name -> line) is shown by `raymill inspect`.
        """
        manifest = {
            "kind": kind,
            "name": name,
            "version": cluster.__version__,
            **more,
            "inputs": inputs,
            "config": settings,
            "artifacts": dict(sorted(artifacts.items())),
        }
        manifest["digest"] = fingerprint(manifest["artifacts"])
        return self.manifest_file.create(json_bytes(manifest))


def other_settings(uri: str, what: str, changed: Sequence[str]) -> Problem:
    """What is at an output has other settings or inputs, of which `changed` has a line each."""
    seen = f"holds {what} with other settings or inputs: {'; '.join(changed)}"
    fix = "Choose another output, or add --replace to make again what these changes affect; the rest is kept."
    return Problem.of(uri, seen, fix=fix)


def _parse(data: bytes) -> dict[str, Any]:
    manifest = json_with("config", "inputs", *_TEXTS)(data)
    if not all(isinstance(manifest[name], str) for name in _TEXTS):
        raise ValueError(f"{', '.join(_TEXTS)} are text")
    manifest["artifacts"] = {paths.RelativePath(name): one for name, one in manifest.get("artifacts", {}).items()}
    manifest["digest"] = fingerprint(manifest["artifacts"])  # whatever is stated
    if "export" in manifest:
        manifest["export"]["files"] = with_paths(manifest["export"]["files"])
        manifest["export"]["folders"] = exported_folders(manifest)
    if "packed" in manifest.get("told", {}):
        manifest["told"]["packed"] = paths.RecordedUri(manifest["told"]["packed"])
    return manifest


def exported_folders(manifest: Mapping[str, Any]) -> dict[str, paths.FileName]:
    """The folders that a run exported, by name. Raises ValueError: one is no name of a folder."""
    folders = manifest["export"].get("folders", {})
    return {paths.FileName(name): paths.FileName(folder) for name, folder in folders.items()}


def differences(before: Any, now: Any) -> list[str]:
    """The differences between two groups of settings, one line each. Of a whole group the values that are not null."""

    def shown(value: Any) -> str:
        given = {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value
        return json.dumps(given)

    return [f"{name} was {shown(old)}, now {shown(new)}" for name, old, new in changes(before, now)]


def changes(before: Any, now: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(name, before, now) of each setting that differs. A name in a list of groups has a number: `inputs.0.path`."""
    if _is_list_of_groups(before) and _is_list_of_groups(now):
        before, now = dict(enumerate(before)), dict(enumerate(now))
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            yield from changes(before.get(name), now.get(name), f"{at}.{name}".lstrip("."))
    elif before != now:
        yield at, before, now


def _is_list_of_groups(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)
