"""A folder of packed corpora, which is finished when its pack.json exists; finding and removing its damaged files.

pack.json                      manifest: settings, listings of the input files, digests; written last
tokenizer/                     the run's tokenizer; its record, prepared.json, is written last
CORPUS/train, validation, test artifacts of schema PACKED
reference/ROWS/KEY             log-probabilities of the rows' answers; ROWS: 32 digits of their digest. fit/reference.py
_work/examples/CORPUS          artifact of schema EXAMPLES
_work/split/CORPUS             cuts of the splits, and classes, if a stage found them; see split.py
_work/shuffle/CORPUS/LEVEL     files between examples and rows, removed when the corpus is packed; see packing.py

This module loads no tokenizer library; load_tokenizer.py makes and loads tokenizers.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NotRequired, Self

from typing_extensions import TypedDict

from raymill.cluster.artifact import (
    MANIFEST,
    Artifact,
    Counters,
    canonical_json,
    changed_files,
    discard_artifact,
    fingerprint,
)
from raymill.cluster.errors import DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.record import OtherSettings, RecordFile, check_types, json_with, record_json
from raymill.cluster.store import paths
from raymill.cluster.store.paths import FileName, RecordedUri, RelativePath
from raymill.cluster.store.store import Store
from raymill.training.pack.corpus import Listing, set_name
from raymill.training.pack.corpus_files import PreparedRun

FOLDER = "tokenizer"
REFERENCES, ROWS_DIGITS = "reference", 32
_DIGITS = re.compile(f"[0-9a-f]{{{ROWS_DIGITS}}}")
RECORD = "prepared.json"


@dataclass(frozen=True)
class TokenizerAt:
    """A prepared tokenizer: its folder and fingerprint."""

    store: Store
    uri: str
    fingerprint: str


class _TokenizerJson(TypedDict):
    request: str
    fingerprint: str
    files: NotRequired[dict[str, list[str | int]]]


@dataclass(frozen=True)
class TokenizerRecord:
    """The content of prepared.json: fingerprints of the settings that decide the tokenizer and of its content, and
    sha256 and bytes of its files by name.
    """

    settings: str
    tokenizer: str
    files: Mapping[RelativePath, tuple[str, int]]

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        plain = record_json(data)
        check_types(_TokenizerJson, plain)
        files = {RelativePath(name): (sha256, size) for name, (sha256, size) in plain.get("files", {}).items()}
        for name, (sha256, size) in files.items():
            if not isinstance(sha256, str) or type(size) is not int or size < 0:
                raise ValueError(f"files.{name:.100}: is no sha256 and number of bytes")
        return cls(plain["request"], plain["fingerprint"], files)

    def to_json(self) -> bytes:
        return canonical_json({"request": self.settings, "fingerprint": self.tokenizer, "files": self.files})


def tokenizer_folder(packed_uri: str) -> str:
    return paths.join(paths.absolute(packed_uri), FOLDER)


def tokenizer_file(store: Store, packed_uri: str) -> RecordFile[TokenizerRecord]:
    """prepared.json of the tokenizer below `packed_uri`."""
    at = paths.join(tokenizer_folder(packed_uri), RECORD)
    return RecordFile(store, at, "the record of a tokenizer", TokenizerRecord.from_json)


def tokenizer_damage(store: Store, packed_uri: str, compare_sha256: bool = False) -> dict[str, str]:
    """URI -> damage, for each file of a finished tokenizer that is missing or differs from what was written."""
    record = tokenizer_file(store, packed_uri).read()
    if record is None:
        return {}
    written = {name: (size, sha256) for name, (sha256, size) in record.files.items()}
    return changed_files(store, tokenizer_folder(packed_uri), written, compare_sha256)


PACK_MANIFEST = "pack.json"

# The most changed files that a message names, and the most files of a corpus that pack.json lists; else it lists none.
_NAMED_FILES = 3
_LISTED_FILES = 10_000


@dataclass(frozen=True)
class PackedRun:
    """A finished folder of packed corpora.

    tokenizer_fingerprint: of the tokenizer at `tokenizer_uri`. classes: to predict, in the order of their indices.
    corpora: artifacts by corpus and split. passed_over: corpus -> a sentence about the files that were not
    read; only for corpora with such files. prepared: corpus -> the data set of `raymill prepare` that was packed. sets:
    the rows to measure of each of `evaluate.sets`.
    """

    store: Store
    uri: str
    tokenizer_fingerprint: str
    classes: tuple[str, ...]
    corpora: dict[str, dict[str, Artifact]]
    passed_over: Mapping[str, str] = field(default_factory=dict)
    prepared: Mapping[str, PreparedRun] = field(default_factory=dict)
    sets: Mapping[str, Artifact] = field(default_factory=dict)

    @classmethod
    def load(cls, store: Store, uri: str) -> Self:
        """Read the manifests of a folder.

        Raises:
            DataError: there is no pack.json, or an artifact is missing or not the one that it names.
        """
        uri = paths.absolute(uri)
        manifest = manifest_file(store, uri).read()
        if manifest is None:
            raise DataError(
                f"{uri}: no packed corpora here ({PACK_MANIFEST} is missing). Either the path is wrong, or packing was "
                "interrupted: run `raymill pack` with the same config and it continues."
            )
        corpora = {
            name: {split: Artifact.load(store, paths.join(uri, name, split)) for split in digests}
            for name, digests in manifest["artifacts"].items()
        }
        for name, artifacts in corpora.items():
            for split, artifact in artifacts.items():
                if artifact.manifest.digest != manifest["artifacts"][name][split]:
                    raise OtherSettings(
                        f"{artifact.uri}: its digest is not in {PACK_MANIFEST}: another config was packed there. "
                        "Run `raymill pack` with the config to keep, and --replace."
                    )
        sets = {
            name.removeprefix(set_name("")): corpora.pop(name)[measured] for name, measured in manifest["sets"].items()
        }
        return cls(
            store,
            uri,
            manifest["tokenizer"],
            tuple(manifest["classes"]),
            corpora,
            manifest.get("passed_over", {}),
            manifest["prepared"],
            sets,
        )

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the rows, the tokenizer and the classes."""
        digests = {
            name: {split: one.manifest.digest for split, one in artifacts.items()}
            for name, artifacts in self.corpora.items()
        }
        return fingerprint({"tokenizer": self.tokenizer_fingerprint, "rows": digests, "classes": self.classes})

    @property
    def tokenizer_uri(self) -> str:
        """Folder of the tokenizer."""
        return paths.join(self.uri, "tokenizer")

    @property
    def artifacts(self) -> list[Artifact]:
        """Those of all splits of all corpora, then those of the sets."""
        return [one for artifacts in self.corpora.values() for one in artifacts.values()] + [*self.sets.values()]

    def damage(self, *, compare_sha256: bool = False) -> dict[str, str]:
        """URI -> damage, for each packed file that is missing or differs from what was written."""
        each = (artifact.damage(compare_sha256=compare_sha256) for artifact in self.artifacts)
        return {uri: seen for one in each for uri, seen in one.items()}

    def has_chat_turns(self, forms: Iterable[str]) -> bool:
        """Whether examples are written by the chat template: chats, and pairs if the tokenizer has a template.

        forms: of the columns of all corpora.
        """
        template = paths.join(self.tokenizer_uri, "chat_template.jinja")
        return "chat" in forms or ("pair" in forms and self.store.exists(template))

    def split(self, name: str) -> list[Artifact]:
        """One split of every corpus, in the order of the config."""
        return [artifacts[name] for artifacts in self.corpora.values()]

    def rows(self, split: str) -> int:
        """Rows of one split of all corpora."""
        return sum(artifact.manifest.rows for artifact in self.split(split))

    def tokenised(self, corpus: str) -> Counters:
        """Counters of tokenising a corpus: documents, tokens, documents left out by reason. See tokenise.py."""
        return Artifact.load(self.store, paths.join(self.uri, examples_name(corpus))).manifest.counters

    def packed(self, corpus: str) -> Counters:
        """Counters of packing a corpus or a set, over all splits. See packing.py and overflow.py."""
        sets = {set_name(name): artifact for name, artifact in self.sets.items()}
        return (sets.get(corpus) or self.corpora[corpus]["train"]).manifest.counters


def packed_uri(packed: str | None, output: str) -> str:
    """The folder of packed corpora for the config's `packed` and `output`."""
    return paths.absolute(packed or paths.join(output, "packed"))


def examples_name(corpus: str) -> str:
    """Name of a corpus' artifact of examples, below the folder of packed corpora."""
    return f"_work/examples/{corpus}"


def manifest_file(store: Store, root: str) -> RecordFile[dict[str, Any]]:
    """pack.json of a folder."""
    at = paths.join(root, PACK_MANIFEST)
    return RecordFile(store, at, "written by `raymill pack`", _parse, "Choose another folder.")


class _SettingsOfCorpus(TypedDict):
    files: str


class _Settings(TypedDict):
    corpora: dict[str, _SettingsOfCorpus]
    tokenizer: dict[str, Any]


class _PackJson(TypedDict):
    """The parts of pack.json that are read; see `pack` of job.py, which writes it."""

    artifacts: dict[str, dict[str, str]]
    classes: list[str]
    settings: _Settings
    tokenizer: str
    sets: NotRequired[dict[str, str]]
    prepared: NotRequired[dict[str, dict[str, Any]]]
    passed_over: NotRequired[dict[str, str]]
    read_from: NotRequired[dict[str, str]]
    listings: NotRequired[dict[str, list[list[str | int]]]]


def _parse(data: bytes) -> dict[str, Any]:
    manifest = json_with(kind=_PackJson)(data)
    for files in manifest.get("listings", {}).values():
        if [[type(one) for one in file] for file in files] != [[str, int, str]] * len(files):
            raise ValueError("listings: a file has no name, size and version")
    manifest["artifacts"] = {
        FileName(corpus): {FileName(split): digest for split, digest in splits.items()}
        for corpus, splits in manifest["artifacts"].items()
    }
    manifest["sets"] = {FileName(name): FileName(split) for name, split in manifest.get("sets", {}).items()}
    manifest["prepared"] = {
        name: PreparedRun(**one | {"output": RecordedUri(one["output"])})
        for name, one in manifest.get("prepared", {}).items()
    }
    return manifest


def damaged(store: Store, root: str, corpora: Iterable[str], compare_sha256: bool = False) -> dict[str, str]:
    """URI -> damage, for each manifest, Parquet file and tokenizer file that is missing or differs from what was
    written.

    Sizes are compared by one listing per folder. With `compare_sha256` every file is read and its sha256 compared.
    """
    found = tokenizer_damage(store, root, compare_sha256)
    for uri in _artifacts(root, corpora):
        try:
            found |= Artifact.load(store, uri).damage(compare_sha256=compare_sha256)
        except DataError:
            found[paths.join(uri, MANIFEST)] = "is gone or damaged"
    return found


def discard_damaged(store: Store, root: str, corpora: Iterable[str], damage: Mapping[str, str]) -> None:
    """Delete damaged files, and before them the manifests of their artifacts, so that the stages make them again."""
    for uri in _artifacts(root, corpora):
        files = [file for file in damage if file.startswith(f"{uri}/")]
        if files:
            discard_artifact(store, uri, files)
    if tokenizer_damage(store, root, compare_sha256=True):
        tokenizer_file(store, root).discard()


def discard_references(store: Store, packed: PackedRun) -> None:
    """Delete the log-probabilities of answers of rows that are no longer there."""
    folder = paths.join(packed.uri, REFERENCES)
    kept = {artifact.manifest.digest[:ROWS_DIGITS] for artifact in packed.artifacts}
    of_rows = [(one.uri, one.uri.removeprefix(f"{folder}/").split("/")[0]) for one in store.list_files(folder)]
    store.delete_listed(folder, [uri for uri, rows in of_rows if rows not in kept and _DIGITS.fullmatch(rows)])


def _artifacts(root: str, corpora: Iterable[str]) -> list[str]:
    names = [name for one in corpora for name in (examples_name(one), *(f"{one}/{split}" for split in SPLITS))]
    return [paths.join(root, name) for name in names]


def listing_for_manifest(listing: Listing) -> list[list[object]]:
    """The listing of a corpus's files for pack.json; empty if it has more than 10,000 files."""
    return [list(file) for file in listing] if len(listing) <= _LISTED_FILES else []


def changed_files_text(before: Listing, now: Listing) -> str:
    """The differences between two listings as text, of the first three files; empty if either listing is empty."""
    if not before or not now:
        return ""
    then, there = ({name: (size, version) for name, size, version in listing} for listing in (before, now))
    found = [f"{name} is gone" for name in then if name not in there]
    for name, (size, version) in there.items():
        if name not in then:
            found.append(f"{name} is new")
        elif then[name][0] != size:
            found.append(f"{name} had {then[name][0]:,} bytes, now {size:,}")
        elif then[name][1] != version:
            found.append(f"{name} has the same size and another time stamp or ETag")
    more = f" and {len(found) - _NAMED_FILES} more" if len(found) > _NAMED_FILES else ""
    return ", ".join(found[:_NAMED_FILES]) + more
