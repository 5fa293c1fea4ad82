"""The run's tokenizer at PACKED/tokenizer/, which is made unless one with the same settings is there.

Its record, prepared.json, is written last: without it the folder is unfinished. This module loads no tokenizer library;
load_tokenizer.py makes and loads tokenizers.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from cluster.artifact import canonical_json, changed_files, fingerprint
from cluster.entry import Entry
from cluster.errors import ConfigError
from cluster.record import RecordFile
from cluster.store import paths
from cluster.store.interface import NotFound
from cluster.store.paths import RelativePath
from cluster.store.store import Store
from training.config import TrainConfig
from training.config_parts import Columns, Model, Split
from training.pack.chatml import CHATML
from training.pack.sources import FrozenCorpus, freeze_corpora
from training.pack.split import Cuts
from training.pack.survey import survey_here

_fingerprint_checked = Entry("training.tokenizer.load_tokenizer:fingerprint_checked")
_load_checked = Entry("training.tokenizer.load_tokenizer:load_checked")
_write_tokenizer = Entry("training.tokenizer.load_tokenizer:write_tokenizer")

FOLDER = "tokenizer"
RECORD = "prepared.json"

# Version of the tokenizers of bpe.py; those of another version are made again.
_FIT_VERSION = 1
_UNIT_BYTES = 8 << 20  # not the config's: a fitted tokenizer must not depend on the size of units


@dataclass(frozen=True)
class TokenizerAt:
    """A prepared tokenizer: its folder and fingerprint."""

    store: Store
    uri: str
    fingerprint: str


@dataclass(frozen=True)
class TokenizerRecord:
    """The content of prepared.json.

    settings: fingerprint of the settings that decide the tokenizer. tokenizer: fingerprint of its content. files:
    sha256 and bytes by name.
    """

    settings: str
    tokenizer: str
    files: Mapping[RelativePath, tuple[str, int]]

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        plain = json.loads(data)
        files = {RelativePath(name): (sha256, size) for name, (sha256, size) in plain.get("files", {}).items()}
        return cls(plain["request"], plain["fingerprint"], files)

    def to_json(self) -> bytes:
        return canonical_json({"request": self.settings, "fingerprint": self.tokenizer, "files": self.files})


def prepare_tokenizer(
    config: TrainConfig, packed_uri: str, replace: bool = False, cuts: Callable[[], Sequence[Cuts]] | None = None
) -> str:
    """Make the config's tokenizer below `packed_uri`, or find it there. Returns its fingerprint.

    Only making one loads transformers; a fitted one (`tokenizer: train`) also reads a sample of the corpora.

    Args:
        cuts: returns the cuts of each corpus, to fit a tokenizer; None: this process reads the corpora to find them.

    Raises:
        ConfigError: there is no such tokenizer, or the config needs something that it lacks.
        DataError: without `replace`: the folder has a tokenizer of other settings.
    """
    folder, store, model = tokenizer_folder(packed_uri), config.store, config.model
    template = _chat_template(store, model.chat_template)
    corpora = list(freeze_corpora(config, _UNIT_BYTES).values()) if model.tokenizer == "train" else []
    settings = fingerprint(_settings(model, template, config.all_columns, config.split, corpora))

    def refusal(record: TokenizerRecord) -> str | None:
        fitted = model.tokenizer == "train"
        # Tokenizers that are loaded are compared by content, because the same one may have been moved.
        if record.settings == settings or (
            not fitted and _fingerprint_checked(store, model, template, config.all_columns) == record.tokenizer
        ):
            return None
        return (
            f"{folder}: holds another tokenizer than the config's "
            f"({'fitted to these corpora' if fitted else model.tokenizer or model.name}, with its chat template). "
            "Choose another output, or run with --replace to make it again."
        )

    record_file = tokenizer_file(store, packed_uri)
    if (found := record_file.find_or_discard(refusal, replace)) is not None:
        return found.tokenizer
    chosen = cuts() if cuts and corpora else [survey_here(frozen, config.split).cuts for frozen in corpora]
    files, tokenizer = _write_tokenizer(store, folder, model, template, config.all_columns, corpora, chosen)
    # Files of an interrupted attempt with other settings are removed, because they would be loaded too.
    written = {paths.join(folder, name) for name in (*files, RECORD)}
    store.delete({file.uri for file in store.list_files(folder)} - written)
    return record_file.create(TokenizerRecord(settings, tokenizer, files).to_json()).tokenizer


def check_tokenizer_loads(config: TrainConfig) -> None:
    """Load the config's tokenizer and write nothing. One that is to be fitted is not checked.

    Raises:
        ConfigError: as `prepare_tokenizer`.
    """
    store, model = config.store, config.model
    if model.tokenizer != "train":
        _load_checked(store, model, _chat_template(store, model.chat_template), config.all_columns)


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


def _settings(
    model: Model, template: str | None, columns: Sequence[Columns], split: Split, corpora: Sequence[FrozenCorpus]
) -> list[object]:
    """All that decides the tokenizer; for a fitted one also the documents, by the listing of their files."""
    forms = sorted({one.form for one in columns})
    found: list[object] = [model.name, model.revision, model.tokenizer, template, forms]
    if model.chat_template_kwargs:
        found.append(model.chat_template_kwargs)
    if model.tokenizer == "train":
        found += [_FIT_VERSION, (model.config or {})["vocab_size"], split.model_dump()]
        found += [[frozen.fingerprint, frozen.columns.model_dump()] for frozen in corpora]
    return found


def _chat_template(store: Store, setting: str | None) -> str | None:
    """The chat template that a config sets; None: the tokenizer's own."""
    if setting is None or setting == "chatml":
        return setting and CHATML
    try:
        return store.read_bytes(setting).decode()
    except NotFound:
        raise ConfigError(f"model.chat_template: no file {setting}. Give a Jinja file, or `chatml`.") from None
