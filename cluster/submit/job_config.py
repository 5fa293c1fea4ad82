"""The settings of a config as they travel with a job: plain JSON values, without secrets.

Everyone who may list the jobs of a cluster, or the objects of a Kubernetes namespace, can read them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, SecretStr

from cluster.errors import ConfigError

_LARGEST_CONFIG = 100_000  # bytes; an environment variable has at most 128 KiB on Linux

# Values that are secrets in any setting.
_SECRET_VALUES = {
    "an access key of AWS": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a token of Hugging Face": r"\bhf_[A-Za-z0-9]{20,}\b",
    "a token of GitHub": r"\b(?:ghp|gho|ghs|github_pat)_[A-Za-z0-9_]{20,}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password in an address": r"://[^/\s:@]+:[^/\s@]+@",
    "a signature in an address": r"[?&](?:X-Amz-Signature|X-Goog-Signature|sig)=",
}


def job_config(config: BaseModel) -> dict[str, Any]:
    """The settings of a config that were given, as plain JSON values.

    Raises:
        ConfigError: names the settings that hold a secret, without their values; or the config is too large to travel.
    """
    found = dict(_secrets(config))
    if found:
        named = ", ".join(f"{name} ({what})" for name, what in sorted(found.items()))
        raise ConfigError(
            f"{named}: everyone who may list the cluster's jobs could read it. Take it out of the config: give the "
            "machines a role (in Kubernetes IRSA or workload identity), or set storage.profile, or put the secret "
            "into the environment of the cluster's machines, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (in "
            "Kubernetes by a Secret of the pods)."
        )
    text = config.model_dump_json(exclude_unset=True)
    if (size := len(text.encode())) > _LARGEST_CONFIG:
        raise ConfigError(
            f"the config has {size:,} bytes; a job's config has at most {_LARGEST_CONFIG:,}. Name files by a folder or "
            "a pattern instead of one by one."
        )
    return json.loads(text)


def _secrets(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """(name, kind of secret) of each setting that holds one."""
    if isinstance(value, SecretStr):
        yield at, "a key of a store"
    elif isinstance(value, BaseModel):
        for name in value.model_fields_set:
            yield from _secrets(getattr(value, name), f"{at}.{name}".lstrip("."))
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _secrets(inner, f"{at}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _secrets(inner, f"{at}[{number}]")
    elif isinstance(value, str):
        for what, pattern in _SECRET_VALUES.items():
            if re.search(pattern, value):
                yield at, what
                return
