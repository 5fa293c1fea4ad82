"""The verbs `raymill submit`, `runs`, `status`, `logs` and `cancel`, and the options that name a place.

Every verb has the options of Place: `--to`, `--address`, ... Standard output has the job's log or the answer; messages
go to standard error.
"""

import datetime
import functools
import inspect
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from raymill.cluster.formats import plural, table_lines
from raymill.cluster.progress import clock
from raymill.cluster.submit.backend import Attempt, AttemptLost, Backend, State, first_attempts
from raymill.cluster.submit.calls import find_job, submit_to
from raymill.cluster.submit.place import Place

_CANCELLED = 130  # exit code of a process that Ctrl-C ended
_SHOWN = 20
_MOST_CHARACTERS = 2000  # of a value that is printed: names, outputs and messages may be of others

Name = Annotated[str, typer.Argument(metavar="NAME", help="of a run or an attempt, as `raymill runs` prints it")]


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
    job = submit_to(
        place,
        config,
        override,
        name=name,
        within=within,
        ship_code=ship_code,
        overlay=overlay,
        image=image,
        replace=replace,
        on_message=_print_message,
    )
    if job.attempt is None:
        _print_message(f"{job.run_id}: already finished, nothing to do. Output: {job.output}")
        return 0
    _print_message(_first_message(job.attempt, job.started, job.before))
    if detach:
        _print_message(f"Follow it with: {place.command('logs', job.attempt.name, '-f')}")
        return 0
    return _follow(job.backend, job.attempt, place)


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
    rows += [
        (one.name[:_MOST_CHARACTERS], one.state, _moment(one.started), _duration(one), one.output[:_MOST_CHARACTERS])
        for one in shown
    ]
    print("\n".join(table_lines(rows)))
    if len(shown) < len(attempts):
        _print_message(f"{plural(len(attempts) - len(shown), 'older attempt')} not shown (--all shows them).")


@takes_place
def status(place: Place, name: Name) -> None:
    """One run: its last attempt, state, times and output."""
    found = find_job(place, name).status
    assert found is not None
    print(f"name      {found.name}")
    print(f"run       {found.run_id} ({found.kind[:_MOST_CHARACTERS]})")
    print(f"state     {found.state}" + (f": {found.message[:_MOST_CHARACTERS]}" if found.message else ""))
    if found.exit_code is not None:
        print(f"exit code {found.exit_code}")
    print(f"started   {_moment(found.started)}")
    print(f"time      {_duration(found)}")
    print(f"output    {found.output[:_MOST_CHARACTERS]}")


@takes_place
def logs(
    place: Place,
    name: Name,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="until the job ends; exits with its exit code")
    ] = False,
) -> int:
    """The log of a run's last attempt. A lost connection is made again; every line is printed once."""
    job = find_job(place, name)
    if follow:
        return _follow(job.backend, job.attempt, place)
    for line in job.logs():
        print(line)
    return 0


@takes_place
def cancel(place: Place, name: Name) -> None:
    """Stop a run. It has 90 s to commit what is done; submitting it again continues there."""
    job = find_job(place, name)
    found = job.attempt
    if found.state.final and not found.lingers:
        _print_message(f"{found.name}: had ended before ({found.state}), nothing to do.")
        return
    after = job.cancel()
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
