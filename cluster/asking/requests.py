"""A request to a model, and the key of its answer.

The key is a hash of everything that changes the answer, and of nothing else: the class of the address, the model and
its revision, all messages, the sampling, the schema and the number of the sample. The record that is asked for, the
secret, time-outs and prices are not in it, so equal requests of any record, run or machine have one answer.
"""

import hashlib
import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_OF_PROMPT, _OF_ALL = 12, 20  # hex digits

Message = Mapping[str, Any]


@dataclass(frozen=True)
class ModelRequest:
    """A request. key: 32 hex digits, the first 12 of them by the prompt alone, so that requests with one prompt are
    neighbours in the order of keys. body: the JSON object that is sent.
    """

    key: str
    body: str

    @property
    def plain(self) -> dict[str, Any]:
        """The body as JSON values."""
        return json.loads(self.body)


def request_of(asked: Mapping[str, Any], body: Mapping[str, Any], sample: int = 0) -> ModelRequest:
    """The request with this body.

    Args:
        asked: what is asked, apart from the body: the class of the address, the revision of the model.
        body: of the interface for chat completions; `messages` is the prompt, or `input` of embeddings.
        sample: number of the sample, for several answers to the same body.
    """
    prompt = {name: body.get(name) for name in ("model", "messages", "input", "tools")}
    everything = {"asked": dict(asked), "body": dict(body), "sample": sample}
    return ModelRequest(_digits(prompt, _OF_PROMPT) + _digits(everything, _OF_ALL), canonical(body))


def canonical(value: Any) -> str:
    """JSON of a value, the same for equal values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _digits(value: Any, count: int) -> str:
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()[:count]


def address_class(url: str) -> str:
    """What of an endpoint's address changes its answers: its host and path; of a host of the own network "private".

    A server of one's own may move to another machine or port, and its model keeps its name.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    try:
        is_private = not ipaddress.ip_address(host).is_global
    except ValueError:
        is_private = "." not in host or host.endswith((".local", ".internal", ".svc", ".localhost"))
    return "private" if is_private else f"{host}{parts.path.rstrip('/')}"


def sample_seed(seed: int, sample: int, messages: Sequence[Message]) -> int:
    """The seed that is sent for a sample of an answer: the same on every machine.

    It differs with the messages, because a server draws the same random numbers for equal seeds: similar prompts would
    get similar answers.
    """
    return int(_digits([seed, sample, messages], 8), 16) >> 1  # many servers take 31 bits


def boundaries(count: int) -> list[str]:
    """The first key of each of `count` ranges of equal width, in order."""
    digits = 8
    return [f"{round(index * 16**digits / count):0{digits}x}" if index else "" for index in range(count)]


def range_of(key: str, firsts: Sequence[str]) -> int:
    """The range that a key is in. firsts: of `boundaries`."""
    low, high = 0, len(firsts)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if key >= firsts[middle] else (low, middle)
    return low
