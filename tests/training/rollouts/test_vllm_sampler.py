"""Answers sampled by a server of vLLM, which is not installed here: a program of its name stands in.

It takes adapters as vLLM 0.32 does, and answers with the digit `seed % 10`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from raymill.cluster.errors import ClusterError, ConfigError
from raymill.cluster.session import Session
from raymill.training.config import TrainConfig
from raymill.training.job import TrainJob
from raymill.training.records.job import Job
from raymill.training.rollouts.sampling import answer_key
from tests.support.fit_jobs import column, fit_alone, fit_until
from tests.support.processes import wait_until
from tests.support.rollout_jobs import MODEL, pack_prompts, rollout_job, tokenizer
from tests.support.vllm_stand_in import install_vllm

STAND_IN = f"""#!{sys.executable}
import hashlib, json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

words, loaded = sys.argv[1:], {{}}

def note(**what):
    with open(os.environ["SEEN"], "a") as file:
        file.write(json.dumps(what) + "\\n")

class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def reply(self, status, said):
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply(200, {{}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != "Bearer " + os.environ["VLLM_API_KEY"]:
            return self.reply(401, {{}})
        if self.path == "/v1/load_lora_adapter":
            with open(body["lora_path"] + "/adapter_model.safetensors", "rb") as file:
                loaded[body["lora_name"]] = hashlib.sha256(file.read()).hexdigest()
            note(loaded=loaded[body["lora_name"]], path=body["lora_path"])
            return self.reply(200, "Success")
        if self.path == "/v1/unload_lora_adapter":
            note(unloaded=loaded.pop(body["lora_name"]))
            return self.reply(200, "Success")
        if os.environ.get("FAULT") == "status" or body["model"] not in loaded:
            return self.reply(500, "EngineCore encountered an issue.")
        if os.environ.get("FAULT") == "end":
            os._exit(3)
        note(asked=body)
        return self.reply(200, {{"choices": [{{"token_ids": [body["seed"] % 10]}}]}})

note(words=words, pid=os.getpid(), environment=sorted(os.environ))
ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer(("127.0.0.1", int(words[words.index("--port") + 1])), Server).serve_forever()
"""
LORA = {"method": "lora", "lora": {"rank": 2, "alpha": 4, "dropout": 0.0}}


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> str:
    root = str(tmp_path_factory.mktemp("packed"))
    pack_prompts(root)
    LlamaForCausalLM(LlamaConfig(**MODEL)).save_pretrained(f"{root}/model")
    tokenizer().save_pretrained(f"{root}/model")
    return root


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """What the stand-in noted, in order: its start, adapters, requests."""
    file = install_vllm(tmp_path, monkeypatch, STAND_IN)
    monkeypatch.setenv("MASTER_PORT", "29500")  # of the workers' group

    def notes(kind: str) -> list[dict[str, Any]]:
        lines = file.read_text().splitlines()
        return [one for one in map(json.loads, lines) if kind in one]

    return notes


def job(packed: str, output: Path, **more: Any) -> Job:
    how = {"engine": "vllm", "samples": 4, "max_new_tokens": 1, "rewards": [{"score": "exact_match"}]}
    return rollout_job(packed, output=str(output), model={"name": f"{packed}/model"}, **LORA, grpo=how, **more)


def sampled(one: Job, step: int) -> list[dict[str, Any]]:
    path = Path(one.folder.rollouts, one.folder.fingerprint, f"step-{step:08d}.parquet")
    return pq.read_table(path).to_pylist()


def test_answers_are_those_of_a_server_that_has_the_adapter_of_each_step(packed, seen, tmp_path):
    one = job(packed, tmp_path / "run", steps=2)
    fit_alone(one)
    rows = [row | {"step": step} for step in (1, 2) for row in sampled(one, step)]
    assert len(rows) == len(seen("asked")) == 2 * 16 * 4
    for row in rows:
        key = answer_key(one.config.seed, row["step"] - 1, row["document"], row["sample"])
        assert row["ids"] == [int.from_bytes(key[:7]) % 10]
    asked = [note["asked"] for note in seen("asked")]
    assert {body["temperature"] for body in asked} == {1.0} and {body["max_tokens"] for body in asked} == {1}
    assert {tuple(body["stop_token_ids"]) for body in asked} == {(11,)} and all(body["ignore_eos"] for body in asked)
    loaded = [note["loaded"] for note in seen("loaded")]
    assert len(set(loaded)) == 2, "the adapter changed in between"
    assert [note["unloaded"] for note in seen("unloaded")] == loaded
    assert len({body["model"] for body in asked}) == 2
    (start,) = seen("words")
    words = " ".join(start["words"])
    assert "--enable-lora --max-lora-rank 8 --max-model-len 8 --dtype float32 --generation-config vllm" in words
    assert "--no-enable-chunked-prefill" in words and "MASTER_PORT" not in start["environment"]
    assert wait_until(lambda: not psutil.pid_exists(start["pid"]), 10), "it ended with the training"
    assert not any(Path(note["path"]).exists() for note in seen("loaded"))


def test_a_killed_training_does_not_ask_again_for_answers_that_are_committed(packed, seen, tmp_path):
    whole = job(packed, tmp_path / "whole", steps=3)
    fit_alone(whole)
    one = job(packed, tmp_path / "run", steps=3)
    asked = len(seen("asked"))
    fit_until(one, 3, alone=True)  # the last checkpoint is of step 2
    fit_alone(one)
    assert len(seen("asked")) == 2 * asked and [sampled(one, step) for step in (1, 2, 3)] == [
        sampled(whole, step) for step in (1, 2, 3)
    ]
    assert column(one, "reward_mean") == column(whole, "reward_mean")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("status", "vLLM refused /v1/completions with status 500: .*EngineCore encountered an issue"),
        ("end", "vLLM (ended|gave no answer)"),
    ],
)
def test_a_server_that_fails_ends_the_training(packed, seen, tmp_path, monkeypatch, fault, said):
    monkeypatch.setenv("FAULT", fault)
    with pytest.raises(ClusterError, match=said):
        fit_alone(job(packed, tmp_path / "run"))
    (start,) = seen("words")
    assert wait_until(lambda: not psutil.pid_exists(start["pid"]), 10)


def test_adapters_that_a_server_does_not_take_are_refused(packed, tmp_path):
    with pytest.raises(ConfigError, match="not installed"):
        os.environ["PATH"], path = str(tmp_path), os.environ["PATH"]
        try:
            fit_alone(job(packed, tmp_path / "run"))
        finally:
            os.environ["PATH"] = path
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        TrainJob(job(packed, tmp_path / "run").config).require_extras(computes=False)
        with pytest.raises(ConfigError, match=r"grpo\.engine: vllm is not installed on this machine"):
            TrainJob(job(packed, tmp_path / "run").config).require_extras()
    plain = job(packed, tmp_path / "run").config.model_dump()
    with pytest.raises(ValueError, match=r"vllm needs an adapter .*, and method is full; set method: lora"):
        TrainConfig.model_validate(plain | {"method": "full"})
    dora = TrainConfig.model_validate(plain | {"lora": LORA["lora"] | {"dora": True}, "packed": None})
    with pytest.raises(ConfigError, match="vllm does not take the adapter: it is a DoRA adapter"):
        TrainJob(dora).check(Session(), False)


def test_a_server_leaves_less_of_a_gpu_and_records_of_other_samplers_are_as_before(packed, tmp_path, monkeypatch):
    config = job(packed, tmp_path / "run").config
    ours = config.model_copy(update={"grpo": config.grpo.model_copy(update={"engine": "transformers"})})
    assert (config.gpu_fraction, ours.gpu_fraction) == (0.6, 1)
    found = [one.fit_settings()["grpo"] for one in (config, ours)]
    assert [one.get("engine") for one in found] == ["vllm", None] and "vllm_memory" not in found[0]
