"""Decisions about a submission, with attempts as values; and the checks that need no cluster."""

import importlib.metadata
import json
import logging
import platform
import re
import socket
import threading
import time
from dataclasses import replace

import pytest
from pydantic import BaseModel, ConfigDict, SecretStr

import cluster
from cluster.cli import main
from cluster.config import load
from cluster.errors import ClusterError, ConfigError, DataError
from cluster.kuberay.profiles import OVERLAYS
from cluster.kuberay.rayjob import build_rayjob
from cluster.run import RunFolder
from cluster.store.store import Store
from cluster.submit.backend import Attempt, AttemptExists, Request, State
from cluster.submit.commands import _follow, _moment
from cluster.submit.job_config import job_config
from cluster.submit.job_log import LogLines
from cluster.submit.jobs_api import JobsApi
from cluster.submit.local import Local
from cluster.submit.place import Place
from cluster.submit.preflight import (
    ProbeReport,
    ProbeRequest,
    lacking,
    look,
    needed,
    problems,
    read_report,
    storage_of,
)
from cluster.submit.ray_api import NoAnswer, NotThere, RayApi, checked_address, found_token
from cluster.submit.ship_code import ship_code
from cluster.submit.submit import Attach, Finished, Refuse, Start, decide, next_name, submit
from cluster.submit.work import seconds_of, work_of
from tests.cluster.submit.conftest import finished, small_work


def attempt_of(work, state: State, name: str = "", **changed) -> Attempt:
    found = Attempt(
        name=name or work.run_id,
        run_id=work.run_id,
        kind=work.kind,
        state=state,
        config_fingerprint=work.config_fingerprint,
        output=work.output,
    )
    return replace(found, **changed)


# --- decisions


@pytest.mark.parametrize("state", list(State))
def test_a_finished_run_is_never_sent(tmp_path, state):
    work = finished(small_work(tmp_path))
    assert decide(work, [attempt_of(work, state)]) == Finished()


@pytest.mark.parametrize("state", [State.WAITING, State.RUNNING])
def test_an_active_attempt_is_attached_to(tmp_path, state):
    work = small_work(tmp_path)
    old, active = attempt_of(work, State.FAILED), attempt_of(work, state, f"{work.run_id}-a2")
    assert decide(work, [old, active]) == Attach(active)


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.SUCCEEDED])
def test_after_an_ended_attempt_the_next_one_starts(tmp_path, state):
    """Also after a success, if the output is not finished: it was removed, or its inputs changed."""
    work = small_work(tmp_path)
    before = attempt_of(work, state)
    assert decide(work, [before]) == Start(f"{work.run_id}-a2", before)


def test_the_first_attempt_has_the_name_of_the_run(tmp_path):
    work = small_work(tmp_path)
    other = attempt_of(small_work(tmp_path / "elsewhere"), State.RUNNING)
    assert decide(work, [other]) == Start(work.run_id, None)


def test_another_config_of_the_same_run_is_refused_while_one_runs(tmp_path):
    active = attempt_of(small_work(tmp_path, execution=1), State.RUNNING)
    assert decide(small_work(tmp_path, execution=2), [active]) == Refuse(active)
    assert isinstance(decide(small_work(tmp_path, execution=2), [replace(active, state=State.FAILED)]), Start)


def test_another_run_that_writes_to_the_same_output_is_refused_while_it_runs(tmp_path):
    active = attempt_of(small_work(tmp_path, lines=1), State.RUNNING)
    work = small_work(tmp_path, lines=2)
    assert work.run_id != active.run_id
    assert decide(work, [active]) == Refuse(active)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ([], "run"),
        (["run"], "run-a2"),
        (["run", "run-a2"], "run-a3"),
        (["run-a9", "run-a10"], "run-a11"),
        (["run-a3"], "run-a4"),
        (["run-b2", "other"], "run"),
    ],
)
def test_attempts_are_numbered_above_every_number_in_use(names, wanted):
    assert next_name("run", names) == wanted


class InMemory:
    """A backend for decisions. lost: so many starts find that another one was first."""

    def __init__(self, lost: int = 0, problems: tuple[str, ...] = ()) -> None:
        self.lost, self.found, self.problems = lost, [], list(problems)
        self.checks, self.configs = 0, {}

    def check(self, work):
        self.checks += 1
        return self.problems

    def start(self, request: Request) -> Attempt:
        if self.lost:
            self.lost -= 1
            self.found.append(attempt_of(request.work, State.RUNNING, request.name))
            raise AttemptExists(request.name)
        self.found.append(attempt_of(request.work, State.WAITING, request.name))
        return self.found[-1]

    def attempts(self, run_id=None):
        return list(self.found)

    def config(self, attempt):
        return self.configs.get(attempt.name)


def test_of_two_submissions_at_once_one_starts_and_the_other_attaches(tmp_path):
    backend = InMemory(lost=1)
    done = submit(backend, small_work(tmp_path))
    assert not done.started and done.attempt.state is State.RUNNING
    assert len(backend.found) == 1


def test_problems_stop_a_submission_and_are_all_named(tmp_path):
    backend = InMemory(problems=("no GPU.", "no store."))
    with pytest.raises(ConfigError, match=r"2 problems found:\n  no GPU\.\n  no store\."):
        submit(backend, small_work(tmp_path))
    assert backend.found == []


def test_a_run_that_is_attached_to_is_not_checked(tmp_path):
    backend, work = InMemory(), small_work(tmp_path)
    submit(backend, work)
    submit(backend, work)
    assert backend.checks == 1


# --- refusals


def running(work) -> InMemory:
    """A backend in which an attempt of this work runs."""
    backend = InMemory()
    backend.found, backend.configs = [attempt_of(work, State.RUNNING)], {work.run_id: work.config}
    return backend


def refusal(backend: InMemory, work) -> str:
    place = Place(None, "http://127.0.0.1:8311", None, False)
    with pytest.raises(ConfigError) as caught:
        submit(backend, work, place.command)
    return str(caught.value)


def curate_work(tmp_path, name: str = "a", **settings):
    config = {"kind": "curate", "name": name, "inputs": [{"path": "s3://b/x"}], "output": "s3://b/o", **settings}
    return replace(small_work(tmp_path, name=name), config=config)


def test_the_same_run_under_another_name_is_named_with_the_command_that_attaches_to_it(tmp_path):
    work = curate_work(tmp_path, "first")
    message = refusal(running(work), curate_work(tmp_path, "second"))
    assert f"is running under the name {work.run_id}. Attach to it with `" in message
    assert f"logs {work.run_id} -f --address http://127.0.0.1:8311`" in message


def test_a_refusal_lists_the_single_settings_that_differ_defaults_included(tmp_path):
    work = curate_work(tmp_path)
    changed = curate_work(tmp_path, rules={"gopher_quality": {"min_words": 60}})
    message = refusal(running(work), changed)
    assert "(rules.gopher_quality.min_words was 50, now 60)" in message
    assert f"cancel {work.run_id} --address http://127.0.0.1:8311`" in message
    # A config that this version cannot read is compared as it is, in few characters.
    unreadable = curate_work(tmp_path, rules={"gone": {str(number): number for number in range(1000)}})
    assert len(refusal(running(unreadable), changed)) < 1500


def test_a_refusal_without_differing_settings_is_due_to_the_input_files(tmp_path):
    work = curate_work(tmp_path)
    message = refusal(running(work), replace(work, result="other"))
    assert "(the input files changed since)" in message
    backend = running(work)
    backend.configs.clear()
    assert "(its settings could not be read)" in refusal(backend, replace(work, result="other"))


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
    with pytest.raises(DataError, match=r"finished run with other settings.*add --replace"):
        work_of(config, [output], None, None)
    work = work_of(config, [output], None, None, replace=True)
    assert not work.finished and (tmp_path / "out" / "manifest.json").exists()
    assert (work.run_id, work.config, work.options) == (new.run_id, new.config, ("--replace",))
    local = Local(tmp_path / "runs", ("echo",))
    attempt = local.start(Request(work, work.run_id))
    assert list(local.logs(attempt, follow=True)) == ["curate env:RAYMILL_CONFIG --replace"]
    profile = replace(OVERLAYS["kind"], image="x", claims={str(tmp_path): "shared"})
    assert build_rayjob(work, "x", profile)["spec"]["entrypoint"].endswith("config.json --replace")


# --- names and places


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs", "--address", ""], "--address: empty; wanted http://HOST:PORT."),
        (["runs", "--to", ""], "--to: empty; wanted one of local, jobs, kuberay."),
        (["runs", "--to", "kuberay", "--context", " "], "--context: empty; wanted a name."),
        (["runs", "--to", "kubernetes"], "Did you mean kuberay?"),
        (["runs", "--to", "job", "--address", "http://127.0.0.1:1"], "--to job: no such place.*Did you mean jobs?"),
        (["status", ""], "NAME: empty; wanted the name of a run, as `.*runs --to local` prints it."),
        (["status", "web"], "web: no run of this name on this machine.*for a cluster's.*`.*runs --to local` lists"),
        (["status", "big"], "Did you mean big3-0123 or big3-4567?"),
    ],
)
def test_names_and_places_that_do_not_exist(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name in ("big3-0123", "big3-4567"):
        work = replace(small_work(tmp_path), config={})
        (folder := tmp_path / "raymill" / "runs" / name).mkdir(parents=True)
        record = {"run_id": name, "kind": work.kind, "config_fingerprint": "", "output": "", "started": 1.0}
        (folder / "request.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == 2
    assert re.search(message.replace("?", r"\?"), capsys.readouterr().err)


# --- what a cluster must have

FITTING = ProbeReport(
    python=platform.python_version(),
    ray=importlib.metadata.version("ray"),
    raymill=cluster.__version__,
    on_path=True,
    machines=3,
    now={"CPU": 4.0, "memory": 8 << 30},
    largest_memory=4 << 30,
    can_add=None,
    problems={},
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
    assert "the largest task needs 9.0 GiB of memory: the largest machine offers Ray 4.0 GiB" in memory


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
    assert "Join another machine to it (`ray start --address HEAD:6379`" in curate and "workers" not in curate
    assert "or lower the number of workers in the config" in train


def test_shipping_code_prints_its_size_and_no_lines_of_ray(capsys, monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(cluster, "__file__", str(tmp_path / "cluster" / "__init__.py"))
    sent = []

    class Empty:
        address = "http://127.0.0.1:8265"

        def get(self, path):
            raise NotThere(path)

        def put(self, path, data):
            sent.append(data)

    logging.getLogger("ray").setLevel(logging.INFO)
    ship_code(Empty())
    assert not logging.getLogger("ray._private.runtime_env.packaging").isEnabledFor(logging.INFO)
    assert len(sent) == 1 and capsys.readouterr().err == "sending 0.0 MiB of code to http://127.0.0.1:8265\n"


def test_the_end_of_a_followed_log_names_whole_commands_and_times_have_a_zone(tmp_path, capsys):
    class Interrupted(InMemory):
        def logs(self, attempt, follow):
            raise KeyboardInterrupt

    place = Place(None, "http://127.0.0.1:8311", None, False)
    work = small_work(tmp_path)
    assert _follow(Interrupted(), attempt_of(work, State.RUNNING), place) == 130
    end = capsys.readouterr().err
    assert f"logs {work.run_id} -f --address http://127.0.0.1:8311`, end it with `" in end
    assert end.endswith(f"cancel {work.run_id} --address http://127.0.0.1:8311`.\n")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+", _moment(1e9))


def test_the_file_of_a_token_is_named_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        found_token(str(tmp_path / "absent"))
    assert str(caught.value).count("absent") == 1 and "(No such file or directory)" in str(caught.value)


def test_with_ship_code_the_raymill_of_the_cluster_does_not_count(tmp_path):
    report = replace(FITTING, raymill="0.0.1", on_path=False)
    assert problems(small_work(tmp_path), report, ships_code=True) == []


def test_a_report_is_found_among_other_lines_of_a_log():
    assert read_report(f"INFO something\n{FITTING.to_line()}\nmore") == FITTING
    assert read_report("Traceback ...") is None


def test_a_file_is_looked_for_with_the_storage_of_its_input(tmp_path):
    config = {
        "inputs": [{"path": "s3://public/2026/*.jsonl", "storage": {"anonymous": True}}, {"path": "s3://own/x.jsonl"}],
        "storage": {"region": "here"},
    }
    assert storage_of(config, "s3://public/2026/a.jsonl") == {"anonymous": True}
    assert storage_of(config, "s3://public/2025/a.jsonl") == {"region": "here"}
    assert storage_of(config, "s3://own/x.jsonl") == {"region": "here"}
    work = replace(small_work(tmp_path, **config), must_exist=("s3://public/2026/a.jsonl",))
    again = ProbeRequest.from_json(ProbeRequest.of(work).to_json())
    assert [list(one) for one in again.files] == [["s3://public/2026/a.jsonl", {"anonymous": True}]]


def test_a_problem_reads_the_same_on_every_machine(tmp_path):
    storage = {"endpoint_url": "http://127.0.0.1:1", "anonymous": True}
    request = ProbeRequest("s3://bucket/output", storage, [(str(tmp_path / "absent"), {})])
    first = look(request, None)
    assert len(first) == 2 and first == look(request, None)


# --- secrets, addresses, tokens


class AnySettings(BaseModel):
    model_config = ConfigDict(extra="allow")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("AKIAABCDEFGHIJKLMNOP", "an access key of AWS"),
        ("hf_abcdefghijklmnopqrstuvwxyz", "a token of Hugging Face"),
        ("https://user:word@host/x", "a password in an address"),
        ("https://host/x?X-Amz-Signature=abc", "a signature in an address"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a private key"),
    ],
)
def test_secrets_in_a_config_are_refused_without_printing_them(value, what):
    with pytest.raises(ConfigError, match=rf"inputs\[1\]\.path \({what}\)") as caught:
        job_config(AnySettings(inputs=[{"path": "fine"}, {"path": value}]))
    assert value not in str(caught.value)


def test_keys_of_a_store_are_refused_by_their_setting_together_with_other_secrets():
    settings = AnySettings(storage=AnySettings(secret=SecretStr("a-word")), inputs=["https://user:word@host/x"])
    with pytest.raises(ConfigError) as caught:
        job_config(settings)
    assert "inputs[0] (a password in an address), storage.secret (a key of a store)" in str(caught.value)
    assert "word@" not in str(caught.value) and "a-word" not in str(caught.value)


def test_ordinary_addresses_are_no_secrets():
    plain = {"output": "s3://bucket/a:b@c", "endpoint": "https://host:9000/x?list-type=2", "model": "hf_short"}
    assert job_config(AnySettings(**plain)) == plain


def test_a_config_that_is_too_large_to_travel_is_refused():
    with pytest.raises(ConfigError, match="Name files by a folder or a pattern"):
        job_config(AnySettings(inputs=["s3://bucket/file-with-a-name"] * 5000))


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "http://localhost:8265/", "http://[::1]:8265", "https://ray.example/x"]
)
def test_addresses_that_are_taken(address):
    assert checked_address(address, insecure_http=False) == address.rstrip("/")


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("http://10.0.0.1:8265", "would cross the network unencrypted"),
        ("http://127.0.0.1.example:8265", "would cross the network unencrypted"),
        ("ray://10.0.0.1:10001", "not the address of a dashboard"),
        ("os://x", "not the address of a dashboard"),
        ("127.0.0.1:8265", "not the address of a dashboard"),
        ("http://127.0.0.1:x", "not the address of a dashboard"),
        ("https://user:secret@host", "holds a user name or password"),
    ],
)
def test_addresses_that_are_refused(address, wanted):
    with pytest.raises(ConfigError, match=wanted) as caught:
        checked_address(address, insecure_http=False)
    assert "secret" not in str(caught.value)


def test_http_to_another_machine_needs_a_flag():
    assert checked_address("http://10.0.0.1:8265/", insecure_http=True) == "http://10.0.0.1:8265"


def test_the_token_of_a_file_comes_before_that_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert found_token(None) is None
    for name, text in (("default", "of-home\n"), ("named", "of-path\n"), ("given", "of-file\n"), ("empty", "\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / ".ray").mkdir()
    (tmp_path / "default").rename(tmp_path / ".ray" / "auth_token")
    assert found_token(None) == "of-home"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "named"))
    assert found_token(None) == "of-path"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-variable")
    assert found_token(None) == "of-variable"
    assert found_token(str(tmp_path / "given")) == "of-file"
    for wrong in ("empty", "absent"):
        with pytest.raises(ConfigError, match="--token-file"):
            found_token(str(tmp_path / wrong))


def test_a_server_that_does_not_answer_ends_in_a_message_within_the_time_given():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = RayApi(f"http://127.0.0.1:{silent.getsockname()[1]}", "token-of-this-test")
        began = time.monotonic()
        with pytest.raises(NoAnswer, match="Read timed out") as caught:
            api.get("/api/version", seconds=0.3)
        assert time.monotonic() - began < 5
        assert "token-of-this-test" not in str(caught.value)


def test_a_cluster_that_stays_away_ends_a_submission_after_its_patience(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    backend = JobsApi(RayApi(f"http://127.0.0.1:{port}"), patience_s=0.5)
    with pytest.raises(ClusterError, match="has not answered for"):
        backend.start(Request(small_work(tmp_path), "name"))


def test_ray_address_does_not_replace_the_address_and_the_header_reaches_the_server_alone(monkeypatch):
    """Also not a password for the host in ~/.netrc, nor a proxy of the environment."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:2")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:3")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:4")
    with socket.create_server(("127.0.0.1", 0)) as server:
        got = []

        def answer() -> None:
            connection, _ = server.accept()
            got.append(connection.recv(4096))
            connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:5/\r\nContent-Length: 0\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConfigError, match="answered /api/version with a redirect"):
            RayApi(f"http://127.0.0.1:{server.getsockname()[1]}", "word").get("/api/version")
        thread.join()
    assert b"Authorization: Bearer word" in got[0]


def answering(data: bytes) -> int:
    """The port of a server that answers one connection with these bytes."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = server.accept()
        connection.recv(1 << 16)
        connection.sendall(data)
        connection.close()
        server.close()

    threading.Thread(target=answer, daemon=True).start()
    return server.getsockname()[1]


def test_an_address_without_a_dashboard_is_a_mistake_of_the_user(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    http2 = bytes([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100])  # as the head's port 6379 begins
    port = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    for address, message in (
        (f"http://127.0.0.1:{closed}", "no answer to /api/jobs/ .*Connection refused"),
        ("http://no-such-host.localhost:1", "no answer to /api/jobs/"),
        (f"http://127.0.0.1:{answering(http2)}", "answers, but not as HTTP"),
        (f"https://127.0.0.1:{port}", f"does not use https. Use http://127.0.0.1:{port}"),
    ):
        with pytest.raises(SystemExit) as done:
            main(["runs", "--address", address])
        error = capsys.readouterr().err
        assert done.value.code == 2 and re.search(message, error), error
        assert error.strip().isprintable(), error


KUBECONFIG = """
current-context: a
contexts: [{name: a, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: u, user: {}}]
"""


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"\x7fELF\xff", (), "kubeconfig FILE: not UTF-8 YAML."),
        (b"\x00", (), "kubeconfig FILE: not UTF-8 YAML (unacceptable character"),
        (b"- a", (), "kubeconfig FILE: not a kubeconfig (TypeError"),
        (b"", (), "FILE file is empty. Set the environment variable KUBECONFIG"),
        (KUBECONFIG.encode(), ("--context", "nope"), "--context nope: kubeconfig FILE has no such context. It has: a."),
        (KUBECONFIG.encode(), (), "http://127.0.0.1:1: no answer to list rayjobs.ray.io (NewConnectionError"),
        (None, (), "kubeconfig FILE: no such file."),
        (None, ("no KUBECONFIG",), "there is no ~/.kube/config, and this is not a pod."),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named_with_its_mistake(
    content, options, message, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "config"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", "" if options == ("no KUBECONFIG",) else str(file))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SystemExit) as done:
        main(["runs", "--to", "kuberay", *(options if "--context" in options else ())])
    error = capsys.readouterr().err
    assert done.value.code == 2 and message.replace("FILE", str(file)) in error


# --- small parts


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_of_a_log_come_once_however_its_bytes_arrive(size):
    text = "one\ntwo ä\r\n\nthree".encode()
    lines, found = LogLines(), []
    for end in (5, 9, 9, len(text)):  # four connections, each from the first byte
        lines.connected()
        for start in range(0, end, size):
            found += lines.add(text[start : min(end, start + size)])
    assert found + lines.end() == ["one", "two ä", "", "three"]


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("1.5h", 5400), ("2d", 172_800), ("10s", 10)])
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "m", "-1h", "0m", "infh", "nanh", "1 week"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ConfigError, match="not a duration"):
        seconds_of(text)


def test_a_config_is_read_from_a_variable(monkeypatch):
    monkeypatch.setenv("A_CONFIG", '{"kind": "curate", "name": "x", "inputs": [{"path": "d"}], "output": "o"}')
    assert load("env:A_CONFIG", ["name=y"]).name == "y"
    monkeypatch.setenv("A_CONFIG", '{"kind": "curate", "nam": "x"}')
    with pytest.raises(ConfigError, match=r"env:A_CONFIG, nam: no such setting"):
        load("env:A_CONFIG")
    monkeypatch.delenv("A_CONFIG")
    with pytest.raises(ConfigError, match=r"env:A_CONFIG: the environment has no variable A_CONFIG"):
        load("env:A_CONFIG")
