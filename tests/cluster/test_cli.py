"""The front door: what it loads, what it answers, and with which exit code it leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from raymill import cluster
from raymill.cluster import cli
from raymill.cluster.cli import shell_command
from raymill.cluster.engine import _RunUnit
from raymill.cluster.entry import Entry, abandoned_calls_run, within
from raymill.cluster.errors import ClusterError, ConfigError, DataError, RaymillError, StageError, StorageError
from raymill.cluster.frame.kind import Verb
from raymill.cluster.frame.kinds import names
from raymill.cluster.run import RunFolder
from raymill.cluster.store.store import Store
from tests.support.processes import wait_until
from tests.support.stages import counting_stage, run_inline

ROOT = Path(__file__).parents[2]
HEAVY = ("ray", "numba", "numpy", "pyarrow", "pydantic", "typer", "obstore", "boto3", "torch", "fasttext")


def raymill(*words: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "raymill.cluster.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, **options)


@pytest.fixture
def run(run_cli):
    return run_cli


@pytest.fixture
def verb(monkeypatch):
    """Make `raymill try` call a function."""

    def become(function) -> None:
        monkeypatch.setattr(cli, "_function", lambda name, declared: function)
        monkeypatch.setitem(cli.VERBS, "try", Verb(Entry(""), "for a test"))

    return become


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"], [], ["--version"]])
def test_help_loads_nothing_heavy(words):
    code = f"""
import sys
from raymill.cluster import cli
try: cli.main({words!r})
except SystemExit as left: assert left.code == 0
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_sigterm_is_an_interrupt_from_the_first_moment_on():
    code = """
import signal
import sys
from raymill.cluster import cli
cli.VERBS["try"] = cli.VERBS["gc"]
cli._function = lambda name, declared: lambda: signal.raise_signal(signal.SIGTERM)
sys.argv = ["raymill", "try"]
cli.command()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    wanted = "Interrupted. Finished units are kept: run the same command again to continue."
    assert (done.returncode, done.stderr.strip()) == (130, wanted)


def test_help_lists_every_verb_with_what_it_does(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for name, verb in cli.verbs().items():
        assert any(line.split()[:1] == [name] and verb.text in line for line in out.splitlines())


@pytest.mark.parametrize("name", cli.verbs())
def test_every_verb_explains_itself(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0 and f"raymill {name}" in out and "--help" in out


def test_the_version_is_printed(run):
    assert run("--version") == (0, f"raymill {cluster.__version__}\n", "")


@pytest.mark.parametrize(
    ("wrong", "hint"), [("curat", " Did you mean curate?"), ("whatif", " Did you mean what-if?"), ("zzz", "")]
)
def test_an_unknown_verb_names_the_nearest(run, wrong, hint):
    code, out, err = run(wrong)
    assert (code, out) == (2, "")
    assert err.startswith(f"raymill {wrong}: no such verb.{hint} The verbs are: curate, ")


@pytest.mark.parametrize(
    "words",
    [
        ["curate"],
        ["curate", "c.yaml", "--nonsense"],
        ["sample", "x", "-n", "many"],
        ["config", "sing"],
        ["config", "check"],
    ],
)
def test_wrong_usage_is_reported_without_a_traceback(run, words):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "Error" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError, 2), (StorageError, 2), (DataError, 2), (ClusterError, 1), (StageError, 1), (RaymillError, 1)],
)
def test_an_error_is_its_message_and_its_code(run, verb, error, code):
    def fail() -> None:
        raise error("where: what. Do this.")

    verb(fail)
    assert run("try") == (code, "", "where: what. Do this.\n")


def test_a_mistake_of_ours_says_so_and_where_to_look(run, verb):
    def fail() -> None:
        raise KeyError("x")

    verb(fail)
    code, _, err = run("try")
    assert code == 1
    assert "raymill try: unexpected error: KeyError: 'x'" in err and "--debug" in err
    assert "Traceback" not in err


def panic(*_) -> None:
    """What a library written in Rust raises on a bug of its own: no Exception, only a BaseException."""
    import obstore
    from obstore.store import S3Store

    obstore.get(S3Store("b", endpoint="none", region="x", access_key_id="k", secret_access_key="s"), "x")


def test_a_panic_below_is_one_line_with_exit_code_1_and_a_failed_unit(run, verb, tmp_path, monkeypatch):
    monkeypatch.setenv("RUST_BACKTRACE", "1")
    verb(lambda: panic())
    code, _, err = run("try")
    assert code == 1 and "raymill try: unexpected error: PanicException: request valid" in err
    assert len(err.splitlines()) == 2 and os.environ["RUST_BACKTRACE"] == "0"
    answer = _RunUnit(counting_stage(1, panic), str(tmp_path)).answer(0, 1)
    assert answer["kind"] == "PanicException" and answer["final"] is None and "request valid" in answer["error"]


@pytest.mark.parametrize("error", [ConfigError("message"), KeyError("message")])
def test_debug_shows_the_traceback(run, verb, error):
    def fail() -> None:
        raise error

    verb(fail)
    for words in (["--debug", "try"], ["try", "--debug"]):
        _, _, err = run(*words)
        assert "Traceback" in err and "in fail" in err and "message" in err


def test_an_interrupt_leaves_with_130_and_says_how_to_go_on(run, verb):
    def interrupted() -> None:
        raise KeyboardInterrupt

    verb(interrupted)
    code, _, err = run("try")
    assert code == 130 and "Finished units are kept: run the same command again to continue" in err


def test_an_exit_code_of_a_verb_is_kept(run, verb):
    def leave() -> None:
        raise typer.Exit(3)

    verb(leave)
    assert run("try")[0] == 3


def test_a_reader_that_leaves_early_is_no_error():
    command = [sys.executable, "-m", "raymill.cluster.cli", "config", "schema"]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    writer.stdout.close()
    assert (writer.wait(60), writer.stderr.read()) == (0, b"")
    writer.stderr.close()


# --- inspect, config


def test_inspect_shows_an_artifact(run, tmp_path):
    made = run_inline(counting_stage(4), str(tmp_path))["numbers"]
    code, out, _ = run("inspect", made.uri, "-n", "2")
    assert code == 0
    assert f"digest    {made.manifest.digest}" in out
    assert "holds     6 rows" in out and "  number                       int64" in out
    assert "  documents                    6" in out
    assert out.endswith('rows\n  {"unit": 1, "number": 0}\n  {"unit": 2, "number": 0}\n')


def test_inspect_of_a_folder_lists_the_artifacts_in_it(run, tmp_path):
    made = run_inline(counting_stage(4), str(tmp_path / "packed"))["numbers"]
    (tmp_path / "packed" / "export").mkdir()
    (tmp_path / "packed" / "export" / "manifest.json").write_text("{}")
    code, out, _ = run("inspect", str(tmp_path / "packed"))
    assert code == 0 and out.startswith("folder    2 finished artifacts, ")
    assert re.search(rf"\n  numbers +6 rows .* {made.manifest.digest}\n", out)


def test_inspect_of_a_place_without_a_manifest_says_what_is_missing(run, tmp_path):
    (tmp_path / "notes.txt").touch()
    code, _, err = run("inspect", str(tmp_path))
    assert code == 2 and f"{tmp_path}: no manifest.json and no _manifest.json here" in err
    (tmp_path / "manifest.json").write_text("{")
    code, _, err = run("inspect", str(tmp_path))
    assert code == 2 and "not JSON" in err


def test_inspect_of_a_run_shows_its_counts_and_also_parts_that_are_no_artifacts(run, tmp_path):
    made = run_inline(counting_stage(4), str(tmp_path))["numbers"]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"12345")
    parts = {"numbers": made.manifest.digest, "model": "abc", "lost": "def"}
    told = {"method": "full", "long name": "x"}
    RunFolder(Store(), str(tmp_path)).put("train", "tiny", {}, "", parts, finished="today", told=told)
    code, out, _ = run("inspect", str(tmp_path))
    assert code == 0 and "\nmethod    full\nlong name x\n" in out
    assert re.search(rf"\n  numbers +6 rows .* {made.manifest.digest}\n", out)
    assert re.search(r"\n  model +1 files +5 B +abc\n", out) and re.search(r"\n  lost +0 files +0 B +def\n", out)


@pytest.mark.parametrize("deep", ["part", "part/of", "part/of/it"])
def test_inspect_looks_two_folders_up_for_the_run_that_a_place_is_part_of(run, tmp_path, deep):
    RunFolder(Store(), str(tmp_path / "made")).put("train", "tiny", {}, "", {}, finished="today")
    (tmp_path / "made" / deep).mkdir(parents=True)
    (tmp_path / "made" / deep / "weights").touch()
    for manifest in (None, "[]", '{"course": 1}'):
        if manifest:
            (tmp_path / "made" / deep / "manifest.json").write_text(manifest)
        code, _, err = run("inspect", str(tmp_path / "made" / deep))
        part = f"part of the finished run at {tmp_path / 'made'}. Run `raymill inspect {tmp_path / 'made'}`.\n"
        assert code == 2 and (part in err) == (deep != "part/of/it")
        assert ("run the command that makes it again" in err) == (deep == "part/of/it")


def test_config_settings_prints_every_setting_of_a_kind_and_refuses_other_kinds(run):
    code, out, _ = run("config", "settings", "compare")
    assert code == 0 and "gate.least_gain: number, at least 0 or null; default null\n    Gain that the whole" in out
    assert "\non: text; required\n" in out and max(map(len, out.splitlines())) < 300
    code, _, err = run("config", "settings", "compair")
    assert code == 2 and err.startswith("compair: no such kind. The kinds are: curate, prepare, train")


def test_config_schema_prints_json_and_check_prints_the_settings_without_secrets(run, tmp_path):
    code, out, _ = run("config", "schema")
    schema = json.loads(out)
    assert code == 0 and set(schema["discriminator"]["mapping"]) == {*names()}
    assert "dedup" in schema["$defs"]["CurateConfig"]["properties"]
    assert "lora" in schema["$defs"]["TrainConfig"]["properties"]
    file = tmp_path / "c.yaml"
    file.write_text("kind: curate\nname: x\ninputs: [{path: a}]\noutput: o\n")
    secrets = ["-o", "storage.access_key_id=AKIA1", "-o", "storage.secret_access_key=hunter2"]
    code, out, err = run("config", "check", str(file), "-o", "dedup.threshold=0.7", *secrets)
    assert code == 0, err
    assert json.loads(out)["dedup"]["threshold"] == 0.7
    assert "hunter2" not in out + err and "AKIA1" not in out + err


def test_verbose_logs_units_and_is_taken_by_every_verb(run, verb):
    import logging

    verb(lambda: logging.getLogger("raymill.cluster.engine").info("committed"))
    logging.getLogger("raymill").handlers.clear()
    assert "committed" not in run("try")[2]
    logging.getLogger("raymill").handlers.clear()
    assert "info raymill.cluster.engine: committed" in run("try", "--verbose")[2]
    logging.getLogger("raymill").handlers.clear()


# --- what a person would type


@pytest.mark.parametrize("on_path", [True, False])
def test_commands_begin_as_this_program_was_called_where_its_name_alone_would_not_do(tmp_path, monkeypatch, on_path):
    program = tmp_path / "an env" / "bin" / "raymill"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(program.parent) if on_path else str(tmp_path))
    monkeypatch.setattr("sys.argv", ["an env/bin/raymill", "demo"])
    assert shell_command("inspect", "a b") == ("raymill" if on_path else "'an env/bin/raymill'") + " inspect 'a b'"
    monkeypatch.setattr("sys.argv", ["pytest"])
    assert shell_command("inspect") == "raymill inspect"


@pytest.mark.parametrize(("answer", "code"), [(None, 0), (0, 0), (3, 3), ("text", 0)])
def test_a_number_that_a_verb_returns_is_its_exit_code(run, verb, answer, code):
    verb(lambda: answer)
    assert run("try") == (code, "", "")


def test_the_short_options_are_those_of_their_long_ones(run):
    assert run("-V") == run("--version") and run("-h") == run("--help") == run("help") == run()


@pytest.mark.parametrize("debug", [False, True])
def test_the_stack_of_a_panic_is_printed_with_debug_alone(run, verb, monkeypatch, debug):
    monkeypatch.setenv("RUST_BACKTRACE", "full")
    verb(lambda: None)
    run("try", *["--debug"] * debug)
    assert os.environ["RUST_BACKTRACE"] == ("full" if debug else "0")


@pytest.fixture
def sigterm() -> Iterator[None]:
    """Restore the handler of SIGTERM: the handler of a command would interrupt whatever test runs next."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.signal(signal.SIGTERM, before) is not before, "a command has its own"


@pytest.mark.usefixtures("sigterm")
@pytest.mark.parametrize(("code", "at_once"), [(130, True), (0, False), (1, False), (2, False), (None, False)])
def test_only_an_interrupt_ends_the_process_without_waiting_for_threads(monkeypatch, code, at_once):
    ended: list[int] = []
    monkeypatch.setattr("raymill.cluster.entry._abandoned", [])  # by other tests of this process
    monkeypatch.setattr(cli, "main", lambda: sys.exit(code))
    monkeypatch.setattr(cli.os, "_exit", ended.append)
    with pytest.raises(SystemExit) as left:
        cli.command()
    assert left.value.code == code and ended == ([130] if at_once else [])


@pytest.mark.usefixtures("sigterm")
def test_a_call_that_took_too_long_neither_delays_nor_aborts_the_end_of_the_process(monkeypatch):
    ended, lasting, done = list[int](), threading.Event(), list[int]()
    monkeypatch.setattr("raymill.cluster.entry._abandoned", [])  # by other tests of this process
    monkeypatch.setattr(cli, "main", lambda: sys.exit(3))
    monkeypatch.setattr(cli.os, "_exit", ended.append)
    monkeypatch.setattr(cli.atexit, "_run_exitfuncs", lambda: done.append(1))
    with pytest.raises(TimeoutError):
        within(0.05, lasting.wait)
    with pytest.raises(SystemExit):
        cli.command()
    assert ended == [3] and done == [1]
    lasting.set()
    wait_until(lambda: not abandoned_calls_run(), 5)
    with pytest.raises(SystemExit):
        cli.command()
    assert ended == [3]


def test_the_program_is_its_name_where_no_file_of_that_name_was_called(monkeypatch, tmp_path):
    (tmp_path / "other").touch()
    (tmp_path / "raymill").mkdir()
    for called in ("raymill", str(tmp_path / "other"), str(tmp_path / "raymill"), str(tmp_path / "none" / "raymill")):
        monkeypatch.setattr("sys.argv", [called])
        assert shell_command("train", "a", "b c") == "raymill train a 'b c'"
