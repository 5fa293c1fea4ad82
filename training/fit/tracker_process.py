"""MLflow and Weights & Biases in processes of their own: `python -m raymill.training.fit.tracker_process`, and what
talks to it.

Their clients repeat a request for minutes, wait without end for an answer that drips, and read one of any size; at the
end of a process they wait for all of that once more. So a child process has each, with a bound on its memory. The
training writes lines to it and waits for nothing until the end, and there for half a minute at most.
"""

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import IO, Any

from raymill.cluster.logs import printable
from raymill.cluster.temporary import scratch_folder

_LAST_S = 30.0  # for what is still to be sent when the training ends
_MEMORY = 4 << 30  # bytes of address space
_MOST_WAITING = 64 << 20  # bytes of lines that the process has not taken
_SAID = 300
_MOST_PRINTED = 1 << 20  # bytes; what follows is read and not printed


class TrackerFailed(Exception):
    """The process ended, or takes nothing more. The message says what was seen."""


class TrackerProcess:
    """A child process that sends curves to a service. It starts with the training and ends with it at the latest.

    Args:
        service: key of _TRACKERS. about: what that function needs, as JSON values.
        last_s: seconds that `close` waits.
    """

    def __init__(self, service: str, about: Mapping[str, Any], last_s: float = _LAST_S) -> None:
        self._last_s = last_s
        self._waiting = bytearray()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],  # no module of the working folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the training, which then ends this
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        threading.Thread(target=_print_lines, args=(self._process.stderr,), daemon=True).start()
        self._send({"service": service, "about": dict(about), "last_s": last_s})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values of a step. Never waits.

        Raises:
            TrackerFailed: the process has ended, or has not taken earlier steps for too long.
        """
        self._send({"step": step, "values": dict(values)})

    def close(self) -> None:
        """Send what is left, and end the process after some time.

        Raises:
            TrackerFailed: not all was sent.
        """
        pipe, until = self._process.stdin, time.monotonic() + self._last_s
        assert pipe is not None
        try:
            while self._waiting and (left := until - time.monotonic()) > 0:
                select.select([], [pipe], [], left)
                self._flush()
            if self._waiting:  # closed now, the pipe would end within a line
                raise TrackerFailed(f"did not end within {self._last_s:.0f} s")
            with suppress(OSError):
                pipe.close()
            self._process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise TrackerFailed(f"did not end within {self._last_s:.0f} s") from None
        finally:
            self._kill()
        if self._process.returncode:
            raise TrackerFailed(self._said())

    def _send(self, line: Mapping[str, Any]) -> None:
        self._waiting += json.dumps(line).encode() + b"\n"
        self._flush()
        if len(self._waiting) > _MOST_WAITING:
            self._kill()
            raise TrackerFailed("takes no more")

    def _flush(self) -> None:
        assert self._process.stdin is not None
        try:
            while self._waiting:
                del self._waiting[: os.write(self._process.stdin.fileno(), self._waiting[: 1 << 16])]
        except BlockingIOError:
            return
        except OSError:  # it has ended
            self._kill()
            raise TrackerFailed(self._said()) from None

    def _kill(self) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _said(self) -> str:
        """The last thing that the ended process said, or its exit status."""
        assert self._process.stdout is not None
        if select.select([self._process.stdout], [], [], 0)[0]:
            said = os.read(self._process.stdout.fileno(), 4 * _SAID).decode(errors="replace")
            return " ".join(said.split())[:_SAID] or f"exit status {self._process.returncode}"
        return f"exit status {self._process.returncode}"


def _print_lines(stream: IO[bytes]) -> None:
    """Print what the libraries say, such as the address of the run, without secrets and control characters."""
    left = _MOST_PRINTED
    while (line := stream.readline(_SAID)) and left > 0:
        print(printable(line.decode(errors="replace").rstrip("\r\n")), file=sys.stderr, flush=True)
        left -= len(line)
    while stream.read(1 << 16):
        pass


def main() -> None:
    """Send what standard input has to a service. Standard output has the type of the error that ended it."""
    say = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the libraries print the address of the run
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY if hard == resource.RLIM_INFINITY else min(_MEMORY, hard), hard))
    try:
        first = json.loads(sys.stdin.readline())
        _TRACKERS[first["service"]](first["about"], _steps(first["last_s"]))
        status = 0
    except BaseException as error:
        say.write(type(error).__name__)  # its text may have an address with a password
        say.flush()
        status = 1
    os._exit(status)  # the libraries' own handlers at the end wait again


def _steps(last_s: float) -> Iterator[dict[str, Any]]:
    """Each step that the training sends. After the last one, this process ends within `last_s` seconds."""
    yield from map(json.loads, sys.stdin)
    # The training has ended, or was killed.
    watch = threading.Timer(last_s, os._exit, (1,))
    watch.daemon = True
    watch.start()


def _track_in_mlflow(about: Mapping[str, Any], steps: Iterator[dict[str, Any]]) -> None:
    """One MLflow run per training, over all starts: found by the tag `raymill`, the training's fingerprint."""
    import mlflow

    mlflow.set_tracking_uri(about["uri"])
    experiment = mlflow.set_experiment("raymill")
    known = mlflow.search_runs(
        [experiment.experiment_id], f"tags.raymill = '{about['fingerprint']}'", output_format="list", max_results=1
    )
    tags = {"raymill": about["fingerprint"]}
    run_id = known[0].info.run_id if known else None
    mlflow.start_run(run_id=run_id, run_name=None if known else about["name"], tags=tags)
    for step in steps:
        values = {name.replace("/", "."): value for name, value in step["values"].items()}
        mlflow.log_metrics(values, step=step["step"], synchronous=False)
    mlflow.end_run()


def _track_in_wandb(about: Mapping[str, Any], steps: Iterator[dict[str, Any]]) -> None:
    """One run of Weights & Biases per training, over all starts; its id is the training's fingerprint."""
    # It reads `wandb/settings` of the working folder, which may hold downloaded data: the file can name a server to
    # which the key is sent. What it writes stays where it was.
    written = os.environ.get("WANDB_DIR", os.getcwd())
    with scratch_folder("wandb") as empty, contextlib.chdir(empty):
        import wandb

        run = wandb.init(
            project=about["project"], name=about["name"], id=about["fingerprint"], resume="allow",
            config=about["settings"], dir=written,
        )  # fmt: skip
    for step in steps:
        run.log(step["values"], step=step["step"])
    run.finish()


_TRACKERS = {"mlflow": _track_in_mlflow, "wandb": _track_in_wandb}


if __name__ == "__main__":
    main()
