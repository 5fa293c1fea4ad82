"""The stages of `raymill prompt`: the items with the requests about them, and the answers of each model."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raymill.cluster.artifact import Counters
from raymill.cluster.asking.answers import AnswerRange
from raymill.cluster.asking.backends import Backends, Connected
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.asking.requests import ModelRequest, range_of
from raymill.cluster.asking.settings import ModelSettings
from raymill.cluster.entry import Entry
from raymill.cluster.errors import DataError
from raymill.cluster.formats import plural
from raymill.cluster.output import changed, read_slices, table_of, table_slice
from raymill.cluster.stage import Scratch
from raymill.cluster.store.store import Store
from raymill.pipelines.embedder import Embedder, embedder_of
from raymill.pipelines.prompting.choose import Pool
from raymill.pipelines.prompting.config import PromptConfig
from raymill.pipelines.prompting.variants import Item, PromptVariant, items_of, messages_of

# It loads scikit-learn.
_fit_embedding = Entry("raymill.pipelines.prepare.assess.vectors:fit_embedding")

ITEMS, EXAMPLES, SWAPPED = "items", "examples", "swapped"
_DIMENSIONS = 128  # of vectors
_MOST_CHARACTERS = 1 << 30  # of all requests, which the stage that makes them holds

REQUESTS_SCHEMA = pa.schema(
    [("variant", pa.int32()), ("item", pa.int32()), ("key", pa.string()), ("body", pa.large_string())]
)
# Characters of a token, at most on average: the time of a score grows with the answer times the reference.
_TOKEN_CHARS = 32
ANSWERS_SCHEMA = pa.schema(
    [
        ("variant", pa.int32()),
        ("item", pa.int32()),
        ("key", pa.string()),
        ("outcome", pa.string()),  # answered, refused, again
        ("reason", pa.string()),
        ("finish", pa.string()),  # as of the endpoint; length: truncated at `sampling.max_tokens`
        ("content", pa.large_string()),
        ("tokens", pa.struct([(name, pa.int64()) for name in ("input", "cached", "output", "reasoning")])),
        ("seconds", pa.float64()),
    ]
)
SECONDS_SCHEMA = pa.schema([("variant", pa.int32()), ("item", pa.int32()), ("seconds", pa.float64())])
EXAMPLES_SCHEMA = pa.schema([("variant", pa.int32()), ("item", pa.string()), ("examples", pa.list_(pa.string()))])
ITEMS_SCHEMA = pa.schema([("id", pa.string()), ("question", pa.large_string()), ("answer", pa.large_string())])
SWAPPED_SCHEMA = pa.schema([("item", pa.int32()), ("question", pa.large_string())])


@dataclass(frozen=True)
class Draft:
    """The work of the stage `items`.

    firsts: the first key of each range of requests, by model. embedding: the endpoints for vectors.
    swap: changes the questions of some items, which are asked a second time. These requests have the number of their
        variant plus the number of variants.
    """

    config: PromptConfig
    models: Mapping[str, ModelSettings]
    variants: tuple[PromptVariant, ...]
    firsts: Mapping[str, tuple[str, ...]]
    embedding: EmbeddingRun
    swap: Callable[[str], str] | None = None

    def __call__(self, _: int, scratch: Scratch) -> Counters:
        """Counters: `items`, `pool`, `requests`, and `fewer`, requests with fewer examples than wanted."""
        config, store = self.config, self.config.store
        items = items_of(store, config.data, config.split, config.sampling.seed, config.items)
        scratch.write(ITEMS, pa.Table.from_pylist([vars(one) for one in items], ITEMS_SCHEMA))
        variants = self.variants
        shown = examples_of(config, items, self.embedding) if any(one.examples for one in variants) else None
        by_model: dict[str, list[list[dict[str, Any]]]] = {
            name: [[] for _ in keys] for name, keys in self.firsts.items()
        }
        swapped = [
            (at, new) for at, one in enumerate(items) if self.swap and (new := self.swap(one.question)) != one.question
        ]
        if self.swap:
            rows = [{"item": at, "question": text} for at, text in swapped]
            scratch.write(SWAPPED, pa.Table.from_pylist(rows, SWAPPED_SCHEMA))
        asked = [(0, at, one.question) for at, one in enumerate(items)] + [(len(variants), *one) for one in swapped]
        chosen, fewer, size = [], 0, 0
        for number, variant in enumerate(variants):
            for offset, at, question in asked:
                item = items[at]
                examples = shown(variant, at) if shown and variant.examples else []
                messages = messages_of(config.prompts[variant.prompt], question, examples)
                one = self.models[variant.model].request(config.sampling, messages)
                if (size := size + len(one.body)) > _MOST_CHARACTERS:
                    raise DataError(
                        f"{config.data}: the requests about {plural(len(items), 'item')} in "
                        f"{plural(len(variants), 'variant')} have over {_MOST_CHARACTERS:,} characters: questions or "
                        f"answers there are too long (the item {item.id!r:.80} has {len(item.question):,}). Lower "
                        "`items` or `examples.number`, or leave long records out of the data set."
                    )
                row = {"variant": offset + number, "item": at, "key": one.key, "body": one.body}
                by_model[variant.model][range_of(one.key, self.firsts[variant.model])].append(row)
                if not offset:
                    fewer += len(examples) < variant.examples
                    chosen.append({"variant": number, "item": item.id, "examples": [one.id for one in examples]})
        scratch.write(EXAMPLES, pa.Table.from_pylist(chosen, EXAMPLES_SCHEMA))
        for name, ranges in by_model.items():
            tables = (pa.Table.from_pylist(rows, REQUESTS_SCHEMA) if rows else None for rows in ranges)
            scratch.write_slices(f"_work/requests.{name}", [b"" if one is None else table_slice(one) for one in tables])
        return {"items": len(items), "requests": len(asked) * len(variants), "fewer": fewer}


def examples_of(
    config: PromptConfig, items: Sequence[Item], embedding: EmbeddingRun
) -> Callable[[PromptVariant, int], list[Item]]:
    """`examples(variant, number of the item)`: the examples before an item, in the order in which they stand."""
    examples, seed = config.examples, config.sampling.seed
    records = items_of(config.store, config.data, "train", seed, examples.pool)
    questions = [one.question for one in records]
    embedder: Embedder
    if (model := config.embedding_models.get("examples.model")) is None:
        embedder = _fit_embedding.load()(questions, _DIMENSIONS)
    else:
        embedder = embedder_of(model, config.store, embedding, "examples.model")
    pool = Pool(
        [one.id for one in records], questions, [one.answer for one in records], embedder.embed(questions), seed,
        examples.near, examples.balanced,
    )  # fmt: skip
    vectors = embedder.embed([one.question for one in items])

    def shown(variant: PromptVariant, at: int) -> list[Item]:
        item = items[at]
        found = pool.examples(variant.by, variant.examples, item.id, item.question, vectors[at])
        return [records[one] for one in found]

    return shown


@dataclass(frozen=True)
class AskModel:
    """The work of a stage `ask.MODEL`.

    name: of the model. uris: the sliced files with its requests. firsts: the first key of each range of these.
    seconds_apart: whether the seconds of answers are in an artifact of their own.
    variants: number of variants; answers of higher ones are to swapped questions, in an artifact of their own.
    """

    name: str
    backends: Backends
    uris: tuple[str, ...]
    firsts: tuple[str, ...]
    max_tokens: int
    most_unanswered: float
    seconds_apart: bool = False
    variants: int | None = None

    def __call__(self, unit: int, scratch: Scratch, backend: Connected) -> Counters:
        """Counters: `asked`, different requests.

        Raises:
            DataError: a request does not have the key of its body, or is of another range.
        """
        rows = request_rows(self.backends.answers.store, self.uris, unit)
        requests = {row["key"]: self._request(row, unit) for row in rows}
        last = self.firsts[unit + 1] if unit + 1 < len(self.firsts) else ""
        keys = AnswerRange(self.firsts[unit], last)
        found = self.backends.ask(backend, requests, keys, self.max_tokens, self.most_unanswered) if rows else {}
        made = []
        for row in rows:
            reply = found[row["key"]].reply
            reason, content = reply.reason or reply.refusal or None, reply.content
            if content is not None and len(content) > _TOKEN_CHARS * self.max_tokens:
                reason, content = f"{len(content):,} characters, more than `sampling.max_tokens` have", None
            made.append(
                {
                    "variant": row["variant"],
                    "item": row["item"],
                    "key": row["key"],
                    "outcome": reply.outcome,
                    "reason": reason,
                    "finish": reply.finish,
                    "content": content if reply.outcome == "answered" and not reply.refusal else None,
                    "tokens": vars(reply.tokens),
                    "seconds": reply.seconds,
                }
            )
        if self.variants is not None:
            swapped = [row for row in made if row["variant"] >= self.variants]
            made = [row for row in made if row["variant"] < self.variants]
            if swapped:
                table = pa.Table.from_pylist(swapped, ANSWERS_SCHEMA)
                scratch.write(f"swapped_answers_of.{self.name}", table.drop_columns("seconds"))
        if made:
            table = pa.Table.from_pylist(made, ANSWERS_SCHEMA)
            if self.seconds_apart:
                scratch.write(f"_work/seconds.{self.name}", table.select(SECONDS_SCHEMA.names))
                table = table.drop_columns("seconds")
            scratch.write(f"answers_of.{self.name}", table)
        return {"asked": len(requests)}

    def _request(self, row: Mapping[str, Any], unit: int) -> ModelRequest:
        """The request of a row. In a changed file it could have the key of another, whose answer it would then be.

        Raises:
            DataError: it has another key.
        """
        try:
            made = self.backends.model.request_with(json.loads(row["body"]))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise changed(self.uris[0]) from error
        if (made.key, made.body) != (row["key"], row["body"]) or range_of(made.key, self.firsts) != unit:
            raise changed(self.uris[0])
        return made


def request_rows(store: Store, uris: Sequence[str], unit: int) -> list[dict[str, Any]]:
    """The requests of a range, as rows of REQUESTS_SCHEMA. uris: the sliced files with the requests."""
    tables = [one for one in read_slices(store, uris, unit, table_of) if one is not None]
    return pa.concat_tables([REQUESTS_SCHEMA.empty_table(), *tables]).to_pylist()
