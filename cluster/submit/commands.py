"""The verbs `raymill submit`, `runs`, `status`, `logs` and `cancel`.

Every verb takes the place, `--to` and `--address`: nothing is remembered between two calls. Standard output holds the
job's log or what was asked for; messages of these verbs go to standard error.
"""

import dataclasses
import datetime
import difflib
import sys
import time
from importlib.util import find_spec
from typing import Annotated

import typer

from cluster.cli import shell_command
from cluster.config import load
from cluster.entry import Entry
from cluster.errors import ConfigError, UserError
from cluster.page.formats import plural
from cluster.progress import clock
from cluster.submit.backend import Attempt, AttemptLost, Backend, State, first_attempts
from cluster.submit.jobs_api import JobsApi
from cluster.submit.local import Local
from cluster.submit.ray_api import RayApi, checked_address, found_token
from cluster.submit.submit import submit as submit_work
from cluster.submit.work import WORK, Work

# The Kubernetes client is loaded only for it.
_kuberay = Entry("cluster.submit.kuberay:connect")

_PLACES = ("local", "jobs", "kuberay")
# Other words for a place -> its name.
_OTHER_NAMES = {"kubernetes": "kuberay", "k8s": "kuberay", "kube": "kuberay", "ray": "jobs", "cluster": "jobs"}
_WANTED = {
    "to": "one of local, jobs, kuberay",
    "address": "http://HOST:PORT",
    "token_file": "a file",
    "namespace": "a name",
    "context": "a name",
}
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_CANCELLED = 130
_SHOWN = 20
_NAMES_SHOWN = 3

To = Annotated[
    str | None,
    typer.Option(
        help="local: this machine; jobs: a running Ray cluster; kuberay: Kubernetes. "
        "Default: jobs with --address, else local"
    ),
]
Address = Annotated[str | None, typer.Option(help="of the cluster's dashboard, as in http://127.0.0.1:8265")]
TokenFile = Annotated[
    str | None, typer.Option(help="file with the cluster's token; default: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH")
]
InsecureHttp = Annotated[
    bool, typer.Option("--insecure-http", help="send config and token unencrypted to another machine")
]
Namespace = Annotated[str | None, typer.Option(help="kuberay: of the jobs; default: of the overlay, else raymill")]
Context = Annotated[str | None, typer.Option(help="kuberay: of the kubeconfig; default: its current one")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="of a run or an attempt, as `raymill runs` prints it")]


def submit(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="settings of any kind, YAML or JSON")],
    override: Annotated[
        list[str] | None, typer.Option("-o", help="change one setting: key.sub=value; may be repeated")
    ] = None,
    to: To = None,
    address: Address = None,
    token_file: TokenFile = None,
    insecure_http: InsecureHttp = False,
    namespace: Namespace = None,
    context: Context = None,
    detach: Annotated[bool, typer.Option("--detach", help="return when the job is accepted, without its log")] = False,
    name: Annotated[str | None, typer.Option(help="first part of the run's name; default: the config's name")] = None,
    within: Annotated[
        str | None,
        typer.Option(help="kuberay: wanted duration, as in 90m, 8h or 2d; chooses the number of machines"),
    ] = None,
    ship_code: Annotated[
        bool, typer.Option("--ship-code", help="run this checkout's source on the cluster; at most 100 MiB")
    ] = False,
    overlay: Annotated[
        str | None, typer.Option(help="kuberay: kind, eks, gke, onprem-kueue, or a YAML file that extends one")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="kuberay: REPOSITORY@sha256:DIGEST; default: of the overlay")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="delete results made with other settings and make them again")
    ] = False,
) -> int:
    """Run a config elsewhere: start it, attach if it runs, continue it if it broke. Exits with the job's exit code."""
    place = Place(to, address, token_file, insecure_http, namespace, context)
    place.refuse_within(within)
    backend = place.backend(ship_code, overlay, image)
    work = work_of(config, override or [], name, within, replace)
    done = submit_work(backend, work, place.command)
    if done.attempt is None:
        _say(f"{work.run_id}: already finished, nothing to do. Output: {work.output}")
        return 0
    _say(_opening(done.attempt, done.started, done.before))
    if detach:
        _say(f"Follow it with: {place.command('logs', done.attempt.name, '-f')}")
        return 0
    return _follow(backend, done.attempt, place)


def runs(
    to: To = None,
    address: Address = None,
    token_file: TokenFile = None,
    insecure_http: InsecureHttp = False,
    namespace: Namespace = None,
    context: Context = None,
    all_: Annotated[bool, typer.Option("--all", help=f"all, not only the newest {_SHOWN}")] = False,
) -> None:
    """The runs that were submitted there, one line for each attempt, the newest last."""
    attempts = first_attempts(Place(to, address, token_file, insecure_http, namespace, context).backend())
    shown = attempts if all_ else attempts[-_SHOWN:]
    if not shown:
        _say("No runs were submitted there.")
        return
    rows = [("name", "state", "started", "time", "output")]
    rows += [(one.name, one.state, _moment(one.started), _took(one), one.output) for one in shown]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if len(shown) < len(attempts):
        _say(f"{plural(len(attempts) - len(shown), 'older attempt')} not shown (--all shows them).")


def status(
    name: Name,
    to: To = None,
    address: Address = None,
    token_file: TokenFile = None,
    insecure_http: InsecureHttp = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """One run: its last attempt, state, times and output."""
    place = Place(to, address, token_file, insecure_http, namespace, context)
    found = _find(place.backend(), name, place)
    print(f"name      {found.name}")
    print(f"run       {found.run_id} ({found.kind})")
    print(f"state     {found.state}" + (f": {found.message}" if found.message else ""))
    if found.exit_code is not None:
        print(f"exit code {found.exit_code}")
    print(f"started   {_moment(found.started)}")
    print(f"time      {_took(found)}")
    print(f"output    {found.output}")


def logs(
    name: Name,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="until the job ends; exits with its exit code")
    ] = False,
    to: To = None,
    address: Address = None,
    token_file: TokenFile = None,
    insecure_http: InsecureHttp = False,
    namespace: Namespace = None,
    context: Context = None,
) -> int:
    """The log of a run's last attempt. A lost connection is made again; every line is printed once."""
    place = Place(to, address, token_file, insecure_http, namespace, context)
    backend = place.backend()
    found = _find(backend, name, place)
    if follow:
        return _follow(backend, found, place)
    for line in backend.logs(found, follow=False):
        print(line)
    return 0


def cancel(
    name: Name,
    to: To = None,
    address: Address = None,
    token_file: TokenFile = None,
    insecure_http: InsecureHttp = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Stop a run. It gets a minute to commit what is done; submitting it again continues there."""
    place = Place(to, address, token_file, insecure_http, namespace, context)
    backend = place.backend()
    found = _find(backend, name, place)
    if found.state.final:
        _say(f"{found.name}: had ended before ({found.state}), nothing to do.")
        return
    backend.cancel(found)
    _say(f"{found.name}: stopped. What it committed is kept: submit the config again to continue.")


class Place:
    """The options that name a backend."""

    def __init__(
        self,
        to: str | None,
        address: str | None,
        token_file: str | None,
        insecure_http: bool,
        namespace: str | None = None,
        context: str | None = None,
    ) -> None:
        given = {"to": to, "address": address, "token_file": token_file, "namespace": namespace, "context": context}
        for option, value in given.items():
            if value is not None and not value.strip():
                raise ConfigError(f"--{option.replace('_', '-')}: empty; wanted {_WANTED[option]}.")
        self.to = to or ("jobs" if address else "local")
        self.address, self.token_file, self.insecure_http = address, token_file, insecure_http
        self.namespace, self.context = namespace, context

    def backend(self, ship_code: bool = False, overlay: str | None = None, image: str | None = None) -> Backend:
        """The backend. overlay, image: to start jobs in Kubernetes.

        Raises:
            ConfigError: the options contradict each other.
        """
        if self.to not in _PLACES:
            hint = f" Did you mean {near}?" if (near := _nearest_place(self.to)) else ""
            raise ConfigError(f"--to {self.to}: no such place. Give one of: {', '.join(_PLACES)}.{hint}")
        if self.to != "jobs":
            self._only_for("jobs", address=self.address, token_file=self.token_file, ship_code=ship_code)
        if self.to != "kuberay":
            self._only_for("kuberay", namespace=self.namespace, context=self.context, overlay=overlay, image=image)
        if self.to == "local":
            return Local()
        if self.to == "kuberay":
            if find_spec("kubernetes") is None:
                raise ConfigError("--to kuberay: needs the Kubernetes client. Install it: pip install 'raymill[k8s]'.")
            backend = _kuberay(self.namespace, self.context, overlay, image)
            self.namespace = backend.api.namespace  # an overlay may name one
            return backend
        if not self.address:
            raise ConfigError("--to jobs: no --address. Give the cluster's dashboard, as in http://127.0.0.1:8265.")
        address = checked_address(self.address, self.insecure_http)
        return JobsApi(RayApi(address, found_token(self.token_file)), ship_code)

    @property
    def where(self) -> str:
        """The place in words, for messages."""
        if self.to == "local":
            return "on this machine (for a cluster's runs give --address or --to kuberay)"
        return f"at {self.address}" if self.to == "jobs" else f"in the namespace {self.namespace}"

    def refuse_within(self, within: str | None) -> None:
        """
        Raises:
            ConfigError: a duration is wanted at a place whose machines are not made for the job.
        """
        if within is not None and self.to != "kuberay":
            raise ConfigError(
                f"--within {within}: chooses how many machines --to kuberay makes for a job, and --to {self.to} has no "
                "effect on machines. Leave it out; `raymill render --within` prints the machines for a duration."
            )

    def command(self, verb: str, *words: str) -> str:
        """The command of a verb for this place, to be copied."""
        more = ["--address", self.address] if self.to == "jobs" and self.address else ["--to", self.to]
        more += ["--namespace", self.namespace] if self.namespace else []
        more += ["--context", self.context] if self.context else []
        more += ["--token-file", self.token_file] if self.token_file else []
        return shell_command(verb, *words, *more, *(["--insecure-http"] if self.insecure_http else []))

    def _only_for(self, to: str, **given: object) -> None:
        for name, value in given.items():
            if value:
                raise ConfigError(f"--{name.replace('_', '-')}: is for --to {to}, and --to {self.to} was given.")


def work_of(config: str, override: list[str], name: str | None, within: str | None, replace: bool = False) -> Work:
    """What a config asks of a cluster.

    Raises:
        ConfigError: the config is wrong or holds secrets, or `within` is no duration.
    """
    seconds = None if within is None else seconds_of(within)
    settings = load(config, override)
    work = WORK[settings.kind](settings, seconds, replace=replace)  # type: ignore[attr-defined]
    return work if name is None else dataclasses.replace(work, name=name)


def seconds_of(duration: str) -> float:
    """The seconds of a duration such as 90m, 1.5h or 2d.

    Raises:
        ConfigError: it is none.
    """
    number, unit = duration[:-1], duration[-1:]
    try:
        seconds = float(number) * _UNITS_S[unit]
    except (ValueError, KeyError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"--within {duration}: not a duration; wanted a number with s, m, h or d, as in 90m or 8h.")
    return seconds


def _opening(attempt: Attempt, started: bool, before: Attempt | None) -> str:
    if not started:
        return f"{attempt.name}: attached, it is {attempt.state} since {_moment(attempt.started)}."
    if before is None:
        return f"{attempt.name}: submitted. Output: {attempt.output}"
    why = f"{before.state}, {before.message}" if before.message else f"{before.state}"
    return f"{attempt.name}: submitted, continues {before.name} ({why}). Output: {attempt.output}"


def _follow(backend: Backend, attempt: Attempt, place: Place) -> int:
    """Print the log until the job has ended. Returns the job's exit code."""
    try:
        for line in backend.logs(attempt, follow=True):
            print(line, flush=True)
        found = backend.attempt(attempt.name)
    except KeyboardInterrupt:
        _say(
            f"\n{attempt.name}: no longer followed; the job goes on. Follow it with "
            f"`{place.command('logs', attempt.name, '-f')}`, end it with `{place.command('cancel', attempt.name)}`."
        )
        return _CANCELLED
    if found is None:
        raise AttemptLost(f"{attempt.name}: ended, and its result is no longer kept there. Submit the config again.")
    took = f" after {_took(found)}" if found.started and found.ended else ""
    _say(f"{found.name}: {found.state}{took}" + (f", {found.message}." if found.message else "."))
    if found.state is State.CANCELLED:
        return _CANCELLED
    return found.exit_code if found.exit_code is not None else int(found.state is not State.SUCCEEDED)


def _find(backend: Backend, name: str, place: Place) -> Attempt:
    """The attempt of this name, or the last one of the run.

    Raises:
        UserError: there is none.
    """
    if not name.strip():
        raise UserError(f"NAME: empty; wanted the name of a run, as `{place.command('runs')}` prints it.")
    attempts = first_attempts(backend)
    named = [one for one in attempts if one.name == name and one.name != one.run_id]
    of_run = [one for one in attempts if one.run_id == name]
    if found := named or of_run:
        return found[-1]
    names = [one.name for one in attempts]
    near = [one for one in names if one.startswith(name)][-_NAMES_SHOWN:]
    near = near or difflib.get_close_matches(name, names, n=_NAMES_SHOWN, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else f" `{place.command('runs')}` lists the runs."
    raise UserError(f"{name}: no run of this name {place.where}.{hint}")


def _nearest_place(name: str) -> str | None:
    near = difflib.get_close_matches(name.lower(), (*_PLACES, *_OTHER_NAMES), n=1)
    return _OTHER_NAMES.get(near[0], near[0]) if near else None


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return "not yet"
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _took(attempt: Attempt) -> str:
    if attempt.started is None:
        return ""
    if attempt.ended is None and attempt.state.final:
        return "unknown"
    return clock((attempt.ended or time.time()) - attempt.started)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
