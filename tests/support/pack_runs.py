"""Small corpora, packed."""

import json
from pathlib import Path

from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.training.pack.job import pack
from raymill.training.pack.packed_run import PackedRun
from tests.support.packed_examples import config as plain_config


def write_lines(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def settings_of(corpus: str, output: Path, **more) -> dict:
    plain = {"corpus": corpus, "output": str(output), "sequence_length": 64, "tokens_per_step": 128}
    return plain | {"model": {"config": {"model_type": "llama", "vocab_size": 300}, "tokenizer": "train"}} | more


def packed_by(corpus: str, output: Path, replace: bool = False, verify: bool = False, **more) -> PackedRun:
    return pack(plain_config(**settings_of(corpus, output, **more)), Session(), Progress(), replace, verify)
