"""What a stage takes: processor time, bytes, requests, memory. `raymill plan` scales it from a sample of the input.

A stage that a sample does not show, such as a shuffle, has a model beside it (`Stage.model`).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

# An S3 request: processor seconds of the client (0.4 ms to read 7 kB, 0.5 ms to write them, without TLS, 2026-11-23;
# `cluster/store` against moto), and seconds until the answer, as stores document them for small objects.
REQUEST_CORE_S = 0.0005
REQUEST_S = 0.03
PIECE_BYTES = 8 << 20  # of a large read
_AT_ONCE = 8  # reads of a unit that wait for the store at the same time
_SMALL_FILE = 256 << 10  # read with one request
_ROW_GROUP = 4 << 20  # of a Parquet file with numbers, compressed
_PART = 5 << 20  # of a multipart upload
# Seconds of the driver for each unit, to plan and publish a stage: tests/benchmarks/README.md, 20,000 units.
_DRIVER_UNIT_S = 0.0005


@dataclass(frozen=True)
class Cost:
    """What a stage takes.

    core_s, read, written, gets, puts: processor seconds, bytes and requests of all its units. memory, scratch: bytes of
    one unit. rows: of its first output. counters: of its outputs, beside those of the sample. A name, units or memory
    that a model leaves out are those of its stage.
    """

    name: str = ""
    units: int = 0
    core_s: float = 0
    read: float = 0
    written: float = 0
    gets: float = 0
    puts: float = 0
    memory: int = 0
    scratch: float = 0
    rows: float = 0
    counters: Mapping[str, float] = field(default_factory=dict)

    @property
    def unit_s(self) -> float:
        """Seconds of a unit on its core, and of its waiting for the store."""
        return (self.core_s + REQUEST_S * (self.puts + self.gets / _AT_ONCE)) / max(self.units, 1)

    def seconds(self, cores: int) -> float:
        """Wall time on `cores` cores, if all units take equally long."""
        return math.ceil(self.units / cores) * self.unit_s + _DRIVER_UNIT_S * self.units


class Planning(Protocol):
    """A run that is planned."""

    @property
    def assumed(self) -> Mapping[str, float]:
        """Numbers that a sample does not show, by name."""
        ...

    def bytes_of(self, uris: Sequence[str]) -> float:
        """Bytes of these files, as planned."""
        ...


# model(planning, sampled) -> what the stage and those that prepare it take; the last is the stage itself. sampled: what
# follows from the sample; None if the sample has no such stage.
Model = Callable[[Planning, Cost | None], Iterable[Cost]]


def requests_to_read(size: float) -> int:
    """GETs that read some columns of a file of an artifact."""
    return 1 if size <= _SMALL_FILE else 1 + 2 * math.ceil(size / _ROW_GROUP)


def requests_to_write(size: float) -> int:
    """PUTs that write a file."""
    return 1 if size <= _PART else 2 + math.ceil(size / _PART)
