"""Findings to metrics, a score of them, and gates with what would fix those that fail."""

from collections.abc import Mapping, Sequence
from statistics import stdev

from pydantic import BaseModel, ValidationError
from typing_extensions import TypedDict

from raymill.cluster.errors import DataError
from raymill.cluster.formats import count, plural
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.cluster.wording import in_the_run_file
from raymill.pipelines.prepare.assess.findings import Findings, RepeatedTexts
from raymill.pipelines.prepare.assess.fixes import AGAIN, FixContext, fix_of
from raymill.pipelines.prepare.assess.metrics import (
    FULL_MTLD,
    coverage,
    evenness,
    length_parity,
    mean,
    ratio,
    score_parity,
)
from raymill.pipelines.prepare.assess.settings import BALANCED, MAXIMA, Assess, Gates

FOLDS_JSON = "folds.json"
PREFIX = "trained_"  # of the names of metrics and gates
_NO_FRACTION = ("loss", "bleu")
_VALUES_SHOWN = 4
_DIVERSITIES = ("lexical", "structural", "semantic", "domain")
_BIAS = ("representation_", "length_parity_", "sentiment_parity_")


class TrainedScore(TypedDict):
    """A score over the folds. mean: in [0, 1]. worst: the fold with the least score, and the output of its training."""

    mean: float
    deviation: float
    folds: int
    worst: int
    worst_output: str


class _Spread(BaseModel):
    mean: float
    deviation: float


class _Fold(BaseModel):
    fold: int
    output: str
    scores: dict[str, float]


class _CrossValidation(BaseModel):
    datasets: dict[str, str]
    folds: list[_Fold]
    scores: dict[str, _Spread]


def read_trained(store: Store, at: str, output: str, digest: str) -> dict[str, TrainedScore]:
    """The scores by name, without those that are no fractions, such as the loss.

    Args:
        at: output of a cross-validation, or its folds.json. output, digest: of the data set.

    Raises:
        DataError: there is no such file, it is damaged, or it is of another data set or version.
    """
    uri = at if at.endswith(".json") else paths.join(at, FOLDS_JSON)
    if not store.exists(uri):
        raise DataError(
            f"{uri}: no result of a cross-validation. Run `raymill cross-validate CONFIG` with `corpus: {output}`, and "
            "give its output."
        )
    try:
        found = _CrossValidation.model_validate_json(store.read_bytes(uri))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{uri}: no result of `raymill cross-validate` ({where}: {first['msg']}). Run it again."
        ) from error
    if digest not in found.datasets.values():
        seen = ", ".join(f"{name} ({one[:12]})" for name, one in found.datasets.items())
        raise DataError(
            f"{uri}: of a training on {seen}; wanted {output} as it is now ({digest[:12]}). Run `raymill "
            "cross-validate` on this data set, with another output."
        )
    trained = {}
    for name, spread in found.scores.items():
        if name not in _NO_FRACTION and found.folds:
            worst = min(found.folds, key=lambda one, name=name: one.scores.get(name, 1.0))  # type: ignore[misc]
            trained[name] = TrainedScore(
                mean=spread.mean,
                deviation=spread.deviation,
                folds=len(found.folds),
                worst=worst.fold,
                worst_output=worst.output,
            )
    return trained


class QualityMetric(TypedDict):
    """value: in [0, 1]; None: not measured. meaning: what 0 and 1 are, in a few words. seen: the counts behind it."""

    name: str
    value: float | None
    meaning: str
    seen: str


class ScorePart(TypedDict):
    """A part of the score. value: None: not measured. weight: as used, of all measured parts together 1."""

    name: str
    weight: float
    value: float | None
    of: str


class Gate(TypedDict):
    """A bound on a metric or a part of the score.

    Attributes:
        state: passed, failed or not measured.
        seen: the metric's counts; empty for a part of the score.
        mend: how to fix a failed gate: records to look at, and a command.
    """

    name: str
    value: float | None
    bound: float
    state: str
    seen: str
    mend: str


class Assessment(TypedDict):
    """What assessment.json holds. records: without copies that balancing made. warnings: of what no gate judges."""

    records: int
    score: float | None
    parts: list[ScorePart]
    metrics: list[QualityMetric]
    gates: list[Gate]
    warnings: list[str]
    findings: Findings


def assessment_of(
    findings: Findings,
    settings: Assess,
    gates: Gates,
    prepared: FixContext,
    trained: Mapping[str, TrainedScore] | None = None,
    unchecked: Sequence[str] = (),
) -> Assessment:
    """The assessment that follows from findings.

    trained: scores of a cross-validated training; None: there is none. unchecked: settings of `validate` whose rules
    are not counted in the findings.
    """
    metrics = metrics_of(findings, settings, unchecked)
    for name, of_folds in (trained or {}).items():
        spread = f"standard deviation {of_folds['deviation']:.3f} over {plural(of_folds['folds'], 'fold')}"
        meaning = f"{name} of a model that was trained on the other folds"
        metrics.append(_metric(f"{PREFIX}{name}", of_folds["mean"], meaning, spread))
    values = {one["name"]: one["value"] for one in metrics}
    seen = {one["name"]: one["seen"] for one in metrics}
    parts = parts_of(values, settings.weights.model_dump())
    known = [one for one in parts if one["value"] is not None]
    score = sum(one["weight"] * (one["value"] or 0) for one in known) if any(one["weight"] for one in known) else None
    bounds = {name: bound for name, bound in gates.model_dump(exclude={"trained"}).items() if bound is not None}
    bounds |= {f"{PREFIX}{name}": bound for name, bound in gates.trained.items()}
    unseen = "no `--folds`" if trained is None else f"its scores: {', '.join(trained)}"
    seen |= {name: unseen for name in bounds if name.startswith(PREFIX) and name not in values}

    def fix(name: str) -> str:
        if name.startswith(PREFIX):
            folds = (trained or {})[name.removeprefix(PREFIX)]
            report = paths.join(folds["worst_output"], "report.html")
            return (
                f"Fold {folds['worst']} has the least score; {report} has its answers. Add records like those that it "
                f"fails, or correct these, then {AGAIN} and `raymill cross-validate CONFIG --replace`."
            )
        if name == "score":
            value, lowest = min((one["value"] or 0, one["name"]) for one in known if one["weight"])
            return f"The lowest part is {lowest} ({value:.3f}). {fix_of(lowest, findings, prepared)}"
        return fix_of(name, findings, prepared)

    judged, found = values | {one["name"]: one["value"] for one in parts} | {"score": score}, list[Gate]()
    for name, bound in bounds.items():
        value, state = judged.get(name), "not measured"
        if value is not None:
            state = "passed" if (value <= bound if name in MAXIMA else value >= bound) else "failed"
        why = in_the_run_file(fix(name)) if state == "failed" else ""
        found.append(Gate(name=name, value=value, bound=bound, state=state, seen=seen.get(name, ""), mend=why))
    warnings = [fix("leakage")] if values["leakage"] and "leakage" not in bounds else []
    if unchecked:
        named, is_one = " and ".join(f"validate.{name}" for name in unchecked), len(unchecked) == 1
        warnings.append(
            f"{named} {'is' if is_one else 'are'} not checked here: rule_conformity is of the other rules. To apply "
            f"{'it' if is_one else 'them'}, run `raymill prepare CONFIG --replace`."
        )
    return Assessment(
        records=findings["records"],
        score=score,
        parts=parts,
        metrics=metrics,
        gates=found,
        warnings=[in_the_run_file(one) for one in warnings],
        findings=findings,
    )


def metrics_of(findings: Findings, settings: Assess, unchecked: Sequence[str] = ()) -> list[QualityMetric]:
    """All metrics, measured or not. unchecked: as of `assessment_of`."""
    records, words, values = findings["records"], findings["words"], findings["values"]
    topics, questions, answers = findings["topics"], findings["questions"], findings["answers"]
    missing = ", ".join(f"{name} {count(number)}" for name, number in findings["missing"].items())
    languages = ", ".join(f"{name} {count(number)}" for name, number in list(findings["languages"].items())[:5])
    expected = ", ".join(findings["expected"]) or "no language"
    terms, forms = findings["terms"], findings["forms"] | findings["dates"]
    sources, leaks = values["source"], findings["leaks"]
    leaked = leaks["validation"] + leaks["test"]
    inconsistent = {
        "contradictory": findings["contradictory"],
        "not allowed": findings["not_allowed"],
        "in another format": findings["other_format"],
        "with a replaced term": terms,
    }
    lexical = [words["distinct_1"], words["distinct_2"], _scaled(words["mtld"])]
    forms_of = ("length", "turns", "task_type")
    varied = [name for name in forms_of if values[name]["distinct"] > 1]
    structural = [values[name]["evenness"] for name in varied]
    of_forms = "" if len(varied) == len(forms_of) else f"of {' and '.join(varied)}" if varied else "one value of each"
    sample = plural(words["tokens"], "word")
    found = [
        _metric(
            "completeness",
            _kept(findings["incomplete"]["records"], records),
            "records without an empty field",
            f"empty: {missing}" if missing else "",
        ),
        _metric(
            "consistency",
            _kept(findings["inconsistent"], records),
            "records without contradiction, in the usual format, with allowed values and terms",
            ", ".join(f"{name} {count(some['records'])}" for name, some in inconsistent.items() if some),
        ),
        _metric(
            "format_consistency",
            _kept(findings["other_format"]["records"], records),
            "records whose answer has the format of most of their task type",
            ", ".join(f"{name} {count(number)}" for name, number in forms.items()),
        ),
        _metric(
            "terminology_consistency",
            None if terms is None else _kept(terms["records"], records),
            "records without a term that `clean.terminology` replaces",
            "no `clean.terminology`" if terms is None else f"with a term {count(terms['records'])}",
        ),
        _metric(
            "duplication", _repeated(questions), "questions, or texts, that repeat an earlier one", _seen(questions)
        ),
        _metric("duplication_of_answers", _repeated(answers), "answers that repeat an earlier one", _seen(answers)),
        _metric(
            "leakage",
            ratio(leaked, leaks["compared"]),
            "records of validation and test that are in train",
            f"exact {count(leaks['exact'])}, near {count(leaked - leaks['exact'])} of {count(leaks['compared'])}"
            if leaks["compared"]
            else "no validation or test",
        ),
        _metric(
            "language_quality",
            _kept(findings["poor_language"], records),
            f"undamaged records in {expected}",
            "; ".join(filter(None, (languages, f"damaged {count(findings['damaged']['records'])}"))),
        ),
        _metric(
            "coverage",
            coverage(list(topics.values()), settings.topic_records),
            f"topics that at least {plural(settings.topic_records, 'record')} mention",
            f"of {plural(len(topics), 'topic')}" if topics else "no `assess.topics`",
        ),
        _metric(
            "relevance",
            ratio(findings["on_topic"], records) if topics else None,
            "records that mention a topic",
            count(findings["on_topic"]) if topics else "no `assess.topics`",
        ),
        # Of one source there is nothing to be spread evenly.
        _metric(
            "source_diversity",
            sources["evenness"] if sources["distinct"] > 1 else None,
            "evenness of the sources",
            "one source" if sources["distinct"] == 1 else _most("source", findings),
        ),
        _metric("distinct_1", words["distinct_1"], "distinct words of a sample", sample),
        _metric("distinct_2", words["distinct_2"], "distinct pairs of words of a sample", sample),
        _metric(
            "mtld",
            _scaled(words["mtld"]),
            f"MTLD of a sample by {FULL_MTLD:g}, at most 1",
            f"MTLD {words['mtld'] or 0:.0f}; {sample}",
        ),
        _metric("lexical_diversity", mean(lexical), "mean of distinct_1, distinct_2 and mtld", ""),
        _metric("structural_diversity", mean(structural), "mean evenness of lengths, turns and task types", of_forms),
    ]
    if findings["learned"] and settings.embeddings:
        groups, similar = findings["learned"]["groups"], findings["learned"]["similar"]
        # Fewer distinct texts than groups leave groups without records.
        possible = min(settings.embeddings.groups, records)
        sizes = groups + [0] * (possible - len(groups))
        largest = f"{plural(len(groups), 'group')}, the largest {count(groups[0])}" if groups else ""
        found.append(_metric("semantic_diversity", evenness(sizes), "evenness of groups of like texts", largest))
        if settings.examples:
            meaning = "mean similarity of answers to the nearest example"
            shown = f"of {plural(len(settings.examples), 'example')}"
            found.append(_metric("similarity_to_examples", similar["mean"], meaning, shown))
        relevant = findings["learned"]["relevant"]
        shown = f"least: {', '.join(relevant['ids'])}" if relevant["ids"] else "no question and answer"
        found.append(
            _metric("answer_relevance", relevant["mean"], "mean similarity of an answer to its question", shown)
        )
    domains = values.get("domain")
    several = domains is not None and len(domains["shown"].keys() - {""}) > 1
    found.append(
        _metric(
            "domain_diversity",
            domains["evenness"] if domains and several else None,
            "evenness of the domains",
            _most("domain", findings) if several else "fewer than two `domain`s",
        )
    )
    for name, of in values.items():
        if name in ("source", "domain") or (name in BALANCED and len(of["shown"].keys() - {""}) < 2):
            continue
        found.append(_metric(f"balance_{name}", of["evenness"], f"evenness of {name}", _most(name, findings)))
    return [
        *found,
        *_accuracy_metrics(findings, settings, unchecked),
        *_bias_metrics(findings),
        *_extrinsic(findings, settings),
    ]


def _accuracy_metrics(findings: Findings, settings: Assess, unchecked: Sequence[str]) -> list[QualityMetric]:
    found = []
    if findings["learned"] and settings.label:
        labels = findings["learned"]["labels"][settings.label]
        by = ", by `assess.predictions`" if settings.predictions else ""
        found.append(
            _metric(
                "label_quality",
                None if labels["errors"] is None else _kept(labels["errors"], labels["judged"]),
                f"records whose {settings.label} is probably right",
                f"probably wrong {count(labels['errors'])} of {count(labels['judged'])}{by}"
                if labels["errors"] is not None
                else "predicted no better than by chance",
            )
        )
    if agreement := findings["agreement"]:
        alpha = agreement["alpha"]
        found.append(
            _metric(
                "agreement",
                None if alpha is None else max(0.0, alpha),
                "Krippendorff's alpha of the annotators, at least 0",
                f"{count(agreement['differing']['records'])} of {plural(agreement['records'], 'record')} differ",
            )
        )
    if findings["rules"] is not None:
        rules = ", ".join(
            [
                *(f"{name} {count(number)}" for name, number in findings["rules"].items()),
                *(f"{name} not checked" for name in unchecked),
            ]
        )
        value = _kept(findings["violating"]["records"], findings["records"])
        found.append(_metric("rule_conformity", value, "records that meet the rules", rules))
    return found


def _bias_metrics(findings: Findings) -> list[QualityMetric]:
    found = []
    for name, of in findings["represented"].items():
        wanted = ", ".join(f"{value} {share:.0%}" for value, share in of["wanted"].items())
        meaning = f"likeness to {wanted or f'equal shares of {name}'}"
        found.append(_metric(f"representation_{name}", of["likeness"], meaning, _most(name, findings)))
    for name, lengths in findings["lengths"].items():
        ratios = [
            f"{one['value']} {one['ratio']:.2f} ({one['low']:.2f} to {one['high']:.2f})"
            for one in (lengths["ratios"] if lengths else [])[:_VALUES_SHOWN]
        ]
        against = f"times the length of {lengths['against']}: {', '.join(ratios)}" if lengths else ""
        value = length_parity(lengths)
        found.append(_metric(f"length_parity_{name}", value, f"shortest by longest {name}, where certain", against))
    for name, scores in findings["sentiments"].items():
        differences = [
            f"{one['value']} {one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"
            for one in (scores["differences"] if scores else [])[:_VALUES_SHOWN]
        ]
        against = f"beside {scores['against']} {scores['mean']:.3f}: {', '.join(differences)}" if scores else ""
        meaning = f"1 - greatest difference of mean scores by {name}, where certain"
        found.append(_metric(f"sentiment_parity_{name}", score_parity(scores), meaning, against))
    if periods := findings["periods"]:
        named = list(periods["records"])
        shown = f"{named[0]} to {named[-1]}, {plural(len(named), 'period')}" if named else "no date"
        found.append(_metric("representation_period", periods["evenness"], "evenness of months, or years", shown))
    return found


def _extrinsic(findings: Findings, settings: Assess) -> list[QualityMetric]:
    name = settings.extrinsic or settings.label
    if not findings["learned"] or name is None:
        return []
    labels = findings["learned"]["labels"][name]
    found = []
    for score in ("accuracy", "precision", "recall", "f1"):
        folds = labels["scores"].get(score, [])
        spread = f"standard deviation {stdev(folds):.3f} over {len(folds)} folds" if len(folds) > 1 else ""
        most = f"; most frequent value {labels['most_frequent']:.3f}" if folds and score == "accuracy" else ""
        found.append(
            _metric(f"extrinsic_{score}", mean(folds), f"{score} of a model that predicts {name}", spread + most)
        )
    return found


def parts_of(values: dict[str, float | None], weights: dict[str, float]) -> list[ScorePart]:
    """The parts of the score. The weights of those that are measured sum to 1."""
    measured = {
        "completeness": values["completeness"],
        "consistency": values["consistency"],
        "relevance": mean([values["relevance"], values.get("similarity_to_examples")]),
        "diversity": mean(values.get(f"{kind}_diversity") for kind in _DIVERSITIES),
        "accuracy": mean(values.get(name) for name in ("label_quality", "agreement", "rule_conformity")),
        "bias": mean(value for name, value in values.items() if name.startswith(_BIAS)),
    }
    of = {
        "relevance": "mean of relevance and similarity_to_examples",
        "diversity": "mean of lexical, structural, semantic and domain diversity",
        "accuracy": "mean of label_quality, agreement and rule_conformity",
        "bias": "mean of representation, length_parity and sentiment_parity",
    }
    without = {
        "relevance": "no `assess.topics` or `assess.examples`",
        "accuracy": "no `assess.label`, `assess.annotators` or column of annotators",
        "bias": "one source, and no `assess.groups` or `assess.period`",
    }
    total = sum(weight for name, weight in weights.items() if measured[name] is not None)
    return [
        ScorePart(
            name=name,
            weight=weight / total if measured[name] is not None and total else 0.0,
            value=measured[name],
            of=of.get(name, "") if measured[name] is not None else without.get(name, ""),
        )
        for name, weight in weights.items()
    ]


def failed(assessment: Assessment) -> list[Gate]:
    """The gates that the data set does not pass."""
    return [one for one in assessment["gates"] if one["state"] == "failed"]


def _metric(name: str, value: float | None, meaning: str, seen: str) -> QualityMetric:
    return QualityMetric(name=name, value=value, meaning=meaning, seen=seen)


def _kept(wrong: int, records: int) -> float | None:
    return ratio(records - wrong, records)


def _repeated(repeats: RepeatedTexts) -> float | None:
    return ratio(repeats["exact"] + repeats["near"], repeats["compared"])


def _seen(repeats: RepeatedTexts) -> str:
    return f"exact {count(repeats['exact'])}, near {count(repeats['near'])} of {count(repeats['compared'])}"


def _scaled(mtld: float | None) -> float | None:
    return None if mtld is None else min(1.0, mtld / FULL_MTLD)


def _most(name: str, findings: Findings) -> str:
    values = findings["values"][name]
    shown = ", ".join(f"{value or 'none'} {count(number)}" for value, number in list(values["shown"].items())[:4])
    more = values["distinct"] - 4
    return f"{shown}, +{more} more" if more > 0 else shown
