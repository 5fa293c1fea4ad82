"""The main job of `raymill annotate`: chooses records, and makes them tasks for annotators.

    freeze   lists the input files and divides them into units       -> inputs.json, inputs.parquet
    ...      the stages of stages.py                                  -> quarantine, tasks
    report   writes the report, then the run's manifest               -> report.json, report.html, manifest.json

From then on labels come in, by the page or by imports: `answers/`. `finish` makes `labels/` and agreement.json of them,
as often as it is called.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from raymill import cluster
from raymill.cluster.answer import Answer
from raymill.cluster.artifact import Artifact, fingerprint
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.entry import Entry, require_extra
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.splits import hash64
from raymill.cluster.formats import count, plural
from raymill.cluster.frame.files import FilesJob
from raymill.cluster.frame.job import Made, Making, Run, digests_of
from raymill.cluster.output_folder import refuse_output_among_inputs
from raymill.cluster.progress import Progress
from raymill.cluster.readers.columns import value_in
from raymill.cluster.readers.freeze import freeze_listing
from raymill.cluster.readers.inputs import STORES, Input
from raymill.cluster.readers.listing import InputListing, list_inputs
from raymill.cluster.readers.named_columns import with_columns_of_settings
from raymill.cluster.readers.quarantine import (
    loss_warnings,
    quarantine_entries,
    readable_documents,
    refuse_too_many,
    unreadable_warning,
)
from raymill.cluster.readers.reader import PROBLEMS, python_rows
from raymill.cluster.readers.units import read_unit, split_problems
from raymill.cluster.report.page import page
from raymill.cluster.report.sections import Section, note, plain_sections
from raymill.cluster.session import Session
from raymill.cluster.stage import RunStageIn
from raymill.cluster.store import paths
from raymill.cluster.submit.work import GIB, Machines
from raymill.pipelines.annotate.config import AnnotateConfig
from raymill.pipelines.annotate.exchange.export import Format, export_round
from raymill.pipelines.annotate.exchange.importing import import_labels
from raymill.pipelines.annotate.finish import WANTED_WIDTH, Method, finish_round
from raymill.pipelines.annotate.round import Round, guideline_version, put_guideline
from raymill.pipelines.annotate.serve import serve_labels
from raymill.pipelines.annotate.simulation_report import learning_curves, simulation_tables, simulation_text
from raymill.pipelines.annotate.stages import CURVES, Labelled, needs_probabilities, run_simulation, run_stages
from raymill.pipelines.annotate.tasks import TASKS, shown
from raymill.pipelines.annotate.trained import TrainedClassifier, trained_classifier
from raymill.pipelines.embedder import check_models, require_models
from raymill.pipelines.generate.stages import QUARANTINE

_summary = Entry("raymill.pipelines.annotate.simulate:summary")  # it loads scikit-learn

log = logging.getLogger(__name__)

_MOST_REFERENCES = 1_000  # records of `choose.reference`, each of which is compared with each candidate
# `exclude` of pydantic's model_dump: the settings without effect on the tasks.
_NO_EFFECT_ON_RESULT = STORES | {"output": True, "execution": True, "rounds": True}


_CURVES = "Accuracy on the records held out, by the number of labels. Thin lines: 95% interval over the seeds."
_PAGE_NOTES = {
    "strategies": "Difference: accuracy less the accuracy of random, mean of all rounds, paired by seed, with a 95% "
    "interval. Labels saved: of those that random took for its last accuracy.",
    "stopping": "Stable predictions: a mean kappa of at least 0.99 between the predictions of three rounds. Accuracy "
    "lost: what further labels brought.",
}


class AnnotateRun(Run):
    """A round of annotation: its tasks, and the labels that came in."""

    @property
    def round(self) -> Round:
        """The tasks and labels. Reads the tasks."""
        return Round.of(self.store, self.uri, self.manifest)

    def finish(self, method: Method = "dawid_skene", posterior: float = 0.8, width: float = WANTED_WIDTH) -> Answer:
        """As `raymill annotate finish`: what agreement.json has. See `finish_round`."""
        return finish_round(self.round, method, posterior, width)

    def export(self, file: str, format: Format, names: Mapping[str, str] | None = None) -> Answer:
        """As `raymill annotate export`. See `export_round`."""
        return export_round(self.round, file, format, names)

    def import_labels(self, files: Sequence[str], names: Mapping[str, str] | None = None) -> Answer:
        """As `raymill annotate import`. See `import_labels`."""
        return import_labels(self.round, files, names)

    @property
    def summary(self) -> str:
        report = self.report
        if self.is_simulation:
            return simulation_text(report)
        lines = [f"{plural(report['tasks'], 'task')} of {plural(report['candidates'], 'record')}"]
        lines += [f"  {one['strategy']:<16}{one['tasks']:,}" for one in report["chosen"]]
        lines += [f"  {one['annotator']:<16}{one['tasks']:,} to label" for one in report["annotators"]]
        return "\n".join([*lines, f"label them: `raymill annotate label {self.uri} --open`"])

    def label(self, **options: Any) -> None:
        """As `raymill annotate label`, until Ctrl-C. options: of `serve_labels`."""
        serve_labels(self.round, **options)

    @property
    def is_simulation(self) -> bool:
        """Whether it simulated rounds, and has no tasks."""
        return "curves" in self.report

    @property
    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """The tasks of each strategy."""
        if self.is_simulation:
            rows = [(one["strategy"], f"{one['accuracy']:.3f}", one["verdict"]) for one in self.report["strategies"]]
            return ("strategy", "accuracy", "beside random"), rows
        return ("chosen by", "tasks"), [(one["strategy"], count(one["tasks"])) for one in self.report["chosen"]]

    @property
    def _results(self) -> dict[str, str]:
        name = CURVES if self.is_simulation else TASKS
        return {name: paths.join(self.uri, name)}


class AnnotateJob(FilesJob[AnnotateConfig]):
    """Choose records and make them tasks for annotators.

    `raymill annotate CONFIG` makes the tasks of a round. `raymill annotate label ROUND` serves the page on which they
    are labelled, `export` and `import` exchange them with other tools, and `finish` makes one label of each.
    Report: OUTPUT/report.html
    """

    kind, run_type = "annotate", AnnotateRun

    @cached_property
    def listing(self) -> InputListing:
        named = self.config.named_columns
        inputs = [with_columns_of_settings(self.store, one, named) for one in self.config.inputs]
        listing = list_inputs(self.store, inputs)
        refuse_output_among_inputs(self.root, listing)
        return listing

    @cached_property
    def labelled(self) -> Labelled:
        """The labels of earlier rounds."""
        texts, labels, ids = [], [], set[str]()
        for uri in self.config.choose.labelled:
            earlier = Round.at(self.store, uri)
            ids.update(row.id for row in earlier.tasks)
            found = earlier.labels()
            for row in earlier.tasks:
                if row.id in found:
                    texts.append("\n".join(row.record.get(name) or "" for name in self.config.task.columns))
                    labels.append(found[row.id])
        return Labelled(texts, labels, frozenset(ids))

    @cached_property
    def reference(self) -> tuple[str, ...]:
        """Texts of `choose.reference`: at most _MOST_REFERENCES, by their hashes."""
        if self.config.choose.reference is None:
            return ()
        columns, named = self.config.task.columns, self.config.named_columns
        input = Input(source="choose.reference", path=self.config.choose.reference)
        input = with_columns_of_settings(self.store, input, {name: named[name] for name in columns})
        frozen = freeze_listing(list_inputs(self.store, [input]))
        found = set[str]()
        for table in (one for unit in frozen.units for one in read_unit(unit, frozen.reading, self.config.limits)):
            for row in python_rows(split_problems(table)[0]):
                row[input.text] = row["text"]
                found.add("\n".join(shown(value_in(row, name)) or "" for name in columns))
            found = set(sorted(found, key=lambda one: hash64(one.encode()))[:_MOST_REFERENCES])
        return tuple(sorted(found))

    @cached_property
    def trained(self) -> TrainedClassifier | None:
        """The model of `choose.classifier`."""
        if (uri := self.config.choose.classifier) is None:
            return None
        return trained_classifier(self.store, uri, self.config.task.choices)

    @cached_property
    def embedding_run(self) -> EmbeddingRun:
        """The endpoints for text vectors."""
        return EmbeddingRun.of(self.store, self.root, self.config.name, [*self.config.embedding_models.values()])

    def settings(self) -> dict[str, Any]:
        plain = json.loads(self.config.model_dump_json(exclude=_NO_EFFECT_ON_RESULT))
        made_from = {"reference": fingerprint(self.reference)} if self.reference else {}
        return plain | made_from | ({"classifier": self.trained.digest} if self.trained else {})

    def variables(self) -> tuple[str, ...]:
        return tuple(one.key_env for one in self.config.embedding_models.values() if one.key_env)

    def must_exist(self) -> tuple[str, ...]:
        return (self.config.task.guideline,) if self.config.task.guideline else ()

    def require_extras(self, *, computes: bool = True) -> None:
        if computes:
            require_models(self.config.embedding_models)
            if self.config.choose.classifier:
                require_extra("train", "choose.classifier")

    def check(self, session: Session, replace: bool) -> None:
        _ = self.frozen, self.labelled, self.reference, self.trained
        check_models(self.config.embedding_models, self.store)
        if self.config.task.guideline:
            guideline_version(self.store, self.config.task.guideline)
        if len(needed := self.config.task.choices) < 2 and needs_probabilities(self.config):
            raise ConfigError(f"task.labels: a classifier needs two labels; there are {len(needed)}")

    def run(self, session: Session, progress: Progress, *, replace: bool = False, verify: bool = False) -> Run:
        found = super().run(session, progress, replace=replace, verify=verify)
        if found.fresh or self.config.simulate:
            return found
        try:  # it may have been changed since the round was made
            put_guideline(self.store, self.root, self.config.task.guideline)
        except ConfigError as error:
            log.warning("%s The last version counts.", error)
        return found

    def stages(self, run: RunStageIn) -> dict[str, Artifact]:
        if self.config.simulate:
            return run_simulation(self.config, self.frozen, run)
        config, reference = self.config, self.reference
        return run_stages(config, self.frozen, self.labelled, reference, self.embedding_run, self.trained, run)

    def make(self, making: Making) -> Made:
        self.record_inputs()
        for problem in self.frozen.notes:
            log.warning("%s", problem)
        artifacts = self.stages(making.run)
        quarantine = artifacts[QUARANTINE]
        good = readable_documents(quarantine)
        refuse_too_many(self.config.execution.max_bad_documents, good, quarantine, PROBLEMS, "record")
        if self.config.simulate:
            return self._simulated(artifacts)
        if not artifacts[TASKS].rows:
            raise DataError("inputs: no record to label: there is none, or all are in the rounds of `choose.labelled`.")
        asked = self.embedding_run.close([*self.config.embedding_models.values()])
        version = put_guideline(self.store, self.root, self.config.task.guideline)
        report = self._report(artifacts) | {"guideline": version} | ({"embeddings": asked} if asked else {})
        digests = digests_of({name: artifacts[name] for name in (TASKS, QUARANTINE)})
        told = {"tasks": count(report["tasks"])}
        return Made(report, digests, {"finished": report["finished"], "told": told})

    def _simulated(self, artifacts: Mapping[str, Artifact]) -> Made:
        curves, known = artifacts[CURVES], artifacts["_work/known"]
        found = _summary.load()([row for table in curves.tables() for row in table.to_pylist()])
        unknown = int(artifacts[QUARANTINE].manifest.counters.get("unknown", 0))
        warnings = [f"{plural(unknown, 'record')} without one of the labels: left out."] if unknown else []
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        report = {"name": self.config.name, "records": known.rows, **found, "warnings": warnings, "finished": finished}
        digests = digests_of({name: artifacts[name] for name in (CURVES, QUARANTINE)})
        return Made(report, digests, {"finished": finished, "told": {"records": count(known.rows)}})

    def page(self, made: Made) -> str:
        if not self.config.simulate:
            return super().page(made)
        report = made.report
        shown = {name: one for name, one in report.items() if name not in ("curves", "strategies", "stopping")}
        config = {"config": self.config.model_dump(mode="json", by_alias=True)}
        sections = plain_sections(shown | simulation_tables(report) | config, _PAGE_NOTES)
        sections.insert(2, Section("curves", "Learning curves", [note(_CURVES), *learning_curves(report["curves"])]))
        name = self.config.name
        return page("Report of annotate", name, report["finished"], cluster.__version__, self.root, sections)

    def _report(self, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
        chosen, given, strata = Counter[str](), Counter[str](), Counter[str]()
        for table in artifacts[TASKS].tables(["chosen_by", "annotators", "stratum"]):
            chosen.update(table["chosen_by"].to_pylist())
            strata.update(table["stratum"].to_pylist())
            given.update(name for names in table["annotators"].to_pylist() for name in names)
        of_choice = artifacts["_work/chosen"].manifest.counters
        counters, quarantine = artifacts[QUARANTINE].manifest.counters, artifacts[QUARANTINE]
        entries = quarantine_entries(quarantine)
        warnings = [*loss_warnings(entries), *unreadable_warning(entries, "record")]
        warnings += self._warnings(artifacts, int(of_choice["repeated"]))
        tasks = artifacts[TASKS].rows
        if tasks < self.config.choose.count:
            warnings.append(f"There are {plural(tasks, 'task')}: the input has no more records.")
        return {
            "name": self.config.name,
            "type": self.config.task.type,
            "tasks": tasks,
            "candidates": int(of_choice["candidates"]),
            "documents": int(counters["documents"]),
            "quarantined": int(counters["quarantined"]),
            "quarantine": entries,
            "chosen": [{"strategy": name, "tasks": number} for name, number in sorted(chosen.items())],
            "strata": [{"stratum": name, "tasks": number} for name, number in sorted(strata.items()) if name],
            "annotators": [{"annotator": one.name, "tasks": given[one.name]} for one in self.config.annotators],
            "warnings": warnings,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _warnings(self, artifacts: Mapping[str, Artifact], repeated: int) -> Iterator[str]:
        if repeated:
            yield f"{plural(repeated, 'record')} with the id of another: left out."
        if (fitted := artifacts.get("_work/classifier")) is not None and not fitted.manifest.counters["trained_on"]:
            yield (
                "No labels are known yet, so the classifier compared records with the names of the labels alone. Set "
                "`choose.label`, `choose.probabilities` or, from the second round on, `choose.labelled`."
            )
        if (scored := artifacts.get("_work/scored")) is not None and (without := scored.manifest.counters["without"]):
            yield f"{plural(int(without), 'record')} had no probabilities of all labels in `choose.probabilities`."

    def unit_count(self) -> int:
        return 6 * len(self.frozen.units)

    def machines(self, seconds: float | None) -> Machines:
        model = 2 * self.trained.bytes if self.trained else 0
        return Machines("cpu", cpus=2, memory=8 * GIB + model, disk=8 * GIB, largest_task=4 * GIB + model)

    # Of a dry run

    def about(self) -> Iterator[tuple[str, str]]:
        config = self.config
        shares = ", ".join(f"{share:.0%} {name}" for name, share in config.choose.shares.items())
        yield "tasks", f"{count(config.choose.count)} of type {config.task.type}: {shares}"
        each = plural(config.overlap, "annotator")
        yield "people", f"{plural(len(config.annotators), 'annotator')}, {each} a task"
