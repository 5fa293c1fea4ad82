"""Analyses of errors without Ray, on logs with planted causes."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from raymill.cluster.engine import Engine
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.pipelines.errors.config import ErrorsConfig
from raymill.pipelines.errors.job import ErrorsJob, ErrorsRun
from tests.support import inline

# Words of each topic, from which questions are drawn.
TOPICS = {
    "billing": ["invoice", "charged", "amount", "refund", "contract", "month", "payment", "euros", "bank", "receipt"],
    "delivery": [
        "parcel",
        "courier",
        "house",
        "address",
        "tracking",
        "late",
        "package",
        "driver",
        "shipment",
        "street",
    ],
    "login": ["password", "account", "reset", "sign", "email", "locked", "browser", "screen", "code", "user"],
}


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def read_lines(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def errors_inline(
    settings: Mapping[str, Any],
    patch: pytest.MonkeyPatch,
    engine: type[Engine] | None = None,
    session: Session | None = None,
    **options: Any,
) -> ErrorsRun:
    """Make the analysis, with its stages in this process."""
    with patch.context() as within:
        inline.without_ray(within, engine, session)
        job = ErrorsJob(ErrorsConfig.model_validate({"kind": "errors"} | settings))
        run = job.run(session or Session(), Progress(), **options)
    assert isinstance(run, ErrorsRun)
    return run
