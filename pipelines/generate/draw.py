"""Values that are drawn for each seed and sample, such as personas, topics and difficulties.

A draw depends on the seed's id, the number of the sample, the name and `sampling.seed` alone: more seeds, another order
or another machine change none.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any

from pydantic import Field

from raymill.cluster.artifact import fingerprint
from raymill.cluster.errors import ConfigError
from raymill.cluster.store import paths
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.store import Store

_LARGEST = 256 << 20  # bytes of a file of values
Weight = Annotated[float, Field(gt=0)]
DrawSetting = (
    Annotated[list[str | int | float], Field(min_length=1)]
    | Annotated[dict[str, Weight], Field(min_length=1)]
    | Annotated[str, Field(min_length=1)]
)


@dataclass(frozen=True)
class Choices:
    """Values that are drawn. weights: of each; empty: all have the same. file: with the values; empty: none."""

    values: Sequence[Any]
    weights: Sequence[float] = ()
    file: str = ""

    def of(self, *about: object) -> Any:
        """The value that is drawn. about: everything that the draw depends on."""
        digest = hashlib.blake2b("/".join(map(str, about)).encode("utf-8", "replace"), digest_size=8).digest()
        drawn = int.from_bytes(digest) / 2**64
        if not self.weights:
            return self.values[int(drawn * len(self.values))]
        ends = list(accumulate(self.weights))
        return self.values[bisect_right(ends, drawn * ends[-1])]

    @property
    def plain(self) -> Any:
        """What a run's record has of them."""
        if self.file:
            return {"file": fingerprint(list(self.values))}
        return dict(zip(self.values, self.weights, strict=True)) if self.weights else list(self.values)


def load_choices(settings: Mapping[str, DrawSetting], store: Store) -> dict[str, Choices]:
    """The choices of the setting `draw`, by name.

    Raises:
        ConfigError: a file has no value, or is no text. StorageError: it is missing.
    """
    found = {}
    for name, given in settings.items():
        if isinstance(given, dict):
            found[name] = Choices(list(given), list(given.values()))
        elif isinstance(given, str):
            try:
                text = store.read_bytes(given, _LARGEST).decode()
            except NotFound as error:
                raise NotFound(f"draw.{name}: {paths.absolute(given)}") from error
            except UnicodeDecodeError as error:
                raise ConfigError(f"draw.{name}: {given} is no UTF-8 text. Write a value on each line.") from error
            values = [line for one in text.splitlines() if (line := one.strip())]
            if not values:
                raise ConfigError(f"draw.{name}: {given} has no value. Write a value on each line.")
            found[name] = Choices(values, file=given)
        else:
            found[name] = Choices(given)
    return found
