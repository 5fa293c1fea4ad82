"""Rounds with a classifier that is trained on a model's features, beside the built-in one.

python -m tests.benchmarks.trained_rounds MODEL RECORDS.jsonl [NUMBER]

MODEL: a folder of docs/examples/smollm2/import_gguf.py, or any. RECORDS: {id, text, label}, of which the first NUMBER
(900) are the pool. Three rounds of 50 labels, three fifths of them the most uncertain; each classifier is measured on
all records without a label.
"""

import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from raymill.cluster.artifact import Artifact
from raymill.cluster.examples.splits import hash64
from raymill.cluster.frame.calls import run_of
from raymill.pipelines.agreement import wilson
from raymill.pipelines.annotate.annotations import Annotation
from raymill.pipelines.annotate.config import AnnotateConfig
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.rounds import next_round
from raymill.pipelines.annotate.tasks import SCORED

_ROUNDS, _COUNT = 3, 50


def main(model: str, file: str, number: str = "900") -> None:
    rows = [json.loads(line) for line in Path(file).read_text().splitlines()[: int(number)]]
    truth = {row["id"]: row["label"] for row in rows}
    print(f"{len(rows):,} records, {len(set(truth.values()))} labels, {_COUNT} labels a round", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder, "records.jsonl")
        records.write_text("".join(json.dumps({"id": row["id"], "text": row["text"]}) + "\n" for row in rows))
        probe = {"kind": "train", "corpus": str(records), "columns": {"text": "text"}, "output": "x", "method": "probe",
                 "model": {"name": str(Path(model).resolve())}, "probe": {"pool": "mean"}, "packing": {"mode": "none"},
                 "sequence_length": 128, "tokens_per_step": 1024, "epochs": 10,
                 "optimizer": {"learning_rate": 3e-3}}  # fmt: skip
        Path(folder, "probe.yaml").write_text(json.dumps(probe))
        for name, rounds in (("built-in", {}), ("probe", {"train": f"{folder}/probe.yaml"})):
            config = AnnotateConfig.model_validate(
                {"kind": "annotate", "input": str(records), "output": f"{folder}/{name}", "annotators": ["a"],
                 "task": {"type": "classify", "show": ["text"], "labels": sorted(set(truth.values()))},
                 "choose": {"count": _COUNT, "uncertainty": 0.6}, "rounds": rounds}
            )  # fmt: skip
            _rounds(name, config, truth)


def _rounds(name: str, config: AnnotateConfig, truth: dict[str, str]) -> None:
    known = set[str]()
    make, train = (partial(run_of, kind, progress=False) for kind in ("annotate", "train"))
    for at in range(_ROUNDS + 1):
        start = time.perf_counter()
        round = Round.at(config.store, next_round(config, make, train)["output"])
        if at:
            right, total = _right(round, truth, known)
            low, high = wilson(right, total)
            seconds = time.perf_counter() - start
            print(f"  {name}, {len(known)} labels: {right / total:.3f} ({low:.3f} to {high:.3f}) of {total:,} others, "
                  f"{seconds:.0f} s", flush=True)  # fmt: skip
        known |= {row.id for row in round.tasks}
        round.answers.add([Annotation(row.id, "a", "labelled", truth[row.id]) for row in round.tasks])


def _right(round: Round, truth: dict[str, str], known: set[str]) -> tuple[int, int]:
    """(right predictions, records) of the records without a label."""
    id_of = {hash64(b"0", id.encode()): id for id in truth.keys() - known}
    artifact = Artifact.load(round.store, f"{round.uri}/{SCORED}")
    found = [(id_of[row["draw"]], row["prediction"]) for table in artifact.tables(["draw", "prediction"])
             for row in table.to_pylist() if row["draw"] in id_of]  # fmt: skip
    return sum(truth[id] == predicted for id, predicted in found), len(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
