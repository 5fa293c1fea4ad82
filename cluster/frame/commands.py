"""The verb of a kind of run, `raymill KIND CONFIG`, and the options that verbs share."""

import time
from collections.abc import Callable
from typing import Annotated

import typer

from raymill.cluster.entry import Entry
from raymill.cluster.frame.calls import config_of, run_of
from raymill.cluster.frame.job import Run
from raymill.cluster.frame.kind import Kind
from raymill.cluster.progress import clock

_dry_run_lines = Entry("raymill.cluster.frame.dry_run:dry_run_lines")

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
    if kind.command is not None:
        return kind.command.load()

    def call(
        config: ConfigFile,
        override: Overrides = None,
        address: Address = None,
        dry_run: DryRun = False,
        replace: Replace = False,
        verify: Verify = False,
    ) -> int:
        if dry_run:
            for line in _dry_run_lines(config_of(config, None, override, kind.name), address):
                print(line)
            return 0
        return make_and_print(kind.name, config, override, address, replace=replace, verify=verify)

    call.__doc__ = kind.job.load().__doc__
    return call


def make_and_print(
    kind: str,
    config: str,
    override: list[str] | None = None,
    address: str | None = None,
    *,
    replace: bool = False,
    verify: bool = False,
) -> int:
    """Make the run of a config, and print its outcome. Returns the exit code."""
    began = time.monotonic()
    run: Run = run_of(kind, config, override=override, address=address, replace=replace, verify=verify)
    print_outcome(run)
    print(f"elapsed {clock(time.monotonic() - began)}")
    return run.exit_code


def print_outcome(run: Run) -> None:
    """Print the numbers of a finished run, its warnings, and where its results are."""
    for part in run.parts:
        print_outcome(part)
    if run.parts:
        return
    if not run.fresh:
        print(f"{run.uri}: finished before, nothing to do.")
    print(run)
    width = max(map(len, run.results)) + 2
    print()
    for name, uri in run.results.items():
        print(f"{name:<{width}}{uri}")
