"""Evaluation of a run's weights on held-out documents, before and after training; written to evaluation.json.

The test split is measured, up to `evaluate.test_tokens`, or the validation split if the test split has no rows; and
each of `evaluate.sets`. Evaluation runs in one process, which has the model, one row group and one micro-batch in
memory.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.formats import plural
from raymill.cluster.run import RunFolder
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Form, Generate
from raymill.training.data.batch import Batch, collate
from raymill.training.data.packed import NO_TARGET, PackedRows
from raymill.training.evaluation.generate import Prompt, complete_prompts, held_out_prompts, stop_ids
from raymill.training.evaluation.scores import classification, custom_scores, f1_by_class, scores
from raymill.training.fit.checkpoint import fill
from raymill.training.fit.memory import is_out_of_memory
from raymill.training.models.attention import choose_attention
from raymill.training.models.base import named_config
from raymill.training.models.build import build_objective
from raymill.training.models.objective import Objective, RowClassifier
from raymill.training.pack import summary
from raymill.training.pack.corpus import set_name
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
    """Measure the weights before and after training, generate and score answers, and write evaluation.json.

    If there is a finished evaluation of the same weights, it is returned. If the process runs out of memory, nothing is
    measured, and `notes` has a sentence about it.
    """
    made_from = evaluation_fingerprint(job, outcome)
    if (found := read_evaluation(job.folder, made_from)) is not None:
        return found
    evaluation: Evaluation = {
        "before": {}, "after": {}, "best_step": outcome["best_step"], "generation": {}, "answers": [],
        "merged_check": dict(merged_check) if merged_check else None, "notes": [],
    }  # fmt: skip
    try:
        evaluation |= _measured(job, outcome, packed)  # type: ignore[typeddict-item]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        note = (
            "No held-out documents were measured and no answers were generated, because the evaluation, which needs "
            "the whole model on one worker, ran out of memory. The weights are exported."
        )
        evaluation["notes"] = [note]
    write_evaluation(job.folder, evaluation, made_from)
    return evaluation


def _measured(job: Job, outcome: Outcome, packed: PackedRun) -> dict[str, Any]:
    """The entries of an evaluation that are computed."""
    config, rows_at_once = job.config, job.config.micro_batch
    tokenizer = load_tokenizer(packed.store, packed.tokenizer_uri)
    pad = pad_id(tokenizer)
    device = torch.device("cuda" if config.workers.gpus_each and torch.cuda.is_available() else "cpu")
    objective = initial_objective(job, device)
    held_out = _held_out(config, packed)

    def measured_all() -> dict[str, Measured]:
        found = {name: measure(objective, one.tables(), rows_at_once, pad, device) for name, one in held_out.items()}
        return {name: one for name, one in found.items() if one}

    notes = [note for one in held_out.values() for note in one.notes]
    before: dict[str, Measured] = {}
    if job.parent is None:
        with objective.as_base_model():
            before = measured_all()
    else:
        try:
            fill(objective, Checkpoint.load(job.folder.store, job.parent.checkpoint))
        except DataError:  # that run may be deleted once this one has a checkpoint
            run = job.parent.run
            notes.append(
                f"The loss before training was not measured: the checkpoint of the run {run} is gone or damaged."
            )
        else:
            before = measured_all()
    load_trained(objective, job.folder, outcome)
    found: dict[str, Any] = {"before": before, "after": measured_all(), "answers": [], "notes": notes}
    for name, one in held_out.items():
        scored, answers = dict[str, float](), list[GeneratedAnswer]()
        if isinstance(objective, RowClassifier):
            true, predicted, confidences = predictions(objective, one.tables(), rows_at_once, pad, device)
            if true:
                answers = class_answers(one.tables(), tokenizer, job.classes, predicted, confidences)
                by_name = [[job.classes[index] for index in side] for side in (true, predicted)]
                scored = classification(*by_name) | f1_by_class(true, predicted, job.classes)
        elif config.generate:
            scored, answers = generate_and_score(objective, config, one.artifacts, one.forms, tokenizer)
        if name not in packed.sets:
            found |= {"generation": scored}
            found["answers"] += answers
        elif scored:
            found.setdefault("set_generation", {})[name] = scored
            found["answers"] += [answer | {"set": name} for answer in answers]
    if config.generate and not config.training_method.classifies and not found["answers"]:
        notes.append("No answers were generated (`generate`), because no held-out document has a prompt.")
    return found


@dataclass(frozen=True)
class HeldOutRows:
    """Packed rows that are measured together.

    Attributes:
        artifacts: the packed rows of each corpus, by its name.
        rows: number of rows of each corpus that are measured, the first ones.
        notes: sentences about rows and documents that are not measured.
        forms: of the documents of each corpus.
    """

    artifacts: Mapping[str, Artifact]
    rows: Mapping[str, int]
    notes: Sequence[str]
    forms: Mapping[str, Form]

    def tables(self) -> Iterator[pa.Table]:
        """The rows that are measured."""
        for name, artifact in self.artifacts.items():
            left = self.rows[name]
            for table in artifact.tables():
                if not left:
                    break
                yield table.slice(0, left)
                left -= min(left, table.num_rows)


def _held_out(config: TrainConfig, packed: PackedRun) -> dict[str, HeldOutRows]:
    """The held-out split by its name, unless it has no rows, and each of `evaluate.sets` by its own."""
    split, artifacts = held_out_split(packed)
    forms = dict(zip(config.corpus_names, config.forms, strict=True))
    parts = {f"the {split} split": (split, artifacts, forms)} if artifacts else {}
    for name, artifact in packed.sets.items():
        parts[f"evaluate.sets.{name}"] = (name, {name: artifact}, {name: config.set_columns[name].form})
    found = {}
    for words, (name, of, of_forms) in parts.items():
        rows, notes = rows_to_measure(words, of, config.evaluate.test_tokens)
        if name in packed.sets:
            tokenised, counters = packed.tokenised(set_name(name)), packed.packed(set_name(name))
            long = summary.overflow(summary.totals(tokenised), counters, config.sequence_length)
            lost = [*summary.left_out(tokenised), *summary.turns(tokenised), *long]
            notes += [f"{words}: {note.words}." for note in lost if note.warned]
        found[name] = HeldOutRows(of, rows, notes, of_forms)
    return found


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


def held_out_split(packed: PackedRun) -> tuple[str, dict[str, Artifact]]:
    """(split to measure, its artifact by corpus): test, or validation if test has no rows in any corpus."""
    found: dict[str, dict[str, Artifact]] = {}
    for split in ("test", "validation"):
        found[split] = {name: splits[split] for name, splits in packed.corpora.items() if splits[split].manifest.rows}
    split = "test" if found["test"] else "validation"
    return split, found[split]


def rows_to_measure(
    what: str, artifacts: Mapping[str, Artifact], most_tokens: int | None
) -> tuple[dict[str, int], list[str]]:
    """(rows to measure of each corpus, a note if they are not all rows). what: what is measured, for the note.

    Each corpus has its share of `most_tokens`, but at least one row. The first rows of a split are a random sample of
    it, because packing puts documents in random order.
    """
    whole = {name: artifact.manifest.rows for name, artifact in artifacts.items()}
    tokens = sum(one.manifest.counters.get(f"tokens/{one.uri.rpartition('/')[2]}", 0) for one in artifacts.values())
    if most_tokens is None or tokens <= most_tokens:
        return whole, []
    rows = {name: max(1, int(count * most_tokens / tokens)) for name, count in whole.items()}
    note = (
        f"Of {what} {sum(rows.values()):,} of {plural(sum(whole.values()), 'row')} were measured "
        f"(evaluate.test_tokens: {most_tokens}; null: all)."
    )
    return rows, [note]


def generate_and_score(
    objective: Any,
    config: TrainConfig,
    artifacts: Mapping[str, Artifact],
    forms: Mapping[str, Form],
    tokenizer: Any,
) -> tuple[dict[str, float], list[GeneratedAnswer]]:
    """(scores by name, answers) of greedy generation on held-out prompts from every corpus. forms: by corpus."""
    assert config.generate is not None
    virtual = getattr(config, config.method).tokens if config.training_method.virtual else 0
    # Some configs do not state the number of positions.
    positions = getattr(objective.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    room = positions - virtual
    new_tokens = min(config.generate.max_new_tokens, room - 1)
    prompts = prompts_of(artifacts, forms, config.generate, new_tokens, config.sequence_length)
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
    artifacts: Mapping[str, Artifact], forms: Mapping[str, Form], settings: Generate, new_tokens: int, length: int
) -> list[Prompt]:
    """At most `settings.prompts` held-out prompts, equally many of each corpus; the first corpora may have one more.

    Args:
        artifacts, forms: by name of the corpus. new_tokens: of an answer. length: tokens of a row.
    """
    found = []
    for number, (name, artifact) in enumerate(artifacts.items()):
        share = (settings.prompts - number + len(artifacts) - 1) // len(artifacts)
        rows = PackedRows(artifact)
        found += held_out_prompts(
            rows, artifact.tables(["documents"]), forms[name], share, settings.prompt_tokens, new_tokens,
            length,
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
