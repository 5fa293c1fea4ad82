"""Index of an answer store by key, for requests whose keys are not in one range.

Each worker reads the keys of every file once, so that it finds the answer to a request in any file.
"""

from collections.abc import Collection

from raymill.cluster.asking.answers import Answers, Try
from raymill.cluster.errors import DataError


class AnswerIndex:
    """File and row group of each answer in a store. Memory: some 150 bytes an answer."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._files = set[str]()  # URIs of those that were read
        self._places: dict[str, tuple[str, int]] = {}  # key -> URI of a file, number of the row group in it

    def answered(self, wanted: Collection[str], most_bytes: int) -> dict[str, Try]:
        """The answers to these keys that are in files. most_bytes: maximum size of a body; larger ones are left out."""
        self._read_new()
        by_file: dict[str, tuple[set[int], list[str]]] = {}
        for key in wanted:
            if place := self._places.get(key):
                groups, keys = by_file.setdefault(place[0], (set(), []))
                groups.add(place[1])
                keys.append(key)
        found: dict[str, Try] = {}
        for uri, (groups, keys) in by_file.items():
            try:
                found |= self._answers.answered_in(uri, groups, keys, most_bytes)
            except DataError:
                if self._answers.store.exists(uri):
                    raise
                self._forget(uri)  # another process has joined it with others
                return self.answered(wanted, most_bytes)
        return found

    def _read_new(self) -> None:
        for uri in self._answers.files():
            if uri not in self._files:
                self._files.add(uri)
                try:
                    groups = self._answers.keys_in(uri)
                except DataError:
                    if self._answers.store.exists(uri):
                        raise
                    continue  # joined with others meanwhile
                for number, keys in enumerate(groups):
                    self._places |= dict.fromkeys(keys, (uri, number))

    def _forget(self, uri: str) -> None:
        self._places = {key: place for key, place in self._places.items() if place[0] != uri}
