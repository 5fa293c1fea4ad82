"""How long a backend that does not answer is asked again."""

import socket

import pytest

from cluster.errors import ClusterError
from cluster.submit.backend import Request
from cluster.submit.jobs_api import JobsApi
from cluster.submit.ray_api import RayApi
from tests.support.works import small_work


def test_a_cluster_that_stays_away_ends_a_submission_after_its_patience(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    backend = JobsApi(RayApi(f"http://127.0.0.1:{port}"), patience_s=0.5)
    with pytest.raises(ClusterError, match="has not answered for"):
        backend.start(Request(small_work(tmp_path), "name"))
