"""The verbs `raymill prepare` and `raymill assess`."""

import time
from typing import Annotated

import typer
from pydantic import BaseModel

from cluster.config import load, load_values
from cluster.errors import ConfigError, DataError, UserError
from cluster.examples.splits import SPLITS
from cluster.inspection import store_for
from cluster.progress import ProgressLines, clock
from cluster.run import RunFolder
from cluster.session import Session
from cluster.store import paths
from cluster.store.store import Store
from pipelines.curate.commands import Address, ConfigFile, Overrides, Replace
from pipelines.kernel_cache import COMPILING, USED, kernels_are_compiled, mark_cache
from pipelines.prepare import job
from pipelines.prepare.assess.data import configs_of, of_prepared_run, refuse_output
from pipelines.prepare.assess.job import ASSESSMENT
from pipelines.prepare.assess.score import failed
from pipelines.prepare.assess.section import assessment_text
from pipelines.prepare.config import PrepareConfig
from pipelines.prepare.dry_run import print_dry_run
from pipelines.prepare.report.page import report_text


def prepare(
    config: ConfigFile,
    override: Overrides = None,
    address: Address = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print what would be done, and what becomes of a sample, then stop")
    ] = False,
    replace: Replace = False,
) -> int:
    """Records of many sources to a data set for fine-tuning: clean, validate, find duplicates, split.

    A second run continues where the first stopped; a finished run is left alone. Exits with 2 if no record is left.
    Report: OUTPUT/report.html
    """
    settings = _load(config, override)
    if dry_run:
        print_dry_run(settings)
        return 0
    progress, began = _progress(address), time.monotonic()
    with Session(address, settings.execution.cpus, progress) as session:
        run = job.prepare(settings, session, progress, replace=replace)
    if run.fresh and address in (None, "local"):
        mark_cache(USED)
    if not run.fresh:
        print(f"{run.uri}: finished before, nothing to do.")
    print(report_text(run.report))
    for warning in run.report["warnings"]:
        print(f"warning: {warning}")
    if run.assessment is not None:
        print(f"\n{assessment_text(run.assessment)}")
    print(f"\ndata set  {run.uri}")
    print(f"report    {paths.join(run.uri, job.REPORT_HTML)}")
    print(f"elapsed {clock(time.monotonic() - began)}")
    return 0 if run.report["totals"]["written"] else UserError.exit_code


def assess(
    data: Annotated[
        str,
        typer.Argument(
            help="output of `raymill prepare`; with --output also one of its splits, or other records: an output of "
            "`raymill curate`, a folder or file of Parquet, JSON Lines and other formats, hf://ORG/NAME"
        ),
    ],
    output: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="where the assessment is written; default: in the output")
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="CONFIG", help="a config whose `assess`, `gates` and `storage` are used")
    ] = None,
    override: Overrides = None,
    address: Address = None,
    gate: Annotated[bool, typer.Option("--gate", help="exit with 2 if a gate fails")] = False,
    extrinsic: Annotated[
        str | None, typer.Option(metavar="FIELD", help="score a model that is trained to predict this metadata")
    ] = None,
    folds: Annotated[
        str | None, typer.Option(metavar="RUN", help="add the scores of this output of `raymill cross-validate`")
    ] = None,
    replace: Replace = False,
) -> int:
    """Measure a data set: completeness, contradictions, wrong labels, repeats, diversity, bias; with gates.

    Writes assessment.json and the page of the report. Without --config, with the settings of the run, which -o changes.
    Records that `raymill prepare` did not write are first brought into its form at --output, unchanged.
    """
    given = override or []
    of_storage = [one for one in given if one.startswith("storage.")] if config is None else given
    settings = None if config is None else _load(config, given)
    progress = _progress(address)
    with store_for(data, config, of_storage) as (store, root):
        where = root if output is None else paths.absolute(output)
        run = (_prepared(store, root), SPLITS) if output is None else of_prepared_run(store, root)
        if run is None:
            of_data, settings = configs_of(store, root, where, settings, [one for one in given if config is None])
            with Session(address, settings.execution.cpus, progress) as session:
                made = job.prepare(of_data, session, progress, replace=replace, judge=settings)
                assessment = made.assessment
                if assessment is None or not made.fresh or extrinsic or folds:
                    assessment = job.assess_again(store, where, session, progress, settings, extrinsic, folds)
        else:
            of_run, splits = run
            if output is not None:
                refuse_output(store, where, of_run)
            if config is None and (changes := [one for one in given if one not in of_storage]):
                report = paths.join(of_run, job.REPORT_JSON)
                settings = _prepare_config(
                    load_values(job.read_report(store, of_run)["config"], report, changes), report
                )
            with Session(address, settings.execution.cpus if settings else None, progress) as session:
                assessment = job.assess_again(
                    *(store, of_run, session, progress, settings, extrinsic, folds),
                    splits=splits,
                    output=None if output is None else where,
                )
    print(assessment_text(assessment))
    print(f"\nassessment  {paths.join(where, ASSESSMENT)}")
    print(f"report      {paths.join(where, job.REPORT_HTML)}")
    return UserError.exit_code if gate and (failed(assessment) or not assessment["records"]) else 0


def _prepared(store: Store, output: str) -> str:
    """The output of a finished `raymill prepare`.

    Raises:
        DataError: there is none. The message names `--output` where other data may be meant.
    """
    try:
        RunFolder(store, output).require("prepare")
    except DataError as error:
        if not (output.startswith("hf://") or store.exists(output) or store.holds_files(output)):
            raise
        raise DataError(
            f"{error} To assess other data, or one split, add `--output FOLDER`, where the assessment is written."
        ) from error
    return output


def _load(config: str, override: list[str] | None) -> PrepareConfig:
    return _prepare_config(load(config, override or []), config)


def _prepare_config(settings: BaseModel, config: str) -> PrepareConfig:
    if not isinstance(settings, PrepareConfig):
        kind = settings.kind  # type: ignore[attr-defined]
        raise ConfigError(
            f"{config}, kind: {kind} given; wanted prepare. Give another config, or run `raymill {kind}`."
        )
    return settings


def _progress(address: str | None) -> ProgressLines:
    compiled = kernels_are_compiled() or address not in (None, "local")
    return ProgressLines(at_first="" if compiled else COMPILING)
