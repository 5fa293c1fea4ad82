"""What a person sees of `raymill curate` and of what it left: plan first, verdict first, time at the end."""

import json
import re

import pytest
import yaml

from raymill.cluster import cli, logs
from raymill.cluster.artifact import Artifact
from raymill.cluster.config import load
from raymill.cluster.frame.dry_run import dry_run, shortest
from raymill.cluster.store.store import Store
from raymill.pipelines.curate import job as job
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.questions.explain import explain_document
from raymill.pipelines.curate.report import run_warnings
from tests.support.inline import without_ray
from tests.support.stories import story

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
    (tmp_path / "notes.png").write_text("x")
    (tmp_path / "c.yaml").write_text(CHANGED)
    monkeypatch.chdir(tmp_path)
    without_ray(monkeypatch)

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
    assert "1 file, 1 unit," in plan and "1 .png" in plan and f"{tmp_path}/../run: to be made" in plan
    assert "\ndedup    14 bands of 8 signature columns; pairs compared, by similarity: 0.6: 21%, " in plan
    assert "0.7: 56%, 0.8: 92%, 0.9: 100%\n" in plan, "1 - (1 - s^8)^14"
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
    assert everything.startswith("inputs   1 file, ") and "unit_mib: null" in everything


def test_texts_of_the_user_that_look_like_options_are_shown_as_they_are(raymill, tmp_path):
    words = "add --replace and run the same command again"
    shown = dry_run("c.yaml", inputs=[{"path": "in.jsonl", "licence": words}])
    assert words in " ".join(shown.split()) and "(--verbose" not in shown
    # Near duplicates, of which `explain` shows the different words.
    texts = {"kept": f"{story(7)} Add --replace here.", "removed": f"{story(7)} Add --replace there."}
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in texts.items()))
    raymill("curate", "c.yaml", "-o", "dedup.threshold=0.7")
    [removed] = Artifact.load(Store(), str(tmp_path / "run" / "removed")).table()["id"].to_pylist()
    assert "Add --replace " in str(explain_document("run", removed))


def test_the_settings_shown_are_a_config_of_the_same_run(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(CHANGED)
    config = load(str(path))
    path.write_text(yaml.safe_dump(shortest(config)))
    assert load(str(path)) == config
    plain = {"kind": "curate", "name": "x", "inputs": [{"source": "input", "path": "/in"}], "output": "out"}
    assert shortest(CurateConfig.model_validate(plain)) == plain
    # The run's own `storage` is not used for an input which has one, were it without any setting.
    inputs = [{"source": "a", "path": "/a", "storage": {}}, {"source": "b", "path": "/b", "storage": {"retries": 3}}]
    own = plain | {"inputs": inputs, "storage": {"anonymous": True}}
    assert shortest(CurateConfig.model_validate(own)) == own


def test_a_run_ends_with_its_time_and_a_tiny_one_does_not_warn_of_idle_rules(raymill, monkeypatch):
    out, _ = raymill("curate", "c.yaml")
    assert re.fullmatch(r"elapsed (\d+ min )?\d+ s", out.splitlines()[-1])
    assert "removed nothing" not in out
    monkeypatch.setattr(run_warnings, "_IDLE_RULE_DOCUMENTS", 6)
    assert "warning: c4 removed nothing of 6 documents." in raymill("curate", "c.yaml", "-o", "output=more")[0]


def test_explain_gives_the_verdict_first_and_the_measurements_after_it(raymill):
    raymill("curate", "c.yaml")
    for id, verdict in (("copy", "outcome   removed as exact_duplicate of s3"), ("s1", "outcome   kept")):
        lines = raymill("explain", "run", id)[0].splitlines()
        assert lines[0] == f"document  {id}" and lines[1].startswith(verdict)
        assert lines.index("measured") > 1 and any("gopher_words" in line for line in lines[lines.index("measured") :])


# ---- what is odd about the input: in the dry run, the counters and the report ----


@pytest.fixture
def odd(tmp_path, raymill):
    """Rows that are read although something is odd about them, one that is not read, and files of other encodings."""
    stories = [story(n) for n in range(5)]
    lines = [
        json.dumps({"id": "a", "text": stories[0]}),
        json.dumps({"id": "", "text": stories[1]}),
        json.dumps({"text": stories[2]}),
        '{"id": "first", "id": "b", "text": "", "meta": {"k": 1, "k": 2}}',
        json.dumps({"id": "c", "text": " \n"}),
        json.dumps({"id": 1.5, "text": stories[3]}),
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    (tmp_path / "wide.jsonl").write_bytes(json.dumps({"id": "w", "text": stories[4]}).encode("utf-16"))
    (tmp_path / "wide.txt").write_bytes("plain words".encode("utf-16-le"))
    return ["-o", "inputs.0.path=.", "-o", "output=../odd", "-o", "execution.max_bad_documents=1"]


def test_a_dry_run_names_what_is_odd_about_the_first_rows_and_files(raymill, odd):
    out, _ = raymill("curate", "c.yaml", "--dry-run", *odd)
    notes = [line.removeprefix("note     ") for line in out.splitlines() if line.startswith("note")]
    assert notes[1:] == [
        "Source input: wide.jsonl: the file is UTF-16, and UTF-8 is wanted; convert it, as `iconv -f UTF-16 -t UTF-8` "
        "does, or set `encoding: utf-16` in the input (and 1 more file).",
        "Source input: of the first 6 rows of in.jsonl, 2 have no id and are named by the hash of the text; 2 have an "
        "empty text; 1 gives a key twice (the last value is used); 1 cannot be read: bad_id (the id is neither a "
        "string nor a whole number).",
    ]


def test_the_report_and_the_counters_have_what_is_odd_about_the_input(raymill, odd, tmp_path):
    out, _ = raymill("curate", "c.yaml", *odd, "-o", "rules=null", "-o", "language=null")
    report = json.loads((tmp_path.parent / "odd" / "report.json").read_text())
    (source,) = report["sources"]
    assert [source[key] for key in ("without_id", "empty_texts", "repeated_keys")] == [2, 2, 1]
    assert {(one["problem"], one["documents"]) for one in report["quarantine"]} == {("bad_id", 1), ("utf16", 2)}
    for warning in (
        "Source input: 2 documents have no id (null, missing or empty) and are named by the hash of their text.",
        "Source input: 2 documents have an empty text.",
        "Source input: 1 record gives a key twice (the last value is used).",
        "Source input: the file is UTF-16, and UTF-8 is wanted; convert it, as `iconv -f UTF-16 -t UTF-8` does",
        "3 documents could not be read",
    ):
        assert f"warning: {warning}" in out
    counters = Artifact.load(Store(), str(tmp_path.parent / "odd" / "attributes")).manifest.counters
    assert [counters[f"{kind}/input"] for kind in ("no_id", "empty_text", "repeated_key")] == [2, 2, 1]


def test_one_is_written_as_one(raymill, tmp_path):
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "a", "text": story(1)}) + "\n{\n")
    out, _ = raymill("curate", "c.yaml", "-o", "execution.max_bad_documents=1", "-o", "rules=null")
    assert "warning: 1 document could not be read; it is listed under quarantine." in out
    (tmp_path / "other").mkdir()
    out, _ = raymill("curate", "c.yaml", "--dry-run", "-o", "output=other")
    assert f"output   {tmp_path}/other: to be made\n" in out
    (tmp_path / "other" / "notes.txt").write_text("of another program")
    out, _ = raymill("curate", "c.yaml", "--dry-run", "-o", "output=other")
    assert f"output   {tmp_path}/other: to be made; other files are in this folder, and stay there\n" in out
    assert out.startswith("inputs   1 file, 1 unit, about")


def test_the_units_of_a_stage_are_all_of_its_units(raymill, tmp_path):
    (tmp_path / "two.jsonl").write_text("broken")  # a unit without any document leaves no file
    inputs = "inputs=[{source: a, path: in.jsonl, id: id}, {source: b, path: two.jsonl}]"
    raymill("curate", "c.yaml", "-o", inputs, "-o", "execution.max_bad_documents=1")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    units = {stage["stage"]: stage["units"] for stage in report["stages"]}
    assert units == {"measure": 2, "decide": 1, "group": 1, "select": 1}


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "nowhere"),
        ("inspect", "nowhere"),
        ("explain", "nowhere", "id"),
        ("what-if", "c.yaml", "-o", "output=nowhere", "-o", "rules=null"),
    ],
)
def test_a_run_that_does_not_exist_is_said_not_to_exist(raymill, tmp_path, capsys, words):
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == 2
    assert f"{tmp_path}/nowhere: there is no run " in capsys.readouterr().err


def test_explain_names_the_file_among_those_of_the_unit(raymill, tmp_path):
    for number, name in enumerate(("one.txt", "two.txt", "three.txt")):
        (tmp_path / name).write_text(story(10 + number))
    raymill("curate", "c.yaml", "-o", "inputs=[{path: '*.txt', id: path}]")
    out, _ = raymill("explain", "run", f"{tmp_path}/three.txt")
    assert f"position  unit 0, row 1 (row 0, counted from 0, of {tmp_path}/three.txt)\n" in out
    (tmp_path / "one.txt").write_text("changed")
    out, _ = raymill("explain", "run", f"{tmp_path}/two.txt")
    assert f"position  unit 0, row 2 (3 files from {tmp_path}/one.txt; " in out and "changed since" in out


def test_the_line_of_the_first_stage_says_that_kernels_compile(raymill, monkeypatch):
    monkeypatch.setattr("raymill.pipelines.kernel_cache.kernels_are_compiled", lambda: False)
    _, err = raymill("curate", "c.yaml")
    assert "measure: 0/1 unit, compiling kernels (first run on this machine; `raymill warm` does it ahead)\n" in err
    assert err.count("compiling") == 1
    _, err = raymill("curate", "c.yaml")
    assert "compiling" not in err, "a finished run computes nothing"


def test_a_dry_run_names_the_damaged_files_of_a_finished_run(raymill, tmp_path):
    raymill("curate", "c.yaml")
    assert f"output   {tmp_path}/run: finished, nothing to do\n" in raymill("curate", "c.yaml", "--dry-run")[0]
    file = next((tmp_path / "run" / "removed").glob("*.parquet"))
    file.unlink()
    out, _ = raymill("curate", "c.yaml", "--dry-run")
    assert f"run: a finished run with 1 damaged file ({file}: is gone); damaged files will be made again\n" in out
    others = [next((tmp_path / "run" / name).glob("*.parquet")) for name in ("attributes", "corpus", "quarantine")]
    others = [*others, file, tmp_path / "run" / "report.json", tmp_path / "run" / "report.html"]
    for gone, left in ((others[:5], ""), (others, "; ...")):
        for path in gone:
            path.unlink(missing_ok=True)
        listed = "; ".join(f"{path}: is gone" for path in others[:5]) + left
        out, _ = raymill("curate", "c.yaml", "--dry-run")
        assert f"a finished run with {len(gone)} damaged files ({listed}); damaged" in out


def test_a_dry_run_on_an_unfinished_run_names_its_finished_stages_or_refuses_as_the_run_does(raymill, tmp_path, capsys):
    raymill("curate", "c.yaml")
    for name in ("manifest.json", "corpus/_manifest.json"):
        (tmp_path / "run" / name).unlink()
    out, _ = raymill("curate", "c.yaml", "--dry-run")
    finished = "finished stages: measure, index, ids, decide, group, duplicates"
    assert f"output   {tmp_path}/run: unfinished ({finished}), to be continued\n" in out
    messages = []
    for more in (["--dry-run"], []):
        with pytest.raises(SystemExit) as left:
            cli.main(("curate", "c.yaml", "-o", "language.max_chars=500", *more))
        assert left.value.code == 2
        messages.append(capsys.readouterr().err)
        logs.setup()
    assert (
        messages[0] == messages[1]
        and "an unfinished run with other settings or inputs: language.max_chars was" in messages[0]
    )
