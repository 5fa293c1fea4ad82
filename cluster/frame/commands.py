"""The verb of a kind of run, `raymill KIND CONFIG`, and the options that verbs share."""

import logging
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from raymill.cluster.config import load
from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.job import REPORT_HTML, Run, RunJob
from raymill.cluster.frame.kind import Kind
from raymill.cluster.frame.kinds import kind_of
from raymill.cluster.progress import ProgressLines, clock
from raymill.cluster.session import Session
from raymill.cluster.store import paths

log = logging.getLogger(__name__)

_dry_run = Entry("raymill.cluster.frame.dry_run:print_dry_run")

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="settings, YAML or JSON")]
Overrides = Annotated[list[str] | None, typer.Option("-o", help="change one setting: key.sub=value; may be repeated")]
Address = Annotated[str | None, typer.Option(help="a Ray cluster; default: an embedded one on this machine")]
Replace = Annotated[bool, typer.Option("--replace", help="delete results made with other settings and make them again")]
Verify = Annotated[bool, typer.Option("--verify", help="compare the sha256 of finished files, not only their sizes")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="print what would be done (--verbose: and all settings), then stop")
]


def verb_of(kind: Kind) -> Callable[..., int]:
    """The function of the command line that makes a run of this kind."""

    def call(
        config: ConfigFile,
        override: Overrides = None,
        address: Address = None,
        dry_run: DryRun = False,
        replace: Replace = False,
        verify: Verify = False,
    ) -> int:
        settings = load_of_kind(kind.name, config, override)
        if dry_run:
            (kind.dry_run or _dry_run)(settings, address)
            return 0
        return make_and_print(kind, settings, address, replace=replace, verify=verify)

    call.__doc__ = kind.job.load().__doc__
    return call


def load_of_kind(kind: str, config: str, override: list[str] | None = None) -> Any:
    """The config in a file, with `key.sub=value` overrides.

    Raises:
        ConfigError: it is not valid, or of another kind.
    """
    settings: Any = load(config, override or [])
    if settings.kind != kind:
        raise ConfigError(
            f"{config}, kind: {settings.kind} given; wanted {kind}. Give another config, or run `raymill "
            f"{settings.kind}`."
        )
    return settings


def make_and_print(
    kind: str | Kind, settings: Any, address: str | None = None, *, replace: bool = False, verify: bool = False
) -> int:
    """Make the run of a config, and print its outcome. Returns the exit code."""
    job: RunJob[Any] = (kind_of(kind) if isinstance(kind, str) else kind).job(settings)
    for warning in getattr(settings, "without_effect", ()):
        log.warning("%s", warning)
    is_here = address in (None, "local")
    progress, began = ProgressLines(at_first=job.at_first() if is_here else ""), time.monotonic()
    with Session(address, settings.execution.cpus, progress) as session:
        run = job.run(session, progress, replace=replace, verify=verify)
    if run.fresh and is_here:
        job.after()
    print_outcome(job, run)
    print(f"elapsed {clock(time.monotonic() - began)}")
    return job.exit_code(run)


def print_outcome(job: RunJob[Any], run: Run) -> None:
    """Print the numbers of a finished run, its warnings, and where its results are."""
    for part in run.parts:
        print_outcome(job, part)
    if run.parts:
        return
    if not run.fresh:
        print(f"{run.uri}: finished before, nothing to do.")
    print(job.outcome(run))
    results = job.results(run) | {"report": REPORT_HTML}
    width = max(map(len, results)) + 2
    print()
    for name, path in results.items():
        print(f"{name:<{width}}{paths.join(run.uri, path) if path else run.uri}")
