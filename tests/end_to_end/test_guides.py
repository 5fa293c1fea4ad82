"""The code in the guides is run, and what they claim is checked, so that it stays true."""

import json
import re

import pyarrow as pa
import pytest

from raymill.cluster.config import load
from raymill.cluster.readers.formats import READERS
from raymill.cluster.readers.formats.text_files import OneDocument
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.streams import Span
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.records.clean import Clean
from raymill.pipelines.prepare.records.validate import Validate
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.text.normalize import normalize
from raymill.pipelines.text.texts import Texts
from tests.support.guides import GUIDES, ROOT, blocks

CURATE = GUIDES["pipelines/curate/REFERENCE.md"]
PYTHON = [code for code in blocks("python") if "class " in code]  # the extensions


def test_the_configs_in_the_guides_load(tmp_path):
    (scores,) = (code for code in blocks("python") if "def names_the_part" in code)
    (tmp_path / "my_scores.py").write_text(scores)
    names = []
    whole = ""
    for config in blocks("yaml"):
        is_whole = "kind:" in config  # others are more settings of the config before
        whole = config if is_whole else whole + config
        path = tmp_path / "config.yaml"
        path.write_text(whole)
        name = load(str(path)).name
        names += [name] * is_whole
    assert names == [
        "web", "helpdesk", "helpdesk-lora", "helpdesk-dpo", "helpdesk-model", "helpdesk-model", "web", "round-1", "sms",
        "tickets", "over-optimisation", "harmful", "bbq", "peps", "multilingual", "crawl", "best", "upsampled", "site",
        "articles", "clean",
        "educational", "lessons", "lessons-by-meaning", "tickets-errors", "log-errors", "slice-1", "more",
        "manuals-qa", "friendly", "manuals-checked", "manuals-best", "intents-paraphrased",
        "manuals-personas", "faq", "helpdesk", "machines",
        "support", "exports", "intents", "tickets-data", "tickets", "tickets-test", "gsm8k-lora",
    ]  # fmt: skip


def test_the_threats_of_the_security_policy_name_tests_that_exist():
    rows = re.findall(r"^\| .* \| .* \| (.*`tests/.*) \|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    named = [re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row) for row in rows]
    assert len(rows) > 15 and all(named)
    for file, test in (one for tests in named for one in tests):
        assert f"\ndef {test}(" in (ROOT / file).read_text(), f"SECURITY.md: {file} has no {test}"


def test_the_rule_in_the_guide_removes_what_it_says():
    names: dict = {}
    exec(PYTHON[0], names)
    rule = names["Shouting"]()
    analysis = Analysis(Texts.from_strings(["A quiet text.", "A LOUD TEXT", ""]), "paper", pa.table({}), Store())
    signals = rule.measure(analysis)
    (check,) = rule.checks("paper")
    assert list(signals) == list(rule.signals) == [check.signal]
    assert check.fails(signals[check.signal]).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("content", "text", "problem"),
    [
        (
            {"cells": [{"cell_type": "markdown", "source": ["# One\n", "two"]}, {"cell_type": "code"}]},
            "# One\ntwo",
            None,
        ),
        ({"no": "cells"}, None, "broken_json"),
    ],
)
def test_the_reader_in_the_guide_reads(tmp_path, content, text, problem):
    names: dict = {}
    exec(PYTHON[1], names)
    reader = names["Notebook"]()
    assert isinstance(reader, OneDocument)
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(content))
    span = Span(str(path), path.stat().st_size, "", "notebook", 0, path.stat().st_size)
    (row,) = pa.concat_tables(reader.read(Store(), span, Input(path=str(path)), Limits(), ReaderCounts())).to_pylist()
    assert (row["text"], row["problem"]) == (text, problem)


@pytest.mark.parametrize("number", [0, 1])
def test_an_extension_takes_under_thirty_lines(number):
    code = PYTHON[number]
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))]) < 30


def test_the_columns_that_the_guide_gives_a_format_are_those_of_its_reader(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x", "key": 1}\n')
    (tmp_path / "a.csv").write_text("key,body\n1,x\n")
    table = CURATE.partition("| format | columns |\n")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| (`.*?) \| (.*) \|$", table, re.MULTILINE))
    formats = {name: meaning for names, meaning in rows.items() for name in re.findall(r"`(\w+)`", names)}
    assert set(formats) == set(READERS)
    for format, meaning in formats.items():
        kind = READERS[format].columns
        if kind == "fixed":
            columns = READERS[format].columns_of(Store(), FileInfo("none", 0, ""), Input(path="none"))
            assert re.findall(r"`(\w+)`", meaning) == list(columns)
        else:
            assert {"typed": "schema", "open": "keys", "header": "header"}[kind] in meaning


def test_normalising_does_what_the_guide_says():
    assert "cafÃ©` becomes `café" in CURATE
    text = "\ufeff\n\n  cafÃ© \r\nA soft\u00adhyphen, a\u00a0space\x07 and e\u0301.  \r    Two  Spaces.\n\n"
    assert normalize(Texts.from_strings([text]))[0] == "  café\nA softhyphen, a space and é.\n    Two  Spaces."
    assert normalize(Texts.from_strings(["One sentence.  Another one."]))[0] == "One sentence. Another one."


def test_links_between_guides_lead_to_files_and_headings():
    for name, text in GUIDES.items():
        for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
            path = (ROOT / name).parent / target if target else ROOT / name
            assert path.exists(), f"{name}: {target}"
            if heading:
                titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
                anchors = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
                assert heading in anchors, f"{name}: {target}#{heading}"


def test_every_guide_is_named_on_the_front_page_and_every_reference_in_its_guide():
    linked = set(re.findall(r"\]\(([^)#]+)", GUIDES["README.md"]))
    references = {name for name in GUIDES if name.endswith("REFERENCE.md")}
    assert sorted(GUIDES.keys() - linked - references) == ["README.md"]
    assert all("](REFERENCE.md" in GUIDES[name.replace("REFERENCE", "README")] for name in references)


def test_the_numbers_on_the_front_page_are_among_the_measured_ones():
    table = GUIDES["README.md"].partition("## What it takes")[2].partition("\n## ")[0]
    figures = re.findall(r"^\| \S.* \| ([^|]+) \|$", table, re.MULTILINE)
    assert len(figures) >= 5
    measured = re.sub(r"\s+", " ", GUIDES["tests/benchmarks/README.md"] + (ROOT / "docs" / "numbers.md").read_text())
    assert [figure for figure in figures if figure not in measured] == []


def test_the_tree_has_every_folder_of_the_packages():
    tree = (ROOT / "docs" / "design.md").read_text().partition("## The tree")[2].partition("\n## ")[0]
    named, parents = set(), []
    for indent, name in re.findall(r"^( {4,})([a-z0-9_]+)/ ", tree, re.MULTILINE):
        parents = [*parents[: len(indent) // 2 - 2], name]
        named.add("/".join(parents))
    folders = {path.parent.relative_to(ROOT).as_posix() for package in ("cluster", "pipelines", "training")
               for path in (ROOT / package).rglob("*.py")}  # fmt: skip
    assert sorted(folders - named) == []
    gone = (one for one in named if one.partition("/")[0] in ("cluster", "pipelines", "training"))
    assert [one for one in gone if not (ROOT / one).is_dir()] == []


def test_every_setting_of_cleaning_and_validation_is_in_the_guide():
    guide = GUIDES["pipelines/prepare/REFERENCE.md"]
    for model, title in ((Clean, "## Clean"), (Validate, "## Validate")):
        section = guide.partition(f"{title}\n")[2].partition("\n## ")[0]
        first_cells = "".join(re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE))
        assert [name for name in model.model_fields if f"`{name}" not in first_cells] == []
