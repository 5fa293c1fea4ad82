"""How long a backend that does not answer is asked again."""

import socket

import pytest

from cluster.errors import ClusterError
from cluster.submit.backend import Request
from cluster.submit.following import Retries
from cluster.submit.jobs_api import JobsApi
from cluster.submit.ray_api import RayApi
from tests.support.works import small_work


def test_a_cluster_that_stays_away_ends_a_submission_after_its_patience(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    backend = JobsApi(RayApi(f"http://127.0.0.1:{port}"), retry_s=0.5)
    with pytest.raises(ClusterError, match="has not answered for"):
        backend.start(Request(small_work(tmp_path), "name"))


def test_each_silence_of_a_backend_is_one_warning(caplog):
    retries = Retries("http://head:8265", seconds=1)
    for _ in range(2):
        retries.succeeded()
        retries.failed(ClusterError("no answer."))
        retries.failed(ClusterError("no answer."))
    assert [record.getMessage() for record in caplog.records] == [
        "no answer from http://head:8265; trying again for up to 1 s"
    ] * 2
