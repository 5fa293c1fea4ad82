"""A finished run of `train` as a classifier of records: its probe, or the probability of each label as an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.run import RunFolder
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store

_label_model = Entry("raymill.training.evaluation.label_model:load")  # it loads torch
# Exported folders that are loaded without peft.
_FOLDERS = ("probe", "merged", "full")


@dataclass(frozen=True)
class TrainedClassifier:
    """The exported model of a run.

    Attributes:
        store, folder: of the model. length: tokens of a row in the training. bytes: of the exported files.
        digest: of the run.
    """

    store: Store
    folder: str
    length: int
    bytes: int
    digest: str

    def probabilities(self, texts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        """float64[N, L]: the probability of each label; NaN of a text without tokens. Loads the model once a worker."""
        return _label_model.load()(self.store, self.folder, tuple(labels), self.length).probabilities(texts)


def trained_classifier(store: Store, uri: str, labels: Sequence[str]) -> TrainedClassifier:
    """The model of a finished run of `train`. labels: whose probabilities are wanted.

    Raises:
        ConfigError: the model predicts none of the labels, or cannot be loaded alone.
        DataError: there is no such run, or its manifest is damaged.
    """
    manifest = RunFolder(store, uri).require("train", "Name the output of one in `choose.classifier`.")
    try:
        exported: Mapping[str, Any] = manifest.get("export") or {}
        kind = next((one for one in _FOLDERS if one in exported.get("folders", {})), None)
        classes, length = list(map(str, manifest.get("classes", ()))), manifest["config"]["sequence_length"]
        digest = str(manifest["digest"])
        if type(length) is not int or length < 1:
            raise ValueError(f"sequence_length is {length!r:.40}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{uri}: its manifest is none of `raymill train`: {error!r:.100}. Run it again.") from error
    if kind is None:
        raise ConfigError(
            f"choose.classifier: {uri} exported no probe and no whole model. Name a run, or a phase of one, of method "
            "probe or full, or of lora with `export: {merged: true}`."
        )
    if kind == "probe" and not set(classes) & set(labels):
        raise ConfigError(
            f"choose.classifier: {uri} predicts {', '.join(classes[:20])}, and none of the labels "
            f"{', '.join(labels[:20])}."
        )
    size = sum(file.size for file in store.list_files(paths.join(uri, "export")))  # the manifest may state another one
    return TrainedClassifier(store, paths.join(uri, "export", kind), length, size, digest)
