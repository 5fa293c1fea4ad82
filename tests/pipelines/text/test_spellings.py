"""Personal data in spellings that people and links use: what is found is exactly the value, in the text as it was."""

import pytest

from raymill.pipelines.text.personal_data import KINDS, find_spellings
from tests.benchmarks.bench_personal_data import measured, planted, resembling


def found(text: str) -> list[tuple[str, str]]:
    spans, _ = find_spellings([text], KINDS)
    data = text.encode()
    return [(KINDS[kind], data[a:b].decode()) for a, b, kind in zip(spans.start, spans.end, spans.kind, strict=True)]


def name_of(text: str) -> str:
    (value,) = find_spellings([text], KINDS)[1]
    return value


FOUND = [
    ("Call +1 (206) 555\u20111212 now", "phone", "+1 (206) 555\u20111212"),
    ("Call (206)\u00a0555\u20131212, please", "phone", "(206)\u00a0555\u20131212"),
    ("+44\u201320\u20137946\u20130958.", "phone", "+44\u201320\u20137946\u20130958"),
    ("ring 0044 20 7946 0958 today", "phone", "0044 20 7946 0958"),
    ("ring 00442079460958", "phone", "00442079460958"),
    ("00 49 30 1234567", "phone", "00 49 30 1234567"),
    ("from home 011 44 20 7946 0958", "phone", "011 44 20 7946 0958"),
    ("+33 (0)1 42 68 53 00!", "phone", "+33 (0)1 42 68 53 00"),
    ("+33 (0) 1 42 68 53 00", "phone", "+33 (0) 1 42 68 53 00"),
    ("\uff0b\uff14\uff14 20 7946 0958", "phone", "\uff0b\uff14\uff14 20 7946 0958"),
    ("https://ex.org/?email=ann%40example.com&t=1", "email", "ann%40example.com"),
    ("https://ex.org/mailto%3Aann%40example.com", "email", "ann%40example.com"),
    ("tel=%2B442079460958&x", "phone", "%2B442079460958"),
    ("Mail jürgen@müller.de now", "email", "jürgen@müller.de"),
    ("Mail ivan.петров@пример.рф, bitte", "email", "ivan.петров@пример.рф"),
    ("用户@例子.公司", "email", "用户@例子.公司"),
    ("ann\uff20example.com", "email", "ann\uff20example.com"),
    ("ann\u200b@example.com", "email", "ann\u200b@example.com"),
    ("Mail o'brien@example.ie now", "email", "o'brien@example.ie"),
    ("Mail o\u2019brien@example.ie now", "email", "o\u2019brien@example.ie"),
    ("host 10.0.0.12 is down", "ip", "10.0.0.12"),
    ("192.168.1.20:8080", "ip", "192.168.1.20"),
    ("ping fd12:3456:789a::1 fails", "ip", "fd12:3456:789a::1"),
    ("SSN 123\u201145\u20116789", "ssn", "123\u201145\u20116789"),
    ("card 4111\u00a01111\u00a01111\u00a01111", "credit_card", "4111\u00a01111\u00a01111\u00a01111"),
    ("DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000", "iban",
     "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000"),
    ("pay to de89370400440532013000 and more", "iban", "de89370400440532013000"),
    ("pay to DE89-3704-0044-0532-0130-00, now", "iban", "DE89-3704-0044-0532-0130-00"),
    ("gb29 nwbk 6016 1331 9268 19 is it", "iban", "gb29 nwbk 6016 1331 9268 19"),
    ("from 203.0.113.77:443", "ip", "203.0.113.77"),
    ("host 2001:db8::dead:beef is down", "ip", "2001:db8::dead:beef"),
    ("ping fe80::1ff:fe23:4567:890a%eth0", "ip", "fe80::1ff:fe23:4567:890a%eth0"),
    ("ring +\u0664\u0664 \u0662\u0660 \u0667\u0669\u0664\u0666 \u0660\u0669\u0665\u0668 now", "phone",
     "+\u0664\u0664 \u0662\u0660 \u0667\u0669\u0664\u0666 \u0660\u0669\u0665\u0668"),
    ("ring \u202a+44 20 7946 0958\u202c now", "phone", "+44 20 7946 0958"),
    ("ann&#64;example.com wrote", "email", "ann&#64;example.com"),
    ("ann\\u0040example.com wrote", "email", "ann\\u0040example.com"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "value"), FOUND)
def test_unusual_spellings_are_found_and_nothing_around_them(text, kind, value):
    assert found(text) == [(kind, value)]
    assert found(f"é {text}\nünd {text}") == [(kind, value)] * 2, "among other letters"


@pytest.mark.parametrize(
    "text",
    [
        "in 1990\u20132000, pages 12\u201317",
        "GTIN 00012345678905",
        "nginx version 10.0.0.12, agent/10.1.2.3, pkg==10.0.0.1",
        "127.0.0.1 and 0.0.0.0",
        "10.0.0.12.5 and 10.300.0.1",
        "f'{name}@{host}' and @jürgen",
        "https://übung@host/path",
        "1\u00a0234\u00a0567 people",
        "00:12:34 and 00 12",
        "50%40 of them",
        "git@müller.de:repo/x",
        "de89370400440532013001 and de89-3704",
        "release 203.0.113 of 192.0.2",
        "100.1.2.3.4 and fe80::1ff::1",
    ],
)
def test_text_that_only_resembles_them_is_not_found(text):
    assert found(text) == []


@pytest.mark.parametrize(
    "spellings",
    [
        ("(206) 555-1212", "+1 206 555 1212", "001 206 555 1212", "1-206-555-1212", "(206) 555\u20111212"),
        ("+44 20 7946 0958", "0044 20 7946 0958", "+44 (0)20 7946 0958", "011 44 20 7946 0958", "+442079460958"),
        ("jürgen@müller.de", "JÜRGEN@MÜLLER.DE", "jürgen@xn--mller-kva.de"),
        ("ann@example.com", "Ann@Example.com", "ann%40example.com", "ann\uff20example.com"),
        ("DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "de89-3704-0044-0532-0130-00"),
        ("ann@example.com", "ann&#64;example.com"),
        ("2a02:908::1", "2A02:0908:0:0:0:0:0:1"),
    ],
)  # fmt: skip
def test_the_spellings_of_a_value_have_one_name(spellings):
    assert len({name_of(f"it is {one} now") for one in spellings}) == 1


def test_different_values_have_different_names():
    values = ("+1 206 555 1212", "+1 206 555 1213", "ann@example.com", "ann@example.org", "+44 20 7946 0958")
    assert len({name_of(one) for one in values}) == 5


def test_planted_values_of_ten_countries_are_found_and_sentences_that_resemble_them_are_not():
    counts, wrong = measured(planted(), resembling())
    assert counts["all"]["planted"] == 500 and len([name for name in counts if len(name) == 2]) >= 10
    assert counts["all but national numbers"] == {"planted": 450, "found": 450} and wrong == 0
    assert counts["phone, national"]["found"] == 5, "those of North America; the guide says so"


def test_of_findings_that_overlap_the_longest_is_replaced():
    text = "é " + " ".join(f"o'brien.{n}@example.com and b{n}@example.com" for n in range(200))
    assert found(text) == [("email", value) for value in text.split()[1:] if value != "and"]
