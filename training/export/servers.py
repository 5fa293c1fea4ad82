"""Serving an export with vLLM and Ray Serve LLM: the command on a card, and serve.yaml.

Source: Ray 2.60, `ray.serve.llm`: adapters are read only from object stores, at PATH/ID, and requests name MODEL:ID.
vLLM 0.32: of an adapter's folder only the weights are read. Prompts and the tokens that end an answer come from the
tokenizer and the generation config that the engine is given, from a folder of the node or else from the base model.
"""

import re
import shlex
from collections.abc import Iterable
from typing import Any

import yaml

from raymill.cluster.ray_private import CLOUD_DOWNLOADER
from raymill.cluster.store import paths
from raymill.training.config import TrainConfig
from raymill.training.model_folder.loading import Base
from raymill.training.vllm_adapters import max_lora_rank, refused_adapter

SERVE_FILE = "serve.yaml"
_ADAPTERS = 16  # per replica, the default of Ray Serve LLM
_BUCKETS = ("s3", "gs", "abfss")
# A word that is safe in a fenced block, is no option of the command and no user's home folder.
_PLAIN = re.compile(r"(?![~-])[\w@%+=:,./~-]+", re.ASCII)


def vllm_command(config: TrainConfig, folder: str, base: Base, experts: bool) -> str:
    """The command that serves an exported folder, run inside of it; empty if vLLM refuses it."""
    if folder in ("full", "merged"):
        return f"vllm serve . --served-model-name {config.name}"
    if folder != "adapter" or refused_adapter(config, experts):
        return ""
    name = base.shown or base.name
    shown = name.rstrip("/").rpartition("/")[2] if paths.is_remote(name) else name
    words = [shown if _PLAIN.fullmatch(shown) else "BASE"]
    words += ["--revision", shlex.quote(base.revision)] if base.revision and _PLAIN.fullmatch(base.revision) else []
    rank = max_lora_rank(config)
    # The chat template of the training, and the tokens that end its answers.
    words += ["--tokenizer", ".", "--generation-config", "."]
    words += ["--enable-lora", "--lora-modules", f"{config.name}=.", "--max-lora-rank", str(rank)]
    return " ".join(["vllm serve", *words])


def serve_application(config: TrainConfig, folders: Iterable[str], base: Base, experts: bool, root: str) -> str:
    """serve.yaml of an export, for `serve run serve.yaml`: the whole model, else the adapter on its base.

    Empty for models that do not generate text, and if there is only an adapter that vLLM refuses or that is not on an
    object store.

    Args:
        folders: those that are exported. experts: whether the base is a mixture of experts. root: URI of the export.
    """
    if config.objective == "reward" or config.training_method.classifies:
        return ""
    whole = next((name for name in ("full", "merged") if name in folders), None)
    if whole is not None:
        if (source := _source(paths.join(root, whole))) is None:
            return ""
        one: dict[str, Any] = {"model_loading_config": {"model_id": config.name, "model_source": source}}
        asked = config.name
    else:
        source = _source(base.name)
        if refused_adapter(config, experts) or paths.scheme(root) not in _BUCKETS or source is None or base.shown:
            return ""
        copy = f"/tmp/ray/llm/raymill/{config.name}"
        kwargs: dict[str, Any] = {
            "tokenizer": copy, "generation_config": copy,
            "enable_lora": True, "max_lora_rank": max_lora_rank(config), "max_loras": _ADAPTERS,
        }  # fmt: skip
        one = {
            "model_loading_config": {"model_id": f"{config.name}-base", "model_source": source},
            "engine_kwargs": kwargs | ({"revision": base.revision} if base.revision else {}),
            "lora_config": {"dynamic_lora_loading_path": root, "max_num_adapters_per_replica": _ADAPTERS},
            # Before the engine starts, each node copies the adapter's folder for its tokenizer and generation config.
            "callback_config": {
                "callback_class": CLOUD_DOWNLOADER,
                "callback_kwargs": {"paths": [[paths.join(root, "adapter"), copy]]},
            },
        }
        asked = f"{config.name}-base:adapter"
    application = {
        "name": config.name,
        "route_prefix": "/",
        "import_path": "ray.serve.llm:build_openai_app",
        "args": {"llm_configs": [one]},
    }
    head = f"# pip install 'ray[llm]'; serve run {SERVE_FILE}; requests name the model {asked}.\n"
    return head + yaml.safe_dump({"applications": [application]}, sort_keys=False)


def _source(name: str) -> str | dict[str, str] | None:
    """`model_source` of a model; None for an object store that Ray Serve LLM does not read."""
    if not paths.is_remote(name):
        return name
    return {"bucket_uri": name} if paths.scheme(name) in _BUCKETS else None
