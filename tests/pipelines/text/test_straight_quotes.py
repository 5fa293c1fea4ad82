"""Typographic quotation marks become straight ones, but in code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.text.straight_quotes import straight_quotes

STAY = "\u00ab non \u00bb 5\u2032 3\u2033 Hawai\u02bbi m\u02bci"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("\u201cIt\u2019s \u2018fine\u2019\u201d, \u201eja\u201f \u201ani\u201b", "\"It's 'fine'\", \"ja\" 'ni'"),
        (STAY, STAY),
        ("\u2019a `\u2019b` \u2019c ``\u2019 ` \u2019`` \u2019d", "'a `\u2019b` 'c ``\u2019 ` \u2019`` 'd"),
        ("an ` alone \u2019a\nand ` another \u2019b", "an ` alone 'a\nand ` another 'b"),
        ("\u2019a\n```py\n\u2019b `\n````\n\u2019c", "'a\n```py\n\u2019b `\n````\n'c"),
        ("\u2019a\n  ~~~\n\u2019b\n```\n\u2019c\n  ~~~\n\u2019d", "'a\n  ~~~\n\u2019b\n```\n\u2019c\n  ~~~\n'd"),
        ("````\n\u2019b\n```\n\u2019c\n````\n\u2019d", "````\n\u2019b\n```\n\u2019c\n````\n'd"),
        ("\u2019a\n```\n\u2019never closed", "'a\n```\n\u2019never closed"),
        ("within a ``` line \u2019a", "within a ``` line 'a"),
    ],
)  # fmt: skip
def test_quotation_marks_are_straight_outside_of_code(text, wanted):
    assert straight_quotes(text) == wanted
    assert straight_quotes(wanted) == wanted


MARKS = "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f"


@given(st.text(alphabet=f"ab \n`~{MARKS}"))
def test_nothing_else_changes(text):
    found = straight_quotes(text)
    assert len(found) == len(text)
    assert all(one == other or (one in MARKS and other in "'\"") for one, other in zip(text, found, strict=True))
    if "`" not in text and "~~~" not in text:
        assert not set(found) & set(MARKS)


def test_many_marks_of_code_without_an_end_take_linear_time():
    """0.1 s of 300 kB; in quadratic time minutes."""
    for hostile in ("\u2019`\n", "``` ", "~~~", "`` ` ``` ", "\n```", "\n~~~~ `", " \t"):
        text = hostile * (300_000 // len(hostile)) + "\u2019`"
        assert len(straight_quotes(text)) == len(text)
