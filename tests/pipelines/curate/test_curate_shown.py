"""What a person sees of `raymill curate` and of what it left: plan first, verdict first, time at the end."""

import json
import re

import pytest
import yaml

from cluster import cli, logs
from cluster.config import load
from pipelines.curate import job as job
from pipelines.curate.commands import changed_settings
from pipelines.curate.config import CurateConfig
from pipelines.curate.report import gather
from tests.pipelines.curate.test_curate import story
from tests.support.inline import InlineEngine

CHANGED = """
kind: curate
name: shown
inputs:
  - {path: in.jsonl, id: id}
output: run
language: {keep: [en]}
rules: {packs: [gopher_quality, c4], gopher_quality: {min_words: 20}}
personal_data: null
dedup: {threshold: 0.9}
"""


@pytest.fixture
def raymill(tmp_path, monkeypatch, capsys):
    """Call the command line in a folder with a config of six stories, one of them twice, without Ray."""
    texts = {f"s{n}": story(n) for n in range(5)} | {"copy": story(3)}
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in texts.items()))
    (tmp_path / "notes.pdf").write_text("x")
    (tmp_path / "c.yaml").write_text(CHANGED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "Engine", InlineEngine)

    def call(*words: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(words)
        shown = capsys.readouterr()
        logs.setup()
        assert left.value.code == 0, shown.err
        return shown.out, shown.err

    return call


def test_a_dry_run_shows_the_plan_first_and_then_only_what_is_not_the_default(raymill, tmp_path):
    out, _ = raymill("curate", "c.yaml", "--dry-run", "-o", "inputs.0.path=.", "-o", "output=../run")
    plan, _, settings = out.partition("\n\n")
    assert [line.split()[0] for line in plan.splitlines()] == ["inputs", "rules", "dedup", "output", "skipped"]
    assert "1 files, 1 units" in plan and "1 .pdf" in plan and f"{tmp_path}/../run: to be made" in plan
    title, _, text = settings.partition("\n")
    assert title == "Settings that differ from the defaults (--verbose shows all):"
    shown = yaml.safe_load(text)
    assert (
        shown["dedup"] == {"threshold": 0.9}
        and shown["personal_data"] is None
        and shown["language"] == {"keep": ["en"]}
    )
    assert shown["rules"]["gopher_quality"] == {"min_words": 20} and "execution" not in shown
    assert not (tmp_path.parent / "run").exists()
    everything = raymill("curate", "c.yaml", "--dry-run", "--verbose")[0]
    assert everything.startswith("inputs   1 files") and "unit_mib: 64" in everything


def test_the_settings_shown_are_a_config_of_the_same_run(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(CHANGED)
    config = load(str(path))
    path.write_text(yaml.safe_dump(changed_settings(config)))
    assert load(str(path)) == config
    plain = {"kind": "curate", "name": "x", "inputs": [{"source": "input", "path": "in"}], "output": "out"}
    assert changed_settings(CurateConfig.model_validate(plain)) == plain


def test_a_run_ends_with_its_time_and_a_tiny_one_does_not_warn_of_idle_rules(raymill, monkeypatch):
    out, _ = raymill("curate", "c.yaml")
    assert re.fullmatch(r"elapsed (\d+ min )?\d+ s", out.splitlines()[-1])
    assert "removed nothing" not in out
    monkeypatch.setattr(gather, "_TELLING_DOCUMENTS", 6)
    assert "warning: c4 removed nothing of 6 documents." in raymill("curate", "c.yaml", "-o", "output=more")[0]


def test_explain_gives_the_verdict_first_and_the_measurements_after_it(raymill):
    raymill("curate", "c.yaml")
    for id, verdict in (("copy", "outcome   removed as exact_duplicate of s3"), ("s1", "outcome   kept")):
        lines = raymill("explain", "run", id)[0].splitlines()
        assert lines[0] == f"document  {id}" and lines[1].startswith(verdict)
        assert lines.index("measured") > 1 and any("gopher_words" in line for line in lines[lines.index("measured") :])
