"""Following the log of a job: waiting for answers, and lines that come once."""

import socket

import pytest

from raymill.cluster.errors import ClusterError
from raymill.cluster.submit.backend import LONGEST_LINE, LogLines, Request, Retries
from raymill.cluster.submit.jobs_api import JobsApi
from raymill.cluster.submit.kuberay_log import PodLog
from raymill.cluster.submit.ray_api import RayApi
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


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_of_a_log_come_once_however_its_bytes_arrive(size):
    text = "one\ntwo ä\r\n\nthree".encode()
    lines, found = LogLines(), []
    for end in (5, 9, 9, len(text)):  # four connections, each from the first byte
        lines.connected()
        for start in range(0, end, size):
            found += lines.add(text[start : min(end, start + size)])
    assert found + lines.end() == ["one", "two ä", "", "three"]


def test_a_line_without_an_end_is_given_in_pieces_so_that_its_beginning_is_not_kept():
    lines, pieces = LogLines(), []
    lines.connected()
    for _ in range(40):
        pieces += lines.add(b"a" * (LONGEST_LINE // 16))
    assert [len(piece) for piece in pieces] == [LONGEST_LINE] * 2
    pieces += lines.add(b"a\nb\n") + lines.add(b"c" * (LONGEST_LINE + 1) + b"\n\n")
    assert [len(piece) for piece in pieces] == [LONGEST_LINE] * 2 + [LONGEST_LINE // 2 + 1, 1, LONGEST_LINE, 1, 0]
    assert lines.end() == []


def test_the_rest_of_a_line_of_a_pod_that_is_too_long_is_left_out():
    log, time = PodLog(), b"2026-11-25T10:00:00.000000001Z "
    log.connected()
    found = log.add(time + b"a" * 3 * LONGEST_LINE) + log.add(b"a\n" + time + b"next\n")
    assert [len(line) for line in found] == [LONGEST_LINE - len(time), 4]
