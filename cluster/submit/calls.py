"""Jobs from Python: submit a config, look at its job, follow and cancel it."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from raymill.cluster.errors import UserError
from raymill.cluster.frame.calls import AnyConfig, Changes, ShownProgress
from raymill.cluster.frame.work import work_of
from raymill.cluster.progress_display import chosen_progress
from raymill.cluster.submit.backend import Attempt, Backend, OnMessage, first_attempts, ignore_message
from raymill.cluster.submit.place import Place
from raymill.cluster.submit.submit import submit as submit_work

_NAMES_SHOWN = 3


class PlaceOptions(TypedDict, total=False):
    """The keywords that name a place: `to`, `address`, `token_file`, `insecure_http`, `namespace`, `context`.

    `submit` describes them.
    """

    to: str | None
    address: str | None
    token_file: str | None
    insecure_http: bool
    namespace: str | None
    context: str | None


@dataclass(frozen=True)
class SubmittedJob:
    """The job of a run at a place.

    Attributes:
        backend: the place.
        run_id: id of the run, which all its attempts have.
        output: folder or URI of the run.
        attempt: the attempt as it was found or started; None if the run was finished, so that nothing was started.
        started: whether this call started it.
        before: the attempt that it continues.
    """

    backend: Backend
    run_id: str
    output: str
    attempt: Any = None
    started: bool = False
    before: Attempt | None = None

    @property
    def name(self) -> str:
        """Name of the attempt; of a run that was finished, its id."""
        return self.attempt.name if self.attempt else self.run_id

    @property
    def status(self) -> Attempt | None:
        """The attempt as it is now: state, times, exit code. None if there is none, or no longer."""
        return self.attempt and self.backend.attempt(self.attempt.name)

    def logs(self, *, follow: bool = False, on_message: OnMessage = ignore_message) -> Iterator[str]:
        """The lines of its log. follow: until the job has ended. on_message: called with why there is no log yet."""
        if self.attempt:
            yield from self.backend.logs(self.attempt, follow, on_message)

    def follow(self, on_line: Callable[[str], object] = print) -> Attempt | None:
        """Wait until the job has ended. Returns its last state. on_line: called with each line of its log."""
        for line in self.logs(follow=True):
            on_line(line)
        return self.status

    def cancel(self) -> Attempt | None:
        """Stop the job, which has 90 s to commit what is done. Returns its state then."""
        if self.attempt:
            self.backend.cancel(self.attempt)
        return self.status

    def __repr__(self) -> str:
        state = self.attempt.state if self.attempt else "finished before"
        return f"<job {self.name}: {state}, output {self.output}>"


def submit(
    config: AnyConfig = None,
    override: Changes = None,
    *,
    to: str | None = None,
    address: str | None = None,
    token_file: str | None = None,
    insecure_http: bool = False,
    namespace: str | None = None,
    context: str | None = None,
    name: str | None = None,
    within: str | None = None,
    ship_code: bool = False,
    overlay: str | None = None,
    image: str | None = None,
    replace: bool = False,
    progress: ShownProgress = None,
    **settings: Any,
) -> SubmittedJob:
    """Run a config elsewhere: start its job, attach if it runs, continue it if it broke. Returns when it is accepted.

    Args:
        config: a file, a dict, or a config object, of any kind.
        override: changes of single settings, as in {"rules.gopher_quality.min_words": 30}.
        to: `local` (this machine), `jobs` (a running Ray cluster) or `kuberay`; None: jobs with `address`, else local.
        address: of the cluster's dashboard, as in http://127.0.0.1:8265.
        token_file: file with the cluster's token; None: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
        insecure_http: send config and token unencrypted to another machine.
        namespace: kuberay: namespace of the jobs; None: the overlay's, else raymill.
        context: kuberay: context of the kubeconfig; None: the current one.
        name: first part of the run's name; None: the config's name.
        within: kuberay: wanted duration, as in 90m, 8h or 2d, which decides the number of machines.
        ship_code: run this checkout's source on the cluster.
        overlay: kuberay: kind, eks, gke, onprem-kueue, or a YAML file that extends one.
        image: kuberay: REPOSITORY@sha256:DIGEST; None: the overlay's image.
        replace: delete results made with other settings and make them again.
        progress: as of `raymill.curate`; shows the checks before the start.
        settings: settings that replace those of the config.

    Raises:
        UserError: an option or the config is wrong, or the job would fail there.
        ClusterError: the place does not answer.
    """
    place = Place(to, address, token_file, insecure_http, namespace, context)
    options = {"name": name, "within": within, "overlay": overlay, "image": image}
    say = chosen_progress(progress).say
    return submit_to(place, config, override, settings, ship_code=ship_code, replace=replace, on_message=say, **options)


def submit_to(
    place: Place,
    config: AnyConfig,
    override: Changes = None,
    settings: Mapping[str, Any] | None = None,
    *,
    name: str | None,
    within: str | None,
    ship_code: bool,
    overlay: str | None,
    image: str | None,
    replace: bool,
    on_message: OnMessage,
) -> SubmittedJob:
    """As `submit`, at this place. on_message: called before each step that takes seconds to minutes."""
    backend = place.backend(ship_code, overlay, image, within)
    work = work_of(config, override, name, within, replace, place.to == "local", settings)
    done = submit_work(backend, work, place.command, on_message)
    return SubmittedJob(backend, work.run_id, work.output, done.attempt, done.started, done.before)


def runs(**place: Unpack[PlaceOptions]) -> list[SubmittedJob]:
    """The jobs that were submitted to a place, one for each attempt, the newest last.

    Args:
        place: `to`, `address`, `token_file`, `insecure_http`, `namespace`, `context`, as `submit` takes them.
    """
    backend = Place(**place).backend()
    return [_job(backend, one) for one in first_attempts(backend)]


def job(name: str, **place: Unpack[PlaceOptions]) -> SubmittedJob:
    """The job of a run or an attempt that was submitted to a place.

    Args:
        name: name of the run or attempt, as `runs` returns it.
        place: `to`, `address`, `token_file`, `insecure_http`, `namespace`, `context`, as `submit` takes them.

    Raises:
        UserError: there is none.
    """
    return find_job(Place(**place), name)


def status(name: str, **place: Unpack[PlaceOptions]) -> Attempt | None:
    """State, times and exit code of a run's last attempt. Arguments: those of `job`."""
    return job(name, **place).status


def logs(name: str, *, follow: bool = False, **place: Unpack[PlaceOptions]) -> Iterator[str]:
    """The lines of the log of a run's last attempt. follow: until it has ended. Other arguments: those of `job`."""
    return job(name, **place).logs(follow=follow)


def cancel(name: str, **place: Unpack[PlaceOptions]) -> Attempt | None:
    """Stop a run, which continues when it is submitted again. Returns its state. Arguments: those of `job`."""
    return job(name, **place).cancel()


def find_job(place: Place, name: str) -> SubmittedJob:
    """The job of this name at a place.

    Raises:
        UserError: there is none.
    """
    backend = place.backend()
    return _job(backend, _find(backend, name, place))


def _job(backend: Backend, attempt: Attempt) -> SubmittedJob:
    return SubmittedJob(backend, attempt.run_id, attempt.output, attempt)


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
