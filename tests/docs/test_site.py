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


def test_guides_link_to_pages_and_name_files_that_are_none(pages):
    assert "[Curate](how-to/curate.md)" in pages["index.md"]
    assert "](../index.md)" in pages["how-to/curate.md"]
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


@pytest.mark.parametrize("kind", kinds.names())
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
    assert re.findall(r"^## (.*)$", commands, re.MULTILINE) == list(cli.verbs())
    assert "    raymill explain RUN ID [options]\n" in commands and "| `--replace` | delete results made" in commands


def test_text_in_a_cell_is_no_markup():
    assert cell("a [b] | <c> `d_[e]`\n f_g") == r"a \[b\] \| \<c\> `d_[e]` f\_g"


def test_the_site_is_built_strictly():
    assert build.main() == 0
    assert (build.ROOT / "build" / "site" / "index.html").exists()
