"""Submits to a running Ray cluster, through the Jobs API of its dashboard.

The cluster keeps jobs in the memory of its head: when the head is replaced, they are gone, and the next attempt
continues from what the run committed. A job is the command `raymill VERB env:RAYMILL_CONFIG` on the head; its metadata
has the fields of an Attempt.
"""

import json
import logging
import re
import shlex
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

import raymill
from raymill.cluster.entry import within
from raymill.cluster.errors import ClusterError, ConfigError
from raymill.cluster.ray_private import private
from raymill.cluster.submit.backend import (
    CONFIG_VARIABLE,
    GRACE_S,
    RETRY_S,
    Attempt,
    AttemptExists,
    AttemptLost,
    LogLines,
    LogReader,
    NoAnswer,
    NotThere,
    OnMessage,
    Request,
    Retries,
    State,
    ignore_message,
    name_conflict,
    warn_of_unlisted,
)
from raymill.cluster.submit.preflight import CheckRequest, mismatched_ray, problems, read_report
from raymill.cluster.submit.ray_api import RayApi, Refused
from raymill.cluster.submit.work import Work

log = logging.getLogger(__name__)

_STATES = {
    "PENDING": State.WAITING,
    "RUNNING": State.RUNNING,
    "SUCCEEDED": State.SUCCEEDED,
    "FAILED": State.FAILED,
    "STOPPED": State.CANCELLED,
}
_LATEST_MS = 1 << 43  # the year 2248

# client_max_size of the dashboard (ray/dashboard/http_server_head.py).
MOST_BYTES = 100 << 20


class _Job(BaseModel):
    """A job, as the dashboard describes it. Its metadata and name are those that its submitter gave it."""

    submission_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    status: Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"]
    message: str | None = None
    error_type: str | None = None
    entrypoint: str | None = None
    driver_exit_code: Annotated[int, Field(gt=-(1 << 31), lt=1 << 32)] | None = None
    start_time: Annotated[int, Field(ge=0, lt=_LATEST_MS)] | None = None
    end_time: Annotated[int, Field(ge=0, lt=_LATEST_MS)] | None = None
    driver_node_id: str | None = None
    metadata: dict[str, str] | None = None
    runtime_env: dict[str, Any] | None = None

    def stated(self, key: str) -> str:
        """What `submit` wrote into the metadata; "" if nothing."""
        return (self.metadata or {}).get(f"{_PREFIX}{key}", "")


class _Version(BaseModel):
    ray_version: Annotated[str, Field(max_length=100)]


_JOB, _JOBS, _VERSION = TypeAdapter(_Job), TypeAdapter(list[dict[str, Any]]), TypeAdapter(_Version)

_POLL_S = 1.0
_LOG_TRIES = 3
_LOG_INTERVAL_S = 0.5  # Ray looks for new bytes of a followed log this often
_LOG_S = 600  # time-out of reading a whole log
_CHECK_S = 240
_LARGEST_CHECK_LOG = 16 << 20  # bytes
_COMMAND_NOT_FOUND = 127
# Modules without which the check before a job cannot start -> what has them.
_MODULES = {"ray'": "Ray", "raymill": "Raymill"}
_PREFIX = "raymill."
# Source: ray/dashboard/modules/job/job_manager.py of Ray 2.60.
_SETTING_UP = re.compile(r"\bINFO job_manager\.py:\d+ -- Runtime env is setting up\.$")


class JobsApi:
    """A running Ray cluster.

    Args:
        api: dashboard of the cluster.
        ship_code: run the source of this checkout instead of the Raymill that is installed on the cluster.
        command: command that starts Raymill on the cluster.
        retry_s: seconds for which a request is repeated while the cluster does not answer.
        grace_s: seconds that a cancelled job has to commit what is done.
    """

    def __init__(
        self,
        api: RayApi,
        ship_code: bool = False,
        command: Sequence[str] = ("raymill",),
        retry_s: float = RETRY_S,
        grace_s: int = GRACE_S,
    ) -> None:
        self.api = api
        self.ships = ship_code
        self.command = ("python", "-m", "raymill.cluster.cli") if ship_code else tuple(command)
        self.retry_s = retry_s
        self.grace_s = grace_s

    def check(self, work: Work) -> list[str]:
        """Compare versions, then run a short job on the cluster that looks at machines, store and files."""
        if problem := mismatched_ray(self.api.get_as(_VERSION, "/api/version").ray_version):
            return [problem]
        name = f"{work.run_id}-check-{uuid.uuid4().hex[:6]}"
        variables = {CheckRequest.VARIABLE: CheckRequest.of(work).to_json()}
        self._submit(name, ("python", "-m", "raymill.cluster.submit.cluster_check"), variables, {})
        try:
            job = self._wait_for(name, _CHECK_S)
            text = self._begin_of_log(job).decode("utf-8", errors="replace")
        finally:
            try:
                self.api.post(f"/api/jobs/{name}/stop")
                self._wait_for(name, 10)
                self.api.delete(f"/api/jobs/{name}")
            except ClusterError as error:
                log.info("the job %s could not be removed (%s)", name, type(error).__name__)
        report = read_report(text)
        if report is None:
            return [_failed_check(job, text)]
        return problems(work, report, self.ships)

    def start(self, request: Request) -> Attempt:
        config = json.dumps(dict(request.work.config), ensure_ascii=False)
        # Ray kills a stopped job after 3 s by default.
        variables = {CONFIG_VARIABLE: config, "RAY_JOB_STOP_WAIT_TIME_S": str(self.grace_s)}
        try:
            self._submit(request.name, request.command(self.command), variables, request.metadata)
        except AttemptExists:
            raise name_conflict(self, request) from None
        found = self.attempt(request.name)
        if found is None:
            raise AttemptLost(_lost(request.name))
        return found

    def attempts(self) -> list[Attempt]:
        jobs: list[_Job] = []
        damaged: list[str] = []
        for job in self.api.get_as(_JOBS, "/api/jobs/"):
            metadata = job.get("metadata")
            if not isinstance(metadata, dict) or f"{_PREFIX}run_id" not in metadata:
                continue
            try:
                jobs.append(_JOB.validate_python(job))
            except ValidationError as error:  # whoever may submit jobs writes their names and metadata
                at = ".".join(map(str, error.errors()[0]["loc"]))
                named = f"{job.get('submission_id')!r:.100}"
                damaged.append(f"the job {named} of the cluster has a {at} that Ray gives to none")
        warn_of_unlisted(damaged)
        jobs.sort(key=lambda job: job.start_time or 0)
        return [_attempt(job) for job in jobs]

    def attempt(self, name: str) -> Attempt | None:
        try:
            job = self._job(name)
        except NotThere:
            return None
        return _attempt(job) if job.stated("run_id") else None

    def config(self, attempt: Attempt) -> Mapping[str, Any] | None:
        try:
            text = (self._job(attempt.name).runtime_env or {})["env_vars"][CONFIG_VARIABLE]
            found = json.loads(text)
        except (NotThere, KeyError, TypeError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def logs(self, attempt: Attempt, follow: bool, on_message: OnMessage = ignore_message) -> Iterator[str]:
        return (line for line in self._lines(attempt, follow, on_message) if not _SETTING_UP.search(line))

    def _lines(self, attempt: Attempt, follow: bool, on_message: OnMessage) -> Iterator[str]:
        """The lines of the log, with the one that Ray writes into it before it runs the command."""
        lines = LogLines()
        if follow:
            yield from self._follow(attempt.name, lines, on_message)
        else:
            lines.connected()
            for chunk in self._log(self._job(attempt.name)):
                yield from lines.add(chunk)
        yield from lines.end()

    def cancel(self, attempt: Attempt) -> None:
        try:
            self.api.post(f"/api/jobs/{attempt.name}/stop")
        except NotThere:
            raise AttemptLost(_lost(attempt.name)) from None
        self._wait_for(attempt.name, self.grace_s + 30)

    # --- jobs

    def _submit(
        self, name: str, command: Sequence[str], variables: Mapping[str, str], metadata: Mapping[str, str]
    ) -> None:
        """Start a job exactly once: after a lost answer, the repeated request finds the first one's job.

        Raises:
            AttemptExists: the cluster has another job of this name.
        """
        mine = uuid.uuid4().hex
        runtime: dict[str, Any] = {"env_vars": dict(variables)}
        if self.ships:
            runtime["working_dir"] = ship_code(self.api)
        body = {
            "entrypoint": shlex.join(command),
            "submission_id": name,
            "runtime_env": runtime,
            "metadata": {f"{_PREFIX}{key}": value for key, value in metadata.items()} | {f"{_PREFIX}request": mine},
        }
        retries = Retries(self.api.address, self.retry_s)
        while True:
            try:
                self.api.post("/api/jobs/", body)
                return
            except Refused as error:
                if "already exists" not in error.text:
                    raise
                with suppress(ConfigError):  # of a job that somebody damaged
                    if self._job(name).stated("request") == mine:
                        return
                raise AttemptExists(name) from None
            except NoAnswer as error:
                retries.failed(error)

    def _job(self, name: str) -> "_Job":
        return self.api.get_as(_JOB, f"/api/jobs/{quote(name, safe='')}")

    def _wait_for(self, name: str, seconds: float) -> "_Job":
        """The job, once it has ended."""
        until = time.monotonic() + seconds
        while True:
            try:
                job = self._job(name)
            except NotThere:
                raise AttemptLost(_lost(name)) from None
            if _STATES[job.status].final:
                return job
            if time.monotonic() > until:
                raise ClusterError(
                    f"{name}: still {_STATES[job.status]} after {seconds:.0f} s ({_message(job)}). Look at the "
                    f"cluster's dashboard, {self.api.address}, and try again."
                )
            time.sleep(_POLL_S / 2)

    # --- logs

    def _log(self, job: _Job, follow: bool = False) -> Generator[bytes, None, None]:
        """The bytes of a job's log, from the first; nothing if the job never had a machine."""
        if job.driver_node_id is None:
            return
        where = {"node_id": job.driver_node_id, "filename": f"job-driver-{job.submission_id}.log", "lines": -1}
        if follow:
            yield from self.api.stream("/api/v0/logs/stream", **where, interval=_LOG_INTERVAL_S)
        else:
            yield from self.api.stream("/api/v0/logs/file", **where, timeout=_LOG_S)

    def _begin_of_log(self, job: _Job) -> bytes:
        """A log up to a bound that no log of a check reaches. Raises NoAnswer: it takes too long."""

        def read() -> bytes:
            found = bytearray()
            with closing(self._log(job)) as chunks:
                for chunk in chunks:
                    found += chunk
                    if len(found) > _LARGEST_CHECK_LOG:
                        break
            return bytes(found)

        try:
            return within(_CHECK_S, read)
        except TimeoutError as error:
            raise NoAnswer(f"{self.api.address}: the log of {job.submission_id}: {error}.") from None

    def _follow(self, name: str, lines: LogLines, on_message: OnMessage) -> Iterator[str]:
        """The lines of a log until its job has ended. The log and the job's state are read at the same time."""
        reader: LogReader | None = None
        last_message = ""
        retries = Retries(self.api.address, self.retry_s)
        while True:
            try:
                job = self._job(name)
            except NotThere:
                raise AttemptLost(_lost(name)) from None
            except NoAnswer as error:
                reader = None
                retries.failed(error)
                continue
            retries.succeeded()
            if _STATES[job.status].final:
                yield from self._rest(job, lines)
                return
            if (message := _message(job)) != last_message and _STATES[job.status] is State.WAITING:
                on_message(f"{name}: waiting: {message}")
                last_message = message
            until = time.monotonic() + _POLL_S
            try:
                if reader is None and job.driver_node_id:
                    lines.connected()
                    reader = LogReader(self._log(job, follow=True))
                while reader is not None and (left := until - time.monotonic()) > 0:
                    chunk = reader.read(left)
                    if chunk is None:  # cut, as the job has not ended
                        reader = None
                    else:
                        yield from lines.add(chunk)
            except (NoAnswer, NotThere):  # also if the log's file is not there yet
                reader = None
            time.sleep(max(0.0, until - time.monotonic()))

    def _rest(self, job: _Job, lines: LogLines) -> Iterator[str]:
        """The lines of an ended job's log that were not read yet."""
        for _ in range(_LOG_TRIES):
            try:
                lines.connected()
                for chunk in self._log(job):
                    yield from lines.add(chunk)
                return
            except (NoAnswer, NotThere):
                time.sleep(_POLL_S)
        log.warning("the end of the log of %s could not be read: its machine may be gone", job.submission_id)


def _attempt(job: _Job) -> Attempt:
    state, code = _STATES[job.status], job.driver_exit_code
    return Attempt(
        name=job.submission_id,
        run_id=job.stated("run_id"),
        kind=job.stated("kind"),
        state=state,
        message=_message(job),
        exit_code={State.SUCCEEDED: 0, State.FAILED: 1}.get(state) if code is None else _of_shell(code),
        started=_seconds(job.start_time),
        ended=_seconds(job.end_time),
        config_fingerprint=job.stated("config_fingerprint"),
        output=job.stated("output"),
    )


def _of_shell(code: int) -> int:
    """The exit code of a process as a shell has it: 128 + N for one that was ended by signal N."""
    return code if code >= 0 else 128 - code


def _message(job: _Job) -> str:
    """One line on why the job waits or failed."""
    status, code, text = job.status, job.driver_exit_code, job.message or ""
    if status == "FAILED" and code == _COMMAND_NOT_FOUND:
        command = (job.entrypoint or "").partition(" ")[0]
        return f"exit code {code}: {command} is not on the PATH with which Ray's head was started"
    if status == "FAILED" and code is not None:
        return f"exit code {_of_shell(code)}"
    if status == "FAILED":
        reason = (job.error_type or "").lower().replace("_", " ")
        return f"{reason}: {_first_line(text)}".removeprefix(": ")
    return _first_line(text) if status == "PENDING" else ""


def _failed_check(job: _Job, text: str) -> str:
    last = _first_line(text.strip().rpartition("\n")[2])
    missing = next((name for module, name in _MODULES.items() if f"No module named '{module}" in text), "")
    if missing or job.driver_exit_code == _COMMAND_NOT_FOUND:
        seen = f"has no {missing}" if missing else "was not found"
        ship = ", or ship this checkout with --ship-code" if missing == "Raymill" else ""
        return (
            f"the command python of the cluster's jobs, the first on the PATH with which Ray's head was started, "
            f"{seen} ({last}). Start the head with the bin folder of an environment that has ray[default] and Raymill "
            f"first on PATH (`PATH=ENV/bin:$PATH ray start --head ...`), or from an image that has both{ship}."
        )
    return (
        f"the check on the cluster ended without a result ({_message(job)}; {last}). Look at the logs in the cluster's "
        "dashboard."
    )


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:300]


def _seconds(milliseconds: int | None) -> float | None:
    return None if not milliseconds else milliseconds / 1000


def _lost(name: str) -> str:
    return (
        f"{name}: the cluster no longer has this job, as after its head was replaced. What it committed is kept: "
        "submit the config again to continue."
    )


# ---- --ship-code ----


def ship_code(api: RayApi) -> str:
    """Upload the package `raymill`, unless the cluster has this version of it. Returns the URI of what was sent.

    Raises:
        ConfigError: Raymill is not run from a checkout, a link in it leads elsewhere, or it is too large.
    """
    root = Path(raymill.__file__).parents[1]
    if not (root / "pyproject.toml").is_file():
        raise ConfigError(
            f"--ship-code: Raymill is installed at {root} and not run from a checkout, so there is no source to ship. "
            "Install a checkout (pip install --editable .), or leave out --ship-code to use the cluster's Raymill."
        )
    uri_of = private("get_uri_for_directory")  # imports Ray, which sets the level of its loggers
    logging.getLogger("ray").setLevel(logging.WARNING)  # it logs each file that it ignores and each step of packing
    with tempfile.TemporaryDirectory() as folder:
        copy, file = Path(folder) / "code", Path(folder) / "package.zip"
        shutil.copytree(root / "raymill", copy / "raymill", ignore=partial(_not_shipped, root))
        uri = uri_of(str(copy), include_gitignore=False)
        protocol, _, name = uri.partition("://")
        path = f"/api/packages/{protocol}/{name}"
        try:
            api.get(path)
        except NotThere:
            private("create_package")(str(copy), file, include_gitignore=False)
            if (size := file.stat().st_size) > MOST_BYTES:
                raise ConfigError(
                    f"--ship-code: the packages of {root} are {size / (1 << 20):,.0f} MiB packed; a cluster takes "
                    f"{MOST_BYTES >> 20} MiB. Move data and results out of them."
                ) from None
            print(f"sending {size / (1 << 20):.1f} MiB of code to {api.address}", file=sys.stderr, flush=True)
            api.put(path, file.read_bytes())
    return uri


def _not_shipped(root: Path, folder: str, names: list[str]) -> list[str]:
    """The names in a folder of the package that are not sent: caches, and hidden files, such as those of secrets.

    Raises:
        ConfigError: a file is a link, or a folder is one other than the packages of the checkout.
    """
    left_out = [name for name in names if name.startswith(".") or name == "__pycache__"]
    for path in (Path(folder) / name for name in names if name not in left_out):
        if path.is_symlink() and (path.parent != root / "raymill" or path.resolve().parent != root.resolve()):
            raise ConfigError(
                f"--ship-code: {path} is a link to {path.resolve()}, whose content would be sent. Remove it."
            )
    return left_out
