"""A training for a terminal: what `raymill train` prints last."""

import re

from cluster.page.formats import count, duration, share, short
from training.fit.records import Measured
from training.report.schema import Fit, Report, chosen
from training.wording import Wording, wording

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_WIDTH = 100


def summary_text(report: Report) -> str:
    """A few lines a training, at most 100 columns of plain ASCII; no line end at the end."""
    return "\n".join(line for fit in report["fits"] for line in _lines(fit))


def _lines(fit: Fit) -> list[str]:
    totals, validation = fit["totals"], fit["validation"]
    recipe = fit["recipe"]
    words = wording(recipe["method"])
    head = f"{fit['name']}: {recipe['method']} on {recipe['base_model']}"
    rows = []
    if validation and (best := chosen(fit)):
        rows.append(("validation", f"{_fell(validation[0], best, words)} at step {count(best['step'])}"))
    rows += [
        (split, _fell(fit["before"][split], after, words))
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
    lines = [head, *(f"  {name:<12}{told}" for name, told in rows)]
    return [_plain(line) for line in lines]


def _plain(line: str) -> str:
    """A terminal obeys what it is sent: anything else than ASCII text is shown as ?."""
    line = _UNPRINTABLE.sub("?", line)
    return line if len(line) <= _WIDTH else line[: _WIDTH - 3] + "..."


def _fell(before: Measured, after: Measured, words: Wording) -> str:
    parts = [f"loss {before['loss']:.3f} -> {after['loss']:.3f}"]
    if words.perplexity:
        parts.append(f"perplexity {_perplexity(before)} -> {_perplexity(after)}")
    return ", ".join([*parts, f"accuracy {share(before['accuracy'], 1)} -> {share(after['accuracy'], 1)}"])


def _perplexity(measured: Measured) -> str:
    value = measured["perplexity"]
    return f"{value:.1f}" if value < 1000 else short(value)
