"""Words for what losses and accuracies count, by method: tokens of a language model, or documents of a probe."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricWords:
    """labels: what a loss is a mean over. right: what accuracy counts. perplexity: whether it is meaningful."""

    labels: str
    right: str
    accuracy: str
    perplexity: bool


_LANGUAGE_MODEL = MetricWords(
    labels="label tokens",
    right="next token",
    accuracy="Accuracy is the share of label tokens to which the model gave the highest probability.",
    perplexity=True,
)
_PROBE = MetricWords(
    labels="documents",
    right="class",
    accuracy="Accuracy is the share of documents whose class the probe scored highest.",
    perplexity=False,
)


def metric_words(method: str) -> MetricWords:
    """The words for a config's method, or for a report's description of the method, which begins with its name."""
    return _PROBE if method == "probe" else _LANGUAGE_MODEL
