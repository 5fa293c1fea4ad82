"""A finished folder of packed corpora, found again by its pack.json: what training, evaluation and reports read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from cluster.artifact import Artifact, Counters, fingerprint
from cluster.errors import DataError
from cluster.store import paths
from cluster.store.store import Store
from training.config import TrainConfig

PACK_MANIFEST = "pack.json"


@dataclass(frozen=True)
class PackedRun:
    """A finished folder of packed corpora.

    classes: of method probe, in the order of their indices; else none. corpora: artifacts by corpus and split name.
    """

    store: Store
    uri: str
    tokenizer_fingerprint: str
    classes: tuple[str, ...]
    corpora: dict[str, dict[str, Artifact]]

    @classmethod
    def load(cls, store: Store, uri: str) -> Self:
        """
        Raises:
            DataError: packing has not finished there.
        """
        uri = paths.absolute(uri)
        manifest = read_manifest(store, uri)
        if manifest is None:
            raise DataError(
                f"{uri}: no packed corpora here ({PACK_MANIFEST} is missing). Either the path is wrong, or packing was "
                "cut short: run `raymill pack` with the same config and it continues."
            )
        corpora = {
            name: {split: Artifact.load(store, paths.join(uri, name, split)) for split in digests}
            for name, digests in manifest["artifacts"].items()
        }
        for name, artifacts in corpora.items():
            for split, artifact in artifacts.items():
                if artifact.manifest.digest != manifest["artifacts"][name][split]:
                    raise DataError(
                        f"{artifact.uri}: is not what {PACK_MANIFEST} beside it names: someone packed there again. "
                        "Run `raymill pack` with the config that is to hold, and --replace."
                    )
        return cls(store, uri, manifest["tokenizer"], tuple(manifest["classes"]), corpora)

    @property
    def fingerprint(self) -> str:
        """Equal for equal rows under equal tokenizers."""
        digests = {name: digests_of(artifacts) for name, artifacts in self.corpora.items()}
        return fingerprint({"tokenizer": self.tokenizer_fingerprint, "rows": digests, "classes": self.classes})

    @property
    def tokenizer_uri(self) -> str:
        return paths.join(self.uri, "tokenizer")

    def damage(self, *, digests: bool = False) -> dict[str, str]:
        """What was seen instead, by the URI of each packed file that is gone or not what was written."""
        return {
            uri: seen
            for artifacts in self.corpora.values()
            for artifact in artifacts.values()
            for uri, seen in artifact.damage(digests=digests).items()
        }

    def asks_in_turns(self, config: TrainConfig) -> bool:
        """Whether the model learnt to answer what the chat template asks: chats, and pairs where there is one."""
        forms = {columns.form for columns in config.all_columns}
        template = paths.join(self.tokenizer_uri, "chat_template.jinja")
        return "chat" in forms or ("pair" in forms and self.store.exists(template))

    def split(self, name: str) -> list[Artifact]:
        """One split of every corpus, in the order of the config."""
        return [artifacts[name] for artifacts in self.corpora.values()]

    def rows(self, split: str) -> int:
        return sum(artifact.manifest.rows for artifact in self.split(split))

    def tokenised(self, corpus: str) -> Counters:
        """What tokenising a corpus counted: documents, tokens, what was left out and why."""
        return Artifact.load(self.store, paths.join(self.uri, examples_name(corpus))).manifest.counters

    def packed(self, corpus: str) -> Counters:
        """What packing it counted. See packing.py and pieces.py."""
        return self.corpora[corpus]["train"].manifest.counters


def packed_uri(config: TrainConfig) -> str:
    return paths.absolute(config.packed or paths.join(config.output, "packed"))


def examples_name(corpus: str) -> str:
    return f"_work/examples/{corpus}"


def read_manifest(store: Store, root: str) -> dict[str, Any] | None:
    """None where nothing is finished.

    Raises:
        DataError: another program's file stands there.
    """
    uri = paths.join(root, PACK_MANIFEST)
    if not store.exists(uri):
        return None
    try:
        manifest = json.loads(store.read_bytes(uri))
        missing = {"settings", "tokenizer", "classes", "artifacts"} - manifest.keys()
    except (ValueError, AttributeError) as error:
        raise DataError(f"{uri}: is not what `raymill pack` leaves ({error}). Choose another folder.") from error
    if missing:
        raise DataError(f"{uri}: has no {', '.join(sorted(missing))}. Another program wrote it: choose another folder.")
    return manifest


def digests_of(artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    return {split: artifact.manifest.digest for split, artifact in artifacts.items()}
