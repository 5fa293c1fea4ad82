"""Text fields put in order: HTML and e-mail, normalisation, quotation marks, terms, personal data.

All fields of many records are cleaned together, because the kernels take columns of texts.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import yaml

from cluster.errors import ConfigError
from cluster.store.local_files import local_file
from cluster.store.store import Store
from pipelines.prepare.config import Clean, check_terms
from pipelines.text import personal_data
from pipelines.text.cut_text import Cut
from pipelines.text.html_remnants import without_html
from pipelines.text.mail_text import without_disclaimers, without_quotes, without_signature
from pipelines.text.normalize import normalize
from pipelines.text.personal_data import KINDS, PLACEHOLDERS, Spans
from pipelines.text.straight_quotes import straight_quotes
from pipelines.text.texts import Texts

# Quotes first: they may have signatures of their own. Disclaimers next: they follow the signature, which is looked for
# at the end.
_OF_EMAILS = {"quotes": without_quotes, "disclaimers": without_disclaimers, "signatures": without_signature}

_HEX_OF_A_PSEUDONYM = 12  # 48 bits: of a million values, two are equal with a probability of 0.2%


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
        """(the fields cleaned, how many findings of personal data were replaced in each record).

        fields: of each record its texts. cut: of each record a list, to which the texts are added that are taken out.
        """
        if self.settings.html or self.settings.email:
            pieces: Sequence[list[Cut]] = [[] for _ in fields] if cut is None else cut
            fields = [
                [self._without_markup(text, of_record) for text in texts]
                for texts, of_record in zip(fields, pieces, strict=True)
            ]
        texts = Texts.from_strings([text for of_record in fields for text in of_record])
        records = np.repeat(np.arange(len(fields)), [len(of_record) for of_record in fields])
        if self.settings.normalize:
            texts = normalize(texts)
        if self.settings.quotes == "straight":
            texts = Texts.from_strings([straight_quotes(text) for text in texts.to_arrow().to_pylist()])
        if self.terms:
            texts = Texts.from_strings([self._with_terms(text) for text in texts.to_arrow().to_pylist()])
        replaced = np.zeros(len(fields), np.int64)
        if self.settings.redact:
            found = personal_data.find(texts, self.settings.redact)
            replaced = np.bincount(records[found.document], minlength=len(fields))
            texts = self._without_personal_data(texts, found, records)
        plain = iter(texts.to_arrow().to_pylist())
        return [[next(plain) for _ in of_record] for of_record in fields], replaced.tolist()

    def redacted(self, strings: Sequence[str]) -> list[str]:
        """The texts without personal data, as in the records."""
        if not self.settings.redact:
            return list(strings)
        texts = Texts.from_strings([one.encode("utf-8", "replace").decode() for one in strings])
        found = personal_data.find(texts, self.settings.redact)
        return self._without_personal_data(texts, found, np.arange(len(strings))).to_arrow().to_pylist()

    def _without_markup(self, text: str, cut: list[Cut]) -> str:
        """Without HTML and the parts of e-mails that the settings name; what is taken out is added to `cut`."""
        if self.settings.html:
            text = without_html(text, cut)
        if self.settings.email:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        for part, without in _OF_EMAILS.items():
            if part in self.settings.email:
                text, pieces = without(text)
                cut += pieces
        return text

    # --- terms

    @cached_property
    def _terms(self) -> tuple[re.Pattern[str], dict[str, str]]:
        wanted = {term.lower(): use for term, use in self.terms.items()}
        longest_first = sorted(wanted, key=lambda term: (-len(term), term))
        pattern = "|".join(map(re.escape, longest_first))
        return re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE), wanted

    def _with_terms(self, text: str) -> str:
        pattern, wanted = self._terms
        return pattern.sub(lambda found: _in_case_of(found.group(), wanted[found.group().lower()]), text)

    # --- personal data

    def _without_personal_data(self, texts: Texts, found: Spans, records: np.ndarray) -> Texts:
        if self.settings.pseudonyms == "none" or not len(found):
            return personal_data.redact(texts, found)
        starts = texts.offsets[found.document] + found.start
        ends = texts.offsets[found.document] + found.end
        data, numbers = texts.data.tobytes(), dict[tuple[int, int, bytes], int]()
        in_record = dict[tuple[int, int], int]()
        pieces, at = [], int(texts.offsets[0])
        lengths = texts.byte_lengths.copy()
        spans = zip(found.document.tolist(), starts.tolist(), ends.tolist(), found.kind.tolist(), strict=True)
        for document, start, end, kind in spans:
            value = _same(data[start:end])
            if self.settings.pseudonyms == "per_corpus":
                name = hmac.new(self.key, value, hashlib.sha256).hexdigest()[:_HEX_OF_A_PSEUDONYM]
            else:
                record = int(records[document])
                if (record, kind, value) not in numbers:
                    in_record[record, kind] = numbers[record, kind, value] = in_record.get((record, kind), 0) + 1
                name = str(numbers[record, kind, value])
            placeholder = f"{PLACEHOLDERS[KINDS[kind]][:-1]}_{name}>".encode()
            pieces += [data[at:start], placeholder]
            lengths[document] += len(placeholder) - (end - start)
            at = end
        pieces.append(data[at : int(texts.offsets[-1])])
        return Texts(np.frombuffer(b"".join(pieces), np.uint8), np.concatenate([[0], np.cumsum(lengths)]))


def _same(value: bytes) -> bytes:
    """The value without what does not tell two apart: case, and the separators of numbers."""
    lower = value.lower()
    return lower if b"@" in lower else re.sub(rb"[ ().\-/]", b"", lower)


def _in_case_of(seen: str, use: str) -> str:
    """A term in the case of the text: ALL CAPITALS, Capital at the beginning, or as the term is written."""
    if len(seen) > 1 and seen.isupper():
        return use.upper()
    return use[0].upper() + use[1:] if seen[0].isupper() and use else use
