"""Runs programs that a model wrote, each isolated by bubblewrap (https://github.com/containers/bubblewrap).

Such a program sees Python and the system's libraries, read-only, and an empty folder for its files; no other file, no
network, no process and no environment variable. It has bounds on time, memory and files.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from raymill.cluster.errors import ConfigError
from raymill.cluster.guard import once

_FOLDER_BYTES = 16 << 20
_FILE_BYTES = 1 << 20  # of what it prints, too
_OPEN_FILES = 64
_PROCESSES = 16  # not for the user root
_SIGNALLED = 128 + 9, 128 + 24  # exit statuses of a program that took too long: SIGKILL, SIGXCPU
_GRACE_S = 60  # for a busy machine to end what timeout(1) has ended


def run_programs(programs: Sequence[str], seconds: float, memory: int) -> list[bool | None]:
    """Whether each Python program ran to its end without an error; None: it took too long.

    Args:
        seconds: of processor time, and of wall time, for each program. memory: bytes of address space.

    Raises:
        ConfigError: this machine has no bubblewrap, or its kernel does not let this user isolate a process.
    """
    command = _command(seconds, memory)
    if not once(("isolates", command[0]), lambda: _run(command, "", seconds)):
        raise ConfigError(
            "grpo.rewards: program: bubblewrap cannot isolate a process here, and programs that a model wrote are not "
            "run without it. Allow user namespaces to the workers, or use another reward."
        )
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # they wait for the processes
        return list(threads.map(lambda program: _run(command, program, seconds), programs))


def _command(seconds: float, memory: int) -> list[str]:
    isolate = shutil.which("bwrap")
    if isolate is None:
        raise ConfigError(
            "grpo.rewards: program: programs that a model wrote run in bubblewrap, which this machine lacks. Install "
            "it on every machine of the cluster: apt-get install bubblewrap."
        )
    python = os.path.realpath(sys.executable)
    seen = ["/usr", "/lib", "/lib64", sys.base_prefix]
    return [
        isolate, "--unshare-all", "--die-with-parent", "--as-pid-1", "--new-session", "--clearenv", "--cap-drop", "ALL",
        *(part for folder in seen for part in ("--ro-bind-try", folder, folder)),
        "--dev", "/dev", "--size", str(_FOLDER_BYTES), "--tmpfs", "/tmp", "--chdir", "/tmp",
        # When timeout(1) ends, the kernel ends all processes of the program.
        "timeout", "--signal=KILL", f"{seconds + 1:.3f}",
        "prlimit", f"--cpu={max(1, round(seconds))}", f"--as={memory}", f"--nofile={_OPEN_FILES}",
        f"--nproc={_PROCESSES}", f"--fsize={_FILE_BYTES}", "--core=0",
        python, "-I", "-S", "-",
    ]  # fmt: skip


def _run(command: Sequence[str], program: str, seconds: float) -> bool | None:
    end = secrets.token_hex()  # printed by the last line: a program that exits before its tests does not print it
    with tempfile.TemporaryFile() as printed:
        try:
            ended = subprocess.run(
                command, input=f"{program}\nprint('{end}')\n".encode("utf-8", "replace"), stdout=printed,
                stderr=subprocess.DEVNULL, timeout=seconds + _GRACE_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None
        printed.seek(-min(len(end) + 1, printed.tell()), os.SEEK_END)
        ran = ended.returncode == 0 and printed.read() == f"{end}\n".encode()
    return None if ended.returncode in _SIGNALLED else ran
