"""From an answer to the values of its schema, and what is wrong with it."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

from jsonschema.exceptions import best_match
from jsonschema.validators import Draft202012Validator
from referencing import Registry

from raymill.cluster.asking.endpoint import Reply, valid_text
from raymill.cluster.guard import Exceeded, Guard, WorkBounds
from raymill.pipelines.generate.template import Refusal, Step, complete_schema
from raymill.pipelines.prepare.augment.pieces import Keep, Kept, similarity
from raymill.pipelines.prepare.records.validate import REASONS as of_rules
from raymill.pipelines.prepare.stages.duplicates import same

# Why a request, or what was made of its answer, is not among the records.
REASONS = {
    "missing_field": "the seed has no value of a field that the template needs",
    "template_error": "the template cannot be filled in with these values",
    "too_large": "the seed, with what the answers made of it, or the prompt takes too much memory",
    "empty_prompt": "the template makes an empty prompt of the seed",
    "refused_request": "the server refused the request (400, 413 or 422)",
    "no_answer": "no answer after all tries",
    "refused": "the model refused",
    "filtered": "the provider's filter withheld the answer",
    "truncated": "the answer ended at the largest number of tokens",
    "empty": "the answer, or a field of the record, has no text",
    "unparsable": "the answer is no JSON",
    "other_form": "the JSON of the answer does not have the form of the schema",
    "too_slow": "checking the answer against the schema takes too long, or too much memory",
    "no_record": "the answer makes no record of the shape",
    "nothing_made": "the list of the answer is empty",
    "quote_missing": "the quote does not stand in the text",
    "copies_prompt": "the answer has a phrase of the prompt",
    "repeats_seed": "the answer repeats the seed",
    "too_near": "the answer is as similar to the seed as the template's `similarity`, or more",
    "too_far": "the answer is less similar to the seed than the template's `similarity`",
    "lost_text": "the answer lacks something of the seed's text that must stay, or has another number",
    "not_kept": "the template's condition `keep` is not met",
    "language_not_kept": "the record is not in a language of `languages`, or of `validate.language.keep`",
    "other_sample": "another answer to the same prompt, which the template needs too, cannot be used",
    "not_scored": "it has no reward: it is longer than the reward model takes, the chat template or tokenizer of that "
    "model fails, or the judge's answer has no points",
    "not_best": "other records of the seed have a higher reward (`reward.per_seed`)",
    "low_reward": "the reward is below `reward.min_score`, or not in `reward.fraction`",
    "exact_duplicate": "another record has the same text",
    "near_duplicate": "another record has nearly the same text",
}


def meaning(reason: str) -> str:
    """The meaning of a reason in words, also of one of `validate`."""
    return REASONS.get(reason) or of_rules.get(reason, "a rule of `validate.custom` or `validate.rules.custom`")


_FENCED = re.compile(r"```(?:json)?[ \t\r]*\n(.*?)```", re.DOTALL)
_OF_AN_ANSWER = WorkBounds(5.0, 1 << 30)
_DEEPEST = 50
# Keywords by which a schema takes properties that it does not name.
_OTHERS = {"additionalProperties", "patternProperties", "unevaluatedProperties"}
_SPACES = re.compile(r"\s+")
_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "–": "-", "—": "-"})


class AnswerReader:
    """Makes items of the answers to a step: what a record is made of each.

    most_items: more are no honest answer. It is the largest number of tokens of an answer, of which an item takes one.
    """

    def __init__(self, step: Step, most_items: int) -> None:
        self._step, self._most_items = step, most_items
        # Schemas and patterns may take any time on a long answer, or go as deep as it.
        self._values: Guard[str, Any] | None = None
        if step.answer is not None:
            self._values = _reader_of_values(json.dumps(complete_schema(step.answer)))

    def items(self, reply: Reply) -> list[dict[str, Any]]:
        """The values of the schema, of each item of the list `each` if the step has one; of a plain answer `text`.

        Raises:
            Refusal: there are none, with the reason.
        """
        if reply.outcome == "refused":
            raise Refusal("refused_request", reply.reason)
        if reply.outcome != "answered":
            raise Refusal("no_answer", reply.reason)
        if reply.finish == "content_filter":
            raise Refusal("filtered")
        if reply.refusal:
            raise Refusal("refused", reply.refusal)
        if reply.finish == "length":
            raise Refusal("truncated")
        content = (reply.content or "").strip()
        if not content:
            raise Refusal("empty")
        if self._values is None:
            return [{"text": content}]
        try:
            value = self._values(content, _OF_AN_ANSWER)
        except Exceeded as error:
            raise Refusal("too_slow", str(error)) from error
        if self._step.each is None:
            return [value]
        found = value.get(self._step.each)
        if not isinstance(found, list):
            raise Refusal("other_form", f"{self._step.each} is missing")
        if not found:
            raise Refusal("nothing_made")
        if len(found) > self._most_items:
            raise Refusal("other_form", f"{len(found):,} items; an answer has at most {self._most_items:,} tokens")
        return [one if isinstance(one, dict) else {"text": one} for one in found]


@lru_cache(maxsize=16)
def _reader_of_values(schema: str) -> Guard[str, Any]:
    """What reads the values of an answer, in a child process that the units of this process share. schema: as JSON."""
    plain = json.loads(schema)
    # Without a registry of its own, jsonschema loads references from the network.
    return Guard(partial(_checked_value, plain, Draft202012Validator(plain, registry=Registry())))


def _checked_value(schema: Mapping[str, Any], validator: Draft202012Validator, content: str) -> dict[str, Any]:
    """The JSON object of an answer, with the properties of the schema and no others. For a Guard.

    Raises:
        Refusal: there is none of this form.
    """
    value = _without_others(_json_in(content, schema), schema)
    try:
        error = best_match(validator.iter_errors(value))
        if error is not None:
            raise Refusal("other_form", error.message)
    except RecursionError as error:
        raise Refusal("other_form", "nested too deeply") from error
    except ArithmeticError as error:  # multipleOf of a number without a float
        raise Refusal("other_form", "a number is too large") from error
    if not isinstance(value, dict):
        raise Refusal("other_form", f"{type(value).__name__}, wanted an object")
    return value


def _without_others(value: Any, schema: Any) -> Any:
    """The value without properties that the schema does not name: in a record they would hide fields of the seed."""
    if not isinstance(schema, dict):
        return value
    if isinstance(value, list):
        return [_without_others(one, schema.get("items")) for one in value]
    properties = schema.get("properties")
    if isinstance(value, dict) and isinstance(properties, dict):
        taken = {name: _without_others(one, properties[name]) for name, one in value.items() if name in properties}
        return value | taken if _OTHERS & schema.keys() else taken
    return value


def _json_in(content: str, schema: Mapping[str, Any]) -> Any:
    """The JSON of an answer: all of it, or the one in it, in the form of the schema if it has another name for it."""
    fenced = _FENCED.search(content)
    texts = [content, fenced[1] if fenced else ""]
    for first, last in (("{", "}"), ("[", "]")):
        start, end = content.find(first), content.rfind(last)
        texts.append(content[start : end + 1] if 0 <= start < end else "")
    for text in filter(None, texts):
        try:
            value = json.loads(text, parse_constant=_refused, parse_float=_finite)
            if isinstance(value, dict | list):
                return _as_list_of(_plain_text(value), schema.get("properties", {}))
        except (ValueError, RecursionError):
            continue
    raise Refusal("unparsable", content[:200])


def _as_list_of(value: Any, properties: Mapping[str, Any]) -> Any:
    """An answer to a schema whose only property is a list: a bare list, a list under another name, or a single item.

    Servers that cannot be told the schema answer so.
    """
    name, *others = [*properties, ""]
    if others != [""] or properties[name].get("type") != "array":
        return value
    if isinstance(value, list):
        return {name: value}
    if name in value:
        return value
    if len(value) == 1 and isinstance(inner := next(iter(value.values())), list):
        return {name: inner}
    wanted = properties[name].get("items", {}).get("properties", {})
    return {name: [value]} if wanted and all(one in value for one in wanted) else value


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    if math.isinf(found := float(digits)):
        return _refused(digits)
    return found


def _plain_text(value: Any, depth: int = 0) -> Any:
    """The value with texts that can be written as UTF-8.

    Raises:
        ValueError: it is nested too deeply to be written as JSON again, wherever that is done.
    """
    if isinstance(value, str):
        return valid_text(value)
    if depth == _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} levels")
    if isinstance(value, list):
        return [_plain_text(one, depth + 1) for one in value]
    if isinstance(value, dict):
        return {valid_text(name): _plain_text(one, depth + 1) for name, one in value.items()}
    return value


@dataclass(frozen=True)
class AnswerRules:
    """The rules of a step for what is made of the answers about a seed. seed: its fields."""

    step: Step
    seed: Mapping[str, Any]

    @cached_property
    def _compared(self) -> str:
        return same(str(self.seed.get(self.step.differs or "", "")))

    @cached_property
    def _kept(self) -> dict[Kept, Counter[str]]:
        """Of each kind of text that must stay, what the seed has."""
        text = str(self.seed.get("text", ""))
        return {kind: Counter(Keep((kind,)).found(text)) for kind in self.step.keeps}

    @cached_property
    def _quoted(self) -> str:
        return _plain(str(self.seed.get("text", "")))

    def refuse(self, value: Mapping[str, Any]) -> None:
        """Check what an answer made.

        Raises:
            Refusal: it breaks a rule.
        """
        step = self.step
        texts = [one for one in value.values() if isinstance(one, str)]
        if any(not one.strip() for one in texts):
            raise Refusal("empty")
        lowered = " ".join(texts).lower()
        for phrase in step.never:
            if phrase.lower() in lowered:
                raise Refusal("copies_prompt", phrase)
        if step.differs is not None and any(same(one) == self._compared for one in texts):
            raise Refusal("repeats_seed")
        if step.similarity is not None and step.differs is not None:
            least, most = step.similarity
            near = similarity(str(self.seed.get(step.differs, "")), " ".join(texts))
            if near < least or near >= most:
                raise Refusal("too_far" if near < least else "too_near", f"{near:.3g}")
        for kind, wanted in self._kept.items():
            has = Counter(Keep((kind,)).found(" ".join(texts)))
            if lost := [*(wanted - has)] or (kind == "numbers" and [*(has - wanted)]):
                raise Refusal("lost_text", f"{kind}: {lost[0]}")
        if step.quote is not None:
            quote = value.get(step.quote)
            if not isinstance(quote, str) or _plain(quote) not in self._quoted:
                raise Refusal("quote_missing", str(quote)[:200])


def _plain(text: str) -> str:
    """A text without differences that a quote may have: case, white space, kinds of quotation marks and dashes."""
    return _SPACES.sub(" ", text.translate(_QUOTES)).strip().strip(".\"'").lower()
