"""What a process prints, by a shell, when it ends without leaving Ray."""

import signal
import subprocess
import sys

import pytest

from raymill.cluster.sudden_end import MESSAGE

PROCESS = """
import os, signal, sys
from raymill.cluster.sudden_end import report_sudden_end
leave = report_sudden_end()
exec(sys.argv[1])
"""


def ended(then: str) -> tuple[int, str]:
    """(exit code, standard error) of a process that reports its sudden end, and then does this."""
    process = subprocess.run([sys.executable, "-c", PROCESS, then], capture_output=True, text=True, check=False)
    return process.returncode, process.stderr


@pytest.mark.parametrize(
    ("then", "code"), [("os._exit(1)", 1), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL)]
)
def test_an_end_that_nothing_announced_is_reported_with_the_fix(then, code):
    assert ended(then) == (code, f"{MESSAGE}\n") and "same command again" in MESSAGE


@pytest.mark.parametrize("then", ["leave(); leave(); os._exit(0)", "sys.exit(0)", "pass"])
def test_a_process_that_leaves_or_ends_by_itself_reports_nothing(then):
    assert ended(then) == (0, "")


SESSION = """
import os
from raymill.cluster.session import Session
def dies(session):
    os._exit(1)
def fails(session):
    raise ValueError
"""


@pytest.mark.parametrize(
    ("how", "reported"),
    [
        ("Session._start_embedded = dies; Session().start()", True),
        ("Session._start_embedded = fails\ntry:\n    with Session() as session:\n        session.start()\n"
         "except ValueError:\n    os._exit(1)", False),
    ],
)  # fmt: skip
def test_the_end_of_a_session_is_reported_until_it_is_left(how, reported):
    process = subprocess.run([sys.executable, "-c", SESSION + how], capture_output=True, text=True, check=False)
    assert (process.returncode, MESSAGE in process.stderr) == (1, reported), process.stderr
