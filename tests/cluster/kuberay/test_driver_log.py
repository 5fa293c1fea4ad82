"""The program of the container `driver-log`: prints what drivers write, and ends after Ray."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

from raymill.cluster.kuberay.driver_log import DriverLogs, listens
from tests.conftest import free_port
from tests.support.processes import wait_until


def session(folder: Path, name: str = "session_2026-01-01") -> Path:
    logs = folder / name / "logs"
    logs.mkdir(parents=True)
    return logs / "job-driver-web-1.log"


def test_whole_lines_are_printed_once(tmp_path):
    logs = DriverLogs(tmp_path)
    assert logs.new_lines() == b"", "there is no session yet"
    with open(session(tmp_path), "wb", buffering=0) as driver:
        driver.write(b"one\ntw")
        assert logs.new_lines() == b"one\n"
        driver.write(b"o\nthree\n")
        assert logs.new_lines() == b"two\nthree\n"
        driver.write(b"last")
        assert logs.new_lines() == b""
        assert logs.new_lines(flush=True) == b"last\n"
        assert logs.new_lines(flush=True) == b""


def test_a_line_without_its_end_is_printed_after_a_moment(tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.cluster.kuberay.driver_log._PARTIAL_S", 0.5)
    logs, printed = DriverLogs(tmp_path), []
    session(tmp_path).write_bytes(b"waits")
    assert logs.new_lines() == b""
    assert wait_until(lambda: printed.append(logs.new_lines()) or printed[-1], 20)
    assert b"".join(printed) == b"waits\n"


def test_the_link_to_the_latest_session_does_not_repeat_it(tmp_path):
    session(tmp_path).write_bytes(b"one\n")
    (tmp_path / "session_latest").symlink_to("session_2026-01-01")
    assert DriverLogs(tmp_path).new_lines() == b"one\n"


def test_a_file_that_is_rotated_and_a_new_session_are_read_on(tmp_path):
    logs, file = DriverLogs(tmp_path), session(tmp_path)
    file.write_bytes(b"one\n")
    assert logs.new_lines() == b"one\n"
    with open(file, "ab") as before:
        before.write(b"two\n")
    file.rename(file.with_suffix(".log.1"))
    file.write_bytes(b"three\n")
    assert logs.new_lines() == b"two\nthree\n"
    file.write_bytes(b"4\n")  # shortened in place
    assert logs.new_lines() == b"4\n"
    session(tmp_path, "session_2026-01-02").write_bytes(b"of a new session\n")
    assert logs.new_lines() == b"of a new session\n"


def test_other_files_of_ray_are_not_printed(tmp_path):
    session(tmp_path).with_name("raylet.out").write_bytes(b"not ours\n")
    assert DriverLogs(tmp_path).new_lines() == b""


def test_the_program_ends_after_ray_and_prints_what_a_stopped_driver_writes(tmp_path):
    ray = socket.create_server(("127.0.0.1", 0))
    port = ray.getsockname()[1]
    assert listens(port) and not listens(free_port())
    command = [sys.executable, "-m", "raymill.cluster.kuberay.driver_log", str(tmp_path), str(port)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        file = session(tmp_path)
        file.write_bytes(b"began\n")
        assert program.stdout.readline() == b"began\n"
        program.send_signal(signal.SIGTERM)
        with open(file, "ab", buffering=0) as driver:
            # Each line is printed in a later round than the one before: the program goes on after SIGTERM.
            for line in (b"1\n", b"2\n", b"3\n"):
                driver.write(line)
                assert program.stdout.readline() == line, "Ray still stops the driver"
            driver.write(b"committed")
        ray.close()
        assert program.communicate(timeout=10)[0] == b"committed\n"
        assert program.returncode == 0
    finally:
        program.kill()
