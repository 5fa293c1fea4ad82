"""Corpora to packed rows: the job of `raymill pack`, and the first part of `raymill train`.

    list files -> tokenizer -> tokenise (a stage per corpus) -> pack (a stage per corpus) -> pack.json, written last

A folder with a pack.json is finished. Whether its settings and input files are those of the config is found out without
Ray. Several runs may share a folder (`packed:` in the config), and it may lie in the output of a training, whose
manifest.json is the training's: therefore packing is a part of `train`, and no kind of run of its own.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Self

from raymill import cluster
from raymill.cluster.artifact import Artifact, Counters, fingerprint
from raymill.cluster.asking.backends import exported
from raymill.cluster.asking.settings import ModelSettings
from raymill.cluster.engine import Engine
from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError, DataError, Problem
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.formats import plural
from raymill.cluster.frame.job import digests_of, limits_of
from raymill.cluster.lease import held
from raymill.cluster.progress import Progress
from raymill.cluster.record import json_bytes
from raymill.cluster.run import differences
from raymill.cluster.session import Session
from raymill.cluster.stage import Stage, from_scratch
from raymill.cluster.store import paths
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Form, Split
from raymill.training.model_folder.checks import embedded_tokens
from raymill.training.model_folder.folder import located, on_hub
from raymill.training.objectives import RewardUse
from raymill.training.output_folder import refuse_output_among_inputs
from raymill.training.pack import loss_keys, summary
from raymill.training.pack.corpus import FrozenCorpus, freeze_corpora, freeze_sets, set_name, shown_name, with_columns
from raymill.training.pack.documents import check_corpora
from raymill.training.pack.packed_run import (
    RECORD,
    PackedRun,
    TokenizerAt,
    TokenizerRecord,
    changed_files_text,
    damaged,
    discard_damaged,
    discard_references,
    examples_name,
    listing_for_manifest,
    manifest_file,
    packed_uri,
    tokenizer_file,
    tokenizer_folder,
)
from raymill.training.pack.packing import PackingRule, pack_stage
from raymill.training.pack.split import (
    ALL_TEST,
    Cuts,
    Surveyed,
    find_classes,
    read_survey,
    survey_first_documents,
    survey_here,
    survey_name,
    survey_stage,
)
from raymill.training.pack.template import CHATML
from raymill.training.pack.tokenise import note_on_copies, refuse_no_examples, tokenise_stage

log = logging.getLogger(__name__)

_fingerprint_checked = Entry("raymill.training.tokenizer.load_tokenizer:fingerprint_checked")
_load_checked = Entry("raymill.training.tokenizer.load_tokenizer:load_checked")
_write_tokenizer = Entry("raymill.training.tokenizer.load_tokenizer:write_tokenizer")

# Version of the fitted tokenizers; those of another version are made again.
_FIT_VERSION = 1
_UNIT_BYTES = 8 << 20  # not the config's: a fitted tokenizer must not depend on the size of units


def pack(
    config: TrainConfig, session: Session, progress: Progress, from_scratch: bool = False, verify: bool = False
) -> PackedRun:
    """Pack the corpora of a config, continue an interrupted packing, or return the finished one without starting Ray.

    Reads the corpora. Writes the folder described in packed_run.py: per token, 4.2 bytes of rows, 5 bytes of examples.

    Args:
        from_scratch: make everything again, also what is finished.
        verify: compare the sha256 of every file with what was written, not only its size.

    Raises:
        DataError: the folder has corpora packed with other settings, or there is too little to train on.
        BusyError: another run writes to it.
    """
    refuse_output_among_inputs(config)
    lease_at = paths.absolute(config.packed or config.output)
    if not from_scratch:
        return PackJob.of(config, replace=False).run_under_lease(session, progress, verify, lease_at)
    with held(config.store, lease_at):
        job = PackJob.of(config, replace=True)
        manifest_file(config.store, job.root).discard()
        return dataclasses.replace(job, finished=False, discard_first=True).run(session, progress)


@dataclass(frozen=True)
class PackJob:
    """The corpora to pack, and whether they are packed already. Determined without Ray.

    root: the folder. frozen: the listed files of each corpus and each of `evaluate.sets`. settings: those that decide
    the rows. finished: whether the folder has a manifest with these settings; its files are not checked. replace:
    whether to remove what was packed with other settings. discard_first: whether to remove everything, also what is
    valid.
    """

    config: TrainConfig
    root: str
    frozen: dict[str, FrozenCorpus]
    settings: dict[str, Any]
    finished: bool
    replace: bool
    discard_first: bool = False

    @classmethod
    def of(cls, config: TrainConfig, replace: bool) -> Self:
        """List the corpora and read the folder's manifests.

        If a finished folder has no tokenizer/, the config's tokenizer is written there to compare its fingerprint with
        that in pack.json. With `replace`, a pack.json of other settings is deleted.

        Raises:
            UserError: a corpus or column is missing, or the folder has corpora packed with other settings.
        """
        config = with_columns(config.model_copy(update={"model": located(config.model)}))
        root, store = packed_uri(config.packed, config.output), config.store
        unit_bytes = config.execution.unit_mib << 20
        frozen = freeze_corpora(config, unit_bytes) | freeze_sets(config, unit_bytes)
        settings = pack_settings(config, frozen)

        def refusal(manifest: dict[str, Any]) -> Problem | None:
            changed = _changes(manifest, settings, _paths(config), frozen)
            # `prepare_tokenizer` compares content: a moved tokenizer is the same, an edited chat template is another.
            if not changed:
                if prepare_tokenizer(config, root, replace) == manifest["tokenizer"]:
                    return None
                if not replace:
                    tokenizer_file(store, root).discard()  # it was written just now, and the rows have another one
                changed = ["the tokenizer or its chat template is another one"]
            seen = f"holds corpora packed with other settings: {'; '.join(changed)}"
            fix = "Set `packed` to another folder, or add --replace to make again what changed."
            return Problem.of(root, seen, fix=fix)

        finished = manifest_file(store, root).find_or_discard(refusal, replace) is not None
        if not finished:
            store.require_conditional_writes(root)
        return cls(config, root, frozen, settings, finished, replace)

    def check_inputs(self) -> None:
        """Refuse corpora and tokenizers that cannot be packed, without Ray.

        Raises:
            UserError: the message has the mistake.
        """
        if not self.finished:
            check_corpora(self.frozen)
            check_tokenizer_loads(self.config)

    def find_packed(self) -> PackedRun | None:
        """The packed corpora if they are finished, else None. Row files may have been deleted after training."""
        try:
            return PackedRun.load(self.config.store, self.root) if self.finished else None
        except DataError:  # a manifest is damaged or missing
            return None

    def run_under_lease(self, session: Session, progress: Progress, verify: bool, lease_at: str | None) -> PackedRun:
        """As `run`, and packs damaged files again. Takes a lease if there is anything to make.

        Args:
            verify: compare the sha256 of every file. lease_at: folder of the lease; None: the caller holds one.

        Raises:
            BusyError: another run holds the lease.
            DataError: as `run`.
        """
        if self.finished and not damaged(self.config.store, self.root, self.frozen, verify):
            return self.run(session, progress)
        if lease_at is None:
            return self._without_damage(verify).run(session, progress)
        with held(self.config.store, lease_at):
            now = PackJob.of(self.config, self.replace)  # another run may have finished it meanwhile
            return now._without_damage(verify).run(session, progress)

    def _without_damage(self, verify: bool) -> Self:
        """Remove damaged files. Returns the job, unfinished if a file was damaged or missing."""
        if not (self.finished or verify):
            return self  # the stages compare the sizes of their outputs
        damage = damaged(self.config.store, self.root, self.frozen, verify)
        if not damage:
            return self
        uri, seen = next(iter(damage.items()))
        others = f"; so are {len(damage) - 1} more" if len(damage) > 1 else ""
        log.warning("%s: %s%s. Damaged and missing files are packed again.", uri, seen, others)
        manifest_file(self.config.store, self.root).discard()
        discard_damaged(self.config.store, self.root, self.frozen, damage)
        return dataclasses.replace(self, finished=False)

    def run(self, session: Session, progress: Progress) -> PackedRun:
        """Make the parts that are not finished. Returns the packed corpora.

        Raises:
            DataError: there is too little to train on.
        """
        if not self.finished:
            self._make(session, progress)
        packed = PackedRun.load(self.config.store, self.root)
        _require_enough(self.config, packed)
        return packed

    def _make(self, session: Session, progress: Progress) -> None:
        """Make tokenizer, examples and rows, and pack.json last."""
        config, root, frozen = self.config, self.root, self.frozen
        store, classifies = config.store, config.training_method.classifies
        if self.discard_first:
            tokenizer_file(store, root).discard()
        check_corpora(frozen)  # before the tokenizer's libraries, which take seconds to import
        engine = Engine(root, session, progress, limits_of(config), self.replace)

        def run(stage: Stage) -> dict[str, Artifact]:
            return engine.run(from_scratch(stage, root) if self.discard_first else stage)

        @cache
        def surveyed(name: str) -> Surveyed:
            known = survey_first_documents(frozen[name], config.split, classifies)
            return known or read_survey(
                run(survey_stage(name, frozen[name], store, config.split, classifies))[survey_name(name)]
            )

        trained = {name: one for name, one in frozen.items() if one.measured is None}

        def all_cuts() -> list[Cuts]:
            return [surveyed(name).cuts for name in trained]

        tokenizer = TokenizerAt(store, tokenizer_folder(root), prepare_tokenizer(config, root, self.replace, all_cuts))
        vocabulary = embedded_tokens(store, config.model)
        classes = find_classes(list(trained.values()), [surveyed(name) for name in trained]) if classifies else ()
        corpora, notes = {}, {}
        for name, corpus in frozen.items():
            split, cuts = (Split(), ALL_TEST) if corpus.measured else (config.split, surveyed(name).cuts)
            prompts = 0.0 if corpus.measured else config.prompt_loss_weight
            tokenise = tokenise_stage(name, corpus, tokenizer, split, cuts, config.seed, classes, vocabulary, prompts)
            examples = run(tokenise)[examples_name(name)]
            refuse_no_examples(examples, corpus.path)
            counters = examples.manifest.counters
            about_loss = loss_keys.notes(corpus.unread, counters)
            notes[name] = "; ".join([*filter(None, [corpus.note]), *note_on_copies(counters), *about_loss])
            packed = run(pack_stage(name, packing_rule(config, corpus.columns.form), examples))
            corpora[name] = {split: packed[f"{name}/{split}"] for split in SPLITS}
        manifest = {
            "version": cluster.__version__,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": self.settings,
            "read_from": _paths(config),
            "listings": {name: listing_for_manifest(corpus.listing) for name, corpus in frozen.items()},
            "passed_over": {name: note for name, note in notes.items() if note},
            "prepared": {name: asdict(corpus.prepared) for name, corpus in frozen.items() if corpus.prepared},
            "tokenizer": tokenizer.fingerprint,
            "classes": list(classes),
            "artifacts": {name: digests_of(artifacts) for name, artifacts in corpora.items()},
            "sets": {name: one.measured for name, one in frozen.items() if one.measured},
        }
        manifest_file(store, root).create(json_bytes(manifest))
        if self.replace:
            discard_references(store, PackedRun.load(store, root))


def pack_settings(config: TrainConfig, frozen: Mapping[str, FrozenCorpus]) -> dict[str, Any]:
    """The settings that decide the packed rows, as JSON values; pack.json has them."""
    model = config.model
    tokenizer: dict[str, Any] = {"from": model.tokenizer or model.name, "chat_template": model.chat_template}
    if model.chat_template_kwargs:
        tokenizer["chat_template_kwargs"] = model.chat_template_kwargs
    if model.tokenizer == "train":
        tokenizer["vocab_size"] = (model.config or {}).get("vocab_size")
    elif model.tokenizer is None:
        tokenizer["revision"] = model.revision
    each = dict(zip(config.corpus_names, config.all_columns, strict=True))
    each |= {set_name(name): columns for name, columns in config.set_columns.items()}
    records = config.training_objective.records
    corpora = {
        name: {
            "columns": columns.model_dump(mode="json"),
            "files": frozen[name].fingerprint,
            "overflow": config.overflow(columns.form),
            **({"measured": frozen[name].measured} if frozen[name].measured else {}),
        }
        for name, columns in each.items()
    }
    return {
        "sequence_length": config.sequence_length,
        "packing": {"mode": config.packing.mode},
        "split": config.split.model_dump(),
        "seed": config.seed,
        "staged": config.order != "shuffled",
        "classify": config.training_method.classifies,
        **({"records": records} if records != "text" else {}),
        "tokenizer": tokenizer,
        "corpora": corpora,
        **({"prompt_loss_weight": config.prompt_loss_weight} if config.prompt_loss_weight else {}),
    }


def located_config(config: TrainConfig) -> TrainConfig:
    """The config with absolute paths, and with the commit of a model of the hub.

    Workers have other working directories, and a branch of the hub may change while they run.
    """
    update: dict[str, Any] = {
        "model": located(config.model),
        "corpus": tuple(one.model_copy(update={"path": paths.absolute(one.path)}) for one in config.corpus),
        "output": paths.absolute(config.output),
    }
    if config.packed:
        update["packed"] = paths.absolute(config.packed)
    rewards = tuple(_located_reward(config.store, one) for one in config.grpo.rewards)
    update["grpo"] = config.grpo.model_copy(update={"rewards": rewards})
    if (before := config.continue_from) is not None:
        update["continue_from"] = before.model_copy(update={"run": paths.absolute(before.run)})
    return config.model_copy(update=update)


def with_exported_model(config: TrainConfig) -> TrainConfig:
    """The config with the folder that a training exported, where `model` is the output of that training.

    Raises:
        DataError: the training has several phases, or exported no model; or its manifest is damaged.
    """
    name = config.model.name
    if name is None or on_hub(config.model):
        return config
    folder = paths.absolute(name)
    if config.store.exists(paths.join(folder, "config.json")):
        return config
    found = exported(config.store, ModelSettings(path=folder)).path
    return (
        config
        if found == folder
        else config.model_copy(update={"model": config.model.model_copy(update={"name": found})})
    )


def _located_reward(store: Store, use: RewardUse) -> RewardUse:
    """The reward with the folder that a training exported, where `model` is the training's output."""
    if use.model is not None:
        found = exported(store, ModelSettings(path=paths.absolute(use.model))).path
        return use.model_copy(update={"model": found})
    if use.judge is not None:
        judge = use.judge.model_copy(update={"model": exported(store, use.judge.model)})
        return use.model_copy(update={"judge": judge})
    return use


def packing_rule(config: TrainConfig, form: Form) -> PackingRule:
    """The rule for the documents of a corpus, which have this form."""
    classifies, overflow = config.training_method.classifies, config.overflow(form)
    judged = config.training_objective.records != "text"
    return PackingRule(config.sequence_length, config.packing.mode, overflow, classifies, config.seed, judged)


def _require_enough(config: TrainConfig, packed: PackedRun) -> None:
    """Refuse a corpus without a row to train on, or corpora with fewer rows than one step takes."""

    def counted(counters: Counters) -> str:
        return ", ".join(f"{name} {value:,.0f}" for name, value in counters.items() if value) or "nothing"

    for name, artifacts in packed.corpora.items():
        if not artifacts["train"].manifest.rows:
            seen = ", ".join(f"{split} {artifact.manifest.rows:,}" for split, artifact in artifacts.items())
            tokenised, length = packed.tokenised(name), config.sequence_length
            long = summary.overflow(summary.totals(tokenised), packed.packed(name), length)
            if config.training_objective.records != "text" and long:
                raise DataError(
                    f"{artifacts['train'].uri}: corpus {name} has no row to train on (rows: {seen}). "
                    f"{'; '.join(note.words for note in long)}. Answers are not cut: set a larger sequence_length than "
                    f"{length:,}, so that a row holds a question with its answers, or give shorter ones."
                )
            raise DataError(
                f"{artifacts['train'].uri}: corpus {name} has no row to train on (rows: {seen}). Tokenising counted: "
                f"{counted(packed.tokenised(name))}. Packing counted: {counted(packed.packed(name))}. "
                "Give more documents, a larger split.train, or another packing.overflow."
            )
    for name, artifact in packed.sets.items():
        if not artifact.manifest.rows:
            raise DataError(
                f"{artifact.uri}: evaluate.sets.{name} has no row to measure. Tokenising counted: "
                f"{counted(packed.tokenised(set_name(name)))}. Name a split that it has (evaluate.sets.{name}.split), "
                "give other documents, or another packing.overflow."
            )
    refuse_fewer_rows_than_a_step(config, packed.uri, packed.rows("train"))


def refuse_fewer_rows_than_a_step(config: TrainConfig, uri: str, rows: int, *, exact: bool = True) -> None:
    """
    Raises:
        DataError: there are fewer rows to train on than a step takes.
    """
    if rows < config.rows_per_step:
        about = "" if exact else "about "
        raise DataError(
            f"{uri}: {about}{plural(rows, 'row')} of {config.sequence_length:,} tokens to train on, and one step takes "
            f"{config.rows_per_step:,} (tokens_per_step {config.tokens_per_step:,}). Give more documents, or set "
            f"tokens_per_step to {max(rows, 1) * config.sequence_length:,} or less."
        )


def _paths(config: TrainConfig) -> dict[str, str]:
    """Corpus -> absolute path, for messages only, because a moved corpus is still the same corpus."""
    sets = {set_name(name): one.path for name, one in config.evaluate.sets.items()}
    return {n: paths.absolute(one.path) for n, one in zip(config.corpus_names, config.corpus, strict=True)} | sets


def _changes(
    manifest: dict[str, Any], settings: dict[str, Any], paths_now: dict[str, str], frozen: Mapping[str, FrozenCorpus]
) -> list[str]:
    """The differences from the settings in pack.json, one line each; for changed corpora their paths and files."""
    before, now = (json.loads(json.dumps(one)) for one in (manifest["settings"], settings))
    lines = [f"{shown_name(name)} was added" for name in now["corpora"].keys() - before["corpora"].keys()]
    lines += [f"{shown_name(name)} was removed" for name in before["corpora"].keys() - now["corpora"].keys()]
    both = before["corpora"].keys() & now["corpora"].keys()
    for one in (before, now):
        one["corpora"] = {name: one["corpora"][name] for name in both}
    for name in both:
        files = now["corpora"][name]["files"]
        if before["corpora"][name]["files"] != files:
            before["corpora"][name]["files"] = files
            then = manifest.get("read_from", {}).get(name, "other files")
            there = paths_now[name]
            which = changed_files_text(manifest.get("listings", {}).get(name, []), frozen[name].listing)
            same_path = f"the files of {there} changed" + (f" ({which})" if which else "")
            lines.append(same_path if then == there else f"corpus {shown_name(name)} was {then}, now {there}")
    loaded = "train" not in (before["tokenizer"].get("from"), now["tokenizer"]["from"])
    if loaded and not lines and before | {"tokenizer": now["tokenizer"]} == now:
        return []  # `prepare_tokenizer` compares loaded tokenizers by their content
    return sorted(lines) + differences(before, now)


# --- the tokenizer


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
    # All that decides the tokenizer; for a fitted one also the documents, by the listing of their files.
    decided_by: list[object] = [model.name, model.revision, model.tokenizer, template]
    columns = [one.read for one in config.all_columns]
    decided_by.append(sorted({one.form for one in columns}))
    if model.chat_template_kwargs:
        decided_by.append(model.chat_template_kwargs)
    if model.tokenizer == "train":
        if model.config is None:
            raise ConfigError(
                "model.tokenizer: `train` fits the tokenizer of a model with random weights (model.config), and this "
                "one has a `name`. Leave `tokenizer` out: the model has its own."
            )
        decided_by += [_FIT_VERSION, model.config["vocab_size"], config.split.model_dump()]
        decided_by += [[frozen.fingerprint, frozen.plain_columns] for frozen in corpora]
    settings = fingerprint(decided_by)

    def refusal(record: TokenizerRecord) -> Problem | None:
        fitted = model.tokenizer == "train"
        # Tokenizers that are loaded are compared by content, because the same one may have been moved.
        if record.settings == settings or (
            not fitted and _fingerprint_checked(store, model, template, columns) == record.tokenizer
        ):
            return None
        name = "fitted to these corpora" if fitted else model.tokenizer or model.name
        seen = f"holds another tokenizer than the config's ({name}, with its chat template)"
        return Problem.of(folder, seen, fix="Choose another output, or run with --replace to make it again.")

    record_file = tokenizer_file(store, packed_uri)
    if (found := record_file.find_or_discard(refusal, replace)) is not None:
        return found.tokenizer
    chosen = cuts() if cuts and corpora else [survey_here(frozen, config.split).cuts for frozen in corpora]
    files, tokenizer = _write_tokenizer(store, folder, model, template, columns, corpora, chosen)
    # Files of an interrupted run with other settings are removed, because they would be loaded too.
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
        columns = [one.read for one in config.all_columns]
        _load_checked(store, model, _chat_template(store, model.chat_template), columns)


def _chat_template(store: Store, setting: str | None) -> str | None:
    """The chat template that a config sets; None: the tokenizer's own."""
    if setting is None or setting == "chatml":
        return setting and CHATML
    try:
        return store.read_bytes(setting).decode()
    except NotFound:
        raise ConfigError(f"model.chat_template: no file {setting}. Give a Jinja file, or `chatml`.") from None
