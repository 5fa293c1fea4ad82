"""The kinds of runs that there are: those of this distribution, and of installed packages that name their own.

A package adds a kind by an entry point of the group `raymill.kinds`: its name is the kind's, its value names a `Kind`.
"""

from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from cluster.frame.kind import Kind, Verb

GROUP = "raymill.kinds"

_OURS = {
    name: EntryPoint(name, value, GROUP)
    for name, value in (
        ("curate", "pipelines.curate.kind:CURATE"),
        ("prepare", "pipelines.prepare.kind:PREPARE"),
        ("train", "training.kind:TRAIN"),
    )
}


@cache
def _named() -> dict[str, EntryPoint]:
    return {one.name: one for one in entry_points(group=GROUP)} | _OURS


def names() -> tuple[str, ...]:
    """The name of each kind."""
    return tuple(_named())


@cache
def kind_of(name: str) -> Kind:
    """The kind with this name. Imports the module that declares it, and nothing else of the kind.

    Raises:
        KeyError: there is none.
    """
    return _named()[name].load()


def kinds() -> Iterator[Kind]:
    """All kinds."""
    return map(kind_of, names())


def verbs() -> dict[str, Verb | Kind]:
    """The verbs of all kinds, by name. A kind stands for the verb that makes a run of it."""
    found: dict[str, Verb | Kind] = {}
    for kind in kinds():
        found |= {kind.name: kind, **kind.verbs}
    return found
