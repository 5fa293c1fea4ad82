"""The real vLLM, its build for CPUs: it and Ray Serve LLM serve an export, and its benchmark measures `raymill answer`.

`make vllm` installs both in an environment of its own; VLLM is its command, and Ray's commands are beside it.
"""

import json
import os
import shlex
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import boto3
import httpx2
import openai
import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

import raymill
from raymill.training.export.servers import SERVE_FILE, serve_application
from raymill.training.model_folder.loading import Base
from raymill.training.pack.template import CHATML
from tests.support.card_cases import config
from tests.support.processes import wait_until
from tests.support.servers import CREDENTIALS, free_port
from tests.support.tiny_tokenizers import saved, tiny
from tests.support.train_inline import train_inline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("VLLM" not in os.environ, reason="run by `make vllm`, which installs vLLM"),
]
QUESTIONS = {
    "Where is my parcel?": "It arrives tomorrow.",
    "How do I log in?": "Reset the password.",
    "Why is the invoice higher?": "The tax was raised.",
    "Can I cancel the order?": "Yes, within a day.",
    "When do you open?": "At nine each morning.",
    "Is the courier late?": "No, the parcel is at the door.",
}
NOT_TRAINED = ["Where is the invoice?", "How late is it?"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The output of a LoRA training on a base of random weights. The heads have 32 numbers: vLLM takes no fewer."""
    folder = tmp_path_factory.mktemp("real_vllm")
    (base := folder / "base").mkdir()
    tokenizer = tiny(CHATML)
    saved(base, tokenizer)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(base)
    corpus = folder / "corpus.jsonl"
    rows = [{"id": str(at), "prompt": ask, "completion": reply} for at, (ask, reply) in enumerate(QUESTIONS.items())]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "name": "helper", "corpus": {"path": str(corpus)}, "model": str(base), "output": str(folder / "run"),
        "method": "lora", "lora": {"rank": 8}, "steps": 80, "optimizer": {"learning_rate": 1e-2},
        "tokens_per_step": 256, "evaluate": {"every_steps": 80},
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        train_inline(settings, patch)
    return folder / "run"


@contextmanager
def served(words: list[str], folder: Path, port: int, ready: str, signal_to_end: int, **environment: str):
    """The address of a server that a command starts in a folder, once GET of `ready` has an answer with status 200."""
    log = folder / f"{port}.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            words, cwd=folder, env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"} | environment,
            stdout=written, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def answers() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/{ready}", timeout=5, trust_env=False).status_code == 200
        except httpx2.TransportError:
            return False

    try:
        wait_until(answers, 600)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal_to_end)
        process.wait(60)


def served_by_vllm(export: Path):
    """vLLM that runs the command of an export's card in its folder."""
    card = (export / "README.md").read_text()
    (command,) = [line for line in card.splitlines() if line.startswith("vllm serve ")]
    port = free_port()
    words = [os.environ["VLLM"], *shlex.split(command)[1:], "--host", "127.0.0.1", "--port", str(port)]
    return served([*words, "--dtype", "float32"], export, port, "health", signal.SIGTERM)


def served_by_ray(application: str, folder: Path, **environment: str):
    """Ray Serve LLM that runs an application file. What is added to it places it on the CPUs of a small machine."""
    whole = yaml.safe_load(application)
    arguments, port = whole["applications"][0]["args"], free_port()
    (one,) = arguments["llm_configs"]
    one["placement_group_config"] = {"bundles": [{"CPU": 1}]}
    one["engine_kwargs"] = one.get("engine_kwargs", {}) | {"dtype": "float32"}
    arguments["ingress_deployment_config"] = {"ray_actor_options": {"num_cpus": 0}}
    folder.mkdir()
    (folder / SERVE_FILE).write_text(yaml.safe_dump(whole | {"http_options": {"port": port}}))
    words = [str(Path(os.environ["VLLM"]).with_name("serve")), "run", SERVE_FILE]
    around = {"RAY_AUTH_MODE": "disabled", "RAY_memory_monitor_refresh_ms": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    return served(words, folder, port, "v1/models", signal.SIGINT, **around, HOME=str(folder), **environment)


def answers(url: str, model: str, key: str) -> list[str]:
    client = openai.OpenAI(base_url=url, api_key=key)
    found = []
    for question in [*QUESTIONS, *NOT_TRAINED]:
        messages = [{"role": "user", "content": question}]
        one = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=24)
        found.append(one.choices[0].message.content.strip())
    return found


def test_vllm_serves_the_adapter_with_the_greedy_answers_of_raymill_answer(run):
    with raymill.answer(str(run), port=0) as server:
        ours = answers(server.url, server.served.name, server.token or "none")
    with served_by_vllm(run / "export/adapter") as url:
        theirs = answers(url, "helper", "none")
        of_base = answers(url, str(run.parent / "base"), "none")
    assert theirs == ours
    assert of_base != ours, "the adapter changes answers"
    trained = [*QUESTIONS.values()]
    assert sum(one == reply for one, reply in zip(ours, trained, strict=False)) >= 4, ours


def test_ray_serve_llm_serves_the_application_of_the_export_with_the_greedy_answers_of_raymill_answer(run, tmp_path):
    with raymill.answer(str(run), port=0) as server:
        ours = answers(server.url, server.served.name, server.token or "none")
    with served_by_ray((run / "export" / SERVE_FILE).read_text(), tmp_path / "ray") as url:
        assert answers(url, "helper", "none") == ours


def test_ray_serve_llm_serves_an_adapter_of_an_object_store_alike(run, tmp_path, s3_server, s3_root):
    """The base ends no answer with the token that the training ends it with."""
    s3 = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **CREDENTIALS)
    for file in (run / "export/adapter").iterdir():
        s3.upload_file(str(file), s3_root.removeprefix("s3://"), f"export/adapter/{file.name}")
    described = config(name="helper", lora={"rank": 8})
    base = Base(str(run.parent / "base"))
    application = serve_application(described, ["adapter"], base, False, f"{s3_root}/export")
    with raymill.answer(str(run), port=0) as server:
        ours = answers(server.url, server.served.name, server.token or "none")
    keys = {name.upper(): value for name, value in CREDENTIALS.items()}
    store = keys | {"AWS_ENDPOINT_URL": s3_server, "AWS_DEFAULT_REGION": "us-east-1"}
    with served_by_ray(application, tmp_path / "ray", **store) as url:
        assert answers(url, "helper-base:adapter", "none") == ours


def test_the_benchmark_of_vllm_measures_raymill_answer(run, tmp_path):
    with raymill.answer(str(run), port=0) as server:
        words = [
            os.environ["VLLM"], "bench", "serve", "--backend", "openai-chat", "--endpoint", "/v1/chat/completions",
            "--base-url", server.url.removesuffix("/v1"), "--model", server.served.name,
            "--tokenizer", str(run.parent / "base"), "--dataset-name", "random", "--random-input-len", "16",
            "--random-output-len", "12", "--num-prompts", "16", "--max-concurrency", "4", "--ignore-eos",
            "--save-result", "--result-dir", str(tmp_path), "--result-filename", "found.json",
        ]  # fmt: skip
        environment = os.environ | {"OPENAI_API_KEY": server.token or "none", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["completed"], found["failed"], found["total_output_tokens"]) == (16, 0, 16 * 12)
