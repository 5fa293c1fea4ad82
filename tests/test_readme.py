"""The code in the README is run, so that it stays true."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.config import load
from pipelines.analysis import Analysis
from pipelines.inputs import Input, Limits
from pipelines.readers.plain import OneDocument
from pipelines.readers.reader import Skipped
from pipelines.text.texts import Texts
from pipelines.units import Span

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]


def test_the_configs_in_the_readme_load(tmp_path):
    names = []
    for config in (code for language, code in BLOCKS if language == "yaml"):
        path = tmp_path / "config.yaml"
        path.write_text(config)
        names.append(load(str(path)).name)
    assert names == ["peps", "gsm8k-lora"]


def test_the_rule_in_the_readme_removes_what_it_says():
    names: dict = {}
    exec(PYTHON[0], names)
    rule = names["Shouting"]()
    analysis = Analysis(Texts.from_strings(["A quiet text.", "A LOUD TEXT", ""]), "paper", pa.table({}))
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
def test_the_reader_in_the_readme_reads(tmp_path, content, text, problem):
    names: dict = {}
    exec(PYTHON[1], names)
    reader = names["Notebook"]()
    assert isinstance(reader, OneDocument)
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(content))
    span = Span(str(path), path.stat().st_size, "", "notebook", 0, path.stat().st_size)
    (row,) = pa.concat_tables(reader.read(span, Input(path=str(path)), Limits(), Skipped())).to_pylist()
    assert (row["text"], row["problem"]) == (text, problem)


@pytest.mark.parametrize("number", [0, 1])
def test_an_extension_takes_under_thirty_lines(number):
    code = PYTHON[number]
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))]) < 30
