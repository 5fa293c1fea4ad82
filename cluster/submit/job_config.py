"""The settings of a config as they travel with a job: plain JSON values, without secrets.

Everyone who may list the jobs of a cluster, or the objects of a Kubernetes namespace, can read them.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, SecretStr

from cluster.errors import ConfigError
from cluster.secret_values import Loc, take_out

_LARGEST_CONFIG = 100_000  # bytes; an environment variable has at most 128 KiB on Linux


def job_config(config: BaseModel) -> dict[str, Any]:
    """The settings of a config that were given, as plain JSON values.

    Raises:
        ConfigError: names the settings that hold a secret, without their values; or the config is too large to travel.
    """
    text = config.model_dump_json(exclude_unset=True)
    found = dict(_keys_of_stores(config)) | {_name(loc): what for loc, what in take_out(json.loads(text))[1]}
    if found:
        named = ", ".join(f"{name} ({what})" for name, what in sorted(found.items()))
        raise ConfigError(
            f"{named}: everyone who may list the cluster's jobs could read it. Take it out of the config: give the "
            "machines a role (in Kubernetes IRSA or workload identity), or set storage.profile, or put the secret "
            "into the environment of the cluster's machines, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (in "
            "Kubernetes by a Secret of the pods)."
        )
    if (size := len(text.encode())) > _LARGEST_CONFIG:
        raise ConfigError(
            f"the config has {size:,} bytes; a job's config has at most {_LARGEST_CONFIG:,}. Name files by a folder or "
            "a pattern instead of one by one."
        )
    return json.loads(text)


def _name(loc: Loc) -> str:
    """The setting as text, such as `inputs[0].path`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc).lstrip(".")


def _keys_of_stores(value: Any, at: Loc = ()) -> Iterator[tuple[str, str]]:
    """(name, kind of secret) of each setting that is for a secret, and has one."""
    if isinstance(value, SecretStr):
        yield _name(at), "a key of a store"
    elif isinstance(value, BaseModel):
        for name in value.model_fields_set:
            yield from _keys_of_stores(getattr(value, name), (*at, name))
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _keys_of_stores(inner, (*at, name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _keys_of_stores(inner, (*at, number))
