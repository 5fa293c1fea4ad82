"""The manifests in k8s/ that are rendered: jobs of the examples for every overlay, and parts for development.

`make manifests` writes them, and a test compares them. The examples' inputs lie on a local server, so that the run ids
and sizes in the manifests follow from files.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import boto3
import numpy as np
import yaml
from safetensors.numpy import save_file

from raymill.cluster.config import load
from raymill.cluster.frame.kinds import kind_of
from raymill.cluster.kuberay.profiles import OVERLAYS, Profile
from raymill.cluster.kuberay.rayjob import (
    as_documents,
    as_yaml,
    autoscaler_options,
    build_group,
    build_raycluster,
    rendered,
)
from raymill.cluster.submit.work import GIB, Machines, head_machine
from tests.conftest import free_port, wait_for_port
from tests.deploy.manifests import JOBS, K8S, job_file
from tests.support.works import IMAGE

_LLAMA_1B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
_REASON = "of a cluster for development, as an example"
_CPU = Machines("cpu", 15, 24 * GIB, 60 * GIB, least=1, most=1, reasons={"cpus": _REASON})
_GPU = Machines("gpu", 8, 64 * GIB, 200 * GIB, gpus=1, least=0, most=2, reasons={"cpus": _REASON})


def manifests() -> dict[Path, str]:
    """File -> its text."""
    development = Profile("development", train_image=IMAGE, autoscale=False)
    found = {
        K8S / "development" / "raycluster.yaml": _yaml(
            [build_raycluster("development", head_machine(1000), [_CPU], development)]
        ),
        K8S / "components" / "gpu" / "group.yaml": _patch(
            {"op": "add", "path": "/spec/workerGroupSpecs/-", "value": _idle(build_group(_GPU, development))}
        ),
        K8S / "components" / "autoscale-v2" / "autoscaler.yaml": _patch(
            {"op": "test", "path": "/spec/workerGroupSpecs/0/groupName", "value": "cpu"},
            {"op": "replace", "path": "/spec/enableInTreeAutoscaling", "value": True},
            {"op": "add", "path": "/spec/autoscalerOptions", "value": autoscaler_options()},
            {"op": "replace", "path": "/spec/headGroupSpec/template/spec/automountServiceAccountToken", "value": True},
            *(
                {"op": "replace", "path": f"/spec/workerGroupSpecs/0/{name}", "value": value}
                for name, value in (("replicas", 0), ("minReplicas", 0), ("maxReplicas", 4))
            ),
        ),
    }
    with _example_store():
        for kind in JOBS:
            config = load(str(K8S / "examples" / f"{kind}.yaml"))
            work = kind_of(kind).job(config).work()
            for name, profile in OVERLAYS.items():
                found[job_file(name, kind)] = _HEADER.format(kind=kind, name=name) + rendered(
                    work, replace(profile, image=IMAGE, train_image=IMAGE)
                )
    return found


_HEADER = """\
# What `raymill render k8s/examples/{kind}.yaml --overlay {name} --image IMAGE` prints for the files of
# tests/deploy/written.py. Written by `make manifests`; for your own config run `raymill render`, or `raymill submit`.
"""


def write() -> None:
    for path, text in manifests().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def _idle(group: dict) -> dict:
    return group | {"replicas": 0, "minReplicas": 0}


def _yaml(documents: list[dict]) -> str:
    return "# Written by `make manifests`.\n" + as_yaml(as_documents(*documents))


def _patch(*operations: dict) -> str:
    return "# Written by `make manifests`.\n" + yaml.safe_dump(as_documents(*operations), sort_keys=False, width=110)


@contextmanager
def _example_store() -> Iterator[None]:
    """An S3 server with the inputs of the examples, which the environment names."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ENDPOINT_URL_S3": address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        wait_for_port(port, server)
        with mock.patch.dict(os.environ, environment):
            _fill(boto3.client("s3", endpoint_url=address))
            yield
    finally:
        server.terminate()
        server.wait()


def _fill(client) -> None:
    client.create_bucket(Bucket="my-bucket")
    line = json.dumps({"id": "d", "text": "An example of a document with some words in it. " * 100}) + "\n"
    for number in range(32):
        client.put_object(Bucket="my-bucket", Key=f"raw/{number:02}.jsonl", Body=line * 200)
    client.put_object(Bucket="my-bucket", Key="runs/example-curate/corpus/0.jsonl", Body=line * 100)
    with tempfile.TemporaryDirectory() as folder:
        save_file({"model.norm.weight": np.ones(2048, np.float32)}, Path(folder, "model.safetensors"))
        weights = Path(folder, "model.safetensors").read_bytes()
    client.put_object(Bucket="my-bucket", Key="models/base-1b/model.safetensors", Body=weights)
    client.put_object(Bucket="my-bucket", Key="models/base-1b/config.json", Body=json.dumps(_LLAMA_1B))
