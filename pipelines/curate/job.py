"""Raw text to a training corpus: the main job, as five stages that meet on storage.

    freeze -> measure -> decide -> group -> select -> report

Every stage returns at once if its artifact is finished, so the same command run again continues, and on a finished run
does nothing and needs no Ray. Text is read in `measure` and `select` only.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cluster.artifact import Artifact
from cluster.engine import Engine, Patience
from cluster.errors import DataError
from cluster.lease import Lease, held
from cluster.page.formats import plural
from cluster.progress import Progress
from cluster.run import RunFolder
from cluster.session import Session
from cluster.stage import Stage
from cluster.store import paths
from cluster.store.store import Store
from pipelines.curate.config import STORES, CurateConfig
from pipelines.curate.decide import decide_stage
from pipelines.curate.duplicate_ids import ids_stage
from pipelines.curate.measure import ATTRIBUTES, QUARANTINE, measure_stage
from pipelines.curate.output_folder import refuse_files_inside, refuse_output_among_inputs
from pipelines.curate.report.schema import Report
from pipelines.curate.write_corpus import select_stage
from pipelines.dedup.group import GROUPS, group_stage
from pipelines.language import identification as language
from pipelines.readers import freeze
from pipelines.readers.reader import PROBLEMS
from pipelines.readers.units import InputManifest
from pipelines.rules.rule import Analysis
from pipelines.text.texts import Texts

INPUTS = "inputs.json"
REPORT_JSON, REPORT_HTML = "report.json", "report.html"
_QUARANTINE_SHOWN = 5
_DAMAGE_SHOWN = 5

# Settings that change how a run goes, or what is shown of it, and never what the corpus holds.
_NO_RESULT = STORES | {"output": True, "execution": True}


@dataclass(frozen=True)
class Run:
    """A finished run. `fresh`: made by this call, not found finished."""

    store: Store
    uri: str
    manifest: dict[str, Any]
    report: Report
    fresh: bool

    @property
    def corpus(self) -> Artifact:
        return Artifact.load(self.store, paths.join(self.uri, "corpus"))


def curate(
    config: CurateConfig,
    session: Session,
    progress: Progress,
    *,
    replace: bool = False,
) -> Run:
    """Make the corpus, or finish making it, or find it made.

    Args:
        replace: remove artifacts that other settings or inputs left at the output, and make them anew.

    Raises:
        UserError: something the user can mend, another run at the same output too; all finished work is kept.
        ClusterError: machines failed; running it again continues.
    """
    store = config.store
    root = paths.absolute(config.output)
    refuse_output_among_inputs(config, root, ".")
    inputs = freeze(store, config.inputs, ".", config.execution.unit_mib << 20)
    refuse_files_inside(root, inputs)
    found, damage = finished(config, inputs, root, replace)
    if found is not None:
        return found
    if damage:
        progress.say(f"{root}: {damage}. What is damaged is made again.")
    check_files(config)
    store.require_conditional_writes(root)
    # Two drivers would do no harm, as the first commit of a unit counts; the lease saves the second one's work.
    with held(store, root) as lease:
        frozen = inputs.to_json() | {"storage": config.storage.without_secrets()}
        store.write_bytes(paths.join(root, INPUTS), json.dumps(frozen, ensure_ascii=False).encode())
        patience = Patience(config.execution.attempts, config.execution.stall_s)
        engine = Engine(root, session, progress, patience, replace)
        artifacts = _stages(config, inputs, engine, lease)
        lease.check()
        return _publish(config, inputs, engine, artifacts)


def check_files(config: CurateConfig) -> None:
    """Open every model and list that a setting names, here, rather than in a worker after Ray has started.

    Raises:
        ConfigError, StorageError: one is missing, is no such file, or does not know a label.
    """
    if config.language:
        language.load(config.store, config.language)
    no_rows = pa.table({"language": pa.array([], pa.string())})
    nothing = Analysis(Texts.from_strings([]), config.dialect, no_rows, config.store)
    for rule in config.active_rules():
        if getattr(rule, "fingerprint_files", tuple)():
            rule.measure(nothing)


def finished(config: CurateConfig, inputs: InputManifest, root: str, replace: bool) -> tuple[Run | None, str]:
    """The finished run at `root` for this config and these inputs, and what of it is damaged, in words.

    A damaged run is none. Sizes are compared with a listing of each artifact; no file is read.

    Raises:
        DataError: a run of other settings or inputs is finished there, and `replace` is not given.
    """
    store = config.store
    manifest = RunFolder(store, root).find(config.kind, settings(config), inputs.fingerprint, replace)
    if manifest is None:
        return None, ""
    if damage := _damage(store, root, manifest):
        shown = "; ".join(damage[:_DAMAGE_SHOWN]) + "; ..." * (len(damage) > _DAMAGE_SHOWN)
        return None, f"a finished run with {plural(len(damage), 'damaged file')} ({shown})"
    report = json.loads(store.read_bytes(paths.join(root, REPORT_JSON)))
    return Run(store, root, manifest, report, fresh=False), ""


def _damage(store: Store, root: str, manifest: dict[str, Any]) -> list[str]:
    """What is seen of each damaged file of a finished run; work in between is not looked at."""
    found = []
    for name in manifest["artifacts"]:
        uri = paths.join(root, name)
        if name.startswith("_"):
            continue
        artifact = Artifact.find(store, uri)
        damage = {uri: "is gone"} if artifact is None else artifact.damage()
        found += [f"{file}: {seen}" for file, seen in damage.items()]
    reports = [paths.join(root, name) for name in (REPORT_JSON, REPORT_HTML)]
    return found + [f"{uri}: is gone" for uri in reports if not store.exists(uri)]


def settings(config: CurateConfig) -> dict[str, Any]:
    """The settings that decide what a corpus holds, as plain JSON values."""
    return json.loads(config.model_dump_json(exclude=_NO_RESULT))


def _stages(config: CurateConfig, inputs: InputManifest, engine: Engine, lease: Lease) -> dict[str, Artifact]:
    """The artifacts of all stages. Before each, the lease of the output is checked."""

    def run(stage: Stage) -> dict[str, Artifact]:
        lease.check()
        return engine.run(stage)

    units = len(inputs.units)
    artifacts = run(measure_stage(config, inputs))
    _check_quarantine(config, artifacts[ATTRIBUTES], artifacts[QUARANTINE])
    if (ids := ids_stage(config, artifacts[ATTRIBUTES])) is not None:
        artifacts |= run(ids)
    artifacts |= (decided := run(decide_stage(config, artifacts[ATTRIBUTES], units)))
    verdicts = next(iter(decided.values()))
    if config.dedup:
        artifacts |= run(group_stage(config, artifacts[ATTRIBUTES], verdicts, units))
    return artifacts | run(select_stage(config, inputs, artifacts[ATTRIBUTES], verdicts, artifacts.get(GROUPS)))


def _check_quarantine(config: CurateConfig, attributes: Artifact, quarantine: Artifact) -> None:
    bad, good = quarantine.manifest.rows, attributes.manifest.rows
    allowed = config.execution.max_bad_documents
    if bad <= allowed * (bad + good):
        return
    rows = next(quarantine.tables()).slice(0, _QUARANTINE_SHOWN).to_pylist()
    first = "\n".join(f"  {row['problem']} ({PROBLEMS[row['problem']]}): {row['where']}" for row in rows)
    raise DataError(
        f"{bad:,} of {plural(bad + good, 'document')} could not be read ({bad / (bad + good):.1%}; "
        f"execution.max_bad_documents allows {allowed:.1%}). The first:\n{first}\n"
        f"All of them: {quarantine.uri}. Mend the input, or allow more with "
        f"-o execution.max_bad_documents={math.ceil(100 * bad / (bad + good)) / 100}; what was measured is kept."
    )


def _publish(config: CurateConfig, inputs: InputManifest, engine: Engine, artifacts: dict[str, Artifact]) -> Run:
    from pipelines.curate.report.gather import gather
    from pipelines.curate.report.page import render

    report = gather(config, inputs, engine, artifacts)
    root, store = engine.root, config.store
    store.write_bytes(paths.join(root, REPORT_JSON), json.dumps(report, indent=1, ensure_ascii=False).encode())
    store.write_bytes(paths.join(root, REPORT_HTML), render(report).encode())
    digests = {name: artifact.manifest.digest for name, artifact in artifacts.items()}
    manifest = RunFolder(store, root).put(
        config.kind,
        config.name,
        settings(config),
        inputs.fingerprint,
        digests,
        finished=report["run"]["finished"],
    )
    return Run(store, root, manifest, report, fresh=True)
