"""The content of a training's report.json. A key that ends with `?` is missing in reports of earlier versions or where
nothing is to say; a part that is off is empty or null.

Steps count from 1; step 0 is the state before training. Losses are means over label tokens, in nats. Times are in
seconds.
"""

from typing import Any

TrainReport = dict[str, Any]
Fit = dict[str, Any]  # one training; a run of phases has several

_POINTS = [tuple]  # (step, value); long curves have the lowest and highest point of some hundred columns
_CURVES = ("loss", "loss_smooth", "learning_rate", "grad_norm", "tokens_per_s", "memory_gib", "data_wait")
_MEASURED = {"loss": float, "perplexity": float, "accuracy": float, "label_tokens": int}
_ANSWER = {"document": str, "prompt": str, "reference": str, "generated": str, "set?": str}

_CORPUS = {
    "name": str, "path": str,
    "passed_over?": str,  # a sentence about the files that were not read
    "documents": int,  # those that became examples
    "text_bytes": int,
    "left_out": dict[str, int],  # the other documents, by reason, before packing
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
    # training.records.schema.AttemptRecord. order: of the examples.
    "recipe": {
        "base_model": str, "method": str, "engine": str, "precision": str, "attention": str,
        "attention_warning": str | None, "sequence_length": int, "tokens_per_step": int, "order?": str,
    },
    "continues?": [str],  # lines about the run that this one continues
    # unlogged_steps: steps taken but missing in steps.jsonl. tokens: without padding. tokens_per_s, mfu: medians over
    # steps; null if not measured. compile_s, validation_s: the parts of `seconds` in torch.compile and in validation.
    "totals": {
        "steps": int, "planned_steps": int, "unlogged_steps": int, "tokens": int, "label_tokens": int,
        "seconds": float, "tokens_per_s": float | None, "mfu": float | None, "compile_s": float, "validation_s": float,
        "workers": [int], "trainable_parameters": int, "all_parameters": int,
    },
    "validation": [{"step": int, **_MEASURED}],  # after `step` steps
    "curves": dict.fromkeys(_CURVES, _POINTS),
    "events": [{"step": int, "words": str}],  # a restart of the workers after `step`, or a step that was skipped
    "damaged_checkpoints": [str],  # a sentence for each that could not be read, with the steps that were repeated
    "rows": [{"step": int, **dict.fromkeys(_CURVES, float | None)}],  # the table of numbers beside the curves
    "corpora": [_CORPUS],
    "before": dict[str, dict], "after": dict[str, dict],  # split -> loss, perplexity, accuracy, label_tokens
    "best_step": int | None, "ended": str,
    "unmoved": [str],  # names of trained matrices that did not change
    "generation": dict[str, float], "set_generation?": dict[str, dict],
    "answers": [_ANSWER],
    "merged_check": dict[str, Any] | None,
    "evaluation_notes": [str],  # sentences about what was not measured
    # kind: see export/folders.py. code: Python that loads it, to be run in the folder.
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


def exported_validation(fit: Fit) -> dict[str, Any] | None:
    """The validation of the exported weights (the best after step 0); None if there was no validation."""
    validation = fit["validation"]
    found = [measured for measured in validation if measured["step"] == fit["best_step"]] or validation
    return found[-1] if found else None
