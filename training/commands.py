"""The verbs `raymill pack`, `cross-validate` and `compose`, and the dry run of a training."""

import logging
import math
import os
from typing import Annotated

import typer

from cluster.entry import Entry
from cluster.errors import ConfigError
from cluster.frame.commands import Address, ConfigFile, Overrides, Replace, Verify, load_of_kind
from cluster.progress import ProgressLines
from cluster.session import Session
from cluster.store import paths
from cluster.store.store import Store
from training.config import TrainConfig
from training.driver.launch import check_machine
from training.folds import FOLDS_JSON, scores_text
from training.folds import cross_validate as run_cross_validation
from training.job import packed_job
from training.model_folder.checks import check_model
from training.pack.job import pack as run_pack
from training.pack.summary import summary
from training.plan.planning import print_plan

_compose_adapters = Entry("training.models.compose:compose_adapters")
_preview = Entry("training.tokenizer.preview:preview")  # imports transformers
_print_previews = Entry("training.tokenizer.preview:print_previews")

log = logging.getLogger(__name__)


def dry_run(settings: TrainConfig, address: str | None) -> None:
    """Print the settings, steps, memory and time of a training. address: of a Ray cluster; None: this machine."""
    print(settings.model_dump_json(indent=1, exclude_unset=True))
    print_plan(settings)
    with Session(address, settings.execution.cpus) as session:  # never started
        for one in (settings, *(settings.phase(overrides) for overrides in settings.phases)):
            check_machine(one.workers, session)


def pack(
    config: ConfigFile,
    override: Overrides = None,
    address: Address = None,
    preview: Annotated[
        int | None,
        typer.Option(min=1, help="number of examples of each corpus to print, with trained tokens marked; then stop"),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="pack everything again")] = False,
    verify: Verify = False,
    job: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="also write the job for `torchrun ... -m training.fit FILE`, a path or URI"),
    ] = None,
) -> None:
    """A corpus to packed rows: tokenise, mask, split, pack, shuffle. `raymill train` also does this.

    A second run continues where the first stopped: finished parts are not packed again, unless they are damaged or
    gone.
    """
    settings = load_of_kind("train", config, override)
    if settings.phases:
        raise ConfigError(
            f"{config}, phases: the corpus of a phase is packed when the phase begins. Run `raymill train`, or give "
            "the settings of one phase in a config without phases."
        )
    for warning in check_model(settings):
        log.warning("%s", warning)
    if preview is not None:
        _print_previews(_preview(settings, preview))
        return
    progress = ProgressLines()
    with Session(address, settings.execution.cpus, progress) as session:
        packed = run_pack(settings, session, progress, replace, verify)
    print(summary(settings, packed))
    if job is not None:
        settings.store.write_bytes(paths.absolute(job), packed_job(settings, packed).to_json())
        print(f"job        {paths.absolute(job)}")


def cross_validate(
    config: ConfigFile, override: Overrides = None, address: Address = None, replace: Replace = False
) -> None:
    """Score a data set by training: one model a fold of `split.folds`, each tested on the fold that it leaves out.

    A second run continues where the first stopped. Scores: OUTPUT/folds.json
    """
    settings = load_of_kind("train", config, override)
    progress = ProgressLines()
    with Session(address, settings.execution.cpus, progress) as session:
        found = run_cross_validation(settings, session, progress, replace=replace)
    print(scores_text(found))
    print(f"scores  {paths.join(paths.absolute(settings.output), FOLDS_JSON)}")


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
    weights = adapter_weights(adapter)
    # peft imports DeepSpeed where it is installed, and DeepSpeed prints its choice of accelerator if none is named.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    deviation, ranks = _compose_adapters(Store(), output, weights, merged, base)
    print(f"adapter   {paths.absolute(output)}, ranks {ranks}")
    print(f"checked   every matrix against the weighted sum: largest relative deviation {deviation:.1e}")
    if merged:
        print(f"merged    {paths.join(paths.absolute(output), 'merged')}")


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
