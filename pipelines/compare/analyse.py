"""The stage `scores`: the measures of each answer, and the differences between the first model and each other one.

Only workers import this module. A measure is a number for each item (NaN: not measured; the item is left out for both
models); BLEU is a function of sums over all items. P-values are corrected by Holm in three families: `score` over all
comparisons, all other measures of all comparisons, and all slices of all comparisons.
"""

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import methodcaller
from typing import Any

import numpy as np
import pyarrow as pa

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.asking.money import TokenCounts
from raymill.cluster.entry import Entry
from raymill.cluster.output import Output, changed
from raymill.cluster.proportions import wilson
from raymill.cluster.stage import Scratch, Stage
from raymill.cluster.store.store import Store
from raymill.cluster.submit.work import GIB
from raymill.pipelines.compare.bbq import bias_scores, has_choices, outcome
from raymill.pipelines.compare.config import LESS_IS_BETTER, CompareConfig
from raymill.pipelines.compare.fairness import group_gaps
from raymill.pipelines.compare.forgetting import GENERAL, forgetting
from raymill.pipelines.compare.stages import rows_by_item
from raymill.pipelines.compare.swaps import SwappedAnswers, WordSwaps
from raymill.pipelines.errors.runs import MOST_FIELDS, NO_SLICES, records_of
from raymill.pipelines.errors.slices import LEAST, candidates, divided, frequent
from raymill.pipelines.language import identification
from raymill.pipelines.language.identification import LanguageId
from raymill.pipelines.paired import (
    PairedDifference,
    calibration,
    corpus_difference,
    equal_groups,
    holm,
    mean_interval,
    paired_difference,
)
from raymill.pipelines.prompting.compare import by_item, own_scores, ranked_by
from raymill.pipelines.prompting.stages import ITEMS, SWAPPED
from raymill.pipelines.prompting.variants import Item
from raymill.pipelines.text.texts import Texts

_normalised = Entry("raymill.training.evaluation.scores:normalised")
_rouge = Entry("raymill.training.evaluation.scores:rouge")
_bleu_sums = Entry("raymill.training.evaluation.scores:bleu_sums")
_bleu_of_sums = Entry("raymill.training.evaluation.scores:bleu_of_sums")

VERSION = "3"
FACTS, SCORES = "_work/facts", "scores"
FACTS_SCHEMA = pa.schema([("facts", pa.large_string())])
SCORES_SCHEMA = pa.schema(
    [("model", pa.string()), ("item", pa.string()), ("measure", pa.string()), ("value", pa.float64())]
)
_LABELS = 10  # the most frequent labels, whose parity is measured
_WORST = 10  # the worst regressions, which are reported with their texts
_EXCERPT = 2000  # characters of each of these texts
_LARGEST = 1e100  # of a value, as of a score of a number in an answer; squares of larger ones overflow
_VARYING = ("seconds", "cost")  # they differ from call to call, so they are not in the artifact


@dataclass(frozen=True)
class ModelAnswers:
    """Files of a model's artifacts. likelihood: None for an endpoint. swapped: None without `swaps`. kl: None without
    `kl_from`. rewards: by their names.
    """

    answers: tuple[str, ...]
    seconds: tuple[str, ...]
    likelihood: tuple[str, ...] | None
    swapped: tuple[str, ...] | None
    kl: tuple[str, ...] | None
    rewards: Mapping[str, tuple[str, ...]]


def analysis_stage(
    config: CompareConfig,
    artifacts: Mapping[str, Artifact],
    letters: Sequence[str],
    judged: Mapping[str, Artifact],
    general: Mapping[str, tuple[str, str]],
    swap: WordSwaps | None,
) -> Stage:
    """The stage.

    judged: letter of a model -> the judge's records about A and this model. general: letter of a trained model -> the
    artifacts with the log-probabilities of general text by it and by its base. swap: of the setting `swaps`.
    """
    models, used = {}, [artifacts[ITEMS], *judged.values()]
    for letter in letters:
        named = [f"answers_of.{letter}", f"_work/seconds.{letter}", f"likelihood_of.{letter}",
                 f"swapped_answers_of.{letter}", f"kl_of.{letter}"]  # fmt: skip
        found = [artifacts.get(name) for name in named]
        rewards = {name: artifacts[f"reward_of.{name}.{letter}"] for name in config.rewards}
        used += [*(one for one in found if one is not None), *rewards.values()]
        answers, seconds, likelihood, swaps, kl = (None if one is None else tuple(one.file_uris) for one in found)
        assert answers is not None and seconds is not None
        scores = {name: tuple(one.file_uris) for name, one in rewards.items()}
        models[letter] = ModelAnswers(answers, seconds, likelihood, swaps, kl, scores)
    texts = artifacts[GENERAL].file_uris if GENERAL in artifacts else []
    swapped = artifacts[SWAPPED].file_uris if swap else []
    used += [artifacts[name] for name, files in ((GENERAL, texts), (SWAPPED, swapped)) if files]
    used += [artifacts[name] for pair in general.values() for name in pair]
    work = ScoreAnswers(
        config,
        config.store,
        tuple(artifacts[ITEMS].file_uris),
        models,
        {letter: tuple(one.file_uris) for letter, one in judged.items()},
        tuple(texts),
        {letter: tuple(tuple(artifacts[name].file_uris) for name in pair) for letter, pair in general.items()},
        swap,
        tuple(swapped),
    )
    decisive = config.model_dump(mode="json", include={"on", "group", "gaps", "answer", "custom"})
    prices = [None if one.request_prices is None else one.request_prices.model_dump() for one in config.models]
    names = [[*config.rewards], [*judged], [*general]]
    made_from = fingerprint([VERSION, decisive, prices, *names, [one.manifest.digest for one in used]])
    outputs = Output(SCORES, SCORES_SCHEMA), Output(FACTS, FACTS_SCHEMA)
    return Stage("scores", outputs, (0,), work, made_from, config.store, memory=4 * GIB)


@dataclass(frozen=True)
class ScoreAnswers:
    """The work of the stage.

    models: by letter, A first. judged: letter of a model -> files with the judge's records about A (a) and it (b).
    texts: files of the general texts. general: letter of a trained model -> files of their log-probabilities by it, and
    by its base. swap: of the setting `swaps`; swapped: files of the swapped questions.
    """

    config: CompareConfig
    store: Store
    items: tuple[str, ...]
    models: Mapping[str, ModelAnswers]
    judged: Mapping[str, tuple[str, ...]]
    texts: tuple[str, ...]
    general: Mapping[str, tuple[tuple[str, ...], ...]]
    swap: WordSwaps | None
    swapped: tuple[str, ...]

    def is_fraction(self, name: str, values: np.ndarray) -> bool:
        """As `_is_fraction`; rewards are none."""
        return name not in self.config.rewards and _is_fraction(name, values)

    def __call__(self, _: int, scratch: Scratch) -> Counters:
        """Counters: `items`."""
        rows = [row for table in read_tables(self.store, self.items) for row in table.to_pylist()]
        items = [Item(**row) for row in rows]
        measured = {name: _Measured(self, name, items) for name in self.models}
        analysis = _Analysis(self, items, measured)
        for name, one in measured.items():
            for measure, values in one.by_measure.items():
                if measure not in _VARYING:
                    columns = [[name] * len(items), [row["id"] for row in rows], [measure] * len(items), values]
                    scratch.write(SCORES, pa.table(columns, schema=SCORES_SCHEMA))
        scratch.write(FACTS, pa.table([[json.dumps(analysis.facts(), ensure_ascii=False)]], FACTS_SCHEMA))
        return {"items": len(items)}


@dataclass(frozen=True)
class _Measured:
    """The answers of a model and their measures."""

    work: ScoreAnswers
    name: str
    items: Sequence[Item]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        return rows_by_item(self.work.store, self.work.models[self.name].answers, len(self.items))

    @cached_property
    def answers(self) -> list[str | None]:
        return [row["content"] for row in self.rows]

    @cached_property
    def bytes(self) -> np.ndarray:
        """float64[N]: bytes of the references."""
        return np.array([len(one.answer.encode("utf-8", "surrogatepass")) for one in self.items], float)

    @cached_property
    def likelihood(self) -> dict[str, np.ndarray] | None:
        """Column of LIKELIHOOD_SCHEMA -> float64[N]; None for an endpoint."""
        uris = self.work.models[self.name].likelihood
        if uris is None:
            return None
        rows = rows_by_item(self.work.store, uris, len(self.items))
        return {column: np.array([row[column] for row in rows], float) for column in rows[0]}

    @cached_property
    def bleu(self) -> np.ndarray:
        """float64[N, 10]: the counts of each item, whose sums give BLEU."""
        sums = _bleu_sums.load()
        return np.array([sums(one.answer, two or "") for one, two in zip(self.items, self.answers, strict=True)])

    @cached_property
    def by_measure(self) -> dict[str, np.ndarray]:
        """Measure -> float64[N]. The score of an item without an answer is 0. NaN: not measured."""
        config, references = self.work.config, [one.answer for one in self.items]
        found = {"score": by_item(config.answer, references, self.answers)}
        for name, kind in (("exact_match", "label"), ("f1", "text")):
            if name != ranked_by(config.answer):
                found[name] = by_item(kind, references, self.answers)
        found["refused"] = np.array([self.refuses(row) for row in self.rows], float)
        rouge = _rouge.load()
        each = [rouge([one], [two or ""]) for one, two in zip(references, self.answers, strict=True)]
        found |= {name: np.array([one[name] for one in each]) for name in each[0]}
        found |= own_scores([one.loaded() for one in config.custom], self.items, self.answers)
        for name, uris in self.work.models[self.name].rewards.items():
            scores = rows_by_item(self.work.store, uris, len(self.items))
            found[name] = np.array([row["score"] for row in scores], float)
        if self.likelihood is not None:
            tokens = np.maximum(self.likelihood["reference_tokens"], 1)
            found["log_likelihood"] = self.likelihood["reference_log"] / tokens
            found["bits_per_byte"] = -self.likelihood["reference_log"] / np.log(2) / np.maximum(self.bytes, 1)
        counted = [row if _is_counted(row) else None for row in self.rows]
        found["output_tokens"] = np.array([row["tokens"]["output"] if row else np.nan for row in counted], float)
        seconds = rows_by_item(self.work.store, self.work.models[self.name].seconds, len(self.items))
        found["seconds"] = np.array([row["seconds"] for row in seconds], float)
        prices = config.letters[self.name].request_prices
        if prices is not None:
            found["cost"] = np.array(
                [TokenCounts(**row["tokens"]).cost(prices) if row else np.nan for row in counted], float
            )
        return {name: np.clip(values, -_LARGEST, _LARGEST) for name, values in found.items()}

    @cached_property
    def input_tokens(self) -> float | None:
        """Mean tokens of a prompt; None if the server states none."""
        counted = [row["tokens"]["input"] for row in self.rows if _is_counted(row)]
        return float(np.mean(counted)) if counted else None

    def refuses(self, row: Mapping[str, Any]) -> float:
        """1 if an answer is a refusal, or was withheld by the model or a filter; NaN: there was no answer."""
        if row["outcome"] != "answered":
            return np.nan
        answer = (row["content"] or "").lower().replace("’", "'").lstrip("*_\"' \n")
        phrases = tuple(one.lower() for one in self.work.config.refusals)
        return float(row["content"] is None or answer.startswith(phrases))

    @cached_property
    def right(self) -> np.ndarray:
        """float64[N]: 1 if the answer is equal to the reference, else 0."""
        kind = "number" if self.work.config.answer == "number" else "label"
        return by_item(kind, [one.answer for one in self.items], self.answers)


def _is_counted(row: Mapping[str, Any]) -> bool:
    """Whether the server counted the tokens of a request, and of its answer if it has a text."""
    return row["tokens"]["input"] > 0 and (row["tokens"]["output"] > 0 or not row["content"])


@dataclass(frozen=True)
class _Analysis:
    """Measures of all models, differences between them, slices and gaps."""

    work: ScoreAnswers
    items: Sequence[Item]
    measured: Mapping[str, _Measured]

    @cached_property
    def fields(self) -> dict[str, list[str | None]]:
        """Metadata field -> its value for each item."""
        data, split = self.work.config.data
        known = {one.id: one.fields for one in records_of(self.work.store, data, (split,), None,
                                                          {one.id for one in self.items})}  # fmt: skip
        names = sorted({name for one in known.values() for name in one} - NO_SLICES)
        return {name: [known.get(one.id, {}).get(name) for one in self.items] for name in names}

    @cached_property
    def _divided(self) -> tuple[dict[str, Sequence[str | None]], int]:
        return divided(self.fields)

    @cached_property
    def groups(self) -> list[Any] | None:
        """The group of each item; None: each item is a group, as is an item without a value of the field `group`."""
        if (name := self.work.config.group) is None:
            return None
        values = self.fields.get(name, [None] * len(self.items))
        return [(value, 0 if value is not None else at) for at, value in enumerate(values)]

    def _groups(self, there: np.ndarray) -> list[Any] | None:
        return (
            None if self.groups is None else [one for one, is_there in zip(self.groups, there, strict=True) if is_there]
        )

    def facts(self) -> dict[str, Any]:
        """Content of FACTS: `models`, `comparisons`."""
        first, *others = self.measured
        pairs = {other: (self.measured[first], self.measured[other]) for other in others}
        judged = {other: self._judged(other, *pair) for other, pair in pairs.items()}
        measures = {(other, name): one for other, pair in pairs.items() for name, one in self._measures(*pair).items()}
        measures |= {(other, "judge"): one[0] for other, one in judged.items() if one is not None}
        rows = _rows({key: one for key, one in measures.items() if key[1] == "score"}, first)
        rows |= _rows({key: one for key, one in measures.items() if key[1] != "score"}, first)
        slices = {
            (other, "score", by, rule): one
            for other, pair in pairs.items()
            for (by, rule), one in self._slices(*pair).items()
        }
        of_slices = _rows(slices, first)
        comparisons = [
            {
                "a": first,
                "b": other,
                "measures": {
                    key[1]: row | _undecided(self._one_sided(key[1], *pair))
                    for key, row in rows.items()
                    if key[0] == other
                },
                # Some of the fields without a value that has enough items; number of fields beyond MOST_FIELDS.
                "unsliced": [name for name, values in self.fields.items() if not frequent(values)][:MOST_FIELDS],
                "fields_left_out": self._divided[1],
                "equal_groups": None if self.groups is None else equal_groups(self.groups),
                "slices": sorted(
                    ({"by": key[2], "slice": key[3]} | row for key, row in of_slices.items() if key[0] == other),
                    key=lambda row: (row["difference"], row["slice"]),
                ),
                "judge": one[1] if (one := judged[other]) is not None else None,
                **self._changes(*pair),
            }
            for other, pair in pairs.items()
        ]
        swaps = self._swaps()
        return {
            "groups": None if self.groups is None else len({*self.groups}),
            "standing": self._standing(),
            "forgetting": self._forgetting(),
            "models": {name: self._of_model(one) | {"swaps": swaps[name]} for name, one in self.measured.items()},
            "comparisons": comparisons,
        }

    def _standing(self) -> dict[str, Any]:
        """The model with the highest score, and each other one beside it.

        P-values are corrected by Holm for all pairs of models, since the best one is chosen by the same scores.
        """
        scores = {name: one.by_measure["score"] for name, one in self.measured.items()}
        best = max(scores, key=lambda name: scores[name].mean())
        # In the order of the letters, as the comparisons: the interval of A and B is the same in both places.
        found = {
            (a, b): paired_difference(
                scores[a], scores[b], self.groups, scale=float(self.work.is_fraction("score", scores[b]))
            )
            for a, b in itertools.combinations(scores, 2)
        }
        others = {}
        for ((a, b), one), corrected in zip(found.items(), holm([one.p for one in found.values()]), strict=True):
            if best not in (a, b):
                continue
            low, difference, high = one.low, one.difference, one.high
            if a == best:
                low, difference, high = -high, -difference, -low
            worse = one.verdict(corrected) == ("A" if a == best else "B")
            others[b if a == best else a] = {
                "difference": difference,
                "low": low,
                "high": high,
                "p_corrected": corrected,
                "worse": worse,
                "needed": 0 if worse else one.needed(len(found)),
            }
        return {"best": best, "others": others}

    def _forgetting(self) -> dict[str, Any]:
        """Letter of a trained model -> its bits per byte of general text beside those of its base."""
        store = self.work.store
        texts = [text for table in read_tables(store, self.work.texts) for text in table["text"].to_pylist()]

        def logs(uris: Sequence[str]) -> np.ndarray:
            return np.array([row["log"] for row in rows_by_item(store, uris, len(texts))], float)

        pairs = {letter: (logs(after), logs(before)) for letter, (after, before) in self.work.general.items()}
        return forgetting(texts, pairs, paired_difference, holm)

    def _swaps(self) -> dict[str, dict[str, Any] | None]:
        """Letter -> its answers to swapped prompts beside those to the originals; None without `swaps`.

        P-values are corrected by Holm for all models and measures.
        """
        if self.work.swap is None:
            return dict.fromkeys(self.measured)
        questions = [row for table in read_tables(self.work.store, self.work.swapped) for row in table.to_pylist()]
        sides = {name: self._swapped(one, questions) for name, one in self.measured.items()}
        family = {
            (name, *key): one
            for name, side in sides.items()
            for key, one in side.differences(paired_difference, self.work.is_fraction).items()
        }
        corrected = dict(zip(family, holm([one.p for one in family.values()]), strict=True))
        return {
            name: side.facts(mean_interval)
            | {
                "beyond": {one: count for one, (_, values) in side.measures.items() if (count := _beyond(values))},
                "differences": [
                    {"measure": measure, "by": by, "items": one.items, "difference": one.difference, "low": one.low,
                     "high": one.high, "p": one.p, "p_corrected": corrected[letter, measure, by]}
                    for (letter, measure, by), one in family.items()
                    if letter == name
                ]
            }
            for name, side in sides.items()
        }  # fmt: skip

    def _swapped(self, one: _Measured, questions: Sequence[Mapping[str, Any]]) -> SwappedAnswers:
        """A model's answers to the swapped questions. Items whose request failed are left out."""
        config, swap = self.work.config, self.work.swap
        uris = self.work.models[one.name].swapped
        assert swap is not None and uris is not None
        answers = {row["item"]: row for table in read_tables(self.work.store, uris) for row in table.to_pylist()}
        if answers.keys() != {row["item"] for row in questions}:
            raise changed(uris[0] if uris else self.work.swapped[0])
        asked = [
            (row["item"], row["question"]) for row in questions
            if one.rows[row["item"]]["outcome"] == answers[row["item"]]["outcome"] == "answered"
        ]  # fmt: skip
        at = np.array([item for item, _ in asked], int)
        items = [Item(self.items[item].id, question, swap(self.items[item].answer)) for item, question in asked]
        after = [answers[item]["content"] for item in at]
        before = [one.answers[item] for item in at]
        wanted = ["" if text is None else swap(text) for text in before]
        same = by_item(config.answer, wanted, ["" if text is None else text for text in after])
        measures = {
            "score": by_item(config.answer, [item.answer for item in items], after),
            "refused": np.array([one.refuses(answers[item]) for item in at], float),
            **own_scores([plugin.loaded() for plugin in config.custom], items, after),
        }
        return SwappedAnswers(
            [item.id for item in items],
            [(self.items[item].question, question) for item, question in asked],
            [*zip(before, after, strict=True)],
            [swap.exchange(self.items[item].question)[1] for item in at],
            np.where([text == new for text, new in zip(wanted, after, strict=True)], 1.0, same),
            {
                name: (one.by_measure[name][at], np.clip(values, -_LARGEST, _LARGEST))
                for name, values in measures.items()
            },
            None if self.groups is None else [self.groups[item] for item in at],
            len(questions),
        )

    def _of_model(self, one: _Measured) -> dict[str, Any]:
        measures: dict[str, dict[str, float | None]] = {}
        for name, values in one.by_measure.items():
            there = np.isfinite(values)
            if not there.any():
                continue
            bounds = (0.0, 1.0) if self.work.is_fraction(name, values[there]) else None
            low, high = mean_interval(values[there], self._groups(there), bounds)
            measures[name] = {"value": float(values[there].mean()), "low": low, "high": high}
        measures["bleu"] = {"value": _bleu_of_sums(one.bleu.sum(axis=0)), "low": None, "high": None}
        return {
            "measures": measures,
            "input_tokens": one.input_tokens,
            "answered": sum(answer is not None for answer in one.answers),
            "truncated": sum(row["finish"] == "length" for row in one.rows),
            "uncounted": sum(row["outcome"] == "answered" and not _is_counted(row) for row in one.rows),
            "first_reason": next((row["reason"] for row in one.rows if row["content"] is None), None),
            "calibration": self._calibration(one),
            "beyond": {name: count for name, values in one.by_measure.items() if (count := _beyond(values))},
            "kl": self._kl(one),
            "gaps": self._gaps(one),
            "bbq": self._bbq(one),
        }

    def _calibration(self, one: _Measured) -> dict[str, Any] | None:
        """Confidence: exp of the mean log-probability of the answer's tokens. Right: equal to the reference."""
        if one.likelihood is None:
            return None
        confidence = np.exp(one.likelihood["answer_log"] / np.maximum(one.likelihood["answer_tokens"], 1))
        there = np.isfinite(confidence)
        if there.sum() < 2:
            return None
        return vars(calibration(np.minimum(confidence[there], 1), one.right[there], self._groups(there)))

    def _bbq(self, one: _Measured) -> dict[str, Any] | None:
        """The bias scores; None of items without the metadata of BBQ. `unread`: items that do not count."""
        if not has_choices(self.fields):
            return None
        same = _normalised.load()
        outcomes = [
            outcome({name: values[at] for name, values in self.fields.items()}, answer, same)
            for at, answer in enumerate(one.answers)
        ]
        return bias_scores(outcomes, self.groups, mean_interval) | {"unread": outcomes.count(None)}

    def _kl(self, one: _Measured) -> dict[str, Any] | None:
        """The mean log ratio of the probabilities of the model's own answers, by it and by the model of `kl_from`, in
        nats for each token; None if that model has another tokenizer, or nothing was measured.
        """
        uris = self.work.models[one.name].kl
        if uris is None or one.likelihood is None:
            return None
        rows = rows_by_item(self.work.store, uris, len(self.items))
        base, tokens = (np.array([row[name] for row in rows], float) for name in ("answer_log", "answer_tokens"))
        own = one.likelihood["answer_log"]
        there = np.isfinite(own) & np.isfinite(base)
        if not there.any() or (tokens != one.likelihood["answer_tokens"])[there].any():
            return None
        # The token that ends an answer is no part of its text.
        written = np.array([row["tokens"]["output"] - (row["finish"] == "stop") for row in one.rows], float)
        found = paired_difference(own[there], base[there], self._groups(there), weights=tokens[there])
        return {
            "value": found.difference,
            "low": found.low,
            "high": found.high,
            "answers": int(there.sum()),
            "tokens": int(tokens[there].sum()),
            "tokenised_otherwise": int((written != tokens)[there].sum()),
        }

    def _gaps(self, one: _Measured) -> list[dict[str, Any]]:
        """The gaps between the values of each field of `gaps`, within the model."""
        config = self.work.config
        measures = {
            "score": one.by_measure["score"],
            "errors": 1 - one.right,
            "without an answer": np.array([answer is None for answer in one.answers], float),
            **{name: one.by_measure[name] for name in ("refused", "output_tokens")},
            **{plugin.name: one.by_measure[plugin.name] for plugin in map(methodcaller("loaded"), config.custom)},
            **{name: one.by_measure[name] for name in config.rewards},
        }
        labels = []
        if config.answer == "label":
            same = _normalised.load()
            true, given = [same(item.answer) for item in self.items], [same(answer or "") for answer in one.answers]
            for label, _ in Counter(true).most_common(_LABELS):
                labels.append((label, np.array([x == label for x in true]), np.array([x == label for x in given])))
        return [
            {"field": field} | row
            for field in config.gaps
            for row in group_gaps(measures, labels, self.fields.get(field, [None] * len(self.items)))
        ]

    def _measures(self, a: _Measured, b: _Measured) -> dict[str, PairedDifference]:
        found: dict[str, PairedDifference] = {}
        for name, values in a.by_measure.items():
            if name not in b.by_measure:
                continue
            pair = np.stack([values, b.by_measure[name]])
            there = np.isfinite(pair).all(axis=0)
            if there.any():
                of_bytes = name == "bits_per_byte"
                left, right = (pair * a.bytes if of_bytes else pair)[:, there]
                found[name] = paired_difference(
                    left,
                    right,
                    self._groups(there),
                    weights=a.bytes[there] if of_bytes else None,
                    scale=float(self.work.is_fraction(name, pair[:, there])),
                )
        return found | {"bleu": corpus_difference(a.bleu, b.bleu, _bleu_of_sums.load(), self.groups)}

    def _one_sided(self, name: str, a: _Measured, b: _Measured) -> int:
        """Number of items with a value for one of both models; the model without one may be the worse one there."""
        if name not in a.by_measure:  # BLEU, and the judge's verdicts
            return 0
        return int((np.isfinite(a.by_measure[name]) != np.isfinite(b.by_measure[name])).sum())

    def _changes(self, a: _Measured, b: _Measured) -> dict[str, Any]:
        gains = a.by_measure["score"] - b.by_measure["score"]
        worst = sorted(np.flatnonzero(gains < 0).tolist(), key=lambda at: (gains[at], self.items[at].id))
        return {
            "improved": int((gains > 0).sum()),
            "regressed": len(worst),
            "regressions": [self._regression(at, a, b) for at in worst[:_WORST]],
        }

    def _regression(self, at: int, a: _Measured, b: _Measured) -> dict[str, Any]:
        item = self.items[at]
        texts = {"prompt": item.question, "reference": item.answer, "a": a.answers[at], "b": b.answers[at]}
        scores = {f"score_{name}": float(one.by_measure["score"][at]) for name, one in (("a", a), ("b", b))}
        return {"id": item.id, **scores, **{name: (text or "")[:_EXCERPT] for name, text in texts.items()}}

    @cached_property
    def _languages(self) -> list[str]:
        settings = LanguageId()
        classifier = identification.load(Store(), settings)
        texts = Texts.from_strings([one.question for one in self.items])
        return identification.identify(texts, classifier, settings.max_chars)[0].to_pylist()

    def _slices(self, a: _Measured, b: _Measured) -> dict[tuple[str, str], PairedDifference]:
        """(by, rule) -> the difference of `score` in the slice; only the first of slices with the same items."""
        lengths = np.array([len(one.question) for one in self.items], np.int64)
        pair = np.stack([a.by_measure["score"], b.by_measure["score"]])
        found, seen = dict[tuple[str, str], PairedDifference](), set[bytes]()
        for one in candidates(self._divided[0], lengths, self._languages, []):
            inside = one.members
            if inside.all() or inside.sum() < LEAST or inside.tobytes() in seen:
                continue
            seen.add(inside.tobytes())
            found[one.by, one.rule] = paired_difference(pair[0, inside], pair[1, inside], self._groups(inside))
        return found

    def _judged(self, other: str, a: _Measured, b: _Measured) -> tuple[PairedDifference, dict[str, Any]] | None:
        """The judge's verdicts: their mean as a difference, and their counts.

        An answer wins against a missing one. Equal answers are ties. Pairs without a readable verdict are ties in the
        difference, and its interval and p hold whoever would have won them: an answer can make the judge refuse.
        """
        if other not in self.work.judged:
            return None
        verdicts: dict[int, dict[str, str]] = {}
        for table in read_tables(self.work.store, self.work.judged[other]):
            for row in table.to_pylist():
                verdicts[int(row["provenance"]["parents"][0])] = row
        won = np.zeros(len(self.items))
        unread, asked = np.zeros(len(won), bool), 0
        for at, (one, two) in enumerate(zip(a.answers, b.answers, strict=True)):
            left, right = bool((one or "").strip()), bool((two or "").strip())
            if left and right and one != two:
                asked += 1
                better = verdicts[at]["better"] if at in verdicts else "tie"
                unread[at] = at not in verdicts
                won[at] = (better == "a") - (better == "b")
            else:
                won[at] = left - right
        shown = [(row["in_order"], row["swapped"], at) for at, row in verdicts.items()]
        first_shown = sum((in_order == "A") + (swapped == "B") for in_order, swapped, _ in shown)
        decided = sum((in_order != "tie") + (swapped != "tie") for in_order, swapped, _ in shown)
        longer = [
            (len(a.answers[at] or "") > len(b.answers[at] or "")) == (won[at] > 0)
            for at in verdicts
            if won[at] and len(a.answers[at] or "") != len(b.answers[at] or "")
        ]
        found = self._whoever_won(won, unread)
        return found, {
            "win_rate": float((1 + won.mean()) / 2),
            "wins": int((won > 0).sum()),
            "ties": int((won == 0).sum()),
            "losses": int((won < 0).sum()),
            "asked": asked,
            "unread": int(unread.sum()),
            "flipped": sum(in_order != swapped for in_order, swapped, _ in shown),
            "first_shown_wins": _share(first_shown, decided),
            "longer_wins": _share(sum(longer), len(longer)),
        }

    def _whoever_won(self, won: np.ndarray, unread: np.ndarray) -> PairedDifference:
        """The mean of won, with an interval and a p that hold if either model won all items of `unread`.

        won: float64[N], 1, 0 or -1. unread: bool[N].
        """
        nobody, first, other = (
            paired_difference(np.where(unread, side, won), np.zeros(len(won)), self.groups) for side in (0.0, 1.0, -1.0)
        )
        if not unread.any():
            return nobody
        is_sure = first.difference * other.difference > 0
        p = max(nobody.p, first.p, other.p) if is_sure else 1.0
        return replace(nobody, low=min(nobody.low, other.low), high=max(nobody.high, first.high), p=p, square=None)


def _undecided(one_sided: int) -> dict[str, Any]:
    """Further fields of a compared measure: what one model lacks for some items decides nothing."""
    return {"one_sided": one_sided} | ({"verdict": "undecided", "needed": None} if one_sided else {})


def _beyond(values: np.ndarray) -> int:
    """The number of values that were beyond `_LARGEST`, which they count as."""
    return int((np.abs(values) >= _LARGEST).sum())


def _share(count: int, total: int) -> dict[str, Any]:
    low, high = wilson(count, total)
    return {"share": count / total if total else None, "low": low, "high": high, "of": total}


def _is_fraction(name: str, values: np.ndarray) -> bool:
    """Whether all values are in [0, 1], and the measure is no log-likelihood, count, time or amount by its name."""
    return name not in ("log_likelihood", *LESS_IS_BETTER) and bool(((values >= 0) & (values <= 1)).all())


def _rows(family: Mapping[Any, PairedDifference], first: str) -> dict[Any, dict[str, Any]]:
    """The differences as rows with the better model, and p corrected for all of them. Keys: (other, measure, ...)."""
    found = {}
    for (key, one), corrected in zip(family.items(), holm([one.p for one in family.values()]), strict=True):
        verdict = one.verdict(corrected)
        if verdict != "undecided":
            verdict = first if (verdict == "A") != (key[1] in LESS_IS_BETTER) else key[0]
        plain = {name: value for name, value in vars(one).items() if name != "square"}
        needed = one.needed(len(family)) if verdict == "undecided" else 0
        found[key] = plain | {"p_corrected": corrected, "verdict": verdict, "needed": needed}
    return found
