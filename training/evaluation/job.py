"""Evaluation of a run's weights on held-out documents; written to evaluation.json.

The losses before and after training are those that all workers measured inside of the fit (data/held_out.py). Answers
are generated, and classes predicted, in one process, which has the model, one row group and one micro-batch in memory.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.run import RunFolder
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Form, Generate
from raymill.training.data.batch import Batch, collate
from raymill.training.data.held_out import AFTER, BEFORE, HeldOutRecord, HeldOutRows, held_out_rows
from raymill.training.data.packed import NO_TARGET, PackedRows, RowBounds
from raymill.training.evaluation.generate import Prompt, complete_prompts, held_out_prompts, stop_ids
from raymill.training.evaluation.scores import classification, custom_scores, f1_by_class, scores
from raymill.training.fit.checkpoint import fill
from raymill.training.fit.memory import is_out_of_memory
from raymill.training.models.attention import choose_attention
from raymill.training.models.base import named_config
from raymill.training.models.build import build_objective
from raymill.training.models.objective import Objective, RowClassifier
from raymill.training.pack.packed_run import PackedRun
from raymill.training.records.checkpoint import Checkpoint, problem
from raymill.training.records.finished import (
    MergedCheck,
    evaluation_fingerprint,
    exported_checkpoint,
    read_evaluation,
    write_evaluation,
)
from raymill.training.records.job import Job
from raymill.training.records.schema import NOT_ENDED, Evaluation, GeneratedAnswer, Measured, Outcome, measured
from raymill.training.tokenizer.load_tokenizer import load_tokenizer, pad_id

_BATCH_TOKENS = 8192
_MOST_PREDICTIONS = 10_000  # of a classifier, in evaluation.json
_SCORED = ("input_ids", "position_ids", "starts", "ends")


def evaluate(job: Job, outcome: Outcome, packed: PackedRun, merged_check: MergedCheck | None = None) -> Evaluation:
    """Take the losses before and after training from the fit, generate and score answers, and write evaluation.json.

    If there is a finished evaluation of the same weights, it is returned. If the process runs out of memory, what
    needs the whole model is left out, and `notes` has a sentence about it.
    """
    made_from = evaluation_fingerprint(job, outcome)
    if (found := read_evaluation(job.folder, made_from)) is not None:
        return found
    before = HeldOutRecord(job, BEFORE).read()
    after = HeldOutRecord(job, AFTER, exported_checkpoint(job.folder.uri, outcome)).read()
    held_out = held_out_rows(job.config, packed)
    evaluation: Evaluation = {
        "before": before or {}, "after": after or {}, "best_step": outcome["best_step"], "generation": {},
        "answers": [], "merged_check": dict(merged_check) if merged_check else None,
        "notes": [note for one in held_out.values() for note in one.notes],
    }  # fmt: skip
    if before is None or after is None or job.config.generate or job.config.training_method.classifies:
        try:
            _add_by_model(evaluation, job, outcome, packed, held_out, (before is None, after is None))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            missing = [
                words
                for words, is_missing in (
                    ("no held-out documents were measured before training", before is None),
                    ("no held-out documents were measured after training", after is None),
                    ("no answers were generated", bool(job.config.generate)),
                    ("no classes were predicted", job.config.training_method.classifies),
                )
                if is_missing
            ]
            evaluation["notes"].append(
                f"Because the whole model, which one worker needs for it, does not fit its memory, "
                f"{' and '.join(missing)}. The weights are exported."
            )
    write_evaluation(job.folder, evaluation, made_from)
    return evaluation


def _add_by_model(
    evaluation: Evaluation,
    job: Job,
    outcome: Outcome,
    packed: PackedRun,
    held_out: Mapping[str, HeldOutRows],
    missing: tuple[bool, bool],
) -> None:
    """Add what one process computes with the whole model: answers and predicted classes.

    missing: whether the losses before and after training are added too. They are missing if the fit was of an earlier
    version, or if `test_tokens` or the sets were changed since it began.
    """
    config, rows_at_once = job.config, job.config.micro_batch
    tokenizer = load_tokenizer(packed.store, packed.tokenizer_uri)
    pad = pad_id(tokenizer)
    device = torch.device("cuda" if config.workers.gpus_each and torch.cuda.is_available() else "cpu")
    objective = initial_objective(job, device)
    bounds = job.row_bounds(len(objective.model.get_input_embeddings().weight))

    def measured_all() -> dict[str, Measured]:
        found = {
            name: measure(objective, one.tables(bounds), rows_at_once, pad, device) for name, one in held_out.items()
        }
        return {name: one for name, one in found.items() if one}

    if any(missing) and config.objective != "sft":
        evaluation["notes"].append(
            "Held-out answers were not measured, because the training itself measures them and `evaluate` was changed "
            "after it began."
        )
        missing = (False, False)
    if missing[0] and job.parent is None:
        with objective.as_base_model():
            evaluation["before"] = measured_all()
    elif missing[0]:
        assert job.parent is not None
        try:
            fill(objective, Checkpoint.load(job.folder.store, job.parent.checkpoint))
        except DataError:  # that run may be deleted once this one has a checkpoint
            run = job.parent.run
            evaluation["notes"].append(
                f"The loss before training was not measured: the checkpoint of the run {run} is gone or damaged."
            )
        else:
            evaluation["before"] = measured_all()
    load_trained(objective, job.folder, outcome)
    if missing[1]:
        evaluation["after"] = measured_all()
    for name, one in held_out.items():
        scored, answers = dict[str, float](), list[GeneratedAnswer]()
        if isinstance(objective, RowClassifier):
            true, predicted, confidences = predictions(objective, one.tables(bounds), rows_at_once, pad, device)
            if true:
                answers = class_answers(one.tables(bounds), tokenizer, job.classes, predicted, confidences)
                by_name = [[job.classes[index] for index in side] for side in (true, predicted)]
                scored = classification(*by_name) | f1_by_class(true, predicted, job.classes)
        elif config.generate:
            scored, answers = generate_and_score(objective, config, one.artifacts, one.forms, tokenizer, bounds)
        if name not in packed.sets:
            evaluation["generation"] = scored
            evaluation["answers"] += answers
        elif scored:
            evaluation.setdefault("set_generation", {})[name] = scored
            evaluation["answers"] += [answer | {"set": name} for answer in answers]  # type: ignore[typeddict-item]
    if config.generate and not config.training_method.classifies and not evaluation["answers"]:
        evaluation["notes"].append("No answers were generated (`generate`), because no held-out document has a prompt.")


def initial_objective(job: Job, device: torch.device | str = "cpu", **changes: Any) -> Objective:
    """The objective of a run in one process, in eval mode, with the weights of step 0.

    It is not compiled, has no activation checkpointing, and has an attention implementation that can generate. changes:
    settings that replace those of the config.
    """
    # The attention of `auto` on a CPU supports a key-value cache and padding; `varlen` supports neither.
    attention = choose_attention("auto", named_config(job.folder.store, job.config.model), "cpu", False, False)
    settings = {"attention": attention, "compile": False, "activation_checkpointing": False} | changes
    return build_objective(job.config.model_copy(update=settings), len(job.classes), device=device).eval()


def load_trained(module: nn.Module, run: RunFolder, outcome: Outcome) -> None:
    """Load the weights that the run exports: those with the best validation loss, or without validation the last ones.

    Raises:
        DataError: their checkpoint is damaged.
    """
    with trained_checkpoint(run, outcome) as checkpoint:
        fill(module, checkpoint)


@contextmanager
def trained_checkpoint(run: RunFolder, outcome: Outcome) -> Iterator[Checkpoint]:
    """The checkpoint of the weights that the run exports, while they are read.

    Raises:
        DataError: it is damaged; of a training that has ended, the message says what to do.
    """
    uri = exported_checkpoint(run.uri, outcome)
    try:
        yield Checkpoint.load(run.store, uri)
    except DataError as error:
        if outcome["ended"] == NOT_ENDED:
            raise
        which = "with the best validation loss" if outcome["best_checkpoint"] else "of the last step"
        raise DataError(
            f"{uri}: the checkpoint {which} of this training is damaged, so its weights cannot be evaluated "
            f"or exported ({problem(error)}). Restore its files from a copy and run the same command again, or train "
            "again from step 0: `raymill train CONFIG --replace`."
        ) from error


def generate_and_score(
    objective: Any,
    config: TrainConfig,
    artifacts: Mapping[str, Artifact],
    forms: Mapping[str, Form],
    tokenizer: Any,
    bounds: RowBounds,
) -> tuple[dict[str, float], list[GeneratedAnswer]]:
    """(scores by name, answers) of greedy generation on held-out prompts from every corpus. forms: by corpus."""
    assert config.generate is not None
    virtual = getattr(config, config.method).tokens if config.training_method.virtual else 0
    # Some configs do not state the number of positions.
    positions = getattr(objective.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    room = positions - virtual
    new_tokens = min(config.generate.max_new_tokens, room - 1)
    labelled = config.objective == "kto"
    prompts = prompts_of(artifacts, forms, config.generate, new_tokens, config.sequence_length, bounds, labelled)
    device_type = next(objective.parameters()).device.type
    with torch.autocast(device_type, torch.bfloat16, enabled=config.bf16):
        completions = complete_prompts(
            objective.model,
            [prompt.ids[-(room - new_tokens) :] for prompt in prompts],
            new_tokens,
            stop_ids(tokenizer),
            pad_id(tokenizer),
            padded=not virtual,
        )
    answers: list[GeneratedAnswer] = [
        {
            "document": prompt.document,
            "prompt": tokenizer.decode(prompt.ids),
            "reference": tokenizer.decode(prompt.reference, skip_special_tokens=True).strip(),
            "generated": tokenizer.decode(ids, skip_special_tokens=True).strip(),
        }
        for prompt, ids in zip(prompts, completions, strict=True)
    ]
    pairs = [answer["reference"] for answer in answers], [answer["generated"] for answer in answers]
    found = scores(*pairs, config.generate.answer, config.generate.decimal_mark)
    return found | custom_scores([one.loaded() for one in config.generate.custom], answers), answers


def prompts_of(
    artifacts: Mapping[str, Artifact],
    forms: Mapping[str, Form],
    settings: Generate,
    new_tokens: int,
    length: int,
    bounds: RowBounds,
    labelled: bool = False,
) -> list[Prompt]:
    """At most `settings.prompts` held-out prompts, equally many of each corpus; the first corpora may have one more.

    Args:
        artifacts, forms: by name of the corpus. new_tokens: of an answer. length: tokens of a row.
    """
    found = []
    for number, (name, artifact) in enumerate(artifacts.items()):
        share = (settings.prompts - number + len(artifacts) - 1) // len(artifacts)
        rows = PackedRows(artifact, bounds=bounds)
        found += held_out_prompts(
            rows, artifact.tables(["documents"]), forms[name], share, settings.prompt_tokens, new_tokens,
            length, labelled,
        )  # fmt: skip
        rows.close()
    return found


def measure(
    objective: Objective, tables: Iterable[pa.Table], rows: int | None, pad: int, device: torch.device
) -> Measured | None:
    """Mean loss and accuracy over all targets of the tables (schema PACKED); None if nothing has a target.

    One table is in memory at a time. The result does not depend on how rows are batched.

    Args:
        rows: of a micro-batch; None: as many as have about 8,192 positions together. pad: token id of padding.
    """
    objective.eval()
    loss = correct = denominator = 0.0
    labels = 0
    with torch.inference_mode():
        for batch in batches(tables, rows, pad):
            batch_loss, batch_correct = objective(**objective.tensors(batch, device))
            loss += float(batch_loss)
            correct += int(batch_correct)
            denominator += objective.loss_denominator(batch)
            labels += objective.label_count(batch)
    return measured(loss, correct, denominator, labels)


def predictions(
    classifier: RowClassifier, tables: Iterable[pa.Table], rows: int | None, pad: int, device: torch.device
) -> tuple[list[int], list[int], list[float]]:
    """(true classes, predicted classes, probabilities of these) of all rows that have a class; classes are indices.

    Arguments: see `measure`.
    """
    true: list[int] = []
    predicted: list[int] = []
    confidences: list[float] = []
    for batch, probabilities in class_probabilities(classifier, tables, rows, pad, device):
        known = batch.classes != NO_TARGET
        true += batch.classes[known].tolist()
        predicted += probabilities.argmax(axis=1)[known].tolist()
        confidences += probabilities.max(axis=1)[known].tolist()
    return true, predicted, confidences


def class_probabilities(
    classifier: RowClassifier, tables: Iterable[pa.Table], rows: int | None, pad: int, device: torch.device
) -> Iterator[tuple[Batch, np.ndarray]]:
    """(micro-batch, probability of each class of its rows, float32[B, C]). Arguments: see `measure`."""
    for batch in batches(tables, rows, pad):
        with torch.inference_mode():
            tensors = classifier.tensors(batch, device)
            scores = classifier.scores(*(tensors[name] for name in _SCORED)).float().softmax(-1)
        yield batch, scores.cpu().numpy()


def class_answers(
    tables: Iterable[pa.Table],
    tokenizer: Any,
    classes: Sequence[str],
    predicted: Sequence[int],
    confidences: Sequence[float],
) -> list[GeneratedAnswer]:
    """The predictions of the first 10,000 rows that have a class, as answers. Arguments: see `predictions`."""
    rows = (row for table in tables for row in table.filter(table["label"].is_valid()).to_pylist())
    return [
        {
            "document": row["documents"][0],
            "prompt": tokenizer.decode(row["ids"], skip_special_tokens=True).strip(),
            "reference": classes[row["label"]],
            "generated": classes[best],
            "confidence": round(confidence, 4),
        }
        for _, row, best, confidence in zip(range(_MOST_PREDICTIONS), rows, predicted, confidences, strict=False)
    ]


def batches(tables: Iterable[pa.Table], rows: int | None, pad: int) -> Iterator[Batch]:
    """Micro-batches of the tables' rows, in order, each padded to its longest row. Arguments: see `measure`."""
    for table in tables:
        if not table.num_rows:
            continue
        sizes = pc.list_value_length(table["ids"]).to_pylist()
        count = rows or max(1, _BATCH_TOKENS // max(1, *sizes))
        for start in range(0, table.num_rows, count):
            part = table.slice(start, count)
            yield collate([part], part.num_rows, max(2, *sizes[start : start + count]), pad)
