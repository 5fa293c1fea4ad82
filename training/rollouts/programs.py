"""Runs programs that a model wrote, each isolated by bubblewrap (https://github.com/containers/bubblewrap).

Such a program sees Python and the system's libraries, and an empty folder for its files; no other file, no network, no
process and no environment variable. It has bounds on time, memory and files. It is one process, which can start no
other one, and can keep no memory but its own, so the bounds hold for all that it does.
"""

import errno
import json
import os
import platform
import secrets
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from raymill.cluster.errors import ConfigError
from raymill.cluster.guard import once

_FOLDER_BYTES = 16 << 20
_FILE_BYTES = 1 << 20  # of what it prints, too
_OPEN_FILES = 64
_SIGNALLED = 128 + 9, 128 + 24  # exit statuses of a program that took too long: SIGKILL, SIGXCPU
# Runs the program, then its tests, and then prints what it reads from the pipe: a program that ends before its tests
# does not come to that. It runs in the same process, so one that looks for the pipe can still deceive its tests.
_HARNESS = """
import json, os, sys
program, tests, pipe = json.load(sys.stdin)
names = {"__name__": "__main__"}
exec(compile(program, "program", "exec"), names)
exec(compile(tests, "tests", "exec"), names)
sys.stdout.flush()
os.write(1, os.read(pipe, 100))
"""


def run_programs(programs: Sequence[tuple[str, str]], seconds: float, memory: int) -> list[bool | None]:
    """Whether each Python program and its tests ran to the end without an error; None: they took too long.

    Args:
        programs: (program, tests) of each.
        seconds: of processor time, and of wall time, for each program. memory: bytes of address space.

    Raises:
        ConfigError: this machine has no bubblewrap, or its kernel does not let this user isolate a process.
    """
    command = _command(seconds, memory)
    if not once(("isolates", command[0]), lambda: _run(command, "", "", seconds)):
        raise ConfigError(
            "grpo.rewards: program: bubblewrap cannot isolate a process here, and programs that a model wrote are not "
            "run without it. Allow user namespaces to the workers, or use another reward."
        )
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # they wait for the processes
        return list(threads.map(lambda one: _run(command, one[0], one[1], seconds), programs))


def _command(seconds: float, memory: int) -> list[str]:
    isolate = shutil.which("bwrap")
    if isolate is None or platform.machine() not in _CALLS:
        raise ConfigError(
            "grpo.rewards: program: programs that a model wrote run in bubblewrap, which this machine lacks. Install "
            "it on every machine of the cluster: apt-get install bubblewrap (x86-64 and ARM)."
        )
    python = os.path.realpath(sys.executable)
    seen = ["/usr", "/lib", "/lib64", sys.base_prefix]
    return [
        isolate, "--unshare-all", "--die-with-parent", "--as-pid-1", "--new-session", "--clearenv", "--cap-drop", "ALL",
        *(part for folder in seen for part in ("--ro-bind-try", folder, folder)),
        "--dev", "/dev", "--remount-ro", "/dev", "--size", str(_FOLDER_BYTES), "--tmpfs", "/tmp", "--chdir", "/tmp",
        "--remount-ro", "/", "--seccomp", "{filter}",
        "prlimit", f"--cpu={max(1, round(seconds))}", f"--as={memory}", f"--nofile={_OPEN_FILES}",
        f"--fsize={_FILE_BYTES}", "--core=0", python, "-I", "-S", "-c", _HARNESS,
    ]  # fmt: skip


def _run(command: Sequence[str], program: str, tests: str, seconds: float) -> bool | None:
    token = secrets.token_hex().encode()
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as rules:
        rules.write(_filter())
        rules.seek(0)
        os.write(writing, token)
        os.close(writing)
        try:
            ended = subprocess.run(
                [part.replace("{filter}", str(rules.fileno())) for part in command],
                input=json.dumps([program, tests, reading]).encode(), pass_fds=(rules.fileno(), reading),
                stdout=printed, stderr=subprocess.DEVNULL, timeout=seconds + 1,
            )  # fmt: skip
        except subprocess.TimeoutExpired:  # bubblewrap was killed, and with it the program
            return None
        finally:
            os.close(reading)
        printed.seek(-min(len(token), printed.tell()), os.SEEK_END)
        ran = ended.returncode == 0 and printed.read() == token
    return None if ended.returncode in _SIGNALLED else ran


# Numbers of system calls. fork, vfork, shmget and unshare start processes, or keep memory that no bound counts, and so
# does clone but for a thread.
class _Calls(NamedTuple):
    machine: int  # as seccomp names it
    clone: int
    clone3: int
    refused: tuple[int, ...]


_CALLS = {
    "x86_64": _Calls(0xC000003E, 56, 435, (57, 58, 29, 272)),
    "aarch64": _Calls(0xC00000B7, 220, 435, (194, 97)),
}
# Opcodes of classic BPF, and what a filter of seccomp reads and returns (linux/seccomp.h).
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _MACHINE_AT, _FLAGS_AT = 0, 4, 16
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD = 0x00010000
_SECOND_TABLE = 0x40000000  # of system calls, that x86-64 has for 32-bit pointers


def _filter() -> bytes:
    """A filter of system calls for seccomp, in classic BPF.

    Each instruction is (opcode, places to skip if true, if false, value).
    """
    calls = _CALLS[platform.machine()]
    rules: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_IF_EQUAL, 1, 0, calls.machine),
        (_RETURN, 0, 0, _KILL),  # a call of another architecture, such as 32 bits
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IF_AT_LEAST, 0, 1, _SECOND_TABLE),
        (_RETURN, 0, 0, _KILL),
    ]
    for number in calls.refused:
        rules += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    # Its flags are in memory, which a filter cannot read; the C library then uses clone.
    rules += [(_IF_EQUAL, 0, 1, calls.clone3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    rules += [
        (_IF_EQUAL, 1, 0, calls.clone),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _FLAGS_AT),
        (_IF_ANY_BIT, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
    return b"".join(struct.pack("<HBBI", *rule) for rule in rules)
