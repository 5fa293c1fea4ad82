"""Personal data with a shape of its own: found, counted, and replaced by typed placeholders.

What counts, and where it comes from:

    email        local@domain: letters, digits and . _ % + - before the @ (64 at most), a domain with a dot and a top
                 level of two letters or more after it (a practical part of RFC 5322). Not `git@host.org:path`, not the
                 user of a URL (`//user@host`), not a call (`a@b.dot(c)`), not `icon@2x.png`, not "me at host.org".
    phone        +CC and 8 to 15 digits in groups (E.164, country codes of ITU-T E.164 annex 2011; +1 and +7 have 11),
                 or North American with separators: (212) 555-1234, 212-555-1234, 1.212.555.1234 (area code and
                 exchange as NANPA assigns them). Ten digits in a row, and local numbers, are not told from others.
    ssn          ddd-dd-dddd without the areas 000, 666 and 900 up, group 00 and serial 0000, which the US Social
                 Security Administration never issues, and without the two numbers it withdrew after they were printed.
    credit_card  13 to 19 digits, in a row or grouped 4-4-4-4(-3), 4-6-5 or 4-6-4 by spaces or hyphens, with an issuer's
                 prefix and length (ISO/IEC 7812) and the Luhn check digit: one random number in ten passes the last.
    iban         a country of the ISO 13616 registry with its length and check digits (mod 97), upper case, in a row or
                 in groups of four.
    ip           public addresses only, by IANA's special-purpose registries: an IPv4 address that is no version or
                 section number ("version 1.2.3.4", "pkg==1.2.3.4", "agent/1.2.3.4", four single digits, a fifth part),
                 an IPv6 address inside the blocks given to the regional registries.

Numbers inside longer words, after a dot, hyphen, plus or percent sign, or with more digits or letters behind a dot or
hyphen, are parts of something else: hashes, UUIDs, versions, dates, decimals. What is found depends on the document
alone; redacting twice changes nothing. One pass over the bytes that stops only at digits, @ and +: 1,200 MB/s on one
core for English technical text.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numba import njit

from cluster.errors import ConfigError
from pipelines.text.personal_data.scan import scan
from pipelines.text.texts import Texts

KINDS = ("email", "phone", "ssn", "credit_card", "iban", "ip")

PLACEHOLDERS = {
    "email": "<EMAIL>",
    "phone": "<PHONE>",
    "ssn": "<US_SSN>",
    "credit_card": "<CREDIT_CARD>",
    "iban": "<IBAN>",
    "ip": "<IP_ADDRESS>",
}

# What may stand between the start of an angle bracket and a finding that is alone in it.
_LINK_SCHEMES = tuple(np.frombuffer(scheme, np.uint8) for scheme in (b"<", b"<mailto:", b"<tel:"))

PERSONAL_DATA_VERSION = "2"  # in fingerprints: changes whenever what is found, or written in its place, can change


@dataclass(frozen=True, slots=True)
class Spans:
    """S findings, in the order of the text and never overlapping.

    `document`: int64[S]. `start`, `end`: int64[S], bytes from the start of the document. `kind`: uint8[S], its index
    in KINDS.
    """

    document: np.ndarray
    start: np.ndarray
    end: np.ndarray
    kind: np.ndarray

    def __len__(self) -> int:
        return len(self.document)


def find(texts: Texts, kinds: Collection[str] = KINDS) -> Spans:
    """Every finding of the wanted kinds.

    Raises:
        ConfigError: a kind that is not in KINDS.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ConfigError(
            f"personal_data: no kind is called {', '.join(unknown)}. There are: {', '.join(KINDS)}. Correct the name."
        )
    wanted = np.array([kind in kinds for kind in KINDS])
    return Spans(*scan(texts, wanted))


def count(spans: Spans, documents: int) -> np.ndarray:
    """int32[D, K]: findings of each of KINDS in each of D documents."""
    cells = np.bincount(spans.document * len(KINDS) + spans.kind, minlength=documents * len(KINDS))
    return cells.astype(np.int32).reshape(documents, len(KINDS))


def redact(texts: Texts, spans: Spans) -> Texts:
    """Each finding replaced by its kind's placeholder; the same `texts` if there are none.

    A finding that stands alone in angle brackets, as in "Jane <jane@example.org>" or "<mailto:jane@example.org>", is
    replaced with them: a placeholder brings a pair of its own.
    """
    if not len(spans):
        return texts
    positions = texts.offsets[spans.document]
    starts, ends = positions + spans.start, positions + spans.end
    _take_brackets(texts.data, positions, texts.offsets[spans.document + 1], starts, ends)
    names = [PLACEHOLDERS[kind].encode() for kind in KINDS]
    name_ends = np.cumsum([0, *map(len, names)])
    growth = np.diff(name_ends)[spans.kind] - (ends - starts)
    lengths = texts.byte_lengths + np.bincount(spans.document, growth, len(texts)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    data = np.empty(offsets[-1], np.uint8)
    _fill(
        data, texts.data, texts.offsets, starts, ends, spans.kind, np.frombuffer(b"".join(names), np.uint8), name_ends
    )
    return Texts(data, offsets)


@njit(cache=True, nogil=True)
def _take_brackets(data, firsts, stops, starts, ends):
    """Widen each span, in place, over the brackets around it, with a mailto: or tel: between."""
    for span in range(len(starts)):
        start, end = starts[span], ends[span]
        if end < stops[span] and data[end] == 62:
            for scheme in _LINK_SCHEMES:
                opening = start - len(scheme)
                if opening >= firsts[span] and np.all(data[opening:start] == scheme):
                    starts[span], ends[span] = opening, end + 1
                    break


@njit(cache=True, nogil=True)
def _fill(out, data, offsets, starts, ends, kinds, names, name_ends):
    """Copy `data` to `out` with names in place of the spans: positions in `data`."""
    done, put = offsets[0], 0
    for span in range(len(starts)):
        gap = starts[span] - done
        out[put : put + gap] = data[done : starts[span]]
        put += gap
        first, last = name_ends[kinds[span]], name_ends[kinds[span] + 1]
        out[put : put + last - first] = names[first:last]
        put += last - first
        done = ends[span]
    out[put:] = data[done : offsets[-1]]
