"""From an answer to the values of its schema, and what is wrong with it."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jsonschema

from raymill.cluster.asking.endpoint import Reply
from raymill.pipelines.generate.template import Refusal, Step
from raymill.pipelines.prepare.augment.pieces import Keep, similarity
from raymill.pipelines.prepare.stages.duplicates import same

# Why a request, or what was made of its answer, is not among the records.
REASONS = {
    "missing_field": "the seed has no value of a field that the template needs",
    "template_error": "the template cannot be filled in with these values",
    "empty_prompt": "the template makes an empty prompt of the seed",
    "refused_request": "the server refused the request (400, 413 or 422)",
    "no_answer": "no answer after all tries",
    "refused": "the model refused",
    "filtered": "the provider's filter withheld the answer",
    "truncated": "the answer ended at the largest number of tokens",
    "empty": "the answer, or a field of the record, has no text",
    "unparsable": "the answer is no JSON",
    "other_form": "the JSON of the answer does not have the form of the schema",
    "no_record": "the answer makes no record of the shape",
    "nothing_made": "the list of the answer is empty",
    "quote_missing": "the quote does not stand in the text",
    "copies_prompt": "the answer has a phrase of the prompt",
    "repeats_seed": "the answer repeats the seed",
    "too_near": "the answer is as similar to the seed as the template's `similarity`, or more",
    "too_far": "the answer is less similar to the seed than the template's `similarity`",
    "lost_text": "the answer lacks something of the seed's text that must stay, or has another number",
    "not_kept": "the template's condition `keep` is not met",
    "other_language": "the record is not in a language of `languages`",
    "other_sample": "another answer to the same prompt, which the template needs too, cannot be used",
    "exact_duplicate": "another record has the same text",
    "near_duplicate": "another record has nearly the same text",
}

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_SPACES = re.compile(r"\s+")
_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "–": "-", "—": "-"})


def value_of(reply: Reply, step: Step) -> dict[str, Any]:
    """The values of an answer: those of its schema, or its text as `text`.

    Raises:
        Refusal: it has none, with the reason.
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
    if step.answer is None:
        return {"text": content}
    value = _json_in(content, step.answer)
    try:
        jsonschema.Draft202012Validator(step.answer).validate(value)
    except jsonschema.ValidationError as error:
        raise Refusal("other_form", error.message[:200]) from error
    if not isinstance(value, dict):
        raise Refusal("other_form", f"{type(value).__name__}, wanted an object")
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
            value = json.loads(text, parse_constant=_refused)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            return _as_list_of(value, schema.get("properties", {}))
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


def items_of(value: Mapping[str, Any], step: Step) -> list[dict[str, Any]]:
    """What a record is made of each.

    Raises:
        Refusal: the list of the answer is empty, or none.
    """
    if step.each is None:
        return [dict(value)]
    found = value.get(step.each)
    if not isinstance(found, list):
        raise Refusal("other_form", f"{step.each} is missing")
    if not found:
        raise Refusal("nothing_made")
    return [one if isinstance(one, dict) else {"text": one} for one in found]


def refuse(value: Mapping[str, Any], step: Step, seed: Mapping[str, Any]) -> None:
    """Check what an answer made against the rules of its step.

    Raises:
        Refusal: it breaks one.
    """
    texts = [one for one in value.values() if isinstance(one, str)]
    if any(not one.strip() for one in texts):
        raise Refusal("empty")
    lowered = " ".join(texts).lower()
    for phrase in step.never:
        if phrase.lower() in lowered:
            raise Refusal("copies_prompt", phrase)
    if step.differs is not None:
        before = same(str(seed.get(step.differs, "")))
        if any(same(one) == before for one in texts):
            raise Refusal("repeats_seed")
    if step.similarity is not None and step.differs is not None:
        least, most = step.similarity
        near = similarity(str(seed.get(step.differs, "")), " ".join(texts))
        if near < least or near >= most:
            raise Refusal("too_far" if near < least else "too_near", f"{near:.3g}")
    for kind in step.keeps:
        wanted, has = (Counter(Keep((kind,)).found(text)) for text in (str(seed.get("text", "")), " ".join(texts)))
        if lost := [*(wanted - has)] or (kind == "numbers" and [*(has - wanted)]):
            raise Refusal("lost_text", f"{kind}: {lost[0]}")
    if step.quote is not None:
        quote = value.get(step.quote)
        if not isinstance(quote, str) or _plain(quote) not in _plain(str(seed.get("text", ""))):
            raise Refusal("quote_missing", str(quote)[:200])


def _plain(text: str) -> str:
    """A text without differences that a quote may have: case, white space, kinds of quotation marks and dashes."""
    return _SPACES.sub(" ", text.translate(_QUOTES)).strip().strip(".\"'").lower()
