"""The verbs `raymill assess` and `raymill dataset`.

`assess` takes, besides the output of `raymill prepare`, data that is written into a folder of its own:

    a split of a run, or the whole run    assessed as it is
    anything that has records             prepared as it is first: no record is changed or left out by a rule

Records are what `inputs` may have: an output of `raymill curate`, a folder of Parquet or other files, or one file.
"""

import json
import os
import re
from collections.abc import Sequence
from typing import Annotated, Any, get_args

import typer

from raymill.cluster.answer import Answer
from raymill.cluster.artifact import Artifact
from raymill.cluster.config import Override, key_of, load_recorded, load_values, text_of
from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.examples.content import Shape
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.formats import count, plural
from raymill.cluster.frame.calls import AnyConfig, Changes, ShownProgress, changes_of, config_of, plain
from raymill.cluster.frame.commands import Address, Overrides, Replace
from raymill.cluster.frame.job import REPORT_HTML, Run
from raymill.cluster.frame.run_name import run_name
from raymill.cluster.inspection import RunConfig, StorageOverrides, store_for
from raymill.cluster.output_folder import refuse_impossible_output, refuse_output_in_folder
from raymill.cluster.plugins import context_of, plugins_in
from raymill.cluster.progress_display import chosen_progress
from raymill.cluster.run import RUN_REPORT, RunFolder
from raymill.cluster.session import Session, opened
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.kernel_cache import COMPILING, kernels_are_compiled
from raymill.pipelines.prepare import job
from raymill.pipelines.prepare.assess.job import ASSESSMENT
from raymill.pipelines.prepare.assess.score import Assessment, failed
from raymill.pipelines.prepare.config import PrepareConfig, Source
from raymill.pipelines.prepare.records.clean import Clean
from raymill.pipelines.prepare.records.conversion import Records
from raymill.pipelines.prepare.records.validate import Validate
from raymill.pipelines.prepare.report.page import assessment_text
from raymill.pipelines.prepare.sources import fields_of, fields_of_settings, with_corpora
from raymill.pipelines.prepare.stages.duplicates import Duplicates
from raymill.pipelines.prepare.stages.split import Split
from raymill.pipelines.prepare.versions import calls as datasets
from raymill.pipelines.prepare.versions.export import ExportFormat

# Columns that are read as metadata under their own names, besides those that the settings name.
USUAL = ("source", "licence", "domain", "task_type", "language", "label", "category", "annotator")
# No record fails one of these.
NO_RULES = Validate(
    question_chars=None,
    answer_chars=None,
    refusals=(),
    copied_answer=False,
    answer_in_question=None,
    boilerplate=(),
    truncated_answers="keep",
)
_FIELD = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_FILES = ("assessment.json",)
_JUDGING = ("assess.", "validate.")  # settings of the assessment
# action -> (number of further arguments: least, most; how it is written)
_ACTIONS = {
    "tag": (1, 1, "tag NAME OUTPUT"),
    "log": (0, 0, "log NAME"),
    "diff": (1, 1, "diff NAME:VERSION OTHER:VERSION"),
    "card": (0, 0, "card NAME[:VERSION]"),
    "export": (1, 1, "export NAME[:VERSION] FOLDER"),
    "push": (1, 1, "push NAME[:VERSION] hf://ORG/NAME"),
}


def configs_of(
    store: Store, data: str, output: str, settings: PrepareConfig | None, overrides: Sequence[str | Override]
) -> tuple[PrepareConfig, PrepareConfig]:
    """(a config that prepares the data as they are, the config whose rules, terms, `assess` and `gates` are used).

    settings: of `--config`; None: the defaults with the overrides.

    Raises:
        UserError: the data have no records, or columns that are not recognised.
    """
    name = run_name(data, "data")
    values: dict[str, Any] = {"kind": "prepare", "name": name, "output": output, "dedup": None}
    source: dict[str, Any] = {"source": name, "path": data}
    if not any(key_of(one).startswith("inputs.") for one in overrides):
        if settings:
            of_settings = [names for setting, names in fields_of_settings(settings) if setting.startswith(_JUDGING)]
            named = {one for names in of_settings for one in names}
        else:
            named = {word for one in overrides for word in _FIELD.findall(text_of(one))}
        found = with_corpora([Source.model_validate(source)], store)
        unread = fields_of(found, store, "", Records())[0].unread
        read = [one for one in unread if one in (*USUAL, *named) and _FIELD.fullmatch(one)]
        source |= {"columns": {one: one for one in read}} | ({"id": "id"} if "id" in unread else {})
    values["inputs"] = [source]
    if settings is None:
        # The name is no file, so that no module beside the data is imported.
        wanted = load_values(values, f"raymill assess {data}", overrides)
        assert isinstance(wanted, PrepareConfig)
    else:
        of_config = settings.model_dump(
            mode="json", by_alias=True, include={"assess", "gates", "validation", "execution", "limits"}
        )
        of_config |= {"clean": {"terminology": settings.clean.terminology}, "storage": settings.storage}
        wanted = PrepareConfig.model_validate(values | of_config, context=context_of(plugins_in(settings)))
    fields = fields_of(with_corpora(wanted.inputs, store), store, output, Records())[0]
    forms: dict[str, Shape] = {"text": "text", "chosen": "preference_messages"}
    forms |= {"messages": "messages", "prompt": "pairs"}
    shape = next((shape for field, shape in forms.items() if field in fields.columns), None)
    if shape is None:
        raise ConfigError(f"{fields.main}: no content. Name the columns: -o inputs.0.columns.prompt=COLUMN.")
    if shape == "pairs" and "input" in fields.columns:
        shape = "instruction"
    as_it_is = {
        "records": wanted.records.model_copy(update={"shape": shape}),
        "clean": Clean(normalize=False),
        "validation": NO_RULES,
        "dedup": None,
        "duplicates": Duplicates(contradictory="ignore"),
        "split": Split(train=1, validation=0, test=0),
        "curriculum": None,
    }
    return wanted.model_copy(update=as_it_is), wanted


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
    found = assess_data(
        data,
        output=output,
        config=config,
        override=override,
        address=address,
        extrinsic=extrinsic,
        folds=folds,
        replace=replace,
    )
    print(found)
    print(f"\nassessment  {paths.join(found.folder, ASSESSMENT)}")
    print(f"report      {paths.join(found.folder, REPORT_HTML)}")
    return UserError.exit_code if gate and not found.passed else 0


class AssessedData(Answer):
    """The assessment of a data set. folder: where it is written. passed: there are records, and no gate fails."""

    def __init__(self, assessment: Assessment, folder: str) -> None:
        super().__init__(assessment, assessment_text(assessment))
        self.folder = folder
        self.passed = bool(assessment["records"]) and not failed(assessment)


def assess_data(
    data: str | os.PathLike[str] | Run | Artifact,
    *,
    output: str | os.PathLike[str] | None = None,
    config: AnyConfig = None,
    override: Changes = None,
    address: str | None = None,
    extrinsic: str | None = None,
    folds: str | os.PathLike[str] | Run | None = None,
    replace: bool = False,
    progress: ShownProgress = None,
) -> AssessedData:
    """Measure a data set: completeness, contradictions, wrong labels, repeats, diversity, bias; with gates.

    Writes assessment.json and the page of the report.

    Args:
        data: output of `prepare`; with `output` also one of its splits, or other records: an output of `curate`, a
            folder or file of Parquet, JSON Lines and other formats, hf://ORG/NAME.
        output: where the assessment is written; None: in the run.
        config: a config whose `assess`, `gates` and `storage` are used; None: the settings of the run.
        override: changes of single settings, as in {"gates.score": 0.8}.
        address: of a Ray cluster; None: the Ray of this process, else one on this machine.
        extrinsic: score a model that is trained to predict this metadata.
        folds: add the scores of this output of `cross_validate`.
        replace: delete results made with other settings and make them again.
        progress: as of `raymill.prepare`.

    Raises:
        UserError: the data have no records, or columns that are not recognised; or a setting is wrong.
    """
    given = changes_of(override)
    settings = None
    if config is not None:
        settings, given = config_of(config, None, given, "prepare"), []
    elif isinstance(data, Run) and data.config is not None:  # this process made the run of it
        settings, given = config_of(data.config, None, given, "prepare"), []
    of_storage = [one for one in given if key_of(one).startswith("storage.")]
    folds = None if folds is None else plain(folds)
    with store_for(data, settings, of_storage) as (store, root):
        where = root if output is None else paths.absolute(os.fspath(output))
        run = _finished_run(store, root, alone=output is None)
        if run is None:
            of_data, settings = configs_of(store, root, where, settings, given)
            with opened(address, settings.execution.cpus) as session:
                session.progress = shown = chosen_progress(progress, _at_first(session))
                made = job.prepare(of_data, session, shown, replace=replace, judge=settings)
                assessment = made.assessment
                if assessment is None or not made.fresh or extrinsic or folds:
                    assessment = job.assess_again(store, where, session, shown, settings, extrinsic, folds)
        else:
            of_run, splits = run
            if output is not None:
                refuse_impossible_output(where)
                refuse_output_in_folder("--output", where, "the data set", of_run, _FILES, "assessment")
                if RunFolder(store, where).manifest_file.read() is not None:
                    raise DataError(
                        f"--output: {where} holds a finished run, whose report this would replace. Choose another "
                        "folder."
                    )
            if changes := [one for one in given if one not in of_storage]:
                settings = _changed_settings(store, of_run, changes)
            with opened(address, settings.execution.cpus if settings else None) as session:
                session.progress = shown = chosen_progress(progress, _at_first(session))
                assessment = job.assess_again(
                    *(store, of_run, session, shown, settings, extrinsic, folds),
                    splits=splits,
                    output=None if output is None else where,
                )
    return AssessedData(assessment, where)


def _changed_settings(store: Store, run: str, changes: Sequence[str | Override]) -> PrepareConfig:
    """The settings of a finished run by its record, with changes of the user.

    Raises:
        ConfigError: a change is wrong, or the record names a file or model that would be read.
    """
    record, at = job.read_report(store, run)["config"], paths.join(run, RUN_REPORT)
    before = load_recorded(PrepareConfig, record, at, store)
    found = load_recorded(PrepareConfig, record, at, store, changes)
    changed = [key_of(one) for one in changes]
    job.refuse_recorded_files(run, found.assess.files, changed)
    named = set(before.validation.files) & set(found.validation.files)
    if named and found.validation != before.validation:  # else no record is checked
        job.refuse_recorded_files(run, {"validate": min(named)}, changed)
    return found


def _at_first(session: Session) -> str:
    return COMPILING if session.embedded and not kernels_are_compiled() else ""


def _finished_run(store: Store, data: str, *, alone: bool) -> tuple[str, tuple[str, ...]] | None:
    """(the output of a finished `raymill prepare`, the splits that are meant); None if `data` is not of one.

    alone: refuse anything but the output.

    Raises:
        DataError: it is refused. The message names `--output` where other data may be meant.
    """
    if alone:
        try:
            RunFolder(store, data).require("prepare")
        except DataError as error:
            if not (data.startswith("hf://") or store.exists(data) or store.holds_files(data)):
                raise
            raise DataError(
                f"{error} To assess other data, or one split, add `--output FOLDER`, where the assessment is written."
            ) from error
        return data, SPLITS
    above, _, name = data.rpartition("/")
    for root, splits in ((data, SPLITS), *([(above, (name,))] if name in SPLITS else [])):
        if not data.startswith("hf://") and RunFolder(store, root).finished("prepare") is not None:
            return root, splits
    return None


def dataset(
    action: Annotated[str, typer.Argument(help=", ".join(_ACTIONS))],
    name: Annotated[str, typer.Argument(help="name of the data set; NAME:VERSION for a version that is not the last")],
    more: Annotated[
        list[str] | None, typer.Argument(help="tag: OUTPUT; diff: OTHER; export: FOLDER; push: PLACE")
    ] = None,
    version: Annotated[str | None, typer.Option("--as", help="tag: the version's name; default: v1, v2, ..")] = None,
    note: Annotated[str, typer.Option(help="tag: a sentence about the version")] = "",
    format: Annotated[ExportFormat, typer.Option(help=f"export: {', '.join(get_args(ExportFormat))}")] = "hf",
    public: Annotated[bool, typer.Option("--public", help="push: a data set that is created is public")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="diff: print JSON")] = False,
    registry: Annotated[
        str | None, typer.Option(help="folder or URI of the versions; default: $RAYMILL_DATASETS, else ./datasets")
    ] = None,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """Named versions of data sets: `tag NAME OUTPUT`, `log NAME`, `diff A B`, `card NAME`, `export NAME FOLDER`,
    `push NAME hf://ORG/NAME` with the token HF_TOKEN.

    A version points at an output of `raymill prepare` and never changes.
    """
    given = more or []
    if action not in _ACTIONS:
        raise typer.BadParameter(f"{action}: no such action; there are {', '.join(_ACTIONS)}")
    least, most, written = _ACTIONS[action]
    if not least <= len(given) <= most:
        raise typer.BadParameter(f"write `raymill dataset {written}`")
    if action != "tag" and (version or note):
        raise ConfigError("--as and --note go with `tag`. Leave them out.")
    if action != "push" and public:
        raise ConfigError("--public goes with `push`. Leave it out.")
    if action != "diff" and as_json:
        raise ConfigError("--json goes with `diff`. Leave it out.")
    options: dict[str, Any] = {"registry": registry, "config": config, "override": override}
    match action:
        case "tag":
            made, was_there = datasets.tag_or_find(name, given[0], version, note, **options)
            since = f" since {made.tagged[:16]}; nothing was changed" if was_there else ""
            records = plural(sum(made.records.values()), "record")
            print(f"{made.name}:{made.version} is {made.output}, {records}{since}")
        case "log":
            for one in datasets.log(name, **options):
                numbers = " + ".join(count(number) for number in one.records.values())
                line = f"{one.version:<8}{one.tagged[:16]}  {numbers:<24}{one.digest[:12]}  {one.output}"
                print(" ".join(f"{line}  {one.note}".splitlines()).rstrip())
                for source, number in sorted(one.corrections.items()):
                    by = " ".join(source.split()) or "a patch without a source"
                    print(f"{'':<8}{plural(number, 'record')} corrected by {by}")
        case "diff":
            difference = datasets.diff(name, given[0], **options)
            print(json.dumps(difference, indent=1, ensure_ascii=False) if as_json else difference)
        case "card":
            print(datasets.card(name, **options), end="")
        case "push":
            print(datasets.push(name, given[0], public=public, **options))
        case _:
            files = datasets.export(name, given[0], format, **options)
            print(f"{plural(len(files), 'file')} written to {paths.absolute(given[0])}")
