"""How good answers are against references: exact match, word F1, BLEU, ROUGE, classes, numbers.

All are fractions in [0, 1] but `bleu`, which keeps sacrebleu's 0 to 100 so that it can be laid beside published ones.

    exact_match                 equal after SQuAD's normalisation (wording.py)
    f1                          of the bags of words after that normalisation, mean over answers (SQuAD)
    bleu                        of the corpus, sacrebleu's defaults (13a tokens, case kept, exponential smoothing)
    rouge1, rouge2, rougeL      F-measure of word pairs and longest common subsequence, mean over answers, no stemming
    accuracy, macro_*, micro_*  where an answer is a label
    number_match                where an answer is a number: the strict one of numerals.py where the reference has its
                                mark `####` (GSM8K), else the last one of the text
    number_match_flexible       the last number of the text, whether or not the mark is there
    answered                    share of answers that are one of the labels, or that have a number
    answered_flexible           share of answers with any number
"""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from training.evaluation.answer_text import answer_words, normalised, plain_words
from training.evaluation.numerals import MARK, flexible_number, strict_number


def scores(references: Sequence[str], answers: Sequence[str], kind: str, decimal_mark: str = ".") -> dict[str, float]:
    """Every score that fits `kind` (text, label or number), by name. Empty without answers.

    decimal_mark: of numbers.
    """
    assert len(references) == len(answers)
    if not answers:
        return {}
    measured = {"exact_match": exact_match(references, answers), "f1": word_f1(references, answers)}
    measured |= {"bleu": bleu(references, answers)} | rouge(references, answers)
    if kind == "label":
        measured |= classification([normalised(text) for text in references], [normalised(text) for text in answers])
    if kind == "number":
        measured |= numbers(references, answers, decimal_mark)
    return measured


def exact_match(references: Sequence[str], answers: Sequence[str]) -> float:
    return _mean(normalised(one) == normalised(other) for one, other in zip(references, answers, strict=True))


def word_f1(references: Sequence[str], answers: Sequence[str]) -> float:
    return _mean(
        _bag_f1(answer_words(one), answer_words(other)) for one, other in zip(references, answers, strict=True)
    )


def _bag_f1(wanted: list[str], said: list[str]) -> float:
    """Two empty answers agree; an empty one agrees with nothing else."""
    if not wanted or not said:
        return float(wanted == said)
    return 2 * sum((Counter(wanted) & Counter(said)).values()) / (len(wanted) + len(said))


def bleu(references: Sequence[str], answers: Sequence[str]) -> float:
    import sacrebleu

    return float(sacrebleu.corpus_bleu(list(answers), [list(references)]).score)


def rouge(references: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    from torchmetrics.functional.text import rouge_score

    keys = ("rouge1", "rouge2", "rougeL")
    measured = rouge_score(
        list(answers), list(references), normalizer=lambda text: text, tokenizer=plain_words, rouge_keys=keys
    )
    return {key: float(measured[f"{key}_fmeasure"]) for key in keys}


def numbers(references: Sequence[str], answers: Sequence[str], decimal_mark: str = ".") -> dict[str, float]:
    wanted, strict, flexible = [], [], []
    for reference, answer in zip(references, answers, strict=True):
        read = strict_number if MARK in reference else flexible_number
        wanted.append(read(reference, decimal_mark))
        strict.append(read(answer, decimal_mark))
        flexible.append(flexible_number(answer, decimal_mark))
    return {
        "number_match": _equal(wanted, strict),
        "number_match_flexible": _equal(wanted, flexible),
        "answered": _mean(said is not None for said in strict),
        "answered_flexible": _mean(said is not None for said in flexible),
    }


def _equal(wanted: Sequence[Fraction | None], said: Sequence[Fraction | None]) -> float:
    return _mean(one is not None and one == other for one, other in zip(wanted, said, strict=True))


def classification(references: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Accuracy, and precision, recall and F1 over the classes that stand among the references.

    An answer that is none of them is a miss of the class that was wanted and an alarm of no class: so micro precision
    is over the answers that are a class, micro recall over all. A class that is never answered has precision 0.
    """
    names = sorted(set(references))
    wanted, said = np.array(references, dtype=object), np.array(answers, dtype=object)
    alarms = np.array([(said == name).sum() for name in names])
    cases = np.array([(wanted == name).sum() for name in names])
    hits = np.array([((said == name) & (wanted == name)).sum() for name in names])
    precision, recall, f1 = _rates(hits, alarms, cases)
    whole = [rate.item() for rate in _rates(hits.sum(), alarms.sum(), cases.sum())]
    return {
        "accuracy": float(hits.sum() / len(wanted)),
        "answered": float(alarms.sum() / len(wanted)),
        **{f"macro_{name}": float(rate.mean()) for name, rate in zip(_RATES, (precision, recall, f1), strict=True)},
        **{f"micro_{name}": rate for name, rate in zip(_RATES, whole, strict=True)},
    }


def f1_by_class(references: Sequence[int], answers: Sequence[int], names: Sequence[str]) -> dict[str, float]:
    """`f1/NAME` of each class, from indices of classes; 0 for one that neither occurs nor is answered."""
    wanted, said = np.asarray(references), np.asarray(answers)
    classes = range(len(names))
    hits = np.array([((said == index) & (wanted == index)).sum() for index in classes])
    alarms, cases = (np.array([(side == index).sum() for index in classes]) for side in (said, wanted))
    return {f"f1/{name}": float(rate) for name, rate in zip(names, _rates(hits, alarms, cases)[2], strict=True)}


_RATES = ("precision", "recall", "f1")


def _rates(hits: np.ndarray, alarms: np.ndarray, cases: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1; 0 where there is nothing to divide by."""
    return hits / np.maximum(alarms, 1), hits / np.maximum(cases, 1), 2 * hits / np.maximum(alarms + cases, 1)


def _mean(values) -> float:
    return float(np.mean([float(value) for value in values]))
