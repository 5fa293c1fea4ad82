"""The verb `raymill alias FOLDER NAME`."""

import json
import os
from dataclasses import asdict
from typing import Annotated

import typer

from raymill.cluster.answer import Answer
from raymill.cluster.frame.calls import AnyConfig, Changes
from raymill.cluster.inspection import RunConfig, StorageOverrides, store_for
from raymill.training.promote.alias import Alias


def alias(
    folder: Annotated[str, typer.Argument(help="folder or URI of the models, `folder` of the promotion")],
    name: Annotated[str, typer.Argument(help="the alias, such as champion")],
    rollback: Annotated[
        bool, typer.Option("--rollback", help="return to the model promoted before the current one")
    ] = False,
    config: RunConfig = None,
    override: StorageOverrides = None,
    json_: Annotated[bool, typer.Option("--json", help="print values for a program")] = False,
) -> None:
    """Print the model of an alias, its digest, and the evidence for it."""
    found = alias_at(folder, name, rollback, config, override)
    print(json.dumps(found, indent=1) if json_ else found)


def alias_at(
    folder: str | os.PathLike[str],
    name: str,
    rollback: bool = False,
    config: AnyConfig = None,
    override: Changes = None,
) -> Answer:
    """The current record of an alias: {version, promoted, model, digest, evidence, moved}.

    Args:
        folder: folder or URI of the models.
        name: the alias.
        rollback: first return to the model that was promoted before the current one.
        config: a config, for its `storage` settings.
        override: changes of single settings, as in {"storage.endpoint_url": "http://HOST:PORT"}.

    Raises:
        ConfigError: there is no such alias.
        DataError: there is no model to return to, or it changed.
    """
    with store_for(folder, config, override) as (store, at):
        one = Alias(store, at, name)
        if (found := one.rollback() if rollback else one.current()) is None:
            raise one.missing()
        back = "" if found.promoted == found.version else f", back to version {found.promoted}"
        lines = [
            f"alias     {name}, version {found.version}{back}, moved {found.moved}",
            f"model     {found.model}",
            f"digest    {found.digest}",
            *([f"evidence  {found.evidence['run']}, digest {found.evidence['digest']}"] if found.evidence else []),
        ]
        return Answer(asdict(found), "\n".join(lines))
