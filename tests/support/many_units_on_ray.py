"""`curate` or `prepare` with many small units on Ray, in a process of its own.

    python -m tests.support.many_units_on_ray JOB.json

The job has `kind`, curate or prepare; its `settings`; `unit_bytes` and `times`, of `cut_into_many_units`; and
`session`, the arguments of the session. Prints the digest of each artifact as JSON.
"""

import json
import sys
from pathlib import Path

import pytest

from raymill.cluster.engine import Engine
from raymill.cluster.session import Session
from tests.support.inline import curate_inline, prepare_inline
from tests.support.many_units import cut_into_many_units


def main(path: str) -> None:
    job = json.loads(Path(path).read_text())
    with pytest.MonkeyPatch.context() as patch, Session(**job["session"]) as session:
        cut_into_many_units(patch, job["unit_bytes"], job["times"])
        run = {"curate": curate_inline, "prepare": prepare_inline}[job["kind"]](
            job["settings"], patch, engine=Engine, session=session
        )
        assert session.started
    print(json.dumps(run.manifest["artifacts"]))


if __name__ == "__main__":
    main(sys.argv[1])
