"""What tells a base model from every other: part of what a checkpoint must agree with to be continued."""

import hashlib

from cluster.artifact import canonical_json
from cluster.store.store import Store
from training.config_parts import Model
from training.models.folder import model_folder, weight_files

_SAMPLES, _SAMPLE_BYTES = 16, 4096


def model_identity(store: Store, model: Model, seed: int = 0) -> str:
    """What tells this model from every other, without reading it whole; a checkpoint carries it.

    Random weights: a hash of the config and the seed. A hub name: the commit it resolves to. A folder: a hash of its
    config.json and, of each weight file, size, header (names, shapes, types of all tensors) and 16 samples of 4 KiB;
    so a copy of a folder, wherever it lies, is the same model, and one trained further is another.
    """
    if model.config is not None:
        return "random-" + _hash(canonical_json([model.config, seed]))
    folder = model_folder(store, model)
    if folder.parent.name == "snapshots":
        return f"{model.name}@{folder.name}"
    parts = [(folder / "config.json").read_bytes()]
    for path in weight_files(folder):
        with path.open("rb") as file:
            size, header = path.stat().st_size, int.from_bytes(file.read(8), "little")
            parts += [path.name.encode(), str(size).encode(), file.read(min(header, size))]
            for number in range(_SAMPLES):
                file.seek(8 + header + max(0, size - 8 - header - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                parts.append(file.read(_SAMPLE_BYTES))
    return "weights-" + _hash(b"".join(parts))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
