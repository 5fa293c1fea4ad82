"""Lines of a log that arrives over several connections."""

import pytest

from cluster.submit.following import LONGEST_LINE, LogLines
from cluster.submit.kuberay_log import PodLog


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
