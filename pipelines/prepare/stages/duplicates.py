"""Duplicates: of whole records, of questions, and of answers.

    group            of whole records                                         -> _work/groups
    verdicts, group  of questions, of the records that stay                   -> _work/questions
    verdicts, group  of answers, of the records that still stay               -> _work/answers

`collect` writes what is compared of each record (ATTRIBUTES). The result is the same for any number of workers and
units.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.examples.content import Sides
from raymill.cluster.readers.inputs import Input
from raymill.cluster.stage import Output, RunStageIn, Scratch, Stage
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.group import GROUPS, files_of, group_stage
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.dedup.signatures import SKETCH_TYPE, Sketches, permutations
from raymill.pipelines.prepare.records.fields import hash64
from raymill.pipelines.text.lines import count_characters
from raymill.pipelines.text.texts import Texts

ATTRIBUTES = "_work/attributes"
# Not below the folders of their duplicates, _work/questions and _work/answers, which are outputs of their own.
QUESTIONS, ANSWERS = "_work/question-attributes", "_work/answer-attributes"
Found = Literal["ignore", "list", "remove"]
ATTRIBUTES_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("text_hash", pa.binary(16)),
        ("characters", pa.int64()),
        ("signature", SKETCH_TYPE),
    ]
)
# Rows of a unit of input that are not compared.
VERDICTS_SCHEMA = pa.schema([("row", pa.int64())])
_REMOVED = "verdicts"


class Duplicates(BaseModel, extra="forbid", frozen=True):
    """Records that are like others in their question or answer alone, and what is done with them."""

    questions: Found = Field(
        "ignore",
        description="Treatment of records with the same question, exactly or by `dedup.threshold`: ignore (exactly "
        "equal ones are still in one split), list (alike ones too), or remove all but one",
    )
    answers: Found = Field(
        "ignore",
        description="Treatment of records with the same answer, exactly or by `dedup.threshold`: ignore, list (they "
        "are in one split), or remove all but one",
    )
    contradictory: Found = Field(
        "list",
        description="Treatment of records with equal questions and different answers: ignore (not looked for), list, "
        "or remove all of them",
    )


def same(text: str) -> str:
    """The text in lower case, with single spaces, without final punctuation: equal for questions that are the same."""
    return " ".join(text.lower().split()).rstrip(" .?!")


def question_hash(sides: Sides) -> int:
    """The hash of a question, or plain text, that is equal for questions that are the same."""
    return hash64(sides.system, same(sides.question))


def attributes(
    rows: Sequence[int] | np.ndarray,
    ids: Sequence[str | None],
    sources: Sequence[str],
    strings: Sequence[str],
    dedup: Dedup | None,
    key: Callable[[str], str] = same,
) -> pa.Table:
    """The table that deduplication takes, a row for each text.

    dedup: None: without signatures. key: texts for which it is equal are exact duplicates.
    """
    texts = Texts.from_strings(list(strings))
    hashes = [hashlib.blake2b(key(one).encode(), digest_size=16).digest() for one in strings]
    columns: dict[str, Any] = {
        "row": rows,
        "id": ids,
        "source": sources,
        "text_hash": pa.array(hashes, pa.binary(16)),
        "characters": count_characters(texts),
        "signature": pa.nulls(len(texts), SKETCH_TYPE),
    }
    if dedup:
        a, b = permutations(math.prod(dedup.banding), dedup.seed)
        sketches, _ = Sketches.of(texts, dedup.ngram_words, a, b, exact_short=dedup.exact_short, symbols=dedup.symbols)
        columns["signature"] = sketches.to_column()
    return pa.table(columns, schema=ATTRIBUTES_SCHEMA)


@dataclass(frozen=True)
class DuplicateGroups:
    """Groups of records that are alike. attributes: of all records that were compared."""

    groups: Artifact
    attributes: Artifact
    found: Found

    @property
    def removes(self) -> bool:
        return self.found == "remove"

    def files_by_unit(self, units: int) -> list[list[str]]:
        """The files that can have records of each unit of input; they have records of others too."""
        counts = np.array(self.attributes.rows_by_unit(units), np.int64)
        return list(files_of(self.groups, zip((np.cumsum(counts) - counts).tolist(), counts.tolist(), strict=True)))


def find_repeats(
    dedup: Dedup | None,
    duplicates: Duplicates,
    inputs: Sequence[Input],
    artifacts: dict[str, Artifact],
    removed: Artifact,
    units: int,
    run: RunStageIn,
) -> dict[str, DuplicateGroups]:
    """The groups of records (key `record`), questions and answers that the settings ask for.

    artifacts: of `collect`. removed: rows of each unit that are not compared, as VERDICTS has them. run: makes or finds
    the artifacts of a stage.
    """
    verdicts = removed
    records: Found = "ignore" if dedup is None else "remove" if dedup.remove else "list"
    sides: list[tuple[str, str, Found, str]] = [
        ("record", ATTRIBUTES, records, ""),
        ("question", QUESTIONS, duplicates.questions, "_work/questions"),
        ("answer", ANSWERS, duplicates.answers, "_work/answers"),
    ]
    repeats: dict[str, DuplicateGroups] = {}
    for name, output, found, folder in sides:
        if found == "ignore":
            continue
        removing = [one for one in repeats.values() if one.removes]
        if removing:
            compared, store = artifacts[output], artifacts[output].store
            of_units = zip(*(one.files_by_unit(units) for one in removing), strict=True)
            files = [list(chain(*of_unit)) for of_unit in of_units]
            counts, before = compared.rows_by_unit(units), removed.files_by_unit(units)
            parts = list(zip(range(units), counts, files, before, strict=True))
            read = (*(one.groups for one in removing), removed, compared)
            made_from = fingerprint([one.manifest.fingerprint for one in read])
            outputs, work = (Output(_REMOVED, VERDICTS_SCHEMA),), partial(find_removed, store)
            verdicts = run(Stage("verdicts", outputs, parts, work, made_from, store), folder)[_REMOVED]
        # Records that stay are in one split if they are alike directly or over others.
        stage = group_stage(dedup or Dedup(), inputs, artifacts[output], verdicts, units, chained=found != "remove")
        repeats[name] = DuplicateGroups(run(stage, folder)[GROUPS], artifacts[output], found)
    return repeats


def find_removed(store: Store, unit: tuple[int, int, list[str], list[str]], scratch: Scratch) -> Counters:
    """The work of the stage `verdicts`: the rows of a unit that are not compared next.

    unit: the number of a unit of input, its records, the files with its duplicates, and those with rows that were
    removed before. Counters: `passed`, at least the records that are compared next.
    """
    number, records, files, before = unit
    for table in read_tables(store, before):
        scratch.write(_REMOVED, table)
    for table in read_tables(store, files):
        own = table.filter(pc.and_(pc.equal(table["unit"], number), table["reason"].is_valid()))
        if own.num_rows:
            scratch.write(_REMOVED, own.select(["row"]))
    return {"passed": float(records)}
