"""The verb `raymill push`: push an exported folder of a finished training, with its model card, to a model repository
of the Hugging Face hub, in one commit. Needs no extra.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cluster.errors import ConfigError, DataError
from cluster.formats import plural
from cluster.hub_push import HubRepository, Pushed
from cluster.inspection import RunConfig, StorageOverrides, store_for
from cluster.run import RunFolder
from cluster.store import paths
from cluster.store.store import Store
from training.records.finished import EXPORT, export_file

# An earlier push may have had more weight files.
_REPLACED = ["*.safetensors", "*.safetensors.index.json"]


def push(
    run: Annotated[str, typer.Argument(metavar="OUTPUT", help="folder or URI of a finished run")],
    place: Annotated[str, typer.Argument(help="hf://ORG/NAME")],
    folder: Annotated[
        str | None, typer.Option(help="the exported folder: full, merged, adapter, ..; default: the only one")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="make a new model public")] = False,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """Push an exported model and its card to the Hugging Face hub, in one commit, with the token HF_TOKEN.

    A new model is private unless --public is given. The same push again commits only what changed.
    """
    with store_for(run, config, override) as (store, uri):
        pushed = push_model(store, uri, place, folder, public=public)
    print(f"hf://{pushed.place} holds {plural(pushed.files, 'file')}, {pushed.bytes / 1e6:,.1f} MB")
    print(f"commit  {pushed.commit}")


def push_model(store: Store, run: str, place: str, folder: str | None = None, *, public: bool = False) -> Pushed:
    """Make `hf://ORG/NAME` hold an exported folder. Its files are copied to this machine first.

    Args:
        run: URI of the run.
        folder: name of the exported folder, such as `merged`; not needed if there is one.
        public: whether a new repository is public; an existing one is not changed.

    Raises:
        ConfigError: no such folder, or the place or the token is missing.
        DataError: no finished training, or an exported file is not the one that was written.
        StorageError: the hub refuses the token or the request, or cannot be reached.
    """
    repository = HubRepository(place, "model")
    finished = RunFolder(store, run).require("train")
    root = paths.join(run, EXPORT)
    manifest = export_file(store, root).read()
    if manifest is None:
        raise DataError(f"{run}: a run of phases exports nothing itself. Name one of its phases, such as {run}/PHASE.")
    name = _chosen(run, list(manifest["folders"]), folder)
    with tempfile.TemporaryDirectory(prefix="raymill-push-") as scratch:
        for file in manifest["files"]:
            if file["path"].startswith(f"{name}/"):
                _copy(store, paths.join(root, file["path"]), Path(scratch, file["path"]), file["sha256"])
        title, description = f"{finished['name']}, {name}", f"Raymill, digest {finished['digest']}"
        return repository.push(Path(scratch, name), title, description, _REPLACED, public=public)


def _chosen(run: str, folders: list[str], folder: str | None) -> str:
    """Name of the folder to push: the given one, else the only one besides `base`."""
    own = [name for name in folders if name != "base"]
    if folder is None and len(own) > 1:
        raise ConfigError(f"{run} exported {' and '.join(own)}. Name the one to push: --folder {own[-1]}")
    name = folder or own[0]
    if name not in folders:
        raise ConfigError(f"--folder {name}: {run} exported {' and '.join(folders)}. Name one of these.")
    if name in ("adapter", "probe") and "base" in folders:
        raise ConfigError(
            f"--folder {name}: it is loaded on ../base, a model with random weights that the hub does not have. Push "
            f"{'merged, or ' if 'merged' in folders else ''}the base first, and train on its name."
        )
    return name


def _copy(store: Store, uri: str, path: Path, sha256: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with store.open_input(uri) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 22)  # type: ignore[misc]
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise DataError(f"{uri}: its content is not what was exported. Run `raymill train CONFIG --verify` again.")
