"""`raymill KIND CONFIG --dry-run`: what a run would read and make, and what state its output is in. Writes nothing."""

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from raymill.cluster import logs
from raymill.cluster.answer import Text
from raymill.cluster.formats import amount_of_bytes, plural
from raymill.cluster.frame.calls import AnyConfig, Changes, config_of
from raymill.cluster.frame.files import FilesJob
from raymill.cluster.frame.first_look import first_look
from raymill.cluster.frame.kinds import kind_of
from raymill.cluster.output_folder import check_output
from raymill.cluster.readers.listing import skipped_text
from raymill.cluster.readers.recorded import INPUTS_JSON
from raymill.cluster.session import opened
from raymill.cluster.stage import finished_stages
from raymill.cluster.store import paths
from raymill.cluster.wording import for_the_caller


def files_dry_run(settings: Any, address: str | None = None) -> Iterator[str]:
    """Lines about the inputs, settings and output of a run over files. Makes all checks that a run makes before it
    starts Ray. address: of a Ray cluster; None: this machine.

    Raises:
        UserError: as `RunJob.run` does; or a sample shows that the run would stop.
    """
    job: FilesJob[Any] = kind_of(settings.kind).job(settings)
    job.require_extras()
    job.require_begun()
    with opened(address, settings.execution.cpus) as session:  # never started
        job.check(session, replace=False)
    found, inputs = job.find(), job.frozen
    state = output_state(job, found.run is not None, found.damage_text)
    if found.run is None:
        check_output(job.store, job.root)
    files, size = plural(len(inputs.files), "file"), sum(unit.bytes for unit in inputs.units)
    yield f"inputs   {files}, {plural(len(inputs.units), 'unit')}, about {amount_of_bytes(size)} of text"
    for name, line in job.about():
        yield f"{name:<9}{line}"
    yield for_the_caller(f"output   {job.root}: {state}")
    for source, skipped in inputs.skipped.items():
        if skipped:
            yield f"skipped  {source}: {skipped_text(skipped)}"
    look = first_look(inputs, job.document_limits)
    for note in [*inputs.notes, *job.notes(look), *look.notes]:
        yield for_the_caller(f"note     {note}")
    fate, refusal = job.try_sample()
    if fate:
        yield for_the_caller(fate)
    if logs.is_verbose():
        everything = settings.model_dump(mode="json", by_alias=True)
        yield "\nEvery setting:\n" + settings_text(everything)
    else:
        title = for_the_caller("\nSettings that differ from the defaults (--verbose shows all):\n")
        yield title + settings_text(shortest(settings))
    if refusal is not None and found.run is None:
        raise refusal


def output_state(job: FilesJob[Any], finished: bool, damage: str) -> str:
    """The state of the output, and what a run does about it, as text. Starts nothing.

    Raises:
        DataError: an unfinished run with other settings is there, or too many documents are in quarantine.
    """
    if damage:
        return f"{damage}; damaged files will be made again"
    if finished:
        return "finished, nothing to do"
    with job.naming_changes():
        done = finished_stages(job.root, job.stages)
    if job.store.exists(paths.join(job.root, INPUTS_JSON)):
        return f"unfinished (finished stages: {', '.join(done) or 'none'}), to be continued"
    if job.store.holds_files(job.root):
        return "to be made; other files are in this folder, and stay there"
    return "to be made"


def shortest(settings: BaseModel) -> dict[str, Any]:
    """The shortest config with these settings: those that differ from the defaults, and those without a default."""
    now = settings.model_dump(mode="json", by_alias=True, exclude={"inputs"})
    without_default = {name for name, field in type(settings).model_fields.items() if field.is_required()}
    required = {name: now[name] for name in now if name in {"kind", "name", "output"} | without_default}
    given_alone = settings.model_dump(mode="json", by_alias=True, include=set(required), exclude_defaults=True)
    fewest = type(settings).model_validate(required | {"inputs": [{"path": "x"}]})
    found = changed(now, fewest.model_dump(mode="json", by_alias=True, exclude={"inputs"}))
    given: list[Any] = list(settings.inputs)  # type: ignore[attr-defined]
    inputs = [{"source": one.source} | one.model_dump(mode="json", exclude_defaults=True) for one in given]
    return {"kind": now["kind"], "name": now["name"], "inputs": inputs, "output": now["output"]} | given_alone | found


def changed(now: Any, default: Any) -> Any:
    """The part of a setting that differs from its default. Of a group what it does not have by default is left out."""
    if isinstance(now, dict) and isinstance(default, dict):
        found = {name: changed(value, default.get(name)) for name, value in now.items() if value != default.get(name)}
        return {name: value for name, value in found.items() if value is not None or name in default}
    if isinstance(now, list) and isinstance(default, list) and len(now) == len(default):
        return [changed(one, other) for one, other in zip(now, default, strict=True)]
    return now


def settings_text(values: dict[str, Any]) -> str:
    """Settings as indented YAML."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return textwrap.indent(text.rstrip(), "  ")


def dry_run(config: AnyConfig = None, override: Changes = None, *, address: str | None = None, **settings: Any) -> Text:
    """What a run of a config of any kind would read and make, as text. Writes nothing.

    Args:
        config: a file, a dict, or a config object.
        override: changes of single settings, as in {"rules.gopher_quality.min_words": 30}.
        address: of a Ray cluster; None: this machine.
        settings: settings that replace those of the config.

    Raises:
        UserError: as the run; or a sample shows that the run would stop.
    """
    return Text("\n".join(dry_run_lines(config_of(config, settings, override), address)))


def dry_run_lines(settings: Any, address: str | None = None) -> Iterator[str]:
    """The lines of a dry run of any kind."""
    return (kind_of(settings.kind).dry_run or files_dry_run)(settings, address)
