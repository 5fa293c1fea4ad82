"""The records of an alias: FOLDER/aliases/NAME/00000001.json, ...; that with the highest number is current.

A record is created once (put-if-absent) and never changed. If two programs move an alias at the same time, one is
first, and a reader sees one whole record. A rollback is a record, too.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Annotated, Any, Self

from pydantic import Field
from typing_extensions import TypedDict

from raymill.cluster.errors import BusyError, ConfigError, DataError
from raymill.cluster.frame.run_name import NAME
from raymill.cluster.inspection import is_run, read_run_manifest
from raymill.cluster.record import RecordFile, check_types, json_bytes, record_json
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.model_folder.folder import located_with_fingerprint
from raymill.training.records.finished import EXPORT, export_damage

MODELS = "RAYMILL_MODELS"
ALIASES = "aliases"
_RECORD = re.compile(r"\d{8}\.json")
_HIGHEST = 99_999_999  # number of a record
_LARGEST = 64 << 10  # bytes of a record
_TRIES = 100

_Number = Annotated[int, Field(ge=1, le=_HIGHEST)]
_Digest = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@/-]{1,300}$")]  # a model on the hub: NAME@COMMIT


class _Evidence(TypedDict):
    run: str
    digest: _Digest
    passed: bool | None


class _Record(TypedDict):
    version: _Number
    promoted: _Number
    model: str
    digest: _Digest
    evidence: _Evidence | None
    moved: Annotated[str, Field(pattern=r"^[0-9T:.+-]{1,40}$")]


@dataclass(frozen=True)
class AliasVersion:
    """A record of an alias.

    Attributes:
        version: its number, from 1.
        promoted: number of the record that promoted the model; another one than `version` after a rollback.
        model: URI of a run or a model folder. digest: of the run, or the fingerprint of the folder.
        evidence: the run that justified the promotion: its URI, digest and `passed`; None: none was given.
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
        check_types(_Record, plain)
        if plain["promoted"] > plain["version"]:
            raise ValueError("promoted is above version")
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
        """The current record; None if there is none.

        Raises:
            DataError: it is damaged.
            StorageError: it or its folder is a link that leads out of the folder of models.
        """
        self.store.refuse_links_out(self.uri, within=self.folder)
        files = [file.uri.removeprefix(f"{self.uri}/") for file in self.store.list_files(self.uri, skip_bad_names=True)]
        numbers = [int(name[:8]) for name in files if _RECORD.fullmatch(name)]
        return self.read(max(numbers)) if numbers else None

    def move(self, model: str, digest: str, evidence: Mapping[str, Any] | None) -> AliasVersion:
        """Point the alias to a model. If it does already, with the same evidence, nothing is written.

        Raises:
            BusyError: other programs moved the alias each time, or something else has the name of the next record.
            DataError: a record of the alias is damaged, or has the highest number.
        """
        for _ in range(_TRIES):  # another program may move it at the same time
            now = self.current()
            given = None if evidence is None else dict(evidence)
            if now is not None and (now.model, now.digest, now.evidence) == (model, digest, given):
                return now
            number = self._after(now)
            wanted = AliasVersion(number, number, paths.RecordedUri(model), digest, given, _now())
            if self._create(wanted):
                return wanted
        raise BusyError(
            f"{self._uri(number)}: cannot be created, and is no record ({_TRIES} tries). Remove what is there, or wait "
            "until no other program moves this alias."
        )

    def rollback(self) -> AliasVersion:
        """Return to the model that was promoted before the current one, in a new record.

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
        number = self._after(now)
        found = AliasVersion(number, before.version, before.model, before.digest, before.evidence, _now())
        if not self._create(found):
            raise BusyError(f"{self.uri}: another program moved this alias meanwhile. Look at it and try again.")
        return found

    def check(self, record: AliasVersion) -> None:
        """Verify that the model of a record is the one that was promoted.

        Raises:
            DataError: it is gone, changed, or on another store than the aliases.
        """
        # Otherwise whoever wrote the record could direct requests with the user's keys to any store.
        if paths.store_of(record.model) != paths.store_of(self.folder):
            raise DataError(f"{record.model}: is on another store than the aliases. Promote it by its config.")
        if (seen := model_digest(self.store, record.model)) != record.digest:
            raise DataError(f"{record.model}: has digest {seen}, and {record.digest} was promoted. It was made again.")

    def missing(self) -> ConfigError:
        """The error of an alias without a record."""
        folder = paths.join(self.folder, ALIASES)
        files = self.store.list_files(folder, skip_bad_names=True)
        known = sorted({file.uri.removeprefix(f"{folder}/").partition("/")[0] for file in files})
        near = get_close_matches(self.name, known, 1)
        fix = f"Did you mean {near[0]}?" if near else "Promote a model, or give another folder."
        return ConfigError(f"{self.uri}: there is no alias {self.name} here. {fix}")

    def _after(self, now: AliasVersion | None) -> int:
        """The number of the next record."""
        number = now.version + 1 if now else 1
        if number > _HIGHEST:
            raise DataError(
                f"{self._uri(_HIGHEST)}: has the highest number. Delete it; then the record before it is current."
            )
        return number

    def _create(self, record: AliasVersion) -> bool:
        """Create a record, and read it back; False if there is one with its number."""
        if not self.store.create(self._uri(record.version), json_bytes(asdict(record))):
            return False
        now = self.current()
        if now is None or now.version < record.version or self.read(record.version) != record:
            raise DataError(f"{self._uri(record.version)}: was written and is not found. Look at the folder's files.")
        return True

    def _uri(self, number: int) -> str:
        return paths.join(self.uri, f"{number:08d}.json")

    def read(self, number: int) -> AliasVersion:
        """The record with this number. Raises DataError: it is gone or damaged."""
        fix = "Restore it; or delete it, then the record before it is current."
        what = "the record of an alias"
        file = RecordFile(
            self.store, self._uri(number), what, AliasVersion.parse, fix, of_folder=False, largest=_LARGEST
        )
        if (found := file.read()) is None:
            raise DataError(f"{file.uri}: is gone. Records of aliases are never removed: restore it, or promote again.")
        if found.version != number:
            raise DataError(f"{file.uri}: not {what} (version is {found.version}). {fix}")
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
