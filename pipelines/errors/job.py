"""The main job of `raymill errors`: what the errors of an evaluation have in common, and what to do about them.

read     the items of a run or of files, with their errors         -> _work/read, quarantine
analyse  slices, confusions, causes and findings of all items      -> items, nearest, _work/findings, _work/facts
report   slices.json, confusions.json, findings/, then the report  -> report.json, report.html, manifest.json
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from raymill import cluster
from raymill.cluster.artifact import Artifact, changed_files, fingerprint
from raymill.cluster.asking.embedding_model import DECISIVE
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.entry import Entry, require_extra
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.formats import count, plural
from raymill.cluster.frame.job import Made, Making, Run, RunJob, digests_of
from raymill.cluster.output import Output, changed_run
from raymill.cluster.output_folder import path_below, refuse_output_among_inputs, refuse_output_in_folder
from raymill.cluster.plan.sample import document_count
from raymill.cluster.readers.freeze import freeze_listing
from raymill.cluster.readers.inputs import STORES
from raymill.cluster.readers.listing import InputListing, list_inputs
from raymill.cluster.readers.named_columns import with_columns_of_settings
from raymill.cluster.readers.quarantine import (
    loss_warnings,
    quarantine_entries,
    readable_documents,
    refuse_too_many,
    unreadable_warning,
)
from raymill.cluster.readers.reader import PROBLEMS
from raymill.cluster.readers.units import InputManifest
from raymill.cluster.record import json_bytes
from raymill.cluster.report.page import page
from raymill.cluster.run import RUN_REPORT, RunFolder
from raymill.cluster.session import Session
from raymill.cluster.stage import Stage
from raymill.cluster.store import paths
from raymill.cluster.submit.work import GIB, Machines
from raymill.pipelines.embedder import check_models, require_models
from raymill.pipelines.errors.config import ErrorsConfig
from raymill.pipelines.errors.findings import FOLDER
from raymill.pipelines.errors.items import READ, READ_SCHEMA, ReadFiles
from raymill.pipelines.errors.outputs import (
    FACTS,
    FACTS_SCHEMA,
    FINDINGS,
    FINDINGS_SCHEMA,
    ITEMS,
    ITEMS_SCHEMA,
    NEAREST,
    NEAREST_SCHEMA,
)
from raymill.pipelines.errors.page import sections
from raymill.pipelines.errors.runs import EvaluatedRun, ReadRun, evaluated_run, left_out_warning
from raymill.pipelines.errors.sample import MOST
from raymill.pipelines.generate.stages import QUARANTINE, QUARANTINE_SCHEMA
from raymill.pipelines.memory import task_memory

_analyse = Entry("raymill.pipelines.errors.analyse:Analyse")  # it loads scikit-learn

VERSION = "1"
SLICES, CONFUSIONS = "slices.json", "confusions.json"
_NO_EFFECT_ON_RESULT = STORES | {"output": True, "execution": True}
_ALL = 1 << 64
_MOST_DOCUMENTS = 4 * MOST  # items of files that are read, before the smallest hashes are taken
_MEMORY = 4 * GIB


class ErrorsRun(Run):
    """A finished analysis of errors."""

    @property
    def summary(self) -> str:
        report = self.report
        lines = [f"{plural(report['errors'], 'error')} of {plural(report['items'], 'item')}"]
        lines += [f"  {name:<24}{title}" for name, title in self.table[1]]
        if report["findings"]:
            lines.append(f"files of each finding: {paths.join(self.uri, FOLDER)}")
        return "\n".join(lines)

    @property
    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """The findings."""
        return ("finding", "about"), [(one["name"], one["title"]) for one in self.report["findings"]]

    @property
    def findings(self) -> dict[str, dict[str, str]]:
        """Name of a finding -> the URI of each of its files, by the file's name.

        Raises:
            DataError: a name in the report leads out of the run, which others may have written.
        """
        try:
            return {
                one["name"]: {
                    file: paths.join(self.uri, FOLDER, paths.FileName(one["name"]), paths.FileName(file))
                    for file in one["files"]
                }
                for one in self.report["findings"]
            }
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise DataError(f"{paths.join(self.uri, RUN_REPORT)}: its findings are damaged ({error}).") from error


class ErrorsJob(RunJob[ErrorsConfig]):
    """Find what the errors of an evaluation or of logs have in common, and make it records to label, make or correct.

    Report: OUTPUT/report.html
    """

    kind, run_type = "errors", ErrorsRun

    @cached_property
    def evaluated(self) -> EvaluatedRun | None:
        """The run that is analysed; None: files are."""
        return None if self.config.run is None else evaluated_run(self.store, self.config.run)

    @cached_property
    def data(self) -> str | None:
        """The output of `prepare` that the model learned from; None: unknown."""
        return self.config.data or (self.evaluated.data if self.evaluated else None)

    @cached_property
    def listing(self) -> InputListing:
        """The files of the inputs.

        Raises:
            UserError: an input is missing, or the output is among the inputs.
        """
        named = self.config.named_columns
        inputs = [with_columns_of_settings(self.store, one, named) for one in self.config.inputs]
        listing = list_inputs(self.store, inputs)
        refuse_output_among_inputs(self.root, listing)
        return listing

    @cached_property
    def frozen(self) -> InputManifest:
        """The files and their units.

        Raises:
            UserError: files are unreadable.
        """
        execution = self.config.execution
        return freeze_listing(self.listing, execution.unit_bytes, execution.max_bad_files)

    @cached_property
    def embedding_run(self) -> EmbeddingRun:
        """The endpoints for text vectors."""
        return EmbeddingRun.of(self.store, self.root, self.config.name, [*self.config.embedding_models.values()])

    def settings(self) -> dict[str, Any]:
        return json.loads(self.config.model_dump_json(exclude=_NO_EFFECT_ON_RESULT, context=DECISIVE))

    def inputs(self) -> str | None:
        data = None
        if self.data is not None:
            data = RunFolder(self.store, self.data).require(
                "prepare", "Point `data` at the output of `raymill prepare`."
            )["digest"]
        if self.evaluated is not None:
            return fingerprint([self.evaluated.digest, data])
        if any(source.errors for source in self.listing.sources):
            return None
        return fingerprint([self.listing.fingerprint, data])

    def input_changes(self) -> str:
        return "the answers or the data set were made again"

    def variables(self) -> tuple[str, ...]:
        return tuple(one.key_env for one in self.config.embedding_models.values() if one.key_env)

    def require_extras(self, *, computes: bool = True) -> None:
        if self.config.run is not None or self.config.columns.expected is not None:
            require_extra("train", "raymill errors", "Or give `columns` a score, a rating or a correction alone.")
        if computes:
            require_models(self.config.embedding_models)

    def check(self, session: Session, replace: bool) -> None:
        self.check_config()
        check_models(self.config.embedding_models, self.store)

    def check_config(self) -> None:
        """Verify the run, the data set or the files, and the output.

        Raises:
            UserError: one cannot be used.
        """
        for named, path in {"run": self.config.run, "data": self.data}.items():
            if path is None:
                continue
            refuse_output_in_folder("output", self.root, named, path, (f"{ITEMS}/part.parquet",), "errors")
            if path_below(path, self.root) is not None:
                raise ConfigError(
                    f"output: {self.root} contains {named}, and a run may not write above what it reads. Choose a "
                    "folder that is not above it."
                )
        _ = self.inputs(), self.frozen if self.evaluated is None else None

    def _read_stage(self) -> Stage:
        outputs = (Output(READ, READ_SCHEMA), Output(QUARANTINE, QUARANTINE_SCHEMA))
        made_from = fingerprint([VERSION, self.settings(), self.inputs(), self.data])
        if self.evaluated is not None:
            read = ReadRun(self.store, self.evaluated, self.data)
            return Stage("read", outputs, (0,), read, made_from, self.store, memory=2 * GIB)
        bound = min(_ALL, round(_MOST_DOCUMENTS / max(1, document_count(self.frozen)) * _ALL))
        files = ReadFiles(self.config, self.frozen, bound)
        memory = task_memory(self.config.limits)
        return Stage("read", outputs, self.frozen.units, files, made_from, self.store, memory=memory)

    def make(self, making: Making) -> Made:
        artifacts = dict(making.run(self._read_stage()))
        read, quarantine = artifacts[READ], artifacts[QUARANTINE]
        documents = int(quarantine.manifest.counters["documents"])
        refuse_too_many(
            self.config.execution.max_bad_documents, readable_documents(quarantine), quarantine, PROBLEMS, "item"
        )
        if not read.rows:
            notes = "".join(f" {one}" for one in self._notes)
            raise DataError(
                f"{'run' if self.evaluated else 'inputs'}: none of {plural(documents, 'item')} is judged, so no error "
                f"is known. Name a column with expected answers, scores, ratings or corrections that has values.{notes}"
            )
        work = _analyse.load()(self.config, self.store, self.evaluated, self.data, self.embedding_run)
        schemas = {ITEMS: ITEMS_SCHEMA, NEAREST: NEAREST_SCHEMA, FINDINGS: FINDINGS_SCHEMA, FACTS: FACTS_SCHEMA}
        outputs = tuple(Output(name, schema) for name, schema in schemas.items())
        made_from = fingerprint([VERSION, self.settings(), self.inputs(), read.manifest.digest])
        stage = Stage("analyse", outputs, [read.file_uris], work, made_from, self.store, memory=_MEMORY)
        artifacts |= making.run(stage)
        asked = self.embedding_run.close([*self.config.embedding_models.values()])
        report = self._report(artifacts) | ({"embeddings": asked} if asked else {})
        written = self._write_files(artifacts, report)
        more = {"finished": report["finished"], "told": {"errors": count(report["errors"])}, "files": written}
        return Made(report, digests_of({name: artifacts[name] for name in (ITEMS, NEAREST, QUARANTINE)}), more)

    def _report(self, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
        quarantine, counters = artifacts[QUARANTINE], artifacts[ITEMS].manifest.counters
        (facts,) = artifacts[FACTS].table()["facts"].to_pylist()
        entries, lost = quarantine_entries(quarantine), quarantine.manifest.counters
        return {
            "name": self.config.name,
            "items": int(counters["items"]),
            "errors": int(counters["errors"]),
            "records": int(counters["records"]),
            "data": self.data,
            **json.loads(facts),
            "quarantine": entries,
            "warnings": [
                *self._notes,
                *loss_warnings(entries),
                *unreadable_warning(entries, "item"),
                *self._warnings(counters, lost),
                *left_out_warning(json.loads(facts)["fields_left_out"]),
            ],
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    @property
    def _notes(self) -> Sequence[str]:
        """Sentences on the files, such as about columns that no record at their beginning has."""
        return () if self.evaluated else self.frozen.notes

    def _warnings(self, counters: Mapping[str, float], read: Mapping[str, float]) -> list[str]:
        found = []
        if repeated := int(read.get("repeated", 0) + counters["repeated"]):
            found.append(f"{plural(repeated, 'item')} with the id of another: left out.")
        if unjudged := int(read.get("unjudged", 0)):
            without = "without an expected answer, score, rating or correction"
            found.append(f"{plural(unjudged, 'item')} {without}: left out.")
        if drawn := int(read.get("drawn_out", 0) + counters["drawn_out"]):
            found.append(f"{plural(drawn, 'item')} left out by a hash of the id: {MOST:,} are analysed at most.")
        if self.data is None:
            found.append(
                "The records that the model learned from are not known, so no causes are given. Set `data` to the "
                "output of `raymill prepare`."
            )
        if counters["items"] and not counters["errors"]:
            found.append("No item is an error.")
        return found

    def _write_files(self, artifacts: Mapping[str, Artifact], report: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
        """Write slices.json, confusions.json and the files of findings. Returns path -> bytes and sha256."""
        about = {
            "level": self.config.level,
            "test": "Fisher's exact test, one-sided, against all items outside of the slice",
            "correction": "Holm 1979",
        }
        files = {
            SLICES: json_bytes(about | {"slices": report["slices"]}),
            CONFUSIONS: json_bytes({"confusions": report["confusions"]}),
        }
        wanted = {(one["name"], file): lines for one in report["findings"] for file, lines in one["files"].items()}
        lines: dict[tuple[str, str], list[str]] = {}
        for row in (row for table in artifacts[FINDINGS].tables() for row in table.to_pylist()):
            lines.setdefault((row["finding"], row["file"]), []).append(row["line"])
        if {key: len(some) for key, some in lines.items()} != wanted:
            raise changed_run(self.root, "_work", FINDINGS)
        for (name, file), some in lines.items():
            path = paths.join(FOLDER, paths.FileName(name), paths.FileName(file))
            files[path] = "".join(f"{one}\n" for one in some).encode("utf-8", "backslashreplace")
        at = paths.join(self.root, FOLDER)
        self.store.delete_listed(at, [one.uri for one in self.store.list_files(at)])
        for path, content in files.items():
            self.store.write_bytes(paths.join(self.root, path), content)
        return {path: (len(content), hashlib.sha256(content).hexdigest()) for path, content in files.items()}

    def damage(self, manifest: Mapping[str, Any], compare_sha256: bool) -> dict[str, str]:
        written = {paths.RelativePath(path): (size, sha256) for path, (size, sha256) in manifest["files"].items()}
        return super().damage(manifest, compare_sha256) | changed_files(self.store, self.root, written, compare_sha256)

    def page(self, made: Made) -> str:
        config = self.config.model_dump(mode="json", by_alias=True, exclude=STORES)
        shown = sections(made.report, config, paths.join(self.root, FOLDER))
        name = self.config.name
        return page("Report of errors", name, made.report["finished"], cluster.__version__, self.root, shown)

    def unit_count(self) -> int:
        return 1 + (1 if self.evaluated is not None else len(self.frozen.units))

    def machines(self, seconds: float | None) -> Machines:
        return Machines("cpu", cpus=2, memory=8 * GIB, disk=8 * GIB, largest_task=_MEMORY)
