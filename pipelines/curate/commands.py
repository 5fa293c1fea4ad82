"""The verbs of this trade: `raymill curate | what-if | explain | sample`."""

import json
import textwrap
import time
from typing import Annotated, Any

import typer
import yaml

from cluster import logs
from cluster.config import load
from cluster.errors import ConfigError
from cluster.inspection import RunConfig, StorageOverrides, reaching
from cluster.page.formats import plural
from cluster.store import paths
from pipelines.curate.config import CurateConfig
from pipelines.curate.report.schema import Report
from pipelines.kernel_cache import kernels_are_compiled

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
    from cluster.progress import Lines, clock
    from cluster.session import Session
    from pipelines.curate.job import curate as run_curate

    settings = load_curate(config, override)
    if dry_run:
        _plan(settings)
        return
    compiled = kernels_are_compiled() or address not in (None, "local")
    progress = Lines(at_first="" if compiled else "compiling kernels (first run on this machine, up to a minute)")
    began = time.monotonic()
    with Session(address, settings.execution.cpus, progress) as session:
        run = run_curate(settings, session, progress, replace=replace)
    print_outcome(run.report, run.uri, run.fresh)
    print(f"elapsed {clock(time.monotonic() - began)}")


def load_curate(config: str, override: list[str] | None) -> CurateConfig:
    settings = load(config, override or [])
    if not isinstance(settings, CurateConfig):
        raise ConfigError(f"{config}, kind: {settings.kind} given; this verb wants kind: curate.")  # type: ignore[attr-defined]
    return settings


def print_outcome(report: Report, uri: str, fresh: bool) -> None:
    from pipelines.curate.report.text import funnel_text

    if not fresh:
        print(f"{uri}: finished before, nothing to do.")
    print(funnel_text(report))
    for warning in report["warnings"]:
        print(f"warning: {warning}")
    print(f"\ncorpus  {paths.join(uri, 'corpus')}")
    print(f"report  {paths.join(uri, 'report.html')}")


def _plan(settings: CurateConfig) -> None:
    """What a run would read and do, without doing it."""
    from cluster.output_folder import check_output
    from pipelines.curate.job import check_files, finished
    from pipelines.curate.output_folder import refuse_files_inside, refuse_output_among_inputs
    from pipelines.readers import freeze
    from pipelines.readers.find import skipped_text
    from pipelines.readers.first_look import first_look

    root = paths.absolute(settings.output)
    refuse_output_among_inputs(settings, root, ".")
    inputs = freeze(settings.store, settings.inputs, ".", settings.execution.unit_mib << 20)
    refuse_files_inside(root, inputs)
    check_files(settings)
    done, damage = finished(settings, inputs, root, replace=False)
    if not done:
        check_output(settings.store, root)
    files, size = plural(len(inputs.files), "file"), sum(unit.bytes for unit in inputs.units)
    print(f"inputs   {files}, {plural(len(inputs.units), 'unit')}, about {size / 1e6:,.1f} MB of text")
    print(f"rules    {', '.join(rule.name for rule in settings.active_rules()) or 'none'}")
    if settings.dedup:
        bands, rows = settings.dedup.banding
        caught = ", ".join(f"{s}: {settings.dedup.caught(s):.0%}" for s in (0.6, 0.7, 0.8, 0.9))
        print(f"dedup    {bands} bands of {rows} rows; pairs compared, by similarity: {caught}")
    else:
        print("dedup    none")
    print(f"output   {root}: {_state(done is not None, damage)}")
    for source, skipped in inputs.skipped.items():
        if skipped:
            print(f"skipped  {source}: {skipped_text(skipped)}")
    for note in [*inputs.notes, *first_look(inputs, settings.limits)]:
        print(f"note     {note}")
    everything = settings.model_dump(mode="json")
    if logs.is_verbose():
        print("\nEvery setting:\n" + _yaml(everything))
    else:
        print("\nSettings that differ from the defaults (--verbose shows all):\n" + _yaml(changed_settings(settings)))


def _state(done: bool, damage: str) -> str:
    if damage:
        return f"{damage}; what is damaged is to be made again"
    return "finished, nothing to do" if done else "to be made"


def changed_settings(settings: CurateConfig) -> dict[str, Any]:
    """What a config would have to hold to give these settings: those that differ from the defaults, and the needed."""
    needed = {"kind": settings.kind, "name": settings.name, "output": settings.output}
    inputs: list[dict[str, Any]] = [
        {"source": entry.source, "path": entry.path} | ({} if entry.storage is None else {"storage": {}})
        for entry in settings.inputs
    ]
    plain = [{name: value for name, value in entry.items() if name != "source"} for entry in inputs]
    defaults = CurateConfig.model_validate(needed | {"inputs": plain})
    found = _changed(settings.model_dump(mode="json"), defaults.model_dump(mode="json"))
    if "inputs" in found:
        found["inputs"] = [kept | entry for kept, entry in zip(inputs, found["inputs"], strict=True)]
    if isinstance(rules := found.get("rules"), dict):  # a pack that is not in packs needs no line of its own
        found["rules"] = {name: value for name, value in rules.items() if value is not None}
    return {"kind": needed["kind"], "name": needed["name"], "inputs": inputs, "output": needed["output"]} | found


def _changed(now: Any, default: Any) -> Any:
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
    from pipelines.curate.what_if import compare, table_text

    # Where the run lies is said once, for both sides.
    place = [one for one in override or [] if one.partition("=")[0].split(".")[0] in ("output", "storage")]
    before = load_curate(config, place)
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
    from pipelines.curate.explain import explain as explain_document
    from pipelines.curate.run_reader import FinishedRun

    settings = None if config is None else load_curate(config, override)
    with reaching(run, config, override) as (store, uri):
        print(explain_document(FinishedRun(store, uri, settings.inputs if settings else ()), id))


def sample(
    artifact: Annotated[str, typer.Argument(help="folder or URI of an artifact, or of a run (its ledger)")],
    rows: Annotated[int, typer.Option("-n", min=1, help="how many")] = 5,
    where: Annotated[list[str] | None, typer.Option(help="column=value; may be repeated")] = None,
    seed: Annotated[int, typer.Option(help="another seed, another sample")] = 1,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """A random sample of an artifact's rows, as JSON lines; of a run, of its ledger of removals."""
    from pipelines.curate.sample import sample_rows

    with reaching(artifact, config, override) as (store, uri):
        for row in sample_rows(store, uri, rows, where or [], seed):
            print(json.dumps(row, ensure_ascii=False, default=str))
