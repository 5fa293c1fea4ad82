"""The places that jobs are submitted to. A new backend is a new entry of PLACES."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from raymill.cluster.kuberay.profiles import OVERLAYS, Profile
from raymill.cluster.submit.backend import Backend
from raymill.cluster.submit.jobs_api import JobsApi
from raymill.cluster.submit.kuberay import KubeRay
from raymill.cluster.submit.kubernetes_api import KubernetesApi
from raymill.cluster.submit.local import Local
from raymill.cluster.submit.ray_api import RayApi
from tests.deploy.schemas import HOW_TO, crds
from tests.support import api_server
from tests.support.api_server import ApiServer
from tests.support.kuberay_operator import Operator
from tests.support.kubernetes_server import KubernetesServer
from tests.support.ray_cluster import RayCluster
from tests.support.works import IMAGE, SMALL_JOB


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


def kuberay_place(request: pytest.FixtureRequest) -> PlaceUnderTest:
    kubernetes: Kubernetes = request.getfixturevalue("kubernetes")
    return PlaceUnderTest("kuberay", kubernetes.backend)


def real_place(request: pytest.FixtureRequest) -> PlaceUnderTest:
    kubernetes: Kubernetes = request.getfixturevalue("real_kubernetes")
    return PlaceUnderTest("kuberay", kubernetes.backend)


PLACES = [
    pytest.param(local_place, id="local"),
    pytest.param(jobs_place, id="jobs", marks=pytest.mark.cluster),
    pytest.param(kuberay_place, id="kuberay"),
    pytest.param(real_place, id="api-server", marks=[pytest.mark.kubernetes, pytest.mark.slow]),
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> PlaceUnderTest:
    return request.param(request)


@pytest.fixture(scope="package")
def ray_cluster() -> Iterator[RayCluster]:
    """A head without CPUs and two nodes of one CPU each, on this machine, with token authentication."""
    with RayCluster() as ray:
        yield ray


@dataclass
class Kubernetes:
    """A cluster with KubeRay's operator. profile: pods have `folder`."""

    server: KubernetesServer | ApiServer
    operator: Operator
    profile: Profile

    def backend(self, grace_s: float | None = None, retry_s: float = 20, **changes: Any) -> KubeRay:
        if grace_s is not None:
            self.operator.grace_s = grace_s
        return KubeRay(KubernetesApi("raymill"), replace(self.profile, **changes), retry_s)


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubernetes]:
    profile = replace(OVERLAYS["kind"], image=IMAGE, retries=0, claims={str(tmp_path): "shared"})
    monkeypatch.setattr("raymill.cluster.submit.kuberay_log._POLL_S", 0.1)
    monkeypatch.setattr("raymill.cluster.submit.kuberay_log._LAST_LINES_S", 0.1)
    monkeypatch.setattr("raymill.cluster.submit.backend._POLL_S", 0.1)
    with KubernetesServer(tmp_path) as server, Operator(server, tmp_path / "pods", SMALL_JOB) as operator:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        yield Kubernetes(server, operator, profile)


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server with KubeRay's CRD of RayJobs."""
    if (what := api_server.missing()) or not crds():
        pytest.skip(what or HOW_TO)
    with ApiServer(tmp_path_factory.mktemp("kubernetes")) as server:
        yield server


@pytest.fixture
def real_kubernetes(real_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubernetes]:
    """The same on a real API server, whose objects of jobs are removed afterwards."""
    profile = replace(OVERLAYS["kind"], image=IMAGE, retries=0, claims={str(tmp_path): "shared"})
    with Operator(real_server, tmp_path / "pods", SMALL_JOB) as operator:
        monkeypatch.setenv("KUBECONFIG", str(real_server.kubeconfig))
        yield Kubernetes(real_server, operator, profile)
    real_server.remove_jobs()
