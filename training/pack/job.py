"""Corpora to packed rows: the job behind `raymill pack`, and the first part of `raymill train`.

    freeze -> tokenizer -> tokenise (a stage for each corpus) -> pack (another) -> pack.json, written last

A folder with a pack.json is finished: it is found again without Ray, by its settings and the fingerprints of the input
files. Several runs may share one (`packed:` in the config).
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import cluster
from cluster.artifact import Artifact, Counters
from cluster.discard import discard
from cluster.engine import Engine, Patience
from cluster.errors import DataError
from cluster.lease import held
from cluster.progress import Progress
from cluster.run import differences
from cluster.session import Session
from cluster.stage import Stage
from cluster.store import paths
from training.config import TrainConfig
from training.data.schema import SPLITS
from training.models.folder import located
from training.output_folder import refuse_output_among_inputs
from training.pack.listing import changes, kept
from training.pack.packed_run import PACK_MANIFEST, PackedRun, digests_of, examples_name, packed_uri, read_manifest
from training.pack.packing import Rule, pack_stage
from training.pack.prepared import discard_tokenizer
from training.pack.repair import damaged, discard_damaged

if TYPE_CHECKING:
    from training.pack.sources import FrozenCorpus


log = logging.getLogger(__name__)


def pack(
    config: TrainConfig, session: Session, progress: Progress, replace: bool = False, verify: bool = False
) -> PackedRun:
    """The packed corpora of a config: made now, finished now, or found finished (then Ray is not started).

    Args:
        replace: make everything anew, whatever stands in the folder.
        verify: compare the sha256 of every file with what was written, not only its size.

    Raises:
        DataError: the folder holds corpora packed in another way, or there is too little to train on.
        BusyError: another run is writing there.
    """
    refuse_output_among_inputs(config)
    lease_at = paths.absolute(config.packed or config.output)
    if not replace:
        return Packing.of(config, replace).run_alone(session, progress, verify, lease_at)
    with held(config.store, lease_at):
        return Packing.of(config, replace).anew().run(session, progress)


@dataclass(frozen=True)
class Packing:
    """What there is to pack, found out without Ray.

    frozen: by corpus. finished: it stands packed already, as far as its manifests state. discard: remove what the
    stages left before they run.
    """

    config: TrainConfig
    root: str
    frozen: dict[str, "FrozenCorpus"]
    settings: dict[str, Any]
    finished: bool
    replace: bool
    discard: bool = False

    @classmethod
    def of(cls, config: TrainConfig, replace: bool) -> Self:
        """
        Raises:
            UserError: a corpus, a column, or the folder is not as it must be.
        """
        from training.pack.sources import freeze_corpora, with_columns

        config = with_columns(config.model_copy(update={"model": located(config.model)}))
        root = packed_uri(config)
        frozen = freeze_corpora(config, config.execution.unit_mib << 20)
        settings = pack_settings(config, frozen)
        finished = _finished(config, root, settings, frozen, replace)
        if not finished:
            config.store.require_conditional_writes(root)
        return cls(config, root, frozen, settings, finished, replace)

    def checked(self, digests: bool = False) -> Self:
        """The same; unfinished if files of it are damaged or gone. Those are named in a warning and packed again.

        Args:
            digests: read every file and compare its sha256; else sizes are compared.
        """
        if not (self.finished or digests):
            return self  # the stages compare sizes of what they find
        damage = damaged(self.config.store, self.root, self.frozen, digests)
        if not damage:
            return self
        uri, seen = next(iter(damage.items()))
        others = f"; so are {len(damage) - 1} more" if len(damage) > 1 else ""
        log.warning("%s: %s%s. What is damaged or gone is packed again.", uri, seen, others)
        self.config.store.delete([paths.join(self.root, PACK_MANIFEST)])
        discard_damaged(self.config.store, self.root, self.frozen, damage)
        return dataclasses.replace(self, finished=False)

    def anew(self) -> Self:
        """The same, with nothing of it made yet."""
        self.config.store.delete([paths.join(self.root, PACK_MANIFEST)])
        return dataclasses.replace(self, finished=False, discard=True)

    def look_ahead(self) -> None:
        """Refuse corpora and tokenizers that cannot be packed; Ray is not needed for it.

        Raises:
            UserError: with what is wrong.
        """
        from training.pack.first_look import first_look
        from training.pack.tokenizer import check_tokenizer_of

        if not self.finished:
            first_look(self.frozen)
            check_tokenizer_of(self.config)

    def found(self, digests: bool = False) -> PackedRun | None:
        """What stands packed, for a finished training: its rows may have been removed since. None where nothing does.

        Args:
            digests: None, too, where a file is damaged or gone; every file is read.
        """
        if not self.finished or (digests and damaged(self.config.store, self.root, self.frozen, digests)):
            return None
        try:
            return PackedRun.load(self.config.store, self.root)
        except DataError:  # a manifest is damaged or gone
            return None

    def run_alone(self, session: Session, progress: Progress, verify: bool, lease_at: str | None) -> PackedRun:
        """`run`, with what is damaged packed again, under a lease if anything is to be made.

        Args:
            lease_at: the folder whose lease keeps other runs away; None: the caller holds it.

        Raises:
            BusyError: another run is writing there. DataError: as `run`.
        """
        if self.finished and not damaged(self.config.store, self.root, self.frozen, verify):
            return self.run(session, progress)
        if lease_at is None:
            return self.checked(verify).run(session, progress)
        with held(self.config.store, lease_at):
            now = Packing.of(self.config, self.replace)  # another run may have finished it since
            return now.checked(verify).run(session, progress)

    def run(self, session: Session, progress: Progress) -> PackedRun:
        """
        Raises:
            DataError: there is too little to train on.
        """
        if not self.finished:
            _make(self, session, progress)
        packed = PackedRun.load(self.config.store, self.root)
        require_enough(self.config, packed)
        return packed


def pack_settings(config: TrainConfig, frozen: Mapping[str, "FrozenCorpus"]) -> dict[str, Any]:
    """What decides the packed rows, as plain JSON values."""
    model = config.model
    tokenizer = {"from": model.tokenizer or model.name, "chat_template": model.chat_template}
    if model.tokenizer == "train":
        tokenizer["vocab_size"] = (model.config or {}).get("vocab_size")
    elif model.tokenizer is None:
        tokenizer["revision"] = model.revision
    corpora = {
        name: {
            "columns": columns.model_dump(),
            "files": frozen[name].fingerprint,
            "overflow": config.overflow(columns),
        }
        for name, columns in zip(config.corpus_names, config.all_columns, strict=True)
    }
    return {
        "sequence_length": config.sequence_length,
        "packing": {"mode": config.packing.mode},
        "split": config.split.model_dump(),
        "seed": config.seed,
        "classify": config.method == "probe",
        "tokenizer": tokenizer,
        "corpora": corpora,
    }


def require_enough(config: TrainConfig, packed: PackedRun) -> None:
    """
    Raises:
        DataError: a corpus has nothing to train on, or all of them together less than one step.
    """
    for name, artifacts in packed.corpora.items():
        if not artifacts["train"].manifest.rows:
            seen = ", ".join(f"{split} {artifact.manifest.rows:,}" for split, artifact in artifacts.items())
            raise DataError(
                f"{artifacts['train'].uri}: corpus {name} has no row to train on (rows: {seen}). Tokenising counted: "
                f"{_told(packed.tokenised(name))}. Packing counted: {_told(packed.packed(name))}. "
                "Give more documents, a larger split.train, or another packing.overflow."
            )
    rows = packed.rows("train")
    if rows < config.rows_per_step:
        raise DataError(
            f"{packed.uri}: {rows:,} rows of {config.sequence_length:,} tokens to train on, and one step takes "
            f"{config.rows_per_step:,} (tokens_per_step {config.tokens_per_step:,}). Give more documents, or set "
            f"tokens_per_step to {rows * config.sequence_length:,} or less."
        )


def _make(packing: Packing, session: Session, progress: Progress) -> None:
    from training.pack.documents import find_classes
    from training.pack.first_look import first_look
    from training.pack.tokenise import refuse_no_examples, tokenise_stage
    from training.pack.tokenizer import prepare_tokenizer

    config, root, frozen = packing.config, packing.root, packing.frozen
    store = config.store
    if packing.discard:
        discard_tokenizer(store, root)
    first_look(frozen)  # before the tokenizer, whose libraries take seconds to import
    for name, corpus in frozen.items():
        if corpus.note:
            progress.say(f"{name}: {corpus.note}")
    tokenizer = prepare_tokenizer(config, root, packing.replace)
    classes = find_classes(list(frozen.values())) if config.method == "probe" else ()
    patience = Patience(config.execution.attempts, config.execution.stall_s)
    engine = Engine(root, session, progress, patience, packing.replace)

    def run(stage: Stage) -> dict[str, Artifact]:
        if packing.discard:
            discard(stage, root)
        return engine.run(stage)

    corpora = {}
    for name, corpus in frozen.items():
        tokenised = tokenise_stage(config, name, corpus, paths.join(root, "tokenizer"), tokenizer, classes)
        examples = run(tokenised)[examples_name(name)]
        refuse_no_examples(examples, corpus.path)
        packed = run(pack_stage(name, Rule.of(config, corpus.columns), examples))
        corpora[name] = {split: packed[f"{name}/{split}"] for split in SPLITS}
    manifest = {
        "version": cluster.__version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": packing.settings,
        "read_from": _places(config),
        "listings": {name: kept(corpus.listing) for name, corpus in frozen.items()},
        "tokenizer": tokenizer,
        "classes": list(classes),
        "artifacts": {name: digests_of(artifacts) for name, artifacts in corpora.items()},
    }
    store.create(paths.join(root, PACK_MANIFEST), json.dumps(manifest, indent=1, ensure_ascii=False).encode())


def _finished(
    config: TrainConfig, root: str, settings: dict[str, Any], frozen: Mapping[str, "FrozenCorpus"], replace: bool
) -> bool:
    from training.pack.tokenizer import prepare_tokenizer

    manifest = read_manifest(config.store, root)
    if manifest is None:
        return False
    changed = _changes(manifest, settings, _places(config), frozen)
    # A chat template may have been edited where it lies; whoever keeps the tokenizer refuses that.
    if not changed and prepare_tokenizer(config, root, replace) == manifest["tokenizer"]:
        return True
    if not replace:
        raise DataError(
            f"{root}: holds corpora packed in another way: {'; '.join(changed)}. Set `packed` to another folder, or "
            "add --replace to make them anew; what still applies is kept."
        )
    config.store.delete([paths.join(root, PACK_MANIFEST)])
    return False


def _places(config: TrainConfig) -> dict[str, str]:
    """Where each corpus was read from: only told, since what was moved is the same corpus."""
    return {name: paths.absolute(one.path) for name, one in zip(config.corpus_names, config.corpus, strict=True)}


def _changes(
    manifest: dict[str, Any], settings: dict[str, Any], places: dict[str, str], frozen: Mapping[str, "FrozenCorpus"]
) -> list[str]:
    """What differs, a line each; of corpora that changed the place and the files, since fingerprints are not read."""
    before = json.loads(json.dumps(manifest["settings"]))
    told = []
    for name in before["corpora"].keys() & settings["corpora"].keys():
        files = settings["corpora"][name]["files"]
        if before["corpora"][name]["files"] != files:
            before["corpora"][name]["files"] = files
            then = manifest.get("read_from", {}).get(name, "other files")
            now = places[name]
            which = changes(manifest.get("listings", {}).get(name, []), frozen[name].listing)
            same_place = f"the files of {now} changed" + (f" ({which})" if which else "")
            told.append(same_place if then == now else f"corpus {name} was {then}, now {now}")
    return sorted(told) + differences(before, settings)


def _told(counters: Counters) -> str:
    return ", ".join(f"{name} {value:,.0f}" for name, value in counters.items() if value) or "nothing"
