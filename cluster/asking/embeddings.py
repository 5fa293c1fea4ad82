"""Vectors of texts from an endpoint with OpenAI's interface for embeddings (`POST /embeddings`).

Texts are sent in batches, each a request with a stored answer, by the same client and within the same limit and budget
as other requests (ask.py). The hash of a text decides whether it ends its batch: after a changed record the following
batches are the same as before, so their answers are in the store.
"""

import base64
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np

from raymill.cluster.asking.answers import ANSWERS, Answers, Spending, run_name
from raymill.cluster.asking.calls import Calls
from raymill.cluster.asking.compaction import compact
from raymill.cluster.asking.embedding_model import EmbeddingModel
from raymill.cluster.asking.endpoint import Endpoint, Reply, json_text, judged, no_answer
from raymill.cluster.asking.money import tokens_of
from raymill.cluster.asking.requests import ModelRequest, address_class, canonical, request_of
from raymill.cluster.errors import DataError
from raymill.cluster.formats import plural
from raymill.cluster.secret_values import shortened
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store

FOLDER = "embeddings"  # in the answer store
_CALL_TEXTS = 2000  # texts whose batches are in flight together
# Maximum texts and bytes of a batch; one of `_ENDS` hashes ends it.
_MOST_TEXTS, _MOST_TEXT_BYTES, _ENDS = 64, 200_000, 32
_LARGEST_VECTOR, _NUMBER_BYTES = 16_384, 24  # maximum numbers of a vector, and bytes of a number as text
_FRAME_BYTES = 1 << 20  # of an answer, besides its vectors


@dataclass(frozen=True)
class EmbeddingRun:
    """A run that sends texts to endpoints for vectors: its output, its keys and its throttle.

    Attributes:
        store: store of the output. output: URI of the output. name: name of the run.
        keys: name of an environment variable -> the key in it.
        throttle: name of the throttle, which the workers share.
    """

    store: Store
    output: str
    name: str
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    throttle: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    @classmethod
    def of(cls, store: Store, output: str, name: str, models: Sequence[EmbeddingModel]) -> "EmbeddingRun":
        """The run with these models. Keys that are not in the environment are empty; `check_models` reports them."""
        named = {one.key_env for one in models if one.endpoint and one.key_env}
        return cls(store, output, name, {one: os.environ.get(one, "") for one in sorted(named)})

    def answers(self, model: EmbeddingModel) -> Answers:
        """The store of a model's answers. Tries of the run have its name and a hash of the model and the output."""
        folder = model.answers or paths.join(self.output, ANSWERS)
        run = run_name(f"{self.name}-embeddings", canonical([model.decisive, self.output]))
        return Answers(self.store, paths.join(folder, FOLDER), run)

    def embedder(self, model: EmbeddingModel, setting: str) -> "EndpointEmbedder":
        """The embedder of a model with an endpoint, one in each worker. setting: path of the setting, for errors."""
        key = self.keys.get(model.key_env or "", "")
        return _embedder(self.store, self.answers(model), model.model_dump_json(), key, self.throttle, setting)

    def close(self, models: Sequence[EmbeddingModel]) -> list[dict[str, Any]]:
        """Close the stores of the models' answers. Returns tries, tokens and cost at each endpoint, for the report."""
        found = []
        for model in dict.fromkeys(one.model_dump_json() for one in models if one.endpoint):
            one = EmbeddingModel.model_validate_json(model)
            answers = self.answers(one)
            answers.close()
            compact(answers.store, answers.uri)
            found.append(_spent(one, answers.spending()))
        return found


def _spent(model: EmbeddingModel, spent: Spending) -> dict[str, Any]:
    return {
        "model": model.name,
        "endpoint": model.endpoint,
        "tries": spent.tries.total(),
        "outcomes": dict(sorted(spent.tries.items())),
        "tokens": spent.tokens.input,
        "cost": None if model.price is None else round(spent.cost(model.prices), 9),
        "cost_uncounted": None if model.price is None else round(spent.cost_unknown(model.prices), 9),
    }


class EndpointEmbedder:
    """Computes vectors of texts at an endpoint. setting: path of the setting with the model, for errors."""

    def __init__(self, answers: Answers, model: EmbeddingModel, key: str, throttle: str, setting: str) -> None:
        self._model, self._key, self._setting = model, key, setting
        self._calls = Calls(
            answers, model, model.prices, model.budget, self._open, f"raymill-embedding-{answers.run}-{throttle}",
            judged_embeddings, 0, most_bytes(_MOST_TEXTS),
        )  # fmt: skip
        self._size = 0  # of a vector; 0 before the first
        self._refusal = ""  # reason of the last one
        self._last: dict[str, np.ndarray] = {}  # the vectors of the last call

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32[N, D] of length 1; 0 for a blank text, and for one that the model refuses.

        Raises:
            AskingStopped: the run sends no further request. Answers are stored.
            DataError: the model refuses all texts, or a request has no answer after all tries.
        """
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        different = list(dict.fromkeys(text for text in texts if text.strip()))
        found = self._last
        # All texts or none: batches of the missing ones alone would be other requests than in a later run.
        if not found.keys() >= {*different}:
            found = {}
            for start in range(0, len(different), _CALL_TEXTS):
                found |= self._vectors(different[start : start + _CALL_TEXTS])
            self._last = found
        vectors = np.zeros((len(texts), max(1, self._size)), np.float32)
        for at, text in enumerate(texts):
            if text in found:
                vectors[at] = found[text]
        return vectors

    def _vectors(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """The vector of each text. The texts of a refused batch are sent one by one."""
        found, refused = self._asked(list(batches(texts)))
        if refused:
            alone, _ = self._asked([[text] for batch in refused for text in batch])
            found |= alone
        if texts and not found:
            raise DataError(
                f"{self._setting}: {self._model.endpoint} refuses all of {plural(len(texts), 'text')}; the first: "
                f"{shortened(self._refusal, 300)}. Correct the model, or cut texts with a field of the server in "
                "`extra`, such as {truncate_prompt_tokens: -1} of vLLM."
            )
        return found

    def _asked(self, batches: Sequence[Sequence[str]]) -> tuple[dict[str, np.ndarray], list[Sequence[str]]]:
        """(the vector of each text, the batches that the model refuses)."""
        made = [(self._request(batch), batch) for batch in batches]
        requests, of_key = {one.key: one for one, _ in made}, {one.key: batch for one, batch in made}
        replies = self._calls.replies(requests)
        vectors, refused = dict[str, np.ndarray](), []
        for key, reply in replies.items():
            if reply.outcome == "answered":
                vectors |= zip(of_key[key], self._unit_length(reply), strict=True)
            elif reply.outcome == "refused":
                self._refusal = reply.reason
                refused.append(of_key[key])
            else:
                raise DataError(
                    f"{self._setting}: no answer to a request after {self._model.tries} tries: {reply.reason}. Answers "
                    "are stored: run the same command again to ask the others."
                )
        return vectors, refused

    def _unit_length(self, reply: Reply) -> np.ndarray:
        """float32[N, D] of length 1: the vectors of an answer."""
        found = np.array(vectors_in(json.loads(reply.content or "")), np.float64)
        self._size = self._size or found.shape[1]
        if found.shape[1] != self._size:
            raise DataError(
                f"{self._setting}: {self._model.endpoint} gives vectors of {found.shape[1]} numbers, and gave some of "
                f"{self._size} before. Is there another model under the name {self._model.name}? Set `revision`, and "
                "run with another output."
            )
        return unit_length(found)

    def _request(self, texts: Sequence[str]) -> ModelRequest:
        model = self._model
        assert model.endpoint is not None
        body = {"model": model.name, "input": list(texts), "encoding_format": "base64", **model.extra}
        return request_of({"at": address_class(model.endpoint), "revision": model.revision}, body)

    @asynccontextmanager
    async def _open(self) -> Any:
        model = self._model
        assert model.endpoint is not None
        most = most_bytes(_MOST_TEXTS)
        of_embeddings = partial(Endpoint, path="embeddings", judge=judged_embeddings)
        async with of_embeddings(model.endpoint, self._key, model.timeout_s, most) as endpoint:
            yield endpoint


@lru_cache(maxsize=4)
def _embedder(store: Store, answers: Answers, model: str, key: str, throttle: str, setting: str) -> EndpointEmbedder:
    return EndpointEmbedder(answers, EmbeddingModel.model_validate_json(model), key, throttle, setting)


def batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts of each request. Where one ends depends on its own texts alone."""
    batch, size = list[str](), 0
    for text in texts:
        encoded = text.encode()
        if batch and size + len(encoded) > _MOST_TEXT_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(encoded)
        ends = int.from_bytes(hashlib.blake2b(encoded, digest_size=4).digest()) % _ENDS == 0
        if ends or len(batch) == _MOST_TEXTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def most_bytes(texts: int) -> int:
    """Largest number of bytes of an answer with vectors. texts: their number."""
    return _FRAME_BYTES + texts * _LARGEST_VECTOR * _NUMBER_BYTES


def judged_embeddings(request: str, status: int, headers: Mapping[str, str], body: bytes, seconds: float) -> Reply:
    """The outcome of an answer of HTTP to a request for vectors. Its content is the body as text."""

    def of_answer(plain: Any, body: bytes, seconds: float) -> Reply:
        try:
            vectors = vectors_in(plain)
        except (TypeError, KeyError, ValueError, OverflowError):
            return no_answer("the vectors of all texts in `data`", body, seconds)
        if len(vectors) != len(json.loads(request)["input"]):
            return no_answer("as many vectors as texts", body, seconds)
        usage = plain.get("usage")
        tokens = tokens_of(usage if isinstance(usage, dict) else None)
        text = json_text(body)
        return Reply(
            "answered", status=200, body=body, billed=not tokens.input, seconds=seconds, content=text, tokens=tokens
        )

    return judged(status, headers, body, seconds, of_answer)


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """float32[N, D]: the rows with length 1; zeros stay. vectors: any floats of float32's range.

    In float64, in which squares of such numbers are neither infinite nor zero.
    """
    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def vectors_in(plain: Any) -> list[np.ndarray]:
    """The vectors of an answer, in the order of the texts: float32[D] each, finite, all of one size.

    Raises:
        TypeError, KeyError, ValueError: it has none.
    """
    ordered = sorted(plain["data"], key=lambda one: one["index"])
    if [one["index"] for one in ordered] != list(range(len(ordered))) or not ordered:
        raise ValueError("the vectors have other numbers than the texts")
    found = list[np.ndarray]()
    for one in ordered:
        given = one["embedding"]
        if isinstance(given, str):
            vector = np.frombuffer(base64.b64decode(given, validate=True), "<f4")
        elif isinstance(given, list) and all(type(number) in (int, float) for number in given):
            with np.errstate(over="ignore"):  # it is infinite then, and refused below
                vector = np.array(given, np.float32)
        else:
            raise TypeError("no vector")
        if not 0 < len(vector) <= _LARGEST_VECTOR or len(vector) != len(found[0] if found else vector):
            raise ValueError("vectors of different sizes")
        if not np.isfinite(vector).all():
            raise ValueError("infinite numbers")
        found.append(vector)
    return found
