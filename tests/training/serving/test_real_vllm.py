"""The real vLLM, its build for CPUs: it serves an exported adapter, and its benchmark measures `raymill answer`.

`make vllm` installs it in an environment of its own; VLLM is its command.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import httpx2
import openai
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import raymill
from raymill.training.pack.template import CHATML
from tests.support.processes import wait_until
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
def served_by_vllm(export: Path):
    """The address of vLLM that runs the command of an export's card in its folder."""
    card = (export / "README.md").read_text()
    (command,) = [line for line in card.splitlines() if line.startswith("vllm serve ")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [os.environ["VLLM"], *shlex.split(command)[1:], "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    log = export.parents[1] / "vllm.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [*words, "--dtype", "float32"], cwd=export, env=environment, stdout=written, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def ready() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/health", timeout=5, trust_env=False).status_code == 200
        except httpx2.TransportError:
            return False

    try:
        wait_until(ready, 600)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


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
