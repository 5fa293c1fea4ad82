"""Decides what submitting a config does: start an attempt, attach to a running one, refuse, or nothing at all.

the output has this result                  finished, nothing is sent
an attempt waits or runs, same config       attach to it
an attempt waits or runs, another config    refused; the error names the settings that differ
else                                        the next attempt, which continues at the output; attempts of this run that
                                            have ended but whose driver may still write are stopped first
"""

import random
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from raymill.cluster.cli import shell_command
from raymill.cluster.config import model_of
from raymill.cluster.errors import ClusterError, ConfigError
from raymill.cluster.formats import plural
from raymill.cluster.frame.kinds import names
from raymill.cluster.run import differences
from raymill.cluster.submit.backend import (
    Attempt,
    AttemptExists,
    AttemptLost,
    Backend,
    NameTaken,
    OnMessage,
    Request,
    first_attempts,
    ignore_message,
)
from raymill.cluster.submit.work import Work

_RACES = 5  # tries, when another `submit` starts the next attempt first
_MOST_DIFFERENCES = 5
_LONGEST_DIFFERENCE = 200  # characters


@dataclass(frozen=True)
class Submitted:
    """Nothing is left to start.

    attempt: the one with this config that waits or runs now, None if the output is finished. started: whether this call
    started it. before: the attempt that it continues.
    """

    attempt: Attempt | None
    started: bool = False
    before: Attempt | None = None


@dataclass(frozen=True)
class Start:
    """An attempt is to be started.

    before: the last attempt, None if this is the first. lingering: attempts of the run that are to be stopped first.
    """

    name: str
    before: Attempt | None
    lingering: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class Refuse:
    """An attempt with another config for the same output waits or runs."""

    attempt: Attempt


def decide(work: Work, attempts: Sequence[Attempt], taken: Collection[str] = ()) -> Submitted | Start | Refuse:
    """What to do about a config, given the attempts of all runs, the newest last. taken: names for no attempt."""
    if work.finished:
        return Submitted(None)
    mine = [attempt for attempt in attempts if attempt.run_id == work.run_id]
    lingering = tuple(one for one in mine if one.state.final and one.lingers)
    active = [
        one
        for one in attempts
        if work.output == one.output and (one.lingers or not one.state.final) and one not in lingering
    ]
    if active:
        same = [one for one in active if (one.run_id, one.config_fingerprint) == (work.run_id, work.config_fingerprint)]
        return Submitted(same[-1]) if same else Refuse(active[-1])
    return Start(next_name(work.run_id, [one.name for one in mine], taken), mine[-1] if mine else None, lingering)


def next_name(run_id: str, names: Iterable[str], taken: Collection[str] = ()) -> str:
    """RUN_ID for the first attempt, then RUN_ID-a2, RUN_ID-a3, ..., above every number of at most 4 digits in use.

    Args:
        names: of the run's attempts. Others who may submit jobs may have used any.
        taken: names that something else has. From the second one on, the number is drawn at random from a range that
            grows with them, so that nobody can take all of them.
    """
    used, form = {*names, *taken}, re.compile(rf"{re.escape(run_id)}(?:-a([0-9]{{1,4}}))?")
    numbers = [int(found[1] or 1) for name in used if (found := form.fullmatch(name))]
    if not numbers:
        return run_id
    number = max(numbers) + 1 + (random.randrange(10 ** len(taken)) if len(taken) > 1 else 0)
    while (name := f"{run_id}-a{number}") in used:
        number += 1
    return name


def submit(
    backend: Backend,
    work: Work,
    command: Callable[..., str] = shell_command,
    on_message: OnMessage = ignore_message,
) -> Submitted:
    """Carry out the decision of `decide`. Checks the backend before it starts an attempt.

    Args:
        command: command(verb, *words) is the shell command of a verb for this backend, for messages.
        on_message: called with a message before each step that takes seconds to minutes.

    Raises:
        ConfigError: an attempt of this run with another config waits or runs, or the job would fail there.
        UserError: there is no connection to the backend's address.
        ClusterError: the backend does not answer.
    """
    checked = False
    taken: set[str] = set()
    for number in range(_RACES):
        match decide(work, backend.attempts() if number else first_attempts(backend), taken):
            case Submitted() as done:
                return done
            case Refuse(attempt):
                config = backend.config(attempt)
                if attempt.run_id == work.run_id and config is not None and not _differences(config, work.config):
                    return Submitted(attempt)  # one of the two configs spells out a default
                raise ConfigError(_refusal(work, attempt, config, command))
            case Start(name, before, lingering):
                if not checked:
                    on_message(f"{work.run_id}: checking inputs, output and machines before the start ...")
                    if problems := backend.check(work):
                        lines = "\n".join(f"  {problem}" for problem in problems)
                        count = plural(len(problems), "problem")
                        raise ConfigError(f"{work.run_id}: not submitted, {count} found:\n{lines}")
                    checked = True
                for one in lingering:
                    on_message(f"{one.name}: {one.state}, but its machines are still there; stopping it first ...")
                    with suppress(AttemptLost):  # another `submit` was first
                        backend.cancel(one)
                try:
                    return Submitted(backend.start(Request(work, name)), started=True, before=before)
                except NameTaken:
                    taken.add(name)
                except AttemptExists:
                    continue
    if taken:
        raise ClusterError(
            f"{work.run_id}: other jobs have the names {', '.join(sorted(taken))}, which are not listed as attempts of "
            "this run. Delete them, or submit under another name (--name)."
        )
    raise ClusterError(
        f"{work.run_id}: {_RACES} times another `raymill submit` started the next attempt first, and it had ended when "
        f"its state was read. Look why with `{command('logs', work.run_id)}`, then submit again."
    )


def _refusal(work: Work, attempt: Attempt, before: Mapping[str, Any] | None, command: Callable[..., str]) -> str:
    """Why the config of `work` is not started while `attempt` runs. before: the config of the attempt."""
    logs, cancel = command("logs", attempt.name, "-f"), command("cancel", attempt.name)
    found = _differences(before, work.config) if before is not None else []
    if before is not None and not found:
        if attempt.run_id.rpartition("-")[2] == work.run_id.rpartition("-")[2]:
            return (
                f"{work.run_id}: the same run is {attempt.state} under the name {attempt.name}. "
                f"Attach to it with `{logs}`."
            )
        found = ["the input files changed since"]
    shown = "; ".join(found[:_MOST_DIFFERENCES]) or "its settings could not be read"
    if len(found) > _MOST_DIFFERENCES:
        shown += f"; and {len(found) - _MOST_DIFFERENCES} more"
    state = f"{attempt.state}, with machines that are still there," if attempt.lingers else f"{attempt.state}"
    return (
        f"{attempt.name}: {state} with another config for the same output ({shown}). Wait until it has ended, "
        f"or end it with `{cancel}`; the next `raymill submit` continues with the new settings. To only watch it, "
        f"use `{logs}`."
    )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ, with defaults filled in, one line each; the name of the run is left out."""
    found = differences(_with_defaults(before), _with_defaults(now))
    shown = [one for one in found if not one.startswith("name was ")]
    return [one if len(one) <= _LONGEST_DIFFERENCE else f"{one[:_LONGEST_DIFFERENCE]}..." for one in shown]


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the defaults of its kind, or as it is if this version of Raymill cannot read it."""
    if config.get("kind") not in names():
        return dict(config)
    try:
        return model_of(config["kind"]).model_validate(config).model_dump(mode="json")
    except ValueError:
        return dict(config)
