"""The job of a run file: its steps in order, each found finished, continued or made by its own kind.

    OUTPUT/STEP                 the run of a step
    OUTPUT/report.json, .html   state of every step, written when one begins or ends
    OUTPUT/manifest.json        digest of each step's run; written last

Each kind decides by its own records whether a run is finished, so a step is made again only if its settings or the
content of what it reads changed. Steps that do not refer to each other are made at the same time (at_once.py), if the
machines have room for them together. When one fails, those that do not need it are made all the same.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Annotated, Any, NotRequired

from markupsafe import Markup
from pydantic import Field
from typing_extensions import TypedDict

from raymill import cluster
from raymill.cluster import logs
from raymill.cluster.artifact import fingerprint
from raymill.cluster.chain.at_once import StepsAtOnce
from raymill.cluster.chain.config import ChainConfig, ValueOf, field_value, with_texts
from raymill.cluster.entry import require_extra
from raymill.cluster.errors import DataError, RaymillError, UserError
from raymill.cluster.formats import duration, one_line, plural, table_lines
from raymill.cluster.frame.job import REPORT_HTML, FoundRun, Made, Making, Run, RunJob
from raymill.cluster.frame.kinds import kind_of
from raymill.cluster.frame.opening import open as open_run
from raymill.cluster.lease import last_held
from raymill.cluster.progress import Progress
from raymill.cluster.record import OtherSettings, check_types, json_bytes, read_json
from raymill.cluster.report.page import page
from raymill.cluster.report.sections import (
    DataTable,
    Section,
    code,
    config_section,
    table_section,
    warnings_section,
    wrapped,
)
from raymill.cluster.run import RUN_REPORT, other_settings
from raymill.cluster.session import Session
from raymill.cluster.store import paths
from raymill.cluster.submit.work import Machines, job_config, largest
from raymill.cluster.wording import in_the_run_file, of_the_step

log = logging.getLogger(__name__)

FINISHED, OPEN, STARTED, FAILED, NOT_MADE = "finished", "open", "started", "failed", "not made"
_FACTS = 3  # lines of a run's summary in the report


@dataclass(frozen=True)
class ChainStep:
    """State of a step of a run file.

    Attributes:
        state: finished, open (to be made or continued), failed in this call, or not made (by a condition, its own or of
            a step before).
        run: the finished run.
        job: the job of an open step whose references have values.
        reason: why it is not made, what it waits for, or its error.
        error: of a failed step.
    """

    name: str
    state: str
    run: Run | None = None
    job: RunJob[Any] | None = None
    reason: str = ""
    error: RaymillError | None = None


class _EntryBefore(TypedDict):
    step: str
    kind: str
    state: str
    seconds: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] | None
    began: NotRequired[Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] | None]
    output: str
    digest: str | None
    exit_code: Annotated[int, Field(ge=0, le=255)]
    reason: str
    facts: str


class _ReportBefore(TypedDict):
    """What is used of the report of an earlier call."""

    steps: list[_EntryBefore]


class ChainRun(Run):
    """The runs of a run file. Its report has the state of each step."""

    @property
    def summary(self) -> str:
        head, rows = self.table
        return "\n".join(table_lines([head, *rows]))

    @property
    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """The state of each step."""
        rows = []
        for one in self.report["steps"]:
            time = "" if one["seconds"] is None else duration(one["seconds"])
            about = one["reason"] or one["facts"].partition("\n")[0]
            rows.append([one_line(cell) for cell in (one["step"], one["kind"], one["state"], time, about)])
        return ("step", "kind", "state", "time", ""), rows

    @property
    def exit_code(self) -> int:
        """The exit code of a step that has one other than 0, such as a failed gate, by the step's own run."""
        return next((code for name in self.manifest["artifacts"] if (code := self.step(name).exit_code)), 0)

    def check_report(self) -> None:
        """Raise DataError if a value of the report has another type than this version writes."""
        with self._reading_report():
            check_types(_ReportBefore, self.report)

    def step(self, name: str) -> Run:
        """The run of a step.

        Raises:
            DataError: it was not made.
        """
        if name not in (steps := self.manifest["artifacts"]):
            raise DataError(f"{self.uri}: no step {name}; wanted one of: {', '.join(steps)}.")
        found = open_run(paths.join(self.uri, name), storage=self.store.options)
        if not isinstance(found, Run):
            raise DataError(f"{self.uri}: {name} is no step of this run file")
        return found


class ChainJob(RunJob[ChainConfig]):
    """Make the steps of a run file in the order of their references: from data to a model, in one command.

    A second run continues where the first stopped; steps whose settings and inputs did not change are not made again.
    Report: OUTPUT/report.html
    """

    kind, run_type = "run", ChainRun

    def __init__(self, config: ChainConfig) -> None:
        super().__init__(config)
        self.all_at_once = any(kind_of(one["kind"]).job.load().all_at_once for one in config.steps.values())  # type: ignore[misc, attr-defined]
        self._made: list[ChainStep] = []  # by this call

    def settings(self) -> dict[str, Any]:
        return {"steps": {name: given["kind"] for name, given in self.config.steps.items()}}

    def inputs(self) -> str | None:
        return _fingerprint(self._made or [*self.walk()])

    def walk(self, *, replace: bool = False, verify: bool = False) -> Iterator[ChainStep]:
        """Each step with its state.

        Raises:
            OtherSettings: a step was made with other settings or inputs, and not `replace`; the message names it.
        """
        before: dict[str, ChainStep] = {}
        for name in self.config.order:
            before[name] = self._found(name, before, replace, verify)
            yield before[name]

    def _found(self, name: str, before: Mapping[str, ChainStep], replace: bool, verify: bool) -> ChainStep:
        """A step with its state. before: the steps that it needs. Raises as `walk`."""
        needed = [before[one] for one in sorted(self.config.needs(name), key=self.config.order.index)]
        if stopped := [one.name for one in needed if one.state == NOT_MADE]:
            return ChainStep(name, NOT_MADE, reason=f"step {stopped[0]} was not made")
        if missing := [one.name for one in needed if one.run is None]:
            return ChainStep(name, OPEN, reason=f"waits for {' and '.join(missing)}")
        value_of = _values_of({one.name: one.run for one in needed if one.run})
        with naming(self.config, name):
            if reason := self.config.condition(name, value_of):
                return ChainStep(name, NOT_MADE, reason=reason)
            job = self._job(name, value_of)
            run = job.find(replace=replace, verify=verify).run
        return ChainStep(name, OPEN, job=job) if run is None else ChainStep(name, FINISHED, run)

    @cached_property
    def states(self) -> list[ChainStep]:
        """Each step with its state before this call."""
        return [*self.walk(replace=True)]

    @cached_property
    def jobs(self) -> dict[str, RunJob[Any]]:
        """Step -> job. Inputs need not exist; steps that refer to a field of an unfinished step are left out."""
        runs = {one.name: one.run for one in self.states if one.run}
        found = {}
        for name in self.config.order:
            if all(step in runs for step, _ in self.config.fields(name)):
                with naming(self.config, name):
                    found[name] = self._job(name, _values_of(runs))
        return found

    def _job(self, name: str, value_of: ValueOf) -> RunJob[Any]:
        config = self.config.step_config(name, value_of)
        return kind_of(config.kind).job(config)

    # Before the run

    def require_extras(self, *, computes: bool = True) -> None:
        for name, job in self.jobs.items():
            if extra := kind_of(job.kind).extra:
                require_extra(extra, f"step {name}, kind: {job.kind}")
            with naming(self.config, name):
                job.require_extras(computes=computes)

    def find(self, *, replace: bool = False, verify: bool = False) -> FoundRun:
        """As `RunJob.find`, but a manifest with other steps is no error: each step is checked by its own records."""
        manifest = self.folder.manifest_file.read()
        if manifest is not None and manifest["kind"] != self.kind and not replace:
            seen = [f"its kind is {manifest['kind']}, not {self.kind}"]
            raise OtherSettings.about(other_settings(self.root, "a finished run", seen))
        steps = [*self.walk(replace=replace, verify=verify)]
        found = self.settings(), _fingerprint(steps), _digests(steps)
        if (
            manifest is None
            or self.config.until
            or any(one.state == OPEN for one in steps)
            or (manifest["config"], manifest["inputs"], manifest["artifacts"]) != found
        ):
            return FoundRun()
        if gone := self.missing_reports():
            return FoundRun(damage=gone)
        ChainRun(self.store, self.root, manifest, self.read_report(), fresh=False).check_report()
        before = self._entries_before()  # of which the seconds are taken, and all else from the runs of the steps
        report = self._report({one.name: self._entry(one, before) for one in steps}, steps)
        return FoundRun(self._run(manifest, report, fresh=False))

    def check(self, session: Session, replace: bool) -> None:
        """Check each step that waits for others, so that mistakes in the last are found before the first is made."""
        waiting = [one.name for one in self.walk(replace=replace) if one.run is None]
        jobs = self.jobs
        for name in waiting:
            if self.config.needs(name) and name in jobs:
                with naming(self.config, name), self.missing_outputs_allowed(waiting):
                    jobs[name].check(session, replace)

    @contextmanager
    def missing_outputs_allowed(self, steps: Sequence[str]) -> Iterator[None]:
        """Suppress an error about the output of one of these steps, which does not exist yet."""
        try:
            yield
        except UserError as error:
            if not any(self.config.output_of(step) in error.as_written for step in steps):
                raise

    # The run

    def make(self, making: Making) -> Made | Run:
        before = self._entries_before()
        every = self.config.model_copy(update={"until": None}).order
        later = {name: one for name, one in before.items() if name not in self.config.order}  # with `until`
        entries = {name: later.get(name) or self._entry(ChainStep(name, OPEN), before) for name in every}
        self._made = []
        self._write(entries)
        began: dict[str, float] = {}
        steps = StepsAtOnce(making, partial(self._make_step, making), self.config.execution.steps_at_once)
        try:
            made = self._make_all(making, steps, before, entries, began)
        finally:
            steps.interrupt()  # after an error that ends them all; else none is running
            if began:
                with suppress(RaymillError):
                    making.lease.check()
                    for name in began:
                        entries[name] = self._entry(ChainStep(name, STARTED), before, time.time() - began[name])
                    self._write(entries)
        self._made = [made[name] for name in self.config.order if name in made]
        if errors := [one.error for one in self._made if one.error]:
            errors[0].args = ("\n".join(one.as_written for one in errors), *errors[0].args[1:])
            raise errors[0]
        digests = _digests(self._made)
        told = {one.name: one.reason for one in self._made if one.reason}
        found = Made(self._report(entries, self._made), digests, {"finished": _now(), "told": told})
        if self.config.until:
            manifest = {"kind": self.kind, "name": self.config.name, "artifacts": digests, **found.more}
            return self._run(manifest, found.report, fresh=True)
        self.folder.manifest_file.discard()  # it may list the steps of an earlier run file
        return found

    def _make_all(
        self,
        making: Making,
        steps: StepsAtOnce,
        before: Mapping[str, Any],
        entries: dict[str, dict[str, Any]],
        began: dict[str, float],
    ) -> dict[str, ChainStep]:
        """Make the steps, each when those that it needs have ended. Returns them with their states.

        Args:
            before: entries of the report of an earlier call. entries: of this one's, which is written when a step
                begins or ends. began: Unix time of the begin of each running step.
        """
        made: dict[str, ChainStep] = {}
        ready: dict[str, RunJob[Any]] = {}  # not begun

        def ended(step: ChainStep) -> None:
            made[step.name] = step
            since = began.pop(step.name, None)
            if step.run and step.run.fresh:
                self.folder.manifest_file.discard()
            if step.error and (began or ready):
                steps.say(f"failed, others go on: {step.reason}")
            self._made = [made[name] for name in self.config.order if name in made]
            entries[step.name] = self._entry(step, before, None if since is None else time.time() - since)
            self._write(entries)

        while True:
            for name in self.config.order:
                if name in made or name in began or name in ready or not self.config.needs(name) <= {*made}:
                    continue
                try:
                    step = self._found(name, made, making.replace, making.verify)
                except RaymillError as error:
                    step = _failed(name, error)
                if step.job is None:
                    ended(step)
                else:
                    ready[name] = step.job
            if making.session.dead():
                ready.clear()  # each would fail
            chosen = steps.fitting([*ready.items()])
            if not chosen and not began:
                return made
            for name, job in chosen:
                making.lease.check()
                steps.say(f"step {name} ({job.kind})")
                del ready[name]
                began[name] = time.time()
                entries[name] = self._entry(ChainStep(name, STARTED), before, 0, began[name])
            if chosen:
                self._write(entries)
            run: Run | BaseException
            if len(began) == 1 and chosen:
                name, job = chosen[0]
                try:
                    run = steps.run_here(name, job)
                except RaymillError as error:
                    run = error
            else:
                for name, job in chosen:
                    steps.begin(name, job)
                name, run = steps.next_end()
            if isinstance(run, RaymillError):
                ended(_failed(name, run))
            elif isinstance(run, BaseException):
                raise run
            else:
                ended(ChainStep(name, FINISHED, run))

    def _make_step(self, making: Making, name: str, job: RunJob[Any], session: Session, progress: Progress) -> Run:
        with logs.about(step=name), naming(self.config, name):
            run = job.run(session, progress, replace=making.replace, verify=making.verify)
            if run.fresh and session.embedded:
                job.after()
        return run

    def _entries_before(self) -> dict[str, Any]:
        """The entries of the report of an earlier call, by step; a damaged one is left out.

        `seconds` of a step in which that call was killed contains the time until it last refreshed the step's lease.
        """
        uri = paths.join(self.root, RUN_REPORT)
        try:
            found = read_json(self.store, uri, "the report of a run", "steps", kind=_ReportBefore)
        except DataError:
            found = None
        entries = {one["step"]: one for one in found["steps"]} if found else {}
        for name, one in entries.items():
            if (began := one.get("began")) is not None and name in self.config.steps:
                with suppress(DataError):
                    until = last_held(self.store, self.config.output_of(name)) or 0
                    one["seconds"] = (one["seconds"] or 0) + max(until - began, 0)
        return entries

    def _entry(
        self, step: ChainStep, before: Mapping[str, Any], seconds: float | None = None, began: float | None = None
    ) -> dict[str, Any]:
        """The entry of a step in the report.

        Args:
            seconds: time of this call for it; None: none. Those of earlier calls are added, unless their result was
                another one. began: Unix time of its begin, while it is made.
        """
        digest = step.run.manifest["digest"] if step.run else None
        known = before.get(step.name, {})
        earlier = known.get("seconds") if known.get("digest") in (None, digest) else None
        if step.state == NOT_MADE:
            earlier = None
        if seconds is not None:
            earlier = (earlier or 0) + seconds
        return {
            "step": step.name,
            "kind": self.config.steps[step.name]["kind"],
            "state": step.state,
            "seconds": None if earlier is None else round(earlier, 1),
            "began": began,
            "output": self.config.output_of(step.name),
            "digest": digest,
            "exit_code": step.run.exit_code if step.run else 0,
            "reason": step.reason,
            "facts": "\n".join(step.run.summary.splitlines()[:_FACTS]) if step.run else "",
        }

    @staticmethod
    def _report(entries: Mapping[str, dict[str, Any]], steps: Sequence[ChainStep]) -> dict[str, Any]:
        warnings = [f"{one.name}: {words}" for one in steps if one.run for words in one.run.warnings]
        return {"steps": [*entries.values()], "warnings": warnings}

    def _write(self, entries: Mapping[str, dict[str, Any]]) -> None:
        report = self._report(entries, self._made)
        self.store.write_bytes(paths.join(self.root, RUN_REPORT), json_bytes(report))
        shown = self.page(Made(report, {}, {"finished": _now()}))
        self.store.write_bytes(paths.join(self.root, REPORT_HTML), shown.encode())

    def page(self, made: Made) -> str:
        entries = made.report["steps"]
        rows = [
            [
                Markup('<a href="{}">{}</a>').format(f"{one['step']}/{REPORT_HTML}", one["step"])
                if one["state"] == FINISHED
                else one["step"],
                code(one["kind"]),
                one["state"],
                "" if one["seconds"] is None else duration(one["seconds"]),
                wrapped(_shown(one)),
                code((one["digest"] or "")[:12]),
            ]
            for one in entries
        ]
        done = sum(one["state"] == FINISHED for one in entries)
        table = DataTable(None, ("Step", "Kind", "State", ">Time", "Facts", "Digest"), rows)
        words = f"{done} of {plural(len(entries), 'step')} finished. Time: of the step in all calls that made it."
        shown: list[Section | None] = [
            warnings_section(made.report["warnings"]),
            table_section("steps", "Steps", table, words=words, none="No steps."),
            config_section(self.config.model_dump(mode="json", exclude={"storage"}, exclude_none=True)),
        ]
        return page("Run file", self.config.name, made.more["finished"], cluster.__version__, self.root, shown)

    # On other machines

    def submitted(self) -> dict[str, Any]:
        steps = {name: dict(given) for name, given in self.config.steps.items()}
        for name, job in self.jobs.items():
            if self.config.fields(name):  # its settings have values in place of references
                continue
            own = {key: value for key, value in job.submitted().items() if key not in ("output", "storage")}
            kept = {"if": steps[name]["if"]} if "if" in steps[name] else {}
            steps[name] = with_texts(own, self._with_reference) | kept
        return job_config(self.config) | {"output": self.root, "steps": steps}

    def _with_reference(self, text: str) -> str:
        """A path with a reference in place of the output of a step: references order the steps."""
        for name in self.config.steps:
            output = self.config.output_of(name)
            if text == output or text.startswith(f"{output}/"):
                return f"${{{name}.output}}{text.removeprefix(output)}"
        return text

    def _known(self) -> dict[str, RunJob[Any]]:
        """The jobs of the steps whose inputs exist."""
        return {one.name: self.jobs[one.name] for one in self.states if one.job or one.run}

    def identity(self) -> list[Any]:
        """The settings of all steps, and the identities of those that need no other step."""
        first = {name: job.identity() for name, job in self.jobs.items() if not self.config.needs(name)}
        return [self.submitted()["steps"], self.config.until, first]

    def unit_count(self) -> int:
        return sum(job.unit_count() for job in self._known().values())

    def machines(self, seconds: float | None) -> Machines:
        return self.machine_groups(seconds)[0]

    def machine_groups(self, seconds: float | None) -> tuple[Machines, ...]:
        groups: dict[str, list[Machines]] = {}
        for job in self._known().values():
            for one in job.machine_groups(seconds):
                groups.setdefault(one.name, []).append(one)
        for step in self.states:
            if step.state == OPEN and step.job is None:
                log.warning("step %s: its machines are not known, as it %s", step.name, step.reason)
        at_once = self.config.execution.steps_at_once or 1
        most = {name: sum(sorted(one.most for one in found)[-at_once:]) for name, found in groups.items()}
        return tuple(replace(largest(found), most=most[name]) for name, found in groups.items())

    def must_exist(self) -> tuple[str, ...]:
        found = [uri for job in self._known().values() for uri in job.must_exist()]
        return tuple(uri for uri in dict.fromkeys(found) if not uri.startswith(f"{self.root}/"))

    def variables(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one for job in self.jobs.values() for one in job.variables()))


def _failed(name: str, error: RaymillError) -> ChainStep:
    return ChainStep(name, FAILED, reason=" ".join(error.as_written.split()), error=error)


@contextmanager
def naming(config: ChainConfig, step: str) -> Iterator[None]:
    """Begin errors of its run with the name of the step, and show messages in the words of the run file."""
    try:
        with of_the_step(config.name_in_file(step), config.steps[step]["kind"]):
            yield
    except RaymillError as error:
        with of_the_step(config.name_in_file(step), config.steps[step]["kind"]):
            error.reword(in_the_run_file)
        if not error.as_written.startswith(f"step {step}"):
            error.args = (f"step {step}: {error.as_written}", *error.args[1:])
        raise


def _shown(entry: Mapping[str, Any]) -> str:
    """In one line, the reason of the state of a step, or the main results of its run."""
    return entry["reason"] or "; ".join(" ".join(line.split()) for line in entry["facts"].splitlines())


def _values_of(runs: Mapping[str, Run]) -> ValueOf:
    return lambda step, field: field_value(field, runs[step].manifest, runs[step].report, runs[step].uri)


def _digests(steps: Sequence[ChainStep]) -> dict[str, str]:
    """Step -> digest, of the finished ones."""
    return {one.name: one.run.manifest["digest"] for one in steps if one.run}


def _fingerprint(steps: Sequence[ChainStep]) -> str | None:
    """Fingerprint of the inputs and results of the steps; None if one is open."""
    if any(one.state == OPEN for one in steps):
        return None
    parts = (one.run and [one.run.manifest["inputs"], one.run.manifest["digest"]] for one in steps)
    return fingerprint([[one.name, part or one.reason] for one, part in zip(steps, parts, strict=True)])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
