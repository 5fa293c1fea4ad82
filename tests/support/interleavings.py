"""Every interleaving of a few actors on a simulated store, up to a bound of context switches and of faults.

A schedule is the list of choices made in it: which actor takes the next step, whether the one at work is killed before
it, and whether the store's answer is lost. Each schedule runs from its beginning (Godefroid 1997). A bound on how often
an actor that could go on is left keeps them few, and few switches find most errors (Musuvathi and Qadeer 2007).
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from greenlet import getcurrent

from raymill.cluster.artifact import EARLIER_MANIFEST
from raymill.cluster.store.interface import FileInfo, NotFound, Unavailable, Upload
from tests.support.simulation import Actor, Killed, World

# How often a random choice may be another than the first: more would use all switches and faults up in the first steps.
_OTHER = 0.2


class Choices:
    """The choices of one schedule: first those given, then the first option of each, or random ones with `chance`.

    Attributes:
        made: (number of the option, how many there were).
    """

    def __init__(self, given: Sequence[int] = (), chance: random.Random | None = None) -> None:
        self.given = given
        self.chance = chance
        self.made: list[tuple[int, int]] = []

    def choose(self, options: int) -> int:
        """The number of the option to take."""
        if options == 1:
            return 0
        at = len(self.made)
        chosen = self.given[at] if at < len(self.given) else 0
        if self.chance is not None and self.chance.random() < _OTHER:
            chosen = self.chance.randrange(options)
        self.made.append((chosen, options))
        return chosen


def explore(run: Callable[[Choices], object], beginning: Sequence[int] = ()) -> Iterator[list[tuple[int, int]]]:
    """Run every schedule with this beginning, depth first; the choices of each, when it has run."""
    given = list(beginning)
    while True:
        choices = Choices(given)
        run(choices)
        made = choices.made
        yield list(made)
        while len(made) > len(beginning) and made[-1][0] + 1 == made[-1][1]:
            made.pop()
        if len(made) <= len(beginning):
            return
        given = [chosen for chosen, _ in made]
        given[-1] += 1


def beginnings(run: Callable[[Choices], object], length: int) -> list[list[int]]:
    """The first `length` choices of all schedules, so that processes can divide these. All schedules have as many."""
    found: list[list[int]] = [[]]
    for at in range(length):
        longer = []
        for one in found:
            choices = Choices(one)
            run(choices)
            longer += [[*one, option] for option in range(choices.made[at][1])]
        found = longer
    return found


class _LastingActor(Actor):
    """An actor that does the works of many schedules, because a new greenlet has its stack mapped by the system."""

    def __init__(self) -> None:
        super().__init__(lambda: None)

    def take(self, work: Callable[[], object]) -> None:
        """Let the next switch begin this work."""
        self.work, self.place, self.doomed, self.error = work, "start", False, None

    def run(self) -> None:
        while True:
            super().run()
            self.parent.switch()


_actors: list[_LastingActor] = []  # of this thread


class ExploredWorld(World):
    """A store whose actors stop before each operation, and the choices of one schedule.

    An object is uploaded in two steps, as a multipart upload is: what is begun can be listed and aborted, and is not
    visible. The client repeats a put whose answer was lost, as `raymill.cluster.store.object_store` does.

    Args:
        switches: how often an actor that could go on is left for another one. faults: kills and lost answers together.
        on_change: called with the URI of an object and its new content, None where it is deleted, before the change.
    """

    def __init__(
        self, choices: Choices, switches: int, faults: int, on_change: Callable[[str, bytes | None], None]
    ) -> None:
        super().__init__(seed=0)
        self.choices, self.switches, self.faults, self.on_change = choices, switches, faults, on_change
        self.name = ""  # of the actor at work
        self.waiting: list[str] = []  # actors that have not ended
        self.begun: dict[str, None] = {}
        self.steps: list[tuple[str, ...]] = []

    def interleave(self, works: Mapping[str, Callable[[], object]]) -> dict[str, BaseException]:
        """Run the actors to their ends. Returns the errors, by the names of those that ended with one."""
        while len(_actors) < len(works):
            _actors.append(_LastingActor())
        actors = dict(zip(works, _actors, strict=False))
        for name, actor in actors.items():
            actor.take(works[name])
        self.waiting = list(actors)
        while self.waiting:
            if self.name not in self.waiting:
                self.name = self.waiting[self.choices.choose(len(self.waiting))]
            actor = actors[self.name]
            actor.switch()
            if actor.place == "end":
                self.waiting.remove(self.name)
        return {name: actor.error for name, actor in actors.items() if actor.error is not None}

    def step(self, place: str, detail: str = "") -> None:
        actor = getcurrent()
        if isinstance(actor, Actor):
            if actor.doomed:
                raise Killed
            name = self.name
            if self.switches or self.faults:
                self._leave(actor)
            self.steps.append((name, place, detail))

    def _leave(self, actor: Actor) -> None:
        """Choose who goes on. The actor at work goes on at once, without a switch of greenlets, if it is chosen."""
        name = self.name
        options = [name]
        if self.switches:
            options += [other for other in self.waiting if other != name]
        if self.faults:
            options.append("")
        chosen = options[self.choices.choose(len(options))]
        if not chosen:
            self.faults -= 1
            actor.doomed = True
            self.steps.append((name, "is killed"))
            raise Killed
        if chosen != name:
            self.switches -= 1
            self.name = chosen
            actor.parent.switch()

    def _answer_is_lost(self) -> bool:
        if not self.faults or not isinstance(getcurrent(), Actor) or not self.choices.choose(2):
            return False
        self.faults -= 1
        self.steps.append((self.name, "gets no answer"))
        return True

    def _put(self, key: str, data: bytes) -> None:
        self.on_change(key, data)
        self.objects[key] = data

    # --- the store

    def read(self, key: str, most: int | None = None) -> bytes:
        if not key.endswith(f"/{EARLIER_MANIFEST}"):  # which nobody writes, so no order of steps matters to it
            self.step("read", key)
        if key not in self.objects:
            raise NotFound(key)
        return self.objects[key]

    def create(self, key: str, data: bytes) -> bool:
        self.step("create", key)
        if key not in self.objects:
            self._put(key, data)
        if self._answer_is_lost():
            self.step("create again", key)
            if key not in self.objects:
                self._put(key, data)
        return self.objects[key] == data

    def upload(self, path: Path, key: str, *, new: bool = False) -> None:
        self.step("begin to upload", key)
        self.begun[key] = None
        self.step("end the upload of", key)
        if key not in self.begun:
            raise Unavailable(f"{key}: this upload was aborted")
        del self.begun[key]
        self._put(key, path.read_bytes())
        if self._answer_is_lost():
            self.step("end again the upload of", key)
            if key not in self.objects:
                raise Unavailable(f"{key}: neither the upload nor the object is there")

    def walk(self, prefix: str, *, skip_bad_names: bool = False, inside: bool = False) -> list[FileInfo]:
        self.step("list", prefix)
        return [FileInfo(key, len(data), "") for key, data in self.objects.items() if key.startswith(prefix + "/")]

    def uploads(self, folder: str) -> list[Upload]:
        self.step("list uploads", folder)
        return [Upload(key, 0.0) for key in self.begun if key.startswith(folder + "/")]

    def abort_uploads(self, uploads: list[Upload]) -> None:
        for upload in uploads:
            self.step("abort the upload of", upload.uri)
            self.begun.pop(upload.uri, None)

    def delete(self, keys: list[str]) -> None:
        for key in keys:
            self.step("delete", key)
            if key in self.objects:
                self.on_change(key, None)
                del self.objects[key]
