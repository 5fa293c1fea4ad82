"""Lines of a log that arrives over several connections."""

import pytest

from cluster.submit.job_log import LogLines


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_of_a_log_come_once_however_its_bytes_arrive(size):
    text = "one\ntwo ä\r\n\nthree".encode()
    lines, found = LogLines(), []
    for end in (5, 9, 9, len(text)):  # four connections, each from the first byte
        lines.connected()
        for start in range(0, end, size):
            found += lines.add(text[start : min(end, start + size)])
    assert found + lines.end() == ["one", "two ä", "", "three"]
