"""What a connector yields: pages of rows, each with the position of the next page."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cluster.errors import ConfigError
from cluster.secret_values import remember


class Unread(NamedTuple):
    """What is no record. problem: a key of reader.PROBLEMS. content: what was received, None if that is nothing."""

    problem: str
    where: str
    content: str | None = None


@dataclass(frozen=True)
class Page:
    """The rows of one answer.

    asked: the request, without secrets. records: JSON objects. failed: what is no record. next: where the connector
    can begin again after this page; None if it ends here, or has no positions. received: UTC time in ISO 8601.
    lacks_next: it is the only page, and has nothing where the next one is looked for.
    """

    asked: str
    records: Sequence[Mapping[str, Any]]
    failed: Sequence[Unread] = ()
    next: str | None = None
    received: str = field(default_factory=lambda: now())
    lacks_next: bool = False


def now() -> str:
    """The UTC time in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def secret(name: str, setting: str) -> str:
    """The value of an environment variable. From then on messages and records hide it.

    Raises:
        ConfigError: it is not set, or empty.
    """
    if not (value := os.environ.get(name, "")):
        raise ConfigError(
            f"{setting}: the environment has no {name}. Set it where the run's driver is: in this shell, or for a "
            "submitted run on the cluster's head (in Kubernetes by a Secret of the pods)."
        )
    remember(value.strip())
    return remember(value)


def json_text(value: Any) -> str:
    """The value as JSON that UTF-8 can hold: lone surrogates stay escapes."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, default=str)
    return text
