"""The verbs `raymill pack` and `raymill export`, and the dry run of a training."""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from raymill.cluster.entry import Entry, require_extra
from raymill.cluster.errors import ConfigError, UserError
from raymill.cluster.frame.calls import AnyConfig, Changes, ShownProgress, config_of, shown_config
from raymill.cluster.frame.commands import Address, ConfigFile, Overrides, Verify
from raymill.cluster.progress_display import chosen_progress
from raymill.cluster.session import opened
from raymill.cluster.store import paths
from raymill.training.config import TrainConfig
from raymill.training.driver.launch import check_machine
from raymill.training.job import TrainJob, make_job, packed_job
from raymill.training.model_folder.checks import check_model
from raymill.training.pack.job import PackJob, located_config, with_exported_model
from raymill.training.pack.job import pack as run_pack
from raymill.training.pack.packed_run import PackedRun
from raymill.training.pack.summary import summary
from raymill.training.plan.planning import plan_training
from raymill.training.records.finished import EXPORT

_preview = Entry("raymill.training.tokenizer.preview:preview")  # imports transformers
_export_checkpoint = Entry("raymill.training.export.job:export_checkpoint")
_print_previews = Entry("raymill.training.tokenizer.preview:print_previews")

log = logging.getLogger(__name__)


def dry_run(settings: TrainConfig, address: str | None = None) -> Iterator[str]:
    """Lines about the settings, steps, memory and time of a training. address: of a Ray cluster; None: this machine."""
    settings = with_exported_model(settings)
    for one in settings.trainings:
        for warning in check_model(one):
            log.warning("%s", warning)
    plan = str(plan_training(settings))
    yield settings.model_dump_json(indent=1, exclude_unset=True)
    yield plan
    with opened(address, settings.execution.cpus) as session:  # never started
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
    if preview is not None:
        _print_previews(preview_corpora(config, override, examples=preview))
        return
    found = pack_corpora(config, override, address=address, replace=replace, verify=verify, job=job)
    print(found.summary)
    if job is not None:
        print(f"job        {paths.absolute(job)}")


@dataclass(frozen=True)
class PackedCorpora:
    """Packed corpora of a training.

    Attributes:
        uri: their folder.
        packed: its content.
        summary: documents, tokens and padding as text.
    """

    uri: str
    packed: PackedRun
    summary: str

    def __repr__(self) -> str:
        return self.summary


def pack_corpora(
    config: AnyConfig = None,
    override: Changes = None,
    *,
    address: str | None = None,
    replace: bool = False,
    verify: bool = False,
    job: str | None = None,
    progress: ShownProgress = None,
    **settings: Any,
) -> PackedCorpora:
    """A corpus to packed rows: tokenise, mask, split, pack, shuffle. `raymill.train` also does this.

    A second call continues where the first stopped: finished parts are not packed again, unless they are damaged or
    gone.

    Args:
        config: a file, a dict, or a config object of kind train.
        override: changes of single settings, as in {"packing.mode": "greedy"}.
        address: of a Ray cluster; None: the Ray of this process, else one on this machine.
        replace: pack everything again.
        verify: compare the sha256 of finished files, not only their sizes.
        job: also write the job for `torchrun ... -m raymill.training.fit FILE`, a path or URI.
        progress: as of `raymill.train`.
        settings: settings that replace those of the config.

    Raises:
        UserError: a mistake in the config or the corpora.
        ClusterError: machines failed; the same call continues.
    """
    whole = _checked(config, override, settings)
    shown = chosen_progress(progress)
    with opened(address, whole.execution.cpus, shown) as session:
        packed = run_pack(whole, session, shown, replace, verify)
    if job is not None:
        whole.store.write_bytes(paths.absolute(job), packed_job(whole, packed).to_json())
    return PackedCorpora(packed.uri, packed, summary(whole, packed))


def preview_corpora(
    config: AnyConfig = None, override: Changes = None, *, examples: int = 3, **settings: Any
) -> list[Any]:
    """The first examples of each corpus as the model sees them, and which tokens the loss counts. Writes nothing.

    Args:
        config: a file, a dict, or a config object of kind train.
        override: changes of single settings.
        examples: number of examples of each corpus.
        settings: settings that replace those of the config.

    Returns:
        A `Preview` for each corpus.
    """
    return _preview(_checked(config, override, settings), examples)


def export(
    config: ConfigFile,
    override: Overrides = None,
    step: Annotated[
        int | None,
        typer.Option(min=0, help="step of the checkpoint; default: the training if it has ended, else the newest"),
    ] = None,
) -> None:
    """A checkpoint of a training as folders that transformers and peft load, also while the training is going on.

    Needs no GPU, and no memory for the model. Of a training that has ended the best weights are exported, to
    OUTPUT/export, unless they are; a checkpoint is exported to OUTPUT/exports/step-NNNNNNNN.
    """
    for folder in export_config(config, override, step=step):
        print(folder)


def export_config(
    config: AnyConfig = None, override: Changes = None, *, step: int | None = None, **settings: Any
) -> list[str]:
    """A checkpoint of a training as folders that transformers and peft load, also while the training is going on.

    Needs no GPU, and no memory for the model.

    Args:
        config: a file, a dict, or a config object of kind train.
        override: changes of single settings.
        step: step of the checkpoint, which is exported to OUTPUT/exports/step-NNNNNNNN; None: the best weights of the
            training if it has ended, to OUTPUT/export, else its newest checkpoint.
        settings: settings that replace those of the config.

    Returns:
        URIs of the exported folders.

    Raises:
        UserError: the training has not begun, has other settings, or has no such checkpoint.
    """
    whole = _checked(config, override, settings, "raymill export")
    if step is None and (run := TrainJob(whole).find().run) is not None:
        return [paths.join(run.uri, EXPORT, folder) for folder in run.manifest["export"]["folders"]]
    packing = PackJob.of(located_config(whole), replace=False)
    if (packed := packing.find_packed()) is None:
        raise UserError(
            f"{packing.root}: no packed corpora, so this training has not begun, or it has another `packed` or "
            "`output`. Run `raymill train` first, or set them as in the training."
        )
    # peft imports DeepSpeed where it is installed, and DeepSpeed prints its choice of accelerator if none is named.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    root, folders = _export_checkpoint(make_job(packing.config, packed), step)
    return [paths.join(root, folder) for folder in folders]


def _checked(
    config: AnyConfig, override: Changes, settings: Mapping[str, Any], command: str = "raymill pack"
) -> TrainConfig:
    """The config, after its model was checked.

    Raises:
        ConfigError: it has phases, or the model cannot be trained.
    """
    require_extra("train", command)
    whole: TrainConfig = with_exported_model(config_of(config, settings, override, "train"))
    if whole.phases:
        raise ConfigError(
            f"{shown_config(config)}, phases: `{command}` takes one training, and the corpus of a phase is packed when "
            "the phase begins. Run `raymill train`, or give the settings of one phase in a config without phases."
        )
    for warning in check_model(whole):
        log.warning("%s", warning)
    return whole
