"""The process of a server of vLLM: started, watched, started again, and ended with its worker.

vLLM takes a GPU and is not installed here: a program of its name stands in, with the same command and interface.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from raymill.cluster.asking.answers import AnswerRange, Answers
from raymill.cluster.asking.backends import Backends
from raymill.cluster.asking.requests import request_of
from raymill.cluster.asking.settings import ModelSettings, Sampling
from raymill.cluster.asking.vllm_server import VllmServer
from raymill.cluster.errors import ClusterError, ConfigError
from raymill.cluster.store.store import Store
from raymill.cluster.temporary import abandoned
from raymill.pipelines.compare.config import CompareConfig
from raymill.pipelines.compare.job import CompareJob
from raymill.pipelines.generate.config import GenerateConfig
from raymill.pipelines.generate.job import GenerateJob
from raymill.training.evaluation.answering import link_model
from raymill.training.pack.template import CHATML
from tests.support.model_folders import folder
from tests.support.processes import wait_until
from tests.support.tiny_tokenizers import saved, tiny
from tests.support.vllm_stand_in import install_vllm

STAND_IN = f"""#!{sys.executable}
import os, sys, threading
from raymill.cluster.asking.faulty_server import FaultyServer
words = sys.argv[1:]
if os.path.exists(f"{{words[1]}}/broken"):
    print("loading"), print("CUDA out of memory"), sys.exit(3)
open(os.environ["SEEN"], "a").write(f"{{os.getpid()}} {{' '.join(words)}}\\n")
with FaultyServer(port=int(words[words.index("--port") + 1])):
    threading.Event().wait()
"""


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """(process id, words) of each start of the stand-in."""
    file = install_vllm(tmp_path, monkeypatch, STAND_IN)

    def starts():
        lines = file.read_text().splitlines()
        return [(int(pid), words) for pid, _, words in (line.partition(" ") for line in lines)]

    return starts


def empty(folder):
    """A model without files, which the stand-in does not read."""


def ended(pid):
    try:
        return open(f"/proc/{pid}/stat").read().split()[2] == "Z"
    except FileNotFoundError:
        return True


BODY = request_of({}, {"model": "m", "messages": [{"role": "user", "content": "Is it on?"}], "max_tokens": 5}).body


def send(server):
    async def one():
        async with server.opened(5.0, 1 << 20) as endpoint:
            return await endpoint.send(BODY)

    return asyncio.run(one())


def test_it_is_started_asked_and_started_again(seen, tmp_path):
    server = VllmServer(empty, "name-of-it", 2)
    assert send(server).outcome == "answered"
    ((pid, words),) = seen()
    assert re.match(r"serve \S+/raymill-vllm-\S+/model --host 127\.0\.0\.1 --served-model-name name-of-it ", words)
    assert "--tensor-parallel-size 2" in words

    async def die_between():
        async with server.opened(5.0, 1 << 20) as endpoint:
            os.kill(pid, 9)
            assert wait_until(lambda: server.ended, 10)
            await endpoint.send(BODY)

    with pytest.raises(ClusterError, match="vLLM ended"):
        asyncio.run(die_between())
    assert send(server).outcome == "answered", "the next unit has a new server"
    assert len(seen()) == 2
    server._process.stdin.close()
    assert wait_until(lambda: ended(seen()[1][0]), 10)


@pytest.mark.parametrize("as_ray_does", [False, True])
def test_it_ends_with_its_worker(seen, tmp_path, as_ray_does):
    code = """
import time
from raymill.cluster.asking.vllm_server import VllmServer
server = VllmServer(lambda folder: None, "m", 1)
print("ready", flush=True)
time.sleep(600)
"""
    (scratch := tmp_path / "scratch").mkdir()
    environment = os.environ | {"TMPDIR": str(scratch)}
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert worker.stdout.readline() == "ready\n"
    ((pid, words),) = seen()
    assert not ended(pid) and "tensor" not in words
    for child in psutil.Process(worker.pid).children() if as_ray_does else ():
        child.kill()
    worker.kill()
    worker.wait()
    assert wait_until(lambda: ended(pid), 10)
    assert len(abandoned("vllm", str(scratch))) == 1, "the next process removes its folder"


def test_a_server_that_does_not_start_is_an_error_with_its_last_lines(seen, tmp_path):
    with pytest.raises(ClusterError, match=r"before it was ready: .*CUDA out of memory"):
        VllmServer(lambda folder: (folder / "broken").touch(), "m", 1)


def test_without_vllm_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="pip install vllm"):
        VllmServer(empty, "m", 1)
    model = {"path": "m", "engine": "vllm"}
    named = {"name": "x", "output": "o"}
    generation = {"inputs": [{"path": "in"}], "make": {"template": "qa"}, "model": model}
    for job in (
        GenerateJob(GenerateConfig.model_validate({"kind": "generate"} | named | generation)),
        CompareJob(CompareConfig.model_validate({"kind": "compare", "on": "d", "models": [model, "n"]} | named)),
    ):
        job.require_extras(computes=False)
        with pytest.raises(ConfigError, match=r"engine: vllm is not installed on this machine"):
            job.require_extras()


def test_generate_reserves_gpus_and_asks_the_server(seen, tmp_path, monkeypatch):
    folder = model_of_others(tmp_path)
    model = ModelSettings(path=str(folder), engine="vllm", name="m")
    backends = Backends(model, Sampling(), None, Answers(Store(), str(tmp_path / "answers"), "r"), "throttle")
    assert backends.gpus == 1 and ModelSettings(path="x").worker_gpus == 0
    made = request_of({}, json.loads(BODY))
    found = backends.ask(backends.setup(), {made.key: made}, AnswerRange("", ""), 5, 0.0)
    assert found[made.key].reply.outcome == "answered" and len(seen()) == 1


def model_of_others(tmp_path):
    """A model folder with pickled weights, code, and a tokenizer whose settings name a file of the user."""
    place = Path(folder(tmp_path / "model"))
    saved(place, tiny(CHATML))
    (place / "pytorch_model.bin").write_bytes(b"pickle")
    (place / "modeling_llama.py").write_text("raise SystemExit")
    path = place / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab": "/etc/passwd"}))
    return place


def test_the_server_reads_data_of_the_model_alone(tmp_path):
    place, linked = model_of_others(tmp_path), tmp_path / "linked"
    linked.mkdir()
    link_model(Store(), str(place), linked)
    names = {path.relative_to(linked).as_posix() for path in linked.rglob("*") if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert not [name for name in names if name.endswith((".bin", ".py"))]
    assert "vocab" not in json.loads((linked / "tokenizer_config.json").read_text())
    assert (linked / "model.safetensors").read_bytes() == (place / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "config", [{"attn_implementation": "someone/kernel"}, {"num_hidden_layers": 10**9}], ids=["code", "layers"]
)
def test_a_model_that_names_code_or_has_numbers_beyond_all_models_is_not_served(seen, tmp_path, config):
    link = partial(link_model, Store(), str(model_of_others(tmp_path)))
    path = tmp_path / "model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(ConfigError, match=f"config\\.json: {next(iter(config))}"):
        VllmServer(link, "m", 1)
    assert not (tmp_path / "seen").exists()
