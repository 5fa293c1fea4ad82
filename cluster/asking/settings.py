"""The settings `model`, `sampling` and `budget` of runs that ask a model."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from raymill.cluster.asking.money import TokenPrices
from raymill.cluster.secret_values import VARIABLE
from raymill.cluster.store import paths
from raymill.cluster.web_address import WebAddress


class ModelSettings(BaseModel, extra="forbid", frozen=True):
    """The model that is asked: an endpoint with the OpenAI interface, or a model folder on the machines of the run."""

    endpoint: WebAddress | None = Field(
        None,
        description="Address of a server with OpenAI's interface, with its version, as in http://127.0.0.1:8000/v1; "
        "null: `path` is given",
    )
    name: str = Field("", max_length=500, description="Name of the model at the endpoint")
    path: str | None = Field(
        None, min_length=1, description="Folder or URI of a model, as `model` of `train`; null: `endpoint` is given"
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
    revision: str = Field(
        "", max_length=200, description="Revision of the model at the endpoint; another one is asked anew"
    )
    key_env: Annotated[str, Field(pattern=VARIABLE)] | None = Field(
        None, description="Name of the environment variable with the endpoint's key; null: it needs none"
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
    extra: dict[str, Any] = Field(
        {}, description="Further fields of each request, such as {top_k: 20} or {chat_template_kwargs: {..}} of vLLM"
    )

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """A folder's absolute path, since workers have other working directories; a name of the hub as it is."""
        return paths.absolute(path) if path and (paths.scheme(path) or Path(path).is_dir()) else path

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.endpoint is None) == (self.path is None):
            given = "both" if self.endpoint else "neither"
            raise ValueError(f"{given} of endpoint and path given; wanted one of them")
        if self.batch and not self.endpoint:
            raise ValueError("batch: is of an endpoint; leave it out for a model folder")
        if self.endpoint and (self.engine != "transformers" or self.gpus is not None):
            raise ValueError("engine, gpus: are of a model folder; leave them out for an endpoint")
        if self.endpoint and not self.name:
            raise ValueError("name: missing beside `endpoint`; give the name of the model there")
        return self

    @property
    def worker_gpus(self) -> int:
        """GPUs that each worker reserves."""
        return self.gpus if self.gpus is not None else int(self.engine == "vllm")

    @property
    def request_prices(self) -> TokenPrices | None:
        """The prices of its requests, single ones or those in batch files."""
        return self.prices.in_batches if self.prices and self.batch else self.prices


class Sampling(BaseModel, extra="forbid", frozen=True):
    """How an answer is drawn from the model."""

    temperature: float = Field(
        0.7, ge=0, le=10, description="Temperature of the draw; 0: the likeliest token each time"
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Fraction of the probability that tokens are drawn from")
    max_tokens: int = Field(1024, ge=1, le=1_000_000, description="Largest number of tokens of an answer")
    seed: int = Field(0, ge=0, lt=1 << 31, description="Seed of all draws, those of the server and of templates")
    logprobs: int | None = Field(
        None, ge=0, le=20, description="Number of likeliest tokens whose log-probabilities are stored; null: none"
    )
