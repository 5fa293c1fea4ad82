"""Character references are read as browsers read them, however many digits they have."""

import html
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster.character_references import unescaped

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"a &#{'9' * 5000}; b", "a \ufffd b"),
        (f"a &#{'9' * 5000}b", "a \ufffdb"),
        (f"a &#{'0' * 5000}65; b", "a A b"),
        (f"a &#x{'0' * 5000}41; b", "a A b"),
        (f"a &#{'0' * 5000}; b", "a \ufffd b"),
        ("&#12345678;&#x110000;&#65;&amp;#65;", "\ufffd\ufffdA&#65;"),
    ],
)
def test_a_number_of_any_length_is_a_character(text, expected):
    assert unescaped(text) == expected


@given(st.text(st.sampled_from("&#x0123456789abc;é lt")))
def test_short_references_are_those_of_the_standard_library(text):
    assert unescaped(text) == html.unescape(text)


def test_no_other_module_reads_references():
    """html.unescape raises an error at 4,301 digits, which would end a run."""
    modules = [path for folder in ("cluster", "pipelines", "training") for path in (ROOT / folder).rglob("*.py")]
    users = {path.name for path in modules if re.search(r"html\.unescape|import unescape\b", path.read_text())}
    assert users == {"character_references.py"}
