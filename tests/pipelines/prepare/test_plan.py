"""`raymill prepare --dry-run` and `raymill plan` of a preparation: from a sample, and before anything is written."""

import json

import pytest

from raymill.cluster.errors import ConfigError, DataError, StorageError
from raymill.cluster.plan.plan import plan_settings, plan_text
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.config import PrepareConfig
from tests.support.inline import prepare_inline
from tests.support.shown import print_dry_run


@pytest.fixture
def settings(tmp_path) -> dict:
    rows = [
        {"id": f"r{n}", "question": f"What is the number {n} of all?", "answer": f"It comes before {n + 1}, I think."}
        for n in range(200)
    ]
    rows += [{"id": f"s{n}", "question": "Why?", "answer": f"Because of the number {n} of them."} for n in range(40)]
    rows += [{"id": f"e{n}", "question": "What is missing here?", "answer": ""} for n in range(10)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "kind": "prepare",
        "name": "numbers",
        "inputs": [{"source": "numbers", "path": str(tmp_path / "in.jsonl"), "id": "id"}],
        "dedup": None,
        "curriculum": {"stages": 3},
        "execution": {"max_bad_documents": 0.1},
        "output": str(tmp_path / "out"),
    }


def config(settings: dict) -> PrepareConfig:
    return PrepareConfig.model_validate(settings)


def test_a_dry_run_says_what_becomes_of_the_records_and_writes_nothing(settings, tmp_path, capsys):
    print_dry_run(config(settings))
    said = capsys.readouterr().out
    assert "sample   of 250 rows, 80.0% are in the data set; 4.0% are no records (empty 10); " in said
    assert "16.0% are removed (question_too_short 40)" in said
    assert "fields   numbers: prompt (question), completion (answer)" in said
    assert "3 stages from easy to hard" in said and f"output   {tmp_path}/out: to be made" in said
    assert "curriculum:" in said and "gates:" not in said, "only settings that differ from the defaults"
    assert not (tmp_path / "out").exists()


def test_a_dry_run_stops_where_the_run_would(settings, monkeypatch, tmp_path, capsys):
    with open(tmp_path / "in.jsonl", "a") as file:
        file.write("[\n" * 10)
    with pytest.raises(DataError, match=r"allows 7\.0%"):
        prepare_inline(
            settings | {"execution": {"max_bad_documents": 0.07}, "output": str(tmp_path / "run")}, monkeypatch
        )
    with pytest.raises(
        DataError, match=r'20 of 260 rows .*\(empty 10, not readable 10\): 7.7%, .*max_bad_documents": 0.08'
    ):
        print_dry_run(config(settings | {"execution": {"max_bad_documents": 0.07}}))
    assert "sample   of 250 rows" in capsys.readouterr().out
    print_dry_run(config(settings | {"execution": {"max_bad_documents": 0.08}}))


def test_a_plan_warns_where_the_run_would_stop(settings, tmp_path, monkeypatch):
    """10 of 250 rows are no records; then 20 of 260."""
    monkeypatch.setattr("raymill.cluster.plan.trial.TIMES", 1)

    def warnings(allowed: float) -> list[str]:
        plan = plan_settings(config(settings | {"execution": {"max_bad_documents": allowed}}), cores=(2,))
        assert all(f"warning  {one[:40]}" in plan_text(plan) for one in plan["warnings"])
        return plan["warnings"]

    assert warnings(0.04) == []
    (line,) = warnings(0.03)
    assert line.startswith("4.0% of the rows of the sample cannot be used, and execution.max_bad_documents allows 3.0%")
    with open(tmp_path / "in.jsonl", "a") as file:
        file.write("[\n" * 10)
    assert [one[:4] for one in warnings(0.07)] == ["7.7%"] and warnings(0.08) == []


def test_a_dry_run_wants_the_key_of_pseudonyms(settings, monkeypatch):
    monkeypatch.delenv("PSEUDONYMS", raising=False)
    clean = {"redact": ["email"], "pseudonyms": "per_corpus", "pseudonym_key": "PSEUDONYMS"}
    with pytest.raises(ConfigError, match=r"clean\.pseudonym_key: the environment has no PSEUDONYMS"):
        print_dry_run(config(settings | {"clean": clean}))
    monkeypatch.setenv("PSEUDONYMS", "a key of 16 bytes")
    print_dry_run(config(settings | {"clean": clean}))


def test_a_dry_run_names_an_output_that_cannot_be_made(settings):
    with pytest.raises(StorageError, match="cannot be made here"):
        print_dry_run(config(settings | {"output": "/proc/run"}))  # where nothing is, and nothing can be made


def test_a_dry_run_of_a_finished_run_says_so(settings, monkeypatch, capsys):
    prepare_inline(settings, monkeypatch)
    print_dry_run(config(settings))
    assert "finished, nothing to do" in capsys.readouterr().out


def test_the_verbs_print_both(settings, tmp_path, run_cli, monkeypatch):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(settings))
    monkeypatch.setattr("raymill.cluster.plan.trial.TIMES", 1)
    code, out, _ = run_cli("prepare", str(path), "--dry-run")
    assert code == 0 and "sample   of 250 rows" in out
    code, out, _ = run_cli("plan", str(path), "--cores", "4")
    assert code == 0 and "plan of numbers" in out and "question_too_short 40" in out
    code, _, err = run_cli("plan", str(path), "--duplicates", "0.1")
    assert code == 2 and "an option for configs of kind curate" in err


def test_a_plan_has_every_stage_and_grows_with_the_records(settings, monkeypatch):
    monkeypatch.setattr("raymill.cluster.plan.trial.TIMES", 1)
    found = []
    for documents in (1e5, 1e7):
        asked = {"dedup": {}, "duplicates": {"questions": "remove", "answers": "list"}}
        found.append(plan_settings(config(settings | asked), documents=documents, cores=(2,)))
    few, many = found
    names = [stage["name"] for stage in few["stages"]]
    assert names == [
        "collect", "group", "questions.verdicts", "questions.group", "answers.verdicts", "answers.group",
        "words", "complexity", "split", "write",
        "assess.assess", "assess.questions.group", "assess.answers.group", "assess.leaks.group",
        "assess.fit", "assess.embed", "assess.learn", "assess.summary",
    ]  # fmt: skip
    assert [one["input"]["documents"] for one in found] == [100_000, 10_000_000]
    assert many["input"]["units"] > few["input"]["units"] and many["core_s"] > few["core_s"]
    units = {stage["name"]: stage["units"] for stage in many["stages"]}
    assert {units[name] for name in ("complexity", "split")} == {1} and units["answers.verdicts"] == many["input"][
        "units"
    ]
    for prefix in ("", "questions.", "answers.", "assess.questions.", "assess.answers."):
        ranges = 8_000_000 >> 19  # four fifths of the records are compared, in ranges of 2^19
        assert ranges <= units[f"{prefix}group"] <= ranges + 2 and units[f"{prefix}group.compare"] > 1
        assert units[f"{prefix}group.keys"] == units[f"{prefix}group"]
    memory = {stage["name"]: stage["memory"] for stage in many["stages"]}
    assert memory["group"] < {stage["name"]: stage["memory"] for stage in few["stages"]}["group"]
    (few_cores,), (many_cores,) = few["on_cores"], many["on_cores"]
    assert many_cores["seconds"] > few_cores["seconds"] > 0 and many_cores["money"] > few_cores["money"] > 0
    assert not Store().holds_files(settings["output"])


def test_a_file_with_a_header_alone_has_no_rows(settings, tmp_path, monkeypatch):
    (tmp_path / "in.csv").write_text("question,answer\n")
    settings["inputs"] = [{"path": str(tmp_path / "in.csv")}]
    with pytest.raises(DataError, match=r"the files have no rows, or only a header \(1 of 1 unit looked at\)"):
        print_dry_run(config(settings))
    with pytest.raises(DataError, match="inputs: their files have no rows, or only a header"):
        prepare_inline(settings, monkeypatch)


def test_a_sample_without_a_readable_row_is_an_error(settings, tmp_path):
    (tmp_path / "in.jsonl").write_text("[\n" * 50)
    settings["inputs"][0]["columns"] = {"prompt": "question", "completion": "answer"}
    with pytest.raises(DataError, match="none of the 50 rows looked at can be read"):
        plan_settings(config(settings))
