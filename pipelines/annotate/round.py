"""A round of annotation at its output: its tasks, its guideline, and the labels that came in.

tasks/                 the tasks (stages.py)
guidelines/            each version of the guideline, named by a hash of its text, and the name of the last one
answers/               labels as they come in (annotations.py)
labels/, adjudication/, agreement.json, report.html     what `finish` makes of them (finish.py)
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.run import RunFolder
from raymill.cluster.store import paths
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.store import Store
from raymill.cluster.stored_parquet import StoredParquet
from raymill.pipelines.annotate.annotations import Annotations
from raymill.pipelines.annotate.config import Annotator, Task
from raymill.pipelines.annotate.tasks import TASKS, TaskRow, read_tasks, tasks_schema

GUIDELINES, LABELS = "guidelines", "labels/labels.parquet"
_LONGEST_GUIDELINE = 1 << 20
_VERSION_DIGITS = 12
_CURRENT, _VERSION = "current", re.compile(rf"[0-9a-f]{{{_VERSION_DIGITS}}}")


@dataclass(frozen=True)
class Round:
    """A round whose tasks are chosen.

    Attributes:
        store: where it is. uri: its folder. name: of its config.
        task: what annotators see and are asked. annotators: who label.
        corrects: the field of records that the labels correct; empty: none.
    """

    store: Store
    uri: str
    name: str
    task: Task
    annotators: tuple[Annotator, ...]
    corrects: str = ""

    @classmethod
    def at(cls, store: Store, uri: str) -> "Round":
        """The round at a folder or URI.

        Raises:
            DataError: there is none, or its manifest is damaged.
        """
        uri = paths.absolute(uri)
        return cls.of(store, uri, RunFolder(store, uri).require("annotate"))

    @classmethod
    def of(cls, store: Store, uri: str, manifest: Mapping[str, Any]) -> "Round":
        """The round with this manifest, which anybody may have written."""
        try:
            config = manifest["config"]
            task = Task.model_validate(config["task"])
            people = tuple(Annotator.model_validate(one) for one in config["annotators"])
            corrects = (config.get("corrects") or {}).get("field", "")
            return cls(store, uri, str(manifest["name"]), task, people, str(corrects))
        except (ValidationError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{uri}: its manifest is none of `raymill annotate`: {error}. Make the round again."
            ) from error

    @cached_property
    def tasks(self) -> list[TaskRow]:
        """The tasks, in the order in which they are given to annotators. Raises errors of `stored_tasks`."""
        return read_tasks(self.stored_tasks)

    @property
    def stored_tasks(self) -> Artifact:
        """The tasks as they are stored.

        Raises:
            DataError: they are gone, or have other columns.
        """
        found = Artifact.load(self.store, paths.join(self.uri, TASKS))
        if not found.schema.equals(tasks_schema(self.task)):
            raise DataError(f"{found.uri}: has other columns than the tasks of this round. Make the round again.")
        return found

    @property
    def answers(self) -> Annotations:
        """The labels that came in."""
        return Annotations(self.store, self.uri)

    def guideline(self) -> tuple[str, str]:
        """(text, version) of the last version that `put_guideline` kept; empty without one.

        The path in the manifest is not read: who wrote a round could name any file of its reader.

        Raises:
            DataError: the record of the last version is damaged.
        """
        try:
            version = self.store.read_bytes(paths.join(self.uri, GUIDELINES, _CURRENT), 1 << 10).decode("ascii")
            if not _VERSION.fullmatch(version):
                raise ValueError("no version")
            text = self.store.read_bytes(paths.join(self.uri, GUIDELINES, f"{version}.md"), _LONGEST_GUIDELINE)
        except NotFound:
            return "", ""
        except ValueError as error:
            raise DataError(
                f"{paths.join(self.uri, GUIDELINES, _CURRENT)}: is damaged. Run `raymill annotate` with the round's "
                "config again."
            ) from error
        return text.decode("utf-8", "replace"), version

    def labels(self) -> dict[str, str]:
        """Task id -> label, of the tasks that have one after `finish`.

        Raises:
            DataError: the round was not finished, or the file of its labels is damaged.
        """
        try:
            with StoredParquet(self.store, paths.join(self.uri, LABELS)) as file:
                found: pa.Table = file.read(["id", "label"])
        except NotFound as error:
            raise DataError(
                f"{self.uri}: has no labels yet. Run `raymill annotate finish {self.uri}` first."
            ) from error
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{paths.join(self.uri, LABELS)}: is damaged ({error}). Run `raymill annotate finish {self.uri}` again."
            ) from error
        rows = zip(found["id"].to_pylist(), found["label"].to_pylist(), strict=True)
        return {id: label for id, label in rows if label is not None}


def put_guideline(store: Store, root: str, path: str | None) -> str:
    """Keep the guideline as it is now with the round, as the version that labels carry from now on.

    Returns its version; empty without one.

    Raises:
        ConfigError: it cannot be read.
    """
    if path is None:
        return ""
    version, content = guideline_version(store, path)
    store.create(paths.join(root, GUIDELINES, f"{version}.md"), content)
    store.write_bytes(paths.join(root, GUIDELINES, _CURRENT), version.encode())
    return version


def guideline_version(store: Store, path: str) -> tuple[str, bytes]:
    """(version, content) of a guideline.

    Raises:
        ConfigError: it cannot be read, or is no text.
    """
    try:
        content = store.read_bytes(path, _LONGEST_GUIDELINE)
        content.decode()
    except NotFound as error:
        raise ConfigError(f"task.guideline: there is no file {path}. Give a Markdown file.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"task.guideline: {path} is no text in UTF-8. Give a Markdown file.") from error
    return hashlib.sha256(content).hexdigest()[:_VERSION_DIGITS], content
