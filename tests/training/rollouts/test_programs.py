"""Programs that a model wrote: what they come to, and what they cannot reach."""

import json
import shutil
from pathlib import Path

import psutil
import pytest

from raymill.cluster.errors import ConfigError
from raymill.training.objectives import Grpo
from raymill.training.rollouts import programs
from raymill.training.rollouts.programs import run_programs
from raymill.training.rollouts.rewards import SampledAnswer, rewards_of
from tests.support.processes import wait_until

SECONDS, MEMORY = 2.0, 1 << 30
isolated = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
# The outcome of each, and the program.
PROGRAMS = {
    "right": (True, "assert 1 + 1 == 2"),
    "prints": (True, "print(12)"),
    "much of the library": (
        True,
        "import asyncio, concurrent.futures, sqlite3, threading, unittest, uuid\n"
        "async def one():\n    await asyncio.sleep(0.01)\n    return 1\n"
        "with threading.Lock():\n    assert asyncio.run(one()) == 1\n"
        "sqlite3.connect(':memory:').execute('create table a(b)')",
    ),
    "a file of its own": (False, "open('x', 'w').write('a')"),
    "wrong": (False, "assert 1 == 2"),
    "no program": (False, "def ("),
    "exits before the tests": (False, "import sys; sys.exit(0)"),
    "no end": (None, "while True: pass"),
    "waits": (None, "import time; time.sleep(60)"),
    "much memory": (False, "x = bytearray(3 << 30)"),
    "prints without end": (False, "while True: print('a' * 1000)"),
    "files": (False, "open('/etc/passwd').read()"),
    "folders": (True, f"import os; assert not os.path.exists({str(Path(__file__).parent)!r})"),
    "the library": (False, "import os; open(os.__file__, 'a').write('#')"),
    "modes": (False, "import os; os.chmod(os.__file__, 0o777)"),
    "the network": (False, "import socket; socket.create_connection(('127.0.0.1', 22), 1)"),
    "the environment": (True, "import os; assert not {'HOME', 'PATH', 'AWS_SECRET_ACCESS_KEY'} & {*os.environ}"),
    "threads": (False, "import threading; one = threading.Thread(target=print); one.start(); one.join()"),
    "threads whose error is caught": (
        True,
        "import threading\ntry:\n    threading.Thread(target=print).start()\nexcept RuntimeError as error:\n"
        "    assert 'start new thread' in str(error)\nelse:\n    raise SystemExit",
    ),
    "a pool of threads": (
        False,
        "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor(4).submit(print).result()",
    ),
    "threads of the C library": (
        False,
        "import ctypes; c = ctypes.CDLL(None); one = ctypes.c_ulong()\n"
        "assert c.pthread_create(ctypes.byref(one), None, ctypes.cast(c.pause, ctypes.c_void_p), None) == 0",
    ),
    "a fork": (False, "import os; os.fork()"),
    "another program": (False, "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"),
    "shared memory": (False, "open('/dev/shm/a', 'wb').write(b'a')"),
    "a file at the root": (False, "open('/a', 'wb').write(b'a')"),
    "memory of the System V kind": (False, "import ctypes; assert ctypes.CDLL(None).shmget(0, 1 << 20, 0o1600) >= 0"),
    "a namespace of its own": (False, "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0"),
    "semaphores": (False, "import ctypes; assert ctypes.CDLL(None).semget(0, 32000, 0o1600) >= 0"),
    "queues": (False, "import ctypes; assert ctypes.CDLL(None).msgget(0, 0o1600) >= 0"),
    "a file in memory": (False, "import os; os.memfd_create('a')"),
    "disk space of its output": (
        False,
        "import fcntl, struct\nfcntl.ioctl(1, 0x40305828, struct.pack('hhqqiI4i', 0, 0, 0, 1 << 20, 0, 0, 0, 0, 0, 0))",
    ),
    "moves the place of its output": (False, "import os; os.lseek(1, 1 << 40, 0); os._exit(0)"),
    "output that is read in blocks alone": (
        False,
        "import fcntl, os\nos.write(1, b'a' * 100); fcntl.fcntl(1, fcntl.F_SETFL, os.O_DIRECT | 2); os._exit(0)",
    ),
    "a lease on a file": (False, "import fcntl, os; fcntl.fcntl(os.open(os.__file__, 0), 1024, 0)"),
    "flags of its output": (True, "import fcntl, sys; assert fcntl.fcntl(1, fcntl.F_GETFL) and not sys.stdin.isatty()"),
    "keys": (False, "import ctypes; assert ctypes.CDLL(None).syscall(248, b'user', b'a', b'b', 1, -2) >= 0"),
    "the signal at its end": (False, "import ctypes; assert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0"),
    "looks for the token": (
        False,
        "import sys, os\nfor c in sys._getframe().f_code.co_consts:\n    print(c)\nsys.stdout.flush(); os._exit(0)",
    ),
    "reads its input": (False, "print(input()); import os; os._exit(0)"),
    "processes": (True, "import os; assert os.getpid() < 10 and not os.path.exists('/proc/1')"),
}


@isolated
def test_what_programs_come_to_in_one_try(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    run_programs([], SECONDS, MEMORY)
    runs, run = [], programs.subprocess.run
    monkeypatch.setattr(programs.subprocess, "run", lambda *given, **more: runs.append(1) or run(*given, **more))
    found = run_programs([(program, "") for _, program in PROGRAMS.values()], SECONDS, MEMORY)
    assert dict(zip(PROGRAMS, found, strict=True)) == {name: outcome for name, (outcome, _) in PROGRAMS.items()}
    assert len(runs) == len(PROGRAMS)


@isolated
def test_no_process_is_left_of_a_program_that_waits():
    """It cleared the signal that it gets when the process that started it ends."""
    program = "import ctypes, time\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\ntime.sleep(1000)"
    assert run_programs([(program, "")], SECONDS, MEMORY) == [None]

    def is_gone() -> bool:
        lines = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])]
        return not any(programs._HARNESS in line for line in lines)

    assert wait_until(is_gone, 60)


@isolated
def test_a_program_that_is_not_started_is_tried_again_and_fails_alone_with_the_reason(monkeypatch, caplog):
    run_programs([], SECONDS, MEMORY)
    monkeypatch.setattr(programs, "_WAITS_S", (0, 0, 0))
    tries, run = [], programs.subprocess.run

    def failing(*command, input, **options):
        program = json.loads(input)[0]
        tries.append(program)
        if program == "never" or (program == "late = 1" and tries.count(program) < 4):
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return run(*command, input=input, **options)

    monkeypatch.setattr(programs.subprocess, "run", failing)
    found = run_programs([("never", ""), ("late = 1", "assert late"), ("assert 0", "")], SECONDS, MEMORY)
    assert found == [None, True, False]
    assert (tries.count("never"), tries.count("late = 1"), len(tries)) == (4, 4, 9)
    assert [one.getMessage() for one in caplog.records] == [
        "a program was not started, so its reward is 0: [Errno 11] Resource temporarily unavailable"
    ]


def test_a_machine_that_starts_no_process_is_named(monkeypatch):
    monkeypatch.setattr(programs, "_WAITS_S", ())
    monkeypatch.setattr(programs.shutil, "which", lambda name: "/nowhere/bwrap")
    with pytest.raises(ConfigError, match=r"grpo.rewards: program: this machine starts no process \(.*/nowhere/bwrap"):
        run_programs([("", "")], SECONDS, MEMORY)


@isolated
def test_an_answer_is_right_if_its_program_passes_the_tests_of_the_reference():
    tests = "assert double(2) == 4\nassert double(0) == 0"
    answers = {
        "Here it is:\n```python\ndef double(x):\n    return 2 * x\n```\nIt doubles.": (1, False),
        "def double(x):\n    return x + x": (1, False),
        "```\ndef double(x):\n    return x * x * x\n```": (0, False),
        "```python\nimport sys\nsys.exit(0)\n```": (0, False),
        "def double(x):\n    while True: pass": (0, True),
        "I cannot.": (0, False),
    }
    how = Grpo(rewards=[{"program": "python"}], reward_s=2.0)
    values, slow = rewards_of(how, [SampledAnswer("d", "p", tests, text) for text in answers])
    assert list(zip(values[:, 0], slow.tolist(), strict=True)) == list(answers.values())


@pytest.mark.parametrize("found", [None, "/bin/false"])
def test_without_isolation_no_program_runs(monkeypatch, found):
    monkeypatch.setattr(programs.shutil, "which", lambda name: found)
    with pytest.raises(ConfigError, match=r"grpo.rewards: program: .*bubblewrap"):
        run_programs([("open('/tmp/ran', 'w')", "")], SECONDS, MEMORY)
