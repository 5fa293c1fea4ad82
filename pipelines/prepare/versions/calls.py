"""Named versions of data sets, from Python: `raymill.dataset.tag("helpdesk", "data/helpdesk")`.

A version points at an output of `prepare` and never changes. Versions are records in a registry, a folder or URI:
`registry`, else $RAYMILL_DATASETS, else ./datasets. `config` and `override` have its `storage` settings.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from raymill.cluster.answer import Answer, Text
from raymill.cluster.dataset_versions import registry_folder
from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.calls import AnyConfig, Changes
from raymill.cluster.frame.job import Run
from raymill.cluster.hub_push import Pushed
from raymill.cluster.inspection import store_for
from raymill.cluster.secret_values import secret_in
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.assess.job import read_assessment
from raymill.pipelines.prepare.versions import export as exports
from raymill.pipelines.prepare.versions.diff import (
    compare_versions,
    diff_text,
    diff_values,
    metric_values,
    metrics_text,
)
from raymill.pipelines.prepare.versions.export import ExportFormat
from raymill.pipelines.prepare.versions.registry import Registry, Version

Place = str | os.PathLike[str]


def tag(
    name: str,
    output: Place | Run,
    version: str | None = None,
    note: str = "",
    *,
    registry: Place | None = None,
    config: AnyConfig = None,
    override: Changes = None,
) -> Version:
    """Name an output of `prepare`, which `replace` refuses to remove from then on.

    Args:
        name: name of the data set.
        output: the output, or the run.
        version: name of the version; None: the one that this content has, else v1, v2 and so on.
        note: a sentence about the version.

    Raises:
        ConfigError: a name is not allowed, the note holds a secret, or the version exists with another output.
        DataError: there is no finished run of `prepare`, or it has no record.
    """
    return tag_or_find(name, output, version, note, registry=registry, config=config, override=override)[0]


def tag_or_find(
    name: str, output: Place | Run, version: str | None = None, note: str = "", **registry: Any
) -> tuple[Version, bool]:
    """As `tag`; also whether the version was there before."""
    if what := secret_in(note):
        raise ConfigError(f"--note: holds a secret ({what}), and cards are published. Take it out.")
    own = output.store if isinstance(output, Run) else None
    at = output.uri if isinstance(output, Run) else paths.absolute(os.fspath(output))
    with _registry(own, **registry) as versions:
        known = [one.version for one in versions.known(name)]
        made = versions.tag(name, at, version, note)
        return made, made.version in known


def log(
    name: str, *, registry: Place | None = None, config: AnyConfig = None, override: Changes = None
) -> list[Version]:
    """The versions of a data set in the order in which they were tagged.

    Raises:
        ConfigError: there is none.
    """
    with _registry(registry=registry, config=config, override=override) as versions:
        return versions.versions(name)


def diff(
    name: str, other: str, *, registry: Place | None = None, config: AnyConfig = None, override: Changes = None
) -> Answer:
    """What differs between two versions: records, distributions and metrics. name, other: NAME or NAME:VERSION."""
    with _registry(registry=registry, config=config, override=override) as versions:
        store, (one, two) = versions.store, (versions.readable(name), versions.readable(other))
        difference = compare_versions(one.splits(store), two.splits(store))
        before, after = (f"{found.name}:{found.version}" for found in (one, two))
        old, new = (read_assessment(store, found.output) for found in (one, two))
        text = f"{diff_text(before, after, difference)}\n{metrics_text(before, after, old, new)}"
        return Answer(diff_values(before, after, difference, metric_values(old, new)), text)


def card(name: str, *, registry: Place | None = None, config: AnyConfig = None, override: Changes = None) -> Text:
    """The data set card of a version. name: NAME or NAME:VERSION."""
    with _registry(registry=registry, config=config, override=override) as versions:
        return Text(exports.card(versions.store, versions.readable(name)))


def export(
    name: str,
    folder: Place,
    format: ExportFormat = "hf",
    *,
    registry: Place | None = None,
    config: AnyConfig = None,
    override: Changes = None,
) -> list[str]:
    """Write a version to a folder in another format. Returns the URIs of its files. name: NAME or NAME:VERSION."""
    with _registry(registry=registry, config=config, override=override) as versions:
        return exports.export(versions.store, versions.readable(name), paths.absolute(os.fspath(folder)), format)


def push(
    name: str,
    place: str,
    *,
    public: bool = False,
    registry: Place | None = None,
    config: AnyConfig = None,
    override: Changes = None,
) -> Pushed:
    """Push a version and its card to the Hugging Face hub, with the token HF_TOKEN.

    Args:
        name: NAME or NAME:VERSION.
        place: hf://ORG/NAME.
        public: whether a data set that is created is public.
    """
    with _registry(registry=registry, config=config, override=override) as versions:
        return exports.push(versions.store, versions.readable(name), place, public=public)


@contextmanager
def _registry(
    own: Store | None = None, *, registry: Place | None, config: AnyConfig, override: Changes
) -> Iterator[Registry]:
    """own: store of the output, if it is known."""
    with store_for(registry or registry_folder(), config, override) as (store, uri):
        is_given = config is not None or bool(override)
        if own is not None and not is_given:
            store = own
        yield Registry(store, uri, any_output=is_given or own is not None)
