"""The model to serve: found by its folder, its run or its alias, with its digest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.inspection import is_run, read_run_manifest
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.promote.alias import Alias, model_digest
from raymill.training.records.finished import EXPORT

# In order of preference: a whole model generates faster than an adapter on its base.
_PREFERRED = ("full", "merged", "adapter")


@dataclass(frozen=True)
class ServedModel:
    """A model to serve.

    Attributes:
        name: its id in requests: the alias, else the name of the run or folder.
        folder: URI of the folder with the model or adapter.
        digest: of the run, or the fingerprint of the folder.
        version: of the alias; None without one.
    """

    name: str
    folder: str
    digest: str
    version: int | None = None

    @property
    def fingerprint(self) -> str:
        """`system_fingerprint` of answers: `ALIAS/VERSION/DIGEST`, or the digest alone."""
        return self.digest if self.version is None else f"{self.name}/{self.version}/{self.digest}"


def find_served(store: Store, model: str, alias: str | None) -> ServedModel:
    """The model in a folder, of a finished training, or of an alias.

    Args:
        model: URI of a model folder or of a finished training; with `alias` the folder of the aliases.

    Raises:
        ConfigError: there is no such alias, or the training exported no model that generates text.
        DataError: the model of the alias changed after its promotion, or a file of the model is damaged.
        StorageError: nothing is there.
    """
    if alias is not None:
        named = Alias(store, model, alias)
        if (record := named.current()) is None:
            raise named.missing()
        named.check(record)
        return ServedModel(alias, _folder(store, record.model), record.digest, record.version)
    return ServedModel(model.rstrip("/").rpartition("/")[2], _folder(store, model), model_digest(store, model))


def _instead(store: Store, model: str, manifest: Mapping[str, Any]) -> str:
    """What to serve in place of a run without a model."""
    if manifest["kind"] == "run":
        steps = [paths.join(model, step) for step in manifest["artifacts"]]
        if trainings := [step for step in steps if "export" in (read_run_manifest(store, step) or {})]:
            return f"Give one of its trainings: {', '.join(trainings)}."
    return "Give the folder of a training, or of its last phase."


def _folder(store: Store, model: str) -> str:
    """The folder of the model: the first of _PREFERRED of a training, else the URI itself."""
    manifest = read_run_manifest(store, model)
    if not is_run(manifest):
        return model
    if "export" not in manifest:
        raise DataError(
            f"{model}: this run of kind {manifest['kind']} exported no model. {_instead(store, model, manifest)}"
        )
    folders = manifest["export"]["folders"]
    for name in _PREFERRED:
        if name in folders:
            return paths.join(model, EXPORT, folders[name])
    raise ConfigError(
        f"{model}: exported {', '.join(folders)}, and none of {', '.join(_PREFERRED)}, which generate text. Give "
        "another model."
    )
