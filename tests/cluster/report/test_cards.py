"""Cards: every value is escaped where it is placed, in front matter, text and tables."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.report.markdown import card, escaped

HOSTILE = st.text(
    alphabet=st.sampled_from(list("a<>&|`*_[]()#!\\\"'{}$~:@-=\n\r\t\x00\u2028é")), min_size=1, max_size=30
)
TEMPLATE = """{% from "tables.md" import table %}
# {{ name }}


{{ nothing }}

{{ table(("A", "B"), rows) }}

{{ code|safe }}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes a card of a template in a package of its own."""
    folder = tmp_path_factory.mktemp("packages") / "package_with_a_card"
    folder.mkdir()
    Path(folder, "__init__.py").touch()
    Path(folder, "card.md").write_text(TEMPLATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder.parent)
        yield lambda front, **values: card("package_with_a_card", front, {"nothing": None, "code": ""} | values)


def test_a_card_has_its_front_matter_text_and_table(made):
    assert made({"a": "größer"}, name="x", rows=[("1", 2)], code="`<a>`") == (
        "---\na: größer\n---\n\n# x\n\n| A | B |\n|---|---|\n| 1 | 2 |\n\n`<a>`\n"
    )


@given(HOSTILE)
@settings(max_examples=200)
def test_a_cell_stays_a_cell_and_a_name_a_name(made, text):
    card = made({"name": text}, name=text, rows=[(text, text)])
    assert yaml.safe_load(card.split("---\n")[1]) == {"name": text}
    lines = card.split("---\n", 2)[2].strip().splitlines()
    assert len(lines) == 5 and re.match(r"#( |$)", lines[0])
    assert len(re.findall(r"(?<!\\)\|", lines[4].replace("\\\\", ""))) == 3
    assert "<" not in "".join(lines)


def test_plain_text_stays_readable():
    assert escaped("demo-lora 1.5, Straße") == "demo-lora 1.5, Straße"
    assert escaped("a|b <i>\n") == "a\\|b &lt;i&gt;"
    assert escaped("http://x.y www.x.y a@b.c") == "http\\://x.y www\\.x.y a\\@b.c"
