"""The work of configs, as `submit` and `render` have it, without inputs to list."""

from dataclasses import replace

from cluster.submit.work import GIB, Machines, Work, head_machine

IMAGE = "registry.example.com/raymill@sha256:" + "0" * 64

CURATE = Work(
    kind="curate",
    verb="curate",
    name="web",
    config={"kind": "curate", "name": "web", "inputs": [{"path": "s3://raw/web"}], "output": "s3://corpora/web"},
    result="abc",
    output="s3://corpora/web",
    finished=False,
    head=head_machine(1000),
    workers=(Machines("cpu", 16, 40 * GIB, 60 * GIB, largest_task=10 * GIB, least=1, most=8,
                      reasons={"cpus": "16 of 128 cores", "most": "8: 100 GB of text"}),),
    must_exist=("s3://raw/web/0.parquet",),
)  # fmt: skip

TRAIN = replace(
    CURATE,
    kind="train",
    verb="train",
    name="lora",
    config={"kind": "train", "name": "lora", "output": "s3://models/lora"},
    output="s3://models/lora",
    workers=(Machines("gpu", 32, 200 * GIB, 300 * GIB, gpus=8, largest_task=20 * GIB, least=1, most=2),),
    must_exist=("s3://corpora/web/corpus/_manifest.json",),
)
