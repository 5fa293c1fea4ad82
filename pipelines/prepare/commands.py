"""The verb `raymill prepare`."""

import time

from cluster.config import load
from cluster.errors import ConfigError
from cluster.progress import Lines, clock
from cluster.session import Session
from cluster.store import paths
from pipelines.curate.commands import Address, ConfigFile, Overrides, Replace
from pipelines.kernel_cache import kernels_are_compiled
from pipelines.prepare import job
from pipelines.prepare.config import PrepareConfig
from pipelines.prepare.report import report_text


def prepare(config: ConfigFile, override: Overrides = None, address: Address = None, replace: Replace = False) -> None:
    """Records of many sources to a data set for fine-tuning: clean, validate, find duplicates, split.

    A second run continues where the first stopped; a finished run is left alone. Report: OUTPUT/report.html
    """
    settings = load(config, override or [])
    if not isinstance(settings, PrepareConfig):
        kind = settings.kind  # type: ignore[attr-defined]
        raise ConfigError(
            f"{config}, kind: {kind} given; wanted prepare. Give another config, or run `raymill {kind}`."
        )
    compiled = kernels_are_compiled() or address not in (None, "local")
    progress = Lines(at_first="" if compiled else "compiling kernels (first run on this machine, up to half a minute)")
    began = time.monotonic()
    with Session(address, settings.execution.cpus, progress) as session:
        run = job.prepare(settings, session, progress, replace=replace)
    if not run.fresh:
        print(f"{run.uri}: finished before, nothing to do.")
    print(report_text(run.report))
    for warning in run.report["warnings"]:
        print(f"warning: {warning}")
    print(f"\ndata set  {run.uri}")
    print(f"report    {paths.join(run.uri, job.REPORT_HTML)}")
    print(f"elapsed {clock(time.monotonic() - began)}")
