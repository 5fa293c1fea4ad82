"""The records of versions: REGISTRY/NAME/VERSION.json, each created once and never changed."""

import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Self

from raymill.cluster.artifact import Artifact
from raymill.cluster.dataset_versions import LARGEST_VERSION, tag_in_output
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.record import RecordFile, json_bytes, record_json
from raymill.cluster.run import RunFolder
from raymill.cluster.store import paths
from raymill.cluster.store.paths import FileName, RecordedUri
from raymill.cluster.store.store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NUMBERED = re.compile(r"v([1-9][0-9]*)")


@dataclass(frozen=True)
class Version:
    """A named version.

    Attributes:
        output: URI of the run. digest: of the run.
        records: of each split.
        tagged: UTC time.
        corrections: source, such as a round of annotation -> number of records that were corrected by `patches`.
    """

    name: FileName
    version: FileName
    output: RecordedUri
    digest: str
    records: dict[str, int]
    note: str
    tagged: str
    corrections: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From the content of its file."""
        plain = record_json(data)
        names = {"name": FileName(plain["name"]), "version": FileName(plain["version"])}
        texts, records = [plain[name] for name in ("digest", "note", "tagged")], plain["records"]
        numbers = [*records.values(), *plain.get("corrections", {}).values()]
        if not all(isinstance(one, str) for one in texts) or not all(type(one) is int and one >= 0 for one in numbers):
            raise ValueError("digest, note and tagged are text, and records and corrections are whole numbers from 0")
        if records.keys() != set(SPLITS):
            raise ValueError(f"records are those of {', '.join(SPLITS)}")
        return cls(**plain | names | {"output": RecordedUri(plain["output"])})

    def splits(self, store: Store) -> dict[str, Artifact]:
        """Its splits.

        Raises:
            DataError: the run is gone, or was made again with another content; or a file of it is missing or cut.
        """
        run = RunFolder(store, self.output).require("prepare")
        if run["digest"] != self.digest:
            raise DataError(
                f"{self.output}: was made again after {self.name}:{self.version} was tagged; its digest is "
                f"{run['digest'][:12]}, and {self.digest[:12]} was tagged. Give each version an output of its own."
            )
        return _whole_splits(store, self.output)


def _whole_splits(store: Store, output: str) -> dict[str, Artifact]:
    """The splits of a run. Raises DataError: a file of one is missing or cut."""
    found = {split: Artifact.load(store, paths.join(output, split)) for split in SPLITS}
    for artifact in found.values():
        artifact.refuse_damage()
    return found


@dataclass(frozen=True)
class Registry:
    """A folder or URI with the records of versions.

    any_output: whether outputs on other stores than the registry are read. Else whoever wrote a record could choose
        where requests with the user's keys go.
    """

    store: Store
    uri: str
    any_output: bool = False

    def tag(self, name: str, output: str, version: str | None = None, note: str = "") -> Version:
        """Name an output, which `--replace` refuses to remove from then on.

        version: default: the one that this content has, else v1, v2 and so on.

        Raises:
            ConfigError: a name is not allowed, or the version exists with another output.
            DataError: there is no finished run of `raymill prepare`, it has no record, or a file of it is cut.
        """
        _check_name(name)
        _check_name("v1" if version is None else version)
        run = RunFolder(self.store, output).require("prepare")
        records = {split: one.manifest.rows for split, one in _whole_splits(self.store, output).items()}
        if not any(records.values()):
            raise DataError(f"{output}: the data set is empty. Run `raymill prepare` with other settings first.")
        tagged = datetime.now(UTC).isoformat(timespec="seconds")

        def record(version: str) -> Version:
            uri = RecordedUri(paths.absolute(output))
            corrections = run.get("corrections", {})
            return Version(FileName(name), FileName(version), uri, run["digest"], records, note, tagged, corrections)

        if version is not None:
            found = self._create(record(version))
            if (found.output, found.digest) != (output, run["digest"]):
                raise ConfigError(
                    f"{name}:{version} is {found.output} since {found.tagged}. A version never changes: choose another "
                    "name for this one."
                )
            return self._protected(found)
        same = [one for one in self.known(name) if (one.output, one.digest) == (output, run["digest"])]
        if same:
            return self._protected(next((one for one in same if _number(one.version)), same[0]))
        while True:  # another program may tag at the same time
            wanted = record(f"v{self._last_number(name) + 1}")
            if (found := self._create(wanted)) == wanted:
                return self._protected(found)

    def _protected(self, version: Version) -> Version:
        """The version, after its record was copied to the output. A tag that was interrupted does it the next time."""
        self.store.create(tag_in_output(version.output, version.name, version.version), json_bytes(asdict(version)))
        return version

    def versions(self, name: str) -> list[Version]:
        """The versions of a data set in the order in which they were tagged.

        Raises:
            ConfigError: there is none.
        """
        if not (found := self.known(name)):
            files = self.store.list_files(self.uri, skip_bad_names=True)
            names = sorted({file.uri.removeprefix(f"{self.uri}/").partition("/")[0] for file in files})
            near = get_close_matches(name, names, 1)
            fix = f"Did you mean {near[0]}?" if near else f"Tag one: `raymill dataset tag {name} OUTPUT`."
            raise ConfigError(f"{name}: no data set of this name in {self.uri}. {fix}")
        return found

    def find(self, reference: str) -> Version:
        """The version NAME:VERSION, or of NAME the last one.

        Raises:
            ConfigError: there is none.
        """
        name, _, version = reference.partition(":")
        versions = self.versions(name)
        if not version:
            return versions[-1]
        for one in versions:
            if one.version == version:
                return one
        known = ", ".join(one.version for one in versions)
        raise ConfigError(f"{name}: has no version {version}. There are {known}.")

    def readable(self, reference: str) -> Version:
        """The version as in `find`, if its output may be read.

        Raises:
            ConfigError: there is none, or only its record names the store of its output.
        """
        found = self.find(reference)
        if not self.any_output and paths.store_of(found.output) != (here := paths.store_of(paths.absolute(self.uri))):
            raise ConfigError(
                f"{found.name}:{found.version}: by its record, its output is {found.output}, which is not on {here} as "
                "the registry is. To have it read with your keys, give the run's config: --config CONFIG."
            )
        return found

    def known(self, name: str) -> list[Version]:
        """The versions in the order in which they were tagged; empty if there is none.

        Raises:
            ConfigError: the name is not allowed.
        """
        _check_name(name)
        files = self.store.list_files(paths.join(self.uri, name))
        found = [self._file(name, file.uri.rpartition("/")[2].removesuffix(".json")).read() for file in files]
        return sorted((one for one in found if one), key=lambda one: (one.tagged, _number(one.version), one.version))

    def _last_number(self, name: str) -> int:
        files = self.store.list_files(paths.join(self.uri, name))
        return max((_number(file.uri.rpartition("/")[2].removesuffix(".json")) for file in files), default=0)

    def _create(self, version: Version) -> Version:
        if len(data := json_bytes(asdict(version))) > LARGEST_VERSION:
            raise ConfigError(
                f"{version.name}:{version.version}: its record would have {len(data):,} bytes, and at most "
                f"{LARGEST_VERSION:,} are read. Give a shorter note, or patches with fewer sources."
            )
        return self._file(version.name, version.version).create(data)

    def _file(self, name: str, version: str) -> RecordFile[Version]:
        def parse(data: bytes) -> Version:
            found = Version.parse(data)
            if (found.name, found.version) != (name, version):
                raise ValueError(f"it is of {found.name}:{found.version}")
            return found

        uri = paths.join(self.uri, name, f"{version}.json")
        return RecordFile(self.store, uri, "the record of a version", parse, largest=LARGEST_VERSION)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name}: names have letters, digits, `-`, `_` and `.`. Choose another one.")


def _number(version: str) -> int:
    found = _NUMBERED.fullmatch(version)
    return int(found[1]) if found else 0
