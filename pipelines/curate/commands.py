"""The verbs `raymill curate`, `what-if`, `explain` and `sample`."""

import json
import math
import textwrap
import time
from typing import Annotated, Any

import typer
import yaml

from cluster import logs
from cluster.config import load
from cluster.errors import ConfigError
from cluster.inspection import RunConfig, StorageOverrides, reaching
from cluster.output_folder import check_output
from cluster.page.formats import plural
from cluster.progress import Lines, clock
from cluster.session import Session
from cluster.store import paths
from pipelines.curate import job
from pipelines.curate.config import CurateConfig
from pipelines.curate.explain import explain as explain_document
from pipelines.curate.output_folder import refuse_files_inside, refuse_output_among_inputs
from pipelines.curate.report.schema import Report
from pipelines.curate.report.terminal import funnel_text
from pipelines.curate.run_reader import RunReader
from pipelines.curate.sample import sample_rows
from pipelines.curate.what_if import compare, table_text
from pipelines.kernel_cache import kernels_are_compiled
from pipelines.readers.find import skipped_text
from pipelines.readers.first_look import first_look
from pipelines.readers.freeze import freeze

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="settings, YAML or JSON")]
Overrides = Annotated[list[str] | None, typer.Option("-o", help="change one setting: key.sub=value; may be repeated")]


def curate(
    config: ConfigFile,
    override: Overrides = None,
    address: Annotated[str | None, typer.Option(help="a Ray cluster; default: an embedded one on this machine")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print what would be done (--verbose: and all settings), then stop")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="make anew what other settings left at the output")
    ] = False,
) -> None:
    """Raw text to a training corpus: measure every document, decide, mark duplicates, select once.

    A second run continues where the first stopped; a finished run is left alone. Reports: OUTPUT/report.html
    """
    settings = load_curate(config, override)
    if dry_run:
        _print_plan(settings)
        return
    compiled = kernels_are_compiled() or address not in (None, "local")
    progress = Lines(at_first="" if compiled else "compiling kernels (first run on this machine, up to a minute)")
    began = time.monotonic()
    with Session(address, settings.execution.cpus, progress) as session:
        run = job.curate(settings, session, progress, replace=replace)
    print_outcome(run.report, run.uri, run.fresh)
    print(f"elapsed {clock(time.monotonic() - began)}")


def load_curate(config: str, override: list[str] | None) -> CurateConfig:
    """The config in a file, with overrides applied.

    Raises:
        ConfigError: it is wrong, or of another kind.
    """
    settings = load(config, override or [])
    if not isinstance(settings, CurateConfig):
        kind = settings.kind  # type: ignore[attr-defined]
        raise ConfigError(f"{config}, kind: {kind} given; wanted curate. Give another config, or run `raymill {kind}`.")
    return settings


def print_outcome(report: Report, uri: str, fresh: bool) -> None:
    """Print the funnel, the warnings, and where corpus and report are. fresh: whether this call finished the run."""
    if not fresh:
        print(f"{uri}: finished before, nothing to do.")
    print(funnel_text(report))
    for warning in report["warnings"]:
        print(f"warning: {warning}")
    print(f"\ncorpus  {paths.join(uri, 'corpus')}")
    print(f"report  {paths.join(uri, 'report.html')}")


def _print_plan(settings: CurateConfig) -> None:
    """Print what a run would read and make. Checks everything that a run checks before it starts Ray."""
    root, store = paths.absolute(settings.output), settings.store
    refuse_output_among_inputs(store, settings.inputs, root)
    inputs = freeze(store, settings.inputs, settings.execution.unit_mib << 20)
    refuse_files_inside(root, inputs)
    job.check_files(settings.filters, store)
    finished, damage = job.find_finished(settings, inputs, root, replace=False)
    if not finished:
        check_output(store, root)
    files, size = plural(len(inputs.files), "file"), sum(unit.bytes for unit in inputs.units)
    print(f"inputs   {files}, {plural(len(inputs.units), 'unit')}, about {size / 1e6:,.1f} MB of text")
    print(f"rules    {', '.join(rule.name for rule in settings.active_rules()) or 'none'}")
    if settings.dedup:
        bands, rows = settings.dedup.banding
        caught = ", ".join(f"{s}: {settings.dedup.caught(s):.0%}" for s in (0.6, 0.7, 0.8, 0.9))
        print(f"dedup    {bands} bands of {rows} rows; pairs compared, by similarity: {caught}")
    else:
        print("dedup    none")
    print(f"output   {root}: {_state(finished is not None, damage)}")
    for source, skipped in inputs.skipped.items():
        if skipped:
            print(f"skipped  {source}: {skipped_text(skipped)}")
    look, allowed = first_look(inputs, settings.limits), settings.execution.max_bad_documents
    for note in [*inputs.notes, *look.notes]:
        print(f"note     {note}")
    if look.unreadable > allowed * look.rows:
        share = look.unreadable / look.rows
        print(
            f"note     {share:.1%} of the rows seen cannot be read, and the run allows {allowed:.1%}: if the others "
            "are like them, it stops after measuring. Mend them, or allow more with "
            f"-o execution.max_bad_documents={math.ceil(100 * share) / 100}."
        )
    everything = settings.model_dump(mode="json")
    if logs.is_verbose():
        print("\nEvery setting:\n" + _yaml(everything))
    else:
        print("\nSettings that differ from the defaults (--verbose shows all):\n" + _yaml(changed_settings(settings)))


def _state(finished: bool, damage: str) -> str:
    if damage:
        return f"{damage}; what is damaged is to be made again"
    return "finished, nothing to do" if finished else "to be made"


def changed_settings(settings: CurateConfig) -> dict[str, Any]:
    """The shortest config with these settings: those that differ from the defaults, and those without a default."""
    required = {"kind": settings.kind, "name": settings.name, "output": settings.output}
    inputs: list[dict[str, Any]] = [
        {"source": entry.source, "path": entry.path} | ({} if entry.storage is None else {"storage": {}})
        for entry in settings.inputs
    ]
    plain = [{name: value for name, value in entry.items() if name != "source"} for entry in inputs]
    defaults = CurateConfig.model_validate(required | {"inputs": plain})
    found = _changed(settings.model_dump(mode="json"), defaults.model_dump(mode="json"))
    if "inputs" in found:
        found["inputs"] = [given | changed for given, changed in zip(inputs, found["inputs"], strict=True)]
    if isinstance(rules := found.get("rules"), dict):  # packs that are not in `packs` are null by default
        found["rules"] = {name: value for name, value in rules.items() if value is not None}
    return {"kind": settings.kind, "name": settings.name, "inputs": inputs, "output": settings.output} | found


def _changed(now: Any, default: Any) -> Any:
    """The part of a setting that differs from its default."""
    if isinstance(now, dict) and isinstance(default, dict):
        return {name: _changed(value, default.get(name)) for name, value in now.items() if value != default.get(name)}
    if isinstance(now, list) and isinstance(default, list) and len(now) == len(default):
        return [_changed(one, other) for one, other in zip(now, default, strict=True)]
    return now


def _yaml(values: dict[str, Any]) -> str:
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return textwrap.indent(text.rstrip(), "  ")


def what_if(
    config: ConfigFile,
    override: Overrides = None,
    json_: Annotated[bool, typer.Option("--json", help="print numbers for a program")] = False,
) -> None:
    """Decide a measured run again with other settings: what each rule would gain or lose. Writes nothing."""
    # Overrides of the run's location hold for both sides.
    location = [one for one in override or [] if one.partition("=")[0].split(".")[0] in ("output", "storage")]
    before = load_curate(config, location)
    after = load_curate(config, override)
    comparison = compare(before, after)
    print(json.dumps(comparison, indent=1) if json_ else table_text(comparison))


def explain(
    run: Annotated[str, typer.Argument(help="folder or URI of a run")],
    id: Annotated[str, typer.Argument(help="the document's id")],
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """One document: the rule that removed it or a word diff to what it duplicates, then its measurements."""
    settings = None if config is None else load_curate(config, override)
    with reaching(run, config, override) as (store, uri):
        print(explain_document(RunReader(store, uri, settings.inputs if settings else ()), id))


def sample(
    artifact: Annotated[str, typer.Argument(help="folder or URI of an artifact, or of a run (its ledger)")],
    rows: Annotated[int, typer.Option("-n", min=1, help="how many")] = 5,
    where: Annotated[list[str] | None, typer.Option(help="column=value; may be repeated")] = None,
    seed: Annotated[int, typer.Option(help="another seed, another sample")] = 1,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """A random sample of an artifact's rows, as JSON lines; of a run, of its ledger of removals."""
    with reaching(artifact, config, override) as (store, uri):
        for row in sample_rows(store, uri, rows, where or [], seed):
            print(json.dumps(row, ensure_ascii=False, default=str))
