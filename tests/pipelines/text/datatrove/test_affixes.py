"""The bounds of spaCy's regular expressions, each from both sides: URLs, infixes, prefixes and suffixes."""

import pytest

from raymill.pipelines.text.datatrove.tokenizer import count_sentence_breaks, split_tokens
from raymill.pipelines.text.texts import Texts


def tokens(chunk: str) -> str:
    """The tokens of a text, joined by |."""
    texts = Texts.from_strings([chunk])
    words, data = split_tokens(texts), texts.data.tobytes()
    found = zip(words.begins.tolist(), words.lengths.tolist(), strict=True)
    return "|".join(data[begin:].decode()[:length] for begin, length in found)


LABEL, TOP = "l" * 63, "t" * 62


@pytest.mark.parametrize(
    "url",
    [
        "1.2.3.4/b", "223.255.255.254/b", "172.15.0.1/b", "172.32.0.1/b", "169.253.0.1/b", "192.167.0.1/b",
        "11.0.0.1/b", "126.0.0.1/b", "128.0.0.1/b", f"{LABEL}l.de/b", f"x.{TOP}t/b", "A9.de/b", "a_-b.de/b", "é.de/b",
        "x.a.de/b", "a.de:80/b", "a.de:12345/b", "a.de?x/b", "a.de#x/b", "a+b://c.de/f", "ab://c.de/f", "x@a.de/b",
        "x:y@a.de/b",
    ],
)  # fmt: skip
def test_a_url_is_one_token(url):
    assert tokens(url) == url


@pytest.mark.parametrize(
    "chunk",
    [
        "0.2.3.4/b", "224.0.0.1/b", "1.2.3.0/b", "1.2.3.255/b", "1.256.3.4/b", "10.0.0.1/b", "127.0.0.1/b",
        "169.254.0.1/b", "192.168.0.1/b", "172.16.0.1/b", "172.31.0.1/b", "1.2.3/b", "1.2.3.4.5/b", "1.2.3.0004/b",
        f"{LABEL}ll.de/b", f"x.{TOP}tt/b", "x.c/b", "a-.de/b", "-a.de/b", "a.de:8/b", "a.de:123456/b", "a.de:x/b",
        "a://c.de/f", "@a.de/b", "x..de/b", ".de/b", "de/b",
    ],
)  # fmt: skip
def test_what_is_no_url_is_split_at_its_slash(chunk):
    before, _, after = chunk.rpartition("/")
    assert tokens(chunk).endswith(f"|/|{after}"), tokens(chunk)
    assert tokens(chunk).replace("|", "") == f"{before}/{after}"


@pytest.mark.parametrize(
    "wanted",
    [
        "2|-|-3", "2|+|3", "2|*|3", "2|^|3", "x^3", "a|-|b", "a|--|b", "a|---|b", "a----b", "a|–|b", "a––b", "a|—|b",
        "a|——|b", "a~~b", "a|~|b", "a|:|b", "1|:|b", "1:2", "a:1", "a|=|b", "a==b", "a|<|b", "a|>|b", "a|,|b", "1,b",
        "a,1", "xy|.|B", "a.|B", "A.B", "a.b", "a|..|b", "a|....|b", "a|…|b", "1-a-b".replace("-", "|-|"), "-1-",
    ],
)  # fmt: skip
def test_an_infix_is_split_off_between_the_characters_it_needs(wanted):
    assert tokens(wanted.replace("|", "")) == wanted


@pytest.mark.parametrize("chunk", ["a--", "a---", "a——", "a-", "a~", "a:", "2+", "xy.", "a.,--"])
def test_the_end_of_a_text_is_split_as_if_nothing_came_after_it(chunk):
    """The next text lies right behind it."""
    alone, both = split_tokens(Texts.from_strings([chunk])), split_tokens(Texts.from_strings([chunk, "b9B"]))
    assert both.begins[: len(alone.begins)].tolist() == alone.begins.tolist()
    assert both.lengths[: len(alone.begins)].tolist() == alone.lengths.tolist()


@pytest.mark.parametrize(
    "wanted",
    [
        "US$|5", "AS$5", "U$5", "A$|5", "C$|5", "B$5", "+|a", "+5", "..|a", ".a", "5|+", "a+", "5|km", "5kmx", "x5|km",
        "5|ملغ", "5|كوب", "5|€", "ab|.", "AB|.", "Ab|.", "aB.", "A.", "x5|.", "dog|'s", "DOG|'S", "dog|’s", "dogxs",
        "a|……", "a|…|.", "5|%|.", "(|a|)|.", "7|°|K|.",
    ],
)  # fmt: skip
def test_a_prefix_or_suffix_is_split_off_after_the_characters_it_needs(wanted):
    assert tokens(wanted.replace("|", "")) == wanted


@pytest.mark.parametrize(
    ("text", "breaks"),
    [
        ("One. Two.", 1),
        ("One.", 0),
        ("One. Two! Three?", 2),
        ("One.) Two", 1),  # punctuation belongs to the sentence
        ("One.\nTwo.", 0),  # a line ends there
        ("One.  ", 1),  # two spaces are a token of the next sentence
        ("One. ", 0),
        ("One.\tTwo", 1),
        ("One. \nTwo", 0),
        ("U.S. grew", 0),
        ("", 0),
    ],
)
def test_sentences_begin_after_a_sentence_end_inside_a_line(text, breaks):
    assert count_sentence_breaks(Texts.from_strings(["ab. cd.", text, "."])).tolist() == [1, breaks, 0]
