"""Build report.json from a training's files: steps.jsonl, fit.json, evaluation.json, packing counters, export."""

import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import cluster
from cluster.artifact import Counters
from cluster.dataset_versions import registry_folder, versions_of
from cluster.record import read_json, read_json_line
from cluster.store import paths
from cluster.store.store import Store
from training.config import TrainConfig
from training.config_parts import Model
from training.data.packed import STAGE_ROWS, by_stage
from training.model_folder.loading import Base, loading
from training.pack import overflow
from training.pack.packed_run import PackedRun
from training.records.evaluation import read_evaluation
from training.records.export_manifest import EXPORT, manifest_file
from training.records.job import Job
from training.records.schema import AttemptRecord, Evaluation, GeneratedAnswer, Outcome, StepRecord, damage_lines
from training.report.curves import Log, restarts
from training.report.schema import Fit, TrainReport
from training.report.text import cautions

_ANSWERS = 8
_ANSWER_CHARACTERS = 2000
# Packing counters about documents that are longer than a row.
_OVERFLOW_COUNTERS = (*overflow.COUNTERS, "pieces_without_label")

_NOT_EVALUATED: Evaluation = {
    "before": {}, "after": {}, "best_step": None, "generation": {}, "answers": [], "merged_check": None,
    "notes": [],
}  # fmt: skip


def gather(job: Job, packed: PackedRun, outcome: Outcome) -> TrainReport:
    """The report of one finished training."""
    return _report(job.config, job.root, [fit_of(job, packed, outcome)])


def combine_reports(config: TrainConfig, reports: Sequence[TrainReport]) -> TrainReport:
    """The report of a run of phases, from the phases' reports in order."""
    return _report(config, paths.absolute(config.output), [fit for report in reports for fit in report["fits"]])


def fit_of(job: Job, packed: PackedRun, outcome: Outcome) -> Fit:
    """One training's part of the report."""
    config, log = job.config, Log(_records(job.store, job.step_log))
    files = job.store.list_files(job.attempts)
    attempts: list[AttemptRecord] = [read_json(job.store, file.uri, "the record of an attempt") for file in files]
    evaluation = read_evaluation(job) or _NOT_EVALUATED
    return {
        "name": config.name,
        "output": job.root,
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
        },
        "validation": log.validation,
        "curves": log.curves(),
        "events": restarts(attempts, outcome["skipped"]),
        "damaged_checkpoints": [line for attempt in attempts for line in damage_lines(attempt)],
        "rows": log.rows(),
        "corpora": [
            _corpus(job.store, name, corpus.path, packed, config.sequence_length)
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
        "folders": _folders(job, packed),
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


def _records(store: Store, uri: str) -> Iterator[StepRecord]:
    """The records of steps.jsonl, read one at a time, since a million steps are 300 MB."""
    if not store.exists(uri):
        return
    with store.open_input(uri) as file:
        for line in io.BufferedReader(file):  # type: ignore[type-var]
            if line.strip():
                yield read_json_line(line, uri)


def _first_answers(answers: Sequence[GeneratedAnswer]) -> Iterator[dict[str, Any]]:
    """The first answers of the held-out split, and of each of `evaluate.sets`, with their texts cut."""
    of_set: dict[str | None, list[GeneratedAnswer]] = {}
    for answer in answers:
        of_set.setdefault(answer.get("set"), []).append(answer)
    for answer in (answer for found in of_set.values() for answer in found[:_ANSWERS]):
        texts = {key: answer[key] for key in ("prompt", "reference", "generated")}  # type: ignore[literal-required]
        yield answer | {key: words[:_ANSWER_CHARACTERS] + "…" * (len(words) > _ANSWER_CHARACTERS)
                        for key, words in texts.items()}  # fmt: skip


def _recipe(config: TrainConfig, attempts: Sequence[AttemptRecord]) -> dict[str, Any]:
    method: str = config.method
    if method in ("lora", "qlora"):
        method += f", rank {config.lora.rank}, alpha {config.lora.alpha:g}"
    elif method in ("prefix", "prompt"):
        method += f", {getattr(config, method).tokens} virtual tokens"
    return {
        "base_model": _base_model(config.model),
        "method": method,
        "engine": config.engine if config.offload == "none" else f"{config.engine}, {config.offload} offloaded",
        "precision": "bf16" if config.bf16 else "float32",
        "attention": " and ".join(sorted({attempt["attention"] for attempt in attempts})),
        "attention_warning": next((one for attempt in attempts if (one := attempt["attention_warning"])), None),
        "sequence_length": config.sequence_length,
        "tokens_per_step": config.tokens_per_step,
        "order": config.order,
    }


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
        "tokenised": overflow.totals(read),
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


def _folders(job: Job, packed: PackedRun) -> list[dict[str, Any]]:
    root = paths.join(job.root, EXPORT)
    manifest = manifest_file(job.store, root).read()
    if manifest is None:
        return []
    name, revision = manifest["base"]["name"] or "", manifest["base"]["revision"]
    chat = packed.has_chat_turns({one.form for one in job.config.all_columns})
    base = Base(name, revision, "../base" if "base" in manifest["folders"] else None)
    return [
        {
            "kind": kind,
            "uri": paths.join(root, kind),
            "bytes": sum(file["bytes"] for file in manifest["files"] if file["path"].startswith(f"{kind}/")),
            "code": loading(kind, base, chat),
        }
        for kind in manifest["folders"]
    ]
