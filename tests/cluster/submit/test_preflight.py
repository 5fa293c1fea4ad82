"""What a cluster must have, with the report of the check as a value; and what is looked at on a machine."""

import importlib.metadata
import json
import platform
from dataclasses import asdict, replace

import pytest

from raymill import cluster
from raymill.cluster.submit import cluster_check
from raymill.cluster.submit.preflight import (
    MARK,
    CheckReport,
    CheckRequest,
    lacking,
    needed,
    problems,
    problems_here,
    read_report,
    storage_of,
)
from tests.support.works import small_work

FITTING = CheckReport(
    python=platform.python_version(),
    ray=importlib.metadata.version("ray"),
    raymill=cluster.__version__,
    on_path=True,
    machines=3,
    now={"CPU": 4.0, "memory": 8 << 30},
    largest_memory=4 << 30,
    can_add=None,
    problems={},
    address="10.0.0.1:26379",
)


def test_a_cluster_that_fits_has_no_problems(tmp_path):
    assert problems(small_work(tmp_path), FITTING, ships_code=False) == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"python": "3.9.1"}, "the cluster runs Python 3.9.1"),
        ({"ray": "2.9.0"}, "the cluster runs Ray 2.9.0"),
        ({"raymill": "0.0.1"}, "the cluster has Raymill 0.0.1"),
        ({"on_path": False}, "raymill is not on the PATH"),
        ({"now": {}, "can_add": False}, "1 CPU needed: the cluster has 0, and no autoscaler can add the others"),
        ({"problems": {"s3://x: gone.": ["10.0.0.1"]}}, "on 1 of 3 machines (10.0.0.1): s3://x: gone."),
        ({"problems": {"s3://x: gone.": ["a", "b", "c"]}}, "s3://x: gone."),
        ({"machines": 5, "problems": {"gone.": ["a", "b", "c"]}}, "on 3 of 5 machines (a, b, c): gone."),
        ({"machines": 5, "problems": {"gone.": ["a", "b", "c", "d"]}}, "on 4 of 5 machines (a, b, c, ...): gone."),
    ],
)
def test_each_mismatch_is_named(tmp_path, changed, named):
    (problem,) = problems(small_work(tmp_path), replace(FITTING, **changed), ships_code=False)
    assert problem.startswith(named) or named in problem


def test_machines_that_the_autoscaler_can_add_count(tmp_path):
    (group,) = small_work(tmp_path).workers
    work = replace(small_work(tmp_path), workers=(replace(group, gpus=4, least=2, largest_task=9 << 30),))
    lacks = replace(FITTING, now={"CPU": 1, "GPU": 2}, largest_memory=4 << 30)
    assert lacking(needed(work), lacks.now, lacks.largest_memory) == ["GPU", "memory"]
    for answer in (True, None):  # None: the autoscaler does not report it, and adds them or not
        assert problems(work, replace(lacks, can_add=answer), ships_code=False) == []
    gpus, memory = problems(work, replace(lacks, can_add=False), ships_code=False)
    assert "8 GPUs needed: the cluster has 2, and no autoscaler can add the others" in gpus
    assert "the largest task needs 9.0 GiB of memory: the largest machine has 4.0 GiB for Ray" in memory


def test_memory_is_compared_once_there_is_a_machine_that_computes():
    assert lacking({"CPU": 1, "memory": 9 << 30}, {}, 1 << 30) == ["CPU"]


def test_workers_that_run_all_at_once_need_all_their_cpus(tmp_path):
    (group,) = small_work(tmp_path).workers
    work = replace(small_work(tmp_path), workers=(replace(group, cpus=4, least=2),))
    assert needed(work)["CPU"] == 1
    assert needed(replace(work, all_at_once=True))["CPU"] == 8
    lacks = replace(FITTING, now={}, can_add=False)
    (curate,) = problems(work, lacks, ships_code=False)
    (train,) = problems(replace(work, all_at_once=True), lacks, ships_code=False)
    assert "Join another machine to it (`ray start --address 10.0.0.1:26379`" in curate and "workers" not in curate
    assert "or lower the number of workers in the config" in train


def test_with_ship_code_the_raymill_of_the_cluster_does_not_count(tmp_path):
    report = replace(FITTING, raymill="0.0.1", on_path=False)
    assert problems(small_work(tmp_path), report, ships_code=True) == []


def test_a_report_is_found_among_other_lines_of_a_log():
    assert read_report(f"INFO something\n{FITTING.to_line()}\nmore") == FITTING
    assert read_report("Traceback ...") is None


@pytest.mark.parametrize(
    "report", ["{", "[" * 100_000, "[1]", "{}", json.dumps(asdict(FITTING) | {"python": 3}),
               json.dumps(asdict(FITTING) | {"now": [1]}), json.dumps(asdict(FITTING) | {"problems": {"a": 5}})],
)  # fmt: skip
def test_a_report_of_another_form_is_none(report):
    assert read_report(f"{MARK}{report}\n") is None


def test_a_file_is_looked_for_with_the_storage_of_its_input(tmp_path):
    config = {
        "inputs": [{"path": "s3://public/2026/*.jsonl", "storage": {"anonymous": True}}, {"path": "s3://own/x.jsonl"}],
        "storage": {"region": "here"},
    }
    assert storage_of(config, "s3://public/2026/a.jsonl") == {"anonymous": True}
    assert storage_of(config, "s3://public/2025/a.jsonl") == {"region": "here"}
    assert storage_of(config, "s3://own/x.jsonl") == {"region": "here"}
    work = replace(small_work(tmp_path, **config), must_exist=("s3://public/2026/a.jsonl",))
    again = CheckRequest.from_json(CheckRequest.of(work).to_json())
    assert [list(one) for one in again.files] == [["s3://public/2026/a.jsonl", {"anonymous": True}]]


def test_a_problem_reads_the_same_on_every_machine(tmp_path):
    storage = {"endpoint_url": "http://127.0.0.1:1", "anonymous": True}
    request = CheckRequest("s3://bucket/output", storage, [(str(tmp_path / "absent"), {})])
    first = problems_here(request, None)
    assert len(first) == 2 and first == problems_here(request, None)


def test_a_local_output_is_looked_for_by_the_file_of_another_machine(tmp_path):
    (tmp_path / "marker").touch()
    request = CheckRequest(str(tmp_path), {}, [("hf://some/model", {}), (str(tmp_path / "marker"), {})])
    assert problems_here(request, str(tmp_path / "marker")) == []
    (problem,) = problems_here(request, str(tmp_path / "absent"))
    assert problem.startswith(f"{tmp_path}: this local folder is not shared with all machines of the cluster")
    assert problems_here(request, None) == [] and [path.name for path in tmp_path.iterdir()] == ["marker"]


def test_the_autoscaler_is_asked_for_single_processors_and_one_piece_of_memory(monkeypatch):
    monkeypatch.setattr(cluster_check, "can_add", lambda bundles: bundles)
    request = CheckRequest("o", {}, (), {"GPU": 2, "CPU": 1, "memory": 5.0})
    assert cluster_check._can_add(request, []) is None
    assert cluster_check._can_add(request, ["GPU", "memory"]) == [{"GPU": 1}, {"GPU": 1}, {"memory": 5.0}]


def test_the_memory_of_a_run_equals_the_one_of_its_largest_task_on_one_machine(tmp_path):
    (group,) = small_work(tmp_path).workers
    groups = tuple(replace(group, largest_task=size << 30) for size in (3, 9, 5))
    wanted = needed(replace(small_work(tmp_path), workers=groups))
    assert wanted["memory"] == 9 << 30
    assert lacking(wanted, {"CPU": 1}, 9 << 30) == [] and lacking(wanted, {"CPU": 1}, (9 << 30) - 1) == ["memory"]
