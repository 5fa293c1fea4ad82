"""The example of a whole chain: tickets to a promoted model that an endpoint serves, from one run file."""

import importlib
import json
import sys

import pytest

import raymill
from docs.build import ROOT

FOLDER = ROOT / "docs/examples/chain"


@pytest.fixture
def chain(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)  # the example changes it, and it is set back after the test
    yield importlib.import_module("chain")
    sys.modules.pop("chain")


def test_the_run_file_of_the_example_is_right_for_its_tiny_model(chain, tmp_path):
    (tmp_path / "tickets.csv").write_bytes((FOLDER.parent / "support_bot/tickets.csv").read_bytes())
    chain.write_tiny_model(tmp_path / "models/base", tmp_path / "tickets.csv")
    said = raymill.dry_run(FOLDER / "run.yaml")
    assert [f"step {name} ({kind}): " in said for name, kind in (
        ("data", "prepare"), ("sft", "train"), ("judged", "compare"), ("publish", "promote")
    )] == [True] * 4  # fmt: skip
    whole = raymill.config.check(FOLDER / "whole.yaml")
    kinds = ["prepare", "annotate", "train", "generate", "prepare", "train", "compare", "promote"]
    assert [whole.steps[name]["kind"] for name in whole.order] == kinds
    assert raymill.dry_run(whole).count("open, waits for") == 6
    of_lora = raymill.config.check(FOLDER / "run.yaml", override=chain.OF_A_REAL_MODEL)
    assert of_lora.steps["sft"]["method"] == "lora" and of_lora.steps["sft"]["steps"] == 12


@pytest.mark.slow
@pytest.mark.ray
def test_tickets_become_a_promoted_model_that_answers(chain, tmp_path, capsys):
    answer = chain.main("out")
    report = json.loads((tmp_path / "out/runs/support-bot/judged/report.json").read_text())
    assert report["passed"] and report["decision"] == "promote"
    digest = raymill.alias("models", "champion")["digest"]
    assert answer["model"] == "champion" and answer["system_fingerprint"] == f"champion/1/{digest}"
    said = capsys.readouterr().out
    assert f"{chain.QUESTION}\n{answer['choices'][0]['message']['content']}" in said
    (record,) = [line for line in said.splitlines() if '"gen_ai.operation.name": "chat"' in line]
    assert chain.QUESTION not in record
    again = chain.main(str(tmp_path / "out"))
    assert again["choices"][0]["message"] == answer["choices"][0]["message"]
    assert raymill.alias("models", "champion")["version"] == 1, "finished steps are found, not made again"


@pytest.mark.slow
@pytest.mark.ray
def test_the_whole_way_of_a_support_bot_ends_with_a_model_that_learned_preferences(chain, tmp_path):
    chain.write_tiny_model(tmp_path / "models/base", FOLDER.parent / "support_bot/tickets.csv")
    for file in (FOLDER.parent / "support_bot/tickets.csv", FOLDER / "whole.yaml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    run = raymill.run("whole.yaml", address="local")
    assert run.exit_code == 0 and {one["state"] for one in run.report["steps"]} == {"finished"}
    assert raymill.alias("models", "champion")["digest"] == run.step("dpo").manifest["digest"]
    splits = run.step("pairs").report["splits"]
    assert splits["train"]["records"] > 30 and splits["validation"]["records"] > 0
