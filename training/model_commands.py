"""Verbs of models besides `train`: `add-tokens`, `compose`, `push` and `tune-demo`."""

import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from raymill.cluster.artifact import Artifact
from raymill.cluster.cli import shell_command
from raymill.cluster.entry import Entry, require_extra
from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.formats import duration, share
from raymill.cluster.frame.calls import AnyConfig, Changes, ShownProgress, run_of
from raymill.cluster.frame.commands import make_and_print
from raymill.cluster.frame.job import Run
from raymill.cluster.hub_push import HubRepository, Pushed
from raymill.cluster.inspection import RunConfig, StorageOverrides, store_for
from raymill.cluster.run import RunFolder
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.methods import FOLDERS
from raymill.training.records.finished import EXPORT, export_file
from raymill.training.report.text import exported_validation
from raymill.training.train_run import TrainRun

log = logging.getLogger(__name__)

_compose_adapters = Entry("raymill.training.models.compose:compose_adapters")
_add_tokens = Entry("raymill.training.models.new_tokens:add_tokens")


def add_tokens(
    model: Annotated[str, typer.Argument(help="base model: a folder, URI or hub name")],
    output: Annotated[str, typer.Argument(help="folder or URI to write the larger model to")],
    token: Annotated[list[str], typer.Option(help="a new token, such as <tool>; give several")],
    revision: Annotated[str | None, typer.Option(help="revision of a hub name, best a commit")] = None,
) -> None:
    """Write a base model with new tokens, whose embeddings are the mean of all others; then train it as `model: OUT`.

    raymill add-tokens MODEL OUT --token "<tool>" --token "</tool>"
    """
    found = add_tokens_to(model, output, token, revision=revision)
    last = found.first + len(token) - 1
    print(f"model   {found.uri}, {found.embeddings:,} embeddings; new tokens {found.first:,} to {last:,}")


@dataclass(frozen=True)
class ModelWithTokens:
    """A base model with new tokens.

    Attributes:
        uri: its folder.
        first: id of the first new token; the others follow.
        embeddings: number of its embeddings.
    """

    uri: str
    first: int
    embeddings: int


def add_tokens_to(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    tokens: Sequence[str],
    *,
    revision: str | None = None,
) -> ModelWithTokens:
    """Write a base model with new tokens, whose embeddings are the mean of all others.

    Args:
        model: folder, URI or hub name of the base model.
        output: folder or URI to write to.
        tokens: each is one token wherever it occurs in a text.
        revision: of a hub name, best a commit.

    Raises:
        UserError: there is no such model, a token is known already, or there are files at the output.
    """
    require_extra("train", "raymill add-tokens")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    at = paths.absolute(os.fspath(output))
    first, embeddings = _add_tokens(Store(), os.fspath(model), revision, at, list(tokens))
    return ModelWithTokens(at, first, embeddings)


def compose(
    output: Annotated[str, typer.Argument(help="folder or URI to write the combined adapter to")],
    adapter: Annotated[list[str], typer.Option(help="PATH=WEIGHT, a folder or URI; give several")],
    merged: Annotated[
        bool, typer.Option("--merged", help="also write OUTPUT/merged, the base model with the adapter added")
    ] = False,
    base: Annotated[
        str | None, typer.Option(help="base model on another store than the adapters, as they name it")
    ] = None,
) -> None:
    """Combine LoRA adapters of one base: to every matrix is added the weighted sum of their changes (checked).

    raymill compose OUT --adapter A=0.7 --adapter B=0.3
    """
    found = compose_to(output, adapter_weights(adapter), merged=merged, base=base)
    print(f"adapter   {found.uri}, ranks {found.ranks}")
    print(f"checked   every matrix against the weighted sum: largest relative deviation {found.deviation:.1e}")
    if found.merged:
        print(f"merged    {found.merged}")


@dataclass(frozen=True)
class ComposedAdapter:
    """An adapter that was combined from several.

    Attributes:
        uri: its folder.
        ranks: the ranks of its matrices as text.
        deviation: largest relative deviation of a matrix from the weighted sum.
        merged: URI of the base model with the adapter added; None if it was not requested.
    """

    uri: str
    ranks: str
    deviation: float
    merged: str | None


def compose_to(
    output: str | os.PathLike[str],
    adapters: Mapping[str, float],
    *,
    merged: bool = False,
    base: str | None = None,
) -> ComposedAdapter:
    """Combine LoRA adapters of one base: to every matrix is added the weighted sum of their changes (checked).

    Args:
        output: folder or URI to write the combined adapter to.
        adapters: folder or URI of each adapter -> its weight.
        merged: also write OUTPUT/merged, the base model with the adapter added.
        base: base model on another store than the adapters, as they name it.

    Raises:
        UserError: an adapter is missing or damaged, or they have different bases.
    """
    require_extra("train", "raymill compose")
    # peft imports DeepSpeed where it is installed, and DeepSpeed prints its choice of accelerator if none is named.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    at = paths.absolute(os.fspath(output))
    weights = {paths.absolute(adapter): weight for adapter, weight in adapters.items()}
    deviation, ranks = _compose_adapters(Store(), at, weights, merged, base)
    return ComposedAdapter(at, ranks, deviation, paths.join(at, "merged") if merged else None)


def adapter_weights(adapters: list[str]) -> dict[str, float]:
    """The weights of PATH=WEIGHT strings, by absolute path, in the given order.

    Raises:
        ConfigError: a weight is missing, not a number, or zero; or an adapter is given twice.
    """
    found: dict[str, float] = {}
    for one in adapters:
        path, _, number = one.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not path or not math.isfinite(weight):
            raise ConfigError(f"--adapter {one}: give PATH=WEIGHT with a number, as in runs/a/export/adapter=0.7")
        if weight == 0:
            raise ConfigError(f"--adapter {one}: an adapter of weight 0 changes nothing. Leave it out.")
        uri = paths.absolute(path)
        if uri in found:
            raise ConfigError(f"--adapter {uri}: given twice. Give it once, with the sum of the weights.")
        found[uri] = weight
    return found


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
    print(push_run(run, place, folder, public=public, config=config, override=override))


def push_run(
    run: str | os.PathLike[str] | Run,
    place: str,
    folder: str | None = None,
    *,
    public: bool = False,
    config: AnyConfig = None,
    override: Changes = None,
) -> Pushed:
    """Push an exported model and its card to the Hugging Face hub, in one commit, with the token HF_TOKEN.

    Args:
        run: folder or URI of a finished training, or the run.
        place: hf://ORG/NAME.
        folder: the exported folder: full, merged, adapter, ...; None: the only one.
        public: make a new model public.
        config: the run's config, for its `storage` settings.
        override: changes of single settings, as in {"storage.endpoint_url": "http://HOST:PORT"}.

    Raises:
        UserError: there is no such folder, or the hub refuses the token or the request.
    """
    with store_for(run, config, override) as (store, uri):
        return push_model(store, uri, place, folder, public=public)


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
    finished = RunFolder(store, run).require("train")
    root = paths.join(run, EXPORT)
    manifest = export_file(store, root).read()
    if manifest is None:
        raise DataError(f"{run}: a run of phases exports nothing itself. Name one of its phases, such as {run}/PHASE.")
    name = _chosen(run, list(manifest["folders"]), folder)
    repository = HubRepository(place, "model")
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
    if FOLDERS[name].base_at and "base" in folders:
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


CONFIGS = Path(__file__).parent / "configs"
OUTPUT = "runs/demo"  # the output in the shipped configs
RUNS = {"lora": "LoRA", "full": "all weights"}


def tune_demo(
    output: Annotated[str, typer.Option(help="the folder of `raymill demo`; the trainings go below it")] = OUTPUT,
    replace: Annotated[bool, typer.Option("--replace", help="write the configs again and train anew")] = False,
) -> None:
    """Fine-tune a tiny model with random weights on the demo's corpus: with LoRA, then in full. No download."""
    for config in write_demo_configs(output, replace):
        print(f"\n{shell_command('train', config)}\n", flush=True)
        make_and_print("train", config, address="local", replace=replace)
    store = Store()
    reports = {run: json.loads(store.read_bytes(paths.join(_folder(output, run), "report.json"))) for run in RUNS}
    print(f"\n{comparison(reports)}\n\n{whats_next(output)}")


def run_tune_demo(output: str = OUTPUT, replace: bool = False, progress: ShownProgress = None) -> list[TrainRun]:
    """Fine-tune a tiny model with random weights on the demo's corpus: with LoRA, then in full. No download.

    Args:
        output: the folder of `raymill.demo`; the trainings go below it.
        replace: write the configs again and train anew.
        progress: as of `raymill.train`.
    """
    configs = write_demo_configs(output, replace)
    return [run_of("train", config, address="local", replace=replace, progress=progress) for config in configs]


def write_demo_configs(output: str, replace: bool) -> list[str]:
    """Write the config of each of RUNS, unless it is there. Returns their paths.

    Raises:
        UserError: there is no corpus of the demo.
    """
    corpus, store = paths.join(output, "corpus"), Store()
    if Artifact.find(store, corpus) is None:
        first = shell_command("demo", *([] if output == OUTPUT else ["--output", output]))
        raise UserError(f"{corpus}: there is no finished corpus here, and this demo trains on it. Run `{first}` first.")
    for run in RUNS:
        config = _config(output, run)
        if replace or not store.exists(config):
            store.write_bytes(config, config_text(run, output).encode())
    return [_config(output, run) for run in RUNS]


def config_text(run: str, output: str) -> str:
    """The text of a shipped config with its output replaced."""
    text = Store().read_bytes(str(CONFIGS / f"demo-{run}.yaml")).decode()
    # In double quotes YAML reads JSON's escapes.
    return text.replace(f'"{OUTPUT}', json.dumps(output.rstrip("/"), ensure_ascii=False)[:-1])


def comparison(reports: dict[str, dict[str, Any]]) -> str:
    """A table of the runs: validation loss and perplexity before and after, share of trained parameters, time."""
    rows: list[tuple[str, ...]] = [("validation loss", "before", "after", "perplexity", "trained", "time")]
    for run, report in reports.items():
        fit = report["fits"][0]
        first, best, totals = fit["validation"][0], exported_validation(fit), fit["totals"]
        assert best is not None
        perplexity = f"{first['perplexity']:,.0f} -> {best['perplexity']:,.0f}"
        trained = share(totals["trainable_parameters"], totals["all_parameters"])
        losses = (f"{first['loss']:.3f}", f"{best['loss']:.3f}")
        rows.append((RUNS[run], *losses, perplexity, trained, duration(totals["seconds"])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])
        for cells in rows
    )


def whats_next(output: str) -> str:
    """Commands to try next. Each can be run as printed, except that the last needs a folder."""
    lora, full = (_config(output, run) for run in RUNS)
    zero = ("-o", "name=demo-zero2", "-o", "engine=zero2", "-o", f"output={paths.join(output, 'tune-zero2')}")
    own = ("-o", "name=mine", "-o", "output=runs/mine", "-o", "packed=runs/mine/packed", "-o", "corpus=FOLDER")
    steps = {
        "Curves, data and numbers, in a browser":
            "\n    ".join(paths.join(_folder(output, run), "report.html") for run in RUNS),
        "Documents as the model sees them, and which tokens the loss counts":
            shell_command("pack", full, "--preview", "3"),
        "What a training would take in steps, memory and time, without starting it":
            shell_command("plan", full),
        "The same losses from DeepSpeed, whose workers share the optimizer's state and the gradients":
            shell_command("train", full, *zero),
        "The same on your own corpus: write its folder instead of FOLDER":
            shell_command("train", lora, *own),
    }  # fmt: skip
    return "What next:\n" + "\n".join(f"  {what}:\n    {line}" for what, line in steps.items())


def _config(output: str, run: str) -> str:
    return paths.join(output, f"tune-{run}.yaml")


def _folder(output: str, run: str) -> str:
    return paths.join(output, f"tune-{run}")
