"""Long texts become sections: none is too long, none is lost, and each has the title of its heading."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raymill.pipelines.prepare.records.answers import cut_off
from raymill.pipelines.prepare.records.sections import parts_of, title_of

BODY = "The lamp is green while the router is ready, and red while it starts. It blinks while it loads an update."
TEXTS = st.text(st.sampled_from("aB1.?#=-\t \n\r\u3002`"), max_size=400)


@given(TEXTS | st.text(max_size=200), st.integers(1, 60))
def test_parts_in_order_are_the_text_and_none_is_too_long(text, max_chars):
    parts = parts_of(text, max_chars)
    if "```" not in text:  # a fence that is divided is closed and opened again
        assert "".join(one.text for one in parts) == text
    assert all(len(one.text.strip()) <= max_chars for one in parts)
    if len(parts) > 1:
        assert all(one.text.strip() for one in parts), "a part without a word is no record"
        assert len({one.title for one in parts}) == len(parts), "equal titles would be equal questions"


BLOCKS = st.sampled_from(
    [
        *("# Lamps\n", "Lamps\n", "| a | b |\n|---|---|\n", "| x | y |\n", "```\n", "code\n", "- One\n", "  two\n"),
        *(
            BODY,
            "\n",
            "\n\n",
            " " * 70 + "\n",
            "\u3000\n",
            "\u2003 \n",
            "\x0b",
            "\x85",
            "\u2028",
            "\r\n",
            "   ",
            "\t\n",
        ),
    ]
)


@given(st.lists(BLOCKS, max_size=40).map("".join), st.integers(20, 150))
@example("text\n" + " " * 1200 + "\nb", 1000)
@example("| a | b |\n|---|---|\n" + "| x | y |\n" * 300 + "\n\u3000\nmore\n", 2000)
def test_blocks_with_any_blanks_between_them_are_divided(text, max_chars):
    parts = parts_of(text, max_chars)
    assert all(len(one.text.strip()) <= max_chars for one in parts)
    words = "".join("".join(one.text for one in parts).split())
    assert all(words.count(one) >= text.count(one) for one in ("Lamps", "code", "One", "two"))


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


@pytest.mark.parametrize(
    "chars, titles", [(99, ["Notes", "Notes: Reset"]), (100, ["Notes", "Notes: Lamps", "Notes: Reset"])]
)
def test_a_section_of_100_characters_stands_alone(chars, titles):
    text = f"# Notes\n{'n' * (chars - len('# Notes'))}\n# Lamps\n{BODY}\n# Reset\n{BODY}\n"
    assert [one.title for one in parts_of(text, 230)] == titles


def test_an_item_of_a_list_above_a_sentence_is_no_heading():
    text = f"Lamps\n\n{BODY}\n\n1. Press the button\n2. Wait until the lamp is green.\n\n{BODY}\n"
    assert {one.title for one in parts_of(text, 200)} == {"Lamps (part 1 of 2)", "Lamps (part 2 of 2)"}


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


ROWS = [f"| lamp {n} | green |\n" for n in range(12)]
STRUCTURES = {
    "a fence": ["```sh\n", *(f"restart --lamp {n}\n\n" for n in range(6)), "```\n"],
    "a longer fence around another": ["````\n", "```\n# no heading\n```\n\n", "more\n", "````\n"],
    "a table": ["| lamp | colour |\n", "| --- | :-: |\n", *ROWS[:6]],
    "a table without bars around it": ["lamp | colour\n", "--- | ---\n", "a | b\n", "c | d\n"],
    "a list": [f"- Press button {n}.\n\n  Wait.\n" for n in range(6)],
    "a numbered list": [f"{n}. Press button {n}.\n" for n in range(1, 9)],
    "a grid": ["+----+----+\n", "| a  | b  |\n", "+----+----+\n"],
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_fence_table_or_list_that_fits_is_not_divided(name):
    block = "".join(STRUCTURES[name])
    for before in range(0, 260, 13):
        text = f"# Manual\n\nIt says: {'word ' * (before // 5)}\n\n{block}\n{BODY}\n\n{BODY}\n"
        parts = parts_of(text, max(len(block), 230))
        assert "".join(one.text for one in parts) == text
        assert sum(block.strip() in one.text for one in parts) == 1, before


def test_a_fence_that_does_not_fit_is_closed_and_opened_again_and_a_table_has_its_header_in_each_part():
    code = "".join(f"restart --lamp {n}\n" for n in range(30))
    parts = [one.text for one in parts_of(f"# Manual\n\n{BODY}\n\n```sh\n{code}```\n\nEnd.\n", 200)]
    assert all(cut_off(one) is None and len(one.strip()) <= 200 for one in parts)
    assert "".join(line for one in parts for line in one.splitlines(keepends=True) if "--lamp" in line) == code
    assert sum(one.count("```sh") for one in parts) > 2
    head = "| lamp | colour |\n|---|---|\n"
    parts = [one.text for one in parts_of(f"{head}{''.join(ROWS)}", 100)]
    assert all(one.startswith(head) for one in parts) and "".join(one.removeprefix(head) for one in parts) == "".join(
        ROWS
    )
    assert all(len(one) <= 100 for one in parts)
    items = "".join(f"{n}. {BODY}\n" for n in range(1, 5))
    assert [one.text[:2] for one in parts_of(items, 150)] == ["1.", "2.", "3.", "4."]


@pytest.mark.parametrize("form", ["|{0}|\n|-|\n{1}", "```{0}\n{1}```\n", "{2}\n{1}{2}\n", "~~~ {0}\n{1}"])
@pytest.mark.parametrize("chars", [20, 90, 100, 110, 190])
def test_parts_have_at_most_four_times_the_characters_of_the_text(form, chars):
    rows = "".join(f"|{n:03}|\n" for n in range(400))
    text = form.format("a" * chars, rows, "`" * (chars // 2))
    parts = [one.text for one in parts_of(text, 200)]
    assert sum(map(len, parts)) <= 4 * len(text) and len(parts) <= 4 * len(text) // 200
    assert "".join(line for one in parts for line in one.split() if len(line) == 5) == "".join(rows.split())
    repeats = sum(one.startswith(text.split("\n")[0]) for one in parts) > 2
    assert repeats == (chars <= 90), "a short header or mark stands in each part"


def test_a_list_is_divided_between_items_and_not_within_one():
    items = [f"{n}. Press the button of the lamp.\n\n   Wait until it is green.\n" for n in range(1, 5)]
    assert [one.text for one in parts_of("".join(items), len(items[0]) * 3 // 2)] == items


def test_two_fences_in_a_row_are_divided_between_them():
    shell, python = "```sh\nrestart --all\nstatus\n```\n", "```py\nlamps.restart()\nlamps.show()\n```\n"
    assert [one.text for one in parts_of(shell + python, len(python))] == [shell, python]


def test_each_part_of_a_fence_is_closed_by_the_mark_that_opened_it():
    code = "restart --lamp 1\n", "restart --lamp 2\n"
    for fence in (f"  ```sh\n{code[0]}{code[1]}  ``````\n", f"  ```sh\n{code[0]}{code[1]}"):
        assert [one.text for one in parts_of(fence, 38)] == [f"  ```sh\n{one}  ```\n" for one in code]
    code = "restart --lamp 1\n", "~~~~~~~~~~~~~~~~\n"  # not the end of this fence
    assert [one.text for one in parts_of(f"```\n{code[0]}{code[1]}", 27)] == [f"```\n{one}```\n" for one in code]


def test_the_last_part_is_not_too_short_for_a_record():
    for words in range(90, 130):
        parts = parts_of("word " * words, 200)
        assert min(len(one.text.strip()) for one in parts) >= 50, words


@pytest.mark.parametrize("line, title", [
    ("## **Bold** and `code` ##", "Bold and code"),
    ("# [Lamps](lamps.md#x) of [the router][1] {#lamps}", "Lamps of the router"),
    ("# ![logo](a.png) snake_case \\_x\\_ &amp; more\u00b6", "logo snake_case _x_ & more"),
    ("[![build](b.svg)](http://x)\n# Title <a name='x'></a>", "build"),
    ("See :ref:`the lamps <lamps>` and ``code``", "See the lamps and code"),
    ("---\nlayout: page\ntitle: 'The lamps'\n---\n\n# Other\n", "The lamps"),
    ("---\nlayout: page\n---\n\n# Other[^1]\n", "Other"),
    ("<!-- note -->\n# 2 * 3 * 4 is a_b_c", "2 * 3 * 4 is a_b_c"),
    pytest.param("*a " * 200_000, ("a *" * 100)[:200].strip(), id="a line whose marks never close"),
])  # fmt: skip
def test_the_title_of_a_text_has_no_marks(line, title):
    assert title_of(line) == title
