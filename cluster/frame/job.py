"""A run of any kind: what its kind supplies, and what is done with it.

    begin     whatever must be there before the inputs can be listed
    find      a finished run with these settings and inputs is returned as it is, without Ray
    check     what can be wrong is found before machines start
    lease     one driver at a time writes to an output
    make      the stages, each skipped if its artifacts are finished: the same command continues an unfinished run
    publish   report.json, report.html and, last, manifest.json

A run with other settings or inputs is refused, or with `--replace` made anew; stages that the change does not affect
keep their artifacts. Files of a finished run that are damaged or gone are made again.
"""

import dataclasses
import html
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from raymill import cluster
from raymill.cluster.artifact import Artifact, fingerprint
from raymill.cluster.engine import Engine, RetryLimits
from raymill.cluster.errors import DataError, RaymillError, StageError
from raymill.cluster.formats import plural
from raymill.cluster.lease import Lease, held
from raymill.cluster.nodes import Resources
from raymill.cluster.progress import Progress
from raymill.cluster.record import OtherSettings, json_bytes
from raymill.cluster.report.page import page
from raymill.cluster.report.sections import NO_NOTES, plain_sections
from raymill.cluster.run import RUN_REPORT, RunFolder, other_settings, reading_report
from raymill.cluster.session import Session
from raymill.cluster.stage import COMMITS, RunStageIn, Stage, finished_stages, prefix_of
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.cluster.submit.work import Machines, Work, head_machine, job_config
from raymill.cluster.wording import for_the_caller

REPORT_HTML = "report.html"
_DAMAGE_SHOWN = 5

Config = TypeVar("Config", bound=BaseModel)


def _checking_report(shown: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A property that reads the report, with DataError for values that it does not expect."""

    def checked(run: "Run") -> Any:
        with run._reading_report():
            return shown(run)

    return checked


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run. Its artifacts are attributes: `run.corpus`, `run.removed`.

    Attributes:
        store: where it is.
        uri: its folder.
        manifest: content of manifest.json.
        report: content of report.json.
        fresh: whether this call finished it.
        parts: the runs that it consists of, if it has some.
        config: the config it was made with; None for a run that was opened.
    """

    store: Store
    uri: str
    manifest: dict[str, Any]
    report: Any
    fresh: bool
    parts: tuple["Run", ...] = ()
    config: Any = field(default=None, compare=False)

    @classmethod
    def opened(cls, store: Store, uri: str, manifest: dict[str, Any]) -> Self:
        """The finished run with this manifest. Reads its report."""
        return cls(store, uri, manifest, RunFolder(store, uri).report(), fresh=False)

    def artifact(self, name: str) -> Artifact:
        """The artifact at this path below the run. Reads its manifest."""
        return Artifact.load(self.store, paths.join(self.uri, name))

    def __getattr__(self, name: str) -> Artifact:
        # `manifest` is missing while an object is unpickled.
        if name.startswith("_") or name not in self.__dict__.get("manifest", {}).get("artifacts", ()):
            raise AttributeError(f"{type(self).__name__} has no attribute or artifact {name!r}")
        return self.artifact(name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in self.manifest["artifacts"] if name.isidentifier())]

    @property
    def name(self) -> str:
        """The name of its config."""
        return self.manifest["name"]

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        for name in ("summary", "table"):
            if isinstance(shown := vars(cls).get(name), property) and shown.fget is not None:
                setattr(cls, name, property(_checking_report(shown.fget), doc=shown.__doc__))

    @property
    def warnings(self) -> list[str]:
        """The warnings of its report.

        Raises:
            DataError: the report of a run that was opened has other values, as by `summary` and `table`.
        """
        with self._reading_report():
            found = self.report.get("warnings", [])
            if not (isinstance(found, list) and all(isinstance(one, str) for one in found)):
                raise ValueError("its warnings are no list of texts")
        return found

    @property
    def results(self) -> dict[str, str]:
        """URI of each result, and of the page of the report, by name."""
        return self._results | {"report": paths.join(self.uri, REPORT_HTML)}

    @property
    def exit_code(self) -> int:
        """Exit code of the command that made it."""
        return 0

    @property
    def summary(self) -> str:
        """Its numbers as text, without warnings."""
        return "\n".join(self._results)

    @property
    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """(names of columns, rows of cells) of the table that a notebook shows."""
        return ("result", "at"), list(self._results.items())

    @property
    def _results(self) -> dict[str, str]:
        names = [name for name in self.manifest["artifacts"] if not name.startswith("_")]
        return {name: paths.join(self.uri, name) for name in names}

    @property
    def text(self) -> str:
        """The numbers, then the warnings, in the words of the command."""
        with self._reading_report():
            return "\n".join([self.summary, *(f"warning: {one}" for one in self.warnings)])

    @contextmanager
    def _reading_report(self) -> Iterator[None]:
        """
        Raises:
            DataError: the report of a run that was opened, which anybody may have written, has other values.
        """
        with nullcontext() if self.fresh else reading_report(self.uri):
            yield

    def __str__(self) -> str:
        """What the command prints; in a program, calls of Python in place of commands."""
        return for_the_caller(self.text)

    def __repr__(self) -> str:
        return f"<{self.manifest['kind']} {self.name} at {self.uri}>"

    def _repr_html_(self) -> str:
        """The run for a notebook: its numbers as a table, its warnings, and a link to the page of its report."""
        with self._reading_report():
            head, rows = self.table
            rows = [[str(cell) for cell in cells] for cells in rows]

        def row(cells: Sequence[str], tag: str) -> str:
            return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

        warnings = "".join(f"<p><b>warning:</b> {html.escape(for_the_caller(one))}</p>" for one in self.warnings)
        page = self.results["report"]
        # A notebook's server has the files below its folder; elsewhere a browser opens files by themselves.
        is_below = not paths.is_remote(page) and page.startswith(f"{os.getcwd()}/")
        # Quoted, since the name of a folder, such as `javascript:...`, must not be the scheme of the link.
        link = page if paths.is_remote(page) else quote(os.path.relpath(page)) if is_below else f"file://{quote(page)}"
        return (
            f"<b>{html.escape(str(self.name))}</b> ({html.escape(self.manifest['kind'])}) at {html.escape(self.uri)}"
            f"<table>{row(head, 'th')}{''.join(row(one, 'td') for one in rows)}</table>{warnings}"
            f"{''.join(part._repr_html_() for part in self.parts)}"
            f'<a href="{html.escape(link, quote=True)}" target="_blank">{html.escape(page)}</a>'
        )


@dataclass(frozen=True)
class Made:
    """The result of `RunJob.make`: what `publish` writes.

    report: content of report.json. digests: path below the output -> digest, of each result. more: further entries of
    the manifest; `finished`, the time, is one of them.
    """

    report: Any
    digests: Mapping[str, str]
    more: Mapping[str, Any]


@dataclass(frozen=True)
class FoundRun:
    """What is at an output. run: the finished run with these settings and inputs. damage: URI -> what is wrong."""

    run: Run | None = None
    damage: Mapping[str, str] = field(default_factory=dict)

    @property
    def damage_text(self) -> str:
        """The damaged files of a finished run; empty if none is damaged."""
        if not self.damage:
            return ""
        lines = [f"{uri}: {seen}" for uri, seen in self.damage.items()]
        shown = "; ".join(lines[:_DAMAGE_SHOWN]) + "; ..." * (len(lines) > _DAMAGE_SHOWN)
        return f"a finished run with {plural(len(lines), 'damaged file')} ({shown})"


@dataclass(frozen=True)
class Making:
    """What `RunJob.make` makes a run with, under the lease of its output.

    engine: runs stages in the folder of the run. replace: whether results of other settings are removed. verify:
    whether files are compared by their sha256.
    """

    engine: Engine
    session: Session
    progress: Progress
    lease: Lease
    replace: bool
    verify: bool

    def run(self, stage: Stage, folder: str = "") -> dict[str, Artifact]:
        """Make the artifacts of a stage, or find them finished. folder: where, relative to the run's folder."""
        root = paths.join(self.engine.root, folder) if folder else self.engine.root
        return dataclasses.replace(self.engine, root=root, prefix=prefix_of(folder)).run(stage)

    def run_again(self, stage: Stage, folder: str = "") -> dict[str, Artifact]:
        """As `run`; artifacts of other settings are replaced in any case."""
        anew = dataclasses.replace(self.engine, replace=True)
        return dataclasses.replace(self, engine=anew).run(stage, folder)


class RunJob(ABC, Generic[Config]):
    """A run of a config, before it is made. Subclasses are the kinds.

    kind: its name. run_type: class of its finished runs. all_at_once: whether it
    starts only when all its machines are there. page_notes: sentences about tables of the report's page, by name.
    """

    kind: ClassVar[str]
    run_type: ClassVar[type[Run]] = Run
    all_at_once: ClassVar[bool] = False
    page_notes: ClassVar[Mapping[str, str]] = NO_NOTES

    def __init__(self, config: Config) -> None:
        self.config = config
        self.store: Store = config.store  # type: ignore[attr-defined]
        self.root = paths.absolute(config.output)  # type: ignore[attr-defined]
        self.folder = RunFolder(self.store, self.root)

    # What the result depends on

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The settings on which the result depends, as JSON values."""

    @abstractmethod
    def inputs(self) -> str | None:
        """Fingerprint of the inputs; None if it is not known before the run, which is then not finished."""

    def input_changes(self) -> str:
        """A text about the inputs that changed since the run at the output."""
        return "the input files changed"

    # Before the run

    def require_extras(self, *, computes: bool = True) -> None:
        """Verify that the libraries of optional settings are installed here. computes: whether units run here.

        Raises:
            ConfigError: one is not.
        """

    def begin(self, session: Session, progress: Progress, replace: bool) -> None:
        """Bring what must be there before the inputs can be listed."""

    def check(self, session: Session, replace: bool) -> None:
        """Refuse what cannot succeed, before machines start.

        Raises:
            UserError: the message has the mistake.
        """

    # The run

    @abstractmethod
    def make(self, making: Making) -> Made | Run:
        """Make the run. Returns what is to be published, or the run if another process has finished it meanwhile."""

    def stages(self, run: RunStageIn) -> object:
        """Pass each stage to `run`, which returns its artifacts, for what is known before the run."""
        return None

    def damage(self, manifest: Mapping[str, Any], compare_sha256: bool) -> dict[str, str]:
        """URI -> what is wrong, of each file of a finished run; `_work/` is not checked, because it may be deleted."""
        found: dict[str, str] = {}
        for name in manifest["artifacts"]:
            if not name.startswith("_"):
                uri = paths.join(self.root, name)
                artifact = Artifact.find(self.store, uri)
                found |= {uri: "is gone"} if artifact is None else artifact.damage(compare_sha256=compare_sha256)
        return found | self.missing_reports()

    def missing_reports(self) -> dict[str, str]:
        """URI -> that it is gone, of the reports of a finished run."""
        reports = [paths.join(self.root, name) for name in (RUN_REPORT, REPORT_HTML)]
        return {uri: "is gone" for uri in reports if not self.store.exists(uri)}

    def parts(self) -> tuple[Run, ...]:
        """The finished runs that this one consists of."""
        return ()

    def read_report(self) -> Any:
        """The report of the finished run.

        Raises:
            DataError: it is damaged, or of another version.
        """
        return self.folder.report()

    def page(self, made: Made) -> str:
        """The page of a report, as HTML; by default one of its facts."""
        name: str = self.config.name  # type: ignore[attr-defined]
        facts = self.page_facts(made.report) | {"config": self.config.model_dump(mode="json", by_alias=True)}
        shown = plain_sections(facts, self.page_notes)
        return page(f"Report of {self.kind}", name, made.more["finished"], cluster.__version__, self.root, shown)

    def page_facts(self, report: dict[str, Any]) -> dict[str, Any]:
        """The facts of a report that its page shows, as of `plain_sections`."""
        return report

    def at_first(self) -> str:
        """What is shown until the first unit is committed on this machine."""
        return ""

    def after(self) -> None:
        """Called when this machine finished the run."""

    # On other machines

    def submitted(self) -> dict[str, Any]:
        """The config as it travels with a job, with absolute paths."""
        return job_config(self.config) | {"output": self.root}

    def identity(self) -> Any:
        """What is equal for configs whose runs have the same result, as JSON values."""
        return [self.settings(), self.inputs()]

    @abstractmethod
    def unit_count(self) -> int:
        """The units of all stages that the driver keeps records of."""

    @abstractmethod
    def machines(self, seconds: float | None) -> Machines:
        """The machines that do the units. seconds: wanted duration, None for any."""

    def machine_groups(self, seconds: float | None) -> tuple[Machines, ...]:
        """Groups of different machines; by default one."""
        return (self.machines(seconds),)

    def reserved(self, *, memory: bool) -> Resources:
        """The resources that the run needs at least while it is made, by Ray's names. Units, which by default one is
        counted of, use what is free beyond. memory: with bytes of memory."""
        machines = self.machines(None)
        return {"CPU": 1, "GPU": machines.gpus} | ({"memory": machines.largest_task} if memory else {})

    def must_exist(self) -> tuple[str, ...]:
        """URIs of files that the machines read."""
        return ()

    def variables(self) -> tuple[str, ...]:
        """Names of environment variables with secrets that the driver needs."""
        return ()

    # What is the same for every kind

    def find(self, *, replace: bool = False, verify: bool = False) -> FoundRun:
        """The finished run at the output, from listings and manifests alone.

        Raises:
            OtherSettings: a run with other settings or inputs is finished there, and not `replace`.
            DataError: its report is of another version, and not `replace`.
        """
        try:
            if self.folder.manifest_file.read() is None or (inputs := self.inputs()) is None:
                return FoundRun()
            manifest = self.folder.find(self.settings(), inputs, False, self.input_changes)
            if manifest is None:
                return FoundRun()
            if damage := self.damage(manifest, verify):
                return FoundRun(damage=damage)
            return FoundRun(self._run(manifest, self.read_report(), fresh=False))
        except DataError:  # OtherSettings is one
            if not replace:
                raise
            return FoundRun()

    def run(self, session: Session, progress: Progress, *, replace: bool = False, verify: bool = False) -> Run:
        """Make the run, continue it where an earlier call stopped, or return it as it is if it is finished.

        Args:
            replace: remove results of other settings or inputs at the output, and make them again.
            verify: compare the sha256 of a finished run's files, not only their sizes.

        Raises:
            UserError: a mistake the user can correct, or another run holds the output. Finished units are kept.
            ClusterError: machines failed. The same call continues.
        """
        self.require_extras(computes=session.embedded)
        self.begin(session, progress, replace)
        found = self.find(replace=replace, verify=verify)
        if found.run is not None:
            return found.run
        if found.damage:
            progress.say(f"{self.root}: {found.damage_text}. Damaged files are made again.")
        self.check(session, replace)
        self.store.require_conditional_writes(self.root)
        # Two drivers cannot damage a run, because a unit is committed once; without a lease both would do all units.
        begun = leased(self.store, self.root, self.config, session, progress, replace, verify)
        with begun as making, self.naming_changed_work():
            if found.damage and verify:
                if (found := self.find(verify=True)).run is not None:  # another process has made the files again
                    return found.run
                # Stages compare sizes alone, so a file of the right size that is damaged must go.
                self.store.delete_listed(self.root, found.damage)
            if replace:
                self.replacing(making)
            else:
                self.refuse_other_unfinished()
            made = self.make(making)
            if isinstance(made, Run):
                return made
            making.lease.check()
            return self._publish(made)

    def replacing(self, making: Making) -> None:
        """Make a finished run with other settings or inputs unfinished."""
        self.folder.manifest_file.discard()

    def unfinished_changes(self) -> list[str]:
        """A line for each difference from the settings and inputs of the unfinished run at the output, if known."""
        return []

    @contextmanager
    def naming_changes(self) -> Iterator[None]:
        """Name the settings or input files that differ in the error of a stage with other settings."""
        try:
            yield
        except OtherSettings as error:
            if changed := self.unfinished_changes():
                raise OtherSettings.about(other_settings(self.root, "an unfinished run", changed)) from error
            raise

    @contextmanager
    def naming_changed_work(self) -> Iterator[None]:
        """Turn an unexpected error of a run that continues unfinished work into one that names this work.

        Raises:
            DataError: the run ended with an unexpected error, here or in a unit.
        """
        continues = self.store.holds_files(paths.join(self.root, COMMITS))
        try:
            yield
        except Exception as error:
            if not continues or (isinstance(error, RaymillError) and not getattr(error, "unexpected", False)):
                raise
            seen = str(error) if isinstance(error, StageError) else f"unexpected error: {type(error).__name__}: {error}"
            raise DataError(
                f"{self.root}: {seen}\nThis command continued an unfinished run. If its files were changed or damaged "
                f"since, delete {paths.join(self.root, '_work')} and run the same command again; if that does not "
                f"help, delete {self.root}. If nobody changed them, report this error with its traceback (--debug)."
            ) from error

    def refuse_other_unfinished(self) -> None:
        """
        Raises:
            OtherSettings: an unfinished run at the output has other settings or inputs.
        """
        try:
            with self.naming_changes():
                finished_stages(self.root, self.stages)
        except OtherSettings:
            raise
        except DataError:
            pass  # a damaged artifact: the run makes it again, or raises the error itself

    def work(self, seconds: float | None = None, *, replace: bool = False) -> Work:
        """The run as a job of a cluster. Reads listings and manifests, and no data.

        Args:
            seconds: wanted duration; None: any. replace: the job may replace a finished run with other settings.
                Nothing is removed here.

        Raises:
            UserError: as the first checks of a run.
            ConfigError: the config holds secrets.
        """
        return Work(
            kind=self.kind,
            verb=self.kind,
            name=self.config.name,  # type: ignore[attr-defined]
            config=self.submitted(),
            result=fingerprint(self.identity()),
            output=self.root,
            finished=self.find(replace=replace).run is not None,
            head=head_machine(self.unit_count()),
            workers=self.machine_groups(seconds),
            must_exist=self.must_exist(),
            all_at_once=self.all_at_once,
            replace=replace,
            variables=self.variables(),
        )

    def _publish(self, made: Made) -> Run:
        """Write the report and its page, then the run's manifest."""
        self.store.write_bytes(paths.join(self.root, RUN_REPORT), json_bytes(made.report))
        self.store.write_bytes(paths.join(self.root, REPORT_HTML), self.page(made).encode())
        inputs = self.inputs()
        assert inputs is not None
        name: str = self.config.name  # type: ignore[attr-defined]
        manifest = self.folder.put(self.kind, name, self.settings(), inputs, dict(made.digests), **made.more)
        return self._run(manifest, made.report, fresh=True)

    def _run(self, manifest: dict[str, Any], report: Any, fresh: bool) -> Run:
        return self.run_type(self.store, self.root, manifest, report, fresh, self.parts(), self.config)


@contextmanager
def leased(
    store: Store,
    root: str,
    config: Any,
    session: Session,
    progress: Progress,
    replace: bool,
    verify: bool = False,
) -> Iterator[Making]:
    """Yield what makes stages in a folder, while holding its lease. config: has the bounds on tries in `execution`.

    Raises:
        BusyError: another run holds the lease.
    """
    with held(store, root) as lease:
        engine = Engine(root, session, progress, limits_of(config), replace, lease.check)
        yield Making(engine, session, progress, lease, replace, verify)


def limits_of(config: Any) -> RetryLimits:
    """How often and how long a stage of a config is tried."""
    return RetryLimits(config.execution.attempts, config.execution.stall_s, config.execution.losses)


def digests_of(artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """The digest of each artifact, by name."""
    return {name: artifact.manifest.digest for name, artifact in artifacts.items()}
