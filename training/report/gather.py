"""Build report.json from a training's files: steps.jsonl, fit.json, evaluation.json, packing counters, export.

Curves have a bounded number of points. REPORT is the schema: a key that ends with `?` is missing in reports of earlier
versions or where nothing is to say; a part that is off is empty or null. Steps count from 1; step 0 is the state before
training. Losses are means over label tokens, in nats. Times are in seconds.
"""

import math
import statistics
from array import array
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from raymill import cluster
from raymill.cluster.artifact import Counters
from raymill.cluster.dataset_versions import registry_folder, versions_of
from raymill.cluster.record import read_json
from raymill.cluster.report.charts import Point, thinned
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Model
from raymill.training.data.packed import STAGE_ROWS, by_stage
from raymill.training.model_folder.loading import Base, loading
from raymill.training.objectives import PAIR_MEASURES, SAMPLE_MEASURES, UPDATE_MEASURES
from raymill.training.pack import summary
from raymill.training.pack.packed_run import PackedRun
from raymill.training.records.finished import EXPORT, export_file, read_evaluation
from raymill.training.records.job import Job, TrainingFolder
from raymill.training.records.schema import (
    Evaluation,
    GeneratedAnswer,
    Outcome,
    StartRecord,
    StepRecord,
    damage_lines,
    read_steps,
)
from raymill.training.report.text import Fit, TrainReport, cautions

_POINTS = [tuple]  # (step, value); long curves have the lowest and highest point of some hundred columns
_CURVES = ("loss", "loss_smooth", "learning_rate", "grad_norm", "tokens_per_s", "memory_gib", "data_wait")
_OF_ANSWERS = (*PAIR_MEASURES, *UPDATE_MEASURES, *SAMPLE_MEASURES)  # curves of objectives of answers
_MEASURED = {
    "loss": float, "perplexity": float, "accuracy": float, "label_tokens": int,
    **dict.fromkeys((f"{name}?" for name in PAIR_MEASURES), float),
}  # fmt: skip
_ANSWER = {"document": str, "prompt": str, "reference": str, "generated": str, "set?": str, "confidence?": float}

_CORPUS = {
    "name": str, "path": str,
    "passed_over?": str,  # a sentence about the files that were not read
    "documents": int,  # those that became examples
    "text_bytes": int,
    "left_out": dict[str, int],  # the other documents, by reason, before packing
    "first_left_out?": dict[str, str],  # position of one of these, by reason
    "tokenised": dict[str, int],  # examples, tokens and label tokens of all splits before packing
    "packing": dict[str, int],  # counts of examples longer than a row, by what was done with them
    "turns?": dict[str, int],  # assistant turns, and those that are not trained on
    # As packed. filled: fraction of the rows' positions that hold a token.
    "splits": [{"split": str, "documents": int, "rows": int, "tokens": int, "label_tokens": int, "filled": float}],
    "stages?": dict[str, int],  # of a curriculum, with the rows to train on, the easiest first
    # A data set of `raymill prepare`. name: in its config. versions: NAME:VERSION of those tagged with its digest when
    # the report was made, the oldest first. report: URI of the page of its report.
    "prepared?": {"name": str, "versions": [str], "digest": str, "report": str},
}  # fmt: skip

FIT = {
    "name": str, "output": str,
    # base_model: a name, or a description of a randomly initialised model. attention_warning: see
    # raymill.training.records.schema.StartRecord. order: of the examples.
    "recipe": {
        "base_model": str, "method": str, "engine": str, "precision": str, "attention": str,
        "attention_warning": str | None, "sequence_length": int, "tokens_per_step": int, "order?": str,
        "objective?": str,
    },
    "continues?": [str],  # lines about the run that this one continues
    # unlogged_steps: steps taken but missing in steps.jsonl. tokens: without padding. tokens_per_s, mfu: medians over
    # steps; null if not measured. compile_s, validation_s: the parts of `seconds` in torch.compile and in validation.
    # steps_without_spread: of objective grpo, steps that trained nothing, as each group's answers had one reward;
    # rewards_missing: sampled answers that a judge or a function of the user gave no reward.
    "totals": {
        "steps": int, "planned_steps": int, "unlogged_steps": int, "tokens": int, "label_tokens": int,
        "seconds": float, "tokens_per_s": float | None, "mfu": float | None, "compile_s": float, "validation_s": float,
        "workers": [int], "trainable_parameters": int, "all_parameters": int, "steps_without_spread?": int,
        "rewards_missing?": int,
    },
    "validation": [{"step": int, **_MEASURED}],  # after `step` steps
    # Of objective grpo, at each validation: the mean reward of greedy answers to held-out prompts; of the steps since
    # the one before, the mean reward of the sampled answers and the divergence from the base, null if not measured.
    "rewards?": [{"step": int, "validation": float, "sampled": float | None, "kl": float | None}],
    "judges?": [dict[str, Any]],  # of objective grpo: setting, model, tries, tokens and cost of each
    "curves": dict.fromkeys(_CURVES, _POINTS) | dict.fromkeys((f"{name}?" for name in _OF_ANSWERS), _POINTS),
    "events": [{"step": int, "words": str}],  # a restart of the workers after `step`, or a step that was skipped
    "damaged_checkpoints": [str],  # a sentence for each that could not be read, with the steps that were repeated
    # The worker whose forward passes were the slowest in most steps. ratio: their median time to the median worker's.
    "slow_worker?": {"rank": int, "share": float, "ratio": float},
    "rows": [{"step": int, **dict.fromkeys(_CURVES, float | None)}],  # the table of numbers beside the curves
    "corpora": [_CORPUS],
    "before": dict[str, dict], "after": dict[str, dict],  # split -> loss, perplexity, accuracy, label_tokens
    "best_step": int | None, "ended": str,
    "unmoved": [str],  # names of trained matrices that did not change
    "generation": dict[str, float], "set_generation?": dict[str, dict],
    "answers": [_ANSWER],
    "merged_check": dict[str, Any] | None,
    "evaluation_notes": [str],  # sentences about what was not measured
    # kind: see export/job.py. code: Python that loads it, to be run in the folder.
    "folders": [{"kind": str, "uri": str, "bytes": int, "code": str}],
}  # fmt: skip

REPORT = {
    "schema": int,  # 1
    # finished: ISO 8601 with offset. config: JSON values without secrets.
    "run": {
        "name": str, "kind": str, "output": str, "version": str, "finished": str, "config": dict[str, Any],
    },
    "fits": [FIT],
    "warnings": [str],
}  # fmt: skip

_ANSWERS = 8
_ANSWER_CHARACTERS = 2000
# Packing counters about documents that are longer than a row.
_OVERFLOW_COUNTERS = (*summary.COUNTERS, "pieces_without_label")

_NOT_EVALUATED: Evaluation = {
    "before": {}, "after": {}, "best_step": None, "generation": {}, "answers": [], "merged_check": None,
    "notes": [],
}  # fmt: skip


def gather(job: Job, packed: PackedRun, outcome: Outcome) -> TrainReport:
    """The report of one finished training."""
    return _report(job.config, job.folder.uri, [fit_of(job, packed, outcome)])


def combine_reports(config: TrainConfig, reports: Sequence[TrainReport]) -> TrainReport:
    """The report of a run of phases, from the phases' reports in order."""
    return _report(config, paths.absolute(config.output), [fit for report in reports for fit in report["fits"]])


def fit_of(job: Job, packed: PackedRun, outcome: Outcome) -> Fit:
    """One training's part of the report."""
    config, run = job.config, job.folder
    log = Log(read_steps(run.store, run.step_log))
    files = run.store.list_files(run.attempts)
    attempts: list[StartRecord] = [
        read_json(run.store, file.uri, "the record of a start", kind=StartRecord) for file in files
    ]
    evaluation = read_evaluation(run) or _NOT_EVALUATED
    return {
        "name": config.name,
        "output": run.uri,
        "recipe": _recipe(config, attempts),
        "continues": list(job.parent.words) if job.parent else [],
        "totals": {
            "steps": outcome["steps"],
            "planned_steps": job.steps,
            "unlogged_steps": max(0, outcome["steps"] - len(outcome["skipped"]) - log.lines),
            "tokens": log.tokens,
            "label_tokens": log.label_tokens,
            "seconds": outcome["seconds"],
            "tokens_per_s": log.median("tokens_per_s"),
            "mfu": log.median("mfu"),
            "compile_s": log.compile_s,
            "validation_s": log.validation_s,
            "workers": sorted(set(log.workers)),
            "trainable_parameters": outcome["trainable_parameters"],
            "all_parameters": outcome["all_parameters"],
            **({"steps_without_spread": log.without_spread} if log.without_spread else {}),
            **({"rewards_missing": log.rewards_missing} if log.rewards_missing else {}),
        },
        "validation": log.validation,
        **({"rewards": log.rewards} if config.objective == "grpo" else {}),
        "curves": log.curves(),
        "events": restarts(attempts, outcome["skipped"]),
        "damaged_checkpoints": [line for attempt in attempts for line in damage_lines(attempt)],
        **({"slow_worker": slow} if (slow := log.slow_worker()) else {}),
        "rows": log.rows(),
        "corpora": [
            _corpus(run.store, name, corpus.path, packed, config.sequence_length)
            for name, corpus in zip(config.corpus_names, config.corpus, strict=True)
        ],
        "before": evaluation["before"],
        "after": evaluation["after"],
        "best_step": outcome["best_step"],
        "ended": outcome["ended"],
        "unmoved": outcome["unmoved"],
        "generation": evaluation["generation"],
        "set_generation": evaluation.get("set_generation", {}),
        "answers": list(_first_answers(evaluation["answers"])),
        "merged_check": evaluation["merged_check"],
        "evaluation_notes": evaluation.get("notes", []),
        "folders": _folders(run, packed.has_chat_turns(config.forms), config.objective == "reward"),
    }


def _report(config: TrainConfig, root: str, fits: list[Fit]) -> TrainReport:
    run = {
        "name": config.name,
        "kind": config.kind,
        "output": root,
        "version": cluster.__version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        # The addresses of trackers and stores may contain a password.
        "config": config.without_stores({"track"}, exclude_none=True),
    }
    named = [(fit["name"], words) for fit in fits for words in cautions(fit)]
    warnings = [words if len(fits) == 1 else f"{name}: {words}" for name, words in named]
    return {"schema": 1, "run": run, "fits": fits, "warnings": warnings}


def _first_answers(answers: Sequence[GeneratedAnswer]) -> Iterator[dict[str, Any]]:
    """The first answers of the held-out split, and of each of `evaluate.sets`, with their texts cut."""
    of_set: dict[str | None, list[GeneratedAnswer]] = {}
    for answer in answers:
        of_set.setdefault(answer.get("set"), []).append(answer)
    for answer in (answer for found in of_set.values() for answer in found[:_ANSWERS]):
        texts = {key: answer[key] for key in ("prompt", "reference", "generated")}  # type: ignore[literal-required]
        yield answer | {key: words[:_ANSWER_CHARACTERS] + "…" * (len(words) > _ANSWER_CHARACTERS)
                        for key, words in texts.items()}  # fmt: skip


def _recipe(config: TrainConfig, attempts: Sequence[StartRecord]) -> dict[str, Any]:
    return {
        "base_model": _base_model(config.model),
        "method": config.training_method.description(config),
        "engine": config.engine if config.offload == "none" else f"{config.engine}, {config.offload} offloaded",
        "precision": config.number_type,
        "attention": " and ".join(sorted({attempt["attention"] for attempt in attempts})),
        "attention_warning": next((one for attempt in attempts if (one := attempt["attention_warning"])), None),
        "sequence_length": config.sequence_length,
        "tokens_per_step": config.tokens_per_step,
        "order": config.order,
    } | ({"objective": config.objective} if config.objective != "sft" else {})


def _base_model(model: Model) -> str:
    if model.name is not None:
        return model.name + (f", revision {model.revision}" if model.revision else "")
    settings: dict[str, Any] = model.config or {}
    sizes = [f"{word} {settings[key]}" for key, word in (("hidden_size", "hidden"), ("num_hidden_layers", "layers"),
             ("vocab_size", "vocabulary")) if key in settings]  # fmt: skip
    return ", ".join([f"{settings['model_type']} with random weights", *sizes])


def _corpus(store: Store, name: str, path: str, packed: PackedRun, length: int) -> dict[str, Any]:
    read, counted = packed.tokenised(name), packed.packed(name)
    corpus: dict[str, Any] = {
        "name": name,
        "passed_over": packed.passed_over.get(name, ""),
        "path": path,
        "documents": int(read.get("documents", 0)),
        "text_bytes": int(read.get("text_bytes", 0)),
        "left_out": {
            key.removeprefix("left_out/"): int(value)
            for key, value in sorted(read.items())
            if key.startswith("left_out/") and value
        },
        "first_left_out": summary.first_left_out(read),
        "tokenised": summary.totals(read),
        "packing": {key: int(counted[key]) for key in _OVERFLOW_COUNTERS if counted.get(key)},
        "turns": {key: int(value) for key, value in sorted(read.items()) if value and "turns" in key},
        "splits": [_split(split, counted, length) for split in packed.corpora[name]],
        "stages": {str(stage): rows for stage, rows in by_stage(counted, STAGE_ROWS).items()},
    }
    if (found := packed.prepared.get(name)) is not None:
        versions = versions_of(store, registry_folder(), found.digest)
        corpus["prepared"] = {
            "name": found.name, "versions": versions, "digest": found.digest, "report": found.report,
        }  # fmt: skip
    return corpus


def _split(split: str, counted: Counters, length: int) -> dict[str, Any]:
    counts = {what: int(counted.get(f"{what}/{split}", 0)) for what in ("documents", "rows", "tokens", "label_tokens")}
    rows = counts["rows"]
    return {"split": split, **counts, "filled": counts["tokens"] / (rows * length) if rows else 0.0}


def _folders(run: TrainingFolder, chat: bool, scores: bool) -> list[dict[str, Any]]:
    root = paths.join(run.uri, EXPORT)
    manifest = export_file(run.store, root).read()
    if manifest is None:
        return []
    name, revision = manifest["base"]["name"] or "", manifest["base"]["revision"]
    base = Base(name, revision, "../base" if "base" in manifest["folders"] else None)
    return [
        {
            "kind": kind,
            "uri": paths.join(root, kind),
            "bytes": sum(file["bytes"] for file in manifest["files"] if file["path"].startswith(f"{kind}/")),
            "code": loading(kind, base, chat, scores),
        }
        for kind in manifest["folders"]
    ]


_TABLE_ROWS = 20
_SMOOTHING_FRACTION = 1 / 40  # of the run: the time constant of the smoothed curve
_VALUES = (
    *("loss", "grad_norm", "learning_rate", "tokens_per_s", "memory_gib", "data_wait", "mfu"),
    *_OF_ANSWERS,
)


class Log:
    """The steps of a run by column; 80 MB for a million steps. Values that were not measured are NaN."""

    def __init__(self, records: Iterable[StepRecord]) -> None:
        self.steps, self.workers = array("q"), array("i")
        self.values = {name: array("d") for name in _VALUES}
        self.validation: list[dict[str, Any]] = []
        self.tokens = self.label_tokens = self.lines = self.without_spread = self.rewards_missing = 0
        self.compile_s = self.validation_s = 0.0
        self.rewards: list[dict[str, Any]] = []  # at each validation
        since: dict[str, list[float]] = {"reward_mean": [], "kl": []}  # of the steps after the last one
        self.slowest: dict[int, array] = {}  # rank -> its time / the median worker's, of each step in which it was last
        for record in records:
            self.lines += record["step"] > 0
            self.rewards_missing += int(record.get("rewards_missing", 0))
            self.compile_s += record.get("compile_s", 0.0)
            self.validation_s += record.get("validation_s", 0.0)
            for name, values_since in since.items():
                if (one := record.get(name)) is not None:
                    values_since.append(float(one))  # type: ignore[arg-type]
            if (measured := record.get("validation")) is not None:
                self.validation.append({"step": record["step"], **measured})
                sampled, kl = (statistics.fmean(found) if found else None for found in since.values())
                reward = 0.0 - measured["loss"]
                self.rewards.append({"step": record["step"], "validation": reward, "sampled": sampled, "kl": kl})
                since = {name: [] for name in since}
            if "loss" not in record:
                self.without_spread += "groups_without_spread" in record
                continue
            if record.get("median_forward_s"):
                ratio = record["forward_s"] / record["median_forward_s"]
                self.slowest.setdefault(record["slowest_rank"], array("d")).append(ratio)
            self.steps.append(record["step"])
            self.workers.append(record["workers"])
            self.tokens += record.get("tokens", 0)
            self.label_tokens += record.get("label_tokens", 0)
            seconds, waited = record.get("seconds"), record.get("data_wait_s")
            share = waited / seconds if seconds and waited is not None else None  # of the step, waiting for a batch
            values = dict(record) | {"data_wait": share}
            for name, column in self.values.items():
                value = values.get(name)
                column.append(math.nan if value is None else float(value))  # type: ignore[arg-type]
        self.columns = {**self.values, "loss_smooth": _smoothed(self.values["loss"])}

    def median(self, name: str) -> float | None:
        """The median of the measured values of a column; None if there are none."""
        found = [value for value in self.values[name] if math.isfinite(value)]
        return statistics.median(found) if found else None

    def slow_worker(self) -> dict[str, Any] | None:
        """The worker that was the slowest in most steps: its rank, the share of these steps, and its median ratio."""
        if not self.slowest:
            return None
        rank, ratios = max(self.slowest.items(), key=lambda found: len(found[1]))
        steps = sum(map(len, self.slowest.values()))
        return {"rank": rank, "share": len(ratios) / steps, "ratio": statistics.median(ratios)}

    def curves(self) -> dict[str, list[Point]]:
        """The curves of the report. Six digits are enough for a drawing and take half the bytes."""
        return {
            name: [
                (step, float(f"{value:.6g}"))
                for step, value in thinned(zip(self.steps, self.columns[name], strict=True))
            ]
            for name in (*_CURVES, *_OF_ANSWERS)
            if name in _CURVES or not all(map(math.isnan, self.columns[name]))
        }

    def rows(self) -> list[dict[str, Any]]:
        """At most 20 steps, evenly spaced, with the first and the last."""
        last = len(self.steps) - 1
        places = sorted({round(last * n / (_TABLE_ROWS - 1)) for n in range(_TABLE_ROWS)}) if last >= 0 else []
        rows = []
        for place in places:
            values = {name: self.columns[name][place] for name in _CURVES}
            finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
            rows.append({"step": self.steps[place], **finite})
        return rows


def restarts(attempts: Sequence[StartRecord], skipped: Sequence[int]) -> list[dict[str, Any]]:
    """The restarts and skipped steps of a run, by step. attempts: all starts of the workers, with the first."""
    found: list[dict[str, Any]] = []
    ordered = sorted(attempts, key=lambda attempt: attempt["time"])
    for before, attempt in pairwise(ordered):
        was, now = before["workers"], attempt["workers"]
        words = "restart" if was == now else f"{was} → {now} workers"
        found.append({"step": attempt["step"], "words": words})
    found += [{"step": step, "words": "skipped"} for step in skipped]
    return sorted(found, key=lambda event: event["step"])


def _smoothed(values: Sequence[float]) -> array:
    """Exponential moving average over a fortieth of the run (time constant). Values that are not finite are ignored."""
    keep = math.exp(-1 / max(1.0, len(values) * _SMOOTHING_FRACTION))
    total = weight = 0.0
    out = array("d")
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        out.append(total / weight if weight else math.nan)
    return out
