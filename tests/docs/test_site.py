"""The site of the documentation: its references, its links, and the errors that end `make docs`."""

import re

import pytest

import raymill
from docs import build
from docs.markdown import cell
from docs.settings import settings_page
from raymill.cluster import cli
from raymill.cluster.frame import kinds


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    build.write_pages(folder)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.md")}


def test_every_page_is_in_the_navigation_and_the_other_way_round(pages):
    named = re.findall(r'"([\w/.-]+\.md)"', (build.ROOT / "zensical.toml").read_text())
    assert sorted(named) == sorted(pages)


# Where measured numbers stand with their dates. The changelog has dates of releases.
NUMBERS = {"tests/benchmarks/README.md", "docs/numbers.md", "tests/benchmarks/gpu/PREDICTIONS.md"}


def prose(text: str) -> str:
    """A page without code and indented blocks."""
    without_blocks = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.sub(r"`[^`]*`|^ {4}.*$", "", without_blocks, flags=re.MULTILINE)


def test_dated_measurements_stand_in_the_pages_of_numbers_alone():
    texts = {source: (build.ROOT / source).read_text() for source in build.GUIDES if source != "CHANGELOG.md"}
    dated = {source for source, text in texts.items() if re.search(r"\b20\d\d-\d\d-\d\d\b", prose(text))}
    assert dated <= NUMBERS and len(dated) > 1
    assert {page.partition("/")[0] for source, page in build.GUIDES.items() if source in NUMBERS} == {"numbers"}


@pytest.mark.parametrize("source", [source for source, page in build.GUIDES.items() if page.startswith("how-to/")])
def test_a_guide_is_short_before_its_first_table_and_as_a_whole(source):
    """Its front takes two minutes to read; settings and details are in references, measurements among the numbers."""
    text = prose((build.ROOT / source).read_text())
    second_section = [found.start() for found in re.finditer(r"^##+ ", text, re.MULTILINE)][1:2]
    first_table = [text.index("\n|")] if "\n|" in text else []
    front = text[: min([*second_section, *first_table, len(text)])]
    outside_tables = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    assert len(front.split()) <= 400 and len(outside_tables.split()) <= 1100


def test_guides_link_to_pages_and_name_files_that_are_none(pages):
    assert "[Curate](how-to/curate.md)" in pages["index.md"]
    assert "](../reference/curate.md#inputs)" in pages["how-to/curate.md"]
    assert "](../numbers/results.md#rules-of-your-own)" in pages["how-to/curate.md"]
    assert "`deploy/s3/driver.json`" in pages["how-to/kubernetes.md"]


def test_a_link_to_nothing_ends_the_build_with_its_place(monkeypatch, tmp_path, capsys):
    (tmp_path / "README.md").write_text("[gone](no/such.md)")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "SOURCE", tmp_path / "pages")
    monkeypatch.setattr(build, "GUIDES", {"README.md": "index.md"})
    assert build.main() == 1
    assert capsys.readouterr().err == "README.md: the link to no/such.md leads nowhere.\n"


def test_a_public_name_without_a_docstring_ends_the_build(monkeypatch, tmp_path):
    monkeypatch.setattr(raymill, "__all__", ["bare"])
    monkeypatch.setattr(raymill, "bare", lambda: None, raising=False)
    with pytest.raises(build.SiteError, match=r"raymill: without a docstring: bare\."):
        build.write_pages(tmp_path / "pages")


@pytest.mark.parametrize("kind", [one.name for one in kinds.kinds() if one.of is None])
def test_the_reference_has_every_setting_once_with_its_description(kind):
    page = settings_page(kind)
    schema = kinds.kind_of(kind).config.load().model_json_schema()
    groups = {"": schema} | {name: group for name, group in schema["$defs"].items() if "properties" in group}
    assert len(re.findall(r"^#{1,2} ", page, re.MULTILINE)) == len(groups)
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", page, re.MULTILINE)
    settings = [(name, cell(one.get("description", ""))) for group in groups.values()
                for name, one in group["properties"].items()]  # fmt: skip
    assert sorted(rows) == sorted(settings)


def test_the_reference_has_every_verb_with_its_options(pages):
    commands = pages["reference/commands.md"]
    assert re.findall(r"^## (.*)$", commands, re.MULTILINE) == list(cli.commands())
    assert "    raymill explain RUN ID [options]\n" in commands and "| `--replace` | delete results made" in commands


def test_text_in_a_cell_is_no_markup():
    assert cell("a [b] | <c> `d_[e]`\n f_g") == r"a \[b\] \| \<c\> `d_[e]` f\_g"


@pytest.mark.slow
def test_the_site_is_built_strictly():
    assert build.main() == 0
    assert (build.ROOT / "build" / "site" / "index.html").exists()
