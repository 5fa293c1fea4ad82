"""Runs programs that a model wrote, each isolated by bubblewrap (https://github.com/containers/bubblewrap).

Such a program sees Python and the system's libraries; no other file, no network, no process and no environment
variable. It has bounds on time and memory, and writes no file. It is one process of one thread, which can start no
other one and makes no system call that keeps memory elsewhere, so the bounds hold for all that it does.
"""

import errno
import json
import logging
import os
import platform
import secrets
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from raymill.cluster.errors import ConfigError
from raymill.cluster.guard import once

log = logging.getLogger(__name__)

_WAITS_S = 0.1, 1.0, 5.0  # before each further try to start a program
_PRINTED_BYTES = 1 << 20
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
    """Whether each Python program and its tests ran to the end without an error; None: they took too long, or
    this machine started no process for them in several tries, which is logged with the reason.

    Args:
        programs: (program, tests) of each.
        seconds: of processor time, and of wall time, for each program. memory: bytes of address space.

    Raises:
        ConfigError: this machine has no bubblewrap, or its kernel does not let this user isolate a process, or it
            starts none.
    """
    command = _command(seconds, memory)
    try:
        isolates = once(("isolates", command[0]), lambda: _retried(command, "", "", seconds))
    except OSError as error:
        raise ConfigError(
            f"grpo.rewards: program: this machine starts no process ({error}). Find what uses it."
        ) from error
    if not isolates:
        raise ConfigError(
            "grpo.rewards: program: bubblewrap cannot isolate a process here, and programs that a model wrote are not "
            "run without it. Allow user namespaces to the workers, or use another reward."
        )
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # they wait for the processes
        return list(threads.map(lambda one: _outcome(command, one[0], one[1], seconds), programs))


def _command(seconds: float, memory: int) -> list[str]:
    isolate = shutil.which("bwrap")
    if isolate is None or platform.machine() not in _MACHINES:
        raise ConfigError(
            "grpo.rewards: program: programs that a model wrote run in bubblewrap, which this machine lacks. Install "
            "it on every machine of the cluster: apt-get install bubblewrap (x86-64 and ARM)."
        )
    python = os.path.realpath(sys.executable)
    seen = ["/usr", "/lib", "/lib64", sys.base_prefix]
    return [
        isolate, "--unshare-all", "--die-with-parent", "--as-pid-1", "--new-session", "--clearenv", "--cap-drop", "ALL",
        *(part for folder in seen for part in ("--ro-bind-try", folder, folder)),
        "--dev", "/dev", "--remount-ro", "/dev", "--dir", "/tmp", "--chdir", "/tmp", "--remount-ro", "/",
        "--seccomp", "{filter}",
        "prlimit", f"--cpu={max(1, round(seconds))}", f"--as={memory}", f"--nofile={_OPEN_FILES}",
        f"--fsize={_PRINTED_BYTES}", "--core=0", python, "-I", "-S", "-c", _HARNESS,
    ]  # fmt: skip


def _outcome(command: Sequence[str], program: str, tests: str, seconds: float) -> bool | None:
    try:
        return _retried(command, program, tests, seconds)
    except OSError as error:
        log.warning("a program was not started, so its reward is 0: %s", error)
        return None


def _retried(command: Sequence[str], program: str, tests: str, seconds: float) -> bool | None:
    """What `_run` returns. Raises OSError: no process was started in several tries."""
    for wait in _WAITS_S:
        try:
            return _run(command, program, tests, seconds)
        except OSError:  # no memory, processes or files are left for now
            time.sleep(wait)
    return _run(command, program, tests, seconds)


def _run(command: Sequence[str], program: str, tests: str, seconds: float) -> bool | None:
    token = secrets.token_hex().encode()
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as rules:
        rules.write(_filter())
        rules.seek(0)
        reading, writing = os.pipe()
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
        if ended.returncode in _SIGNALLED:
            return None
        size = os.fstat(printed.fileno()).st_size  # the program may have moved the place of its output
        with suppress(OSError):  # or set flags of it, with which it cannot be read so
            return ended.returncode == 0 and os.pread(printed.fileno(), len(token), max(0, size - len(token))) == token
        return False


# The system calls that a program may make, with their numbers on x86-64 and on ARM. All others are unknown to it: they
# start processes or threads, of which one program could take all that the machine has, or keep memory in the kernel
# that no bound counts, such as semaphores, queues, keys and files.
_ALLOWED = """
access 21 -, arch_prctl 158 -, brk 12 214, clock_getres 229 114, clock_gettime 228 113, clock_nanosleep 230 115, close
3 57, dup 32 23, dup2 33 -, dup3 292 24, epoll_create1 291 20, epoll_ctl 233 21, epoll_pwait 281 22, epoll_wait 232 -,
execve 59 221, exit 60 93, exit_group 231 94, faccessat 269 48, faccessat2 439 439, fcntl 72 25, fstat 5 80, futex 202
98, getcwd 79 17, getdents64 217 61, getegid 108 177, geteuid 107 175, getgid 104 176, getpid 39 172, getppid 110 173,
getrandom 318 278, getrusage 98 165, getsockname 51 204, getsockopt 55 209, gettid 186 178, gettimeofday 96 169,
getuid 102 174, ioctl 16 29, lseek 8 62, lstat 6 -, madvise 28 233, membarrier 324 283, mmap 9 222, mprotect 10 226,
mremap 25 216, munmap 11 215, nanosleep 35 101, newfstatat 262 79, open 2 -, openat 257 56, pipe 22 -, pipe2 293 59,
poll 7 -, ppoll 271 73, pread64 17 67, prlimit64 302 261, pselect6 270 72, read 0 63, readlink 89 -, readlinkat 267
78, readv 19 65, recvfrom 45 207, restart_syscall 219 128, rseq 334 293, rt_sigaction 13 134, rt_sigprocmask 14 135,
rt_sigreturn 15 139, sched_getaffinity 204 123, sched_yield 24 124, select 23 -, sendto 44 206, set_robust_list 273
99, set_tid_address 218 96, setsockopt 54 208, shutdown 48 210, sigaltstack 131 132, socketpair 53 199, stat 4 -,
statx 332 291, sysinfo 99 179, tgkill 234 131, time 201 -, times 100 153, uname 63 160, write 1 64, writev 20 66
"""
# Of these calls only with such a second argument: to ask what a file is, and to set flags of its number. Others reserve
# disk space that no bound counts, or have the kernel watch files.
_COMMANDS = {
    "ioctl": (0x5401, 0x5451, 0x5421),  # TCGETS, FIOCLEX, FIONBIO
    "fcntl": (0, 1, 2, 3, 4, 1030),  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
}
_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # as seccomp names them
# Opcodes of classic BPF, and what a filter of seccomp reads and returns (linux/seccomp.h).
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _MACHINE_AT, _SECOND_AT = 0, 4, 24
_ALLOW, _KILL, _UNKNOWN = 0x7FFF0000, 0x80000000, 0x00050000 | errno.ENOSYS


def _filter() -> bytes:
    """A filter of system calls for seccomp, in classic BPF.

    Each instruction is (opcode, places to skip if true, if false, value).
    """
    machine = platform.machine()
    at = 1 + list(_MACHINES).index(machine)
    allowed = [(row.split()[0], row.split()[at]) for row in _ALLOWED.split(",")]
    rules = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_IF_EQUAL, 1, 0, _MACHINES[machine]),
        (_RETURN, 0, 0, _KILL),  # a call of another architecture, such as 32 bits
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    for name, number in allowed:
        if number == "-":
            continue
        then = [(_RETURN, 0, 0, _ALLOW)]
        if commands := _COMMANDS.get(name):
            each = [rule for one in commands for rule in ((_IF_EQUAL, 0, 1, one), then[0])]
            then = [(_LOAD, 0, 0, _SECOND_AT), *each, (_RETURN, 0, 0, _UNKNOWN)]
        rules += [(_IF_EQUAL, 0, len(then), int(number)), *then]
    rules.append((_RETURN, 0, 0, _UNKNOWN))
    return b"".join(struct.pack("<HBBI", *rule) for rule in rules)
