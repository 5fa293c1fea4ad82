"""The kinds of runs that there are: those of this distribution, and of installed packages that name their own.

A package adds a kind by an entry point of the group `raymill.kinds`: its name is the kind's, its value names a `Kind`.
"""

import logging
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.kind import Kind, Verb

log = logging.getLogger(__name__)

GROUP = "raymill.kinds"

_OURS = {
    name: EntryPoint(name, value, GROUP)
    for name, value in (
        ("curate", "raymill.pipelines.curate.kind:CURATE"),
        ("prepare", "raymill.pipelines.prepare.kind:PREPARE"),
        ("train", "raymill.training.kind:TRAIN"),
        ("cross-validate", "raymill.training.kind:CROSS_VALIDATE"),
        ("generate", "raymill.pipelines.generate.kind:GENERATE"),
        ("distil", "raymill.pipelines.distil.kind:DISTIL"),
        ("prompt", "raymill.pipelines.prompting.kind:PROMPT"),
        ("annotate", "raymill.pipelines.annotate.kind:ANNOTATE"),
        ("errors", "raymill.pipelines.errors.kind:ERRORS"),
        ("compare", "raymill.pipelines.compare.kind:COMPARE"),
        ("promote", "raymill.training.promote.kind:PROMOTE"),
        ("run", "raymill.cluster.chain.kind:RUN"),
    )
}


@cache
def _named() -> dict[str, EntryPoint]:
    return _OURS | {one.name: one for one in entry_points(group=GROUP) if one.name not in _OURS}


def names() -> tuple[str, ...]:
    """The name of each kind."""
    return tuple(_named())


@cache
def kind_of(name: str) -> Kind:
    """The kind with this name. Imports the module that declares it, and nothing else of the kind.

    Raises:
        KeyError: there is none.
        ConfigError: the package that names it cannot be imported, or names something else.
    """
    named = _named()[name]
    try:
        found = named.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(_of_package(named, f"cannot be loaded ({error})")) from error
    if not isinstance(found, Kind) or found.name != name:
        raise ConfigError(_of_package(named, f"is no kind of this name, but {type(found).__name__}"))
    return found


def _of_package(named: EntryPoint, seen: str) -> str:
    package = named.dist.name if named.dist else "raymill"
    return f"kind {named.name}: {named.value} {seen}. Install a whole version of the package {package}, or remove it."


def kinds() -> Iterator[Kind]:
    """All kinds, without those whose package cannot be loaded; a warning names these."""
    for name in names():
        try:
            yield kind_of(name)
        except ConfigError as error:
            log.warning("%s", error)


def verbs() -> dict[str, Verb | Kind]:
    """The verbs of all kinds, by name. A kind stands for the verb that makes a run of it."""
    found: dict[str, Verb | Kind] = {}
    for kind in kinds():
        of_kind: dict[str, Verb | Kind] = {kind.name: kind, **kind.verbs}
        found |= {name: verb for name, verb in of_kind.items() if name not in found}
    return found
