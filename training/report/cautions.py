"""What a reader should know before believing a training's numbers."""

from collections.abc import Iterator

from cluster.page.formats import count, decimal, plural, share
from training.pack import overflow
from training.report.schema import Fit, chosen

_MUCH_LEFT_OUT = 0.05
_BADLY_FILLED = 0.75
_LONG_WAIT = 0.1
_WORSE_BY = 0.02  # nats: of a validation loss that went up again


def cautions(fit: Fit) -> Iterator[str]:
    """A sentence each; none for a training in which nothing stands out."""
    yield from _course(fit)
    yield from _loss(fit)
    yield from _data(fit)


def _course(fit: Fit) -> Iterator[str]:
    totals = fit["totals"]
    if fit["ended"] == "patience":
        yield (
            f"Stopped early, after {count(totals['steps'])} of {count(totals['planned_steps'])} steps: the validation "
            "loss had not fallen for as many evaluations as evaluate.patience allows."
        )
    passed = sum(event["words"].endswith("passed over") for event in fit["events"])
    if passed:
        yield f"{plural(passed, 'step')} passed over after a broken loss (failures.skip_back)."
    again = len(fit["events"]) - passed
    if again:
        yield f"The workers were started again {'once' if again == 1 else f'{count(again)} times'}, from a checkpoint."
    yield from fit["damaged_checkpoints"]
    if warning := fit["recipe"]["attention_warning"]:
        yield f"Computed with {warning}"
    if lost := totals["unlogged_steps"]:
        yield (
            f"steps.jsonl lacks {count(lost)} of the {count(totals['steps'])} steps: tokens, curves and the first loss "
            "shown are those of the others."
        )
    if fit["unmoved"]:
        named = ", ".join(fit["unmoved"][:3]) + (", …" if len(fit["unmoved"]) > 3 else "")
        yield f"{count(len(fit['unmoved']))} of the trained matrices did not move: {named}."
    waited = [value for _, value in fit["curves"]["data_wait"]]
    if waited and sum(waited) / len(waited) > _LONG_WAIT:
        yield f"Workers waited for data {share(sum(waited), len(waited))} of the time."


def _loss(fit: Fit) -> Iterator[str]:
    validation = fit["validation"]
    if not validation:
        yield "There was no validation split, so nobody knows how the model does on text it has not seen."
        return
    first, last = validation[0], validation[-1]
    best = chosen(fit)
    assert best is not None
    if best is not first and best["loss"] >= first["loss"]:
        yield (
            f"The validation loss never fell below the {decimal(first['loss'])} that it began with: the weights of "
            f"step {count(best['step'])}, which are exported, have {decimal(best['loss'])}. The base model is better."
        )
    elif last["loss"] > best["loss"] + _WORSE_BY:
        yield (
            f"The validation loss was lowest at step {count(best['step'])} ({decimal(best['loss'])}) and rose to "
            f"{decimal(last['loss'])} by the end; the weights of step {count(best['step'])} are exported."
        )


def _data(fit: Fit) -> Iterator[str]:
    for corpus in fit["corpora"]:
        gone = sum(corpus["left_out"].values())
        read = corpus["documents"] + gone
        if gone > _MUCH_LEFT_OUT * read:
            yield f"{share(gone, read)} of the documents of {corpus['name']} were left out."
        for note in overflow.notes(corpus["tokenised"], corpus["packing"], fit["recipe"]["sequence_length"]):
            if note.warned:
                yield f"{corpus['name']}: {note.words}."
        for split in corpus["splits"]:
            if split["split"] == "train" and split["rows"] and split["filled"] < _BADLY_FILLED:
                yield (
                    f"{share(1 - split['filled'], 1)} of the places in the training rows of {corpus['name']} "
                    "are padding."
                )
