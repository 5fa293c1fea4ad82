"""A run file is made, continued, changed, refused and replaced step by step."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from raymill.cluster import cli
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.failpoints import VARIABLE
from raymill.cluster.frame.functions import function_of
from raymill.cluster.frame.opening import open as open_run
from raymill.cluster.frame.work import work_of
from raymill.cluster.garbage import find_garbage
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.store import Store
from raymill.cluster.submit.work import GIB, Machines
from tests.cluster.chain.conftest import WORDS
from tests.support import inline, words_kind


def report(root="out") -> dict[str, dict]:
    return {one["step"]: one for one in json.loads(Path(root, "report.json").read_text())["steps"]}


def digests(root="out") -> dict[str, str]:
    return json.loads(Path(root, "manifest.json").read_text())["artifacts"]


def steps_made(err: str) -> list[str]:
    """The steps of which a stage was run, as they began. Lines of steps that are made at the same time name theirs."""
    found, alone = [], ""
    for line in err.splitlines():
        if begun := re.match(r"step (\S+) \(words\)", line):
            alone = begun[1]
        elif stage := re.match(r"(?:(\S+): )?count: 0/", line):
            found.append(stage[1] or alone)
    return found


def test_the_steps_are_made_in_order_and_found_finished_the_second_time(raymill):
    code, out, err = raymill("run", "w.yaml")
    assert code == 0 and steps_made(err) == ["count", "again", "last"]
    assert re.findall(r"^(\w+) +words +finished .* (\d) words$", out, re.MULTILINE) == [
        ("count", "7"), ("again", "6"), ("last", "5"),
    ]  # fmt: skip
    assert digests() == {name: one["digest"] for name, one in sorted(report().items())}
    assert all(one["state"] == "finished" and one["seconds"] is not None for one in report().values())
    page = Path("out/report.html").read_text()
    assert '<a href="again/report.html">again</a>' in page and "3 of 3 steps finished" in page and "6 words" in page
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.*")}
    assert "finished before, nothing to do" in raymill("run", "w.yaml")[1]
    assert before == {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.*")}
    run = open_run("out")
    assert run.step("again").report == {"words": 6} and "raymill/0" not in str(run) and "<table>" in run._repr_html_()
    assert "run       out (run), finished" in raymill("inspect", "out")[1]


def test_a_changed_step_is_refused_by_its_name_and_replaced_with_those_that_read_it(raymill):
    raymill("run", "w.yaml")
    before = digests()
    change = ("-o", "steps.again.lower=false")
    for more in ((), ("--dry-run",)):
        code, _, err = raymill("run", "w.yaml", *change, *more)
        assert code == 2 and err.startswith(f"step again: {Path('out/again').absolute()}: holds a finished run")
        assert "lower was true, now false" in err and "--replace" in err
    code, _, err = raymill("run", "w.yaml", *change, "--replace")
    assert code == 0 and steps_made(err) == ["again", "last"]
    after = digests()
    assert after["count"] == before["count"] and after["again"] != before["again"] and after["last"] != before["last"]
    assert "lower was false, now true" in raymill("run", "w.yaml")[2]


def test_a_changed_input_of_the_first_step_is_named_and_makes_only_what_it_affects(raymill):
    raymill("run", "w.yaml")
    Path("in/a.txt").write_text("the cat and the dog and")
    code, _, err = raymill("run", "w.yaml")
    assert code == 2 and err.startswith("step count: ") and "--replace" in err
    code, _, err = raymill("run", "w.yaml", "--replace")
    assert code == 0 and steps_made(err)[0] == "count" and report()["count"]["facts"] == "8 words"


def test_an_input_that_is_changed_for_a_middle_step_alone_leaves_the_others(raymill):
    text = (
        Path("w.yaml")
        .read_text()
        .replace("lower: true}", "lower: true}\n  other: {kind: words, inputs: [{path: in2}]}")
    )
    Path("w.yaml").write_text(
        text.replace(
            '[{path: "${count.output}/words", text: word}]',
            '[{path: "${count.output}/words", text: word}, {path: in2, source: own}]',
        )
    )
    shutil.copytree("in", "in2")
    raymill("run", "w.yaml")
    before = digests()
    Path("in2/b.txt").write_text("The end of it")
    code, _, err = raymill("run", "w.yaml")
    assert code == 2 and err.startswith("step other: ") and "b.txt" in err
    code, _, err = raymill("run", "w.yaml", "--replace")
    assert code == 0 and sorted(steps_made(err)) == ["again", "last", "other"]
    after = digests()
    assert [name for name in after if after[name] != before[name]] == ["again", "last", "other"]


def test_a_step_that_is_added_or_taken_out_needs_no_replace(raymill):
    raymill("run", "w.yaml")
    text = Path("w.yaml").read_text()
    Path("w.yaml").write_text(text + '  more: {kind: words, inputs: [{path: "${last.output}/words", text: word}]}\n')
    code, _, err = raymill("run", "w.yaml")
    assert code == 0 and steps_made(err) == ["more"] and len(digests()) == 4
    Path("w.yaml").write_text(text)
    code, _, err = raymill("run", "w.yaml")
    assert code == 0 and not steps_made(err) and len(digests()) == 3 and Path("out/more/manifest.json").exists()
    assert raymill("run", "w.yaml")[1].startswith(f"{Path('out').absolute()}: finished before")


def test_a_false_condition_ends_its_branch_with_the_reason(raymill):
    gate = '"${count.words} > 100"'
    Path("w.yaml").write_text(Path("w.yaml").read_text().replace("lower: true}", f"lower: true, if: {gate}}}"))
    code, _, err = raymill("run", "w.yaml")
    assert code == 0 and steps_made(err) == ["count"] and not Path("out/again").exists()
    reasons = {name: (one["state"], one["reason"]) for name, one in report().items()}
    assert reasons == {
        "count": ("finished", ""),
        "again": ("not made", "count.words is 7, and > 100 was wanted"),
        "last": ("not made", "step again was not made"),
    }
    assert "count.words is 7, and &gt; 100 was wanted" in Path("out/report.html").read_text()
    assert "again     count.words is 7" in raymill("inspect", "out")[1]
    assert "finished before, nothing to do" in raymill("run", "w.yaml")[1]
    raymill("run", "w.yaml", "-o", "steps.again.if=${count.words} > 200")
    assert report()["again"]["reason"] == "count.words is 7, and > 200 was wanted"
    code, _, err = raymill("run", "w.yaml", "-o", "steps.again.if=${count.words} > 5")
    assert code == 0 and steps_made(err) == ["again", "last"]


def test_until_makes_a_step_and_those_that_it_needs(raymill):
    code, _, err = raymill("run", "w.yaml", "-o", "until=again")
    assert code == 0 and steps_made(err) == ["count", "again"] and not Path("out/manifest.json").exists()
    assert [one["state"] for one in report().values()] == ["finished", "finished", "open"]
    assert steps_made(raymill("run", "w.yaml")[2]) == ["last"]
    content = Path("out/manifest.json").read_bytes()
    code, _, err = raymill("run", "w.yaml", "-o", "until=count")
    assert code == 0 and not steps_made(err) and Path("out/manifest.json").read_bytes() == content
    assert [one["state"] for one in report().values()] == ["finished"] * 3


def test_the_time_of_a_step_is_kept_while_its_digest_is_the_same(raymill):
    raymill("run", "w.yaml")
    whole = json.loads(Path("out/report.json").read_text())
    for one, seconds in zip(whole["steps"], (11, 12, 13), strict=True):
        one["seconds"] = seconds
    whole["steps"][1]["digest"] = "of-another-run"
    Path("out/report.json").write_text(json.dumps(whole))
    Path("out/manifest.json").unlink()
    assert raymill("run", "w.yaml")[0] == 0
    assert [one["seconds"] for one in report().values()] == [11, None, 13]


def test_the_exit_code_is_the_one_of_the_first_step_that_has_one(raymill, monkeypatch):
    monkeypatch.setattr(words_kind.WordsRun, "exit_code", property(lambda self: 2 * (self.report["words"] == 6)))
    assert [raymill("run", "w.yaml")[0] for _ in range(2)] == [2, 2]
    assert [one["exit_code"] for one in report().values()] == [0, 2, 0]


def test_a_damaged_file_of_a_step_is_made_again(raymill):
    raymill("run", "w.yaml")
    before = digests()
    next(Path("out/again/words").glob("*.parquet")).write_bytes(b"")
    code, _, err = raymill("run", "w.yaml")
    assert code == 0 and "1 damaged file" in err and digests() == before
    Path("out/report.html").unlink()
    assert raymill("run", "w.yaml")[0] == 0 and Path("out/report.html").exists() and digests() == before


@pytest.mark.parametrize("steps", [5, "x", [1], [{"step": 1}], [{"step": "count", "digest": []}]])
def test_a_report_that_somebody_changed_is_written_again(raymill, steps):
    raymill("run", "w.yaml", "-o", "until=count")
    Path("out/report.json").write_text(json.dumps({"steps": steps}))
    assert raymill("run", "w.yaml")[0] == 0 and [*report()] == ["count", "again", "last"]
    Path("out/report.json").write_text(json.dumps({"steps": steps, "warnings": []}))
    code, _, err = raymill("run", "w.yaml")
    assert code == 2 and "not the report of this run" in err


@pytest.mark.parametrize(
    "wrong",
    [{"exit_code": 10**18}, {"exit_code": "evil"}, {"exit_code": -1}, {"seconds": float("nan")},
     {"seconds": float("inf")}, {"seconds": 1e300}, {"seconds": "x"}, {"facts": 5}],
)  # fmt: skip
def test_an_entry_of_others_is_written_again_and_gives_no_exit_code(raymill, wrong):
    raymill("run", "w.yaml")
    whole = json.loads(Path("out/report.json").read_text())
    Path("out/report.json").write_text(json.dumps(whole | {"steps": [one | wrong for one in whole["steps"]]}))
    assert raymill("run", "w.yaml")[0] == 2
    assert raymill("run", "w.yaml", "-o", "until=count")[0] == 0
    Path("out/report.json").write_text(json.dumps(whole | {"steps": [one | wrong for one in whole["steps"]]}))
    Path("out/manifest.json").unlink()
    assert raymill("run", "w.yaml")[0] == 0 and [one["exit_code"] for one in report().values()] == [0, 0, 0]


@pytest.mark.parametrize("steps", [None, []])
def test_a_finished_run_file_has_the_exit_code_and_table_of_its_steps_whatever_its_report_states(
    raymill, monkeypatch, steps
):
    codes = {6: 2}
    monkeypatch.setattr(words_kind.WordsRun, "exit_code", property(lambda self: codes.get(self.report["words"], 0)))
    raymill("run", "w.yaml")
    whole = json.loads(Path("out/report.json").read_text())
    others = [one | {"exit_code": 7, "facts": "best", "state": "not made"} for one in whole["steps"]]
    Path("out/report.json").write_text(json.dumps(whole | {"steps": others if steps is None else steps}))
    code, again, _ = raymill("run", "w.yaml")
    assert code == 2 and "best" not in again and "not made" not in again
    assert all(re.search(rf"^{name} +words +finished", again, re.MULTILINE) for name in ("count", "again", "last"))
    assert open_run("out").exit_code == 2
    manifest = json.loads(Path("out/manifest.json").read_text())
    Path("out/manifest.json").write_text(json.dumps(manifest | {"artifacts": {}}))
    assert raymill("run", "w.yaml")[0] == 2, "a manifest without the steps is written again"
    forged = [one | {"state": "open", "reason": "x\nlast  words  finished"} for one in whole["steps"]]
    Path("out/report.json").write_text(json.dumps(whole | {"steps": forged}))
    assert open_run("out").summary.count("\n") == 3, "a line for each step and the heading"
    Path("out/manifest.json").write_text(json.dumps(manifest | {"artifacts": {"count/words": "d"}}))
    with pytest.raises(DataError, match="count/words is no step of this run file"):
        _ = open_run("out").exit_code
    for name in ("count", "again", "last"):
        shutil.rmtree(f"out/{name}")
    Path("out/manifest.json").write_text(json.dumps(manifest | {"artifacts": {}, "inputs": None}))
    assert raymill("run", "w.yaml")[0] == 2 and Path("out/last").exists(), "nor is one without steps finished"


def test_a_mistake_in_a_later_step_is_found_before_the_first_begins(raymill, monkeypatch):
    """An error about the output of a step that is not made yet, as of `last`, is none."""

    def check(self, session, replace):
        if self.config.lower:
            raise ConfigError("lower: not on this machine.")
        _ = self.frozen

    monkeypatch.setattr(words_kind.WordsJob, "check", check)
    code, _, err = raymill("run", "w.yaml")
    assert code == 2 and err == "step again: lower: not on this machine.\n" and not Path("out").exists()
    assert raymill("run", "w.yaml", "-o", "steps.again.lower=false")[0] == 0


def test_the_dry_run_checks_all_steps_and_allows_outputs_that_are_not_there_yet(raymill):
    code, out, _ = raymill("run", "w.yaml", "--dry-run")
    assert code == 0 and "step count (words): open\n  inputs   2 files" in out and not Path("out").exists()
    assert "step again (words): open, waits for count\nstep last (words): open, waits for again" in out
    code, _, err = raymill("run", "w.yaml", "--dry-run", "-o", "steps.last.inputs=[{path: nowhere}]")
    assert code == 2 and err.startswith("step last: ") and "nowhere" in err
    raymill("run", "w.yaml", "-o", "until=count")
    out = raymill("run", "w.yaml", "--dry-run")[1]
    assert "step count (words): finished" in out and "step again (words): open\n  inputs   1 file" in out


def test_the_plan_is_the_sum_of_the_steps_that_are_known(raymill):
    plan = json.loads(raymill("plan", "w.yaml", "--json", "--cores", "4")[1])
    assert list(plan["steps"]) == ["count"] and plan["unknown"] == {
        "again": "waits for count", "last": "waits for again",
    }  # fmt: skip
    (known,) = plan["steps"]["count"]["on_cores"]
    assert plan["on_cores"] == [{"cores": 4, "seconds": known["seconds"], "money": known["money"]}]
    raymill("run", "w.yaml", "-o", "until=again")
    out = raymill("plan", "w.yaml")[1]
    assert "step count: finished, nothing to do" in out and "step last (words)\n  plan of out-last" in out
    assert "all steps, one after the other" in out


def test_it_is_submitted_as_one_job_with_absolute_paths_and_references(raymill, tmp_path, caplog):
    work = work_of("w.yaml", [], None, None)
    assert (work.verb, work.finished, [one.cpus for one in work.workers]) == ("run", False, [2])
    assert "step again: its machines are not known, as it waits for count" in caplog.text
    steps = work.config["steps"]
    assert work.config["output"] == str(tmp_path / "out")
    assert steps["again"]["inputs"][0]["path"] == "${count.output}/words" and "output" not in steps["again"]
    raymill("run", "w.yaml")
    after = work_of("w.yaml", [], None, None)
    assert after.finished and after.run_id == work.run_id
    Path("job.yaml").write_text(json.dumps(work.config))
    assert "finished before, nothing to do" in raymill("run", "job.yaml")[1]


def test_a_submitted_step_refers_to_the_step_of_its_path_and_keeps_its_condition(raymill, tmp_path):
    steps = {
        "a": {"kind": "words", "inputs": [{"path": "in"}]},
        "ab": {"kind": "words", "inputs": [{"path": "in"}], "if": "${a.words} > 5"},
        "c": {"kind": "words", "inputs": [{"path": "${ab.output}/words", "text": "word"}]},
    }
    Path("w.yaml").write_text(yaml.safe_dump({"kind": "run", "output": "out", "steps": steps}, sort_keys=False))
    found = work_of("w.yaml", [], None, None).config["steps"]
    assert found["c"]["inputs"][0]["path"] == "${ab.output}/words", "OUTPUT/a is how OUTPUT/ab begins"
    assert (found["ab"]["inputs"][0]["path"], found["ab"]["if"]) == (str(tmp_path / "in"), "${a.words} > 5")


def test_steps_of_other_machines_have_a_group_of_their_own(raymill, monkeypatch):
    def machines(self, seconds):
        gpu = Machines("gpu", cpus=8, memory=64 * GIB, disk=GIB, gpus=2, least=1, most=4)
        return gpu if self.config.lower else Machines("cpu", cpus=self.unit_count(), memory=GIB, disk=GIB)

    monkeypatch.setattr(words_kind.WordsJob, "machines", machines)
    raymill("run", "w.yaml")
    groups = work_of("w.yaml", [], None, None).workers
    assert [(one.name, one.gpus, one.cpus) for one in groups] == [("cpu", 0, 4), ("gpu", 2, 8)]


def test_what_is_left_over_in_steps_is_found(raymill, tmp_path):
    raymill("run", "w.yaml")
    Path("out/again/words/000007-000-0123456789ab.parquet").write_bytes(b"")
    garbage = find_garbage(Store(), str(tmp_path / "out"), 0)
    assert "again/words" in {one.folder for one in garbage.old} and not garbage.unknown


def test_the_output_of_another_kind_is_refused(raymill):
    Path("alone.yaml").write_text("{kind: words, name: a, inputs: [{path: in}], output: out}")
    raymill("words", "alone.yaml")
    code, _, err = raymill("run", "w.yaml")
    assert code == 2 and "its kind is words, not run" in err


def test_a_matrix_makes_a_run_of_each_combination(raymill):
    text = Path("w.yaml").read_text().replace("lower: true", "matrix: {lower: [false, true]}")
    both = [{"path": f"${{again-{run}.output}}/words", "text": "word", "source": f"run-{run}"} for run in (1, 2)]
    text = text.replace('[{path: "${again.output}/words", text: word}]', json.dumps(both))
    Path("w.yaml").write_text(text)
    code, _, _ = raymill("run", "w.yaml")
    assert code == 0 and list(digests()) == ["again-1", "again-2", "count", "last"]
    assert report()["last"]["facts"] == "11 words"


def test_all_steps_use_the_store_of_the_run_file(raymill, s3_server, s3_root, monkeypatch):
    """On an object store, with keys in the run file: an alias is moved, and no record or page has a key."""
    storage = {"endpoint_url": s3_server, "access_key_id": "key", "secret_access_key": "hunter2hunter2"}
    config = yaml.safe_load(WORDS) | {"output": f"{s3_root}/out", "storage": storage}
    for path, step in (("count", "again"), ("again", "last")):
        assert config["steps"][step]["inputs"][0]["path"].startswith(f"${{{path}.output}}")
    config["steps"]["count"]["inputs"] = [{"path": f"{s3_root}/in"}]
    config["steps"]["publish"] = {
        "kind": "promote", "model": "${last.output}", "alias": "best", "folder": f"{s3_root}/models",
        "if": "${last.words} == 5",
    }  # fmt: skip
    store = Store(StorageOptions.model_validate(storage))
    for name in ("a", "b"):
        store.write_bytes(f"{s3_root}/in/{name}.txt", Path(f"in/{name}.txt").read_bytes())
    inline.without_ray(monkeypatch)
    run = function_of("run")(config, progress=False)
    assert run.fresh and not function_of("run")(config, progress=False).fresh
    found = function_of("alias")(f"{s3_root}/models", "best", override={f"storage.{k}": v for k, v in storage.items()})
    assert (found["model"], found["digest"]) == (f"{s3_root}/out/last", run.manifest["artifacts"]["last"])
    for file in store.list_files(s3_root):
        assert b"hunter2" not in store.read_bytes(file.uri), file.uri
    with pytest.raises(ConfigError, match=r"storage\.secret_access_key \(a key of a store\)"):
        work_of(config, None, None, None)


def killed_at(passed: int, points: Path) -> bool:
    """Run the file in a process that is killed at this pass of a failpoint. Whether it was."""
    if (child := os.fork()) == 0:
        points.joinpath("plan").write_text(f"any@{passed} tests.support.disturbances:kill\n")
        os.environ[VARIABLE] = str(points)
        with pytest.MonkeyPatch.context() as patch:
            inline.without_ray(patch)
            try:
                cli.main(["run", "w.yaml"])
            finally:
                os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_anywhere_it_continues_with_equal_digests(raymill, tmp_path, every):
    raymill("run", "w.yaml")
    wanted, passed, kept = digests(), 1 - every, 0
    while True:
        shutil.rmtree("out")
        passed += every
        points = tmp_path / f"points-{passed}"
        points.mkdir()
        if not killed_at(passed, points):
            break
        finished = [name for name in wanted if Path("out", name, "manifest.json").exists()]
        code, _, err = raymill("run", "w.yaml")
        assert code == 0 and digests() == wanted, passed
        assert not set(finished) & set(steps_made(err)), passed
        kept += len(finished)
    assert passed > 30 and kept > 30 // every
