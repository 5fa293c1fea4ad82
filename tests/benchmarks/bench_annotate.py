"""A round of annotation: choosing of RECORDS candidates (default 1,000,000), and `finish` of TASKS tasks (100,000).

Predicted before it was measured: a record is read twice by Python (15 us each) and scored once (80 us), so 10,000,000
records take 1,100 s of a core and 10 minutes on two; `choose` sorts them within a minute and 6 GiB. `finish` of 100,000
tasks with 200,000 labels: 60 s, most of it bootstraps.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

import raymill
from raymill.pipelines.annotate.annotations import Annotation
from raymill.pipelines.annotate.job import AnnotateRun
from raymill.pipelines.annotate.labelling import Labelling
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.serve import PageServer
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine, memory_of_process

_FILES, _WORDS = 16, 14
_LABELS = ["billing", "login", "delivery", "other"]
_SKILL = 0.8


def run(texts: Texts) -> None:
    print(machine("ray", "scikit-learn"))
    with tempfile.TemporaryDirectory() as folder:
        words = np.unique(np.array(" ".join(texts.to_arrow().slice(0, 50).to_pylist()).split()))
        records, tasks = int(os.environ.get("RECORDS", 1_000_000)), int(os.environ.get("TASKS", 100_000))
        for name, number in (("many", records), ("few", tasks)):
            _write(Path(folder, name), number, words)
        both: tuple[dict[str, object], ...] = ({"random": 1.0}, {"random": 0.2, "uncertainty": 0.8, "label": "label"})
        for choose in both:
            output = Path(folder, f"chosen-{len(choose)}")
            seconds, run = _annotate(Path(folder, "many"), output, {"count": 1000} | choose)
            print(f"  {records:,} records, {' and '.join(choose)}: {seconds:.0f} s, {records / seconds:,.0f} a second")
        seconds, run = _annotate(Path(folder, "few"), Path(folder, "round"), {"count": tasks, "random": 1.0})
        print(f"  {tasks:,} tasks of as many records: {seconds:.0f} s")
        print(f"  a page of {tasks:,} tasks: {_opened(run)}")
        _answer(run)
        print(f"  with {2 * tasks:,} labels: {_opened(run)}")
        start = time.perf_counter()
        run.finish()
        taken = time.perf_counter() - start
        print(f"  finish of {tasks:,} tasks with {2 * tasks:,} labels: {taken:.0f} s, "
              f"{memory_of_process('VmHWM') / 2**30:.1f} GiB")  # fmt: skip


def _write(folder: Path, number: int, words: np.ndarray) -> None:
    """Messages of random words with a label, which depends on the first of them."""
    folder.mkdir()
    random, vocabulary = np.random.default_rng(0), pa.array(words.tolist())
    for file, part in enumerate(np.array_split(np.arange(number), _FILES)):
        index = (random.pareto(1.0, (_WORDS, len(part))) * 20).astype(np.int64) % len(words)
        text = pc.binary_join_element_wise(*(vocabulary.take(pa.array(one)) for one in index), " ")
        labels = pa.array(_LABELS).take(pa.array(index[0] % len(_LABELS)))
        known = pa.array(random.random(len(part)) < min(1, 2000 / number))
        columns = {"id": [f"r{one}" for one in part], "prompt": text}
        pq.write_table(pa.table(columns | {"label": pc.if_else(known, labels, None)}), folder / f"{file}.parquet")


def _annotate(records: Path, output: Path, choose: dict[str, object]) -> tuple[float, AnnotateRun]:
    config = {
        "kind": "annotate",
        "input": str(records),
        "task": {"type": "classify", "show": ["prompt"], "labels": _LABELS},
        "choose": choose,
        "annotators": ["a1", "a2", "a3"],
        "overlap": 2,
        "output": str(output),
    }
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    start = time.perf_counter()
    run = raymill.annotate(path)
    return time.perf_counter() - start, run


def _opened(run: AnnotateRun) -> str:
    """Seconds until a labelling page is served, and until it has its first tasks."""
    start = time.perf_counter()
    with PageServer(Labelling(Round.at(run.store, run.uri)), port=0) as server:
        server.labelling.state()
        served = time.perf_counter() - start
        server.labelling.next_tasks("a1", [])
    return f"served after {served:.1f} s, its first tasks after {time.perf_counter() - start:.1f} s"


def _answer(run: AnnotateRun) -> None:
    """Two votes on each task, right with the chance `_SKILL`."""
    random, round = np.random.default_rng(1), run.round
    given = [(task.id, name) for task in round.tasks for name in task.annotators]
    right, other = random.random(len(given)) < _SKILL, random.integers(0, len(_LABELS), len(given))
    answers = [
        Annotation(
            task, name, "labelled", _LABELS[len(task) % len(_LABELS) if fine else at], at=f"2026-01-01T{place:09}"
        )
        for place, ((task, name), fine, at) in enumerate(zip(given, right, other, strict=True))
    ]
    for start in range(0, len(answers), 10_000):
        round.answers.add(answers[start : start + 10_000])
