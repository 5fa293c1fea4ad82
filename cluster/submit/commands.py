"""The verbs `raymill submit`, `runs`, `status`, `logs` and `cancel`, and the options that name a place.

Every verb has the options of Place: `--to`, `--address`, ... Standard output has the job's log or the answer; messages
go to standard error.
"""

import datetime
import difflib
import functools
import inspect
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from raymill.cluster.cli import shell_command
from raymill.cluster.entry import Entry, require_extra
from raymill.cluster.errors import ConfigError, UserError
from raymill.cluster.formats import plural
from raymill.cluster.frame.work import work_of
from raymill.cluster.progress import clock
from raymill.cluster.submit.backend import Attempt, AttemptLost, Backend, State, first_attempts
from raymill.cluster.submit.jobs_api import JobsApi
from raymill.cluster.submit.local import Local
from raymill.cluster.submit.ray_api import RayApi, checked_address, found_token
from raymill.cluster.submit.submit import submit as submit_work

# An Entry, so that the Kubernetes client is loaded only for `--to kuberay`.
_kuberay = Entry("raymill.cluster.submit.kuberay:connect")

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

_CANCELLED = 130  # exit code of a process that Ctrl-C ended
_SHOWN = 20
_NAMES_SHOWN = 3

Name = Annotated[str, typer.Argument(metavar="NAME", help="of a run or an attempt, as `raymill runs` prints it")]


class Place:
    """The place that the options name.

    Raises:
        ConfigError: an option is given and empty.
    """

    def __init__(
        self,
        to: Annotated[
            str | None,
            typer.Option(
                help="local: this machine; jobs: a running Ray cluster; kuberay: Kubernetes. "
                "Default: jobs with --address, else local"
            ),
        ] = None,
        address: Annotated[
            str | None, typer.Option(help="of the cluster's dashboard, as in http://127.0.0.1:8265")
        ] = None,
        token_file: Annotated[
            str | None,
            typer.Option(help="file with the cluster's token; default: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"),
        ] = None,
        insecure_http: Annotated[
            bool, typer.Option("--insecure-http", help="send config and token unencrypted to another machine")
        ] = False,
        namespace: Annotated[
            str | None, typer.Option(help="kuberay: namespace of the jobs; default: the overlay's, else raymill")
        ] = None,
        context: Annotated[
            str | None, typer.Option(help="kuberay: context of the kubeconfig; default: the current one")
        ] = None,
    ) -> None:
        given = {"to": to, "address": address, "token_file": token_file, "namespace": namespace, "context": context}
        for option, value in given.items():
            if value is not None and not value.strip():
                raise ConfigError(f"--{option.replace('_', '-')}: empty; wanted {_WANTED[option]}.")
        self.to = to or ("jobs" if address else "local")
        self.address, self.token_file, self.insecure_http = address, token_file, insecure_http
        self.namespace, self.context = namespace, context

    def backend(
        self,
        ship_code: bool = False,
        overlay: str | None = None,
        image: str | None = None,
        within: str | None = None,
    ) -> Backend:
        """The backend. ship_code, overlay, image, within: options of `submit`, each for some places only.

        Raises:
            ConfigError: the options contradict each other.
        """
        if self.to not in _PLACES:
            near = difflib.get_close_matches(self.to.lower(), (*_PLACES, *_OTHER_NAMES), n=1)
            hint = f" Did you mean {_OTHER_NAMES.get(near[0], near[0])}?" if near else ""
            raise ConfigError(f"--to {self.to}: no such place. Give one of: {', '.join(_PLACES)}.{hint}")
        if self.to != "jobs":
            self._only_for("jobs", address=self.address, token_file=self.token_file, ship_code=ship_code)
        if self.to != "kuberay":
            if within is not None:
                raise ConfigError(
                    f"--within {within}: chooses how many machines --to kuberay makes for a job, and --to {self.to} "
                    "uses the machines that are there. Leave it out; `raymill render --within` prints the machines for "
                    "a duration."
                )
            self._only_for("kuberay", namespace=self.namespace, context=self.context, overlay=overlay, image=image)
        if self.to == "local":
            return Local()
        if self.to == "kuberay":
            require_extra("k8s", "--to kuberay")
            backend = _kuberay(self.namespace, self.context, overlay, image)
            self.namespace = backend.api.namespace  # the overlay's, if it has one
            return backend
        if not self.address:
            raise ConfigError(
                "--to jobs: no --address. Give that of the cluster's dashboard, as in http://127.0.0.1:8265."
            )
        address = checked_address(self.address, self.insecure_http)
        return JobsApi(RayApi(address, found_token(self.token_file)), ship_code)

    @property
    def where(self) -> str:
        """The place in words, for messages."""
        if self.to == "local":
            return "on this machine (for a cluster's runs give --address or --to kuberay)"
        return f"at {self.address}" if self.to == "jobs" else f"in the namespace {self.namespace}"

    def command(self, verb: str, *words: str) -> str:
        """The shell command of a verb for this place, for messages."""
        more = ["--address", self.address] if self.to == "jobs" and self.address else ["--to", self.to]
        more += ["--namespace", self.namespace] if self.namespace else []
        more += ["--context", self.context] if self.context else []
        more += ["--token-file", self.token_file] if self.token_file else []
        return shell_command(verb, *words, *more, *(["--insecure-http"] if self.insecure_http else []))

    def _only_for(self, to: str, **given: object) -> None:
        for name, value in given.items():
            if value:
                raise ConfigError(f"--{name.replace('_', '-')}: is for --to {to}, and --to {self.to} was given.")


def takes_place(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a verb whose first parameter is a Place: its command has the options of Place in its stead."""
    options = list(inspect.signature(Place).parameters.values())
    own = list(inspect.signature(verb).parameters.values())[1:]

    @functools.wraps(verb)
    def call(**given: Any) -> Any:
        place = Place(**{option.name: given.pop(option.name, option.default) for option in options})
        return verb(place, **given)

    # Typer reads a verb's options from these two.
    call.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in (*own, *options)}
    return call


# ---- verbs ----


@takes_place
def submit(
    place: Place,
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="settings of any kind, YAML or JSON")],
    override: Annotated[
        list[str] | None, typer.Option("-o", help="change one setting: key.sub=value; may be repeated")
    ] = None,
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
        str | None, typer.Option(help="kuberay: REPOSITORY@sha256:DIGEST; default: the overlay's image")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="delete results made with other settings and make them again")
    ] = False,
) -> int:
    """Run a config elsewhere: start it, attach if it runs, continue it if it broke. Exits with the job's exit code."""
    backend = place.backend(ship_code, overlay, image, within)
    work = work_of(config, override or [], name, within, replace, runs_here=place.to == "local")
    done = submit_work(backend, work, place.command, _print_message)
    if done.attempt is None:
        _print_message(f"{work.run_id}: already finished, nothing to do. Output: {work.output}")
        return 0
    _print_message(_first_message(done.attempt, done.started, done.before))
    if detach:
        _print_message(f"Follow it with: {place.command('logs', done.attempt.name, '-f')}")
        return 0
    return _follow(backend, done.attempt, place)


@takes_place
def runs(
    place: Place,
    all_: Annotated[bool, typer.Option("--all", help=f"all, not only the newest {_SHOWN}")] = False,
) -> None:
    """The runs that were submitted there, one line for each attempt, the newest last."""
    attempts = first_attempts(place.backend())
    shown = attempts if all_ else attempts[-_SHOWN:]
    if not shown:
        _print_message(f"No runs were submitted {place.where}.")
        return
    rows = [("name", "state", "started", "time", "output")]
    rows += [(one.name, one.state, _moment(one.started), _duration(one), one.output) for one in shown]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if len(shown) < len(attempts):
        _print_message(f"{plural(len(attempts) - len(shown), 'older attempt')} not shown (--all shows them).")


@takes_place
def status(place: Place, name: Name) -> None:
    """One run: its last attempt, state, times and output."""
    found = _find(place.backend(), name, place)
    print(f"name      {found.name}")
    print(f"run       {found.run_id} ({found.kind})")
    print(f"state     {found.state}" + (f": {found.message}" if found.message else ""))
    if found.exit_code is not None:
        print(f"exit code {found.exit_code}")
    print(f"started   {_moment(found.started)}")
    print(f"time      {_duration(found)}")
    print(f"output    {found.output}")


@takes_place
def logs(
    place: Place,
    name: Name,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="until the job ends; exits with its exit code")
    ] = False,
) -> int:
    """The log of a run's last attempt. A lost connection is made again; every line is printed once."""
    backend = place.backend()
    found = _find(backend, name, place)
    if follow:
        return _follow(backend, found, place)
    for line in backend.logs(found, follow=False):
        print(line)
    return 0


@takes_place
def cancel(place: Place, name: Name) -> None:
    """Stop a run. It has 90 s to commit what is done; submitting it again continues there."""
    backend = place.backend()
    found = _find(backend, name, place)
    if found.state.final and not found.lingers:
        _print_message(f"{found.name}: had ended before ({found.state}), nothing to do.")
        return
    backend.cancel(found)
    after = backend.attempt(found.name)
    if after is not None and after.state in (State.SUCCEEDED, State.FAILED) and not found.lingers:
        _print_message(f"{found.name}: had ended before it could be stopped ({after.state}).")
        return
    _print_message(
        f"{found.name}: stopped. What it committed is kept. Submit the config again: it continues, or if the run had "
        "finished in the meantime, prints so and starts nothing."
    )


def _first_message(attempt: Attempt, started: bool, before: Attempt | None) -> str:
    if not started:
        return f"{attempt.name}: attached, it is {attempt.state} since {_moment(attempt.started)}."
    if before is None:
        return f"{attempt.name}: submitted. Output: {attempt.output}"
    why = f"{before.state}, {before.message}" if before.message else f"{before.state}"
    return f"{attempt.name}: submitted, continues {before.name} ({why}). Output: {attempt.output}"


def _follow(backend: Backend, attempt: Attempt, place: Place) -> int:
    """Print the log until the job has ended. Returns the job's exit code."""
    try:
        for line in backend.logs(attempt, follow=True, on_message=_print_message):
            print(line, flush=True)
        found = backend.attempt(attempt.name)
    except KeyboardInterrupt:
        _print_message(
            f"\n{attempt.name}: no longer followed; the job goes on. Follow it with "
            f"`{place.command('logs', attempt.name, '-f')}`, end it with `{place.command('cancel', attempt.name)}`."
        )
        return _CANCELLED
    if found is None:
        raise AttemptLost(f"{attempt.name}: ended, and its result is no longer kept there. Submit the config again.")
    took = f" after {_duration(found)}" if found.started and found.ended else ""
    _print_message(f"{found.name}: {found.state}{took}" + (f", {found.message}." if found.message else "."))
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


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return "not yet"
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _duration(attempt: Attempt) -> str:
    if attempt.started is None:
        return ""
    if attempt.ended is None and attempt.state.final:
        return "unknown"
    return clock(max(0, (attempt.ended or time.time()) - attempt.started))  # clocks are set back


def _print_message(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
