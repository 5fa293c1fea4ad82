"""The verbs `raymill curate`, `what-if`, `explain` and `sample`."""

import json
import time
from typing import Annotated

import typer

from cluster.config import load
from cluster.errors import ConfigError
from cluster.inspection import RunConfig, StorageOverrides, store_for
from cluster.progress import ProgressLines, clock
from cluster.session import Session
from cluster.store import paths
from pipelines.curate import job
from pipelines.curate.config import CurateConfig
from pipelines.curate.dry_run import print_plan
from pipelines.curate.questions.explain import explain as explain_document
from pipelines.curate.questions.run_reader import RunReader
from pipelines.curate.questions.sample import sample_rows
from pipelines.curate.questions.what_if import compare_decisions, table_text
from pipelines.curate.report.funnel import funnel_text
from pipelines.curate.report.schema import CurateReport
from pipelines.kernel_cache import COMPILING, USED, kernels_are_compiled, mark_cache

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="settings, YAML or JSON")]
Overrides = Annotated[list[str] | None, typer.Option("-o", help="change one setting: key.sub=value; may be repeated")]
Replace = Annotated[bool, typer.Option("--replace", help="delete results made with other settings and make them again")]
Address = Annotated[str | None, typer.Option(help="a Ray cluster; default: an embedded one on this machine")]


def curate(
    config: ConfigFile,
    override: Overrides = None,
    address: Address = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print what would be done (--verbose: and all settings), then stop")
    ] = False,
    replace: Replace = False,
) -> None:
    """Raw text to a training corpus: measure every document, apply the rules, find duplicates, write the corpus.

    A second run continues where the first stopped; a finished run is not done again. Reports: OUTPUT/report.html
    """
    settings = load_curate(config, override)
    if dry_run:
        print_plan(settings)
        return
    compiled = kernels_are_compiled() or address not in (None, "local")
    progress = ProgressLines(at_first="" if compiled else COMPILING)
    began = time.monotonic()
    with Session(address, settings.execution.cpus, progress) as session:
        run = job.curate(settings, session, progress, replace=replace)
    if run.fresh and address in (None, "local"):
        mark_cache(USED)
    print_outcome(run.report, run.uri, run.fresh)
    print(f"elapsed {clock(time.monotonic() - began)}")


def load_curate(config: str, override: list[str] | None) -> CurateConfig:
    """The config in a file, with overrides applied.

    Raises:
        ConfigError: the config is not valid, or of another kind.
    """
    settings = load(config, override or [])
    if not isinstance(settings, CurateConfig):
        kind = settings.kind  # type: ignore[attr-defined]
        raise ConfigError(f"{config}, kind: {kind} given; wanted curate. Give another config, or run `raymill {kind}`.")
    return settings


def print_outcome(report: CurateReport, uri: str, fresh: bool) -> None:
    """Print the funnel, the warnings, and the URIs of corpus and report. fresh: whether this call finished the run."""
    if not fresh:
        print(f"{uri}: finished before, nothing to do.")
    print(funnel_text(report))
    for warning in report["warnings"]:
        print(f"warning: {warning}")
    print(f"\ncorpus  {paths.join(uri, 'corpus')}")
    print(f"report  {paths.join(uri, 'report.html')}")


def what_if(
    config: ConfigFile,
    override: Overrides = None,
    address: Address = None,
    sample: Annotated[int | None, typer.Option(min=1, help="number of documents to decide on; default: all")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print the comparison as JSON")] = False,
) -> None:
    """Compare a run with other settings: the number of documents that each rule would remove. Writes nothing.

    More than a million documents are decided on Ray; other settings of `dedup` start Ray on this machine.
    """
    # `output` and `storage` overrides also apply to the run being compared.
    location = [one for one in override or [] if one.partition("=")[0].split(".")[0] in ("output", "storage")]
    before = load_curate(config, location)
    after = load_curate(config, override)
    with Session(address, after.execution.cpus, ProgressLines()) as session:
        comparison = compare_decisions(before, after, session, sample)
    print(json.dumps(comparison, indent=1) if json_ else table_text(comparison))


def explain(
    run: Annotated[str, typer.Argument(help="folder or URI of a run")],
    id: Annotated[str, typer.Argument(help="the document's id")],
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """One document: the rule that removed it, or a word diff with the document it duplicates; then its measurements."""
    settings = None if config is None else load_curate(config, override)
    with store_for(run, config, override) as (store, uri):
        print(explain_document(RunReader(store, uri, settings.inputs if settings else ()), id))


def sample(
    artifact: Annotated[str, typer.Argument(help="folder or URI of an artifact, or of a run (its ledger)")],
    rows: Annotated[int, typer.Option("-n", min=1, help="how many")] = 5,
    where: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN=VALUE (or <, <=, >, >=, !=), COLUMN in VALUE,VALUE; may be repeated"),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="show the texts of a ledger, read again from the inputs")
    ] = False,
    seed: Annotated[int, typer.Option(help="random seed")] = 1,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """A random sample of an artifact's rows, as JSON lines; of a run, of its ledger."""
    with store_for(artifact, config, override) as (store, uri):
        inputs = load_curate(config, override).inputs if config and text else ()
        for row in sample_rows(store, uri, rows, where or [], seed, inputs if text else None):
            print(json.dumps(row, ensure_ascii=False, default=str))
