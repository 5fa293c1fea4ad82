"""The verb `raymill assess`."""

from typing import Annotated

import typer

from cluster.config import load_values
from cluster.errors import DataError, UserError
from cluster.examples.splits import SPLITS
from cluster.frame.commands import Address, Overrides, Replace, load_of_kind
from cluster.frame.job import REPORT_HTML
from cluster.inspection import store_for
from cluster.progress import ProgressLines
from cluster.run import RUN_REPORT, RunFolder
from cluster.session import Session
from cluster.store import paths
from cluster.store.store import Store
from pipelines.kernel_cache import COMPILING, kernels_are_compiled
from pipelines.prepare import job
from pipelines.prepare.assess.data import configs_of, of_prepared_run, refuse_output
from pipelines.prepare.assess.job import ASSESSMENT
from pipelines.prepare.assess.score import failed
from pipelines.prepare.assess.section import assessment_text


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
    settings = None if config is None else load_of_kind("prepare", config, given)
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
                report = paths.join(of_run, RUN_REPORT)
                settings = load_values(job.read_report(store, of_run)["config"], report, changes)
            with Session(address, settings.execution.cpus if settings else None, progress) as session:
                assessment = job.assess_again(
                    *(store, of_run, session, progress, settings, extrinsic, folds),
                    splits=splits,
                    output=None if output is None else where,
                )
    print(assessment_text(assessment))
    print(f"\nassessment  {paths.join(where, ASSESSMENT)}")
    print(f"report      {paths.join(where, REPORT_HTML)}")
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


def _progress(address: str | None) -> ProgressLines:
    compiled = kernels_are_compiled() or address not in (None, "local")
    return ProgressLines(at_first="" if compiled else COMPILING)
