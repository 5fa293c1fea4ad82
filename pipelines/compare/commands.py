"""The command `raymill compare`: of a config, or of models and a data set that it names."""

import hashlib
import json
from typing import Annotated, Any

import typer
import yaml

from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.calls import config_of, run_of
from raymill.cluster.frame.commands import Address, DryRun, Overrides, Replace, Verify, print_outcome
from raymill.cluster.frame.dry_run import dry_run_lines
from raymill.cluster.frame.job import Run

Given = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG|MODELS",
        help="settings, YAML or JSON; or with --on at least two models: outputs of `train`, folders, names on the hub, "
        "or settings as '{endpoint: URL, name: NAME}'",
    ),
]
On = Annotated[str | None, typer.Option(help="output of `prepare`, or a split in it, whose records are the items")]
Output = Annotated[str | None, typer.Option(help="where the run writes; default: runs/compare-HASH, with --on")]
Json = Annotated[bool, typer.Option("--json", help="print the difference, its interval, p and the verdict as JSON")]


def compare(
    config: Given,
    on: On = None,
    output: Output = None,
    json_: Json = False,
    override: Overrides = None,
    address: Address = None,
    dry_run: DryRun = False,
    replace: Replace = False,
    verify: Verify = False,
) -> int:
    """Compare models on the same items of a data set, and decide whether the first is better.

    A second run continues where the first stopped, and asks nothing again that has an answer. Exit code 2: the gate of
    the config is not passed.
    """
    file, settings = settings_of(config, on, output)
    if dry_run:
        for line in dry_run_lines(config_of(file, settings, override, "compare"), address):
            print(line)
        return 0
    run: Run = run_of("compare", file, settings, override=override, address=address, replace=replace, verify=verify)
    if json_:
        print(json.dumps(run.outcome, indent=1))
    else:
        print_outcome(run)
    return run.exit_code


def settings_of(given: list[str], on: str | None, output: str | None) -> tuple[str | None, dict[str, Any]]:
    """(config file, or None; settings that are added to it).

    Raises:
        ConfigError: there are several models without `--on`, only one with it, or a model is not valid YAML.
    """
    if on is None:
        if len(given) > 1:
            raise ConfigError(f"--on: missing with {len(given)} models; give the data set that they are compared on.")
        return given[0], {} if output is None else {"output": output}
    if len(given) < 2:
        raise ConfigError(
            f"--on: goes with two models or more, and {given[0]} alone is given. The data set of a config is its "
            "setting `on`, as in -o on=FOLDER."
        )
    models = []
    for one in given:
        try:
            models.append(yaml.safe_load(one) if one.startswith("{") else one)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"{one}: is not valid YAML ({error}). Give settings as '{{endpoint: URL, name: NAME}}'."
            ) from error
    digest = hashlib.sha256(json.dumps([models, on]).encode()).hexdigest()[:8]
    return None, {"models": models, "on": on, "output": output or f"runs/compare-{digest}"}
