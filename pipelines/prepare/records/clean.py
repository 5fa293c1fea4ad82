"""Text fields put in order: HTML and e-mail, normalisation, quotation marks, terms, personal data.

All fields of many records are cleaned together, because the kernels take columns of texts.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
import yaml
from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.plugins import Plugin, PluginError, PluginKind, PluginUse, call, shown_value
from raymill.cluster.readers.formats.mail_text import without_disclaimers, without_quotes, without_signature
from raymill.cluster.readers.inputs import Cut
from raymill.cluster.store import paths
from raymill.cluster.store.copies import local_file
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.fetch.settings import Variable
from raymill.pipelines.text import personal_data
from raymill.pipelines.text.cleaning import straight_quotes, without_html
from raymill.pipelines.text.normalize import normalize
from raymill.pipelines.text.personal_data import KINDS
from raymill.pipelines.text.texts import Texts

# Quotes first: they may have signatures of their own. Disclaimers next: they follow the signature, which is looked for
# at the end.
_OF_EMAILS = {"quotes": without_quotes, "disclaimers": without_disclaimers, "signatures": without_signature}
_HEX_OF_A_PSEUDONYM = 12  # 48 bits: of a million values, two are equal with a probability of 0.2%


class CleaningUse(PluginUse):
    """A cleaning step of the user, as `module:attribute`, or with settings."""

    kind: ClassVar = PluginKind("cleaning step", "raymill.cleaning", ("text",), ("clean",))


class Clean(BaseModel, extra="forbid", frozen=True):
    """What is changed in text fields and labels."""

    normalize: bool = Field(True, description="Whether Unicode, white space and line ends are brought into one form")
    quotes: Literal["straight"] | None = Field(
        None, description="Form of quotation marks outside code: straight (ASCII); null: they stay"
    )
    html: bool = Field(
        False, description="Whether tags and comments of HTML outside code are removed, and entities become characters"
    )
    email: tuple[Literal["quotes", "signatures", "disclaimers"], ...] = Field(
        (),
        description="Parts of e-mails that are removed from texts; files of format mail are read without quotes and "
        "signatures in any case",
    )
    custom: tuple[CleaningUse, ...] = Field(
        (),
        description="Cleaning steps of your own, classes or functions from a text to a text, applied in this order "
        "after the removal of HTML and parts of e-mails",
    )
    terminology: dict[str, str] | paths.AbsolutePath = Field(
        {},
        description="Replacement of each term, or the path of a YAML file with these; whole words, in the case of "
        "the text",
    )
    labels: dict[str, dict[str, tuple[str, ...]]] = Field(
        {},
        description="Other spellings of metadata values, as {FIELD: {VALUE: [SPELLING]}}; case, spaces, - and _ make "
        "no difference",
    )
    redact: tuple[Literal[KINDS], ...] = Field(  # type: ignore[valid-type]
        (),
        description="Kinds of personal data that are replaced in texts, metadata, ids, provenance, ledger and "
        "quarantine",
    )
    redact_except: tuple[str, ...] = Field(
        (), description="Metadata fields whose personal data stays; also `id` and `provenance`"
    )
    pseudonyms: Literal["none", "per_record", "per_corpus"] = Field(
        "none",
        description="Placeholders of personal data: equal ones (none), numbered within a record (per_record), or by "
        "a keyed hash, so that equal values have one placeholder in all records (per_corpus)",
    )
    pseudonym_key: Variable | None = Field(
        None,
        description="Name of the environment variable with the key, 16 bytes or more, of the hashes in placeholders "
        "and ids; null: hashes without a key, whose values can be found by guessing",
    )
    keep_cut: bool = Field(
        False,
        description="Whether texts that readers and cleaning remove from records, such as quoted mails and "
        "signatures, are written to `cut/`",
    )

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `custom` where it is empty, so that records of earlier versions are equal."""
        return {name: value for name, value in handler(self).items() if name != "custom" or value}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.pseudonyms == "per_corpus" and self.pseudonym_key is None:
            raise ValueError("pseudonym_key, an environment variable, is required with per_corpus")
        for name in ("pseudonyms", "pseudonym_key", "redact_except"):
            if getattr(self, name) != type(self).model_fields[name].default and not self.redact:
                raise ValueError(f"{name}: nothing is replaced; name the kinds in `redact`")
        if isinstance(self.terminology, dict):
            check_terms(self.terminology)
        for name, values in self.labels.items():
            spelled = [plain_label(one) for value, others in values.items() for one in (value, *others)]
            if twice := sorted({one for one in spelled if spelled.count(one) > 1}):
                raise ValueError(f"labels.{name}: {', '.join(twice)} is listed twice; a spelling belongs to one value")
        return self


def _cleaned_by(plugin: Plugin, text: str) -> str:
    """The text after a step of the user.

    Raises:
        DataError: the step raised an exception, or returned no text.
    """
    made = plugin.make()
    try:
        cleaned = call(getattr(made, "clean", made), text)
        if isinstance(cleaned, str):
            cleaned.encode()
            return cleaned
        seen = f"returned {shown_value(cleaned)}"
    except (PluginError, UnicodeEncodeError) as error:
        seen = str(error)
    raise DataError(
        f"clean.custom: {plugin.use}: {seen}, for the text that begins {text[:60]!r}; wanted a text. Correct the step, "
        "so that it takes any text."
    )


def check_terms(terms: dict[str, str]) -> None:
    """
    Raises:
        ValueError: a term is empty, or two differ in case alone.
    """
    lower = [term.lower() for term in terms]
    if not all(term.strip() for term in lower):
        raise ValueError("terminology: a term is empty; give a word, or leave it out")
    if twice := sorted({term for term in lower if lower.count(term) > 1}):
        raise ValueError(f"terminology: {', '.join(twice)} is listed twice; case makes no difference")


def plain_label(value: str) -> str:
    """A label without what does not tell two apart."""
    return " ".join(re.split(r"[\s_-]+", value.strip().lower()))


def load_terms(store: Store, settings: Clean) -> dict[str, str]:
    """The terms of the settings, or of the file that they name.

    Raises:
        ConfigError: the file is not YAML of terms.
        StorageError: it cannot be read.
    """
    if isinstance(settings.terminology, dict):
        return settings.terminology
    where = f"clean.terminology: {settings.terminology}"
    try:
        file = local_file(store, settings.terminology, "clean.terminology")
        found = yaml.safe_load(Store().read_bytes(str(file.path)))
        if not isinstance(found, dict) or not all(isinstance(one, str) for pair in found.items() for one in pair):
            raise ValueError("wanted one `term: the term to use` a line, both text")
        check_terms(found)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: {' '.join(str(error).split())}. Correct the file.") from error
    return found


@dataclass(frozen=True)
class Cleaner:
    """Cleans text fields. key: of pseudonyms `per_corpus`. terms: term -> the term to use instead."""

    settings: Clean
    key: bytes = b""
    terms: Mapping[str, str] = field(default_factory=dict)

    def __call__(
        self, fields: Sequence[Sequence[str]], cut: Sequence[list[Cut]] | None = None
    ) -> tuple[list[list[str]], list[int]]:
        """(the fields cleaned and redacted, how many findings of personal data were replaced in each record).

        fields: of each record its texts. cut: of each record a list, to which the texts are added that are taken out.
        """
        texts, replaced = self.redacted(self.cleaned(fields, cut))
        return texts, [sum(of_record) for of_record in replaced]

    def cleaned(self, fields: Sequence[Sequence[str]], cut: Sequence[list[Cut]] | None = None) -> list[list[str]]:
        """The fields cleaned, with their personal data. fields, cut: as of `__call__`."""
        settings = self.settings
        if settings.html or settings.email:
            pieces: Sequence[list[Cut]] = [[] for _ in fields] if cut is None else cut

            def without_markup(text: str, cut: list[Cut]) -> str:
                if settings.html:
                    text = without_html(text, cut)
                if settings.email:
                    text = text.replace("\r\n", "\n").replace("\r", "\n")
                for part, without in _OF_EMAILS.items():
                    if part in settings.email:
                        text, taken_out = without(text)
                        cut += taken_out
                return text

            fields = [
                [without_markup(text, of_record) for text in texts]
                for texts, of_record in zip(fields, pieces, strict=True)
            ]
        for step in settings.custom:
            fields = [[_cleaned_by(step.loaded(), text) for text in of_record] for of_record in fields]
        texts = Texts.from_strings([text for of_record in fields for text in of_record])
        if settings.normalize:
            texts = normalize(texts)
        if settings.quotes == "straight":
            texts = Texts.from_strings([straight_quotes(text) for text in texts.to_arrow().to_pylist()])
        if self.terms:
            pattern, wanted = self._terms

            def use(found: re.Match[str]) -> str:
                return _in_case_of(found.group(), wanted[found.group().lower()])

            texts = Texts.from_strings([pattern.sub(use, text) for text in texts.to_arrow().to_pylist()])
        plain = iter(texts.to_arrow().to_pylist())
        return [[next(plain) for _ in of_record] for of_record in fields]

    # --- terms

    @cached_property
    def _terms(self) -> tuple[re.Pattern[str], dict[str, str]]:
        wanted = {term.lower(): use for term, use in self.terms.items()}
        longest_first = sorted(wanted, key=lambda term: (-len(term), term))
        pattern = "|".join(map(re.escape, longest_first))
        return re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE), wanted

    # --- personal data

    def redacted(self, records: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[list[int]]]:
        """(strings without personal data, findings that were replaced in each).

        records: strings, among which equal values get the same number of a record.
        """
        if not self.settings.redact:
            return [list(one) for one in records], [[0] * len(one) for one in records]
        numbers: dict[tuple[int, int], dict[str, int]] = {}

        def name(record: int, kind: int, value: str) -> str:
            if self.settings.pseudonyms == "per_corpus":
                return self._hash(value)
            if self.settings.pseudonyms == "none":
                return ""
            of_kind = numbers.setdefault((record, kind), {})
            return str(of_kind.setdefault(value, len(of_kind) + 1))

        return self._replaced(records, name)

    def redacted_ids(self, ids: Sequence[str]) -> tuple[list[str], list[int]]:
        """(ids without personal data, which differ where the ids do; findings that were replaced in each)."""
        if not self.settings.redact:
            return list(ids), [0] * len(ids)
        found, counts = self._replaced([ids], lambda _, __, value: self._hash(value))
        return found[0], counts[0]

    def _hash(self, value: str) -> str:
        return hmac.new(self.key, value.encode(), hashlib.sha256).hexdigest()[:_HEX_OF_A_PSEUDONYM]

    def _replaced(
        self, records: Sequence[Sequence[str]], name: Callable[[int, int, str], str]
    ) -> tuple[list[list[str]], list[list[int]]]:
        """As `redacted`. name: of a record's number, a kind and a value; empty for none."""
        strings = [text for of_record in records for text in of_record]
        record_of = np.repeat(np.arange(len(records)), [len(of_record) for of_record in records])
        texts = Texts.from_strings(strings)
        found, values = personal_data.find_spellings(strings, self.settings.redact)
        counts = np.bincount(found.document, minlength=len(strings)).tolist()
        if len(found):
            of_finding = record_of[found.document].tolist()
            names = [name(*one) for one in zip(of_finding, found.kind.tolist(), values, strict=True)]
            texts = personal_data.redact(texts, found, names)
        plain, each = iter(texts.to_arrow().to_pylist()), iter(counts)
        return (
            [[next(plain) for _ in of_record] for of_record in records],
            [[next(each) for _ in of_record] for of_record in records],
        )


def _in_case_of(seen: str, use: str) -> str:
    """A term in the case of the text: ALL CAPITALS, Capital at the beginning, or as the term is written."""
    if len(seen) > 1 and seen.isupper():
        return use.upper()
    return use[0].upper() + use[1:] if seen[0].isupper() and use else use
