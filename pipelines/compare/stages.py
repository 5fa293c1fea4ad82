"""The stages of `raymill compare` after the answers: log-likelihoods, and the pairs that a judge is shown."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raymill.cluster.artifact import Counters, read_tables
from raymill.cluster.entry import Entry
from raymill.cluster.output import changed
from raymill.cluster.stage import Scratch
from raymill.cluster.store.store import Store
from raymill.pipelines.prompting.stages import request_rows

LIKELIHOOD_SCHEMA = pa.schema(
    [
        ("item", pa.int32()),
        ("reference_log", pa.float64()),  # sum of log-probabilities; NaN where there is none
        ("reference_tokens", pa.int32()),
        ("answer_log", pa.float64()),
        ("answer_tokens", pa.int32()),
    ]
)
PAIRS_SCHEMA = pa.schema(
    [("id", pa.string()), ("text", pa.large_string()), ("a", pa.large_string()), ("b", pa.large_string())]
)
_DIGITS = 6  # of log-probabilities, whose last bits depend on the number of threads
load_model = Entry("raymill.training.evaluation.answering:folder_model")  # it loads transformers


@dataclass(frozen=True)
class MeasureLikelihood:
    """The work of a stage `likelihood.MODEL`: the log-probabilities of references and of the model's own answers.

    requests: sliced files with the requests to the model. items: files of the artifact `items`.
    """

    name: str
    store: Store
    requests: tuple[str, ...]
    items: tuple[str, ...]

    def __call__(self, unit: tuple[int, Sequence[str]], scratch: Scratch, model: Any) -> Counters:
        """unit: (number of the range of requests, files with the answers to them). Counters: `measured`."""
        number, answers = unit
        asked = {(row["variant"], row["item"]): row["body"] for row in request_rows(self.store, self.requests, number)}
        references = [one for table in read_tables(self.store, self.items) for one in table["answer"].to_pylist()]
        rows = []
        for row in (row for table in read_tables(self.store, answers) for row in table.to_pylist()):
            messages = json.loads(asked[row["variant"], row["item"]])["messages"]
            found = {"item": row["item"]}
            for side, text in (("reference", references[row["item"]]), ("answer", row["content"] or "")):
                log, tokens = model.log_likelihood(messages, text)
                found |= {f"{side}_log": round(log, _DIGITS), f"{side}_tokens": tokens}
            rows.append(found)
        if rows:
            scratch.write(f"likelihood_of.{self.name}", pa.Table.from_pylist(rows, LIKELIHOOD_SCHEMA))
        return {"measured": len(rows)}


@dataclass(frozen=True)
class MakePairs:
    """The work of a stage `pairs.MODEL`: items for which both models have an answer, and these differ.

    items, first, second: files of the items and of the answers of two models. name: of the second model.
    """

    name: str
    store: Store
    items: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]

    def __call__(self, _: int, scratch: Scratch) -> Counters:
        """Counters: `pairs`."""
        items = [row for table in read_tables(self.store, self.items) for row in table.to_pylist()]
        a, b = (rows_by_item(self.store, one, len(items)) for one in (self.first, self.second))
        rows = []
        for at, (item, one, other) in enumerate(zip(items, a, b, strict=True)):
            left, right = (row["content"] or "" for row in (one, other))
            if left.strip() and right.strip() and left != right:
                rows.append({"id": str(at), "text": item["question"], "a": left, "b": right})
        scratch.write(f"pairs_of.{self.name}", pa.Table.from_pylist(rows, PAIRS_SCHEMA))
        return {"pairs": len(rows)}


def rows_by_item(store: Store, uris: Sequence[str], count: int) -> list[dict[str, Any]]:
    """The rows of a table with the column `item`, in the order of the items.

    Raises:
        DataError: an item has no row or several, so a file was changed.
    """
    rows = [row for table in read_tables(store, uris) for row in table.to_pylist()]
    rows.sort(key=lambda row: (row["item"] is None, row["item"]))
    if [row["item"] for row in rows] != list(range(count)):
        raise changed(uris[0])
    return rows
