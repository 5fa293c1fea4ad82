"""Submission to a Ray cluster whose dashboard runs in this process: what is sent, and what becomes of the answers.

test_jobs_api.py does the same with a real cluster.
"""

import importlib.metadata
import json
import platform
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from raymill import cluster
from raymill.cluster.cli import main
from raymill.cluster.errors import ClusterError, ConfigError
from raymill.cluster.submit import jobs_api
from raymill.cluster.submit.backend import AttemptExists, AttemptLost, NoAnswer, Request, State
from raymill.cluster.submit.jobs_api import JobsApi
from raymill.cluster.submit.preflight import CheckReport
from raymill.cluster.submit.ray_api import RayApi, Refused
from raymill.cluster.submit.submit import submit
from tests.support.processes import wait_until
from tests.support.ray_dashboard import RayDashboard
from tests.support.works import small_work

REPORT = CheckReport(
    python=platform.python_version(),
    ray=importlib.metadata.version("ray"),
    raymill=cluster.__version__,
    on_path=True,
    machines=1,
    now={"CPU": 4.0},
    largest_memory=64 << 30,
    can_add=None,
    problems={},
)


@pytest.fixture
def dashboard(monkeypatch) -> Iterator[RayDashboard]:
    monkeypatch.setattr(jobs_api, "_POLL_S", 0.05)
    with RayDashboard(REPORT) as found:
        yield found


def backend(dashboard: RayDashboard, **more) -> JobsApi:
    return JobsApi(RayApi(dashboard.url), retry_s=5, **more)


def ours(name: str, **more) -> dict:
    """The fields of a job that `submit` started."""
    return {"metadata": {"raymill.run_id": name, "raymill.kind": "curate", "raymill.output": "o"}, **more}


# --- what is submitted


def test_a_job_is_the_command_with_its_config_and_what_an_attempt_is_known_by(dashboard, tmp_path):
    work = replace(small_work(tmp_path, text="ä"), replace=True)
    attempt = backend(dashboard, command=("my raymill",), grace_s=7).start(Request(work, "run-a2"))
    body = dashboard.bodies["run-a2"]
    assert body["entrypoint"] == "'my raymill' curate env:RAYMILL_CONFIG --replace"
    variables = body["runtime_env"]["env_vars"]
    assert json.loads(variables["RAYMILL_CONFIG"]) == work.config
    assert variables["RAY_JOB_STOP_WAIT_TIME_S"] == "7" and "working_dir" not in body["runtime_env"]
    assert body["metadata"]["raymill.version"] == cluster.__version__
    assert (attempt.name, attempt.run_id, attempt.kind) == ("run-a2", work.run_id, "curate")
    assert (attempt.state, attempt.output) == (State.WAITING, work.output)
    assert attempt.config_fingerprint == work.config_fingerprint
    assert backend(dashboard).config(attempt) == work.config


def test_shipped_code_is_the_working_folder_and_its_python_the_command(dashboard, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs_api, "ship_code", lambda api: f"gcs://of-{api.address}.zip")
    backend(dashboard, ship_code=True).start(Request(small_work(tmp_path), "run"))
    body = dashboard.bodies["run"]
    assert body["entrypoint"] == "python -m raymill.cluster.cli curate env:RAYMILL_CONFIG"
    assert body["runtime_env"]["working_dir"] == f"gcs://of-{dashboard.url}.zip"


def test_a_submission_whose_answer_is_lost_finds_its_own_job_and_refuses_the_one_of_another(dashboard, tmp_path):
    work = small_work(tmp_path)
    dashboard.lost += ["POST"]
    assert backend(dashboard).start(Request(work, "run")).name == "run"
    assert dashboard.requests.count("POST /api/jobs/") == 2 and len(dashboard.jobs) == 1
    with pytest.raises(AttemptExists):
        backend(dashboard).start(Request(work, "run"))
    dashboard.answer = lambda *_: (400, b"a bad field")
    with pytest.raises(Refused, match="a bad field"):
        backend(dashboard).start(Request(work, "other"))


# --- attempts


@pytest.mark.parametrize(
    ("fields", "state", "code", "message"),
    [
        ({"status": "PENDING", "message": "waits for\na worker"}, State.WAITING, None, "waits for"),
        ({"status": "RUNNING", "message": "runs"}, State.RUNNING, None, ""),
        ({"status": "SUCCEEDED", "message": "done"}, State.SUCCEEDED, 0, ""),
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, State.SUCCEEDED, 0, ""),
        ({"status": "STOPPED"}, State.CANCELLED, None, ""),
        ({"status": "STOPPED", "driver_exit_code": -15}, State.CANCELLED, 143, ""),
        ({"status": "FAILED", "driver_exit_code": 3, "message": "log"}, State.FAILED, 3, "exit code 3"),
        ({"status": "FAILED", "driver_exit_code": -9}, State.FAILED, 137, "exit code 137"),
        ({"status": "FAILED", "driver_exit_code": 127, "entrypoint": "raymill curate"}, State.FAILED, 127,
         "exit code 127: raymill is not on the PATH with which Ray's head was started"),
        ({"status": "FAILED", "error_type": "RUNTIME_ENV_SETUP_FAILED", "message": "no zip\nmore"}, State.FAILED, 1,
         "runtime env setup failed: no zip"),
        ({"status": "FAILED", "message": "lost"}, State.FAILED, 1, "lost"),
    ],
)  # fmt: skip
def test_states(dashboard, fields, state, code, message):
    dashboard.add("run", **ours("run", start_time=1500, end_time=4500, **fields))
    found = backend(dashboard).attempt("run")
    assert (found.state, found.exit_code, found.message) == (state, code, message)
    assert (found.started, found.ended) == (1.5, 4.5)


def test_attempts_are_those_of_raymill_in_order_of_their_start(dashboard):
    for name, run, start in (("b-a2", "b", 3000), ("a", "a", 2000), ("b", "b", 1000)):
        dashboard.add(name, **ours(run, start_time=start))
    dashboard.add("of another program", start_time=1500)
    dashboard.add("without metadata", metadata=None, start_time=1500)
    found = backend(dashboard)
    assert [one.name for one in found.attempts()] == ["b", "a", "b-a2"]
    assert [one.name for one in found.attempts() if one.run_id == "b"] == ["b", "b-a2"]
    assert [found.attempt(name) for name in ("of another program", "without metadata", "absent")] == [None] * 3
    assert found.config(found.attempt("a")) is None, "it was submitted without one"


JUNK = {  # fields of a job that Ray gives to none
    "submission_id": [None, 5, "", "../x", "a\n", "x?y"],
    "status": [None, "X", [], "\x1b[2J"],
    "message": [5, {}],
    "metadata": [{"raymill.run_id": "one", "raymill.output": None}, {"raymill.run_id": ["one"]}],
    "start_time": ["x", -1, 1e400, 10**30],
    "end_time": [{}, 10**30],
    "driver_exit_code": ["x", 10**30, []],
    "driver_node_id": [{}, 5],
    "entrypoint": [[]],
    "runtime_env": ["x"],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in JUNK.items() for value in values])
def test_a_job_that_another_user_damaged_is_left_out_with_a_warning_and_the_others_are_listed(
    dashboard, caplog, field, value
):
    dashboard.add("good", **ours("good"))
    dashboard.add("one", **(ours("one") | {field: value}))
    assert [attempt.name for attempt in backend(dashboard).attempts()] == ["good"]
    assert f"has a {field}" in caplog.text
    dashboard.jobs["one"] |= {field: value}
    with pytest.raises(ConfigError, match="/api/jobs/one is not one of Ray's dashboard"):
        backend(dashboard).attempt("one")


def test_names_that_jobs_of_others_have_stop_no_submit(dashboard, tmp_path):
    work = small_work(tmp_path, lines=1)
    dashboard.add(work.run_id, **ours(work.run_id, metadata={}))
    dashboard.add(f"{work.run_id}-a2", **ours(work.run_id, driver_exit_code=1 << 40))
    dashboard.add(f"{work.run_id}-a3", **ours("other"))
    done = submit(backend(dashboard), work)
    assert done.started and done.attempt.run_id == work.run_id


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, "9" * 5000])
def test_a_config_that_is_none_is_unknown(dashboard, text):
    dashboard.add("one", **ours("one", runtime_env={"env_vars": {"RAYMILL_CONFIG": text}}))
    found = backend(dashboard)
    assert found.config(found.attempt("one")) is None


def test_a_cancelled_job_is_stopped_and_one_that_is_gone_is_lost(dashboard, monkeypatch):
    dashboard.add("run", **ours("run"))
    attempt = backend(dashboard).attempt("run")
    backend(dashboard).cancel(attempt)
    assert backend(dashboard).attempt("run").state is State.CANCELLED
    dashboard.jobs.clear()
    for lose in (backend(dashboard).cancel, lambda one: list(backend(dashboard).logs(one, follow=True))):
        with pytest.raises(AttemptLost, match="run: the cluster no longer has this job"):
            lose(attempt)
    dashboard.add("run", **ours("run"))
    dashboard.answer = lambda *_: (200, json.dumps(dashboard.jobs["run"]).encode())  # it goes on
    with pytest.raises(ClusterError, match=rf"run: still running after 0 s.*{dashboard.url}"):
        backend(dashboard, grace_s=-30).cancel(attempt)


# --- logs


def test_a_followed_log_gives_each_line_once_though_connections_end_and_answers_are_lost(dashboard):
    """Each stream ends with the bytes that are there, as one that is cut."""
    dashboard.add("run", log=b"one\ntw", **ours("run"))
    lines = backend(dashboard).logs(backend(dashboard).attempt("run"), follow=True)
    assert next(lines) == "one"
    dashboard.logs["run"] += b"o\nthree\n"
    dashboard.lost += ["GET"]
    assert [next(lines), next(lines)] == ["two", "three"]
    dashboard.logs["run"] += b"four\nlast"
    dashboard.jobs["run"] |= {"status": "SUCCEEDED"}
    assert list(lines) == ["four", "last"]


def test_a_job_without_a_machine_and_one_without_a_log_file_are_waited_for(dashboard, monkeypatch):
    dashboard.add("run", "PENDING", driver_node_id=None, **ours("run"))
    del dashboard.logs["run"]
    attempt, answer, asked = backend(dashboard).attempt("run"), dashboard.answer, []

    def go_on(method, path, *rest):
        """The machine comes with the second question for the job, the log with the fifth."""
        asked.append(path)
        if path == "/api/jobs/run":
            questions = asked.count(path)
            dashboard.jobs["run"] |= {"driver_node_id": "node", "status": "RUNNING"} if questions == 2 else {}
            if questions == 5:
                dashboard.logs["run"] = b"one\n"
            if questions == 6:
                dashboard.jobs["run"] |= {"status": "SUCCEEDED"}
        return answer(method, path, *rest)

    monkeypatch.setattr(dashboard, "answer", go_on)
    assert list(backend(dashboard).logs(attempt, follow=True)) == ["one"]
    assert asked[0:2] == ["/api/jobs/run"] * 2, "no log is asked for before there is a machine"
    assert asked[2] == "/api/v0/logs/stream" and asked[-1] == "/api/v0/logs/file"


@pytest.mark.parametrize("follow", [True, False])
def test_the_line_that_ray_writes_before_the_command_is_left_out_of_a_log(dashboard, follow):
    setting_up = b"2026-11-23 02:57:18,313\tINFO job_manager.py:581 -- Runtime env is setting up.\n"
    log = setting_up + b"Running entrypoint for job run: raymill\nRuntime env is setting up.\nlast"
    dashboard.add("run", "SUCCEEDED", log, **ours("run"))
    lines = list(backend(dashboard).logs(backend(dashboard).attempt("run"), follow))
    assert lines == ["Running entrypoint for job run: raymill", "Runtime env is setting up.", "last"]


def test_the_end_of_a_log_that_cannot_be_read_is_a_warning_after_three_tries(dashboard, caplog):
    dashboard.add("run", "SUCCEEDED", **ours("run"))
    del dashboard.logs["run"]
    assert list(backend(dashboard).logs(backend(dashboard).attempt("run"), follow=True)) == []
    assert dashboard.requests.count("GET /api/v0/logs/file") == 3
    assert [one.getMessage() for one in caplog.records] == [
        "the end of the log of run could not be read: its machine may be gone"
    ]
    dashboard.add("waits", "FAILED", driver_node_id=None, **ours("waits"))
    assert list(backend(dashboard).logs(backend(dashboard).attempt("waits"), follow=True)) == []


def test_the_reason_why_a_job_waits_is_a_message_each_time_that_it_changes(dashboard):
    dashboard.add("waits", "PENDING", driver_node_id=None, message="No machine.", **ours("waits"))
    messages, place = [], backend(dashboard)
    lines = place.logs(place.attempt("waits"), follow=True, on_message=messages.append)
    thread = threading.Thread(target=lambda: messages.extend(lines), daemon=True)
    thread.start()
    for change in ({"message": "Being set up."}, {"status": "FAILED"}):
        looked = len(dashboard.requests)
        assert wait_until(lambda looked=looked: len(dashboard.requests) > looked + 2, 20)
        dashboard.jobs["waits"] |= change
    thread.join(20)
    assert messages == ["waits: waiting: No machine.", "waits: waiting: Being set up."]


# --- the check


def test_a_check_leaves_no_job_and_names_what_its_report_lacks(dashboard, tmp_path):
    work = small_work(tmp_path)
    assert backend(dashboard).check(work) == []
    ((name, body),) = dashboard.bodies.items()
    assert name.startswith(f"{work.run_id}-check-") and dashboard.jobs == {}
    request = json.loads(body["runtime_env"]["env_vars"]["RAYMILL_CHECK"])
    assert request["output"] == work.output and request["needed"] == {"GPU": 0, "CPU": 1, "memory": 0}
    dashboard.report = replace(REPORT, raymill="0.0.1")
    (problem,) = backend(dashboard).check(work)
    assert problem.startswith("the cluster has Raymill 0.0.1")
    dashboard.report = None
    (problem,) = backend(dashboard).check(work)
    assert problem.startswith("the check on the cluster ended without a result (; Traceback)")
    assert dashboard.jobs == {}


def test_another_version_of_ray_is_named_before_a_job_is_started(tmp_path):
    with RayDashboard(version="2.9.0") as dashboard:
        (problem,) = backend(dashboard).check(small_work(tmp_path))
    assert problem.startswith("the cluster runs Ray 2.9.0") and dashboard.bodies == {}


def test_the_log_of_a_check_is_read_to_a_bound_and_a_deadline(dashboard, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs_api, "_LARGEST_CHECK_LOG", 1 << 20)
    read = []

    def without_end(self, path, **query):
        for _ in range(1000):
            read.append(path)
            yield b"x" * (1 << 16)

    monkeypatch.setattr(RayApi, "stream", without_end)
    (problem,) = backend(dashboard).check(small_work(tmp_path))
    assert problem.startswith("the check on the cluster ended without a result") and len(read) < 20

    def without_speed(self, path, **query):
        while True:
            time.sleep(0.05)
            yield b"x"

    monkeypatch.setattr(RayApi, "stream", without_speed)
    monkeypatch.setattr(jobs_api, "_CHECK_S", 1)
    with pytest.raises(NoAnswer, match=r"the log of .*: no whole answer within 1 s"):
        backend(dashboard).check(small_work(tmp_path))
    assert dashboard.jobs == {}


@pytest.mark.parametrize(
    ("code", "log", "seen"),
    [
        (1, "ModuleNotFoundError: No module named 'ray'", "has no Ray (ModuleNotFoundError: No module named 'ray')"),
        (127, "/bin/sh: 1: python: not found", "was not found (/bin/sh: 1: python: not found)"),
        (1, "ModuleNotFoundError: No module named 'raymill'", "has no Raymill (ModuleNotFoundError"),
    ],
)
def test_a_check_without_an_environment_on_path_names_the_python_that_ran_it(code, log, seen):
    job = jobs_api._Job(submission_id="check", status="FAILED", driver_exit_code=code)
    problem = jobs_api._failed_check(job, f"Traceback\n{log}\n")
    assert f"the first on the PATH with which Ray's head was started, {seen}" in problem
    assert "PATH=ENV/bin:$PATH ray start --head" in problem
    assert ("ship this checkout with --ship-code" in problem) == ("has no Raymill" in seen)


# --- the verb


def test_each_option_of_submit_reaches_the_job(dashboard, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jobs_api, "ship_code", lambda api: "gcs://x.zip")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jsonl").write_text('{"text": "A text."}\n')
    (file := tmp_path / "curate.json").write_text(
        json.dumps({"kind": "curate", "name": "web", "inputs": [{"path": str(tmp_path / "raw")}], "output": "o"})
    )
    place = ["--address", dashboard.url]
    changes = ["-o", f"output={tmp_path}/out", "-o", "dedup=null"]
    with pytest.raises(SystemExit) as done:
        main(["submit", str(file), *changes, "--name", "mine", "--ship-code", "--replace", "--detach", *place])
    assert done.value.code == 0
    name, body = list(dashboard.bodies.items())[-1]
    assert name.startswith("mine-")
    assert body["entrypoint"] == "python -m raymill.cluster.cli curate env:RAYMILL_CONFIG --replace"
    config = json.loads(body["runtime_env"]["env_vars"]["RAYMILL_CONFIG"])
    assert config["output"] == f"{tmp_path}/out" and config["dedup"] is None
    messages = capsys.readouterr().err.splitlines()
    assert messages[0].startswith(f"{name}: checking inputs, output and machines before the start")
    assert messages[1] == f"{name}: submitted. Output: {tmp_path}/out"
    assert f"logs {name} -f --address {dashboard.url}" in messages[2]
