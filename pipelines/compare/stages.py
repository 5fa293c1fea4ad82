"""The stages of `raymill compare` after the answers: log-likelihoods, rewards, and the pairs that a judge is shown."""

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
from raymill.pipelines.rewards import Scoring, scored

LIKELIHOOD_SCHEMA = pa.schema(
    [
        ("item", pa.int32()),
        ("reference_log", pa.float64()),  # sum of log-probabilities; NaN where there is none
        ("reference_tokens", pa.int32()),
        ("answer_log", pa.float64()),
        ("answer_tokens", pa.int32()),
    ]
)
BASE_SCHEMA = pa.schema([LIKELIHOOD_SCHEMA.field(name) for name in ("item", "answer_log", "answer_tokens")])
REWARD_SCHEMA = pa.schema([("item", pa.int32()), ("score", pa.float64())])  # NaN: none
PAIRS_SCHEMA = pa.schema(
    [("id", pa.string()), ("text", pa.large_string()), ("a", pa.large_string()), ("b", pa.large_string())]
)
_DIGITS = 6  # of log-probabilities, whose last bits depend on the number of threads
load_model = Entry("raymill.training.evaluation.answering:folder_model")  # it loads transformers


@dataclass(frozen=True)
class MeasureLikelihood:
    """The work of the stages `likelihood.MODEL`, the log-probabilities of references and of the model's own answers,
    and `kl.MODEL`, those of its answers by another model.

    output: name of the artifact. schema: LIKELIHOOD_SCHEMA or BASE_SCHEMA. requests: sliced files with the requests to
    the model. items: files of the artifact `items`.
    """

    output: str
    schema: pa.Schema
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
                if f"{side}_log" not in self.schema.names:
                    continue
                log, tokens = model.log_likelihood(messages, text)
                found |= {f"{side}_log": round(log, _DIGITS), f"{side}_tokens": tokens}
            rows.append(found)
        if rows:
            scratch.write(self.output, pa.Table.from_pylist(rows, self.schema))
        return {"measured": len(rows)}


@dataclass(frozen=True)
class RewardAnswers:
    """The work of a stage `reward.NAME.MODEL`: the rewards of a model's answers to the items' questions.

    output: name of the artifact. items: files of the artifact `items`.
    """

    output: str
    store: Store
    items: tuple[str, ...]

    def __call__(self, answers: Sequence[str], scratch: Scratch, reward: Scoring) -> Counters:
        """answers: files with some of the model's answers. Counters: `measured`."""
        asked = [one for table in read_tables(self.store, self.items) for one in table["question"].to_pylist()]
        rows = [row for table in read_tables(self.store, answers) for row in table.to_pylist()]
        there = [row for row in rows if row["content"] is not None]
        scores = scored(
            reward,
            [
                [{"role": "user", "content": asked[row["item"]]}, {"role": "assistant", "content": row["content"]}]
                for row in there
            ],
        )
        of_item = {row["item"]: score for row, score in zip(there, scores, strict=True)}
        found = [{"item": row["item"], "score": of_item.get(row["item"], float("nan"))} for row in rows]
        scratch.write(self.output, pa.Table.from_pylist(found, REWARD_SCHEMA))
        return {"measured": len(there)}


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
