"""The pass over the bytes that finds personal data. What counts as what is told in personal_data.py.

The scan stops at triggers: "@", "+" and the first digit of a run. There each wanted kind is tried, in the order IBAN,
IP, SSN, phone, card; the first that fits is taken and the scan goes on behind it. `begin` is where a finding may
begin: the start of the document, or the end of the finding before; nothing in front of it is looked at, so that what
is found does not change when that finding is replaced.
"""

import numpy as np
from numba import njit

from pipelines.text.byte_scan import sooner
from pipelines.text.personal_data.bytes import digits_end, is_digit, is_free_left, is_upper
from pipelines.text.personal_data.digits import card_end, iban_end, international_end, national_span, ssn_end
from pipelines.text.personal_data.network import email_end, email_start, ipv4_end, ipv6_end
from pipelines.text.personal_data.tables import CARD_LENGTHS, COUNTRY_CODE_DIGITS, IBAN_LENGTHS, NUMBERED
from pipelines.text.texts import Texts

EMAIL, PHONE, SSN, CARD, IBAN, IP = range(6)  # positions in personal_data.KINDS


def scan(texts: Texts, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(document, start, end, kind) of every finding; `wanted` is bool[6] by kind."""
    found = _scan(texts.data, texts.offsets, wanted, CARD_LENGTHS, COUNTRY_CODE_DIGITS, IBAN_LENGTHS, *NUMBERED)
    return found[:, 0].copy(), found[:, 1].copy(), found[:, 2].copy(), found[:, 3].astype(np.uint8)


@njit(cache=True, nogil=True)
def _next_trigger(data, at, stop):
    """The first @, + or digit from `at` on; `stop` if there is none."""
    while at + 32 <= stop:
        first = np.uint8(255)
        for ahead in range(np.uint64(32)):
            byte = data[np.uint64(at) + ahead]
            found = np.uint8(np.uint8(byte - 48) < 10) | np.uint8(byte == 64) | np.uint8(byte == 43)
            first = sooner(first, ahead, found)
        if first < 32:
            return at + np.int64(first)
        at += 32
    while at < stop and not (is_digit(data[at]) or data[at] == 64 or data[at] == 43):
        at += 1
    return at


@njit(cache=True, nogil=True)
def _number_span(data, origin, begin, at, run_end, stop, wanted, card_lengths, iban_lengths, names, name_ends):
    """(start, end, kind) of the finding among whose first characters is the run of digits from `at`; end -1: none."""
    size = run_end - at
    after = data[run_end] if run_end < stop else np.uint8(0)
    if wanted[IBAN] and size >= 2 and at - 2 >= begin and is_upper(data[at - 1]) and is_upper(data[at - 2]):
        end = iban_end(data, begin, at - 2, stop, iban_lengths)
        if end >= 0:
            return at - 2, end, IBAN
    if wanted[IP]:
        end = np.int64(-1)
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
    return at, np.int64(-1), EMAIL


@njit(cache=True, nogil=True)
def _scan(data, offsets, wanted, card_lengths, country_code_digits, iban_lengths, names, name_ends):
    """int64[S, 4]: document, start, end, kind."""
    found = np.empty((64, 4), np.int64)
    count = 0
    for document in range(len(offsets) - 1):
        origin, stop = offsets[document], offsets[document + 1]
        begin = origin
        at = _next_trigger(data, origin, stop)
        while at < stop:
            start = at
            end, kind, after = np.int64(-1), EMAIL, at + 1
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
                if count == len(found):
                    grown = np.empty((2 * count, 4), np.int64)
                    grown[:count] = found
                    found = grown
                found[count] = (document, start - origin, end - origin, kind)
                count += 1
                begin = after = end
            at = _next_trigger(data, after, stop)
    return found[:count]
