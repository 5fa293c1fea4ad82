"""Stored answers to requests that are in no order of keys.

The keys of each file are read once by a worker, so that a request finds its answer in whichever file it is.
"""

from collections.abc import Collection

from raymill.cluster.asking.answers import Answers, Try
from raymill.cluster.errors import DataError


class AnswerIndex:
    """The places of the answers in a store. Memory: some 150 bytes for each."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._files: dict[str, None] = {}
        self._places: dict[str, str] = {}  # key -> URI of a file

    def answered(self, wanted: Collection[str], most_bytes: int) -> dict[str, Try]:
        """The answers to these keys that are in files. most_bytes: of a body; larger ones are left out."""
        self._read_new()
        by_file: dict[str, list[str]] = {}
        for key in wanted:
            if uri := self._places.get(key):
                by_file.setdefault(uri, []).append(key)
        found: dict[str, Try] = {}
        for uri, keys in by_file.items():
            try:
                found |= self._answers.answered_in(uri, keys, most_bytes)
            except DataError:
                if uri in self._answers.files():
                    raise
                self._forget(uri)  # another process has compacted the store
                return self.answered(wanted, most_bytes)
        return found

    def _read_new(self) -> None:
        for uri in self._answers.files():
            if uri not in self._files:
                self._files[uri] = None
                self._places |= dict.fromkeys(self._answers.keys_in(uri), uri)

    def _forget(self, uri: str) -> None:
        self._files.pop(uri, None)
        self._places = {key: at for key, at in self._places.items() if at != uri}
