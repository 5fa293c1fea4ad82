"""The verbs `raymill assess` and `raymill dataset`.

`assess` takes, besides the output of `raymill prepare`, data that is written into a folder of its own:

    a split of a run, or the whole run    assessed as it is
    anything that has records             prepared as it is first: no record is changed or left out by a rule

Records are what `inputs` may have: an output of `raymill curate`, a folder of Parquet or other files, or one file.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, get_args

import typer

from raymill.cluster.config import load_values
from raymill.cluster.dataset_versions import registry_folder
from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.examples.content import Shape
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.formats import count, plural
from raymill.cluster.frame.commands import Address, Overrides, Replace, load_of_kind
from raymill.cluster.frame.job import REPORT_HTML
from raymill.cluster.inspection import RunConfig, StorageOverrides, store_for
from raymill.cluster.output_folder import refuse_impossible_output, refuse_output_in_folder
from raymill.cluster.progress import ProgressLines
from raymill.cluster.run import RUN_REPORT, RunFolder
from raymill.cluster.secret_values import secret_in
from raymill.cluster.session import Session
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.kernel_cache import COMPILING, kernels_are_compiled
from raymill.pipelines.prepare import job
from raymill.pipelines.prepare.assess.job import ASSESSMENT, read_assessment
from raymill.pipelines.prepare.assess.score import failed
from raymill.pipelines.prepare.config import PrepareConfig, Source
from raymill.pipelines.prepare.records.clean import Clean
from raymill.pipelines.prepare.records.validate import Validate
from raymill.pipelines.prepare.report.page import assessment_text
from raymill.pipelines.prepare.sources import fields_of, fields_of_settings, with_corpora
from raymill.pipelines.prepare.stages.duplicates import Duplicates
from raymill.pipelines.prepare.stages.split import Split
from raymill.pipelines.prepare.versions.diff import compare_versions, diff_json, diff_text, metric_values, metrics_text
from raymill.pipelines.prepare.versions.export import ExportFormat, card, export, push
from raymill.pipelines.prepare.versions.registry import Registry

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
    store: Store, data: str, output: str, settings: PrepareConfig | None, overrides: Sequence[str]
) -> tuple[PrepareConfig, PrepareConfig]:
    """(a config that prepares the data as they are, the config whose rules, terms, `assess` and `gates` are used).

    settings: of `--config`; None: the defaults with the overrides.

    Raises:
        UserError: the data have no records, or columns that are not recognised.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", data.rstrip("/").rpartition("/")[2]).strip("-._")[:100] or "data"
    plain: dict[str, Any] = {"kind": "prepare", "name": name, "output": output, "dedup": None}
    source: dict[str, Any] = {"source": name, "path": data}
    if not any(one.startswith("inputs.") for one in overrides):
        if settings:
            of_settings = [names for setting, names in fields_of_settings(settings) if setting.startswith(_JUDGING)]
            named = {one for names in of_settings for one in names}
        else:
            named = {word for one in overrides for word in _FIELD.findall(one)}
        found = with_corpora([Source.model_validate(source)], store)
        unread = fields_of(found, store, "")[0].unread
        read = [one for one in unread if one in (*USUAL, *named) and _FIELD.fullmatch(one)]
        source |= {"columns": {one: one for one in read}} | ({"id": "id"} if "id" in unread else {})
    plain["inputs"] = [source]
    if settings is None:
        wanted = load_values(plain, data, overrides)
        assert isinstance(wanted, PrepareConfig)
    else:
        of_config = settings.model_dump(
            mode="json", by_alias=True, include={"assess", "gates", "validation", "execution", "limits"}
        )
        of_config |= {"clean": {"terminology": settings.clean.terminology}, "storage": settings.storage}
        wanted = PrepareConfig.model_validate(plain | of_config)
    fields = fields_of(with_corpora(wanted.inputs, store), store, output)[0]
    forms: dict[str, Shape] = {"text": "text", "chosen": "preference", "messages": "messages", "prompt": "pairs"}
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
    given = override or []
    of_storage = [one for one in given if one.startswith("storage.")] if config is None else given
    settings = None if config is None else load_of_kind("prepare", config, given)
    compiled = kernels_are_compiled() or address not in (None, "local")
    progress = ProgressLines(at_first="" if compiled else COMPILING)
    with store_for(data, config, of_storage) as (store, root):
        where = root if output is None else paths.absolute(output)
        run = _finished_run(store, root, alone=output is None)
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
                refuse_impossible_output(where)
                refuse_output_in_folder("--output", where, "the data set", of_run, _FILES, "assessment")
                if RunFolder(store, where).manifest_file.read() is not None:
                    raise DataError(
                        f"--output: {where} holds a finished run, whose report this would replace. Choose another "
                        "folder."
                    )
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
    if what := secret_in(note):
        raise ConfigError(f"--note: holds a secret ({what}), and cards are published. Take it out.")
    if action != "push" and public:
        raise ConfigError("--public goes with `push`. Leave it out.")
    if action != "diff" and as_json:
        raise ConfigError("--json goes with `diff`. Leave it out.")
    with store_for(registry or registry_folder(), config, override) as (store, uri):
        versions = Registry(store, uri, any_output=bool(config or override))
        match action:
            case "tag":
                known = [one.version for one in versions.known(name)]
                made = versions.tag(name, paths.absolute(given[0]), version, note)
                since = f" since {made.tagged[:16]}; nothing was changed" if made.version in known else ""
                records = plural(sum(made.records.values()), "record")
                print(f"{made.name}:{made.version} is {made.output}, {records}{since}")
            case "log":
                for one in versions.versions(name):
                    numbers = " + ".join(count(number) for number in one.records.values())
                    found = f"{one.version:<8}{one.tagged[:16]}  {numbers:<24}{one.digest[:12]}  {one.output}"
                    print(f"{found}  {one.note}".rstrip())
            case "diff":
                one, other = versions.readable(name), versions.readable(given[0])
                difference = compare_versions(one.splits(store), other.splits(store))
                before, after = (f"{found.name}:{found.version}" for found in (one, other))
                old, new = (read_assessment(store, found.output) for found in (one, other))
                if as_json:
                    print(diff_json(before, after, difference, metric_values(old, new)))
                else:
                    print(diff_text(before, after, difference))
                    print(metrics_text(before, after, old, new))
            case "card":
                print(card(store, versions.readable(name)), end="")
            case "push":
                pushed = push(store, versions.readable(name), given[0], public=public)
                print(f"hf://{pushed.place} holds {plural(pushed.files, 'file')}, {pushed.bytes / 1e6:,.1f} MB")
                print(f"commit  {pushed.commit}")
            case _:
                files = export(store, versions.readable(name), paths.absolute(given[0]), format)
                print(f"{plural(len(files), 'file')} written to {paths.absolute(given[0])}")
