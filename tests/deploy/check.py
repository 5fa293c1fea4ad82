"""A check of manifests, with the broken manifests that it must catch."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.deploy.manifests import Manifest

Objects = list[Manifest]


@dataclass(frozen=True)
class Broken:
    """A change that a check must catch. what: in words. change: of a world's objects, in place. caught: a regular
    expression of the problem. world: whose objects are changed.
    """

    what: str
    change: Callable[[Objects], object]
    caught: str
    world: str = "eks"


@dataclass(frozen=True)
class Check:
    """what: is true of good manifests. run: the problems of a world's objects, empty if there are none."""

    what: str
    run: Callable[[Objects], list[str]]
    broken: tuple[Broken, ...]
    needs_crds: bool = False

    def catches(self, broken: Broken, objects: Objects) -> bool:
        """Whether the check passes on good objects and reports the broken ones."""
        changed = copy.deepcopy(objects)
        broken.change(changed)
        found = self.run(changed)
        assert found, f"{self.what}: does not catch: {broken.what}"
        assert any(re.search(broken.caught, problem) for problem in found), found
        return True
