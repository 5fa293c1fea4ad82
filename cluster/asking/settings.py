"""The settings `model`, `sampling` and `execution` of runs that ask a model, and the requests that they make."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from raymill.cluster.asking.money import TokenPrices
from raymill.cluster.asking.requests import Message, ModelRequest, address_class, request_of, sample_seed
from raymill.cluster.asking.throttle import AskingBounds
from raymill.cluster.errors import ConfigError, Problem
from raymill.cluster.frame.execution import Execution
from raymill.cluster.secret_values import VARIABLE, remember
from raymill.cluster.store import paths
from raymill.cluster.web_address import WebAddress

# Settings of a model without effect on its answers. The revision of a folder is made of its files.
_NO_EFFECT = {"endpoint", "path", "key_env", "prices", "batch", "gpus", "concurrency", "requests_per_minute"} | {
    "tokens_per_minute", "timeout_s", "tries", "give_up_s",
}  # fmt: skip


class AskingExecution(Execution):
    """Also the fraction of requests that may have no answer. Asking has a time limit of its own, `model.give_up_s`."""

    stall_s: float = Field(
        86_400,
        ge=1,
        le=604_800,
        description="Seconds without a committed or failed unit of work after which Ray is restarted; a unit takes as "
        "long as the model needs for its requests",
    )
    max_unanswered: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Maximum fraction of the requests that may have no answer after all tries; above it the run stops, "
        "and asks these again when it is continued",
    )


class Sampling(BaseModel, extra="forbid", frozen=True):
    """How an answer is drawn from the model."""

    temperature: float = Field(
        0.7,
        ge=0,
        le=10,
        description="Value that divides the logits before the draw; 0: the likeliest token each time",
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Fraction of the probability that tokens are drawn from")
    max_tokens: int = Field(1024, ge=1, le=1_000_000, description="Largest number of tokens of an answer")
    seed: int = Field(0, ge=0, lt=1 << 31, description="Seed of all draws, those of the server and of templates")
    logprobs: int | None = Field(
        None, ge=0, le=20, description="Number of likeliest tokens whose log-probabilities are stored; null: none"
    )


class AskedModel(BaseModel, extra="forbid", frozen=True):
    """A model at an endpoint with OpenAI's interface or in a folder, and bounds on the requests to the endpoint."""

    endpoint: WebAddress | None = Field(
        None,
        description="Address of a server with OpenAI's interface, with its version, as in http://127.0.0.1:8000/v1; "
        "null: `path` is given",
    )
    path: str | None = Field(None, min_length=1)  # each kind of model has a description of its own
    name: str = Field("", max_length=500, description="Name of the model at the endpoint")
    revision: str = Field(
        "", max_length=200, description="Revision of the model at the endpoint; another one is asked anew"
    )
    key_env: Annotated[str, Field(pattern=VARIABLE)] | None = Field(
        None, description="Name of the environment variable with the endpoint's key; null: it needs none"
    )
    concurrency: int = Field(
        256, ge=1, le=100_000, description="Largest number of requests in flight, on all machines of the run together"
    )
    requests_per_minute: float | None = Field(
        None, gt=0, description="Largest number of requests in a minute; null: as many as the server takes"
    )
    tokens_per_minute: float | None = Field(
        None, gt=0, description="Largest number of tokens in a minute, of prompts and answers; null: any number"
    )
    timeout_s: float = Field(
        600, gt=0, le=86_400, description="Seconds within which the whole answer to a request has to arrive"
    )
    tries: int = Field(
        6,
        ge=1,
        le=100,
        description="Number of times that a request is sent when the server fails or is overloaded; tries without a "
        "connection count only before the first answer of a run",
    )
    give_up_s: float = Field(
        900, gt=0, description="Seconds without any answer to any request after which the run is stopped"
    )
    extra: dict[str, Any] = Field(
        {}, description="Further fields of each request, such as {top_k: 20} or {chat_template_kwargs: {..}} of vLLM"
    )

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """A folder's absolute path, since workers have other working directories; a name of the hub as it is."""
        return paths.absolute(path) if path and (_is_path(path) or Path(path).is_dir()) else path

    @model_validator(mode="after")
    def _endpoint_or_path(self) -> Self:
        if (self.endpoint is None) == (self.path is None):
            given = "both" if self.endpoint else "neither"
            raise ValueError(f"{given} of endpoint and path given; wanted one of them")
        if self.endpoint and not self.name:
            raise ValueError("name: missing beside `endpoint`; give the name of the model there")
        return self

    @property
    def is_folder(self) -> bool:
        """Whether the model is a folder or URI: no endpoint, and no name of the hub."""
        return self.path is not None and _is_path(self.path)

    def secret(self, setting: str) -> str:
        """The endpoint's key; empty without one. setting: name of these settings in the config.

        Raises:
            ConfigError: its environment variable is not set.
        """
        if self.key_env is None:
            return ""
        if not (value := os.environ.get(self.key_env)):
            seen, fix = f"the environment variable {self.key_env} is not set", f"Set {self.key_env}."
            raise ConfigError.about(Problem.of(f"{setting}.key_env", seen, "the endpoint's key", fix))
        remember(value)
        return value

    def bounds(self, budget: float | None, prices: TokenPrices | None) -> AskingBounds:
        """The bounds on all requests of a run."""
        rates = self.requests_per_minute, self.tokens_per_minute
        return AskingBounds(self.concurrency, *rates, budget, prices, self.give_up_s)


class ModelSettings(AskedModel):
    """The model that is asked: an endpoint with the OpenAI interface, or a model folder on the machines of the run."""

    path: str | None = Field(
        None,
        min_length=1,
        description="Folder, URI or hub name of a model, or the output of a training (the model that it exported); "
        "null: `endpoint` is given",
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="What computes the answers of `path`: transformers, one at a time, on CPUs or a GPU; or vllm, a "
        "server beside each worker (`pip install vllm`)",
    )
    gpus: int | None = Field(
        None,
        ge=0,
        le=64,
        description="Number of GPUs that each worker reserves for `path`, over which vllm divides the model; null: 1 "
        "for vllm, else none",
    )
    prices: TokenPrices | None = Field(
        None, description="Prices of the model, for a million tokens; null: it costs nothing"
    )
    terms: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="Short name of the terms for the model's answers, such as no-training; it is written to every "
        "record; null: none",
    )
    licence: str | None = Field(None, description="Licence of the model's answers; null: the one of the seeds")
    structured: Literal["json_schema", "json_object", "none"] = Field(
        "json_schema",
        description="How the endpoint is told the form of the answer: json_schema, json_object (older servers), or "
        "none (by the prompt alone)",
    )
    batch: bool = Field(
        False,
        description="Whether requests are sent in batch files, which the provider answers within a day, at the price "
        "`prices.batch`",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.batch and not self.endpoint:
            raise ValueError("batch: is of an endpoint; leave it out for a model folder")
        if self.endpoint and (self.engine != "transformers" or self.gpus is not None):
            raise ValueError("engine, gpus: are of a model folder; leave them out for an endpoint")
        return self

    @property
    def worker_gpus(self) -> int:
        """GPUs that each worker reserves."""
        return self.gpus if self.gpus is not None else int(self.engine == "vllm")

    @property
    def request_prices(self) -> TokenPrices | None:
        """The prices of its requests, single ones or those in batch files."""
        return self.prices.in_batches if self.prices and self.batch else self.prices

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings on which the answers depend, as JSON values. Of a folder they are known once it is located."""
        plain = self.model_dump(mode="json", exclude=_NO_EFFECT)
        return plain | ({"at": address_class(self.endpoint)} if self.endpoint else {})

    def request(
        self, sampling: Sampling, messages: Sequence[Message], sample: int = 0, form: Mapping[str, Any] | None = None
    ) -> ModelRequest:
        """The request with these messages. sample: number of the sample. form: `response_format`; None: a text."""
        body: dict[str, Any] = {
            "model": self.name or self.path,
            "messages": messages,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": sample_seed(sampling.seed, sample, messages),
            **self.extra,
        }
        if sampling.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": sampling.logprobs}
        if form is not None:
            body["response_format"] = form
        return self.request_with(body, sample)

    def request_with(self, body: Mapping[str, Any], sample: int = 0) -> ModelRequest:
        """The request with this body."""
        at = address_class(self.endpoint) if self.endpoint else "here"
        return request_of({"at": at, "revision": self.revision}, body, sample)


def _is_path(model: str) -> bool:
    return paths.is_remote(model) or model.startswith(("/", "./", "../", "~", "file:")) or model.count("/") > 1
