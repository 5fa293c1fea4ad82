"""The setting `rules`, and the language and rules of a config on texts: their signals, and the first check that fails.

A check compares one signal with one bound, a minimum or a maximum. A reason is the name of a failed check. Rules that
read the URL alone are checked first, since they also decide before a text is extracted; then the language, then each
other rule's checks in order.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
    model_serializer,
    model_validator,
)

from raymill.cluster.asking.embedding_model import EmbeddingModel
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.errors import DataError
from raymill.cluster.readers.inputs import PAGE_START, RESERVED_COLUMNS
from raymill.cluster.store.store import Store
from raymill.pipelines.language import identification as language
from raymill.pipelines.language.identification import REASONS as LANGUAGE_REASONS
from raymill.pipelines.language.identification import LanguageId, language_verdict
from raymill.pipelines.rules import PACKS, RULES, Check, Dialect, Rule
from raymill.pipelines.rules.custom import RuleUse, refuse_taken_names
from raymill.pipelines.rules.decontamination import Decontamination
from raymill.pipelines.rules.early_language import EarlyLanguage
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.text.personal_data import KINDS
from raymill.pipelines.text.texts import Texts

# Columns of the attributes besides signals, and of tables that rules read; no signal of a user has one of these names.
ATTRIBUTE_COLUMNS = RESERVED_COLUMNS | {
    *("text_hash", "characters", "bytes", "tokens", "signature", "newest_by"),
    *(f"personal_{kind}" for kind in KINDS),
}


BoundsByLanguage = dict[str, dict[str, dict[str, float]]]  # label of a language -> rule -> bound -> value


def bounds_of(rule: Rule) -> list[str]:
    """The settings of a rule that are numbers and change no measurement."""
    names = [one.name for one in fields(rule) if one.name not in rule.measured_by]  # type: ignore[arg-type]
    return [
        name
        for name in names
        if isinstance(value := getattr(rule, name), int | float | None) and not isinstance(value, bool)
    ]


class _RulesBase(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    _default_packs: ClassVar[tuple[str, ...]] = tuple(PACKS)

    packs: tuple[Literal[tuple(PACKS)], ...] = Field(  # type: ignore[valid-type]
        tuple(PACKS), description="Rule packs to apply, in this order; the first failed check is the reason of removal"
    )
    dialect: Dialect = Field(
        "paper", description="Definitions of the checks: those of the papers, or of datatrove 0.10.1"
    )
    by_language: BoundsByLanguage = Field(
        {},
        description="Bounds of single languages in place of those of the rules, as {de: {gopher_quality: {min_words: "
        "30}}}; a language is named by its label",
    )
    custom: tuple[RuleUse, ...] = Field(
        (), description="Rules of your own, classes or functions, applied after all others in this order"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_packs(cls, settings: Any) -> Any:
        """Give every pack in `packs` its default settings, so that they are printed with the config.

        A pack with null in place of its settings is left out.
        """
        if isinstance(settings, dict) and isinstance(packs := settings.get("packs", cls._default_packs), list | tuple):
            packs = [name for name in packs if name not in PACKS or settings.get(name, {}) is not None]
            return settings | {"packs": packs} | {name: settings.get(name, {}) for name in packs if name in PACKS}
        return settings

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.packs)) < len(self.packs):
            raise ValueError(f"packs: {list(self.packs)} names a pack twice; name each once")
        for name in PACKS:
            if getattr(self, name) is not None and name not in self.packs:
                raise ValueError(f"{name} has settings but is not in packs; add it there, or remove its settings")
        if self.custom:
            refuse_taken_names(self.active(), ATTRIBUTE_COLUMNS)
        for label, rules in self.by_language.items():
            for name, bounds in rules.items():
                self._refuse_no_bounds(f"by_language.{label}.{name}", name, bounds)
        quality = self.gopher_quality  # type: ignore[attr-defined]
        if self.dialect == "datatrove" and quality and not isinstance(quality.stop_words, str):
            raise ValueError("gopher_quality.stop_words: lists of your own need dialect: paper; datatrove has English")
        return self

    def _refuse_no_bounds(self, setting: str, name: str, bounds: Mapping[str, float]) -> None:
        rule = getattr(self, name, None) if name in RULES else None
        if rule is None or getattr(rule, "by_url", False):  # the URL is looked at before the language is known
            raise ValueError(f"{setting}: no rule of this name is applied; there are {', '.join(self._names())}")
        known = bounds_of(rule)
        if unknown := sorted(bounds.keys() - set(known)):
            raise ValueError(f"{setting}: {unknown[0]} is no bound of {name}; it has {', '.join(known)}")
        try:
            TypeAdapter(type(rule)).validate_python(asdict(rule) | dict(bounds))
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{setting}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error

    def _names(self) -> list[str]:
        return [one for one, rule in RULES.items() if getattr(self, one) and not getattr(rule, "by_url", False)]

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: Any) -> dict[str, Any]:
        """The settings, without those of later versions if not set: so records of earlier versions are equal."""
        plain = handler(self)
        for name in ("custom", "by_language"):
            if not getattr(self, name):
                plain.pop(name, None)
        for name in (
            "judge_score",
            "opt_out",
            "line_edits",
            "url_words",
            "repeated_pages",
            "quality_percentile",
            "early_language",
        ):
            if getattr(self, name) is None:
                plain.pop(name, None)
        return plain

    def active(self) -> tuple[Rule, ...]:
        """The rules with settings, in the order of their checks."""
        order = [name for name in RULES if name not in PACKS]
        first = list(RULES).index(next(iter(PACKS)))
        named = [n for n in order if list(RULES).index(n) < first] + [*self.packs]
        named += [n for n in order if n not in named]
        ours = tuple(rule for name in named if (rule := getattr(self, name)) is not None)
        return ours + tuple(one.rule for one in self.custom)

    @property
    def embedding_models(self) -> dict[str, EmbeddingModel]:
        """Setting -> the model of text vectors that it names."""
        judge = self.judge_score  # type: ignore[attr-defined]
        return {"judge_score.embedding": judge.embedding} if judge and judge.embedding else {}

    def without_endpoints(self) -> Self:
        """The rules without those that would ask an endpoint, as for a plan."""
        asks = any(one.endpoint for one in self.embedding_models.values())
        return self.model_copy(update={"judge_score": None}) if asks else self


# One optional field for each rule in RULES.
_fields: dict[str, Any] = {
    name: (rule | None, Field(None, description=f"{(rule.__doc__ or '').partition('.')[0]}; null: not applied"))
    for name, rule in RULES.items()
}
Rules: Any = create_model("Rules", __base__=_RulesBase, **_fields)


class RulesOfRecords(Rules):
    """Rules of `curate` on records for fine-tuning. Packs are made for web pages, so none applies unless named."""

    @model_validator(mode="after")
    def _no_archives(self) -> Self:
        if self.repeated_pages:  # type: ignore[attr-defined]
            raise ValueError(
                "repeated_pages: compares pages of web archives, and records are compared by `dedup`; leave it out"
            )
        if self.early_language:  # type: ignore[attr-defined]
            raise ValueError("early_language: is for pages of web archives; leave it out, or set `language`")
        return self

    _default_packs: ClassVar[tuple[str, ...]] = ()

    packs: tuple[Literal[tuple(PACKS)], ...] = Field(  # type: ignore[valid-type]
        (), description="Rule packs to apply, in this order; the first failed check is the reason of removal"
    )


LANGUAGE_NOT_KEPT, LOW_SCORE = LANGUAGE_REASONS


Name = tuple[str, str]  # the name of a check: (its rule or `language`, its reason)


@dataclass(frozen=True)
class Filters:
    """The settings that remove single documents: the language, and the rules in the order of their checks.

    Rules of the URL come before the language (`of_url`).

    by_language: bounds of single languages, as of the setting `rules.by_language`.
    embedding: the endpoints for text vectors; None: none is allowed.
    """

    language: LanguageId | None
    rules: tuple[Rule, ...]
    dialect: Dialect
    by_language: BoundsByLanguage = field(default_factory=dict)
    embedding: EmbeddingRun | None = field(default=None, compare=False)

    @property
    def of_url(self) -> tuple[Rule, ...]:
        """The rules that read the URL alone, in order."""
        return tuple(rule for rule in self.rules if getattr(rule, "by_url", False))

    @cached_property
    def url_checks(self) -> list[tuple[str, Check]]:
        """(rule's name, check) of the rules that read the URL alone, in order."""
        return [(rule.name, check) for rule in self.of_url for check in rule.checks(self.dialect)]

    @cached_property
    def text_checks(self) -> list[tuple[str, Check]]:
        """(rule's name, check) of the other rules, in order; without the language."""
        others = [rule for rule in self.rules if rule not in self.of_url]
        return [(rule.name, check) for rule in others for check in checks_by_language(rule, self)]

    @property
    def checks(self) -> list[tuple[str, Check]]:
        """(rule's name, check) of all rules, in order; without the language."""
        return self.url_checks + self.text_checks

    @property
    def decontamination(self) -> Decontamination | None:
        """The rule of this name, if it is set."""
        for rule in self.rules:
            if isinstance(rule, Decontamination):
                return rule
        return None


@dataclass(frozen=True)
class RemovedByUrl:
    """Which documents rules of the URL remove, for `Unwanted` of a reading.

    repeated: see Analysis. early: receives the values of `early_language` by place, for `signals`.
    """

    filters: Filters
    store: Store
    repeated: Mapping[str, str] = field(default_factory=dict)
    early: dict[str, float] = field(default_factory=dict)

    @property
    def reads_page_start(self) -> bool:
        """Whether a rule reads the beginning of pages."""
        return any(getattr(rule, "reads_page_start", False) for rule in self.filters.of_url)

    def __call__(self, columns: pa.Table) -> np.ndarray:
        return removed_by_url(columns, self.filters, self.store, self.repeated, self.early)


def removed_by_url(
    columns: pa.Table,
    filters: Filters,
    store: Store,
    repeated: Mapping[str, str] | None = None,
    early: dict[str, float] | None = None,
) -> np.ndarray:
    """bool[D]: the documents that rules of the URL remove, by their other columns alone.

    repeated: see Analysis. early: as of RemovedByUrl, to which the values are added if `columns` has PAGE_START.

    Raises:
        ConfigError, StorageError: as of `signals`.
    """
    texts = Texts.from_strings([""] * columns.num_rows)
    analysis = Analysis(texts, filters.dialect, columns, store, repeated=repeated or {}, early=early or {})
    removed = np.zeros(columns.num_rows, bool)
    for rule in filters.of_url:
        values = rule.measure(analysis)
        if isinstance(rule, EarlyLanguage) and early is not None and PAGE_START in columns.column_names:
            pairs = zip(columns["where"].to_pylist(), values["early_language_score"].tolist(), strict=True)
            early.update((place, value) for place, value in pairs if value == value)
        for check in rule.checks(filters.dialect):
            removed |= check.fails(values[check.signal])
    return removed


def signals(
    texts: Texts,
    columns: pa.Table,
    filters: Filters,
    store: Store,
    failures: dict[int, str] | None = None,
    repeated: Mapping[str, str] | None = None,
    early: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What the checks of the language and the rules compare, by name: a column of each signal.

    Args:
        texts: D normalised documents.
        columns: their other columns.
        store: of models and lists.
        repeated, early: see Analysis.
        failures: receives row -> message of the documents on which a rule of the user raised an exception.

    Raises:
        ConfigError, StorageError: a model or list is missing or damaged, or lacks a label of the settings.
        DataError: a rule of the user returned a value of another type or size than the interface of rules has; without
            `failures`, also if it raised an exception.
    """
    found: dict[str, Any] = {}
    if filters.language:
        classifier = language.load(store, filters.language)
        found["language"], found["language_score"] = language.identify(texts, classifier, filters.language.max_chars)
        columns = columns.append_column("language", found["language"])
    analysis = Analysis(
        texts, filters.dialect, columns, store, filters.embedding, repeated=repeated or {}, early=early or {}
    )
    for rule in filters.rules:
        found |= {name: values.astype(np.float64) for name, values in rule.measure(analysis).items()}
    if failures is not None:
        failures.update(analysis.failures)
    elif analysis.failures:
        row, message = next(iter(analysis.failures.items()))
        raise DataError(
            f"{message}, for the text that begins {texts[row][:60]!r}; {len(analysis.failures)} of {len(texts)} texts "
            "failed. Correct the rule, so that it takes any text."
        )
    return found


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A check on D documents.

    rule: name of the rule, or `language`. fails: bool[D]. value, threshold: float64[D], the signal and its bound.
    """

    rule: str
    reason: str
    fails: np.ndarray
    value: np.ndarray
    threshold: np.ndarray


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The first failed check of each of D documents. The artifact VERDICTS has rows for the removed ones only.

    reasons: (rule or `language`, reason) of all checks. code: int16[D], index in `reasons`, -1 for documents that stay.
    value, threshold: float64[D], NaN for documents that stay.
    """

    reasons: tuple[Name, ...]
    code: np.ndarray
    value: np.ndarray
    threshold: np.ndarray

    @property
    def removed(self) -> np.ndarray:
        """bool[D]."""
        return self.code >= 0


def all_reasons(filters: Filters) -> tuple[Name, ...]:
    """(rule or `language`, reason) of every check of these filters, in order."""
    of_language = [("language", reason) for reason in LANGUAGE_REASONS] if filters.language else []
    of_url, of_text = ([(rule, one.reason) for rule, one in c] for c in (filters.url_checks, filters.text_checks))
    return tuple(dict.fromkeys(of_url + of_language + of_text))


def checks_by_language(rule: Rule, filters: Filters) -> Iterator[Check]:
    """The checks of a rule, with the bounds of single languages."""
    others = {
        language: replace(rule, **bounds[rule.name]).checks(filters.dialect)  # type: ignore[type-var]
        for language, bounds in filters.by_language.items()
        if rule.name in bounds
    }
    for at, check in enumerate(rule.checks(filters.dialect)):
        bounds = tuple((language, of_language[at].threshold) for language, of_language in others.items())
        yield replace(check, by_language=bounds) if bounds else check


def checks_by_signal(filters: Filters) -> dict[str, list[Check]]:
    """The checks on each signal. For `language_score` the bound is the default min_score; languages in min_scores have
    others.
    """
    found: dict[str, list[Check]] = {}
    for _, check in filters.checks:
        found.setdefault(check.signal, []).append(check)
    if filters.language:
        found["language_score"] = [Check(LOW_SCORE, "language_score", minimum=filters.language.min_score)]
    return found


def check_settings(filters: Filters) -> dict[Name, object]:
    """The settings that decide each check, by its name; equal settings of a check give equal results."""
    found: dict[Name, object] = {
        ("language", reason): filters.language for reason in LANGUAGE_REASONS if filters.language
    }
    for rule, check in filters.checks:
        found[rule, check.reason] = (*found.get((rule, check.reason), ()), check)  # type: ignore[misc]
    return found


def needed_columns(filters: Filters, only: Collection[Name] | None = None) -> list[str]:
    """The columns of the attributes that `check_results` reads, with the same `only`."""
    wanted = _is_named(only)
    names = (
        ["language", "language_score"]
        if filters.language and any(wanted("language", r) for r in LANGUAGE_REASONS)
        else []
    )
    found = [check for rule, check in filters.checks if wanted(rule, check.reason)]
    signals = {check.signal for check in found} | ({"language"} if any(one.by_language for one in found) else set())
    return names + sorted(signals - set(names))


def check_results(
    attributes: pa.Table, filters: Filters, only: Collection[Name] | None = None
) -> Iterator[CheckResult]:
    """The result on all documents of every check, or of those named in `only`, in the order of the checks."""
    wanted = _is_named(only)
    yield from _results(attributes, filters.url_checks, wanted)
    if filters.language and any(wanted("language", reason) for reason in LANGUAGE_REASONS):
        scores = attributes["language_score"].to_numpy()
        reasons, value, threshold = language_verdict(attributes["language"], scores, filters.language)
        given = reasons.to_numpy(zero_copy_only=False)
        none = np.full(len(value), np.nan)  # the language is not a number
        yield CheckResult("language", LANGUAGE_NOT_KEPT, given == LANGUAGE_NOT_KEPT, none, none)
        yield CheckResult("language", LOW_SCORE, given == LOW_SCORE, value, threshold)
    yield from _results(attributes, filters.text_checks, wanted)


def _results(
    attributes: pa.Table, of_rules: Iterable[tuple[str, Check]], wanted: Callable[[str, str], bool]
) -> Iterator[CheckResult]:
    for rule, check in of_rules:
        if wanted(rule, check.reason):
            values, thresholds = attributes[check.signal].to_numpy().astype(np.float64), check.thresholds(attributes)
            yield CheckResult(rule, check.reason, check.fails(values, thresholds), values, thresholds)


def _is_named(only: Collection[Name] | None) -> Callable[[str, str], bool]:
    return lambda rule, reason: only is None or (rule, reason) in only


def decide(attributes: pa.Table, filters: Filters) -> Verdicts:
    """The first failed check of each document. attributes: D documents with `needed_columns`."""
    reasons = all_reasons(filters)
    code = np.full(attributes.num_rows, -1, np.int16)
    value, threshold = np.full((2, attributes.num_rows), np.nan)
    for check in check_results(attributes, filters):
        first = check.fails & (code < 0)
        code[first] = reasons.index((check.rule, check.reason))
        value[first], threshold[first] = check.value[first], check.threshold[first]
    return Verdicts(reasons, code, value, threshold)
