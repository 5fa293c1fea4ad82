"""A run file from records to a promoted model: as calls without Ray, and as a command on Ray that is killed."""

import json
from datetime import datetime
from pathlib import Path

import pytest

import raymill
from raymill.cluster.chain.job import ChainJob
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.frame import kinds
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.training.serving.served import find_served
from tests.support.inline import without_ray
from tests.support.processes import Command, end_commands, wait_until
from tests.support.train_inline import PLAIN, sentences, train_without_ray


def write_records(path: Path, count: int) -> None:
    rows = ({"id": row["id"], "prompt": row["question"], "completion": row["answer"]} for row in sentences(count))
    path.write_text("\n".join(map(json.dumps, rows)))


def run_file(folder: Path, output: str, limit: float, **training) -> dict:
    """data -> sft -> publish, if the loss on the test split is below the limit."""
    data = {
        "kind": "prepare", "inputs": [{"path": str(folder / "in.jsonl"), "id": "id"}], "records": {"shape": "pairs"},
        "dedup": None, "validate": {"answer_chars": [1, 100], "answer_in_question": None}, "execution": {"cpus": 2},
    }  # fmt: skip
    sft = {name: value for name, value in PLAIN.items() if name != "name"} | {"corpus": "${data.output}"} | training
    publish = {
        "kind": "promote", "model": "${sft.output}", "alias": "champion", "folder": str(folder / "models"),
        "if": "${sft.fits.-1.after.test.loss} < " + str(limit),
    }  # fmt: skip
    steps = {"publish": publish, "sft": sft, "data": data}
    return {"kind": "run", "name": "rivers", "output": str(folder / output), "steps": steps}


ASKED = {"endpoint": "http://127.0.0.1:1/v1", "name": "m"}
READS = [{"path": "${data.output}/train"}]
TRAINED = {name: value for name, value in PLAIN.items() if name != "name"} | {"corpus": "${data.output}"}
# Kind -> settings that refer to the outputs of `data` and `sft`, which are not there yet.
WAITING = {
    "curate": [{"inputs": READS, "language": None}],
    "prepare": [{"inputs": [{"path": "${sft.output}"}]},
                {"inputs": [{"path": "in.jsonl"}], "split": {"keep": ["${data.output}"]}}],
    "train": [TRAINED | {"continue_from": "${sft.output}"},
              TRAINED | {"model": "${sft.output}/export/merged", "method": "lora"},
              TRAINED | {"model": "${sft.output}", "method": "lora"}],
    "cross-validate": [TRAINED],
    "generate": [{"inputs": READS, "model": {"path": "${sft.output}"}, "make": {"template": "qa"}}],
    "distil": [{"inputs": READS, "judges": [{"model": ASKED}]}],
    "prompt": [{"data": "${data.output}", "models": {"m": {"path": "${sft.output}"}}}],
    "annotate": [{"inputs": READS, "annotators": [{"name": "a"}],
                  "task": {"type": "classify", "show": ["prompt"], "labels": ["a", "b"]}}],
    "errors": [{"run": "${sft.output}"}, {"inputs": READS, "columns": {"score": "s"}, "data": "${data.output}"}],
    "compare": [{"models": ["${sft.output}", "${sft.output}/export/full"], "on": "${data.output}"}],
    "promote": [{"model": "${sft.output}", "alias": "champion", "evidence": "${data.output}"}],
}  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in kinds.names() if kind != "run"])
def test_a_step_of_any_kind_may_wait_for_outputs_of_others(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    write_records(Path("in.jsonl"), 20)
    for settings in WAITING[kind]:
        given = run_file(tmp_path, "run", 1)
        given["steps"]["more"] = settings | {"kind": kind}
        job = ChainJob(raymill.config.check(given))
        job.require_extras()
        job.check(Session(), replace=False)
        assert f"step more ({kind}): open, waits for " in raymill.dry_run(given)
        assert job.work().config["steps"]["more"]["kind"] == kind
    assert not Path("run").exists()


def test_records_become_a_promoted_model_and_new_records_another(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    without_ray(monkeypatch)
    train_without_ray(monkeypatch)
    write_records(Path("in.jsonl"), 80)
    plan = raymill.plan(run_file(tmp_path, "run", 1))
    assert list(plan["steps"]) == ["data"] and list(plan["unknown"]) == ["sft", "publish"]
    dry = raymill.dry_run(run_file(tmp_path, "run", 1))
    assert "step sft (train): open, waits for data" in dry and not Path("run").exists()

    run = raymill.run(run_file(tmp_path, "run", 0.1), progress=False)
    assert [one["state"] for one in run.report["steps"]] == ["finished", "finished", "not made"]
    assert ", and < 0.1 was wanted" in run.report["steps"][2]["reason"] and not Path("models").exists()
    run = raymill.run(run_file(tmp_path, "run", 100), progress=False)
    found = raymill.alias("models", "champion")
    assert found["digest"] == run.step("sft").manifest["digest"] and found["evidence"] is None
    assert not raymill.run(run_file(tmp_path, "run", 100), progress=False).fresh
    assert raymill.gc("run", "1s").unknown == []
    with pytest.raises(DataError, match=r"/run: no step sfx; wanted one of: data, publish, sft\."):
        run.step("sfx")
    with pytest.raises(DataError, match=r"kind run exported no model\. Give one of its trainings: \S*/run/sft\."):
        find_served(Store(), run.uri, None)

    weights = Path("run/sft/export/full/model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    caplog.clear()
    assert raymill.run(run_file(tmp_path, "run", 100), progress=False).step("sft").manifest["digest"] == found["digest"]
    assert f"has 1,000 bytes, and {len(whole):,} were written" in caplog.text and weights.read_bytes() == whole

    write_records(Path("in.jsonl"), 90)
    with pytest.raises(DataError, match=r"^step data: .*the input files changed"):
        raymill.run(run_file(tmp_path, "run", 100), progress=False)
    raymill.run(run_file(tmp_path, "run", 100), progress=False, replace=True)
    moved = raymill.alias("models", "champion")
    assert moved["version"] == 2 and moved["digest"] != found["digest"]


def test_a_learning_rate_of_a_middle_step_leaves_the_data_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without_ray(monkeypatch)
    train_without_ray(monkeypatch)
    write_records(Path("in.jsonl"), 80)
    before = raymill.run(run_file(tmp_path, "run", 100), progress=False).manifest["artifacts"]
    change = {"steps.sft.optimizer.learning_rate": 1e-3}
    with pytest.raises(DataError, match=r"^step sft: .*optimizer.learning_rate was 0.003, now 0.001"):
        raymill.run(run_file(tmp_path, "run", 100), override=change, progress=False)
    after = raymill.run(run_file(tmp_path, "run", 100), override=change, replace=True, progress=False)
    changed = [name for name, digest in after.manifest["artifacts"].items() if digest != before[name]]
    assert changed == ["publish", "sft"] and not after.step("data").fresh
    assert raymill.alias("models", "champion")["digest"] == after.manifest["artifacts"]["sft"]


def test_a_training_starts_from_the_model_that_another_one_exported(tmp_path, monkeypatch):
    """It is the training of the exported folder: settings, inputs and losses are equal."""
    monkeypatch.chdir(tmp_path)
    without_ray(monkeypatch)
    train_without_ray(monkeypatch)
    write_records(Path("in.jsonl"), 80)
    steps = run_file(tmp_path, "run", 1)["steps"]
    more = steps["sft"] | {"model": "${sft.output}", "steps": 3, "method": "lora", "export": {"merged": False}}
    given = {"kind": "run", "output": "run", "steps": {name: steps[name] for name in ("data", "sft")}}
    first = raymill.run(given, progress=False)
    exported = first.step("sft").export["full"]
    given["steps"]["more"] = more
    assert "step more (train): open\n" in raymill.dry_run(given)
    assert raymill.plan(given)["steps"]["more"]["phases"][0]["steps"] == 3
    job = ChainJob(raymill.config.check(given))
    assert job.submitted()["steps"]["more"]["model"]["name"] == "${sft.output}"
    assert job.jobs["more"].must_exist()[-1] == f"{exported}/config.json"
    run = raymill.run(given, progress=False)
    assert not raymill.run(given, progress=False).fresh
    trained = run.step("more")
    same = raymill.train(
        more | {"corpus": f"{tmp_path}/run/data", "model": exported, "output": "same", "name": "run-more"},
        progress=False,
    )
    assert [trained.manifest[one] for one in ("config", "inputs")] == [
        same.manifest[one] for one in ("config", "inputs")
    ]
    assert trained.report["fits"][0]["after"] == same.report["fits"][0]["after"]
    with pytest.raises(DataError, match="run/more/export/adapter: this is an adapter; a base model is needed"):
        raymill.dry_run(more | {"corpus": f"{tmp_path}/run/data", "model": "run/more", "output": "third", "name": "x"})


@pytest.mark.parametrize("matrix", [{}, {"matrix": {"split.seed": [1, 2]}}])
def test_the_advice_of_a_step_is_a_command_of_the_run_file(tmp_path, monkeypatch, matrix):
    """One question in eleven is asked twice. The command that the step's page advises removes it."""
    monkeypatch.chdir(tmp_path)
    without_ray(monkeypatch)
    write_records(Path("in.jsonl"), 40)
    rows = [json.loads(line) for line in Path("in.jsonl").read_text().splitlines()]
    rows += [row | {"id": f"{row['id']}-b", "completion": f"So it is: {row['completion']}"} for row in rows[:4]]
    Path("in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = run_file(tmp_path, "run", 1)["steps"]["data"] | {"gates": {"duplication": 0.01}} | matrix
    Path("run.yaml").write_text(json.dumps({"kind": "run", "output": "run", "steps": {"data": data}}))
    first = raymill.run("run.yaml", progress=False)
    step = "data-1" if matrix else "data"
    (gate,) = [one for one in first.step(step).assessment["gates"] if one["state"] == "failed"]
    command = "raymill run CONFIG -o steps.data.duplicates.questions=remove --replace"
    assert gate["name"] == "duplication" and gate["mend"].endswith(f"Remove them: `{command}`.")
    assert command in Path(f"run/{step}/report.html").read_text() and "raymill prepare" not in first.text
    change = {"steps.data.duplicates.questions": "remove"}
    after = raymill.run("run.yaml", override=change, replace=True, progress=False)
    assert not [one for one in after.step(step).assessment["gates"] if one["state"] == "failed"]


def test_the_refusal_of_a_tagged_step_names_the_settings_of_the_run_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without_ray(monkeypatch)
    write_records(Path("in.jsonl"), 40)
    given = {"kind": "run", "output": "run", "steps": {"data": run_file(tmp_path, "run", 1)["steps"]["data"]}}
    raymill.run(given, progress=False)
    raymill.dataset.tag("rivers", "run/data")
    write_records(Path("in.jsonl"), 50)
    with pytest.raises(ConfigError) as refused:
        raymill.run(given, replace=True, progress=False)
    assert "`-o output=FOLDER`; `-o steps.data.split.keep=[" in refused.value.as_written


@pytest.mark.parametrize("judged_better", [True, False])
def test_the_model_that_passes_its_comparison_is_promoted(tmp_path, monkeypatch, judged_better):
    """The one with 40 steps against the one with 1 step, in bits of the references, and the other way round."""
    monkeypatch.chdir(tmp_path)
    without_ray(monkeypatch)
    train_without_ray(monkeypatch)
    write_records(Path("in.jsonl"), 160)
    given = run_file(tmp_path, "run", 100, steps=40)
    given["execution"] = {"steps_at_once": 1}  # both trainings would have the process group of this process
    steps = {"base": given["steps"]["sft"] | {"steps": 1, "evaluate": {}, "checkpoint": {}}} | given["steps"]
    models = ["${sft.output}", "${base.output}"]
    steps["judged"] = {
        "kind": "compare", "models": models if judged_better else models[::-1], "on": "${data.output}/test",
        "sampling": {"temperature": 0, "max_tokens": 8}, "gate": {"bits_per_byte": {"least_gain": 0.0}},
    }  # fmt: skip
    steps["publish"] |= {"if": "${judged.passed}", "evidence": "${judged.output}"}
    run = raymill.run(given | {"steps": steps}, progress=False)
    *made, published = run.report["steps"]
    assert [one["state"] for one in made] == ["finished"] * 4 and run.exit_code == (0 if judged_better else 2)
    if judged_better:
        found = raymill.alias("models", "champion")
        assert found["digest"] == run.step("sft").manifest["digest"]
        assert found["evidence"]["digest"] == run.step("judged").manifest["digest"] and found["evidence"]["passed"]
    else:
        assert (published["state"], published["reason"]) == ("not made", "judged.passed is false")
        assert not Path("models").exists()
    assert not raymill.run(given | {"steps": steps}, progress=False).fresh


@pytest.mark.slow
@pytest.mark.ray
def test_killed_while_it_trains_the_command_continues_with_equal_digests(tmp_path):
    write_records(tmp_path / "in.jsonl", 80)
    training = {"steps": 60, "workers": {"count": 2}}
    for output in ("whole", "killed"):
        (tmp_path / f"{output}.json").write_text(json.dumps(run_file(tmp_path, output, 100, **training)))
    try:
        code, _, err = Command("run", str(tmp_path / "whole.json")).wait(400)
        assert code == 0, err
        first = Command("run", str(tmp_path / "killed.json"))
        checkpoints = str(tmp_path / "killed" / "sft" / "checkpoints")
        assert wait_until(lambda: Store().holds_files(checkpoints), 300)
        first.end_all()
        assert not (tmp_path / "killed" / "sft" / "manifest.json").exists()
        code, _, err = Command("run", str(tmp_path / "killed.json")).wait(400)
    finally:
        end_commands()
    assert code == 0, err
    whole, killed = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("whole", "killed"))
    assert whole["artifacts"] == killed["artifacts"] and whole["digest"] == killed["digest"]


def held(output: Path) -> tuple[float, float]:
    """(begin, end) of the last run at an output, as Unix time of its lease."""
    (lease,) = (json.loads(file.read_text()) for file in (output / "_lease").iterdir())
    return datetime.fromisoformat(lease["since"]).timestamp(), lease["refreshed"]


@pytest.mark.slow
@pytest.mark.ray
def test_steps_at_the_same_time_killed_and_continued_have_the_digests_of_one_after_the_other(tmp_path):
    """Two data sets and a training on each, with two CPUs. The first call is killed while both trainings run."""
    write_records(tmp_path / "in.jsonl", 80)
    for output, at_once in (("one", 1), ("killed", None)):
        given = run_file(tmp_path, output, 100, steps=60)
        data, sft = given["steps"]["data"], given["steps"]["sft"]
        sets = {f"data-{seed}": data | {"split": {"seed": seed}} for seed in (1, 2)}
        trainings = {f"sft-{seed}": sft | {"corpus": f"${{data-{seed}.output}}"} for seed in (1, 2)}
        execution = {"cpus": 2, "steps_at_once": at_once}
        whole = given | {"steps": sets | trainings, "execution": execution}
        (tmp_path / f"{output}.json").write_text(json.dumps(whole))
    killed, both = tmp_path / "killed", ("sft-1", "sft-2")
    try:
        code, _, err = Command("run", str(tmp_path / "one.json")).wait(400)
        assert code == 0, err
        first = Command("run", str(tmp_path / "killed.json"))
        assert wait_until(lambda: all(Store().holds_files(str(killed / one / "checkpoints")) for one in both), 300)
        first.end_all()
        before = {one["step"]: one for one in json.loads((killed / "report.json").read_text())["steps"]}
        assert {before[one]["state"] for one in both} <= {"started", "finished"}
        code, _, err = Command("run", str(tmp_path / "killed.json")).wait(400)
    finally:
        end_commands()
    assert code == 0, err
    assert "sft-1: training: " in err and "sft-2: training: " in err, "each line names its step"
    one, two = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "killed"))
    assert one["artifacts"] == two["artifacts"] and one["digest"] == two["digest"]
    (began_1, ended_1), (began_2, ended_2) = (held(killed / step) for step in both)
    assert began_1 < ended_2 and began_2 < ended_1, "they ran at the same time"
    (_, ended_1), (began_2, _) = (held(tmp_path / "one" / step) for step in both)
    assert ended_1 < began_2 + 1  # `since` has whole seconds
