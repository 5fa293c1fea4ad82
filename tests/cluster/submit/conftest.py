"""The places that jobs are submitted to, and works for them. A new backend is a new entry of PLACES."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import fingerprint
from cluster.submit.backend import Backend
from cluster.submit.jobs_api import JobsApi
from cluster.submit.local import Local
from cluster.submit.ray_api import RayApi
from cluster.submit.work import GIB, Machines, Work
from tests.support.ray_cluster import RayCluster

SMALL_JOB = (sys.executable, "-m", "tests.support.small_job")


@dataclass(frozen=True)
class PlaceUnderTest:
    """backend: makes one, as every `raymill` command does; takes `grace_s`."""

    name: str
    backend: Callable[..., Backend]


def local_place(request: pytest.FixtureRequest) -> PlaceUnderTest:
    folder = request.getfixturevalue("tmp_path") / "runs"
    return PlaceUnderTest("local", lambda **more: Local(folder, SMALL_JOB, **more))


def jobs_place(request: pytest.FixtureRequest) -> PlaceUnderTest:
    ray: RayCluster = request.getfixturevalue("ray_cluster")
    return PlaceUnderTest("jobs", lambda **more: JobsApi(RayApi(ray.url, ray.token), command=SMALL_JOB, **more))


PLACES = [
    pytest.param(local_place, id="local"),
    pytest.param(jobs_place, id="jobs", marks=pytest.mark.cluster),
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> PlaceUnderTest:
    return request.param(request)


@pytest.fixture(scope="package")
def ray_cluster() -> Iterator[RayCluster]:
    """A head without CPUs and two nodes of one CPU each, on this machine, with token authentication."""
    with RayCluster() as ray:
        yield ray


def small_work(tmp_path: Path, name: str = "small", execution: int = 1, **config: Any) -> Work:
    """The work of a small job. execution: a setting that does not decide the result."""
    return Work(
        kind="curate",
        verb="curate",
        name=name,
        config={**config, "execution": execution},
        result=fingerprint(config),
        output=str(tmp_path / "output"),
        finished=False,
        head=Machines("head", cpus=1, memory=GIB, disk=GIB),
        workers=(Machines("cpu", cpus=1, memory=GIB, disk=GIB),),
    )


def finished(work: Work) -> Work:
    return replace(work, finished=True)
