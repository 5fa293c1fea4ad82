"""Prices of machines and of an object store, in any currency."""

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.errors import ConfigError
from cluster.store.store import Store


class Prices(BaseModel):
    """Prices. The defaults are an example: AWS, US East (N. Virginia), on demand."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(
        "an example, not an offer: AWS Fargate and S3 Standard, US East, on demand, USD, as published in March 2026 "
        "(aws.amazon.com/fargate/pricing, aws.amazon.com/s3/pricing)",
        description="what these prices are, with their date and source",
    )
    core_hour: float = Field(0.04048, ge=0, description="price of one core for an hour")
    gib_hour: float = Field(0.004445, ge=0, description="price of one GiB of memory for an hour")
    thousand_puts: float = Field(0.005, ge=0, description="requests that write or list")
    thousand_gets: float = Field(0.0004, ge=0, description="requests that read")
    egress_gb: float = Field(0.0, ge=0, description="10^9 bytes read from the store; 0 within a region")


def load_prices(path: str | None) -> Prices:
    """The prices in a YAML file; without one, the example. Settings that the file leaves out are 0.

    Raises:
        ConfigError: the file is not a mapping of these settings.
    """
    if path is None:
        return Prices()  # type: ignore[call-arg]
    zero: dict[str, object] = dict.fromkeys(Prices.model_fields, 0.0) | {"name": path}
    try:
        given = yaml.safe_load(Store().read_bytes(path).decode())
        return Prices.model_validate(zero | given)
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ConfigError(f"{path}: not a YAML mapping of prices, such as `core_hour: 0.04` ({error}).") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"{path}, {key}: {first['msg']}. The settings are {', '.join(Prices.model_fields)}."
        ) from error
