"""`raymill prepare` of question-answer pairs on Ray, with its assessment: python -m tests.benchmarks prepare

The whole command in processes of its own, with kernels compiled before: cleaning, redaction of all kinds of personal
data, rules, duplicates of records and questions, contradictions, outliers, a split by strata and groups with folds and
balance, a curriculum, and the assessment of labels, groups and topics (SETTINGS). Questions and answers are words of
the texts, in a seeded random order; every tenth record is a copy of an earlier one, and every twentieth question has an
e-mail address or a telephone number. For each number of workers it prints the wall time, the processor time of all
processes, the largest resident memory of a worker, seconds by stage and a digest of the data set and its assessment,
which has to be the same.

In the environment: RECORDS, default 200,000; the stated million: `RECORDS=1000000 WORKERS=2 python -m tests.benchmarks
prepare`. WORKERS, default 2; 1,2,3 compares numbers of workers.
"""

import json
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from raymill.cluster.formats import plural
from raymill.cluster.stage import COMMITS, prefix_of
from raymill.pipelines.all_kernels import compile_kernels
from raymill.pipelines.text.personal_data import KINDS
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.bench_fixed import processor_seconds
from tests.benchmarks.timing import machine
from tests.support.processes import Command

RECORDS = int(os.environ.get("RECORDS", 200_000))
WORKERS = [int(one) for one in os.environ.get("WORKERS", "2").split(",")]
_SAMPLE_S = 0.1
_QUEUES = 8
_NAMES_OF_QUEUES = [f"q{number}" for number in range(_QUEUES)]
SETTINGS: dict[str, Any] = {
    "clean": {"redact": list(KINDS), "pseudonyms": "per_record", "labels": {"queue": {"q1": ["first"]}}},
    "validate": {"require": ["queue"], "outliers": {"by": ["queue"]}, "allowed": {"queue": _NAMES_OF_QUEUES}},
    "duplicates": {"questions": "list", "contradictory": "list"},
    "split": {
        "stratify": ["queue"],
        "group": ["account"],
        "folds": 5,
        "balance": {"by": ["queue"], "to": "largest", "most_copies": 3},
    },
    "curriculum": {"stages": 4},
    "assess": {
        "label": "queue",
        "groups": ["queue"],
        "topics": {"python": ["python"], "module": ["module", "modules"]},
    },
}
_WORKER = "ray::"  # begins the command line of Ray's workers


def run(texts: Texts) -> None:
    print(machine("ray", "numba", "pyarrow", "scikit-learn"))
    compile_kernels()
    with tempfile.TemporaryDirectory(prefix="prepare-") as name:
        folder = Path(name)
        size = _write(folder / "pairs.jsonl", texts)
        print(f"{RECORDS:,} records, {size / 1e6:.0f} MB")
        digests = {workers: _one(folder, size, workers) for workers in WORKERS}
    if len(set(digests.values())) > 1:
        raise SystemExit(f"the data sets or assessments differ: {digests}")


def _write(path: Path, texts: Texts) -> int:
    """Write the texts as records. Returns the bytes of their text."""
    words = [word for number in range(min(200, len(texts))) for word in texts[number].split()]
    chosen, size = random.Random(1), 0
    with path.open("w") as file:
        for number in range(RECORDS):
            chosen.seed(number - 5 if number % 10 == 9 else number)
            question = " ".join(chosen.choices(words, k=12)) + "?"
            if number % 20 == 7:
                question += (f" Write to user{number}@example.com.", f" Call +49 30 {number:07}.")[number // 20 % 2]
            answer = " ".join(chosen.choices(words, k=60)) + "."
            row = {"prompt": question, "completion": answer, "account": f"a{number // 7}"}
            # The last queue has a third of the records that the others have.
            row["queue"] = _NAMES_OF_QUEUES[number % _QUEUES if number % 3 else number % (_QUEUES - 1)]
            file.write(json.dumps(row) + "\n")
            size += len(question.encode()) + len(answer.encode())
    return size


def _one(folder: Path, size: int, workers: int) -> str:
    """Prepare with `workers` workers, and print what it takes. Returns the digest."""
    output = folder / "out"
    columns = {"prompt": "prompt", "completion": "completion", "queue": "queue", "account": "account"}
    settings = {"kind": "prepare", "name": "bench", "inputs": [{"path": f"{folder}/pairs.jsonl", "columns": columns}]}
    settings |= SETTINGS | {"output": str(output), "execution": {"cpus": workers}}
    (folder / "prepare.json").write_text(json.dumps(settings))
    spent: dict[int, float] = {}
    peaks: dict[int, int] = {}
    began = time.perf_counter()
    command = Command("prepare", str(folder / "prepare.json"))
    while command.process.poll() is None:
        workers_now = set(command.others(_WORKER))
        for process in {command.process.pid, *command.others()}:
            spent[process] = processor_seconds(process) or spent.get(process, 0.0)
            if process in workers_now:
                peaks[process] = max(_peak(process), peaks.get(process, 0))
        time.sleep(_SAMPLE_S)
    took = time.perf_counter() - began
    code, _, err = command.wait(60)
    if code:
        raise SystemExit(f"prepare failed with {code}:\n{err}")
    core_s, largest = sum(spent.values()), max(peaks.values(), default=0)
    kept = json.loads((output / "report.json").read_text())["totals"]
    digest = sha256()
    digest.update(json.loads((output / "manifest.json").read_text())["digest"].encode())
    digest.update((output / "assessment.json").read_bytes())
    print(f"workers {workers}: {took:.1f} s, {core_s:.1f} core-seconds, {size / core_s / 1e6:.2f} MB a core-second")
    print(f"    largest worker {largest / (1 << 20):.2f} GiB resident; digest {digest.hexdigest()[:16]}; {kept}")
    for stage, units, seconds in _stages(output):
        print(f"    {stage:<24}{seconds:8.1f} s in {plural(units, 'unit')}")
    shutil.rmtree(output)
    return digest.hexdigest()


def _peak(process: int) -> int:
    """The largest resident memory of a process in KiB; 0 of one that has ended."""
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _stages(output: Path) -> Iterator[tuple[str, int, float]]:
    """(stage, units, seconds of all of them), in the order in which the first ones ended. Without the stages that
    prepare others, whose records are removed.
    """
    folders = [folder for commits in output.rglob(COMMITS) for folder in commits.iterdir() if any(folder.iterdir())]
    for folder in sorted(folders, key=lambda one: min(record.stat().st_mtime for record in one.iterdir())):
        seconds = [json.loads(record.read_text())["seconds"] for record in folder.iterdir()]
        name = folder.name.rpartition("-")[0] or folder.name
        yield prefix_of(str(folder.parent.parent.relative_to(output)).strip(".")) + name, len(seconds), sum(seconds)
