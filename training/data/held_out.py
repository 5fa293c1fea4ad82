"""The held-out rows that are measured before and after training, and the record of what they gave.

They are the test split, up to `evaluate.test_tokens`, or the validation split if the test split has no rows; and each
of `evaluate.sets`. All workers measure them inside of the fit, before its first step and after its last.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from typing_extensions import TypedDict

from raymill.cluster.artifact import Artifact, fingerprint
from raymill.cluster.errors import DataError
from raymill.cluster.formats import plural
from raymill.cluster.record import json_bytes, read_json
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Form
from raymill.training.data.packed import RowBounds
from raymill.training.pack import summary
from raymill.training.pack.corpus import set_name
from raymill.training.pack.packed_run import PackedRun
from raymill.training.records.job import Job
from raymill.training.records.schema import Measured

When = Literal["before", "after"]
BEFORE: When = "before"
AFTER: When = "after"


@dataclass(frozen=True)
class HeldOutRows:
    """Packed rows that are measured together.

    Attributes:
        artifacts: the packed rows of each corpus, by its name.
        rows: number of rows of each corpus that are measured, the first ones.
        notes: sentences about rows and documents that are not measured.
        forms: of the documents of each corpus.
    """

    artifacts: Mapping[str, Artifact]
    rows: Mapping[str, int]
    notes: Sequence[str]
    forms: Mapping[str, Form]

    def tables(self, bounds: RowBounds) -> Iterator[pa.Table]:
        """The rows that are measured.

        Raises:
            DataError: a value exceeds the bounds, or is one that `pack` does not write.
        """
        for name, artifact in self.artifacts.items():
            left = self.rows[name]
            for table in artifact.tables():
                if not left:
                    break
                bounds.refuse_wrong(table, artifact.uri)
                yield table.slice(0, left)
                left -= min(left, table.num_rows)


def held_out_rows(config: TrainConfig, packed: PackedRun) -> dict[str, HeldOutRows]:
    """The held-out split by its name, unless it has no rows, and each of `evaluate.sets` by its own."""
    split, artifacts = held_out_split(packed)
    forms = dict(zip(config.corpus_names, config.forms, strict=True))
    parts = {f"the {split} split": (split, artifacts, forms)} if artifacts else {}
    for name, artifact in packed.sets.items():
        parts[f"evaluate.sets.{name}"] = (name, {name: artifact}, {name: config.set_columns[name].form})
    found = {}
    for words, (name, of, of_forms) in parts.items():
        rows, notes = rows_to_measure(words, of, config.evaluate.test_tokens)
        if name in packed.sets:
            tokenised, counters = packed.tokenised(set_name(name)), packed.packed(set_name(name))
            long = summary.overflow(summary.totals(tokenised), counters, config.sequence_length)
            lost = [*summary.left_out(tokenised), *summary.turns(tokenised), *long]
            notes += [f"{words}: {note.words}." for note in lost if note.warned]
        found[name] = HeldOutRows(of, rows, notes, of_forms)
    return found


def held_out_split(packed: PackedRun) -> tuple[str, dict[str, Artifact]]:
    """(split to measure, its artifact by corpus): test, or validation if test has no rows in any corpus."""
    found: dict[str, dict[str, Artifact]] = {}
    for split in ("test", "validation"):
        found[split] = {name: splits[split] for name, splits in packed.corpora.items() if splits[split].manifest.rows}
    split = "test" if found["test"] else "validation"
    return split, found[split]


def rows_to_measure(
    what: str, artifacts: Mapping[str, Artifact], most_tokens: int | None
) -> tuple[dict[str, int], list[str]]:
    """(rows to measure of each corpus, a note if they are not all rows). what: what is measured, for the note.

    Each corpus has its share of `most_tokens`, but at least one row. The first rows of a split are a random sample of
    it, because packing puts documents in random order.
    """
    whole = {name: artifact.manifest.rows for name, artifact in artifacts.items()}
    tokens = sum(one.manifest.counters.get(f"tokens/{one.uri.rpartition('/')[2]}", 0) for one in artifacts.values())
    if most_tokens is None or tokens <= most_tokens:
        return whole, []
    rows = {name: max(1, int(count * most_tokens / tokens)) for name, count in whole.items()}
    note = (
        f"Of {what} {sum(rows.values()):,} of {plural(sum(whole.values()), 'row')} were measured "
        f"(evaluate.test_tokens: {most_tokens}; null: all)."
    )
    return rows, [note]


class _Record(TypedDict):
    made_from: str
    measured: dict[str, Measured]


@dataclass(frozen=True)
class HeldOutRecord:
    """What the workers measured, a file OUTPUT/held_out/WHEN.json.

    when: before or after training. checkpoint: URI of the weights that are exported; none before training.
    """

    job: Job
    when: When
    checkpoint: str = ""

    def read(self) -> dict[str, Measured] | None:
        """The measurements of these weights by the name of the rows; None if they or the rows were others."""
        with suppress(DataError):  # they are then made again
            found = read_json(self.job.folder.store, self._uri, "measurements of held-out rows", kind=_Record)
            if found is not None and found["made_from"] == self._made_from:
                return found["measured"]
        return None

    def write(self, measured: dict[str, Measured]) -> None:
        """Replace the file."""
        record = {"made_from": self._made_from, "measured": measured}
        self.job.folder.store.write_bytes(self._uri, json_bytes(record))

    @property
    def _uri(self) -> str:
        return f"{self.job.folder.held_out}/{self.when}.json"

    @property
    def _made_from(self) -> str:
        # Of the checkpoint only the folder's name: the run may be moved.
        return fingerprint(
            {
                "fit": self.job.folder.fingerprint,
                "checkpoint": self.checkpoint.rpartition("/")[2],
                "test_tokens": self.job.config.evaluate.test_tokens,
                "sets": self.job.sets,
            }
        )
