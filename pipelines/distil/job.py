"""The main job of `raymill distil`: trains a fast classifier on the scores that a model gives a sample of documents.

    freeze   lists the input files and divides them into units       -> inputs.json, inputs.parquet
    draw, sample   draws the documents (stages.py)                    -> sample, quarantine
    judges/NAME    a run of `generate` for each judge: scores and reasons, the ledger, the cost
    train    trains, calibrates and tests the classifier              -> scores, classifier/
    report   writes the report, then the run's manifest               -> report.json, report.html, manifest.json

The same command continues a run that was stopped by its budget, by an error or by a kill. Answers of the judges are in
the answer store; the same request is not sent again.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from raymill.cluster.artifact import Artifact, changed_files
from raymill.cluster.asking.answers import ANSWERS
from raymill.cluster.asking.embedding_model import DECISIVE
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.asking.pending import AskingStopped
from raymill.cluster.errors import ConfigError, DataError, Problem
from raymill.cluster.formats import count, decimal, money, plural, share
from raymill.cluster.frame.files import FilesJob
from raymill.cluster.frame.job import Made, Making, Run, digests_of
from raymill.cluster.output import read_slice
from raymill.cluster.output_folder import refuse_output_among_inputs
from raymill.cluster.readers.inputs import STORES, Input
from raymill.cluster.readers.listing import InputListing, list_inputs
from raymill.cluster.readers.quarantine import loss_warnings, quarantine_entries, readable_documents, refuse_too_many
from raymill.cluster.readers.reader import PROBLEMS
from raymill.cluster.record import json_bytes
from raymill.cluster.report.sections import Tile
from raymill.cluster.session import Session
from raymill.cluster.stage import RunStageIn
from raymill.cluster.store import paths
from raymill.cluster.store.copies import local_file, sha256_of
from raymill.cluster.submit.work import GIB, Machines
from raymill.pipelines.agreement import agreement_text
from raymill.pipelines.distil.config import DistilConfig, Judge
from raymill.pipelines.distil.people import people_scores
from raymill.pipelines.distil.stages import CLASSIFIER, SAMPLE, SCORES, SECONDS, sample_of, train_stage
from raymill.pipelines.embedder import check_models, require_models
from raymill.pipelines.generate.config import GenerateConfig
from raymill.pipelines.generate.job import GenerateJob, GenerateRun, model_text, removed_text
from raymill.pipelines.generate.stages import QUARANTINE, RECORDS
from raymill.pipelines.generate.template import template_text
from raymill.pipelines.rules.judge_score import HEAD, MODEL, THRESHOLD

log = logging.getLogger(__name__)
_FOLDER, _JUDGES = "classifier", "judges"
_MILLION = 1e6
_LACKING = 0.1  # fraction of the sample without a score, from which there is a warning

# `exclude` of pydantic's model_dump: the settings without effect on the result.
_NO_EFFECT_ON_RESULT = STORES | {
    **dict.fromkeys(("output", "answers", "budget", "execution", "judges"), True),
    "people": {"path"},
}


# Facts of a report that its page has in the tiles of others, or leaves out.
_IN_TILES = {
    *("quarantined", "near_duplicates", "train", "validation", "test", "f1_low", "f1_high", "min_score", "kept_share"),
    *("good_share", "cost", "judge_cost_per_million", "judge_tokens_per_million", "classifier_core_hours_per_million"),
    *("classifier_documents_per_second", "training_seconds", "temperature"),
}
_PAGE_NOTES = {
    "agreement": "Quadratic weighted kappa: 1 is full agreement, 0 agreement by chance. The classifier is compared on "
    "the test part alone. With 95% intervals.",
    "by_score": "By the score of the judges: documents, those in the test part, and of these the mean score by the "
    "classifier and the fraction that it keeps.",
    "confusion": "Documents of the test part: a row for each score of the judges, a column for each of the classifier.",
    "calibration": "Mean scores of the test part, in ranges of the score by the classifier.",
    "examples": "The first documents of each score, with the reason of the first judge.",
    "judges": "Requests and tries of each judge, documents with and without a score, and tokens. `Cost uncounted` is "
    "the most that tries without a count of tokens can have cost.",
}


class DistilRun(Run):
    """A finished distillation."""

    @property
    def summary(self) -> str:
        report = self.report
        cost = f", cost {money(report['cost'])}" if report["cost"] is not None else ""
        lines = [
            f"{plural(report['judged'], 'document')} judged of a sample of {count(report['sample'])}{cost}",
            f"classifier: F1 {report['f1']:.3f} ({report['f1_low']:.3f} to {report['f1_high']:.3f}) on "
            f"{plural(report['test'], 'test document')}, "
            f"keeps {report['kept_share']:.1%} at a score of at least {report['min_score']:g}",
        ]
        lines += map(agreement_text, report["agreement"])
        settings: dict[str, Any] = {"classifier": self.results["classifier"]}
        if self.config and self.config.embedding:
            settings["embedding"] = self.config.embedding.model_dump(mode="json", exclude_unset=True)
        elif model := self.manifest["config"].get("embedding"):
            settings["embedding"] = {"endpoint": "...", "name": model["name"]} if isinstance(model, dict) else model
        rule = json.dumps({"judge_score": settings})
        return "\n".join([*lines, f"apply it with `rules` of curate or `validate.rules` of prepare: {rule}"])

    @property
    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """The quality measures of the classifier."""
        names = ("judged", "f1", "f1_low", "f1_high", "precision", "recall", "kept_share", "min_score")
        found = ((name.replace("_", " "), self.report[name]) for name in names)
        return ("what", "number"), [(name, "" if one is None else f"{one:.4g}") for name, one in found]

    @property
    def _results(self) -> dict[str, str]:
        return {name: paths.join(self.uri, name) for name in (_FOLDER, SCORES, SAMPLE)}


class DistilJob(FilesJob[DistilConfig]):
    """A fast classifier of documents, trained on the scores that a model gives a sample of them.

    A second run continues where the first stopped, and sends no answered request again. The rule `judge_score`
    of curate and prepare applies the classifier. Report: OUTPUT/report.html
    """

    kind, run_type = "distil", DistilRun
    page_notes = _PAGE_NOTES

    @cached_property
    def listing(self) -> InputListing:
        listing = list_inputs(self.store, self.config.inputs)
        refuse_output_among_inputs(self.root, listing)
        return listing

    @cached_property
    def judges(self) -> dict[str, GenerateJob]:
        """The run of each judge, with the whole budget of the distillation."""
        return {one.name: GenerateJob(self._config_of(one, self.config.budget)) for one in self.config.judges}

    def _config_of(self, judge: Judge, budget: float | None) -> GenerateConfig:
        config = self.config
        sample = Input(source=SAMPLE, path=paths.join(self.root, SAMPLE), id="id", storage=config.storage)
        return GenerateConfig(
            kind="generate",
            name=f"{config.name}-{judge.name}"[:100],
            inputs=(sample,),
            model=judge.model,
            make=judge.make,
            sampling=judge.sampling,
            dedup=None,
            budget=budget,
            answers=config.answers or paths.join(self.root, ANSWERS),
            output=paths.join(self.root, _JUDGES, judge.name),
            limits=config.limits,
            execution=config.execution,
            storage=config.storage,
        )

    @cached_property
    def people(self) -> dict[str, float]:
        """Document id -> score by people; empty without the setting `people`."""
        return people_scores(self.store, self.config.people, self._most) if self.config.people else {}

    @cached_property
    def embedding_run(self) -> EmbeddingRun:
        """The endpoints for text vectors."""
        return EmbeddingRun.of(self.store, self.root, self.config.name, [*self.config.embedding_models.values()])

    def settings(self) -> dict[str, Any]:
        plain = json.loads(self.config.model_dump_json(exclude=_NO_EFFECT_ON_RESULT, context=DECISIVE))
        if self.config.people:
            plain["people"]["sha256"] = sha256_of(local_file(self.store, self.config.people.path, "people.path"))
        asked = {name: job.settings() for name, job in self.judges.items()}
        of_judge = ("model", "make", "sampling", "template")
        return plain | {"judges": {name: {one: plain[one] for one in of_judge} for name, plain in asked.items()}}

    def variables(self) -> tuple[str, ...]:
        keys = [one.key_env for one in self.config.embedding_models.values() if one.key_env]
        return tuple(dict.fromkeys([*(name for job in self.judges.values() for name in job.variables()), *keys]))

    def must_exist(self) -> tuple[str, ...]:
        return (self.config.people.path,) if self.config.people else ()

    def require_extras(self, *, computes: bool = True) -> None:
        for job in self.judges.values():
            job.require_extras(computes=computes)
        if computes:
            require_models(self.config.embedding_models)

    def check(self, session: Session, replace: bool) -> None:
        self.check_config()
        for job in self.judges.values():
            _ = job.secret

    def check_config(self) -> None:
        """Verify the inputs, the scores of people, the threshold and the templates.

        Raises:
            UserError: one cannot be used.
        """
        _ = self.frozen, self.people
        check_models(self.config.embedding_models, self.store)
        if self._most and self.config.threshold.score > self._most:
            seen = f"{self.config.threshold.score} given, and the rubric has {plural(self._most, 'point')}"
            raise ConfigError.about(Problem.of("threshold.score", seen, "a score that a judge can give"))
        for number, (name, job) in enumerate(self.judges.items()):
            _ = job.asker
            if "score" not in job.template.metadata:
                seen = f"the template of judge {name} makes records without `score`"
                wanted = 'a field of `record` with the score, as in {text: "{{ seed.text }}", score: "{{ score }}"}'
                raise ConfigError.about(Problem.of(f"judges.{number}.make.template", seen, wanted))

    def stages(self, run: RunStageIn) -> dict[str, Artifact]:
        return sample_of(self.config, self.frozen, run)

    def make(self, making: Making) -> Made:
        self.record_inputs()
        for note in self.frozen.notes:  # before anything is paid for
            log.warning("%s", note)
        artifacts = sample_of(self.config, self.frozen, making.run)
        self._refuse_sample(artifacts)
        runs = self._ask(making)
        sample, judged = artifacts[SAMPLE], {name: run.artifact(RECORDS) for name, run in runs.items()}
        artifacts |= making.run(train_stage(self.config, sample, judged, self.people, self._most, self.embedding_run))
        asked = self.embedding_run.close([*self.config.embedding_models.values()])
        measures, written = self._write_classifier(artifacts)
        report = self._report(artifacts, runs, measures) | ({"embeddings": asked} if asked else {})
        if priced := [one["cost"] for one in asked if one["cost"] is not None]:
            report["embedding_cost_per_million"] = priced[0] / report["sample"] * _MILLION
        # Without the judges' runs, whose ledgers have ids of tries: these differ between equal runs.
        digests = digests_of({name: artifacts[name] for name in (SAMPLE, QUARANTINE, SCORES, CLASSIFIER)})
        told = {"F1": f"{report['f1']:.3f}", "min_score": f"{report['min_score']:g}"}
        return Made(report, digests, {"finished": report["finished"], "classifier": written, "told": told})

    def _refuse_sample(self, artifacts: Mapping[str, Artifact]) -> None:
        """Verify that enough documents can be read.

        Raises:
            DataError: too many cannot be, or none is left.
        """
        quarantine = artifacts[QUARANTINE]
        good = readable_documents(quarantine)
        refuse_too_many(self.config.execution.max_bad_documents, good, quarantine, PROBLEMS, "document")
        if not artifacts[SAMPLE].rows:
            raise DataError("inputs: no document has any text. No request was sent.")

    def _ask(self, making: Making) -> dict[str, GenerateRun]:
        """The finished run of each judge."""
        runs: dict[str, GenerateRun] = {}
        for judge, job in zip(self.config.judges, self.judges.values(), strict=True):
            if self.config.budget is not None and len(self.judges) > 1:
                others = sum(
                    other.answers.spending().most(other.config.model.prices)
                    for other in self.judges.values()
                    if other is not job
                )
                # More than 0, so that a judge with stored answers runs even if the budget is spent.
                job = GenerateJob(self._config_of(judge, max(1e-9, self.config.budget - others)))
            # A changed sample replaces the records of the judge; its answers stay in the store.
            try:
                made = job.run(making.session, making.progress, replace=True, verify=making.verify)
            except AskingStopped as error:
                of_others = (
                    " (what the other judges left of `budget`)" if job.config.budget != self.config.budget else ""
                )
                raise AskingStopped(f"judge {judge.name}{of_others}: {error}") from error
            assert isinstance(made, GenerateRun)
            if not made.report["records"]:
                removed = removed_text(made.report["removed"])
                raise DataError(f"judge {judge.name}: gave no score: {removed}. See {made.uri}/removed.")
            runs[judge.name] = made
        return runs

    @property
    def _most(self) -> int:
        """The largest number of points of the rubrics; 0 if a template has no rubric."""
        variables = [job.template.variables | job.config.make.variables for job in self.judges.values()]
        points = [len(one["rubric"]) if isinstance(one.get("rubric"), list) else 0 for one in variables]
        return max(points) if all(points) else 0

    def _write_classifier(self, artifacts: Mapping[str, Artifact]) -> tuple[dict[str, Any], dict[str, tuple[int, str]]]:
        """Write the folder `classifier/`. Returns (measures of the classifier, file name -> (bytes, SHA-256))."""
        (file,) = artifacts[CLASSIFIER].file_uris
        measures = read_slice(self.store, file, 1, json.loads)
        beside = {
            "min_score": measures["min_score"],
            "max_chars": self.config.classifier.max_chars,
            "good_from": self.config.threshold.score,
            "largest_score": measures["most"],
            "f1": measures["f1"],
            "kept_share": measures["kept_share"],
            "judges": [
                {
                    "model": job.config.model.name or job.config.model.path,
                    "revision": job.model.revision,
                    "terms": job.model.terms,
                    "template": hashlib.sha256(template_text(job.template).encode()).hexdigest()[:16],
                }
                for job in self.judges.values()
            ],
        }
        if self.config.embedding:
            beside["embedding"] = self.config.embedding.decisive
        model = HEAD if self.config.embedding else MODEL
        files = {model: read_slice(self.store, file, 0, bytes), THRESHOLD: json_bytes(beside)}
        for name, content in files.items():
            self.store.write_bytes(paths.join(self.root, _FOLDER, name), content)
        written = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()}
        return measures, written

    def _report(
        self, artifacts: Mapping[str, Artifact], runs: Mapping[str, GenerateRun], measures: Mapping[str, Any]
    ) -> dict[str, Any]:
        counters, quarantine = artifacts[QUARANTINE].manifest.counters, artifacts[QUARANTINE]
        (file,) = artifacts[SECONDS].file_uris
        seconds = read_slice(self.store, file, 0, json.loads)
        judges = [_of_judge(name, run.report) for name, run in runs.items()]
        priced = [one["cost"] for one in judges if one["cost"] is not None]
        cost, sample = sum(priced) if priced else None, artifacts[SAMPLE].rows
        warnings = [*self.frozen.notes, *loss_warnings(quarantine_entries(quarantine)), *measures["warnings"]]
        if bad := counters["quarantined"]:
            warnings.append(f"{plural(int(bad), 'document')} could not be read; see `quarantine`.")
        if (lacking := sample - measures["judged"]) >= _LACKING * sample:
            why = [
                f"judge {name} left out {removed_text(run.report['removed'])}, see {_JUDGES}/{name}/removed"
                for name, run in runs.items()
                if run.report["removed"]
            ]
            what = f"{plural(sample, 'document')} have no score" + (", or no vector" if self.config.embedding else "")
            warnings.append(f"{count(lacking)} of {what}{': ' if why else ''}{'; '.join(why)}.")
        if self.config.people and self.people and not self._scored_by_people(artifacts[SCORES]):
            warnings.append(
                f"None of the documents of `people` ({count(len(self.people))}) is in the sample: the column "
                f"{self.config.people.id} needs ids as in the column document of {SAMPLE}/."
            )
        drawn = {name: int(one) for name, one in artifacts[SAMPLE].manifest.counters.items()}
        if (there := drawn["documents"]) < self.config.sample:
            seen = f"{count(there)} of {count(self.config.sample)}"
            warnings.append(f"The sample has {seen} documents: there are no more.")
        shown = {name: one for name, one in measures.items() if name not in ("warnings", "most")}
        return {
            "name": self.config.name,
            "documents": int(counters["documents"]),
            "quarantined": int(counters["quarantined"]),
            "sample": sample,
            "near_duplicates": drawn["near_duplicates"],
            **shown,
            "cost": cost,
            "judge_cost_per_million": None if cost is None else cost / sample * _MILLION,
            "judge_tokens_per_million": round(sum(one["tokens"] for one in judges) / sample * _MILLION),
            **(_speed(seconds) if seconds["score"] else {}),
            "training_seconds": seconds["train"],
            "judges": judges,
            "warnings": warnings,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _scored_by_people(self, scores: Artifact) -> int:
        """Number of documents of the sample with a score by people."""
        return sum(table.num_rows - table["people"].null_count for table in scores.tables(["people"]))

    def page_facts(self, report: dict[str, Any]) -> dict[str, Any]:
        interval = "" if report["f1_low"] is None else f"{report['f1_low']:.3f} to {report['f1_high']:.3f} (95%)"
        good = f"documents with at least {plural(self.config.threshold.score, 'point')}"
        parts = ", ".join(f"{count(report[name])} {name}" for name in ("train", "validation", "test"))
        tiles = {
            "documents": Tile(report["documents"], f"{count(report['quarantined'])} could not be read"),
            "sample": Tile(report["sample"], f"{plural(report['near_duplicates'], 'near-duplicate')} left out"),
            "judged": Tile(report["judged"], parts),
            "f1": Tile(_digits(report["f1"]), interval),
            "precision": Tile(_digits(report["precision"]), f"of {good}"),
            "recall": Tile(_digits(report["recall"]), f"of {good}"),
            "threshold": Tile(f"{report['min_score']:.3f}", "least score by the classifier of documents that stay"),
            "kept_documents": Tile(share(report["kept_share"], 1), "of the test part"),
            "good_documents": Tile(share(report["good_share"], 1), "of those that were judged"),
        }
        if report["cost"] is not None:
            a_million = f"{money(report['judge_cost_per_million'])} a million documents"
            tiles["cost_of_the_judges"] = Tile(money(report["cost"]), a_million)
        if "classifier_documents_per_second" in report:
            speed = f"{count(round(report['classifier_documents_per_second']))} documents a second on a core"
            hours = decimal(report["classifier_core_hours_per_million"])
            tiles["classifier"] = Tile(f"{hours} core hours", f"a million documents; {speed}")
        agreements = [
            {
                "between": one["between"],
                "documents": one["documents"],
                "kappa": _with_interval(one, "kappa", "kappa"),
                "equal_scores": _with_interval(one, "equal_share", "equal"),
            }
            for one in report["agreement"]
        ]
        others = {name: one for name, one in report.items() if name not in _IN_TILES | tiles.keys()}
        return tiles | others | {"agreement": agreements}

    def damage(self, manifest: Mapping[str, Any], compare_sha256: bool) -> dict[str, str]:
        written = {paths.RelativePath(name): (size, sha256) for name, (size, sha256) in manifest["classifier"].items()}
        changed = changed_files(self.store, paths.join(self.root, _FOLDER), written, compare_sha256)
        return super().damage(manifest, compare_sha256) | changed

    def machines(self, seconds: float | None) -> Machines:
        return Machines("cpu", cpus=2, memory=8 * GIB, disk=8 * GIB, largest_task=4 * GIB)

    # Of a dry run

    def about(self) -> Iterator[tuple[str, str]]:
        yield "sample", plural(self.config.sample, "document")
        for name, job in self.judges.items():
            model = job.config.model
            yield "judge", f"{name}: {model_text(model)}"


def _digits(number: float | None) -> str:
    return "–" if number is None else f"{number:.3f}"


def _with_interval(row: Mapping[str, Any], name: str, interval: str) -> str:
    """A measure with its 95% interval: `0.812 (0.755 to 0.861)`."""
    low, high = row[f"{interval}_low"], row[f"{interval}_high"]
    return _digits(row[name]) + ("" if low is None else f" ({low:.3f} to {high:.3f})")


def _speed(seconds: Mapping[str, float]) -> dict[str, float]:
    """The speed of the classifier on one core."""
    return {
        "classifier_core_hours_per_million": seconds["score"] / seconds["scored"] * _MILLION / 3600,
        "classifier_documents_per_second": seconds["scored"] / seconds["score"],
    }


def _of_judge(name: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """A judge as a row of a table."""
    return {
        "judge": name,
        "requests": report["requests"],
        "tries": report["tries"],
        "scored": report["records"],
        "removed": sum(one["count"] for one in report["removed"]),
        "tokens": report["tokens"]["input"] + report["tokens"]["output"],
        "cost": report["cost"] if report["prices"] else None,
        "cost_uncounted": report["cost_uncounted"],
    }
