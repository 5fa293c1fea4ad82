"""The verb `raymill dataset`."""

from typing import Annotated, get_args

import typer

from cluster.dataset_versions import registry_folder
from cluster.errors import ConfigError
from cluster.formats import count, plural
from cluster.inspection import RunConfig, StorageOverrides, store_for
from cluster.secret_values import secret_in
from cluster.store import paths
from pipelines.prepare.assess.job import read_assessment
from pipelines.prepare.versions.card import card
from pipelines.prepare.versions.diff import compare_versions, diff_json, diff_text
from pipelines.prepare.versions.export import ExportFormat, export
from pipelines.prepare.versions.metrics import metric_values, metrics_text
from pipelines.prepare.versions.push import push
from pipelines.prepare.versions.registry import Registry

# action -> (number of further arguments: least, most; how it is written)
_ACTIONS = {
    "tag": (1, 1, "tag NAME OUTPUT"),
    "log": (0, 0, "log NAME"),
    "diff": (1, 1, "diff NAME:VERSION OTHER:VERSION"),
    "card": (0, 0, "card NAME[:VERSION]"),
    "export": (1, 1, "export NAME[:VERSION] FOLDER"),
    "push": (1, 1, "push NAME[:VERSION] hf://ORG/NAME"),
}


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
