"""Variants, the combinations of model, prompt and examples; items; and the requests of a variant about an item."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import meta

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.content import COLUMNS, Shape, from_shape, question_and_answer
from raymill.cluster.examples.splits import hash64
from raymill.cluster.run import RunFolder
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.generate.template import Refusal, jinja, rendered
from raymill.pipelines.prompting.config import PromptConfig, PromptText


@dataclass(frozen=True)
class PromptVariant:
    """model, prompt: their names in the config. by: how the examples are chosen; empty without examples."""

    model: str
    prompt: str
    examples: int
    by: str


@dataclass(frozen=True)
class Item:
    """A record with a question and its answer."""

    id: str
    question: str
    answer: str


def variants_of(config: PromptConfig) -> list[PromptVariant]:
    """All combinations of a config, in its order."""
    found = dict[PromptVariant, None]()
    for model in config.models:
        for name, prompt in config.prompts.items():
            numbers = config.examples.number if prompt.examples is None else (prompt.examples,)
            for number in numbers:
                ways = (prompt.by,) if prompt.by else config.examples.by
                for by in ways if number else ("",):
                    found[PromptVariant(model, name, number, by)] = None
    return list(found)


def refuse_wrong_prompts(prompts: Mapping[str, PromptText]) -> None:
    """Fill in each prompt once.

    Raises:
        ConfigError: one cannot be filled in, or does not have the item's question.
    """
    for name, one in prompts.items():
        try:
            messages = messages_of(one, "the question", [Item("", "an example", "its answer")])
        except Refusal as error:
            raise ConfigError(
                f"prompts.{name}: {error.seen}. There are {{{{ prompt }}}} and {{{{ examples }}}}, a list of "
                "{prompt, answer}."
            ) from error
        if not any("the question" in message["content"] for message in messages):
            raise ConfigError(f"prompts.{name}: has no {{{{ prompt }}}}, so all items have one answer. Put it in.")


def messages_of(prompt: PromptText, question: str, examples: Sequence[Item]) -> list[dict[str, str]]:
    """The messages of a request.

    Raises:
        Refusal: the prompt cannot be filled in.
    """

    def asked(question: str, shown: Sequence[Item]) -> str:
        listed = [{"prompt": one.question, "answer": one.answer} for one in shown]
        return rendered(prompt.prompt, {"prompt": question, "examples": listed}).strip()

    messages = [{"role": "system", "content": system}] if (system := rendered(prompt.system, {}).strip()) else []
    whole = asked(question, examples)
    if "examples" in meta.find_undeclared_variables(jinja.parse(prompt.prompt)):
        return [*messages, {"role": "user", "content": whole}]
    for one in examples:
        messages.append({"role": "user", "content": asked(one.question, [])})
        messages.append({"role": "assistant", "content": one.answer})
    return [*messages, {"role": "user", "content": whole}]


def items_of(store: Store, data: str, split: str, seed: int, most: int | None) -> list[Item]:
    """Records of a split with a question and an answer: those with the smallest hashes, in the order of their ids.

    Raises:
        DataError: `data` is no data set, none of its records has a question and an answer, or one has no text there.
    """
    run = RunFolder(store, data)
    run.require("prepare", "Point `data` at the output of `raymill prepare`.")
    shape: Shape = run.report("shape")["shape"]
    if not isinstance(shape, str) or shape not in COLUMNS:
        raise DataError(f"{data}: its report names {shape!r:.80} as shape, which `raymill prepare` does not make.")
    artifact = Artifact.load(store, paths.join(data, split))
    columns = [name for name in artifact.schema.names if name in COLUMNS[shape]]

    def hashed() -> Any:
        for table in artifact.tables(["id", *columns]):
            for row in table.to_pylist():
                try:
                    sides = question_and_answer(from_shape(row, shape))
                    if sides:
                        key = hash64(str(seed).encode(), row["id"].encode())
                        yield key, row["id"], *map(_text, sides)
                except (TypeError, ValueError, KeyError, AttributeError, IndexError, StopIteration) as error:
                    raise DataError(
                        f"{artifact.uri}: the record {row['id']!r:.80} is none that `raymill prepare` writes "
                        f"({type(error).__name__}). Make the data set again."
                    ) from error

    drawn = heapq.nsmallest(most, hashed()) if most is not None else list(hashed())
    if not drawn:
        raise DataError(
            f"{paths.join(data, split)}: no record with a question and an answer. Prepare pairs or messages, and a "
            f"split {split} that is not empty."
        )
    return [Item(*one) for _, *one in sorted(drawn, key=lambda one: one[1])]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
