"""The records of a checkpoint of 70B weights by 256 ranks (fsdp2), without its values: bytes, and seconds of one core.

    python -m tests.benchmarks.bench_manifest [--ranks 256] [--layers 80]

`lists in the manifest` is the form of checkpoints of up to 10,000 pieces, and of all until November 2026. Restored on
as many ranks, and on half and twice as many.
"""

import argparse
import json
import time
from hashlib import sha256
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from raymill.cluster.store.store import Store
from raymill.training.engines.engine import STATES
from raymill.training.records.checkpoint import (
    PIECE_VALUES,
    Checkpoint,
    CheckpointManifest,
    StateFile,
    StatePart,
    StateRange,
    layouts_of,
    parse_part,
)
from raymill.training.records.schema import TrainingProgress

_FILE_VALUES = 128 << 20


def shapes_of(layers: int) -> dict[str, tuple[int, ...]]:
    """Llama 3 70B, with `layers` of its 80 layers."""
    hidden, inner, keys, vocabulary = 8192, 28672, 1024, 128256
    layer = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    found = {f"model.model.layers.{n}.{name}.weight": shape for n in range(layers) for name, shape in layer.items()}
    ends = {"embed_tokens": (vocabulary, hidden), "norm": (hidden,)}
    return (
        found
        | {f"model.model.{name}.weight": shape for name, shape in ends.items()}
        | {"model.lm_head.weight": (vocabulary, hidden)}
    )


def shard(shape: tuple[int, ...], rank: int, ranks: int) -> tuple[int, int]:
    """(first value, number of values) of fsdp2's shard of a parameter."""
    rows, row = shape[0], prod(shape[1:])
    size = -(-rows // ranks)
    start = min(size * rank, rows)
    return start * row, (min(start + size, rows) - start) * row


def files_of(shapes: dict[str, tuple[int, ...]], rank: int, ranks: int) -> list[StateFile]:
    """The files that a rank writes, with their pieces."""
    files: list[StateFile] = []
    pieces: list[StateRange] = []
    held = 0
    for name, shape in shapes.items():
        start, count = shard(shape, rank, ranks)
        for state in STATES:
            for at in range(start, start + count, PIECE_VALUES):
                size = min(PIECE_VALUES, start + count - at)
                if held + size > _FILE_VALUES:
                    files.append(StateFile(f"rank-{rank:05d}-{len(files):05d}.safetensors", held * 4, tuple(pieces)))
                    pieces, held = [], 0
                pieces.append(StateRange(name, state, at, size, held * 4, sha256(b"").hexdigest()))
                held += size
    files.append(StateFile(f"rank-{rank:05d}-{len(files):05d}.safetensors", held * 4, tuple(pieces)))
    return files


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=256)
    parser.add_argument("--layers", type=int, default=80)
    options = parser.parse_args()
    ranks, shapes = options.ranks, shapes_of(options.layers)
    of_ranks = [files_of(shapes, rank, ranks) for rank in range(ranks)]
    pieces = sum(len(file.pieces) for files in of_ranks for file in files)
    print(f"{sum(map(prod, shapes.values())) / 1e9:.1f}B weights, {ranks} ranks, {pieces:,} pieces")
    common = ({}, TrainingProgress(step=1), shapes)
    whole = CheckpointManifest(*common, tuple(file for files in of_ranks for file in files), ranks, "", {})
    text = whole.to_json()
    began = time.perf_counter()
    Checkpoint(Store(), "/nowhere", CheckpointManifest.from_json(text))
    print(f"lists in the manifest: {len(text) / 1e6:.1f} MB and {time.perf_counter() - began:.2f} s a rank")
    del whole, text
    with TemporaryDirectory() as folder:
        parts = []
        for rank, files in enumerate(of_ranks):
            data = json.dumps({"files": [file.to_plain() for file in files]}).encode()
            path = f"rank-{rank:05d}.json"
            Path(folder, path).write_bytes(data)
            sizes = tuple((file.path, file.bytes) for file in files)
            parts.append(StatePart(path, len(data), sha256(data).hexdigest(), sizes))
        began = time.perf_counter()
        held = ((rank, name, shard(shape, rank, ranks)) for rank in range(ranks) for name, shape in shapes.items())
        ranges = ((name, state, *values, rank) for rank, name, values in held if values[1] for state in STATES)
        layouts = layouts_of(shapes, ranges)
        assert layouts is not None
        text = CheckpointManifest(*common, (), ranks, "", {}, tuple(parts), layouts).to_json()
        print(f"commit by the first rank: {time.perf_counter() - began:.2f} s of a thread, {len(text) / 1e6:.2f} MB")
        began = time.perf_counter()
        CheckpointManifest.from_json(text)
        print(f"parts: manifest {len(text) / 1e6:.2f} MB and {time.perf_counter() - began:.2f} s a rank")
        for others in (ranks // 2, ranks, ranks * 2):
            seconds, read, requests = [], [], []
            for rank in (0, others // 2, others - 1):
                began = time.perf_counter()
                checkpoint = Checkpoint(Store(), folder, CheckpointManifest.from_json(text))
                wanted = 0
                for name, shape in shapes.items():
                    start, count = shard(shape, rank, others)
                    for state in STATES:
                        wanted += len(checkpoint._overlapping(name, state, start, start + count))
                seconds.append(time.perf_counter() - began)
                read.append(len(text) + sum(parts[number].bytes for number in checkpoint._lists))
                requests.append(wanted)
            print(
                f"restored on {others} ranks: {np.max(read) / 1e6:.2f} MB and {np.max(seconds):.2f} s a rank, "
                f"{np.max(requests):,} pieces, 16 at a time"
            )
        began = time.perf_counter()
        parse_part(Path(folder, parts[0].path).read_bytes())
        print(f"one rank's list: {parts[0].bytes / 1e6:.2f} MB, {time.perf_counter() - began:.3f} s")


if __name__ == "__main__":
    main()
