"""Starting Ray: the line that a person sees, and the message where it fails. Nothing here starts a Ray."""

import io
import sys
from types import SimpleNamespace

import pytest

from cluster import cli
from cluster.errors import ClusterError, ConfigError
from cluster.progress import Lines
from cluster.session import ONE_THREAD, Session


class NothingStarted(Session):
    def _start_embedded(self) -> None: ...
    def _join(self) -> None: ...
    def _prepare_data(self) -> None: ...


@pytest.mark.parametrize(("address", "line"), [(None, "starting Ray: 0.0 s\n"), ("head:6379", "joining Ray: 0.0 s\n")])
def test_a_session_that_starts_is_a_line_with_its_seconds_once(address, line, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    shown = io.StringIO()
    session = NothingStarted(address, progress=Lines(shown))
    session.start()
    session.start()
    assert shown.getvalue() == line


@pytest.mark.parametrize(
    ("verb", "job"),
    [
        ("curate", "pipelines.curate.job.curate"),
        ("pack", "training.pack.command.run_pack"),
        ("train", "training.commands.run_train"),
    ],
)
def test_every_verb_that_needs_ray_says_that_it_starts(verb, job, tmp_path, monkeypatch, capsys):
    configs = {
        "curate": f"kind: curate\nname: x\ninputs: [{{path: {tmp_path}/texts}}]\noutput: {tmp_path}/run\n",
        "train": f"kind: train\nname: x\ncorpus: {tmp_path}/texts\n"
        "model: {config: {model_type: llama, vocab_size: 300}, tokenizer: train}\n"
        f"steps: 1\ntokens_per_step: 64\nsequence_length: 64\noutput: {tmp_path}/run\n",
    }
    (tmp_path / "texts").mkdir()
    (tmp_path / "c.yaml").write_text(configs["curate" if verb == "curate" else "train"])
    for name in ("_start_embedded", "_prepare_data"):
        monkeypatch.setattr(Session, name, lambda self: None)

    def run(config, session, *_, **__):
        session.start()
        session.started = False  # there is no Ray to shut down
        raise ConfigError("enough.")

    monkeypatch.setattr(job, run)
    monkeypatch.setattr("training.pack.command.check_model", lambda config: [])
    with pytest.raises(SystemExit):
        cli.main([verb, str(tmp_path / "c.yaml")])
    assert "starting Ray: " in capsys.readouterr().err


@pytest.mark.parametrize("inside", [None, "RAY_JOB_ID", "RAY_ADDRESS"])
def test_the_source_is_shipped_to_a_cluster_except_from_inside_a_job(monkeypatch, inside):
    joined: list[dict] = []
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda **arguments: joined.append(arguments)))
    monkeypatch.setattr("cluster.session._knock", lambda address: None)
    for name in ("RAY_JOB_ID", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    if inside:
        monkeypatch.setenv(inside, "head:6379")
    Session("head:6379")._join()
    (arguments,) = joined
    shipped = [path.rpartition("/")[2] for path in arguments["runtime_env"].get("py_modules", [])]
    assert shipped == ([] if inside else ["cluster", "pipelines", "training"])
    assert arguments["address"] == "head:6379" and arguments["runtime_env"]["env_vars"] == ONE_THREAD


def test_a_ray_that_does_not_start_is_answered_with_the_likely_causes_and_what_to_do(monkeypatch, tmp_path):
    def init(**_):
        raise RuntimeError("The current node timed out during startup.\nMore of it.")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(ClusterError) as caught:
        Session().start()
    told = str(caught.value)
    assert told.startswith("Ray did not start on this machine: The current node timed out during startup.")
    assert "busy machine" in told and "run the same command again" in told and "--address" in told
