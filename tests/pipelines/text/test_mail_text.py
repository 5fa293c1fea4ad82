"""Parts of e-mails: quotes, signatures and disclaimers go, and texts that look like them stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.text.mail_text import new_text, without_disclaimers, without_quotes, without_signature

SIGNED = {
    "a delimiter": ("Yes.\n-- \nAnn", "Yes."),
    "a closing phrase": ("Yes.\n\nKind regards,\nAnn Example\nSupport, Example Ltd\n+49 228 1234", "Yes."),
    "German": ("Ja.\n\nMit freundlichen Grüßen\n\nAnn", "Ja."),
    "a telephone": ("Yes.\n\nSent from my iPhone", "Yes."),
    "both": ("Yes.\nBest regards\nAnn\n\nSent from my phone", "Yes."),
    "no name": ("Yes.\nThanks!", "Yes."),
    "eight lines": ("Yes.\nThanks\n" + "line\n" * 8, "Yes."),
    "a long line": ("Yes.\nThanks\n" + "l" * 80, "Yes."),
}

NOT_SIGNED = (
    "Yes.",
    "Thanks",  # all that it says
    "Hello,\nThank you!\nThe printer works now.",
    "Best\nThe word is a superlative.",
    "Kind regards are what we send.",
    "Thanks\n" + "a long line of a text that goes on after the closing phrase and ends without a mark " * 2,
    "Yes.\nThanks\n" + "line\n" * 9,
    "Yes.\nThanks\n" + "l" * 81,
    "Yes.\nThanks\nAnn?",
)

DISCLAIMED = (
    "This e-mail and any attachments are confidential and intended solely for the addressee.",
    "If you are not the intended recipient, please delete it.",
    "You have received this message in error? Then tell us.",
    "Please consider the environment before printing this mail.",
    "Diese E-Mail enthält vertrauliche Informationen.",
)


@pytest.mark.parametrize("name", SIGNED)
def test_a_signature_is_removed(name):
    text, wanted = SIGNED[name]
    assert without_signature(text) == wanted


@pytest.mark.parametrize("text", NOT_SIGNED)
def test_what_is_no_signature_stays(text):
    assert without_signature(text) == text.strip()


@pytest.mark.parametrize("text", DISCLAIMED)
def test_a_disclaimer_is_removed_and_other_paragraphs_stay(text):
    assert without_disclaimers(f"Yes.\n \nWell.\n\n{text}\nMore of it.\n\nEnd.") == "Yes.\n\nWell.\n\nEnd."
    assert without_disclaimers("Our printing costs are not confidential. Send an e-mail.") != ""


def test_quotes_go_and_the_signature_stays():
    assert without_quotes("Yes.\nOn Monday Ann wrote:\n> Why?\n--\nBob") == "Yes.\n--\nBob"
    assert new_text("Yes.\nOn Monday Ann wrote:\n> Why?\n--\nBob") == "Yes."


@given(st.text("ab>: \n-Thanks,regds.", max_size=200))
def test_only_whole_lines_go(text):
    lines = {line.rstrip() for line in text.split("\n")} | {line.strip() for line in text.split("\n")}
    for without in (without_quotes, without_signature, without_disclaimers):
        assert set(without(text).split("\n")) <= lines | {""}
