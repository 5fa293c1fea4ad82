"""A folder of packed corpora, which is finished when its pack.json exists; finding and removing its damaged files.

pack.json                      manifest: settings, listings of the input files, digests; written last
tokenizer/                     see tokenizer.py
CORPUS/train, validation, test artifacts of schema PACKED
_work/examples/CORPUS          artifact of schema EXAMPLES
_work/split/CORPUS             cuts of the splits, and classes, if a stage found them; see survey.py
_work/shuffle/CORPUS/LEVEL     files between examples and rows, removed when the corpus is packed; see shuffle.py
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cluster.artifact import MANIFEST, Artifact, Counters, discard_artifact, fingerprint
from cluster.errors import DataError
from cluster.examples.splits import SPLITS
from cluster.record import OtherSettings, RecordFile, json_with
from cluster.store import paths
from cluster.store.paths import FileName
from cluster.store.store import Store
from training.data.prepared import PreparedRun
from training.pack.sources import Listing, set_name
from training.pack.tokenizer import tokenizer_damage, tokenizer_file

PACK_MANIFEST = "pack.json"

# The most changed files that a message names, and the most files of a corpus that pack.json lists; else it lists none.
_NAMED_FILES = 3
_LISTED_FILES = 10_000


@dataclass(frozen=True)
class PackedRun:
    """A finished folder of packed corpora.

    tokenizer_fingerprint: of the tokenizer at `tokenizer_uri`. classes: of method probe, in the order of their indices;
    else empty. corpora: artifacts by corpus and split. passed_over: corpus -> a sentence about the files that were not
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
        digests = {name: digests_of(artifacts) for name, artifacts in self.corpora.items()}
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
        return {
            uri: seen
            for artifact in self.artifacts
            for uri, seen in artifact.damage(compare_sha256=compare_sha256).items()
        }

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


def _parse(data: bytes) -> dict[str, Any]:
    manifest = json_with("artifacts", "classes", "settings", "tokenizer")(data)
    manifest["artifacts"] = {
        FileName(corpus): {FileName(split): digest for split, digest in splits.items()}
        for corpus, splits in manifest["artifacts"].items()
    }
    manifest["sets"] = {FileName(name): FileName(split) for name, split in manifest.get("sets", {}).items()}
    manifest["prepared"] = {name: PreparedRun.from_plain(one) for name, one in manifest.get("prepared", {}).items()}
    return manifest


def digests_of(artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """The digest of the rows of each split."""
    return {split: artifact.manifest.digest for split, artifact in artifacts.items()}


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


def _artifacts(root: str, corpora: Iterable[str]) -> list[str]:
    return [
        paths.join(root, name)
        for corpus in corpora
        for name in (examples_name(corpus), *(f"{corpus}/{split}" for split in SPLITS))
    ]


def listing_for_manifest(listing: Listing) -> list[list[object]]:
    """The listing of a corpus's files for pack.json; empty if it has more than 10,000 files."""
    return [list(file) for file in listing] if len(listing) <= _LISTED_FILES else []


def changed_files_text(before: Listing, now: Listing) -> str:
    """The differences between two listings as text, of the first three files; empty if either listing is empty."""
    if not before or not now:
        return ""
    then, there = _by_name(before), _by_name(now)
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


def _by_name(listing: Listing) -> Mapping[str, tuple[int, str]]:
    return {name: (size, version) for name, size, version in listing}
