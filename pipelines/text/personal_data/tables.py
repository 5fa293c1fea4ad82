"""What all kinds of personal data share: registries of number ranges and formats as small arrays, tests of bytes."""

import numpy as np

from raymill.pipelines.text.kernel import inner_kernel

# ISO 13616 registry (SWIFT, release 99): length of an IBAN by country.
_IBAN = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
    "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
    "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
    "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
)

# ITU-T E.164 country codes in use, of one to three digits, shared and global services included.
_COUNTRY_CODES = (
    "1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 84 "
    "86 90 91 92 93 94 95 98 211 212 213 216 218 220 221 222 223 224 225 226 227 228 229 230 231 232 233 234 235 236 "
    "237 238 239 240 241 242 243 244 245 246 247 248 249 250 251 252 253 254 255 256 257 258 260 261 262 263 264 265 "
    "266 267 268 269 290 291 297 298 299 350 351 352 353 354 355 356 357 358 359 370 371 372 373 374 375 376 377 378 "
    "379 380 381 382 383 385 386 387 389 420 421 423 500 501 502 503 504 505 506 507 508 509 590 591 592 593 594 595 "
    "596 597 598 599 670 672 673 674 675 676 677 678 679 680 681 682 683 685 686 687 688 689 690 691 692 800 808 850 "
    "852 853 855 856 870 878 880 881 882 883 886 888 960 961 962 963 964 965 966 967 968 970 971 972 973 974 975 976 "
    "977 979 992 993 994 995 996 998"
)

# Payment card issuers (ISO/IEC 7812; ranges as the networks publish them): first and last four-digit prefix, lengths.
_CARDS = (
    (4000, 4999, (13, 16, 19)),  # Visa
    (5100, 5599, (16,)),  # Mastercard
    (2221, 2720, (16,)),  # Mastercard
    (3400, 3499, (15,)),  # American Express
    (3700, 3799, (15,)),  # American Express
    (3000, 3059, (14,)),  # Diners Club
    (3095, 3095, (14,)),  # Diners Club
    (3600, 3699, (14,)),  # Diners Club
    (3800, 3999, (14,)),  # Diners Club
    (6011, 6011, (16, 17, 18, 19)),  # Discover
    (6440, 6599, (16, 17, 18, 19)),  # Discover
    (3528, 3589, (16, 17, 18, 19)),  # JCB
    (6200, 6299, (16, 17, 18, 19)),  # UnionPay
    (8100, 8299, (16,)),  # RuPay, UnionPay
    (6000, 6099, (16,)),  # RuPay
    (5080, 5089, (16,)),  # RuPay
    (2200, 2204, (16, 17, 18, 19)),  # Mir
    # Maestro
    *((prefix, prefix, tuple(range(13, 20))) for prefix in (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763)),
)

# Words before a version or section number: four numbers with dots after one of them are not an IP address.
BEFORE_A_VERSION = (
    "v ver version versions rev revision release releases build patch firmware kernel driver upgrade "
    "section sections sec chapter clause paragraph para appendix annex article item step table figure fig rfc"
)


def _iban_lengths() -> np.ndarray:
    lengths = np.zeros(26 * 26, np.uint8)
    for entry in _IBAN.split():
        lengths[(ord(entry[0]) - 65) * 26 + ord(entry[1]) - 65] = int(entry[2:])
    return lengths


def _country_code_digits() -> np.ndarray:
    digits = np.zeros(1000, np.uint8)
    for code in _COUNTRY_CODES.split():
        free = 10 ** (3 - len(code))
        digits[int(code) * free : (int(code) + 1) * free] = len(code)
    return digits


def _card_lengths() -> np.ndarray:
    lengths = np.zeros(10_000, np.uint32)
    for first, last, allowed in _CARDS:
        lengths[first : last + 1] |= np.uint32(sum(1 << length for length in allowed))
    return lengths


def _version_words() -> tuple[np.ndarray, np.ndarray]:
    words = [word.encode() for word in BEFORE_A_VERSION.split()]
    return np.frombuffer(b"".join(words), np.uint8), np.cumsum([0, *map(len, words)])


IBAN_LENGTHS = _iban_lengths()  # uint8[26 * 26] by country code, 0 for no country
COUNTRY_CODE_DIGITS = _country_code_digits()  # uint8[1000] by three digits: digits of the country code, 0 for none
CARD_LENGTHS = _card_lengths()  # uint32[10000] by four digits: bit n is set if such cards have n digits
VERSION_WORDS = (
    _version_words()
)  # (uint8[...], int64[W + 1]): W lower-case words one after the other, and their offsets


# --- Tests of single bytes and runs of digits, shared by all kinds of personal data.
#
# `begin` is the earliest position at which a finding may begin, see spans.py. Bytes over 0x7F are neither letters nor
# digits here: findings are ASCII, in text of any script.


@inner_kernel
def is_digit(byte):
    return 48 <= byte <= 57


@inner_kernel
def is_upper(byte):
    return 65 <= byte <= 90


@inner_kernel
def is_letter(byte):
    """Whether the byte is an ASCII letter."""
    return 65 <= (byte & 0xDF) <= 90


@inner_kernel
def is_word(byte):
    """Whether the byte is an ASCII letter, a digit or an underscore."""
    return is_digit(byte) or is_letter(byte) or byte == 95


@inner_kernel
def hex_value(byte):
    """Value of a hexadecimal digit; -1 for any other byte."""
    if is_digit(byte):
        return np.int64(byte) - 48
    if 65 <= (byte & 0xDF) <= 70:
        return np.int64(byte & 0xDF) - 55
    return -1


@inner_kernel
def is_free_left(data, begin, at):
    """Whether a number may start at `at`: the byte before is neither of a word nor one of . - + % @"""
    if at <= begin:
        return True
    before = data[at - 1]
    return not (is_word(before) or before == 46 or before == 45 or before == 43 or before == 37 or before == 64)


@inner_kernel
def is_free_right(data, at, stop):
    """Whether a number may end before `at`: not before a word, a dot or hyphen and a word, or one of + % @"""
    if at >= stop:
        return True
    after = data[at]
    if is_word(after) or after == 43 or after == 37 or after == 64:
        return False
    return not ((after == 46 or after == 45) and at + 1 < stop and is_word(data[at + 1]))


@inner_kernel
def digits_end(data, at, stop):
    """End of the run of digits at `at`."""
    while at < stop and is_digit(data[at]):
        at += 1
    return at


@inner_kernel
def parse_digits(data, start, end):
    """Value of the digits data[start:end]."""
    value = np.int64(0)
    for at in range(start, end):
        value = value * 10 + np.int64(data[at]) - 48
    return value


@inner_kernel
def follows_number(data, begin, at):
    """Whether a digit and spaces precede `at`: a number with spaces there is taken for a column of figures."""
    while at > begin and data[at - 1] == 32:
        at -= 1
    return at > begin and is_digit(data[at - 1])
