"""The verb `raymill pack`, and the dry run of a training."""

import logging
from typing import Annotated

import typer

from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.commands import Address, ConfigFile, Overrides, Verify, load_of_kind
from raymill.cluster.progress import ProgressLines
from raymill.cluster.session import Session
from raymill.cluster.store import paths
from raymill.training.config import TrainConfig
from raymill.training.driver.launch import check_machine
from raymill.training.job import packed_job
from raymill.training.model_folder.checks import check_model
from raymill.training.pack.job import pack as run_pack
from raymill.training.pack.summary import summary
from raymill.training.plan.planning import print_plan

_preview = Entry("raymill.training.tokenizer.preview:preview")  # imports transformers
_print_previews = Entry("raymill.training.tokenizer.preview:print_previews")

log = logging.getLogger(__name__)


def dry_run(settings: TrainConfig, address: str | None) -> None:
    """Print the settings, steps, memory and time of a training. address: of a Ray cluster; None: this machine."""
    print(settings.model_dump_json(indent=1, exclude_unset=True))
    print_plan(settings)
    with Session(address, settings.execution.cpus) as session:  # never started
        for one in (settings, *settings.trainings):
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
        typer.Option(
            metavar="FILE", help="also write the job for `torchrun ... -m raymill.training.fit FILE`, a path or URI"
        ),
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
