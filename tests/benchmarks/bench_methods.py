"""Every method on one base: what trains, what it takes, and what it brings, on the texts that `raymill demo` curated.

A tiny Llama learns the demo's documentation in full; then each method adapts it to docstrings, which it has not seen.
The probe tells documents of three sources apart instead. Two adapters are composed by weight, and one training in two
phases goes from documentation to docstrings by adapters alone.

Prediction, written first: full gains most; LoRA some two thirds of that with a twentieth of the parameters; prefix and
prompt tuning little at this size. Memory is the worker's, most of it libraries. qlora needs a GPU.
"""

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact
from raymill.cluster.frame.job import Run
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.job import train
from raymill.training.models.compose import compose_adapters
from tests.benchmarks.timing import machine

CORPUS = "runs/demo/corpus"
SOURCES = ("docs", "docstrings", "licences")
DOCUMENTS = 1500
LENGTH = 256
MODEL = {"model_type": "llama", "hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 3}
MODEL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "vocab_size": 2048}
WHOLE_DOCUMENTS = {"mode": "none", "overflow": "truncate"}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"optimizer": {"learning_rate": 1e-3, "warmup_steps": 5}},
    "lora, rank 16": {"method": "lora"},
    "dora, rank 16": {"method": "lora", "lora": {"dora": True}},
    "prefix, 20 tokens": {"method": "prefix", "packing": WHOLE_DOCUMENTS},
    "prompt, 20 tokens": {"method": "prompt", "packing": WHOLE_DOCUMENTS},
}


def run(texts: object) -> None:
    if Artifact.find(Store(), CORPUS) is None:
        raise SystemExit(f"{CORPUS}: run `raymill demo` first.")
    print(machine("torch", "peft"))
    with tempfile.TemporaryDirectory(prefix="methods-") as folder, Session(cpus=2) as session:
        corpora = split_by_source(Path(folder))
        base = trained(session, folder, "base", corpus=corpora["docs"], model=fresh(), steps=120,
                       optimizer={"learning_rate": 3e-3, "warmup_steps": 10})  # fmt: skip
        whole = f"{base.uri}/export/full"
        print(row("base, on docs", base))
        for name, settings in METHODS.items():
            print(row(name, adapted(session, folder, name, corpora["docstrings"], whole, **settings)), flush=True)
        probe = adapted(session, folder, "probe", corpora["all"], whole, method="probe", packing=WHOLE_DOCUMENTS,
                        columns={"text": "text", "label": "source"})  # fmt: skip
        accuracy = probe.report["fits"][0]["after"]["test"]["accuracy"]
        print(row(f"probe of 3 sources: {accuracy:.0%} right", probe))
        composed(session, folder, corpora, whole)
        phases(session, folder, corpora, whole)


def split_by_source(folder: Path) -> dict[str, str]:
    """JSONL files: one a source, and one of all with equal parts."""
    table = Artifact.load(Store(), CORPUS).table(["id", "text", "source"])
    paths, together = {}, []
    for source in SOURCES:
        rows = table.filter(pc.equal(table["source"], source)).slice(0, DOCUMENTS).to_pylist()
        together += rows[:300]
        paths[source] = write(folder / f"{source}.jsonl", rows)
    return paths | {"all": write(folder / "all.jsonl", together)}


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def fresh() -> dict:
    return {"config": MODEL, "tokenizer": "train"}


def adapted(session: Session, folder: str, name: str, corpus: str, model: str, **settings: Any) -> Run:
    settings = {"optimizer": {"learning_rate": 1e-2, "warmup_steps": 5}, "steps": 40} | settings
    return trained(session, folder, name, corpus=corpus, model=model, **settings)


def trained(session: Session, folder: str, name: str, **settings: Any) -> Run:
    plain: dict[str, Any] = {"kind": "train", "sequence_length": LENGTH, "tokens_per_step": 8 * LENGTH}
    plain |= {"evaluate": {"every_steps": 40, "rows": 32}, "checkpoint": {"every_steps": None}}
    plain |= {"name": "".join(c if c.isalnum() else "-" for c in name), "track": {"tensorboard": False}}
    config = TrainConfig.model_validate(plain | settings | {"output": f"{folder}/{plain['name']}"})
    return train(config, session, Progress())


def row(name: str, run: Run) -> str:
    fit = run.report["fits"][-1]
    totals = fit["totals"]
    records = [json.loads(line) for line in Path(fit["output"], "steps.jsonl").read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    before, after = fit["before"]["test"]["loss"], fit["after"]["test"]["loss"]
    return (
        f"{name:<36}{totals['trainable_parameters'] / totals['all_parameters']:>8.2%} trained"
        f"{max(record['memory_gib'] for record in steps):>7.2f} GiB"
        f"{1e3 * median(record['seconds'] for record in steps):>7.0f} ms a step"
        f"{before:>9.3f} -> {after:.3f}"
    )


def composed(session: Session, folder: str, corpora: dict[str, str], whole: str) -> None:
    """Held-out losses on both domains of the base, and of 0.7 of one adapter with 0.3 of the other."""
    other = adapted(session, folder, "licences", corpora["licences"], whole, method="lora")
    adapters = {"docstrings": f"{folder}/lora--rank-16/export/adapter", "licences": f"{other.uri}/export/adapter"}
    deviation, _ = compose_adapters(
        Store(), f"{folder}/composed", {adapters["docstrings"]: 0.7, adapters["licences"]: 0.3}, merged=True
    )
    print(f"composed 0.7 docstrings, 0.3 licences; off the weighted sum by {deviation:.1e} at most. Held-out loss:")
    for name, model in {"base": whole, "0.7 and 0.3": f"{folder}/composed/merged"}.items():
        losses = [
            # What a training finds before its first step is the loss of the model it was given.
            trained(session, folder, f"{name} on {domain}", corpus=corpora[domain], model=model, steps=1)
            .report["fits"][0]["before"]["test"]["loss"]
            for domain in ("docstrings", "licences")
        ]  # fmt: skip
        print(f"  {name:<34}docstrings {losses[0]:.3f}   licences {losses[1]:.3f}", flush=True)


def phases(session: Session, folder: str, corpora: dict[str, str], whole: str) -> None:
    two = [{"name": "licences", "corpus": corpora["licences"]}, {"name": "docstrings", "corpus": corpora["docstrings"]}]
    print(row("two phases of lora, the second", adapted(
        session, folder, "phases", corpora["docs"], whole, method="lora", phases=two)))  # fmt: skip
