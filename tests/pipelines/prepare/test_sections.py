"""Long texts become sections: none is too long, none is lost, and each has the title of its heading."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.prepare.records.sections import parts_of

BODY = "The lamp is green while the router is ready, and red while it starts. It blinks while it loads an update."
TEXTS = st.text(st.sampled_from("aB1.?#=-\t \n\r\u3002`"), max_size=400)


@given(TEXTS | st.text(max_size=200), st.integers(1, 60))
def test_parts_in_order_are_the_text_and_none_is_too_long(text, max_chars):
    parts = parts_of(text, max_chars)
    assert "".join(one.text for one in parts) == text
    assert all(len(one.text.strip()) <= max_chars for one in parts)
    if len(parts) > 1:
        assert all(one.text.strip() for one in parts), "a part without a word is no record"
        assert len({one.title for one in parts}) == len(parts), "equal titles would be equal questions"


@pytest.mark.parametrize(
    "heading",
    ["# {}\n\n", "## {} ##\n", "{}\n====\n\n", "{}\n----\n", "{}\n\n", "1. {}\n", "2.1 {}\n\n", "{}\n"],
)
def test_a_text_is_divided_at_its_headings(heading):
    names = ["Manual", "Lamps", "Reset", "Updates"]
    parts = parts_of("".join(f"{heading.format(name)}{BODY}\n" for name in names), 150)
    first = parts[0].title
    assert first.endswith("Manual") and [one.title for one in parts[1:]] == [
        f"{first}: {heading.split('{')[0].strip('# ')}{' ' * heading[0].isdigit()}{name}" for name in names[1:]
    ]
    assert all(BODY in one.text for one in parts)


def test_what_is_no_heading_divides_no_text():
    code = "```\n# a comment of code\n```\n"
    items = "- First\n- Second\n(a) Third\n1. Fourth\n2. Fifth\nand so on.\n"
    wrapped = "Restart the router, then wait until its\nlamp is green. A lamp that blinks\nmeans that it updates.\n"
    text = f"# Manual\n\n{BODY}\n{code}{items}{BODY}\n\n{wrapped}"
    assert {one.title for one in parts_of(text, 350)} == {"Manual (part 1 of 2)", "Manual (part 2 of 2)"}


def test_a_short_section_is_part_of_the_next():
    text = f"# Manual\n## Lamps\n{BODY}\n## Notes\nNone.\n## Reset\n{BODY}\n"
    assert [one.title for one in parts_of(text, 200)] == ["Manual", "Manual: Notes"]


def test_a_long_section_is_divided_between_paragraphs_else_sentences_else_words():
    paragraphs = [f"{number} {BODY}" for number in range(6)]
    parts = parts_of("\n\n".join(paragraphs), 250)
    assert [one.text.strip() for one in parts] == ["\n\n".join(paragraphs[at : at + 2]) for at in (0, 2, 4)]
    sentences = parts_of(" ".join([BODY] * 4), 120)
    assert all(one.text.strip().endswith(".") for one in sentences)
    words = parts_of("word " * 100, 52)
    assert {one.text.strip() for one in words} == {" ".join(["word"] * 10)}
    assert [len(one.text) for one in parts_of("x" * 25, 10)] == [10, 10, 5]


def test_a_text_that_fits_is_one_part():
    text = f"\n# Manual\n{BODY}\n# Reset\n{BODY}\n\n"
    ((title, same),) = parts_of(text, len(text.strip()))
    assert (title, same) == ("Manual", text)
