"""The setting `model` of text vectors: a folder of sentence-transformers, or an endpoint that is asked for vectors."""

from typing import Any, ClassVar, Self

from pydantic import (
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from raymill.cluster.asking.money import TokenPrices
from raymill.cluster.asking.requests import address_class
from raymill.cluster.asking.settings import AskedModel
from raymill.cluster.readers.inputs import WithShortForm
from raymill.cluster.store import paths

# The settings on which the vectors depend, in the record of a run: `config.model_dump(context=DECISIVE)`.
DECISIVE = {"decisive": True}


class EmbeddingModel(WithShortForm, AskedModel):
    """The model that computes text vectors: a folder of sentence-transformers, or an endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    short_form: ClassVar[str] = "path"

    path: str | None = Field(
        None,
        min_length=1,
        description="Folder, URI or hub name of a sentence-transformers model; null: `endpoint` is given",
    )
    extra: dict[str, Any] = Field(
        {}, description="Further fields of each request, such as {dimensions: 256}, or {encoding_format: float} for a "
        "server without base64"
    )  # fmt: skip
    price: float | None = Field(
        None, ge=0, description="Price of a million tokens of texts at the endpoint; null: it costs nothing"
    )
    budget: float | None = Field(
        None, gt=0, description="Money that the run may spend at the endpoint, by `price`; null: any amount"
    )
    answers: paths.AbsolutePath | None = Field(
        None,
        description="Folder or URI of the store of the endpoint's answers, which several runs may share; null: "
        "OUTPUT/answers",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.budget is not None and self.price is None:
            raise ValueError("budget: goes with `price`, the price of tokens")
        return self

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        """A folder as its path alone, as in records of earlier versions. With DECISIVE what the vectors depend on."""
        if info.context and info.context.get("decisive"):
            return self.decisive
        given = handler(self)
        return self.path if self.path and self.model_fields_set <= {"path"} else given

    @property
    def decisive(self) -> Any:
        """What the vectors depend on, as JSON values."""
        if self.endpoint is None:
            return self.path
        return {"at": address_class(self.endpoint), "name": self.name, "revision": self.revision, "extra": self.extra}

    @property
    def place(self) -> str:
        """The folder, URI, hub name or address."""
        return self.endpoint or self.path or ""

    @property
    def prices(self) -> TokenPrices | None:
        """The prices of its requests."""
        return None if self.price is None else TokenPrices(input=self.price, output=0)
