"""The text of a completion as it grows: parts by hand, of tokens that are single bytes."""

import pytest

from raymill.training.serving.completion import Completion, GrowingText


def cleaned(ids: list[int]) -> str:
    """As tokenizers that remove the space before a full stop."""
    return bytes(ids).decode(errors="replace").replace(" .", ".")


def parts_of(text: str, stop=(), *, cleans=False, at_once=False) -> list[str]:
    """The parts that are sent of a text whose bytes arrive one by one, or all at once."""
    sent: list[str] = []
    completion = Completion([], 99, 0.0, 1.0, 0, False, stop, True, sent.append)
    text_of = cleaned if cleans else lambda ids: bytes(ids).decode(errors="replace")
    growing, ids = GrowingText(completion, text_of, cleans), list(text.encode())
    for count in [len(ids)] if at_once else range(1, len(ids) + 1):
        if growing.grow(ids[:count], count == len(ids)):
            break
    assert "".join(sent) == growing.text
    return sent


@pytest.mark.parametrize(
    ("text", "stop", "parts"),
    [
        ("one", (), ["o", "n", "e"]),
        ("é!", (), ["é", "!"]),  # of two bytes: none is sent before the second
        ("one two", (" the",), ["o", "n", "e", " tw", "o"]),  # ` t` may begin a stop text
        ("one the end", (" the",), ["o", "n", "e"]),
        ("one t", (" the",), ["o", "n", "e", " t"]),
    ],
)
def test_a_part_is_sent_as_soon_as_no_later_token_changes_it(text, stop, parts):
    assert parts_of(text, stop) == parts


def test_the_first_of_several_stop_texts_ends_it():
    assert parts_of("a, b; c", (";", ","), at_once=True) == ["a"]


def test_no_part_has_a_space_that_a_later_token_removes():
    assert "".join(parts_of("so it is . Yes .", cleans=True)) == "so it is. Yes."
