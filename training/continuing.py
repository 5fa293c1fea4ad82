"""`continue_from`: the checkpoint of a finished run from which a new run starts, what it keeps and what is new.

Kept are the weights, the optimizer's state and the tokenizer; and the position in the data, if packed rows, seed and
order are the same: then the samples follow those that the earlier run took, also with other shares of the corpora.
Steps, epochs and the learning-rate schedule are those of the new run alone. Method, base model, adapter and tokenizer
must be the same.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic_core import to_jsonable_python

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.formats import plural
from raymill.cluster.record import RecordFile, record_json
from raymill.cluster.run import RunFolder, differences
from raymill.cluster.store import paths
from raymill.cluster.store.paths import RecordedUri
from raymill.training.config import TrainConfig
from raymill.training.data.order import Order, Position
from raymill.training.model_folder.folder import located, model_fingerprint, on_hub
from raymill.training.pack.corpus import freeze_corpora, freeze_sets, with_columns
from raymill.training.pack.job import pack_settings
from raymill.training.pack.packed_run import PackedRun, manifest_file, packed_uri
from raymill.training.records.checkpoint import MANIFEST, Checkpoint
from raymill.training.records.finished import checkpoint_of, outcome_file
from raymill.training.records.job import OUTCOME, Parent

PARENT = "parent.json"

# Settings whose difference between two runs says nothing.
_NOT_TOLD = {"kind", "name", "output", "packed", "storage", "track", "continue_from", "execution", "failures", "model"}


@dataclass(frozen=True)
class ParentRun:
    """A finished run that a config continues.

    manifest: of the run. fit: its fit.json. config: its settings, in its report. checkpoint: the one to start from.
    """

    uri: str
    manifest: Mapping[str, Any]
    fit: Mapping[str, Any]
    config: Mapping[str, Any]
    checkpoint: Checkpoint

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide its weights, and their other parts, as in its checkpoints."""
        return self.checkpoint.manifest.fingerprint_parts

    @property
    def before(self) -> dict[str, Any]:
        """What its checkpoint records of the run that it continued itself; empty if none."""
        return json.loads(self.settings["parent"]) if "parent" in self.settings else {}

    @property
    def samples(self) -> int:
        """Samples of the mixture up to the checkpoint."""
        tokens = json.loads(self.settings["settings.tokens_per_step"])
        rows_per_step = tokens // json.loads(self.settings["settings.sequence_length"])
        steps_per_row = json.loads(self.settings.get("settings.grpo", "{}")).get("updates", 1)
        return self.before.get("samples", 0) + -(-self.checkpoint.step // steps_per_row) * rows_per_step


def find_parent(config: TrainConfig) -> ParentRun | None:
    """The run that a config continues, after the checks that need no packed data.

    None without `continue_from`, and if that run is gone since, see `recorded_parent`.

    Raises:
        DataError: there is no finished training, or its checkpoint is gone or damaged.
        ConfigError: it has another method, base model or adapter; the message has both values.
    """
    if config.continue_from is None or recorded_parent(config) is not None:
        return None
    store, uri = config.store, paths.absolute(config.continue_from.run)
    manifest = RunFolder(store, uri).require("train", "Name the output of a finished run in continue_from.")
    outcome = outcome_file(store, uri).read()
    if outcome is None:
        raise DataError(
            f"{uri}: no training of its own ({OUTCOME} is missing). If it is a run of phases, name one of its phases "
            f"in continue_from, such as {uri}/PHASE."
        )
    best = config.continue_from.checkpoint == "best"
    checkpoint = Checkpoint.load(store, checkpoint_of(uri, outcome["best_checkpoint" if best else "checkpoint"]))
    config_then = RunFolder(store, uri).report("run")["run"]["config"]
    parent = ParentRun(uri, manifest, outcome, config_then, checkpoint)
    _check_identity(parent)
    if config_then["method"] != config.method:
        raise _refusal(parent, differences({"method": config_then["method"]}, {"method": config.method}))
    found = differences(*(_kept(config, one) for one in (config_then, config.model_dump(mode="json"))))
    if on_hub(config.model):  # the model is not fetched
        model = f"{config.model.name}@{located(config.model).revision}"
    else:
        # Of random weights that are all trained, nothing is left that the seed decided.
        trains_base = config.training_method.trains_base
        seed = json.loads(parent.settings["settings.seed"]) if trains_base else config.seed
        model = model_fingerprint(store, config.model, seed)
    if (before := parent.settings["model"]) != model:
        named = config.model.name or f"{(config.model.config or {})['model_type']} with random weights"
        found.append(f"model was {manifest['told']['base']} ({before[:24]}), now {named} ({model[:24]})")
    if found:
        raise _refusal(parent, found)
    return parent


def _kept(config: TrainConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among these that decide what can be continued: the weights of the config's method, and what the
    optimizer keeps of them. Records leave some out at a default.
    """
    method = config.training_method
    optimizer = {"optimizer": {"algorithm": settings["optimizer"].get("algorithm", "adamw")}}
    if not method.group:
        return optimizer
    fields, group = type(getattr(config, method.group)).model_fields, settings[method.group]
    defaults = {name: to_jsonable_python(fields[name].default) for name in method.of_weights}
    return optimizer | {method.group: {name: group.get(name, default) for name, default in defaults.items()}}


_IN_IDENTITY = ("model", "data", "settings.seed", "settings.order", "corpora")
_MOST_SAMPLES = 1 << 53


def _check_identity(parent: ParentRun) -> None:
    """
    Raises:
        DataError: the identity in the checkpoint's manifest lacks parts that a training writes.
    """
    settings = parent.settings
    try:
        before = parent.before
        counts = [parent.samples, before.get("samples", 0), before.get("steps_before", 0), *before.get("taken", ())]
        fits = all(type(count) is int and 0 <= count < _MOST_SAMPLES for count in counts)
        fits &= all(name in settings for name in _IN_IDENTITY)
        fits &= all(len(share) == 4 for share in json.loads(settings["corpora"]))
        json.loads(settings["settings.seed"]), json.loads(settings["settings.order"])
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        fits = False
    if not fits:
        raise DataError(
            f"{parent.checkpoint.uri}/{MANIFEST}: its identity lacks parts that a training writes: the file was "
            "changed. Continue another run, or start from exported weights (model: RUN/export/...)."
        )


def parent_of(config: TrainConfig, packed: PackedRun) -> Parent | None:
    """What the workers need of the run that a config continues; None without `continue_from`.

    Raises:
        DataError, ConfigError: as `find_parent`; the tokenizer or the classes are others.
    """
    parent = find_parent(config)
    if parent is None:
        return recorded_parent(config)
    if parent.settings["data"] != packed.fingerprint:
        before = {"tokenizer": parent.manifest.get("tokenizer"), "classes": parent.manifest.get("classes", [])}
        now = {"tokenizer": packed.tokenizer_fingerprint, "classes": list(packed.classes)}
        if found := differences(before, now):
            raise _refusal(parent, found)
    position, why = _position(config, parent, packed)
    samples = plural(position.samples + sum(position.taken), "sample")
    where = f"position in the data, after {samples}"
    if why:
        where = f"not the position in the data, which begins at its first sample, because {why}"
    return Parent(
        run=RecordedUri(parent.uri),
        digest=parent.manifest["digest"],
        fit=parent.fit["fingerprint"],
        checkpoint=RecordedUri(parent.checkpoint.uri),
        step=parent.checkpoint.step,
        updates=parent.checkpoint.manifest.progress.updates,
        steps_before=parent.before.get("steps_before", 0) + parent.checkpoint.step,
        position=position,
        words=tuple(continuation_lines(config, parent, where)),
    )


def planned_words(config: TrainConfig) -> list[str]:
    """The lines about the run that a config continues, before anything is packed; none without `continue_from`.

    Raises:
        DataError, ConfigError: as `parent_of`.
    """
    parent = find_parent(config)
    if parent is None:
        recorded = recorded_parent(config)
        return list(recorded.words) if recorded else []
    config = with_columns(config)
    unit_bytes = config.execution.unit_mib << 20
    settings = pack_settings(config, freeze_corpora(config, unit_bytes) | freeze_sets(config, unit_bytes))
    for root in (packed_uri(config.packed, config.output), parent.manifest["told"]["packed"]):
        manifest = manifest_file(config.store, root).read()
        if manifest is not None and manifest["settings"] == settings:
            found = parent_of(config, PackedRun.load(config.store, root))
            assert found is not None
            return list(found.words)
    return continuation_lines(config, parent, "position in the data, if packing gives the same rows")


def write_parent(config: TrainConfig, parent: Parent) -> None:
    """Write OUTPUT/parent.json, so that the new run can be repaired and looked at without the earlier one."""
    uri = paths.join(paths.absolute(config.output), PARENT)
    data = json.dumps(asdict(parent), ensure_ascii=False, indent=1).encode()
    if not config.store.exists(uri) or config.store.read_bytes(uri) != data:
        config.store.write_bytes(uri, data)


def recorded_parent(config: TrainConfig) -> Parent | None:
    """OUTPUT/parent.json, the record of the run to continue, if that run is gone or has lost its checkpoint."""
    if config.continue_from is None:
        return None
    run, store = paths.absolute(config.continue_from.run), config.store
    at = paths.join(paths.absolute(config.output), PARENT)
    found = RecordFile(store, at, "the record of the run that this one continues", _parse_parent).read()
    if found is None or found.run != run or checkpoint_of(run, found.checkpoint) != found.checkpoint:
        return None
    if store.exists(paths.join(found.checkpoint, MANIFEST)):
        return None
    manifest = RunFolder(store, run).finished("train")
    return found if manifest is None or manifest["digest"] == found.digest else None


def _parse_parent(data: bytes) -> Parent:
    return Parent.from_plain(record_json(data))


def continuation_lines(config: TrainConfig, parent: ParentRun, position: str) -> list[str]:
    """What is continued, kept and new. position: a clause about the data."""
    checkpoint, method = parent.checkpoint, config.method
    last = checkpoint.uri.rpartition("/")[2] == parent.fit["checkpoint"].rpartition("/")[2]
    updates = plural(checkpoint.manifest.progress.updates, "update")
    adapter = ", ".join(f"{key} {value}" for key, value in config.training_method.settings(config).items())
    rate = config.optimizer
    length = next(
        f"{value:,.12g} {name}"
        for name in ("steps", "epochs", "tokens")
        if (value := getattr(config, name)) is not None
    )
    now = json.loads(json.dumps(config.without_stores(_NOT_TOLD, exclude_none=True)))
    then = {key: value for key, value in parent.config.items() if key not in _NOT_TOLD}
    lines = [
        f"continues {parent.uri} (digest {parent.manifest['digest'][:12]}) from its checkpoint of step "
        f"{checkpoint.step:,} ({'the last' if last else 'lowest validation loss'})",
        f"kept: weights and optimizer state after {updates}; base model {parent.manifest['told']['base']}; method "
        f"{method}{f' ({adapter})' if adapter else ''}; tokenizer; {position}",
        f"new: {length} with schedule {rate.schedule} at learning rate {rate.learning_rate:g} from step 1 on, on "
        f"engine {config.engine}",
    ]
    if changed := differences(then, now):
        lines.append(f"changed settings: {'; '.join(changed)}")
    return lines


def _refusal(parent: ParentRun, found: list[str]) -> ConfigError:
    tokenizer = paths.join(parent.manifest["told"]["packed"], "tokenizer")
    hint = f" Its tokenizer is {tokenizer} (model.tokenizer)." if any("tokenizer" in one for one in found) else ""
    return ConfigError(
        f"continue_from: {parent.uri} cannot be continued with another method, base model, adapter or tokenizer: "
        f"{'; '.join(found)}. Set them back, or start from its exported model (model: {parent.uri}/export/...) without "
        f"continue_from.{hint}"
    )


def _position(config: TrainConfig, parent: ParentRun, packed: PackedRun) -> tuple[Position, str]:
    """Where the data continues, and why it does not continue after the parent's samples; "" if it does."""
    settings = parent.settings
    if settings["data"] != packed.fingerprint:
        return Position(), "the packed rows are others"
    for key in ("seed", "order"):
        if json.loads(settings[f"settings.{key}"]) != getattr(config, key):
            return Position(), f"{key} was {settings[f'settings.{key}']}, now {json.dumps(getattr(config, key))}"
    shares = json.loads(settings["corpora"])
    if [name for name, *_ in shares] != list(config.corpus_names):
        return Position(), "the corpora have another order"
    samples, taken = parent.samples, tuple(parent.before.get("taken", ()))
    now = [[c.weight, c.epochs, c.tokens] for c in config.corpus]
    if [share for _, *share in shares] == now:
        return Position(samples, taken), ""
    corpora = tuple(
        corpus.model_copy(update={"weight": weight, "epochs": epochs, "tokens": tokens})
        for corpus, (_, weight, epochs, tokens) in zip(config.corpus, shares, strict=True)
    )
    earlier = Order.for_training(config.model_copy(update={"corpus": corpora}), packed, Position(0, taken))
    return Position(0, earlier.taken(samples)), ""
