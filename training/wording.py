"""What the numbers of a training count, in words: tokens that a model predicts, or documents that a probe sorts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """labels: what a loss is a mean over. right: what accuracy is a share of. perplexity: whether it means anything."""

    labels: str
    right: str
    accuracy: str
    perplexity: bool


_LANGUAGE_MODEL = Wording(
    labels="label tokens",
    right="next token",
    accuracy="Accuracy is the share of label tokens that the model thought most probable.",
    perplexity=True,
)
_PROBE = Wording(
    labels="documents",
    right="class",
    accuracy="Accuracy is the share of documents whose class the probe thought most probable.",
    perplexity=False,
)


def wording(method: str) -> Wording:
    """Of a config's method, or of the words of a report that begin with it."""
    return _PROBE if method == "probe" else _LANGUAGE_MODEL
