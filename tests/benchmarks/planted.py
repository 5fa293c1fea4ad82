"""Defects that bench_detectors.py plants in records: personal data in several spellings, bad words, evaluation
questions, prose that is cut.

Every function takes all records, the number of one, and random numbers, and returns that record with the defect. Names,
numbers and addresses are made up; numbers have valid check digits.
"""

import random
from collections.abc import Callable, Sequence

Pair = tuple[str, str]
Plant = Callable[[Sequence[Pair], int, random.Random], Pair]

_NAMES = ("anna", "ben", "carla", "deniz", "eva", "farid", "grace", "hugo", "ines", "jonas", "kim", "lena")
_HOSTS = ("example.com", "mail.example.org", "example.co.uk", "shop.example.de", "example.museum")
_WORDS = ("reach me at {}", "my details: {}", "it is {},", "({})", "write to {}.", "{} is mine", "contact {};")


def _inserted(text: str, piece: str, chosen: random.Random) -> str:
    """The text with a piece between two of its words."""
    words = text.split(" ")
    words.insert(chosen.randint(1, len(words)), piece)
    return " ".join(words)


def with_personal_data(spellings: Callable[[random.Random], str]) -> Plant:
    """Plants a value of one spelling in a question or an answer."""

    def plant(records: Sequence[Pair], at: int, chosen: random.Random) -> Pair:
        piece = chosen.choice(_WORDS).format(spellings(chosen))
        question, answer = records[at]
        if chosen.random() < 0.5:
            return _inserted(question, piece, chosen), answer
        return question, _inserted(answer, piece, chosen)

    return plant


def _digits(chosen: random.Random, count: int) -> str:
    return "".join(str(chosen.randrange(10)) for _ in range(count))


def _email(chosen: random.Random) -> str:
    name, other, host = chosen.choice(_NAMES), chosen.choice(_NAMES), chosen.choice(_HOSTS)
    local = chosen.choice(
        (name, f"{name}.{other}", f"{name}_{other}", f"{name}+{other}", f"{name[0]}{_digits(chosen, 3)}")
    )
    address = f"{local}@{host}"
    return chosen.choice((address, address.upper(), address.title(), f"<{address}>", f"mailto:{address}"))


def _disguised_email(chosen: random.Random) -> str:
    name, host = chosen.choice(_NAMES), chosen.choice(_HOSTS)
    return chosen.choice((f"{name} at {host}", f"{name} [at] {host}", f"{name}(at){host.replace('.', ' dot ')}"))


def _phone(chosen: random.Random) -> str:
    """International with a country code, or North American with separators."""
    area, exchange, line = (
        f"2{chosen.randrange(2, 9)}{chosen.randrange(2, 9)}",
        f"5{_digits(chosen, 2)}",
        _digits(chosen, 4),
    )
    exchange = exchange if exchange[1:] != "11" else "512"
    american = (f"({area}) {exchange}-{line}", f"{area}-{exchange}-{line}", f"{area}.{exchange}.{line}",
                f"+1 {area} {exchange} {line}", f"1-{area}-{exchange}-{line}")  # fmt: skip
    other = (f"+49 30 {_digits(chosen, 7)}", f"+44 20 7{_digits(chosen, 3)} {line}", f"+33 1 {_digits(chosen, 2)} "
             f"{_digits(chosen, 2)} {_digits(chosen, 2)} {_digits(chosen, 2)}", f"+4144{_digits(chosen, 7)}",
             f"+49 (0) 228 {_digits(chosen, 6)}")  # fmt: skip
    return chosen.choice(american + other)


def _local_phone(chosen: random.Random) -> str:
    """Without a country code."""
    line, longer = _digits(chosen, 4), _digits(chosen, 7)
    local = (f"030 {longer}", f"0228/{longer}", f"020 7123 {line}", f"2{_digits(chosen, 9)}", f"0049 30 {longer}")
    return chosen.choice(local)


def _ssn(chosen: random.Random) -> str:
    return f"{chosen.randrange(1, 665):03}-{chosen.randrange(1, 99):02}-{chosen.randrange(1, 9999):04}"


def _ssn_without_hyphens(chosen: random.Random) -> str:
    return _ssn(chosen).replace("-", chosen.choice(("", " ")))


def _card(chosen: random.Random) -> str:
    """A number of Visa, Mastercard or American Express in a row, or in groups with spaces or hyphens."""
    prefix, length = chosen.choice((("4", 16), ("5" + str(chosen.randrange(1, 6)), 16), ("37", 15)))
    body = prefix + _digits(chosen, length - len(prefix) - 1)
    number = body + luhn(body)
    sizes = (4, 6, 5) if length == 15 else (4, 4, 4, 4)
    starts = [sum(sizes[:part]) for part in range(len(sizes))]
    groups = [number[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    return chosen.choice(("", " ", "-")).join(groups)


def luhn(body: str) -> str:
    """The check digit of ISO/IEC 7812."""
    doubled = [int(digit) * (2 if at % 2 == 0 else 1) for at, digit in enumerate(reversed(body))]
    return str(-sum(one - 9 if one > 9 else one for one in doubled) % 10)


_IBANS = (("DE", 18), ("GB", None), ("FR", 23), ("ES", 20), ("CH", 17), ("BE", 12))


def _iban(chosen: random.Random) -> str:
    """In a row or in groups of four."""
    country, digits = chosen.choice(_IBANS)
    body = f"BARC{_digits(chosen, 14)}" if digits is None else _digits(chosen, digits)
    iban = iban_of(country, body)
    return iban if chosen.random() < 0.5 else " ".join(iban[at : at + 4] for at in range(0, len(iban), 4))


def iban_of(country: str, body: str) -> str:
    """The IBAN with the check digits of ISO 13616."""
    values = "".join(str(int(sign, 36)) for sign in f"{body}{country}00")
    return f"{country}{98 - int(values) % 97:02}{body}"


def _lower_iban(chosen: random.Random) -> str:
    return _iban(chosen).lower()


def _ip(chosen: random.Random) -> str:
    """Public addresses, IPv4 also with a port, IPv6 in full and shortened."""
    address = (
        f"{chosen.choice((8, 31, 62, 84, 91, 141, 185, 212))}.{'.'.join(str(chosen.randrange(1, 255)) for _ in 'abc')}"
    )
    groups = [f"{chosen.randrange(1, 1 << 16):x}" for _ in range(6)]
    long, short = f"2a02:{chosen.randrange(1, 0xFFFF):x}:{':'.join(groups)}", f"2a00:{groups[0]}::{groups[1]}"
    return chosen.choice((address, f"{address}:8080", f"[{address}]", long, short))


# (kind, what is unusual about its spellings, a value)
PERSONAL_DATA: tuple[tuple[str, str, Callable[[random.Random], str]], ...] = (
    ("email", "", _email),
    ("email", "disguised", _disguised_email),
    ("phone", "", _phone),
    ("phone", "without country code", _local_phone),
    ("ssn", "", _ssn),
    ("ssn", "without hyphens", _ssn_without_hyphens),
    ("credit_card", "", _card),
    ("iban", "", _iban),
    ("iban", "in lower case", _lower_iban),
    ("ip", "", _ip),
)

# ---- bad words ----

BAD_WORDS = ("blasted", "bloody", "darn it", "dimwit", "rubbish heap")


def with_bad_word(records: Sequence[Pair], at: int, chosen: random.Random) -> Pair:
    """In any case, and next to punctuation."""
    word = chosen.choice(BAD_WORDS)
    spelled = chosen.choice((word, word.upper(), word.title(), f"{word},", f"({word})", f"{word}!", f"'{word}'"))
    return _inserted(records[at][0], spelled.replace(" ", chosen.choice((" ", "  ", "\n"))), chosen), records[at][1]


def with_disguised_bad_word(records: Sequence[Pair], at: int, chosen: random.Random) -> Pair:
    """With digits for letters, or letters apart."""
    word = chosen.choice(BAD_WORDS)
    spelled = chosen.choice(
        (word.replace("o", "0").replace("i", "1").replace("a", "4"), " ".join(word), f"{word[0]}**{word[3:]}")
    )
    return _inserted(records[at][0], spelled, chosen), records[at][1]


# ---- evaluation questions, which are every tenth record ----


def _evaluation_question(records: Sequence[Pair], at: int, chosen: random.Random) -> list[str]:
    return records[10 * chosen.randrange(-(-len(records) // 10))][0].split()


def with_evaluation_question(records: Sequence[Pair], at: int, chosen: random.Random) -> Pair:
    """A record that has the question of an evaluation set, in another case and with words around it."""
    words = _evaluation_question(records, at, chosen)
    said = chosen.choice((" ".join, lambda one: " ".join(one).upper(), lambda one: "\n".join(one)))(words)
    return f"{chosen.choice(('Question: ', 'Please solve this: '))}{said}{chosen.choice(('', ' Explain.'))}", records[
        at
    ][1]


def with_changed_evaluation_question(records: Sequence[Pair], at: int, chosen: random.Random) -> Pair:
    words = _evaluation_question(records, at, chosen)
    words[chosen.randrange(len(words))] = "certainly"
    return " ".join(words), records[at][1]


def with_half_an_evaluation_question(records: Sequence[Pair], at: int, chosen: random.Random) -> Pair:
    """The first 60% of its words, then the end of another question."""
    words = _evaluation_question(records, at, chosen)
    return " ".join([*words[: -(-6 * len(words) // 10)], *records[at][0].split()[-10:]]), records[at][1]


# ---- prose ----


def with_cut_prose(records: Sequence[Pair], at: int, chosen: random.Random) -> Pair:
    """The answer is some other questions, which are prose, cut at a random character of the last two thirds."""
    text = " ".join(records[(at + step) % len(records)][0] for step in (1, 2))
    return records[at][0], text[: chosen.randint(len(text) // 3, len(text) - 3)]
