"""Tokenising: our stage's work beside `datasets.map(batched=True)` with the same tokenizer, one core each.

Prediction, before the first run: both spend nine tenths of their time in the same Rust code, so ours is at least as
fast; what it saves (attention masks, Python lists into Arrow) it spends on hashing ids and sorting. About 1.1 times as
fast, at no more memory.

Found, where the same work varies by a quarter from run to run: about as fast, on whole documents at half the memory.
The prediction was too bright: what is done for each document and the compressed, checked Parquet file cost a seventh
in pieces of 1,000 characters, as much as the batch call without offsets saves. So ratios of runs that take turns are
told, with their spread.

Each side is a process of its own that reads the same Parquet file and writes its result to disk: ours as a stage's
unit (read, split, tokenise, mask, sort, Parquet), theirs as a cached Arrow file with input_ids alone. Tokenizer: a
byte-level BPE fitted here on the same texts. Processor seconds without loading of libraries and tokenizer, the best of
runs that take turns; memory: the highest resident size less that before the work began. Documents as they are, and the
same text in pieces of 1,000 characters.

    python -m tests.benchmarks.bench_pack [FILE.parquet]
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from raymill.cluster.store.store import Store
from tests.benchmarks.timing import REAL, machine

_MEBIBYTES = 4
_VOCABULARY = 8192
_RUNS = 9
_PIECE_CHARACTERS = 1000


def run(texts: object) -> None:
    main()


def main() -> None:
    source = next((word for word in sys.argv[1:] if word.endswith(".parquet")), str(REAL))
    print(machine("tokenizers", "datasets", "pyarrow"))
    with tempfile.TemporaryDirectory() as folder:
        for name, table in _inputs(source).items():
            file = Path(folder, f"{name.split()[0]}.parquet")
            pq.write_table(table, file, row_group_size=500)
            megabytes = sum(len(text.encode()) for text in table["text"].to_pylist()) / 1e6
            print(f"\n{name}: {table.num_rows} documents, {megabytes:.1f} MB, {_VOCABULARY} tokens known")
            _own_process("prepare", str(file), folder)
            sides = ("ours", "datasets")
            rounds = [{side: _own_process(side, str(file), folder) for side in sides} for _ in range(_RUNS)]
            for side in sides:
                runs = [one[side] for one in rounds]
                best = min(runs, key=lambda run: run["seconds"])
                print(
                    f"  {side:<10} {best['seconds']:6.2f} s  {megabytes / best['seconds']:6.2f} MB/s  "
                    f"{best['tokens'] / best['seconds'] / 1e3:8.0f} thousand tokens/s  {best['tokens']:>9} tokens  "
                    f"+{min(run['mebibytes'] for run in runs):.0f} MiB"
                )
            ratios = sorted(one["datasets"]["seconds"] / one["ours"]["seconds"] for one in rounds)
            print(f"  ours is {median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f}), run by run")


def _inputs(source: str) -> dict[str, pa.Table]:
    texts, held = [], 0
    for text in pq.read_table(source, columns=["text"])["text"].to_pylist():
        texts.append(text)
        held += len(text)
        if held > _MEBIBYTES << 20:
            break
    pieces = [text[at : at + _PIECE_CHARACTERS] for text in texts for at in range(0, len(text), _PIECE_CHARACTERS)]
    tables = {"whole documents": texts, "pieces of documents": [piece for piece in pieces if piece.strip()]}
    return {name: pa.table({"id": list(map(str, range(len(own)))), "text": own}) for name, own in tables.items()}


def _own_process(side: str, file: str, folder: str) -> dict[str, float]:
    quiet = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_pack", "--side", side, file, folder],
        env=os.environ | quiet | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _side(side: str, file: str, folder: str) -> dict[str, float]:
    return {"prepare": _prepare, "ours": _ours, "datasets": _theirs}[side](file, folder)


def _config(file: str):
    from raymill.training.config import TrainConfig

    model = {"config": {"model_type": "llama", "vocab_size": _VOCABULARY}, "tokenizer": "train"}
    plain = {"kind": "train", "name": "bench", "corpus": file, "model": model, "steps": 1, "output": "unused"}
    return TrainConfig.model_validate(plain)


def _prepare(file: str, folder: str) -> dict[str, float]:
    from raymill.training.pack.job import prepare_tokenizer

    prepare_tokenizer(_config(file), folder, replace=True)
    return {}


def _ours(file: str, folder: str) -> dict[str, float]:
    from raymill.cluster.stage import run_unit
    from raymill.training.pack.corpus import freeze_corpus
    from raymill.training.pack.packed_run import TokenizerAt
    from raymill.training.pack.split import survey_here
    from raymill.training.pack.tokenise import _encoder, tokenise_stage
    from raymill.training.tokenizer.load_tokenizer import load_tokenizer, tokenizer_fingerprint

    config, uri = _config(file), f"{folder}/tokenizer"
    fingerprint = tokenizer_fingerprint(load_tokenizer(Store(), uri))
    tokenizer = TokenizerAt(Store(), uri, fingerprint)
    _encoder(tokenizer, None)
    frozen = freeze_corpus(Store(), config.corpus[0], config.all_columns[0], 32 << 20)
    cuts = survey_here(frozen, config.split).cuts
    stage = tokenise_stage("bench", frozen, tokenizer, config.split, cuts, config.seed)
    with tempfile.TemporaryDirectory() as root:
        meter = _Meter()
        records = [run_unit(stage, root, index, unit) for index, unit in enumerate(stage.units)]
        measured = meter.read()
    tokens = sum(value for r in records for name, value in r.counters.items() if name.startswith("tokens/"))
    return measured | {"tokens": tokens - sum(record.counters["examples"] for record in records)}


def _theirs(file: str, folder: str) -> dict[str, float]:
    from datasets import load_dataset

    from raymill.training.tokenizer.load_tokenizer import load_tokenizer

    tokenizer = load_tokenizer(Store(), f"{folder}/tokenizer")
    with tempfile.TemporaryDirectory() as cache:
        rows = load_dataset("parquet", data_files=file, split="train", cache_dir=cache)
        meter = _Meter()
        made = rows.map(
            lambda batch: {"input_ids": tokenizer(batch["text"], return_attention_mask=False)["input_ids"]},
            batched=True,
            remove_columns=rows.column_names,
        )
        measured = meter.read()
        tokens = sum(len(chunk.flatten()) for chunk in made.data.column("input_ids").chunks)
    return measured | {"tokens": tokens}


class _Meter:
    """Processor time of all threads, and the highest resident size, from its making on."""

    def __init__(self) -> None:
        self.started = time.process_time()
        self.resident = _peak_mebibytes()

    def read(self) -> dict[str, float]:
        return {"seconds": time.process_time() - self.started, "mebibytes": _peak_mebibytes() - self.resident}


def _peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if "--side" in sys.argv:
        print(json.dumps(_side(*sys.argv[2:])))
    else:
        main()
