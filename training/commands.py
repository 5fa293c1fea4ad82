"""The verb `raymill train`. The others of this trade stand beside what they do: pack, plan, compose, tune-demo."""

import logging
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.config import load
from cluster.errors import ConfigError
from cluster.store import paths
from training.config import TrainConfig

if TYPE_CHECKING:
    from training.job import TrainRun

log = logging.getLogger(__name__)

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="settings, YAML or JSON")]
Overrides = Annotated[list[str] | None, typer.Option("-o", help="change one setting: key.sub=value; may be repeated")]
Address = Annotated[str | None, typer.Option(help="a Ray cluster; default: an embedded one on this machine")]
Replace = Annotated[bool, typer.Option("--replace", help="make anew what other settings left at the output")]

Verify = Annotated[bool, typer.Option("--verify", help="read what is finished and compare digests; else only sizes")]


def train(
    config: ConfigFile,
    override: Overrides = None,
    address: Address = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be done and taken, then stop")] = False,
    replace: Replace = False,
    verify: Verify = False,
) -> None:
    """A corpus to a fine-tuned model: pack, train, export, evaluate.

    A second run continues where the first stopped; a finished run is left alone. Reports: OUTPUT/report.html
    """
    from cluster.progress import Lines
    from cluster.session import Session
    from training.job import train as run_train
    from training.plan.advice import unused

    settings = load_train(config, override)
    if dry_run:
        from training.fit.preflight import check_machine
        from training.plan.command import print_plan

        print(settings.model_dump_json(indent=1, exclude_unset=True))
        print_plan(settings)
        with Session(address, settings.execution.cpus) as session:  # never started
            for one in (settings, *(settings.phase(overrides) for overrides in settings.phases)):
                check_machine(one, session)
        return
    for warning in unused(settings):
        log.warning("%s", warning)
    progress = Lines()
    with Session(address, settings.execution.cpus, progress) as session:
        run = run_train(settings, session, progress, replace=replace, verify=verify)
    print_outcome(run)


def load_train(config: str, override: list[str] | None) -> TrainConfig:
    """
    Raises:
        ConfigError: the file is no config, or one of another kind.
    """
    _require_extra()
    settings = load(config, override or [])
    if not isinstance(settings, TrainConfig):
        raise ConfigError(f"{config}, kind: {settings.kind} given; this verb wants kind: train.")  # type: ignore[attr-defined]
    return settings


def _require_extra() -> None:
    """
    Raises:
        ConfigError: this installation only curates.
    """
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers", "peft") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: not installed for {sys.executable}. Training wants: pip install 'raymill[train]'"
        )


def print_outcome(run: "TrainRun") -> None:
    """What a person wants to know at the end: how the held-out loss fell, and where everything is."""
    for phase in run.phases:
        print_outcome(phase)
    if run.phases:
        return
    from training.report.text import summary_text

    if not run.fresh:
        print(f"{run.uri}: finished before, nothing to do.")
    print(summary_text(run.report))
    for warning in run.report["warnings"]:
        print(f"warning: {warning}")
    for name, folder in run.manifest["export"]["folders"].items():
        print(f"{name:<8}{paths.join(run.uri, 'export', folder)}")
    print(f"report  {paths.join(run.uri, 'report.html')}")
