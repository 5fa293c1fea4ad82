"""`raymill prepare` of question-answer pairs: python -m tests.benchmarks prepare

Every stage in this process; processor time and memory. Questions and answers are words of the texts, a tenth of the
records are copies, and every fourth has a mail address that is replaced.
"""

import json
import random
import resource
import tempfile
import time
from pathlib import Path

from cluster.artifact import Artifact
from cluster.progress import Silent
from cluster.session import Session
from cluster.stage import Stage
from pipelines.all_kernels import compile_kernels
from pipelines.prepare.assess.job import assess
from pipelines.prepare.config import PrepareConfig
from pipelines.prepare.job import listed_inputs, run_stages
from pipelines.prepare.split import SPLITS
from pipelines.readers.freeze import freeze_listing
from pipelines.text.texts import Texts
from tests.benchmarks.bench_terabyte import TimedEngine
from tests.benchmarks.timing import machine

_RECORDS = 200_000


def run(texts: Texts) -> None:
    print(machine("numba", "pyarrow"))
    compile_kernels()
    with tempfile.TemporaryDirectory() as folder:
        size = _write(Path(folder, "pairs.jsonl"), texts)
        columns = {"prompt": "q", "completion": "a", "who": "who"}
        config = PrepareConfig.model_validate(
            {
                "kind": "prepare",
                "name": "bench",
                "inputs": [{"path": f"{folder}/pairs.jsonl", "columns": columns}],
                "clean": {"redact": ["email"], "pseudonyms": "per_record", "terminology": {"text": "document"}},
                "split": {"group": ["who"]},
                "output": f"{folder}/out",
            }
        )
        root, settings, listing = listed_inputs(config)
        engine = TimedEngine(root, Session(), Silent())
        artifacts = run_stages(config, settings, freeze_listing(listing), {}, lambda stage, _="": engine.run(stage))
        began = time.process_time()

        def run_in(stage: Stage, folder: str = "") -> dict[str, Artifact]:
            return TimedEngine(f"{root}/{folder}", Session(), Silent()).run(stage)

        assess(config, root, [artifacts[name] for name in SPLITS], run_in)
        engine.seconds["assess"] = time.process_time() - began
        kept = sum(artifacts[name].manifest.rows for name in SPLITS)
        total = sum(engine.seconds.values())
        print(f"{_RECORDS:,} records, {size / 1e6:.0f} MB, of which {kept:,} are written: {total:.1f} s on one core")
        for name, seconds in engine.seconds.items():
            print(f"  {name:<10}{seconds:>8.2f} s{seconds / _RECORDS * 1e6:>8.1f} us a record")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
        print(f"a million records on two cores: {total / _RECORDS * 1e6 / 2:.0f} s; memory {peak:.2f} GiB at most")


def _write(path: Path, texts: Texts) -> int:
    words = [word for number in range(min(200, len(texts))) for word in texts[number].split()]
    chosen = random.Random(1)
    with path.open("w") as file:
        for number in range(_RECORDS):
            if number % 10 == 9:
                chosen.seed(number - 5)
            else:
                chosen.seed(number)
            question = " ".join(chosen.choices(words, k=12)) + "?"
            answer = " ".join(chosen.choices(words, k=60)) + "."
            if number % 4 == 0:
                answer += f" Write to person{number}@example.com."
            file.write(json.dumps({"q": question, "a": answer, "who": f"c{number // 7}"}) + "\n")
        return file.tell()
