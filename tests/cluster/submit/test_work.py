"""The work of a config: durations, and what `--replace` changes."""

import json
import re
from dataclasses import replace

import pytest

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.frame.work import work_of
from raymill.cluster.kuberay.profiles import OVERLAYS
from raymill.cluster.kuberay.rayjob import build_rayjob
from raymill.cluster.run import RunFolder
from raymill.cluster.store.store import Store
from raymill.cluster.submit.backend import Request
from raymill.cluster.submit.local import Local
from raymill.cluster.submit.work import GIB, Machines, head_machine, seconds_of, whole_gib
from raymill.pipelines.curate.job import CurateJob
from tests.support.works import CURATE


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("1.5h", 5400), ("2d", 172_800), ("10s", 10)])
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "m", "-1h", "0m", "infh", "nanh", "1 week"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ConfigError, match="not a duration"):
        seconds_of(text)


def test_replace_reaches_the_job_and_neither_the_run_id_nor_the_config(tmp_path):
    """Looking whether the output is finished removes nothing: the job does."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jsonl").write_text('{"text": "A text."}\n')
    (tmp_path / "curate.json").write_text(
        json.dumps({"kind": "curate", "name": "x", "inputs": [{"path": str(tmp_path / "raw")}], "output": "o"})
    )
    config, output = str(tmp_path / "curate.json"), f"output={tmp_path / 'out'}"
    new = work_of(config, [output], None, None)
    RunFolder(Store(), str(tmp_path / "out")).put("curate", "x", {"rules": "others"}, "other inputs", {})
    with pytest.raises(DataError, match=r"finished run with other settings.*add replace=True"):
        work_of(config, [output], None, None)
    work = work_of(config, [output], None, None, replace=True)
    assert not work.finished and (tmp_path / "out" / "manifest.json").exists()
    assert (work.run_id, work.config, work.options) == (new.run_id, new.config, ("--replace",))
    local = Local(tmp_path / "runs", ("echo",))
    attempt = local.start(Request(work, work.run_id))
    assert list(local.logs(attempt, follow=True)) == ["curate env:RAYMILL_CONFIG --replace"]
    profile = replace(OVERLAYS["kind"], image="x", claims={str(tmp_path): "shared"})
    assert build_rayjob(work, "x", profile)["spec"]["entrypoint"].endswith("config.json --replace")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("web", "web"),
        ("My Web_2026!", "my-web-2026"),
        ("2026", "curate-2026"),
        ("...", "curate"),
        ("a" * 29 + "--b", "a" * 29),
        ("1" * 40, "curate-" + "1" * 23),
    ],
)
def test_a_run_id_is_a_dns_label_of_at_most_39_characters(name, label):
    run_id = replace(CURATE, name=name).run_id
    assert re.fullmatch(rf"{label}-[0-9a-f]{{8}}", run_id) and len(run_id) <= 39


def test_a_run_id_depends_on_kind_result_and_output_and_a_config_fingerprint_on_every_setting():
    assert replace(CURATE, config={"execution": 2}).run_id == CURATE.run_id
    others = [{"kind": "train"}, {"result": "other"}, {"output": "s3://other"}]
    assert len({CURATE.run_id, *(replace(CURATE, **changed).run_id for changed in others)}) == 4
    assert replace(CURATE, config={"execution": 2}).config_fingerprint != CURATE.config_fingerprint


def test_machines_of_another_size_do_the_same_work():
    cpu = Machines("cpu", 16, 40 * GIB, 60 * GIB, largest_task=9 * GIB, least=1, most=3, reasons={"cpus": "c"})
    half = cpu.resized(cpus=8)
    assert (half.cpus, half.least, half.most, half.disk) == (8, 2, 6, 35 * GIB)
    assert half.memory == 22 * GIB, "(40 * 0.9 - 2) / 2 for tasks, 2 for Ray, a tenth unused"
    assert half.reasons["cpus"] == "c"
    assert (cpu.resized(cpus=12).least, cpu.resized(cpus=12).most) == (2, 4), "16 and 48 CPUs, rounded up"
    assert half.reasons["machines"].startswith("machines of 8 CPUs each were requested; sized for 16")
    assert cpu.resized(cpus=1).memory == 13 * GIB, "the largest task and Ray, a tenth unused"
    assert cpu.resized(cpus=16, gpus=2) is cpu.resized(gpus=2) is cpu
    gpu = replace(cpu, gpus=8, cpus=30, most=1)
    two = gpu.resized(cpus=4, gpus=2)
    assert (two.gpus, two.cpus, two.most) == (2, 8, 4) and "of 2 GPUs each" in two.reasons["machines"]


def test_the_head_has_memory_for_each_unit():
    assert head_machine(0).memory == 8 * GIB and head_machine(1).memory == 9 * GIB
    assert head_machine(10**6).memory == whole_gib(8 * GIB + 2e10) == 27 * GIB
    assert "20 kB for each of 1,000,000 units" in head_machine(10**6).reasons["memory"]


def test_every_option_of_a_submission_decides_on_the_work(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(CurateJob, "work", lambda job, *one, **more: given.append((job, *one, more)) or CURATE)
    (file := tmp_path / "curate.yaml").write_text(
        "{kind: curate, name: x, inputs: [{path: 's3://a'}], output: 's3://o'}"
    )
    assert work_of(str(file), ["output=s3://other"], "mine", "2h", replace=True) == replace(CURATE, name="mine")
    assert work_of(str(file), [], None, None) is CURATE
    assert [(job.root, *rest) for job, *rest in given] == [
        ("s3://other", 7200.0, {"replace": True}),
        ("s3://o", None, {"replace": False}),
    ]
