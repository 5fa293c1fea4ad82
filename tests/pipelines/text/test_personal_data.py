"""Personal data of every kind, text that only resembles it, and the scan against a slow reference."""

import ipaddress
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.errors import ConfigError
from raymill.pipelines.text.personal_data import KINDS, PLACEHOLDERS, count, find, redact
from raymill.pipelines.text.personal_data.tables import CARD_LENGTHS, COUNTRY_CODE_DIGITS, IBAN_LENGTHS, VERSION_WORDS
from raymill.pipelines.text.texts import Texts


def found(text: str, kinds: tuple[str, ...] = KINDS) -> list[tuple[str, str]]:
    spans = find(Texts.from_strings([text]), kinds)
    data = text.encode()
    return [
        (KINDS[kind], data[start:end].decode())
        for start, end, kind in zip(spans.start, spans.end, spans.kind, strict=True)
    ]


def redacted(text: str) -> str:
    texts = Texts.from_strings([text])
    return redact(texts, find(texts))[0]


EXAMPLES = [
    ("Mail <jane.doe+news@mail.example.co.uk>, please", "email", "jane.doe+news@mail.example.co.uk"),
    ("write to j_d@example.com.", "email", "j_d@example.com"),
    ("mailto:x%y@a-b.org?subject=1", "email", "x%y@a-b.org"),
    ("'me@example.org'", "email", "me@example.org"),
    ("see...me@example.org...", "email", "me@example.org"),
    ("邮箱me@example.com。", "email", "me@example.com"),
    ("me@example.com: hello", "email", "me@example.com"),
    ("212-555-0100@example.com", "email", "212-555-0100@example.com"),
    ("20031107.GA1234@mail.python.org", "email", "20031107.GA1234@mail.python.org"),
    ("call +1 (212) 555-0143 now", "phone", "+1 (212) 555-0143"),
    ("+12125550143", "phone", "+12125550143"),
    ("tel:+44-20-7946-0958", "phone", "+44-20-7946-0958"),
    ("+44 (0)20 7946 0958.", "phone", "+44 (0)20 7946 0958"),
    ("+33 1 23 45 67 89", "phone", "+33 1 23 45 67 89"),
    ("+49 30/1234567", "phone", "+49 30/1234567"),
    ("+353 1 234 5678", "phone", "+353 1 234 5678"),
    ("+7 495 123-45-67", "phone", "+7 495 123-45-67"),
    ("(212) 555-0143", "phone", "(212) 555-0143"),
    ("(212)555-0143", "phone", "(212)555-0143"),
    ("(212-555-0143)", "phone", "212-555-0143"),
    ("Fax: 212.555.0143, 3rd floor", "phone", "212.555.0143"),
    ("212 555 0143", "phone", "212 555 0143"),
    ("1-800-555-0199", "phone", "1-800-555-0199"),
    ("1 (800) 555-0199", "phone", "1 (800) 555-0199"),
    ("SSN: 123-45-6789.", "ssn", "123-45-6789"),
    ("4111 1111 1111 1111", "credit_card", "4111 1111 1111 1111"),
    ("4111-1111-1111-1111,", "credit_card", "4111-1111-1111-1111"),
    ("card=5555555555554444", "credit_card", "5555555555554444"),
    ("2223003122003222", "credit_card", "2223003122003222"),
    ("3782 822463 10005", "credit_card", "3782 822463 10005"),
    ("3056 930902 5904", "credit_card", "3056 930902 5904"),
    ("6011111111111117", "credit_card", "6011111111111117"),
    ("3530111333300000", "credit_card", "3530111333300000"),
    ("6212345678901234569", "credit_card", "6212345678901234569"),
    ("4000 0000 0000 0000 006", "credit_card", "4000 0000 0000 0000 006"),
    ("GB29 NWBK 6016 1331 9268 19", "iban", "GB29 NWBK 6016 1331 9268 19"),
    ("(DE89370400440532013000)", "iban", "DE89370400440532013000"),
    ("FR1420041010050500013M02606", "iban", "FR1420041010050500013M02606"),
    ("NO93 8601 1117 947 is Norwegian", "iban", "NO93 8601 1117 947"),
    ("from 93.184.216.34:443", "ip", "93.184.216.34"),
    ("resolver 8.8.8.8.", "ip", "8.8.8.8"),
    ("http://82.94.164.163/x", "ip", "82.94.164.163"),
    ("['88.191.64.248']", "ip", "88.191.64.248"),
    ("host=88.191.64.248/24", "ip", "88.191.64.248"),
    ("[2a00:1450:4001:81b::200e]:443", "ip", "2a00:1450:4001:81b::200e"),
    ("2001:4860:4860:0:0:0:0:8888", "ip", "2001:4860:4860:0:0:0:0:8888"),
    ("2606:4700:: is", "ip", "2606:4700::"),
    ("::ffff:82.94.164.163", "ip", "82.94.164.163"),
]


@pytest.mark.parametrize(("text", "kind", "value"), EXAMPLES)
def test_personal_data_is_found_and_nothing_around_it(text, kind, value):
    assert found(text) == [(kind, value)]
    assert redacted(text) == text.replace(f"<{value}>", value).replace(value, PLACEHOLDERS[kind])


@pytest.mark.parametrize(
    "text",
    [
        # e-mail
        "guido at python.org",
        "@dataclass\n@pytest.mark.skip",
        "user@localhost, root@db1",
        "git clone git@github.com:python/cpython.git",
        "ssh://hg@hg.python.org/cpython",
        "pip install pkg@1.2.3, react@16.8.0",
        "C = A@B.T + (a @ b.c)",
        "np.dot(a@b.transpose(), c)",
        "logo@2x.png",
        "@@ -1,2 +3,4 @@",
        "%s@%s.com",
        "a@-b.org a@b..org @b.org a.@b.org",
        "x" * 65 + "@example.com",
        # phone
        "2125550143",
        "555-0143",
        "112-555-0143 911-555-0143 211-555-0143 212-155-0143",
        "1-212-555-01433",
        "212-555-0143-7",
        "212.555-0143",
        "12 212 555 0143",
        "+0 123 456 789",
        "+1 234 567",
        "+1 112 555 0143",
        "x = y+12345678901",
        "+44.5e10 +1.25 +00:00 UTC+0530",
        "+999 123 456 789",
        # SSN
        "000-12-3456 666-12-3456 900-12-3456 123-00-4567 123-45-0000 078-05-1120",
        "123-45-67890 1123-45-6789 A123-45-6789 123-45-6789-0 12-345-6789",
        # card
        "4111111111111112",
        "1234567890123452",
        "0.4111111111111111 4111111111111111.5",
        "4111-1111 1111-1111",
        "41111111-11111111",
        "id-4111111111111111",
        "0 4111 1111 1111 1111",
        "9780306406157",
        # IBAN
        "GB29 NWBK 6016 1331 9268 18",
        "GB29NWBK6016133192681",
        "ZZ29NWBK60161331926819",
        "gb29nwbk60161331926819",
        "XGB29NWBK60161331926819",
        # IP
        "127.0.0.1 10.1.2.3 172.16.5.4 192.168.1.1 169.254.1.1 100.64.0.1 0.0.0.0 255.255.255.255 224.0.0.251",
        "192.0.2.17 198.51.100.3 203.0.113.9 198.18.0.1",
        "v98.76.54.32 98.76.54.32.10 98.76.54.32-rc1 python-98.76.54.32 98.76.54.32b1",
        "version 98.76.54.32, Version: 98.76.54.32, section 21.22.33.44",
        "foo==98.76.54.32 bar>=98.76.54.32 Chrome/98.76.54.32",
        "256.1.2.3 98.76.54 098.76.54.32 98.76..54.32",
        "3.1.1.6 and 2.7.2.2",
        "12.1.2.3 Title of a section",
        "fe80::1 ::1 fc00::1 ff02::1 2001:db8::1 2001:0:53aa::1 3fff::1",
        "12:30:45 00:1a:2b:3c:4d:5e 00:1a:2b:ff:fe:3c:4d:5e std::vector a[2:3] 2001:4860 2001:::1",
        "2001::4860:8888 2001::1:4860",
        "2001:4860:4860:0:0:0:0:8888:1 20011:4860::1 fe80::2001:4860:1:2",
        # other numbers
        "d41d8cd98f00b204e9800998ecf8427e 3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        "2026-11-21T10:15:30.123456+00:00 1700000000000000000 07-Mar-2002",
        "ISBN 978-3-16-148410-0, PEP 484, RFC 2822, 0x7fff5fbff8c0, 3.141592653589793",
        "    1234  5678  9012\n    2345  6789  0123",
        "\\u4e00\\U0001f600 &#8212; %20 1e-10 1_000_000_000",
        "Mit Umlaut: übergröße ١٢٣-٤٥-٦٧٨٩",
    ],
)
def test_text_that_only_resembles_personal_data_is_not_found(text):
    assert found(text) == []
    texts = Texts.from_strings([text])
    assert redact(texts, find(texts)) is texts


_LONGEST_DOMAIN = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 57, "com"])


@pytest.mark.parametrize(
    ("longest", "too_long"),
    [
        ("x" * 64 + "@example.com", "x" * 65 + "@example.com"),
        ("me@" + "x" * 63 + ".com", "me@" + "x" * 64 + ".com"),
        (f"me@{_LONGEST_DOMAIN}", f"me@{_LONGEST_DOMAIN}m"),
    ],
)
def test_an_address_may_be_as_long_as_the_standards_allow(longest, too_long):
    assert found(f"to {longest} now") == [("email", longest)] and found(f"to {too_long} now") == []


def test_only_the_wanted_kinds_are_found():
    text = "a@example.com 123-45-6789"
    assert found(text, ("ssn",)) == [("ssn", "123-45-6789")]
    assert found(text, ()) == []
    with pytest.raises(ConfigError, match=r"no kind is called fax, name\. There are: email, phone"):
        found(text, ("fax", "email", "name"))


def test_counts_are_by_document_and_kind():
    texts = Texts.from_strings(["", "a@b.org, c@d.org, 123-45-6789", "nothing", "8.8.8.8"])
    spans = find(texts)
    assert spans.document.tolist() == [1, 1, 1, 3]
    counts = count(spans, len(texts))
    assert counts.dtype == np.int32
    assert counts.tolist() == [[0] * 6, [2, 0, 1, 0, 0, 0], [0] * 6, [0, 0, 0, 0, 0, 1]]
    assert count(find(Texts.from_strings([])), 0).shape == (0, 6)


def test_findings_in_a_slice_of_a_table_do_not_depend_on_the_documents_around_it():
    column = Texts.from_strings(["jane.", "doe@example.org", "8.8.8.", "8", "+44 20 7946", " 0958 1"]).to_arrow()
    for first in range(6):
        texts = Texts.from_arrow(column.slice(first))
        assert redact(texts, find(texts)).to_arrow().to_pylist() == [
            "<EMAIL>" if text.startswith("doe") else "<PHONE>" if text.startswith("+") else text
            for text in column.slice(first).to_pylist()
        ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Jane <jane@mailhost.org> wrote", "Jane <EMAIL> wrote"),
        ("<jane@mailhost.org><joe@mailhost.org>", "<EMAIL><EMAIL>"),
        ("<<jane@mailhost.org>>", "<<EMAIL>>"),
        ("<mailto:jane@mailhost.org>", "<EMAIL>"),
        ("<tel:+14155552671>", "<PHONE>"),
        ("<8.8.8.8>", "<IP_ADDRESS>"),
        ("jane@mailhost.org", "<EMAIL>"),
        ("<jane@mailhost.org", "<<EMAIL>"),
        ("jane@mailhost.org>", "<EMAIL>>"),
        ("<Jane jane@mailhost.org>", "<Jane <EMAIL>>"),
        ("mailto:jane@mailhost.org>", "mailto:<EMAIL>>"),
    ],
)
def test_a_finding_alone_in_angle_brackets_leaves_one_pair(text, expected):
    assert redacted(text) == expected == redacted(expected)
    neighbours = Texts.from_strings(["<", text, ">"])
    assert redact(neighbours, find(neighbours)).to_arrow().to_pylist() == ["<", expected, ">"]


def test_more_findings_than_one_buffer_holds():
    texts = Texts.from_strings(["a@b.org " * 300, "", "8.8.8.8\n" * 300])
    assert count(find(texts), 3).tolist() == [[300, 0, 0, 0, 0, 0], [0] * 6, [0, 0, 0, 0, 0, 300]]
    assert redact(texts, find(texts))[0] == "<EMAIL> " * 300


def test_public_addresses_are_those_of_the_standard_library():
    for address in map(ipaddress.IPv4Address, np.linspace(0, 2**32 - 1, 5003, dtype=np.int64).tolist()):
        if str(address).count(".") + 4 == len(str(address)):
            continue  # four single digits
        special = address.is_private or address.is_multicast or not address.is_global
        assert bool(found(f"at {address}")) == (not special), address


# The reference: every kind by regular expressions, on a string with null characters before `begin`.

LEFT = r"(?<![A-Za-z0-9_.+%@-])"
RIGHT = r"(?![A-Za-z0-9_+%@]|[.-][A-Za-z0-9_])"
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
REFERENCE_VERSION_WORDS = {
    VERSION_WORDS[0][VERSION_WORDS[1][i] : VERSION_WORDS[1][i + 1]].tobytes().decode()
    for i in range(len(VERSION_WORDS[1]) - 1)
}
PUBLIC_V6 = [ipaddress.IPv6Network(f"{block}00::/{bits}") for block, bits in [("24", 11), ("26", 10), ("28", 12)]]
PUBLIC_V6 += [ipaddress.IPv6Network(net) for net in ("2001::/16", "2003::/16", "2a00::/11", "2c00::/12")]
PRIVATE_V6 = [ipaddress.IPv6Network("2001::/23"), ipaddress.IPv6Network("2001:db8::/32")]


def reference(text: str) -> list[tuple[int, int, str]]:
    spans, begin, at = [], 0, 0
    while trigger := re.compile("[0-9]+|[@+]").search(text, at):
        at = trigger.end()
        number = [("iban", iban), ("ip", ip), ("ssn", ssn), ("phone", national), ("credit_card", card)]
        rules = {"@": [("email", email)], "+": [("phone", international)]}.get(trigger.group(), number)
        for kind, rule in rules:
            span = rule("\0" * begin + text[begin:], trigger.start())
            if span and span[0] >= begin:
                spans.append((*span, kind))
                begin = at = span[1]
                break
    return spans


def email(text, sign):
    local = re.findall(r"[A-Za-z0-9_.%+-]*\Z", text[:sign])[0].split("..")[-1].lstrip(".%+-")
    if not 1 <= len(local) <= 64 or local.endswith(".") or text[: sign - len(local)].endswith("//"):
        return None
    end, at = None, sign + 1
    for index, label in enumerate(re.findall("^[A-Za-z0-9.-]*", text[sign + 1 :])[0].split(".")):
        name = label.rstrip("-")
        if not re.fullmatch(LABEL, name) or (index == 0 and re.fullmatch("[0-9]x", name)):
            break
        if index and re.fullmatch("[A-Za-z]{2,}", name):
            end = at + len(name)
        if name != label:
            break
        at += len(label) + 1
    return (sign - len(local), end) if end and not re.match(r"[\w(]|:[^\0- ]", text[end:], re.ASCII) else None


def north_american(area, exchange):
    return bool(re.fullmatch("[2-9](?!11)[0-8][0-9]", area) and re.fullmatch("[2-9](?!11)[0-9]{2}", exchange))


def international(text, plus):
    if not re.compile(LEFT + r"(?<!\))\+").match(text, plus):
        return None
    for end in range(min(len(text), plus + 50), plus + 8, -1):
        body = text[plus + 1 : end]
        groups = re.findall("[0-9]+", body)
        if not re.fullmatch(r"[0-9]+(?:[ ./-]?\([0-9]+\)|[ ./-][0-9]+|(?<=\))[0-9]+)*", body) or body[-1] == ")":
            continue
        digits, code = "".join(groups), COUNTRY_CODE_DIGITS[int(groups[0][:3].ljust(3, "0"))]
        if any(len(group) == 1 for group in groups[2:]) or not 1 <= code <= len(groups[0]):
            continue
        fits = len(digits) == 11 if digits[0] in "17" else 8 <= len(digits) <= 15
        if digits[0] == "1":
            fits = fits and north_american(digits[1:4], digits[4:7])
        if fits and re.compile(RIGHT).match(text, end):
            return plus, end
    return None


def national(text, at):
    parenthesised = r"\((?P<area>[0-9]{3})\)[ .-]?(?P<exchange>[0-9]{3})(?P<separator>[ .-])[0-9]{4}"
    plain = r"(?:1[ .-])?(?P<area>[0-9]{3})(?P<separator>[ .-])(?P<exchange>[0-9]{3})(?P=separator)[0-9]{4}"
    for start, pattern in [(at - 1, parenthesised), (at, "1[ .-]" + parenthesised), (at, plain)]:
        match = re.compile(LEFT + pattern + RIGHT).match(text, start) if start >= 0 else None
        if match and north_american(match["area"], match["exchange"]):
            if match["separator"] == " " and re.search(r"[0-9] *\Z", text[:start]):
                return None
            return match.span()
    return None


def ssn(text, at):
    pattern = "(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}"
    match = re.compile(LEFT + pattern + RIGHT).match(text, at)
    return match.span() if match and match.group() not in ("078-05-1120", "219-09-9999") else None


def card(text, at):
    four = "[0-9]{4}"
    grouped = [f"{four}([ -]){four}\\1{four}\\1{four}\\1[0-9]{{3}}", f"{four}([ -]){four}\\1{four}\\1{four}"]
    grouped += [f"{four}([ -])[0-9]{{6}}\\1[0-9]{{{size}}}" for size in (5, 4)]
    for pattern in ["([0-9])[0-9]{12,18}", *grouped]:
        match = re.compile(LEFT + pattern + RIGHT).match(text, at)
        if not match or (match[1] == " " and re.search(r"[0-9] *\Z", text[:at])):
            continue
        digits = re.sub("[ -]", "", match.group())
        luhn = sum(sum(divmod(int(digit) * (1 + at % 2), 10)) for at, digit in enumerate(reversed(digits)))
        if int(CARD_LENGTHS[int(digits[:4])]) >> len(digits) & 1 and luhn % 10 == 0:
            return match.span()
    return None


def iban(text, at):
    start = at - 2
    country = re.compile(LEFT + "([A-Z])([A-Z])[0-9]{2}").match(text, start) if start >= 0 else None
    length = int(IBAN_LENGTHS[(ord(country[1]) - 65) * 26 + ord(country[2]) - 65]) if country else 0
    if not length:
        return None
    rest = length - 4
    spaced = "".join(" " * (place % 4 == 0) + "[0-9A-Z]" for place in range(rest))
    pattern = spaced if text[start + 4 : start + 5] == " " else f"[0-9A-Z]{{{rest}}}"
    match = re.compile(".{4}" + pattern + RIGHT).match(text, start)
    if not match:
        return None
    account = match.group().replace(" ", "")
    return match.span() if int("".join(str(int(c, 36)) for c in account[4:] + account[:4])) % 97 == 1 else None


def ip(text, at):
    if match := re.compile(LEFT + r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}" + RIGHT).match(text, at):
        parts = match.group().split(".")
        if any(int(part) > 255 or str(int(part)) != part for part in parts):
            return None
        address = ipaddress.IPv4Address(match.group())
        known = match.group() in ("8.8.8.8", "8.8.4.4", "9.9.9.9", "1.1.1.1")
        if not address.is_global or address.is_multicast or (len(match.group()) == 7 and not known):
            return None
        before, after = text[:at], text[match.end() : match.end() + 2]
        if re.search(r"[A-Za-z0-9_]/\Z|[=<>~!]=\Z", before):
            return None
        before = before.rstrip(" :=")
        if all(int(part) < 32 for part in parts) and before[-1:] in ("", "\n") and len(after) == 2 and after[0] == " ":
            return None if re.match("[A-Z]", after[1]) else match.span()
        return None if re.findall(r"[A-Za-z]*\Z", before)[0].lower() in REFERENCE_VERSION_WORDS else match.span()
    pattern = LEFT + "(?<![0-9A-Fa-f:]:)2[0-9A-Fa-f]{3}(?=:)(?:::?[0-9A-Fa-f]+(?![0-9A-Fa-f]|[.][0-9]))*(?:::)?"
    match = re.compile(pattern).match(text, at)
    if not match or not re.compile(RIGHT + "|:?[0-9A-Fa-f]+[.][0-9]").match(text, match.end()):
        return None
    try:
        wide = ipaddress.IPv6Address(match.group())
    except ValueError:
        return None
    public = any(wide in net for net in PUBLIC_V6) and not any(wide in net for net in PRIVATE_V6)
    return match.span() if public else None


PIECES = {
    "email": [*"@@..-+_%/: (a2", "//", "b@c.de", "com", "x.org", "é", "2x.", "a1", "8.8.8.8", "+44 20 7946 0958"],
    "phone": [
        *"+++()()-. /1a\n",
        "1 ",
        "(212)",
        "212",
        "555",
        "0143",
        "212-555-0143",
        "44",
        "20",
        "7946",
        "+353",
        "5",
        "@x.yz",
    ],
    "digits": [
        *"123 -.\n,",
        "123-45-6789",
        "000",
        "45",
        "6789",
        "4111",
        "1111",
        " 1111 1111 1111",
        "3782",
        "822463",
        "10005",
    ],
    "iban": [
        *"AB1 9x-",
        "DE",
        "DE89370400440532013000",
        "GB29",
        " NWBK",
        " 6016",
        " 1331",
        " 9268",
        " 19",
        "NO9386011117947",
    ],
    "ip": [
        *"8.:/=v \nT",
        "8.8.8.8",
        "1.1.1.",
        "93.184.",
        "216.34",
        "version",
        "::",
        "2606",
        "2001:4860:",
        "db8",
        ":1:2:3:4",
        "==",
        "10.",
    ],
}
texts_of_pieces = st.one_of(
    *(st.lists(st.sampled_from(pieces), max_size=14).map("".join) for pieces in PIECES.values()),
    st.lists(
        st.sampled_from(["<", ">", "mailto:", *(piece for pieces in PIECES.values() for piece in pieces)]), max_size=14
    ).map("".join),
)


@settings(max_examples=700)
@given(texts_of_pieces)
def test_findings_equal_the_reference_and_redaction_is_idempotent(text):
    wanted = [(kind, text[start:end]) for start, end, kind in reference(text)]
    assert found(text) == wanted
    texts = Texts.from_strings([text])
    once = redact(texts, find(texts))
    assert redact(once, find(once)) is once, once[0]


VALUES = [*sorted({value for _, _, value in EXAMPLES}), "2001::4860:8888"]
BEFORE = ["", *"A0.-+(<:/@=v", "1 ", "2 1 ", "//", "a:", "::", "n/", "version ", "section: "]
AFTER = ["", *"a0.- ):(@+:", " 3", " 44", "-3", ".5", " (0)", ".a", "::", ":1", ":x", ": x", ".1.2", " A", " a"]


def test_findings_equal_the_reference_after_every_small_change_of_an_example():
    """Each character is left out, replaced, or preceded by another; and each example is between others."""
    changed = {before + value + after for value in VALUES for before in BEFORE for after in AFTER}
    for value in VALUES:
        for at in range(len(value) + 1):
            changed.add(value[:at] + value[at + 1 :])
            changed.update(value[:at] + other + value[skip:] for other in "029 -.:(@aA" for skip in (at, at + 1))
    strings = sorted(changed)
    assert len(strings) > 20_000
    spans = find(Texts.from_strings(strings))
    places = [[] for _ in strings]
    for document, start, end, kind in zip(spans.document, spans.start, spans.end, spans.kind, strict=True):
        places[document].append((start, end, KINDS[kind]))
    wanted = map(reference, strings)
    assert [one for one in zip(strings, places, wanted, strict=True) if one[1] != one[2]] == []


@settings(max_examples=300)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.sampled_from(KINDS))
def test_any_text_at_all_is_safe_to_scan(documents, kind):
    texts = Texts.from_strings(documents)
    spans = find(texts, (kind,))
    assert (spans.start < spans.end).all()
    assert (spans.end <= texts.byte_lengths[spans.document]).all()


def test_in_the_peps_only_addresses_are_found(shared_data):
    texts = Texts.from_arrow(pq.read_table(shared_data / "peps.parquet")["text"])
    spans = find(texts)
    by_kind = dict(zip(KINDS, count(spans, len(texts)).sum(axis=0).tolist(), strict=True))
    assert by_kind["email"] > 19_000
    others = {
        texts.data[texts.offsets[at] + start : texts.offsets[at] + end].tobytes().decode()
        for at, start, end, kind in zip(spans.document, spans.start, spans.end, spans.kind, strict=True)
        if KINDS[kind] != "email"
    }
    assert others == {"82.94.164.163", "88.191.64.248"}
    once = redact(texts, spans)
    assert redact(once, find(once)) is once
