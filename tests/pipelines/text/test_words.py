"""Words of both dialects: examples, a slow reference, independence of the table they are in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.pipelines.text.datatrove.tables import special_cases
from raymill.pipelines.text.datatrove.tokenizer import ENDS_SENTENCE, ONLY_PUNCTUATION, split_tokens
from raymill.pipelines.text.texts import Texts
from raymill.pipelines.text.words import HAS_ALPHA, HAS_NON_SYMBOL, Words, split_words
from tests.golden.cases import FOLDER
from tests.support.slow_words import split_slowly

DIALECTS = {"paper": split_words, "datatrove": split_tokens}

# Characters of different classes, and strings that are special to spaCy.
PIECES = [
    *"abZ19.,-—'’\"()[]{}<>_#*&+^=/:;!?$%°é中文。ไทयя😀²|\\`~… \n\t\u00a0\u2028\r",
    "...",
    "US$",
    "km",
    "http://",
    "co.uk",
]
PIECES += ["@", "don't", "n't", "e.g.", ":)", "10a.m.", "U.S."]
documents = st.lists(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), max_size=6)


def split(texts: Texts, dialect: str) -> Words:
    return DIALECTS[dialect](texts)


def words_of(strings: list[str], dialect: str) -> list[list[str]]:
    """The words as strings, read at the positions in Words."""
    texts = Texts.from_strings(strings)
    words = split(texts, dialect)
    data = texts.data.tobytes()
    return [
        [data[words.begins[at] :].decode()[: words.lengths[at]] for at in range(words.starts[d], words.starts[d + 1])]
        for d in range(len(texts))
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n\t\u00a0 ", []),
        ("one two\nthree", ["one", "two", "three"]),
        ("don't stop-now!", ["don't", "stop-now!"]),
        ("你好。再见 ok", ["你", "好", "。", "再", "见", "ok"]),
        ("GPU加速2倍", ["GPU", "加", "速", "2", "倍"]),
        ("привет, мир", ["привет,", "мир"]),
    ],
)
def test_a_paper_word_is_a_run_between_spaces_or_one_unspaced_letter(text, words):
    assert words_of([text], "paper") == [words]


# The tokens of spaCy 3.8.18, stripped as by datatrove 0.10.1, joined by |.
SPACY = [
    ("Don't say \"can't\", he'll go.", "Do|n't|say|\"|ca|n't|\"|,|he|'ll|go|."),
    ("(e.g. this, i.e. that.)", "(|e.g.|this|,|i.e.|that|.|)"),
    ("well-known self-made--man 10-20 1-a", "well|-|known|self|-|made|--|man|10|-|20|1|-|a"),
    ("U.S. grew 5% to $3.50/share; US$20, C$5.", "U.S.|grew|5|%|to|$|3.50|/|share|;|US$|20|,|C$|5|."),
    ("See https://example.com/a_b?q=1. or me@host.co.uk!", "See|https://example.com/a_b?q=1|.|or|me@host.co.uk|!"),
    ("http://localhost:8080/x end", "http://localhost:8080|/|x|end"),
    ("192.168.0.1:80/a 1.2.3.4/b", "192.168.0.1:80|/|a|1.2.3.4/b"),
    ("5km 3GB 20m/s 7°C. 100%", "5|km|3|GB|20|m/s|7|°|C|.|100|%"),
    ("... what?? ....!! …… wait…now", "...|what|?|?|....|!|!|…|…|wait|…|now"),
    ("[[:word:]] {a,b} <b> #tag @user __init__", "[|[:|word|:]|]|{|a|,|b|}|<|b|>|#|tag|@user|_|_|init|_|_"),
    ("It's 10a.m. o'clock :) (^_^) </3", "It|'s|10|a.m.|o'clock|:)|(^_^)|</3"),
    ("foo.Bar a.b 3.14 1,000 a,b x=y x==y", "foo|.|Bar|a.b|3.14|1,000|a|,|b|x|=|y|x==y"),
    ("'tis ‘quoted’ “text” café’s", "'|tis|‘|quoted|’|“|text|”|café|’s"),
    ("中文。句子 हिन्दी। мир.", "中文。句子|हिन्दी|।|мир|."),
    ("C++ C# .NET --flag +1 + 1+2 2*3", "C++|C|#|.NET|--flag|+1|+|1|+|2|2|*|3"),
    ("e.g.,i.e.", "e.g.|,i.e|."),
    ("😀smile 👍🏽 🥲new", "😀|smile|👍|🏽|🥲new"),
    ("don’t y'all gonna cannot", "do|n’t|y'|all|gon|na|can|not"),
    ("a.m.) Mr. Smith, Ph.D.", "a.m.|)|Mr.|Smith|,|Ph.D."),
    ("and/or either/or end.[1]", "and/or|either|/|or|end.[1|]"),
    ("\u00a0x\u3000y", "x|y"),
]


@pytest.mark.parametrize(("text", "tokens"), SPACY)
def test_a_datatrove_word_is_a_token_of_spacy(text, tokens):
    assert words_of([text], "datatrove") == [tokens.split("|")]


def test_three_thousand_chunks_have_the_tokens_of_spacy():
    lines = (FOLDER / "spacy_tokens.txt").read_text().splitlines()
    found = [" ".join(words) for words in words_of([line.replace(" ", "") for line in lines], "datatrove")]
    assert len(lines) > 3000
    assert [pair for pair in zip(lines, found, strict=True) if pair[0] != pair[1]] == []


def test_every_special_case_gives_its_own_tokens_also_between_brackets():
    cases = special_cases()
    assert len(cases) == 1343
    alone = words_of(["".join(case) for case in cases], "datatrove")
    assert alone == [list(case) for case in cases]
    shortened = [case for case in cases if case[-1].endswith(".")]
    enclosed = words_of([f"[{''.join(case)}]" for case in shortened], "datatrove")
    assert enclosed == [["[", *case, "]"] for case in shortened]


@settings(max_examples=200)
@given(documents)
def test_paper_words_are_those_of_the_definition(strings):
    assert words_of(strings, "paper") == [split_slowly(text) for text in strings]


@settings(max_examples=200)
@given(documents)
def test_datatrove_tokens_hold_every_character_but_the_spaces_in_order(strings):
    for text, tokens in zip(strings, words_of(strings, "datatrove"), strict=True):
        assert "".join(tokens) == "".join(text.split())
        assert all(tokens)


@settings(max_examples=100)
@given(documents, st.sampled_from([*DIALECTS]))
def test_words_do_not_depend_on_the_table_they_are_split_in(strings, dialect):
    together = words_of(strings, dialect)
    assert together == [words_of([text], dialect)[0] for text in strings]
    part = Texts.from_strings(["other ", *strings])
    inner = split(Texts(part.data, part.offsets[1:]), dialect)
    assert inner.counts.tolist() == [len(words) for words in together]


@settings(max_examples=100)
@given(documents, st.sampled_from([*DIALECTS]))
def test_hashes_are_equal_just_where_words_are(strings, dialect):
    words = split(Texts.from_strings(strings), dialect)
    spelled = [word for document in words_of(strings, dialect) for word in document]
    assert len(set(zip(spelled, words.hashes.tolist(), strict=True))) == len(set(spelled))
    assert len(set(words.hashes.tolist())) == len(set(spelled))
    assert words.lengths.tolist() == [len(word) for word in spelled]


def flags_of(text: str, dialect: str) -> list[int]:
    return split(Texts.from_strings([text]), dialect).flags.tolist()


def test_flags_of_letters_symbols_and_sentence_ends():
    both = HAS_ALPHA | HAS_NON_SYMBOL
    assert flags_of("word w1 12 -- *é*", "paper") == [both, both, HAS_NON_SYMBOL, 0, both]
    tokens = ["word", "12", "--", ".", "...", "+", "é"]
    assert flags_of(" ".join(tokens), "datatrove") == [
        both,
        HAS_NON_SYMBOL,
        ONLY_PUNCTUATION,
        ONLY_PUNCTUATION | ENDS_SENTENCE,
        ONLY_PUNCTUATION,
        0,
        both,
    ]


def test_a_symbol_that_datatrove_does_not_list_counts_as_a_word_there():
    assert flags_of("€", "paper") == [0]
    assert flags_of("€", "datatrove") == [HAS_NON_SYMBOL]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_documents_give_no_words(dialect):
    words = split(Texts.from_strings([]), dialect)
    assert words.starts.tolist() == [0]
    assert len(words.hashes) == len(words.begins) == 0


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_chunk_of_a_million_characters_is_one_pass(dialect):
    text = "(" * 300_000 + "a@" * 200_000 + "." * 300_000
    words = split(Texts.from_strings([text, "end"]), dialect)
    assert words.lengths.sum() == len(text) + 3
    assert np.all(np.diff(words.begins) > 0)
