"""The rules that a record must meet, in the order in which they are checked. The first that fails is the reason."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property, lru_cache, partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from jsonschema.exceptions import best_match
from jsonschema.protocols import Validator as SchemaValidator
from jsonschema.validators import Draft202012Validator, validator_for
from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from referencing import Registry

from raymill.cluster.asking.embedding_model import DECISIVE, EmbeddingModel
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.asking.pending import AskingStopped
from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.examples.content import Chat, Content, as_columns, question_and_answer
from raymill.cluster.examples.texts import texts_of
from raymill.cluster.guard import Exceeded, Failed, Guard
from raymill.cluster.json_schema import check_json_schema
from raymill.cluster.plugins import Plugin, PluginError, PluginKind, PluginUse, call, shown_value
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.store import paths
from raymill.cluster.store.copies import local_file, sha256_of
from raymill.cluster.store.store import Store
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.language.fasttext_file import LABEL_PREFIX
from raymill.pipelines.language.identification import LanguageId, excerpts, identify
from raymill.pipelines.prepare.assess.settings import TextVectors
from raymill.pipelines.prepare.records.answers import (
    begins_with,
    consists_of,
    copied_share,
    cut_off,
    parsed_json,
    sentences,
    shared_words,
    without_last_mark,
    words,
)
from raymill.pipelines.prepare.records.fields import FailedRule, values_of
from raymill.pipelines.prepare.records.outliers import Outliers
from raymill.pipelines.prepare.records.times import microseconds
from raymill.pipelines.rules import RULES
from raymill.pipelines.rules.bad_words import BadWords
from raymill.pipelines.rules.filters import LANGUAGE_NOT_KEPT, Filters, RulesOfRecords, decide, signals
from raymill.pipelines.rules.rule import Analysis, files_read_by
from raymill.pipelines.text.texts import Texts

# Answers of an assistant that declines, in lower case.
REFUSALS = (
    "as an ai",
    "as a language model",
    "as a large language model",
    "i'm sorry, but i can",
    "i am sorry, but i can",
    "i cannot assist with",
    "i can't assist with",
    "i cannot help with that",
    "i can't help with that",
)
# What an answer may begin its sentences with and say nothing, in lower case.
BOILERPLATE = (
    "hi",
    "hello",
    "dear",
    *("thank you for contacting", "thank you for reaching out", "thank you for getting in touch"),
    *("thank you for your", "thanks for contacting", "thanks for reaching out", "thanks for getting in touch"),
    *("thanks for your", "we have received your", "we received your", "your request has been received"),
    *("your ticket has been", "your message has been received", "a member of our team will"),
    *("one of our agents will", "we will get back to you", "we'll get back to you", "we will respond"),
    *("we aim to respond", "this is an automated", "this is an automatic", "please do not reply"),
    *("i hope this helps", "hope this helps", "let me know if you", "please let us know if you"),
    *("if you have any other questions", "if you have any further questions", "have a great day"),
    *("kind regards", "best regards", "regards", "sincerely"),
)
Bounds = tuple[int, int]
VALIDATE_VERSION = "1"
_RULES: dict[str, Any] = RULES
# reason -> what it says of a record.
REASONS = {
    **{reason: f"a check of `validate.rules.{name}`" for name, rule in _RULES.items() for reason in rule.reasons},
    "missing_metadata": "a field that `validate.require` names is missing or empty",
    "not_allowed": "a field has a value that is not in `validate.allowed`",
    "too_old": "a date before `validate.since`, or none",
    "no_time": "no date or time in a known form in the field of `split.by_time`",
    "too_new": "a date after `validate.until`, or none",
    "terms_forbidden": "made by a model under terms that `terms.forbid` names",
    "licence_not_allowed": "a licence that is not in `validate.licences`, or none",
    "text_too_short": "fewer characters than `validate.text_chars`",
    "text_too_long": "more characters than `validate.text_chars`",
    "question_too_short": "fewer characters than `validate.question_chars`",
    "question_too_long": "more characters than `validate.question_chars`",
    "answer_too_short": "fewer characters than `validate.answer_chars`",
    "answer_too_long": "more characters than `validate.answer_chars`",
    "copied_answer": "the answer is the question again",
    "refusal": "a sentence of the answer begins like one of `validate.refusals`",
    "boilerplate": "all sentences of the answer begin like one of `validate.boilerplate`",
    "answer_in_question": "the question has most of the answer, by `validate.answer_in_question`",
    "truncated_answer": "the answer ends within a sentence, bracket or code fence, by `validate.truncated_answers`",
    "not_relevant": "question and answer have fewer words in common than `validate.relevance`",
    "not_json": "the answer is no JSON, of which `validate.json_schema` is the schema",
    "not_in_schema": "the answer is not as `validate.json_schema` wants it",
    "schema_too_slow": "the check of the answer against `validate.json_schema` takes too much time or memory",
    "other_language": "question and answer are in different languages, by `validate.same_language`",
    "language_not_kept": "a language that is not in `validate.language.keep`",
    "language_low_score": "no language is as probable as `validate.language` wants",
    "bad_words": "more words of the lists of `validate.bad_words` than allowed",
    "inappropriate": "the classifier of `validate.inappropriate` gives more than `max_score`",
}
_SHOWN = 80  # characters of a value in the ledger
_LANGUAGE = LanguageId()
_LIMITS = Limits()
Record = tuple[Content, Mapping[str, str | None]]


class InappropriateContent(BaseModel, extra="forbid", frozen=True):
    """A fastText classifier of texts that no record may have."""

    model: paths.AbsolutePath = Field(
        description="Path or URI of a supervised fastText model (.bin or .ftz) that recognises inappropriate content"
    )
    label: str = Field(
        min_length=1, description="Label of inappropriate content in the model, with or without __label__"
    )
    max_score: float = Field(
        0.5, ge=0, le=1, description="Maximum probability of inappropriate content that a record may have"
    )
    max_chars: int = Field(
        5000,
        ge=20,
        le=10_000_000,
        description="Maximum number of characters of a record that the model of inappropriate content reads",
    )


class RecordRuleUse(PluginUse):
    """A rule of the user on whole records, as `module:attribute`, or with settings."""

    kind: ClassVar = PluginKind("rule on records", "raymill.record_rules", ("record",), ("keep",))

    def check(self, plugin: Plugin) -> None:
        """Verify that the name of the rule is no reason of another rule. Raises ConfigError."""
        if plugin.name in REASONS:
            raise ConfigError(
                f"{plugin.use}: the rule's name, {plugin.name}, is a reason of Raymill; give it another `name`"
            )


class AnswerRelevance(TextVectors):
    """Bound on the similarity of an answer's vector to its question's."""

    min_cosine: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Minimum cosine similarity of the vectors of an answer and of what precedes it; records with no "
        "known word in one of them are kept",
    )
    dimensions: int = Field(128, ge=2, le=512, description="Number of dimensions of text vectors if `model` is null")


class Validate(BaseModel, extra="forbid", frozen=True):
    """The rules that a record must meet. Questions are what precedes the last answer."""

    question_chars: Bounds | None = Field(
        (10, 500), description="Minimum and maximum number of characters of a question; null: no bounds"
    )
    answer_chars: Bounds | None = Field(
        (20, 2000), description="Minimum and maximum number of characters of an answer; null: no bounds"
    )
    text_chars: Bounds | None = Field(
        None, description="Minimum and maximum number of characters of a plain text; null: no bounds"
    )
    require: tuple[str, ...] = Field(
        (), description="Metadata fields that every record must have; records from documents without columns need none"
    )
    allowed: dict[str, tuple[str, ...]] = Field(
        {}, description="Permitted values of metadata fields, as {FIELD: [VALUE]}"
    )
    since: dict[str, date] = Field(
        {},
        description="Earliest permitted date of metadata fields, as {FIELD: DATE}; records without a date are removed",
    )
    until: dict[str, date] = Field(
        {}, description="Latest permitted date of metadata fields, as {FIELD: DATE}; records without a date are removed"
    )
    licences: tuple[str, ...] | None = Field(
        None, description="Permitted licences; records without a licence are removed; null: any licence, or none"
    )
    refusals: tuple[str, ...] = Field(
        REFUSALS,
        description="Beginnings of sentences; records with such a sentence in their answer are removed as refusals",
    )
    copied_answer: bool = Field(True, description="Whether records whose answer is the question again are removed")
    answer_in_question: float | None = Field(
        0.8,
        gt=0,
        le=1,
        description="Fraction of the answer's word 5-grams that occur in the question, from which the record is "
        "removed; the `input` of an instruction does not count as question; null: not checked",
    )
    boilerplate: tuple[str, ...] = Field(
        BOILERPLATE,
        description="Beginnings of sentences; records whose answer has only such sentences are removed as boilerplate",
    )
    truncated_answers: Literal["keep", "open", "sentence"] = Field(
        "open",
        description="Answers that are removed as cut off: keep (none), open (end in an open bracket, comma, dash or "
        "a word such as `the`), or sentence (also a last line of prose without a final mark)",
    )
    relevance: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Minimum fraction of the words of the shorter text that question and answer have in common; "
        "null: not checked",
    )
    answer_relevance: AnswerRelevance | None = Field(
        None,
        description="Minimum similarity of an answer to its question, by text vectors; `{}` has the default "
        "settings; null: not checked",
    )
    same_language: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Probability of both identified languages from which question and answer must be in the same "
        "one; 0.65 is usual; null: not checked",
    )
    json_schema: paths.AbsolutePath | dict[str, Any] | None = Field(
        None,
        description="JSON Schema that answers must meet, or its path; answers must then be JSON; null: not checked",
    )
    language: LanguageId | None = Field(None, description="Languages that the texts of a record may be in; null: any")
    rules: RulesOfRecords | None = Field(
        None, description="Quality rules of `curate` for the texts of a record, decontamination included; null: none"
    )
    bad_words: BadWords | None = Field(None, description="Lists of words that a record must not have; null: none")
    inappropriate: InappropriateContent | None = Field(
        None, description="Classifier of inappropriate content, which is removed; null: none"
    )
    custom: tuple[RecordRuleUse, ...] = Field(
        (),
        description="Rules of your own on whole records, classes or functions from a dictionary with `question`, "
        "`answer`, `text` and `metadata` to whether the record is kept, applied in this order after the other rules on "
        "single records",
    )
    outliers: Outliers | None = Field(
        None,
        description="Search for records of unusual length, among those that meet the rules and are no duplicates; "
        "null: none",
    )

    @property
    def embedding_models(self) -> dict[str, EmbeddingModel]:
        """Setting -> the model of text vectors that it names."""
        found = {f"rules.{name}": one for name, one in self.rules.embedding_models.items()} if self.rules else {}
        if self.answer_relevance and self.answer_relevance.model:
            found["answer_relevance.model"] = self.answer_relevance.model
        return found

    def without_endpoints(self) -> "Validate":
        """The settings with nothing that would ask an endpoint, as for a plan."""
        relevance, rules = self.answer_relevance, self.rules
        if relevance and relevance.model and relevance.model.endpoint:
            relevance = relevance.model_copy(update={"model": None})
        return self.model_copy(update={"answer_relevance": relevance, "rules": rules and rules.without_endpoints()})

    def of_all_records(self, other: "Validate") -> tuple[str, ...]:
        """The settings that compare a record with all others and that `other` does not have equally."""
        compared = {"answer_relevance": self.answer_relevance, "outliers": self.outliers}
        return tuple(name for name, rule in compared.items() if rule and rule != getattr(other, name))

    @property
    def files(self) -> tuple[str, ...]:
        """Lists, models, evaluation sets and the schema that the rules read."""
        of_curate = [*self.filters.rules, *([self.language] if self.language else [])]
        lists = [path for rule in (*of_curate, self.bad_words) for path in files_read_by(rule)]
        model = [self.inappropriate.model] if self.inappropriate else []
        schema = [self.json_schema] if isinstance(self.json_schema, str) else []
        return (*lists, *model, *schema)

    @property
    def filters(self) -> Filters:
        """The rules of `curate`, and the languages."""
        if self.rules is None:
            return Filters(self.language, (), "paper")
        return Filters(self.language, self.rules.active(), self.rules.dialect, self.rules.by_language)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("question_chars", "answer_chars", "text_chars"):
            if (bounds := getattr(self, name)) and not 0 <= bounds[0] <= bounds[1]:
                raise ValueError(f"{name}: {list(bounds)} is no range; the first number is the least")
        if self.rules and self.rules.by_language and not self.language:
            raise ValueError("rules.by_language needs `language`, which identifies the languages")
        names = [one.plugin.name for one in self.custom if one.plugin]
        names += [one.name for one in self.rules.active()] if self.custom and self.rules else []
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"custom: two rules have the name {twice[0]}; give one another `name`")
        return self

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `custom` where it is empty, so that records of earlier versions are equal."""
        return {name: value for name, value in handler(self).items() if name != "custom" or value}


def load_validator(
    store: Store,
    settings: Validate,
    by_time: str | None = None,
    forbidden_terms: Sequence[str] = (),
    embedding: EmbeddingRun | None = None,
) -> "Validator":
    """The rules of the settings, with the schema that they name. Opens every list and model.

    by_time: metadata with the time that decides the split. forbidden_terms: of generated records. embedding: the
    endpoints for text vectors.

    Raises:
        ConfigError, StorageError: the schema, a list or a model is missing or damaged, or lacks the label.
    """
    schema, where = settings.json_schema, "validate.json_schema"
    try:
        if isinstance(schema, str):
            where = f"{where}: {schema}"
            file = local_file(store, schema, "validate.json_schema")
            schema = parsed_json(Store().read_bytes(str(file.path)).decode("utf-8-sig"))
        if schema is not None:
            if not isinstance(schema, dict):
                raise ValueError('it is no JSON object; wanted a schema such as {"type": "object"}')
            check_json_schema(schema, of_any_draft=True)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}. Correct the schema.") from error
    validator = Validator(settings, store, schema, by_time, tuple(forbidden_terms), embedding)
    validator.check_files()
    return validator


@dataclass(frozen=True)
class Validator:
    """Checks records.

    store: of lists and models. schema: of answers, None without one. by_time: metadata with the time that decides the
    split. forbidden_terms: of generated records. embedding: the endpoints for text vectors.
    """

    settings: Validate
    store: Store
    schema: Mapping[str, Any] | None = None
    by_time: str | None = None
    forbidden_terms: tuple[str, ...] = ()
    embedding: EmbeddingRun | None = None

    def __call__(self, records: Sequence[Record], goes_on: Sequence[bool] = ()) -> list[FailedRule | None]:
        """Of each record the first rule that it does not meet; None if it meets all.

        goes_on: whether the answer of a record is a part of a text, which another record continues; default: none is.
        Its end is where the text was divided, so `truncated_answers` does not apply.
        Cost: 10 us a record with the default rules, most of it for the words of question and answer.
        """
        parts = goes_on or [False] * len(records)
        found = [self._by_itself(*record, is_part) for record, is_part in zip(records, parts, strict=True)]
        for check in self._of_columns:
            passing = [at for at, failed in enumerate(found) if failed is None]
            for at, failed in zip(passing, check([records[at] for at in passing]), strict=True):
                found[at] = failed
        return found

    def check_files(self) -> None:
        """Open the lists and models of the settings.

        Raises:
            ConfigError, StorageError: one is missing or damaged, or lacks the label.
        """
        for check in self._of_columns:
            check([])

    def depends_on(self) -> list[Any]:
        """Everything on which the verdicts depend, as JSON values."""
        settings = self.settings
        files = [sha256_of(local_file(self.store, file, "validate")) for file in settings.files]
        if settings.same_language is not None or (settings.language and settings.language.model is None):
            files.append(fasttext_classifier.fingerprint(self.store, None))
        elsewhere: dict[str, Any] = {
            "json_schema": True, "answer_relevance": True, "outliers": {"deviations", "found"},
        }  # fmt: skip
        plain = settings.model_dump(mode="json", exclude=elsewhere, context=DECISIVE)
        found = [VALIDATE_VERSION, plain, self.schema, files]
        return [*found, self.forbidden_terms] if self.forbidden_terms else found

    # --- rules on one record

    def _by_itself(
        self, content: Content, metadata: Mapping[str, str | None], is_part: bool = False
    ) -> FailedRule | None:
        settings = self.settings
        for name in settings.require:
            if not metadata.get(name):
                return FailedRule("missing_metadata", name, "a value")
        for name, values in settings.allowed.items():
            if other := [value for value in values_of(name, metadata.get(name)) if value not in values]:
                return FailedRule("not_allowed", f"{name}: {other[0]}", ", ".join(values))
        for name, earliest in settings.since.items():
            if not (value := metadata.get(name) or "") or _date(value) < earliest:
                return FailedRule("too_old", f"{name}: {value}", earliest.isoformat())
        if self.by_time is not None and microseconds(metadata.get(self.by_time)) is None:
            return FailedRule("no_time", f"{self.by_time}: {metadata.get(self.by_time) or ''}", "a date or time")
        for name, latest in settings.until.items():
            if not (value := metadata.get(name) or "") or not date.min < _date(value) <= latest:
                return FailedRule("too_new", f"{name}: {value}", latest.isoformat())
        if (terms := metadata.get("terms")) in self.forbidden_terms:
            return FailedRule("terms_forbidden", terms or "", f"none of {', '.join(self.forbidden_terms)}")
        if (allowed := settings.licences) is not None and metadata.get("licence") not in allowed:
            return FailedRule("licence_not_allowed", metadata.get("licence") or "", ", ".join(allowed))
        asked = question_and_answer(content)
        if asked is None:
            assert isinstance(content, str)
            return self._length("text", content, settings.text_chars)
        question, answer = asked
        lengths = self._length("question", question, settings.question_chars)
        if lengths or not answer:  # an answer of tool calls alone has no text
            return lengths
        if failed := self._length("answer", answer, settings.answer_chars):
            return failed
        if self.schema is not None:
            return None  # the schema is checked for all records together
        refusals, boilerplate = self._lower
        of_answer = sentences(answer) if refusals or boilerplate else []
        if refused := begins_with(of_answer, refusals):
            return FailedRule("refusal", refused[0][:_SHOWN], refused[1])
        if consists_of(of_answer, boilerplate):
            return FailedRule("boilerplate", answer[:_SHOWN], "another sentence")
        limit, least = settings.answer_in_question, settings.relevance
        if settings.copied_answer or limit is not None or least is not None:
            asked_words, said = words(question), words(answer)
            if settings.copied_answer and asked_words == said:
                return FailedRule("copied_answer", answer[:_SHOWN], "another text than the question")
            if limit is not None:
                apart = content.input if isinstance(content, Chat) else ""  # the end of the question
                before = words(question[: -len(apart)]) if apart else asked_words
                if share := copied_share(before, said, limit):
                    return FailedRule("answer_in_question", f"{share:.2f}", f"{limit:g}")
            if least is not None and (share := shared_words(asked_words, said)) < least:
                return FailedRule("not_relevant", f"{share:.2f}", f"{least:g}")
        if not is_part and settings.truncated_answers != "keep":
            if why := cut_off(answer):
                return FailedRule("truncated_answer", f"{why}: {answer[-_SHOWN:]}", "a whole text")
            if settings.truncated_answers == "sentence" and without_last_mark(answer):
                return FailedRule("truncated_answer", answer[-_SHOWN:], "a mark at the end")
        return None

    def _length(self, name: str, text: str, bounds: tuple[int, int] | None) -> FailedRule | None:
        if bounds is None or bounds[0] <= len(text) <= bounds[1]:
            return None
        short = len(text) < bounds[0]
        return FailedRule(f"{name}_too_{'short' if short else 'long'}", str(len(text)), str(bounds[0 if short else 1]))

    @cached_property
    def _lower(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(refusals, boilerplate) in lower case."""
        of_both = (self.settings.refusals, self.settings.boilerplate)
        refusals, boilerplate = (tuple(phrase.lower() for phrase in phrases) for phrases in of_both)
        return refusals, boilerplate

    # --- rules on columns of texts

    @property
    def _of_columns(self) -> list[Callable[[Sequence[Record]], list[FailedRule | None]]]:
        rules = (
            (self.schema, self._structured),
            (self.settings.language or self.settings.rules, self._rules_of_curate),
            (self.settings.same_language, self._languages),
            (self.settings.bad_words, self._bad_words),
            (self.settings.inappropriate, self._inappropriate),
            (self.settings.custom or None, self._custom),
        )
        return [check for wanted, check in rules if wanted is not None]

    def _structured(self, records: Sequence[Record]) -> list[FailedRule | None]:
        """Whether answers are JSON as the schema wants it. A regular expression of a schema can take any time."""
        of_all = [(question_and_answer(content) or ("", ""))[1] for content, _ in records]
        answered = [at for at, answer in enumerate(of_all) if answer]
        answers = [of_all[at] for at in answered]
        bounds = [_LIMITS.of_parser("", len(one)) for one in answers]
        failed: list[FailedRule | None] = [None] * len(records)
        for at, found in zip(answered, _schema_checks(json.dumps(self.schema)).map(answers, bounds), strict=True):
            if not isinstance(found, Failed):
                failed[at] = found
            elif isinstance(found.error, Exceeded):
                failed[at] = FailedRule("schema_too_slow", found.error.seen, "less")
            else:
                raise found.error
        return failed

    def _rules_of_curate(self, records: Sequence[Record]) -> list[FailedRule | None]:
        filters = replace(self.settings.filters, embedding=self.embedding)
        names = sorted({name for _, metadata in records for name in metadata} - {"text"})
        columns = {name: pa.array([metadata.get(name) for _, metadata in records], pa.string()) for name in names}
        if filters.language:
            columns.pop("language", None)
        texts = texts_of_records(records)
        try:
            found = signals(texts, pa.table({"_row": np.arange(len(records)), **columns}), filters, self.store)
        except AskingStopped:
            raise
        except UserError as error:
            first = str(error).partition(".")[0]
            within = "validate." if first == "language" else "validate.rules." if first in RULES else "validate.rules: "
            raise ConfigError(f"{within}{error}") from error
        verdicts = decide(pa.table(found), filters)
        languages = found["language"].to_pylist() if filters.language else []
        failed: list[FailedRule | None] = [None] * len(records)
        for at in np.flatnonzero(verdicts.removed).tolist():
            _, reason = verdicts.reasons[verdicts.code[at]]
            value, limit = f"{verdicts.value[at]:.4g}", f"{verdicts.threshold[at]:g}"
            if filters.language and reason == LANGUAGE_NOT_KEPT:
                value, limit = languages[at], ", ".join(filters.language.keep)
            failed[at] = FailedRule(reason, value, limit)
        return failed

    def _languages(self, records: Sequence[Record]) -> list[FailedRule | None]:
        least = self.settings.same_language
        asked = [question_and_answer(content) or ("", "") for content, _ in records]
        classifier = fasttext_classifier.load(self.store, None)
        sides = [
            identify(Texts.from_strings([pair[side] for pair in asked]), classifier, _LANGUAGE.max_chars)
            for side in (0, 1)
        ]
        (of_questions, sure), (of_answers, also_sure) = [(names.to_pylist(), scores) for names, scores in sides]
        certain = np.minimum(sure, also_sure) >= least
        return [
            FailedRule("other_language", f"{question} and {answer}", "one language")
            if is_certain and question != answer
            else None
            for question, answer, is_certain in zip(of_questions, of_answers, certain.tolist(), strict=True)
        ]  # fmt: skip

    def _bad_words(self, records: Sequence[Record]) -> list[FailedRule | None]:
        rule = self.settings.bad_words
        assert rule is not None
        counts = np.zeros(len(records), np.int64)
        languages = pa.array([metadata.get("language") for _, metadata in records], pa.string())
        known = languages.is_valid().to_numpy(zero_copy_only=False)
        for has_language in (True, False):
            here = np.flatnonzero(known == has_language)
            columns = pa.table({"language" if has_language else "none": languages.take(pa.array(here))})
            texts = texts_of_records([records[at] for at in here.tolist()])
            counts[here] = rule.measure(Analysis(texts, "paper", columns, self.store))["bad_words"]
        return [
            FailedRule("bad_words", str(count), str(rule.max_count)) if count > rule.max_count else None
            for count in counts.tolist()
        ]

    def _inappropriate(self, records: Sequence[Record]) -> list[FailedRule | None]:
        rule = self.settings.inappropriate
        assert rule is not None
        local_file(self.store, rule.model, "validate.inappropriate.model")  # names the setting if it is missing
        classifier, label = fasttext_classifier.load(self.store, rule.model), rule.label.removeprefix(LABEL_PREFIX)
        classifier.require(label, "validate.inappropriate.label")
        scores = classifier.score(excerpts(texts_of_records(records), rule.max_chars), label).tolist()
        return [
            FailedRule("inappropriate", f"{score:.3f}", f"{rule.max_score:g}") if score > rule.max_score else None
            for score in scores
        ]

    def _custom(self, records: Sequence[Record]) -> list[FailedRule | None]:
        rules = [one.loaded() for one in self.settings.custom]
        return [next(filter(None, (_failed_custom(rule, *one) for rule in rules)), None) for one in records]


def _failed_custom(rule: Plugin, content: Content, metadata: Mapping[str, str | None]) -> FailedRule | None:
    """The verdict of a rule of the user on a record.

    Raises:
        DataError: the rule raised an exception, or returned no boolean.
    """
    made, text = rule.make(), "\n".join(texts_of(content))
    question, answer = question_and_answer(content) or ("", "")
    given = {"text": text, "question": question, "answer": answer, **as_columns(content), "metadata": dict(metadata)}
    try:
        kept = call(getattr(made, "keep", made), given)
        if isinstance(kept, bool | np.bool_):
            return None if kept else FailedRule(rule.name, (answer or text)[:_SHOWN], f"a record that {rule.use} keeps")
        seen = f"returned {shown_value(kept)}"
    except PluginError as error:
        seen = str(error)
    raise DataError(
        f"validate.custom: {rule.use}: {seen}, for the record that begins {text[:60]!r}; wanted True, which keeps the "
        "record, or False. Correct the rule, so that it takes any record."
    )


@lru_cache(maxsize=4)
def _schema_checks(schema: str) -> Guard[str, FailedRule | None]:
    """The check of answers against a schema, in a child process. schema: as JSON."""
    plain = json.loads(schema)
    # Without a registry of its own, jsonschema loads references from the network.
    validator: SchemaValidator = validator_for(plain, Draft202012Validator)(plain, registry=Registry())
    return Guard(partial(_checked_answer, validator))


def _checked_answer(schema: SchemaValidator, answer: str) -> FailedRule | None:
    try:
        value = parsed_json(answer)
    except ValueError as error:
        return FailedRule("not_json", str(error)[:_SHOWN], "JSON")
    try:
        wrong = best_match(schema.iter_errors(value))
    except RecursionError:
        return FailedRule("not_in_schema", "nested too deeply", "less nesting")
    except ArithmeticError:  # multipleOf of a number without a float
        return FailedRule("not_in_schema", "a number that is too large", "a smaller number")
    if wrong is None:
        return None
    return FailedRule("not_in_schema", f"{wrong.json_path}: {wrong.message}"[: 4 * _SHOWN], str(wrong.validator))


def texts_of_records(records: Sequence[Record]) -> Texts:
    """All texts of each record as one."""
    return Texts.from_strings(["\n".join(texts_of(content)) for content, _ in records])


def _date(value: str) -> date:
    """The date at the beginning of a text in ISO 8601; the first of all dates if there is none."""
    try:
        return date.fromisoformat(value.strip()[:10])
    except ValueError:
        return date.min
