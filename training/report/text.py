"""The sentences of a training's report: words for metrics, warnings, and the summary that `raymill train` prints."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from raymill.cluster.formats import ascii_text, count, decimal, duration, plural, share, short
from raymill.cluster.readers.quarantine import LOSES_THE_REST
from raymill.cluster.readers.reader import PROBLEMS
from raymill.training.methods import MetricWords
from raymill.training.objectives import recipe_words
from raymill.training.pack import summary

# A warning is given above these fractions (left out, waiting) or below this one (filled).
_MAX_LEFT_OUT = 0.05
_MIN_FILLED = 0.75
_MAX_DATA_WAIT = 0.1
# One worker is slow if it is the slowest in this fraction of the steps, by this factor.
_MIN_SLOW_STEPS, _MAX_SLOW = 0.5, 1.2
# A chosen answer whose log-probability fell by a tenth is worth a warning.
_MOST_FALLEN = 1.1
_MAX_WITHOUT_SPREAD = 0.5  # fraction of the steps of objective grpo that trained nothing
_MAX_RISE = 0.02  # nats: rise of the validation loss above its lowest value

_WIDTH = 100


TrainReport = dict[str, Any]
Fit = dict[str, Any]  # one training; a run of phases has several


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
    without_spread = totals.get("steps_without_spread", 0)
    if without_spread > _MAX_WITHOUT_SPREAD * totals["steps"]:
        yield (
            f"In {count(without_spread)} of {count(totals['steps'])} steps the answers to each prompt had equal "
            "rewards, so nothing was trained. Start from a model that earns a reward with some of its answers, take "
            "easier prompts, or add a reward that distinguishes the answers."
        )
    if missing := totals.get("rewards_missing"):
        yield (
            f"{count(missing)} sampled answers have no reward, because a judge or a function gave none, and were not "
            "trained on. The log of the workers and the answer store have the reasons."
        )
    if fit["unmoved"] and without_spread < totals["steps"]:
        named = ", ".join(fit["unmoved"][:3]) + (", …" if len(fit["unmoved"]) > 3 else "")
        yield f"{count(len(fit['unmoved']))} of the trained matrices did not change: {named}."
    waited = [value for _, value in fit["curves"]["data_wait"]]
    if waited and sum(waited) / len(waited) > _MAX_DATA_WAIT:
        yield f"Workers waited for data {share(sum(waited), len(waited))} of the time."
    slow = fit.get("slow_worker")
    if slow and slow["share"] > _MIN_SLOW_STEPS and slow["ratio"] > _MAX_SLOW:
        yield (
            f"The worker of rank {slow['rank']} was the slowest in {share(slow['share'], 1)} of the steps, its forward "
            f"passes {slow['ratio']:.1f} times those of the median worker; all wait for it. Look at its machine."
        )


def _loss(fit: Fit) -> Iterator[str]:
    yield from fit["evaluation_notes"]
    validation = fit["validation"]
    if not validation:
        yield "There was no validation split, so the loss on unseen text was not measured."
        return
    first, last = validation[0], validation[-1]
    best = exported_validation(fit)
    assert best is not None
    before, after = first.get("logp_chosen"), best.get("logp_chosen")
    if before is not None and after is not None and after < before * _MOST_FALLEN:
        yield (
            f"The log-probability of chosen answers of the validation split fell from {decimal(before)} to "
            f"{decimal(after)}: the model prefers them to the rejected ones, and still gives both less probability "
            "than before. A cross entropy of the chosen answers (`sft` of the objective), a lower learning rate or a "
            "larger beta keep it up."
        )
    metrics = recipe_words(fit["recipe"])
    what, improved, worsened = (
        ("mean reward", "rose above", "fell") if metrics.is_reward else ("loss", "fell below", "rose")
    )
    initial, exported, final = (loss_or_reward(one["loss"], metrics) for one in (first, best, last))
    if best is not first and best["loss"] >= first["loss"]:
        is_same = best["loss"] == first["loss"]
        yield (
            f"The validation {what} never {improved} its initial value, {initial}. The exported weights, of step "
            f"{count(best['step'])}, have "
            + (
                "the same, so they are no better than the base model."
                if is_same
                else f"{exported}, so the base model is better."
            )
        )
    elif last["loss"] > best["loss"] + _MAX_RISE:
        yield (
            f"The validation {what} was {'highest' if metrics.is_reward else 'lowest'} at step {count(best['step'])} "
            f"({exported}) and {worsened} to {final} by the end; the weights of that step are exported."
        )


def _data(fit: Fit) -> Iterator[str]:
    for corpus in fit["corpora"]:
        if passed_over := corpus.get("passed_over"):
            yield f"{corpus['name']}: {passed_over}."
        gone = sum(corpus["left_out"].values())
        read = corpus["documents"] + gone
        if gone > _MAX_LEFT_OUT * read:
            yield f"{share(gone, read)} of the documents of {corpus['name']} were left out."
        unread = {reason: number for reason, number in corpus["left_out"].items() if reason in PROBLEMS}
        if unread:
            rest = "; the rest of a file was lost, and how many documents it held is not known"
            yield (
                f"{corpus['name']}: {plural(sum(unread.values()), 'row')} could not be read: "
                f"{summary.by_reason(unread, corpus.get('first_left_out', {}))}"
                f"{rest if unread.keys() & {*LOSES_THE_REST} else ''}."
            )
        turns = summary.turns(corpus.get("turns", {}))
        for note in [
            *turns,
            *summary.overflow(corpus["tokenised"], corpus["packing"], fit["recipe"]["sequence_length"]),
        ]:
            if note.warned:
                yield f"{corpus['name']}: {note.words}."
        for split in corpus["splits"]:
            # Prompts of sampled answers are one a row; what is trained on is packed.
            is_packed = fit["recipe"].get("objective") != "grpo"
            if split["split"] == "train" and split["rows"] and split["filled"] < _MIN_FILLED and is_packed:
                yield (
                    f"{share(1 - split['filled'], 1)} of the places in the training rows of {corpus['name']} "
                    "are padding."
                )


def summary_text(report: TrainReport) -> str:
    """A few lines for each training: ASCII, at most 100 columns, without a final line end."""
    return "\n".join(line for fit in report["fits"] for line in _lines(fit))


def _lines(fit: Fit) -> list[str]:
    totals, validation = fit["totals"], fit["validation"]
    recipe = fit["recipe"]
    metrics = recipe_words(recipe)
    head = f"{fit['name']}: {recipe['method']} on {recipe['base_model']}"
    rows = [("continues", fit["continues"][0].removeprefix("continues "))] if fit.get("continues") else []
    if validation and (best := exported_validation(fit)):
        rows.append(("validation", f"{_change(validation[0], best, metrics)} at step {count(best['step'])}"))
    rows += [
        (split, _change(fit["before"][split], after, metrics))
        for split, after in fit["after"].items()
        if split in fit["before"] and not (split == "validation" and validation)
    ]
    trained = share(totals["trainable_parameters"], totals["all_parameters"])
    rows.append(("trained", f"{trained} of {short(totals['all_parameters'])} parameters"))
    compiling = f", {duration(totals['compile_s'])} of compiling" if totals.get("compile_s") else ""
    tokens = f"{count(totals['steps'])} steps, {short(totals['tokens'])} tokens"
    validating = f", {duration(totals['validation_s'])} of validation" if totals.get("validation_s") else ""
    rows.append(("took", f"{tokens} in {duration(totals['seconds'])}{validating}{compiling}"))
    if totals["tokens_per_s"] and totals["seconds"]:
        whole = f"{short(totals['tokens'] / totals['seconds'])} of the whole {duration(totals['seconds'])}"
        rows.append(("tokens/s", f"{short(totals['tokens_per_s'])} of the steps' own time (median), {whole}"))
    lines = [ascii_text(line) for line in (head, *(f"  {name:<12}{words}" for name, words in rows))]
    return [line if len(line) <= _WIDTH else line[: _WIDTH - 3] + "..." for line in lines]


def _change(before: Mapping[str, Any], after: Mapping[str, Any], metrics: MetricWords) -> str:
    values = " -> ".join(loss_or_reward(one["loss"], metrics) for one in (before, after))
    parts = [f"{'mean reward' if metrics.is_reward else 'loss'} {values}"]
    if metrics.perplexity:
        before_after = [perplexity_words(one["perplexity"]) for one in (before, after)]
        parts.append(f"perplexity {' -> '.join(before_after)}")
    accuracy = metrics.right if metrics.is_reward else "accuracy"
    return ", ".join([*parts, f"{accuracy} {share(before['accuracy'], 1)} -> {share(after['accuracy'], 1)}"])


def loss_or_reward(loss: float, metrics: MetricWords) -> str:
    """The loss; of sampled answers the mean reward, which is minus the loss."""
    return loss_words(0.0 - loss if metrics.is_reward else loss)


def loss_words(loss: float) -> str:
    """Three decimals, so that the losses of a run can be compared by eye; below 0.1 more."""
    return decimal(loss) if abs(loss) < 0.1 else f"{loss:.3f}"


def perplexity_words(perplexity: float) -> str:
    """One decimal; from 1,000 on as in headlines."""
    return short(perplexity) if 1000 <= perplexity < math.inf else f"{perplexity:.1f}"


def exported_validation(fit: Fit) -> dict[str, Any] | None:
    """The validation of the exported weights (the best after step 0); None if there was no validation."""
    validation = fit["validation"]
    found = [measured for measured in validation if measured["step"] == fit["best_step"]] or validation
    return found[-1] if found else None
