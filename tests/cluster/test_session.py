"""Sessions, without a Ray started: which Ray is used, its folder, its line of progress, and messages of failures."""

import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray as _loaded_before_tests_put_another_in_its_place  # noqa: F401

from raymill.cluster import cli, temporary
from raymill.cluster import session as sessions
from raymill.cluster.errors import ClusterError, ConfigError
from raymill.cluster.progress import ProgressLines
from raymill.cluster.session import WORKER_ENVIRONMENT, GuestSession, Session
from tests.support.servers import free_port


class NothingStarted(Session):
    def _start_embedded(self) -> None: ...
    def _join(self) -> None: ...
    def _quieten(self) -> None: ...


@pytest.mark.parametrize(("address", "line"), [(None, "starting Ray: 0.0 s\n"), ("head:6379", "joining Ray: 0.0 s\n")])
def test_a_session_that_starts_is_a_line_with_its_seconds_once(address, line, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    shown = io.StringIO()
    session = NothingStarted(address, progress=ProgressLines(shown))
    session.start()
    session.start()
    assert shown.getvalue() == line


@pytest.mark.parametrize(
    ("of_host", "given", "is_shared"),
    [
        (None, None, True),
        (None, "local", True),  # as the demos ask for it
        (None, "head:6379", False),
        ("head:6379", None, True),
        ("head:6379", "head:6379", True),
        ("head:6379", "local", False),
    ],
)
def test_a_call_within_a_session_shares_its_ray_or_is_refused(of_host, given, is_shared, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(GuestSession, "_host", GuestSession(of_host, cpus=2))
    if is_shared:
        guest = GuestSession(given)
        assert (guest.address, guest.cpus) == (of_host, 2)
    else:
        with pytest.raises(ConfigError, match=f"address: {given} given; this process uses {of_host or 'a Ray of its'}"):
            GuestSession(given)


@pytest.mark.parametrize(
    ("verb", "job"),
    [
        ("curate", "raymill.pipelines.curate.job.CurateJob.run"),
        ("pack", "raymill.training.commands.run_pack"),
        ("train", "raymill.training.job.TrainJob.run"),
    ],
)
def test_every_verb_that_needs_ray_says_that_it_starts_with_the_cpus_of_the_config(
    verb, job, tmp_path, monkeypatch, capsys
):
    configs = {
        "curate": f"kind: curate\nname: x\ninputs: [{{path: {tmp_path}/texts}}]\n",
        "train": f"kind: train\nname: x\ncorpus: {tmp_path}/texts\n"
        "model: {config: {model_type: llama, vocab_size: 300}, tokenizer: train}\n"
        f"steps: 1\ntokens_per_step: 64\nsequence_length: 64\n",
    }
    (tmp_path / "texts").mkdir()
    config = configs["curate" if verb == "curate" else "train"]
    (tmp_path / "c.yaml").write_text(config + f"output: {tmp_path}/run\nexecution: {{cpus: 3}}\n")
    for name in ("_start_embedded", "_quieten"):
        monkeypatch.setattr(Session, name, lambda self: None)

    def run(config, session, *_, **__):
        assert session.cpus == 3
        session.start()
        session.started = False  # there is no Ray to shut down
        raise ConfigError("enough.")

    monkeypatch.setattr(job, run)
    monkeypatch.setattr("raymill.training.commands.check_model", lambda config: [])
    with pytest.raises(SystemExit):
        cli.main([verb, str(tmp_path / "c.yaml")])
    assert "starting Ray: " in capsys.readouterr().err


@pytest.mark.parametrize("inside", [None, "RAY_JOB_ID", "RAY_ADDRESS"])
def test_the_source_is_shipped_to_a_cluster_except_from_inside_a_job(monkeypatch, inside):
    joined: list[dict] = []
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda **arguments: joined.append(arguments)))
    monkeypatch.setattr("raymill.cluster.session._require_listener", lambda address: None)
    for name in ("RAY_JOB_ID", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    if inside:
        monkeypatch.setenv(inside, "head:6379")
    Session("head:6379")._join()
    (arguments,) = joined
    shipped = [path.rpartition("/")[2] for path in arguments["runtime_env"].get("py_modules", [])]
    assert shipped == ([] if inside else ["raymill"])
    assert arguments["address"] == "head:6379" and arguments["runtime_env"]["env_vars"] == WORKER_ENVIRONMENT


def test_a_ray_that_does_not_start_is_answered_with_the_likely_causes_and_what_to_do(monkeypatch, tmp_path):
    def init(**_):
        raise RuntimeError("The current node timed out during startup.\nMore of it.")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(ClusterError) as caught:
        Session().start()
    told = str(caught.value)
    assert told.startswith("Ray did not start on this machine: The current node timed out during startup.")
    assert "busy machine" in told and "make the same call again" in told and "give `address`" in told


@pytest.mark.parametrize(("cpus", "machine", "found"), [(3, 8, 3.0), (None, 8, 8.0), (None, None, 1.0)])
def test_the_processors_are_those_that_are_given_else_all(monkeypatch, cpus, machine, found):
    monkeypatch.setattr(sessions.os, "cpu_count", lambda: machine)
    assert Session(cpus=cpus).own_resources(gpus=False) == {"CPU": found, "GPU": 0.0}


@pytest.mark.parametrize(
    ("visible", "found"), [(None, 4.0), ([], 0.0), (["2"], 1.0), (["0", "1", "2", "3"], 4.0), (list("012345"), 4.0)]
)
def test_the_gpus_are_those_of_the_machine_that_this_process_may_see(monkeypatch, visible, found):
    manager = SimpleNamespace(
        get_current_process_visible_accelerator_ids=lambda: visible, get_current_node_num_accelerators=lambda: 4
    )
    monkeypatch.setattr(sessions, "private", {"get_accelerator_manager_for_resource": {"GPU": manager}.get}.get)
    assert Session(cpus=2).own_resources(gpus=True) == {"CPU": 2.0, "GPU": found}


def test_a_late_call_starts_no_other_ray(tmp_path):
    code = (
        "from raymill.cluster.session import Session\n"
        "Session._start_embedded = Session._quieten = lambda self: None\n"
        "Session().start()\n"
        "import ray\n"
        "ray.put(1)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.returncode == 1 and "Ray has not been started yet" in found.stderr, found.stderr


OOM_RETRIES = "RAY_task_oom_retries"  # as Ray writes it


@pytest.fixture
def fake_ray(monkeypatch, tmp_path):
    """A Ray that notes its calls; its node has the dead processes of `dead`."""
    for name in [*WORKER_ENVIRONMENT, "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", OOM_RETRIES, "RAY_USAGE_STATS_ENABLED",
                 "RAY_ADDRESS", "RAY_JOB_ID", sessions._CLUSTERS, "RAY_ENABLE_AUTO_CONNECT"]:  # fmt: skip
        monkeypatch.setenv(name, "x")  # restored at the end, whatever the session sets
        monkeypatch.delenv(name)
    calls: list[tuple] = []
    ray = SimpleNamespace(
        calls=calls,
        dead=[],
        init=lambda **given: calls.append(("init", given)),
        shutdown=lambda: calls.append(("shutdown",)),
        node=SimpleNamespace(dead_processes=lambda: ray.dead),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(sessions, "private", lambda name: {"_global_node": ray.node}[name])
    monkeypatch.setattr(sessions, "replace_private", lambda name, value: None)
    monkeypatch.setattr(sessions, "_forget_token", lambda: None)
    monkeypatch.setattr(Session, "_quieten", lambda self: None)
    monkeypatch.setattr(sessions, "_short_folder", lambda: str(tmp_path))
    monkeypatch.setattr(sessions, "_kill_holders", lambda folder: calls.append(("kill", folder)))
    monkeypatch.setattr(signal, "signal", lambda number, handler: calls.append(("signal", number, handler)))
    return ray


def test_an_embedded_ray_is_started_once_with_the_processors_and_ends_with_its_folder(fake_ray, tmp_path):
    os.environ["OMP_NUM_THREADS"] = "7"
    session = Session(cpus=3)
    with session:
        assert not session.started and not session.dead()
        session.start()
        session.start()
        (folder,) = tmp_path.glob("raymill-r-*")
        (_, given), (_, number, handler) = fake_ray.calls
        assert (given["address"], given["num_cpus"], given["include_dashboard"]) == ("local", 3, False)
        assert (given["_temp_dir"], given["log_to_driver"]) == (str(folder / "r"), False)
        assert number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            handler(number, None)
        assert {name: os.environ[name] for name in WORKER_ENVIRONMENT} == WORKER_ENVIRONMENT | {"OMP_NUM_THREADS": "7"}
        assert os.environ[OOM_RETRIES] == "1"
        assert session.started and not session.dead()
        fake_ray.calls.clear()
    assert fake_ray.calls == [("shutdown",), ("kill", folder)] and not folder.exists() and not session.started
    session.stop()
    assert len(fake_ray.calls) == 2


def test_of_a_ray_whose_process_died_the_rest_is_killed_before_its_shutdown(fake_ray, tmp_path):
    session = Session()
    session.start()
    (folder,) = tmp_path.glob("raymill-r-*")
    fake_ray.dead.append("raylet")
    assert session.dead()
    fake_ray.calls.clear()
    session.stop()
    assert fake_ray.calls == [("kill", folder), ("shutdown",), ("kill", folder)] and not session.dead()


def test_a_ray_without_a_node_is_dead_and_one_that_was_joined_never(fake_ray, monkeypatch):
    fake_ray.node = None
    monkeypatch.setattr(sessions, "_require_listener", lambda address: None)
    session, joined = Session(), Session("head:1")
    for one in (session, joined):
        assert not one.dead()
        one.start()
    assert session.dead() and not joined.dead()
    session.stop()


@pytest.mark.parametrize(
    ("address", "error", "calls"),
    [
        (None, KeyboardInterrupt, ["kill"]),
        (None, ValueError, ["shutdown", "kill"]),
        ("head:1", KeyboardInterrupt, ["shutdown"]),
    ],
)
def test_an_interrupt_kills_an_embedded_ray_and_everything_else_ends_in_good_order(
    fake_ray, monkeypatch, tmp_path, address, error, calls
):
    monkeypatch.setattr(sessions, "_require_listener", lambda address: None)
    with pytest.raises(error), Session(address) as session:
        session.start()
        fake_ray.calls.clear()
        raise error
    assert [call[0] for call in fake_ray.calls] == calls and not session.started
    assert list(tmp_path.glob("raymill-r-*")) == []


def test_a_cluster_is_checked_at_once_where_its_address_has_a_port(monkeypatch):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            sessions._require_listener(address)
            listening.accept()[0].close()
    with pytest.raises(OSError, match="refused"):
        sessions._require_listener(f"127.0.0.1:{port}")
    knocked: list[tuple] = []
    connection = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(
        sessions.socket, "create_connection", lambda place, timeout: knocked.append(place) or connection
    )
    for address in ("[::1]:6379", "auto", "host", ":6379", "host:port", "ray://h:1"):
        sessions._require_listener(address)
    assert knocked == [("::1", 6379), ("h", 1)]


def test_rays_folder_is_below_the_temporary_one_up_to_the_longest_name_that_its_sockets_can_have(monkeypatch):
    longest = sessions._LONGEST_PARENT
    for length, own in ((longest - 1, True), (longest, True), (longest + 1, False)):
        folder = "/" + "x" * (length - 1)
        monkeypatch.setattr(sessions.tempfile, "gettempdir", lambda folder=folder: folder)
        assert sessions._short_folder() == (folder if own else "/tmp")


@pytest.mark.parametrize(
    ("message", "line"),
    [("\nfirst\nsecond", "first"), ("", "ValueError"), ("x" * 301, "x" * 300), (" \n ", "ValueError")],
)
def test_the_first_line_of_an_error_of_ray_is_not_long_and_never_empty(message, line):
    assert sessions._first_line(ValueError(message)) == line


def test_an_address_where_nothing_listens_is_refused_at_once():
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(
        ConfigError, match=rf"^address=\"{address}\": no Ray cluster of version 2\.60.*Connection refused"
    ):
        Session(address).start()


@pytest.mark.parametrize(
    ("address", "environment", "embedded"),
    [(None, "", True), ("local", "", True), (None, "ray://head", False), ("auto", "", False)],
)
def test_a_session_is_embedded_unless_an_address_is_given(monkeypatch, address, environment, embedded):
    monkeypatch.setenv("RAY_ADDRESS", environment)
    assert Session(address).embedded is embedded


def test_ray_keeps_its_files_where_its_sockets_have_short_names(monkeypatch):
    for folder, chosen in (("/scratch", "/scratch"), ("/var/folders/of/a/user", "/tmp")):
        monkeypatch.setattr(tempfile, "tempdir", folder)
        assert sessions._short_folder() == chosen
        longest = f"{chosen}/raymill-r-12ab-4194304-abcdefgh{sessions._RAY_SOCKET}"
        assert len(longest) <= 107


def test_what_the_ray_of_a_killed_driver_left_running_is_ended(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    folder = temporary.temporary_folder("ray", str(tmp_path))
    left = folder.rename(str(folder).replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    with (left / "agent.log").open("w") as held:
        agent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=held)
    assert temporary.abandoned("ray", str(tmp_path)) == [left]
    sessions._kill_holders(left)
    assert agent.wait(10) == -signal.SIGKILL
    agent.stdin.close()
