"""How much personal data `prepare` finds: 500 values of ten countries in sentences, and 500 sentences that resemble it.

    python -m tests.benchmarks personal_data

Names, numbers and addresses are made up by a seed; check digits are valid. A value counts as found if the finding is
exactly the value. Every finding that is no planted value counts against precision.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from raymill.pipelines.text.personal_data import KINDS, find_spellings
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.planted import iban_of, luhn
from tests.benchmarks.timing import machine

_OF_A_COUNTRY = 50


@dataclass(frozen=True)
class Country:
    """first, last: names, in the letters of the country. host: of a company. phones: patterns of the digits after the
    country code, `#` for any digit. trunk: what precedes them within the country. iban: digits; 0: no IBANs.
    sentences: around a value.
    """

    code: str
    first: tuple[str, ...]
    last: tuple[str, ...]
    host: str
    phones: tuple[str, ...]
    trunk: str
    iban: int
    sentences: tuple[str, ...]


COUNTRIES = {
    "US": Country("1", ("mary", "james", "linda"), ("smith", "o'neil", "lopez"), "example.com",
                  ("(212) 5#5-01##", "312-5#5-01##", "415.5#5.01##"), "", 0,
                  ("You can reach me at {} after five.", "My details are {}; please confirm.", "Contact: {}")),
    "GB": Country("44", ("oliver", "emma", "harry"), ("jones", "o'brien", "taylor"), "example.co.uk",
                  ("20 7946 0###", "161 496 0###", "7700 900###"), "0", 0,
                  ("Please ring or write to {} this week.", "It was sent to {}, not to us.", "Ref {} is mine")),
    "DE": Country("49", ("jürgen", "anna", "björn"), ("müller", "groß", "schmidt"), "müller.example.de",
                  ("30 23125###", "89 9999#### ", "171 39200##"), "0", 18,
                  ("Bitte melden Sie sich unter {} bei mir.", "Meine Angaben: {}.", "Es geht um {}, danke!")),
    "FR": Country("33", ("chloé", "rené", "hugo"), ("lefèvre", "durand", "moreau"), "example.fr",
                  ("1 99 00 ## ##", "6 39 98 ## ##", "4 65 71 ## ##"), "0", 23,
                  ("Vous pouvez me joindre ici : {} le soir.", "Voici mes données : {}.", "Écrivez à {}, merci.")),
    "IT": Country("39", ("luca", "niccolò", "giulia"), ("rossi", "d'angelo", "conti"), "example.it",
                  ("06 699# ####", "02 7200 ####", "347 555 ####"), "", 23,
                  ("Potete contattarmi a {} dopo le cinque.", "I miei dati sono {}.", "Scrivete a {}, grazie.")),
    "ES": Country("34", ("josé", "lucía", "iñigo"), ("garcía", "muñoz", "lópez"), "example.es",
                  ("91 555 ## ##", "612 34# ###", "93 45# ## ##"), "", 20,
                  ("Pueden llamarme o escribirme a {} por la tarde.", "Mis datos son {}.", "Es {}, gracias.")),
    "NL": Country("31", ("daan", "zoë", "sem"), ("jansen", "visser", "bakker"), "example.nl",
                  ("20 555 ####", "6 1234####", "10 765 ####"), "0", 0,
                  ("U kunt mij bereiken via {} na vijf uur.", "Mijn gegevens: {}.", "Stuur het naar {}, dank.")),
    "PL": Country("48", ("łukasz", "zofia", "jan"), ("kowalski", "wójcik", "nowak"), "example.pl",
                  ("22 55# ## ##", "601 23# ###", "12 34# ## ##"), "", 24,
                  ("Proszę o kontakt: {} po południu.", "Moje dane to {}.", "Proszę pisać na {}, dziękuję.")),
    "RU": Country("7", ("иван", "anna", "пётр"), ("петров", "ivanova", "смирнов"), "пример.рф",
                  ("495 123-##-##", "812 765-##-##", "916 555-##-##"), "8 ", 0,
                  ("Напишите мне на {} до пятницы.", "Мои данные: {}.", "Это {}, спасибо.")),
    "JP": Country("81", ("太郎", "yuki", "花子"), ("山田", "sato", "tanaka"), "example.jp",
                  ("3-5555-####", "6-6123-####", "90-1234-####"), "0", 0,
                  ("ご連絡は {} までお願いします。", "私の連絡先は {} です。", "{} に送ってください。")),
}  # fmt: skip


def _digits(pattern: str, chosen: random.Random) -> str:
    return "".join(str(chosen.randrange(10)) if sign == "#" else sign for sign in pattern).strip()


def _email(country: Country, chosen: random.Random) -> str:
    """Plain, in a link, with letters of the country, or with the full-width @ that Japanese keyboards give."""
    first = chosen.choice(country.first)
    is_latin = first[0] < "\u0370"
    last = chosen.choice([one for one in country.last if (one[0] < "\u0370") == is_latin])
    local = chosen.choice(("{}.{}", "{}_{}", "{1}", "{0}{1}")).format(first, last)
    address = f"{local}@{country.host}"
    if address.isascii() and "'" not in address:
        address = chosen.choice((address, address.title(), address.replace("@", "%40"), address.replace("@", "＠")))
    return address


def _phone(country: Country, chosen: random.Random) -> str:
    """International: with + or an exit code, with (0), with typographic hyphens and spaces."""
    number = _digits(chosen.choice(country.phones), chosen)
    code = f"+{country.code}"
    written = chosen.randrange(5)
    if written == 0:
        code = f"{'011' if country.code != '1' else '00'} {country.code}"
    elif written == 1:
        code = f"00{country.code}"
    elif written == 2 and country.trunk == "0":
        code = f"+{country.code} (0)"
    separator = "" if code.endswith(")") else " "
    text = f"{code}{separator}{number}"
    return chosen.choice((text, text.replace("-", "\u2011").replace(" ", "\u00a0"), text.replace(" ", "\u2011")))


def _national(country: Country, chosen: random.Random) -> str:
    return f"{country.trunk}{_digits(chosen.choice(country.phones), chosen)}"


def _card(country: Country, chosen: random.Random) -> str:
    body = "4" + _digits("#" * 14, chosen)
    number = body + luhn(body)
    return chosen.choice(("", " ", "-", "\u00a0")).join(number[at : at + 4] for at in range(0, 16, 4))


def _bank(name: str, country: Country, chosen: random.Random) -> tuple[str, str]:
    """(kind, value): an IBAN, or where there are none a social security number or a card."""
    if name == "US":
        return "ssn", f"{chosen.randrange(1, 665):03}-{chosen.randrange(1, 99):02}-{chosen.randrange(1, 9999):04}"
    if not country.iban:
        return "credit_card", _card(country, chosen)
    iban = iban_of(name, _digits("#" * country.iban, chosen))
    grouped = chosen.choice((" ", "\u00a0")).join(iban[at : at + 4] for at in range(0, len(iban), 4))
    return "iban", chosen.choice((iban, grouped))


def _ip(country: Country, chosen: random.Random) -> str:
    first = chosen.choice(("10.{}", "192.168", "172.20", "185.{}", "91.{}")).format(chosen.randrange(1, 250))
    address = f"{first}.{chosen.randrange(1, 250)}.{chosen.randrange(1, 250)}"
    return chosen.choice((address, address, f"2a02:{chosen.randrange(4096, 65535):x}::{chosen.randrange(1, 99):x}"))


def planted(seed: int = 1) -> list[tuple[str, str, str, str]]:
    """(country, kind, sentence, value) of 50 values of each country: 18 addresses, 15 international and 5 national
    numbers, 4 of cards, 4 of accounts, 4 of machines.
    """
    chosen = random.Random(seed)
    found = []
    for name, country in COUNTRIES.items():
        values = [("email", _email(country, chosen)) for _ in range(18)]
        values += [("phone", _phone(country, chosen)) for _ in range(15)]
        values += [("phone, national", _national(country, chosen)) for _ in range(5)]
        values += [("credit_card", _card(country, chosen)) for _ in range(4)]
        values += [_bank(name, country, chosen) for _ in range(4)]
        values += [("ip", _ip(country, chosen)) for _ in range(4)]
        assert len(values) == _OF_A_COUNTRY
        found += [(name, kind, chosen.choice(country.sentences).format(value), value) for kind, value in values]
    return found


_LIKE_IT = (
    "The order {9} of 2026\u201311\u201325 has {2} parts.", "See pages {3}\u2013{3} of part {1}.{1}.{1}.{1}.",
    "Version 10.{1}.{2}.{1} is out, and agent/10.0.{1}.{2} too.", "GTIN 000{9}{2}, lot {4}-{4}.",
    "It costs 1\u00a0{3}\u00a0{3} euros, or {2}%40 less.", "At 00:{2}:{2} the meter showed {6}.{3}.",
    "Write to @jürgen on the forum, or see icon@2x.png.", "The file IMG_{8}_{6}.jpg has {7} bytes.",
    "Commit {8}ab{4} of git@müller.example:tools/x.git", "The part number is {3}.{3}.{5}, the case {7}/{2}.",
    "127.0.0.1 and 0.0.0.0 are this machine; section 10.1.2.{1} explains it.", "Room {3}, floor {1}, ext. {4}.",
)  # fmt: skip


def resembling(count: int = 500, seed: int = 2) -> list[str]:
    """Sentences without personal data, with numbers and signs that resemble it."""
    chosen = random.Random(seed)

    def filled(sentence: str) -> str:
        for size in range(1, 10):
            while f"{{{size}}}" in sentence:
                number = f"{chosen.randrange(1, 10)}{_digits('#' * (size - 1), chosen)}"
                sentence = sentence.replace(f"{{{size}}}", number, 1)
        return sentence

    return [filled(_LIKE_IT[at % len(_LIKE_IT)]) for at in range(count)]


def measured(cases: Sequence[tuple[str, str, str, str]], others: Sequence[str]) -> tuple[dict[str, Counter[str]], int]:
    """(kind or country -> `planted` and `found` values, findings that are none of them)."""
    strings = [sentence for _, _, sentence, _ in cases] + list(others)
    spans, _ = find_spellings(strings, KINDS)
    hits: dict[int, list[tuple[str, str]]] = {}
    for document, start, end, kind in zip(spans.document, spans.start, spans.end, spans.kind, strict=True):
        value = strings[document].encode()[start:end].decode()
        hits.setdefault(int(document), []).append((KINDS[kind], value))
    counts: dict[str, Counter[str]] = {}
    wrong = sum(len(hits.get(len(cases) + at, ())) for at in range(len(others)))
    for at, (country, kind, _, value) in enumerate(cases):
        is_found = (kind.partition(",")[0], value) in hits.get(at, ())
        wrong += len(hits.get(at, ())) - is_found
        for name in (kind, country, "all", *([] if kind == "phone, national" else ["all but national numbers"])):
            counts.setdefault(name, Counter()).update(planted=1, found=int(is_found))
    return counts, wrong


def run(texts: Texts) -> None:
    """Prints recall by kind and country, and the precision."""
    counts, wrong = measured(planted(), resembling())
    print(f"{'':<26}{'planted':>8}{'found':>7}{'recall':>8}")
    for name, of in counts.items():
        print(f"{name:<26}{of['planted']:>8}{of['found']:>7}{of['found'] / of['planted']:>8.2f}")
    found = counts["all"]["found"]
    print(f"precision {found / (found + wrong):.3f}: {wrong} findings in 1,000 sentences are no planted value")
    print(machine())
