"""Answers sampled by a server of vLLM beside the worker, which gets the trained adapter as a folder.

vLLM's kernels round otherwise than the training's, so the probabilities with which it draws differ a little from those
that the loss sees. Where the loss needs log-probabilities of the time of sampling, the training computes them itself.

Source: https://docs.vllm.ai, "LoRA Adapters" (loading at run time) and the extra parameters of /v1/completions.
"""

import os
import secrets
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx2
import torch

from raymill.cluster.asking.vllm_server import VllmServer
from raymill.cluster.errors import ClusterError, ConfigError
from raymill.training.config import TrainConfig
from raymill.training.evaluation.answering import link_model
from raymill.training.models.cost import has_experts, transformers_config
from raymill.training.rollouts.sampling import answer_key
from raymill.training.vllm_adapters import max_lora_rank, refused_adapter

_REQUESTS = 64  # at a time
_ANSWER_S = 3600.0  # for one request, with the time that it waits in the server
# Of the workers' process group, in which vLLM would take part.
_OF_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


class VllmSampler:
    """A server with the base of a training by method lora.

    Raises:
        ConfigError: vLLM is not installed, or does not take the adapter.
        ClusterError: the server does not start, or ended.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        if reason := refused_adapter(config, has_experts(transformers_config(config.store, config.model))):
            raise ConfigError(f"grpo.engine: vllm does not take the adapter: {reason}. Use engine: transformers.")
        key = secrets.token_hex(16)  # otherwise other users of the machine could have it read files
        environment = {name: value for name, value in os.environ.items() if name not in _OF_GROUP}
        environment |= {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_API_KEY": key}
        options = [
            "--enable-lora", "--max-lora-rank", str(max_lora_rank(config)),
            "--max-model-len", str(config.sequence_length), "--dtype", "bfloat16" if config.bf16 else "float32",
            "--generation-config", "vllm",  # the model's own would change the distribution
        ]  # fmt: skip
        if device.type == "cuda":
            # Ray shows each worker all GPUs of its machine.
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
            environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[device.index or 0]
            options += ["--gpu-memory-utilization", str(config.grpo.vllm_memory)]
        else:
            # A server of vLLM 0.32 ends when it computes a prompt in parts: "CPU Generator does not use offset".
            options.append("--no-enable-chunked-prefill")
        assert config.model.name is not None, "of models without a name the config was refused"
        link = partial(link_model, config.store, config.model.name, revision=config.model.revision)
        self._server = VllmServer(link, "base", 1, options, environment)
        self._client = httpx2.Client(
            base_url=self._server.url, headers={"Authorization": f"Bearer {key}"}, timeout=_ANSWER_S, trust_env=False
        )
        self._seed, self._most = config.seed, config.grpo.max_new_tokens

    def close(self) -> None:
        """End the server."""
        self._client.close()
        self._server.close()

    def answers(
        self, model: Any, sampling: int, wanted: Sequence[tuple[str, Sequence[int], int]], stops: Sequence[int]
    ) -> list[list[int]]:
        """Tokens sampled at temperature 1 after each prompt, up to a stop token, which is the last one.

        Args:
            model: of peft, with the adapter.
            sampling: its number.
            wanted: (document, token ids of the prompt, number of the answer).
        """
        name = f"sampling-{sampling}-{secrets.token_hex(4)}"  # a new one, so no cached prefix is of other weights
        folder = self._server.scratch / name
        model.save_pretrained(folder, save_embedding_layers=False)
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

        def answer(one: tuple[str, Sequence[int], int]) -> list[int]:
            document, ids, number = one
            key = answer_key(self._seed, sampling, document, number)
            asked = {
                "model": name, "prompt": list(ids), "max_tokens": self._most, "temperature": 1.0,
                "seed": int.from_bytes(key[:7]), "stop_token_ids": list(stops), "ignore_eos": True,
                "return_token_ids": True,
            }  # fmt: skip
            found: list[int] = self._post("/v1/completions", asked).json()["choices"][0]["token_ids"]
            return found

        with ThreadPoolExecutor(_REQUESTS) as pool:
            found = list(pool.map(answer, wanted))
        self._post("/v1/unload_lora_adapter", {"lora_name": name})
        shutil.rmtree(folder)
        return found

    def _post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        try:
            reply = self._client.post(path, json=body)
        except httpx2.TransportError as error:
            self._server.refuse_ended()
            raise ClusterError(f"vLLM gave no answer to {path} ({type(error).__name__})") from error
        if reply.status_code != 200:
            raise ClusterError(f"vLLM refused {path} with status {reply.status_code}: {reply.text:.500}")
        return reply
