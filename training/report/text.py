"""The summary of a training that `raymill train` prints at its end."""

import re

from cluster.page.formats import count, duration, share, short
from training.fit.records import Measured
from training.metric_words import MetricWords, metric_words
from training.report.schema import Fit, Report, exported_validation

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_WIDTH = 100


def summary_text(report: Report) -> str:
    """A few lines for each training: ASCII, at most 100 columns, without a final line end."""
    return "\n".join(line for fit in report["fits"] for line in _lines(fit))


def _lines(fit: Fit) -> list[str]:
    totals, validation = fit["totals"], fit["validation"]
    recipe = fit["recipe"]
    metrics = metric_words(recipe["method"])
    head = f"{fit['name']}: {recipe['method']} on {recipe['base_model']}"
    rows = []
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
    lines = [head, *(f"  {name:<12}{words}" for name, words in rows)]
    return [_plain(line) for line in lines]


def _plain(line: str) -> str:
    """The line with characters other than printable ASCII, such as terminal control codes, replaced by `?`."""
    line = _UNPRINTABLE.sub("?", line)
    return line if len(line) <= _WIDTH else line[: _WIDTH - 3] + "..."


def _change(before: Measured, after: Measured, metrics: MetricWords) -> str:
    parts = [f"loss {before['loss']:.3f} -> {after['loss']:.3f}"]
    if metrics.perplexity:
        parts.append(f"perplexity {_perplexity(before)} -> {_perplexity(after)}")
    return ", ".join([*parts, f"accuracy {share(before['accuracy'], 1)} -> {share(after['accuracy'], 1)}"])


def _perplexity(measured: Measured) -> str:
    value = measured["perplexity"]
    return f"{value:.1f}" if value < 1000 else short(value)
