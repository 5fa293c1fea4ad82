"""Personal data in text: find it, count it, and replace it by typed placeholders.

What is found, and the source of each definition:

    email        local@domain. Before the @ up to 64 letters, digits and . _ % + -; after it a domain with a dot and a
                 top level of two letters or more (a practical part of RFC 5322). Not found: `git@host.org:path`, the
                 user of a URL (`//user@host`), a call (`a@b.dot(c)`), `icon@2x.png`, "me at host.org".
    phone        +CC and 8 to 15 digits in groups (E.164, country codes of ITU-T E.164 annex 2011; +1 and +7 have 11),
                 or North American with separators: (212) 555-1234, 212-555-1234, 1.212.555.1234 (area code and
                 exchange as NANPA assigns them). Not found: ten digits in a row, and local numbers.
    ssn          ddd-dd-dddd without the areas 000, 666 and 900 up, group 00 and serial 0000, which the US Social
                 Security Administration never issues, and without the two numbers it withdrew after they were printed.
    credit_card  13 to 19 digits, in a row or grouped 4-4-4-4(-3), 4-6-5 or 4-6-4 by spaces or hyphens, with an issuer's
                 prefix and length (ISO/IEC 7812) and the Luhn check digit, which one random number in ten has.
    iban         a country of the ISO 13616 registry with its length and check digits (mod 97), upper case, in a row or
                 in groups of four.
    ip           public addresses by IANA's special-purpose registries: an IPv4 address that is not a version or
                 section number ("version 1.2.3.4", "pkg==1.2.3.4", "agent/1.2.3.4", four single digits, a fifth part),
                 and an IPv6 address in the blocks of the regional registries.

A number inside a longer word, after a dot, hyphen, plus or percent sign, or before a dot or hyphen with more digits or
letters, is not found: it is part of a hash, UUID, version, date or decimal.

What is found depends on the document alone, and redaction is idempotent. The scan is one pass that stops at digits, @
and +: 1,200 MB/s on one core for English technical text. At each stop it tries the wanted kinds in the order IBAN, IP,
SSN, phone, card. It takes the first one that fits and continues after it. In the kernels `begin` is the earliest
position at which a finding may begin: the start of the document or the end of the last finding. No byte before `begin`
is read, so findings stay the same when an earlier one is replaced.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from raymill.cluster.errors import ConfigError
from raymill.pipelines.text.instructions import copy_bytes, first_match
from raymill.pipelines.text.kernel import inner_kernel, kernel
from raymill.pipelines.text.personal_data.digits import card_end, iban_end, international_end, national_span, ssn_end
from raymill.pipelines.text.personal_data.network import email_end, email_start, ipv4_end, ipv6_end
from raymill.pipelines.text.personal_data.tables import (
    CARD_LENGTHS,
    COUNTRY_CODE_DIGITS,
    IBAN_LENGTHS,
    VERSION_WORDS,
    digits_end,
    is_digit,
    is_free_left,
    is_upper,
)
from raymill.pipelines.text.texts import Texts

KINDS = ("email", "phone", "ssn", "credit_card", "iban", "ip")

PLACEHOLDERS = {
    "email": "<EMAIL>",
    "phone": "<PHONE>",
    "ssn": "<US_SSN>",
    "credit_card": "<CREDIT_CARD>",
    "iban": "<IBAN>",
    "ip": "<IP_ADDRESS>",
}

# What may precede a finding that stands alone in angle brackets.
_BRACKET_OPENINGS = (b"<", b"<mailto:", b"<tel:")
_SHORTEST = 6  # bytes of the shortest findings

PERSONAL_DATA_VERSION = "2"  # part of fingerprints; changes with anything that changes findings or placeholders

EMAIL, PHONE, SSN, CARD, IBAN, IP = range(len(KINDS))


@dataclass(frozen=True, slots=True)
class Spans:
    """S findings, in order of the text and without overlap.

    document: int64[S]. start, end: int64[S], bytes from the start of the document. kind: uint8[S], index in KINDS.
    """

    document: np.ndarray
    start: np.ndarray
    end: np.ndarray
    kind: np.ndarray

    def __len__(self) -> int:
        return len(self.document)


def find(texts: Texts, kinds: Collection[str] = KINDS) -> Spans:
    """All findings of the wanted kinds.

    Raises:
        ConfigError: a kind is not in KINDS.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ConfigError(
            f"personal_data: no kind is called {', '.join(unknown)}. There are: {', '.join(KINDS)}. Correct the name."
        )
    wanted = np.array([kind in kinds for kind in KINDS])
    # The shortest findings, such as a@b.cd, take six bytes. Memory that is not written is not used.
    found = np.empty((int(texts.offsets[-1] - texts.offsets[0]) // _SHORTEST, 4), np.int64)
    tables = (CARD_LENGTHS, COUNTRY_CODE_DIGITS, IBAN_LENGTHS, *VERSION_WORDS)
    found = found[: _scan(texts.data, texts.offsets, wanted, *tables, found)]
    return Spans(found[:, 0].copy(), found[:, 1].copy(), found[:, 2].copy(), found[:, 3].astype(np.uint8))


def count(spans: Spans, documents: int) -> np.ndarray:
    """int32[D, 6]: findings by document and kind."""
    cells = np.bincount(spans.document * len(KINDS) + spans.kind, minlength=documents * len(KINDS))
    return cells.astype(np.int32).reshape(documents, len(KINDS))


def redact(texts: Texts, spans: Spans, names: Sequence[str] = ()) -> Texts:
    """The documents with each finding replaced by its kind's placeholder; the same object if there are no findings.

    names: of each finding, which its placeholder ends with: `<EMAIL_NAME>`; empty for none.

    Angle brackets around a finding, as in "Jane <jane@example.org>" or "<mailto:jane@example.org>", are replaced with
    it, since a placeholder has angle brackets.
    """
    if not len(spans):
        return texts
    positions = texts.offsets[spans.document]
    starts, ends = positions + spans.start, positions + spans.end
    _include_brackets(
        texts.data, positions, texts.offsets[spans.document + 1], starts, ends, *_joined(_BRACKET_OPENINGS)
    )
    kinds = [PLACEHOLDERS[kind] for kind in KINDS]
    if any(names):
        named = zip(spans.kind.tolist(), names, strict=True)
        placeholders = [f"{kinds[kind][:-1]}_{name}>" if name else kinds[kind] for kind, name in named]
        chosen = np.arange(len(spans))
    else:
        placeholders, chosen = kinds, spans.kind.astype(np.int64)
    words, word_ends = _joined([one.encode() for one in placeholders])
    growth = np.diff(word_ends)[chosen] - (ends - starts)
    lengths = texts.byte_lengths + np.bincount(spans.document, growth, len(texts)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    data = np.empty(offsets[-1], np.uint8)
    _replace(data, texts.data, texts.offsets, starts, ends, chosen, words, word_ends)
    return Texts(data, offsets)


def _joined(words: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """(uint8[B], int64[W + 1]): the bytes of all words, and where each begins and ends."""
    return np.frombuffer(b"".join(words), np.uint8), np.cumsum([0, *map(len, words)])


@inner_kernel
def _next_trigger(data, at, stop):
    """Position of the first @, + or digit from `at` on; `stop` if there is none."""
    while at + 32 <= stop:
        first = np.uint8(255)
        for ahead in range(np.uint64(32)):
            byte = data[np.uint64(at) + ahead]
            found = np.uint8(np.uint8(byte - 48) < 10) | np.uint8(byte == 64) | np.uint8(byte == 43)
            first = first_match(first, ahead, found)
        if first < 32:
            return at + np.int64(first)
        at += 32
    while at < stop and not (is_digit(data[at]) or data[at] == 64 or data[at] == 43):
        at += 1
    return at


@inner_kernel
def _number_span(data, origin, begin, at, run_end, stop, wanted, card_lengths, iban_lengths, names, name_ends):
    """(start, end, kind) of the finding whose first run of digits is data[at:run_end]; end -1 if there is none.

    origin: the document's start.
    """
    size = run_end - at
    after = data[run_end] if run_end < stop else np.uint8(0)
    if wanted[IBAN] and size >= 2 and at - 2 >= begin and is_upper(data[at - 1]) and is_upper(data[at - 2]):
        end = iban_end(data, begin, at - 2, stop, iban_lengths)
        if end >= 0:
            return at - 2, end, IBAN
    if wanted[IP]:
        end = -1
        if size <= 3 and after == 46:
            end = ipv4_end(data, origin, begin, at, stop, names, name_ends)
        elif data[at] == 50 and size <= 4:
            end = ipv6_end(data, begin, at, stop)
        if end >= 0:
            return at, end, IP
    if size == 3 and after == 45 and wanted[SSN]:
        end = ssn_end(data, begin, at, stop)
        if end >= 0:
            return at, end, SSN
    if (size == 3 or (size == 1 and data[at] == 49)) and wanted[PHONE]:
        start, end = national_span(data, begin, at, run_end, stop)
        if end >= 0:
            return start, end, PHONE
    if (size == 4 or size >= 13) and wanted[CARD]:
        end = card_end(data, begin, at, run_end, stop, card_lengths)
        if end >= 0:
            return at, end, CARD
    return at, -1, EMAIL


@kernel
def _scan(data, offsets, wanted, card_lengths, country_code_digits, iban_lengths, names, name_ends, found):
    """Fill `found`, int64[S, 4]: document, start and end (bytes from the start of the document), kind. Returns S."""
    count = 0
    for document in range(len(offsets) - 1):
        origin, stop = offsets[document], offsets[document + 1]
        begin = origin
        at = _next_trigger(data, origin, stop)
        while at < stop:
            start = at
            end, kind, after = -1, EMAIL, at + 1
            if data[at] == 64:
                if wanted[EMAIL]:
                    start = email_start(data, begin, at)
                    end = email_end(data, at, stop) if start < at else end
            elif data[at] == 43:
                if wanted[PHONE] and is_free_left(data, begin, at) and not (at > begin and data[at - 1] == 41):
                    end = international_end(data, at, stop, country_code_digits)
                    kind = PHONE
            else:
                after = digits_end(data, at, stop)
                start, end, kind = _number_span(
                    data, origin, begin, at, after, stop, wanted, card_lengths, iban_lengths, names, name_ends
                )
            if end >= 0:
                found[count, 0], found[count, 1] = document, start - origin
                found[count, 2], found[count, 3] = end - origin, kind
                count += 1
                begin = after = end
            at = _next_trigger(data, after, stop)
    return count


@kernel
def _include_brackets(data, firsts, stops, starts, ends, openings, opening_ends):
    """Widen each span in place to include angle brackets around it, and a mailto: or tel: inside them."""
    for span in range(len(starts)):
        start, end = starts[span], ends[span]
        if end < stops[span] and data[end] == 62:
            for number in range(len(opening_ends) - 1):
                opening = start - (opening_ends[number + 1] - opening_ends[number])
                same = opening >= firsts[span]
                at = opening
                while same and at < start:
                    same = data[at] == openings[opening_ends[number] + at - opening]
                    at += 1
                if same:
                    starts[span], ends[span] = opening, end + 1
                    break


@kernel
def _replace(out, data, offsets, starts, ends, kinds, names, name_ends):
    """Copy `data` to `out` with the spans data[starts:ends] replaced by the names of their kinds."""
    done, put = offsets[0], 0
    for span in range(len(starts)):
        put = copy_bytes(data, done, starts[span], out, put)
        put = copy_bytes(names, name_ends[kinds[span]], name_ends[kinds[span] + 1], out, put)
        done = ends[span]
    copy_bytes(data, done, offsets[len(offsets) - 1], out, put)
