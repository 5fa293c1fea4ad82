"""A small curate, and on request a small training, with the Raymill that is installed here.

    docker run --rm --read-only --tmpfs /tmp:exec --shm-size 1g IMAGE python /opt/raymill/smoke.py --image
    .venv/bin/python deploy/smoke.py --train          the same in an environment of this machine

CI runs it in every image that it builds. `--image` also checks what holds in an image alone: another user than root, a
package that cannot be written, kernels that were compiled before, and no compiler.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyarrow import parquet

# What the head of a cluster needs for its dashboard, Jobs API and metrics, by the name of its import.
HEAD_MODULES = ("aiohttp", "opentelemetry", "prometheus_client", "virtualenv")
COMPILERS = ("g++", "c++", "clang", "nvcc")
STEPS = 6


def check(what: str, fine: bool, seen: object = "") -> None:
    print(f"{'ok  ' if fine else 'FAIL'} {what}{f': {seen}' if seen != '' else ''}", flush=True)
    if not fine:
        raise SystemExit(f"deploy/smoke.py: {what}: {seen}")


def raymill(*words: str) -> str:
    """Call the verb as a user would, and return what it prints."""
    script = Path(sys.executable).with_name("raymill")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "raymill.cluster.cli"]
    done = subprocess.run([*program, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"raymill {' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def timed(what: str, call: Callable[[], str]) -> str:
    began = time.monotonic()
    found = call()
    print(f"     {what}: {time.monotonic() - began:.1f} s", flush=True)
    return found


def check_image(with_c_compiler: bool) -> None:
    from raymill import pipelines

    package = Path(pipelines.__file__).parent
    check("another user than root", os.getuid() != 0, f"uid {os.getuid()}")
    check("the package cannot be written", not os.access(package, os.W_OK), package)
    found = [name for name in (*COMPILERS, *(() if with_c_compiler else ("gcc", "cc"))) if shutil.which(name)]
    check("no compiler", not found, ", ".join(found))
    print(f"     {timed('raymill warm --check', lambda: raymill('warm', '--check')).strip()}")


def check_versions() -> None:
    missing = [name for name in HEAD_MODULES if importlib.util.find_spec(name) is None]
    check("ray[default] is installed", not missing, ", ".join(missing))
    code = "import platform, ray, cluster; print(platform.python_version(), ray.__version__, cluster.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    print(f"     Python, Ray, Raymill {done.stdout.strip()}")


def curate(folder: Path) -> Path:
    """Curate texts written here, twice. Returns the folder of the corpus."""
    sentences = [
        f"The {thing} in the {room} was {state} when the {who} came home, and nobody had an idea of the reason for it."
        for thing in ("lamp", "clock", "chair", "window", "letter")
        for room in ("kitchen", "hall", "garden", "cellar")
        for state in ("broken", "painted", "warm")
        for who in ("teacher", "farmer", "doctor", "sailor")
    ]
    texts = ["\n".join(sentences[(7 * n + 11 * k) % len(sentences)] for k in range(8)) for n in range(200)]
    texts[50] = texts[51]  # a duplicate
    (folder / "texts").mkdir()
    lines = [json.dumps({"id": f"text-{number}", "text": text}) for number, text in enumerate(texts)]
    (folder / "texts" / "texts.jsonl").write_text("\n".join(lines) + "\n")
    config = written(folder / "curate.json", {
        "kind": "curate", "name": "smoke", "output": str(folder / "curated"),
        "inputs": [{"path": str(folder / "texts"), "id": "id"}],
        "rules": {"packs": ["gopher_quality"], "gopher_quality": {"min_words": 20}},
        "dedup": {"threshold": 0.95},
    })  # fmt: skip
    timed("curate", lambda: raymill("curate", config))
    again = timed("curate again", lambda: raymill("curate", config))
    check("a second curate finds the run finished", "finished before" in again)
    corpus = folder / "curated" / "corpus"
    kept = sum(parquet.read_metadata(file).num_rows for file in corpus.glob("*.parquet"))
    check(
        "curate kept most texts, and removed the duplicate",
        len(texts) // 2 < kept < len(texts),
        f"{kept} of {len(texts)}",
    )
    return corpus


def train(folder: Path, corpus: Path) -> None:
    """A few steps of a tiny model, on a GPU if there is one."""
    import torch

    gpus = min(torch.cuda.device_count(), 1)
    model = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 512, "max_position_embeddings": 128,
    }  # fmt: skip
    config = written(folder / "train.json", {
        "kind": "train", "name": "smoke", "corpus": str(corpus), "columns": {"text": "text"},
        "model": {"config": model, "tokenizer": "train"},
        "workers": {"count": 1, "gpus_each": gpus}, "sequence_length": 128, "tokens_per_step": 512, "steps": STEPS,
        "evaluate": {"every_steps": 3}, "checkpoint": {"every_steps": 3}, "output": str(folder / "trained"),
    })  # fmt: skip
    timed(f"train, {gpus} GPUs", lambda: raymill("train", config))
    steps = (folder / "trained" / "steps.jsonl").read_text().splitlines()
    check(f"training took its {STEPS} steps", json.loads(steps[-1])["step"] == STEPS, f"{len(steps)} lines")


def written(path: Path, settings: dict[str, Any]) -> str:
    path.write_text(json.dumps(settings))
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", action="store_true", help="check what holds in an image alone")
    parser.add_argument("--with-c-compiler", action="store_true", help="gcc is expected: the default CUDA image")
    parser.add_argument("--train", action="store_true", help="train too; needs the package's extra `train`")
    options = parser.parse_args()
    check_versions()
    if options.image:
        check_image(options.with_c_compiler)
    folder = Path(tempfile.mkdtemp(prefix="raymill-smoke-"))
    try:
        corpus = curate(folder)
        if options.train:
            train(folder, corpus)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("smoke: everything passed")


if __name__ == "__main__":
    main()
