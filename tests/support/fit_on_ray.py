"""A training on an embedded Ray, as a process that a test may kill: python -m tests.support.fit_on_ray JOB.json"""

import sys
from pathlib import Path

from raymill.cluster import logs
from raymill.cluster.errors import RaymillError
from raymill.cluster.progress import ProgressLines
from raymill.cluster.session import Session
from raymill.training.driver.launch import fit_on_ray
from raymill.training.records.job import Job


def main(path: str) -> int:
    logs.setup()
    job = Job.from_json(Path(path).read_bytes())
    try:
        with Session(cpus=2) as session:
            fit_on_ray(job, session, ProgressLines())
    except RaymillError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
