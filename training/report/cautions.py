"""Warnings about a training's results, shown in its report and at the end of `raymill train`."""

from collections.abc import Iterator

from cluster.page.formats import count, decimal, plural, share
from training.pack import overflow
from training.report.schema import Fit, exported_validation

# A warning is given above these fractions (left out, waiting) or below this one (filled).
_MAX_LEFT_OUT = 0.05
_MIN_FILLED = 0.75
_MAX_DATA_WAIT = 0.1
_MAX_RISE = 0.02  # nats: rise of the validation loss above its lowest value


def cautions(fit: Fit) -> Iterator[str]:
    """Warnings about a training, a sentence each."""
    yield from _interruptions(fit)
    yield from _loss(fit)
    yield from _data(fit)


def _interruptions(fit: Fit) -> Iterator[str]:
    totals = fit["totals"]
    if fit["ended"] == "patience":
        yield (
            f"Stopped early, after {count(totals['steps'])} of {count(totals['planned_steps'])} steps: the validation "
            "loss did not fall for as many evaluations as evaluate.patience allows."
        )
    skipped = sum(event["words"].endswith("skipped") for event in fit["events"])
    if skipped:
        yield f"{plural(skipped, 'step')} skipped after a broken loss (failures.skip_back)."
    restarted = len(fit["events"]) - skipped
    if restarted:
        times = "once" if restarted == 1 else f"{count(restarted)} times"
        yield f"The workers were restarted {times}, from a checkpoint."
    yield from fit["damaged_checkpoints"]
    if warning := fit["recipe"]["attention_warning"]:
        yield f"Computed with {warning}"
    if lost := totals["unlogged_steps"]:
        yield (
            f"steps.jsonl lacks {count(lost)} of the {count(totals['steps'])} steps. Tokens, curves and the first loss "
            "shown here are those of the other steps."
        )
    if fit["unmoved"]:
        named = ", ".join(fit["unmoved"][:3]) + (", …" if len(fit["unmoved"]) > 3 else "")
        yield f"{count(len(fit['unmoved']))} of the trained matrices did not change: {named}."
    waited = [value for _, value in fit["curves"]["data_wait"]]
    if waited and sum(waited) / len(waited) > _MAX_DATA_WAIT:
        yield f"Workers waited for data {share(sum(waited), len(waited))} of the time."


def _loss(fit: Fit) -> Iterator[str]:
    validation = fit["validation"]
    if not validation:
        yield "There was no validation split, so the loss on unseen text was not measured."
        return
    first, last = validation[0], validation[-1]
    best = exported_validation(fit)
    assert best is not None
    if best is not first and best["loss"] >= first["loss"]:
        yield (
            f"The validation loss never fell below its initial value, {decimal(first['loss'])}. The exported weights, "
            f"of step {count(best['step'])}, have {decimal(best['loss'])}, so the base model is better."
        )
    elif last["loss"] > best["loss"] + _MAX_RISE:
        yield (
            f"The validation loss was lowest at step {count(best['step'])} ({decimal(best['loss'])}) and rose to "
            f"{decimal(last['loss'])} by the end; the weights of step {count(best['step'])} are exported."
        )


def _data(fit: Fit) -> Iterator[str]:
    for corpus in fit["corpora"]:
        if passed_over := corpus.get("passed_over"):
            yield f"{corpus['name']}: {passed_over}."
        gone = sum(corpus["left_out"].values())
        read = corpus["documents"] + gone
        if gone > _MAX_LEFT_OUT * read:
            yield f"{share(gone, read)} of the documents of {corpus['name']} were left out."
        for note in overflow.notes(corpus["tokenised"], corpus["packing"], fit["recipe"]["sequence_length"]):
            if note.warned:
                yield f"{corpus['name']}: {note.words}."
        for split in corpus["splits"]:
            if split["split"] == "train" and split["rows"] and split["filled"] < _MIN_FILLED:
                yield (
                    f"{share(1 - split['filled'], 1)} of the places in the training rows of {corpus['name']} "
                    "are padding."
                )
