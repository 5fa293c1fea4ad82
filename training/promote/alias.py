"""The records of an alias: FOLDER/aliases/NAME/00000001.json and so on; the one with the highest number holds.

A record is created once (put-if-absent) and never changed, so of two programs that move an alias at the same time one
is first, and a reader sees the model of one of them, whole. A rollback is a record too.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

from raymill.cluster.errors import BusyError, ConfigError, DataError
from raymill.cluster.frame.run_name import NAME
from raymill.cluster.inspection import is_run, read_run_manifest
from raymill.cluster.record import RecordFile, json_bytes, record_json
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.model_folder.folder import located_with_fingerprint
from raymill.training.records.finished import EXPORT, export_damage

MODELS = "RAYMILL_MODELS"
ALIASES = "aliases"
_RECORD = re.compile(r"/(\d{8})\.json$")


@dataclass(frozen=True)
class AliasVersion:
    """A record of an alias.

    Attributes:
        version: its number, from 1.
        promoted: number of the record that promoted the model; another one than `version` after a rollback.
        model: URI of a run or a model folder. digest: of the run, or the fingerprint of the folder.
        evidence: URI of the run that speaks for the model, its digest and its `passed`; null: none was given.
        moved: UTC time.
    """

    version: int
    promoted: int
    model: paths.RecordedUri
    digest: str
    evidence: dict[str, Any] | None
    moved: str

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From the content of its file."""
        plain = record_json(data)
        numbers, texts = (plain["version"], plain["promoted"]), (plain["digest"], plain["moved"])
        if not all(type(one) is int and one > 0 for one in numbers) or not all(isinstance(one, str) for one in texts):
            raise ValueError("version and promoted are numbers from 1, and digest and moved are text")
        if not isinstance(plain["evidence"], dict | None):
            raise ValueError("evidence is no mapping")
        evidence = plain["evidence"] and plain["evidence"] | {"run": paths.RecordedUri(plain["evidence"]["run"])}
        return cls(**plain | {"model": paths.RecordedUri(plain["model"]), "evidence": evidence})


def models_folder() -> str:
    """The folder or URI of the aliases that is used where none is given: $RAYMILL_MODELS, else ./models."""
    return paths.absolute(os.environ.get(MODELS) or "models")


@dataclass(frozen=True)
class Alias:
    """An alias in a folder of models."""

    store: Store
    folder: str
    name: str

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME, self.name):
            raise ConfigError(f"{self.name!r:.80}: no name of an alias. It has letters, digits, `_`, `.` and `-`.")

    @property
    def uri(self) -> str:
        """The folder of its records."""
        return paths.join(self.folder, ALIASES, self.name)

    def current(self) -> AliasVersion | None:
        """The record that holds; None if there is none."""
        files = self.store.list_files(self.uri, skip_bad_names=True)
        numbers = [int(match[1]) for file in files if (match := _RECORD.search(file.uri))]
        return self.read(max(numbers)) if numbers else None

    def move(self, model: str, digest: str, evidence: Mapping[str, Any] | None) -> AliasVersion:
        """Name a model. If the alias names it already for the same evidence, nothing is written."""
        while True:  # another program may move it at the same time
            now = self.current()
            given = None if evidence is None else dict(evidence)
            if now is not None and (now.model, now.digest, now.evidence) == (model, digest, given):
                return now
            number = now.version + 1 if now else 1
            wanted = AliasVersion(number, number, paths.RecordedUri(model), digest, given, _now())
            if self.store.create(self._uri(number), json_bytes(asdict(wanted))):
                return wanted

    def rollback(self) -> AliasVersion:
        """Name the model again that was promoted before the current one.

        Raises:
            DataError: there is none, or it is gone or changed.
            BusyError: another program moved the alias meanwhile.
        """
        if (now := self.current()) is None:
            raise self.missing()
        if now.promoted == 1:
            raise DataError(f"{self.uri}: no model was promoted before {now.model}. Promote another one.")
        before = self.read(self.read(now.promoted - 1).promoted)
        self.check(before)
        number = now.version + 1
        found = AliasVersion(number, before.version, before.model, before.digest, before.evidence, _now())
        if not self.store.create(self._uri(number), json_bytes(asdict(found))):
            raise BusyError(f"{self.uri}: another program moved this alias meanwhile. Look at it and try again.")
        return found

    def check(self, record: AliasVersion) -> None:
        """Verify that the model of a record is the one that was promoted.

        Raises:
            DataError: it is gone, changed, or on another store than the aliases.
        """
        # Whoever wrote the record could else choose where requests with the user's keys go.
        if paths.store_of(record.model) != paths.store_of(self.folder):
            raise DataError(f"{record.model}: is on another store than the aliases. Promote it by its config.")
        if (seen := model_digest(self.store, record.model)) != record.digest:
            raise DataError(f"{record.model}: has digest {seen}, and {record.digest} was promoted. It was made again.")

    def missing(self) -> ConfigError:
        """The error of an alias without a record."""
        return ConfigError(f"{self.uri}: there is no alias {self.name} here. Promote a model, or give another folder.")

    def _uri(self, number: int) -> str:
        return paths.join(self.uri, f"{number:08d}.json")

    def read(self, number: int) -> AliasVersion:
        """The record with this number. Raises DataError: it is gone or damaged."""
        fix = "Restore it; or delete it, then the record before it holds."
        file = RecordFile(
            self.store, self._uri(number), "the record of an alias", AliasVersion.parse, fix, of_folder=False
        )
        if (found := file.read()) is None:
            raise DataError(f"{file.uri}: is gone. Records of aliases are never removed: restore it, or promote again.")
        return found


def model_digest(store: Store, model: str) -> str:
    """The digest of a finished run, or the fingerprint of a folder with a model, an adapter or a classification head.

    Raises:
        DataError: an exported file of the run is damaged, or it is no model.
        StorageError: nothing is there.
    """
    manifest = read_run_manifest(store, model)
    if not is_run(manifest):
        return located_with_fingerprint(store, model)[1]
    if "export" in manifest and (damage := export_damage(store, paths.join(model, EXPORT), manifest["export"])):
        uri, seen = next(iter(damage.items()))
        raise DataError(f"{uri}: {seen}. Run the command that made the model again.")
    return manifest["digest"]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
