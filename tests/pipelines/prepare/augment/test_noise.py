"""Operations on the words of a text."""

import random
import tracemalloc

import pytest

from raymill.pipelines.prepare.augment import noise
from raymill.pipelines.prepare.augment.draws import Draws
from raymill.pipelines.prepare.augment.pieces import Keep, joined, similarity
from raymill.pipelines.prepare.augment.settings import Operations

KEEP = Keep(("numbers", "code", "quotes", "links"))
TEXT = "I lost my card, and I can't cancel it. Please send a new one to the colour printer!"
OF_WORDS = ("typos", "ocr", "drop", "swap", "spelling")


def all_of(name: str, text: str, keep: Keep = KEEP, count: int = 200, **settings) -> set[str]:
    """The texts of many draws."""
    options = getattr(Operations.model_validate({name: settings}), name).model_dump()
    return {getattr(noise, name)(keep.pieces(text), Draws(str(at)), **options) for at in range(count)}


def test_the_numbers_that_are_drawn_are_those_of_every_python():
    draws = Draws("1", "t7", "typos", "2")
    assert [draws.below(1000) for _ in range(4)] == [888, 408, 379, 993]
    assert "".join(draws.shuffled("abcdef")) == "adefbc"
    assert Draws("1", "t7").below(1 << 80) == Draws("1", "t7").below(1 << 80) != Draws("1t", "7").below(1 << 80)


def test_a_typo_is_a_neighbouring_letter_or_one_doubled_left_out_or_exchanged():
    found = all_of("typos", "card", count=500)
    assert {"vard", "xard", "cars", "caard", "crd", "acrd", "cadr"} <= found
    assert "pard" not in found and "card" not in found
    assert all_of("typos", "by") == {"by"}, "short words have none"
    capital = all_of("typos", "Card", count=500)
    assert {"Vard", "Ccard", "Caard"} <= capital and "CCard" not in capital
    assert "CCARD" in all_of("typos", "CARD", count=500)


def test_layouts_have_their_own_neighbours():
    assert "hez" not in all_of("typos", "hey", count=500)
    assert "hrz" in all_of("typos", "hrt", count=500, layout="qwertz")
    assert "eun" in all_of("typos", "wun", count=500) and "eun" not in all_of(
        "typos", "wun", count=500, layout="azerty"
    )


def test_ocr_errors_are_letters_that_look_alike():
    assert all_of("ocr", "modern") >= {"rnodern", "modem", "moclern", "m0dern"}


def test_case_has_the_forms_that_are_asked():
    assert all_of("case", "How do I do `x`?") == {"how do i do `x`?", "HOW DO I DO `x`?", "how do I do `x`?"}
    assert all_of("case", "no way", forms=["title"]) == {"No Way"}
    assert all_of("case", "no way", forms=["lower", "title"]) == {"No Way"}, "the form that changes it"
    assert all_of("case", '"Ann" said', forms=["first"]) == {'"Ann" said'}, "what must stay is no first word"


def test_punctuation_has_the_forms_that_are_asked():
    assert all_of("punctuation", "Well, isn't it 3.5?") == {
        "Well, isn't it 3.5", "Well, isn't it 3.5???", "Well isn't it 3.5?", "Well, isnt it 3.5?", "Well isnt it 3.5"
    }  # fmt: skip
    assert all_of("punctuation", "no marks") == {"no marks"}


@pytest.mark.parametrize(("words", "fraction", "changed"), [(10, 0.14, 1), (10, 0.15, 2), (3, 0.1, 1), (4, 1.0, 4)])
def test_the_fraction_of_words_is_rounded_to_the_nearest_number_and_is_at_least_one(words, fraction, changed):
    for text in all_of("ocr", " ".join(["modern"] * words), count=20, words=fraction):
        assert sum(word != "modern" for word in text.split()) == changed


def test_words_are_left_out_with_one_of_their_spaces():
    assert all_of("drop", "one two three.", words=0.3) == {"two three.", "one three.", "one two."}
    assert all_of("drop", "alone") == {"alone"}, "a word stays"
    assert all_of("drop", "about 12") == {"12"}


def test_neighbours_are_exchanged_where_only_spaces_stand_between():
    assert all_of("swap", "one two, three", words=0.1) == {"two one, three"}
    assert all_of("swap", "one, two") == {"one, two"}
    assert all_of("swap", "one two three", words=1.0) == {"two one three", "one three two"}, "a word moves once"


@pytest.mark.parametrize("name, options", [("typos", {"words": 0.1, "layout": "qwerty"}), ("ocr", {"words": 0.1})])
def test_of_a_long_word_only_the_error_that_is_drawn_is_made(name, options):
    pieces = KEEP.pieces("mail" * 500)
    tracemalloc.start()
    changed = getattr(noise, name)(pieces, Draws("1"), **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert changed != "mail" * 500 and abs(len(changed) - 2000) < 2
    assert peak < 100 * 2000, "with all errors of 2,000 letters, each a word, 20 MB and more"


def test_spelling_is_british_for_american_and_back_and_frequent_mistakes():
    assert all_of("spelling", "Colour", kinds=["regional"]) == {"Color"}
    assert all_of("spelling", "we organized", kinds=["regional"]) == {"we organised"}
    assert all_of("spelling", "I receive", kinds=["mistakes"]) == {"I recieve"}
    assert all_of("spelling", "recieve", kinds=["mistakes"]) == {"recieve"}


@pytest.mark.parametrize("name", OF_WORDS)
def test_what_must_stay_stays(name):
    text = 'Enter "my color" in `color box` at https://color.example/color for 12.50 to <EMAIL_1> '
    text += "or <PHONE_0aff> at the color shop"
    keep = Keep(("numbers", "code", "quotes", "links"), terms=("color shop",), patterns=(r"to <",))
    kept = [
        '"my color"',
        "`color box`",
        "https://color.example/color",
        "12.50",
        "to <EMAIL_1>",
        "<PHONE_0aff>",
        "color shop",
    ]
    assert keep.found(text) == kept and joined(keep.pieces(text)) == text
    for one in all_of(name, text, keep, words=1.0):
        assert all(part in one for part in kept), one


def test_pieces_joined_are_the_text():
    letters = "ab 1.\n\"`'’<>{}@:/-é中"
    draw = random.Random(1)
    for _ in range(500):
        text = "".join(draw.choice(letters) for _ in range(draw.randrange(30)))
        assert joined(KEEP.pieces(text)) == text


def test_similarity_is_the_share_of_sequences_in_common():
    assert similarity("abc", "ABC ") == 1.0 and similarity("", "") == 1.0
    assert similarity("abcd", "wxyz") == pytest.approx(0.0)
    assert 0.6 < similarity("lost my card", "lost my cars") < 0.9
