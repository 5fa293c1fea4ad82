"""How a kind of run is declared. Nothing of it is imported before it is needed, so that `raymill --help` is fast."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from raymill.cluster.entry import Entry


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    function: its signature is the verb's arguments and options. text: what it does, in a line. extra: the optional
    dependencies that it needs. call: the function of the Python API, with the same arguments, which `function` calls;
    None: the module in `raymill` with the verb's name has several.
    """

    function: Entry
    text: str
    extra: str | None = None
    call: Entry | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of run: `kind: NAME` in a config, `raymill NAME CONFIG`.

    text: what the verb does, in a line. config: pydantic model of its configs. job: subclass of `RunJob` (job.py).
    plan: `plan(settings, **options)` is the run to plan, as a `Subject` (plan/plan.py). own_plan: `own_plan(settings,
    **options)` is the plan as an `Answer`. dry_run: `dry_run(settings, address)` yields lines on what a run would do.
    Without these, those of a run over files are used. of: another kind, whose configs can be given too.
    extra: optional dependencies that it needs. call: the function of the Python API, with the settings as keywords;
    None: one that takes any. command: the function of the command line; None: one that takes a config. verbs: further
    verbs. actions: what can be done with a finished run, by the word that follows the kind's name in place of a config:
    `raymill NAME ACTION ...`.
    files, folders: names that its runs have below their output besides the artifacts of stages.
    All files in such folders are the run's. made_of: folders whose files are made of an artifact of the run, below the
    first 32 digits of its digest; they are left over when the run has no artifact with this digest.
    report: names at the top of its report.json, to which run files can refer; empty: not known.
    """

    name: str
    text: str
    config: Entry
    job: Entry
    plan: Entry | None = None
    own_plan: Entry | None = None
    dry_run: Entry | None = None
    of: str | None = None
    extra: str | None = None
    call: Entry | None = None
    command: Entry | None = None
    verbs: Mapping[str, Verb] = field(default_factory=dict)
    actions: Mapping[str, Verb] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    made_of: tuple[str, ...] = ()
    report: tuple[str, ...] = ()
