"""The operators for Ray Data beside `curate`: processor time of the work, and of whole programs.

    RAY_DATA_MB=125 python -m tests.benchmarks ray_data

In one process, for three lengths of text: the stages `measure` and `decide` on tables of texts; the operators on the
same tables as batches, after `Normalize` and each by itself. Medians of 5.

As a user runs it, all processes, Ray's start included: `raymill curate` of a Parquet file; a program that reads it as a
Dataset and does the same by operators, `deduplicate` and `write_parquet`. Processor time is read from /proc twice a
second, so the last half second of a process is missing, in both.

Predicted 2026-11-26, quiet machine: after Normalize 1.05 times the time of curate for each length, by themselves 1.25;
of the whole programs 1.2 times with 125 MB, because Ray Data is imported in every worker.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path

import pyarrow as pa

from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.reader import text_problems
from raymill.cluster.readers.units import Reading
from raymill.cluster.store.store import Store
from raymill.data import Language, Normalize, PersonalData, Rules, Signature
from raymill.pipelines.curate.stages.measure import Measure
from raymill.pipelines.rules.filters import decide
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.bench_curate import write_input
from tests.benchmarks.measure_parts import settings, tables
from tests.benchmarks.timing import machine, processor_seconds
from tests.benchmarks.web_texts import by_length, spread

MEGABYTES = float(os.environ.get("RAY_DATA_MB", 125))
OF_EACH_LENGTH = 16
_POLL_S = 0.5
_TICKS = os.sysconf("SC_CLK_TCK")

_OPERATORS = (Language(), Rules(), Signature(), PersonalData(redact=[]))

_PROGRAM = """
import sys
import ray
import raymill.data as data

source, output = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
rows = ray.data.read_parquet(source)
for operator in (data.Normalize(), data.Language(), data.Rules()):
    rows = rows.map_batches(operator, batch_format="pyarrow")
rows = rows.filter(expr="keep").select_columns(["id", "text"])
rows = data.deduplicate(rows, id="id", scratch=f"{output}-scratch")
rows = rows.map_batches(lambda batch: batch.filter(batch["partner"].is_null()), batch_format="pyarrow")
rows.map_batches(data.PersonalData(), batch_format="pyarrow").write_parquet(output)
"""


def run(texts: Texts) -> None:
    print(machine("ray", "pyarrow", "numba"))
    print(f"| {OF_EACH_LENGTH} MB of texts of | measure and decide | operators after Normalize | each by itself |")
    print("|---|---|---|---|")
    for name, one in by_length(texts).items():
        batches = list(tables(spread(one, OF_EACH_LENGTH)))
        curate, chained, alone = (processor_seconds(partial(work, batches)) for work in (_curate, _chained, _alone))
        shown = " | ".join(f"{seconds:.2f} s, {seconds / curate:.2f}" for seconds in (chained, alone))
        print(f"| {name} | {curate:.2f} s | {shown} |")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in", "input.parquet")
        source.parent.mkdir()
        write_input(texts, source, int(MEGABYTES * 1e6))
        config, program = Path(folder, "curate.yaml"), Path(folder, "program.py")
        inputs = [{"path": str(source), "id": "id"}]
        config.write_text(json.dumps({"kind": "curate", "name": "bench", "inputs": inputs, "output": f"{folder}/run"}))
        program.write_text(_PROGRAM)
        curate = _of_all_processes("-m", "raymill.cluster.cli", "curate", str(config), "-o", "execution.cpus=2")
        dataset = _of_all_processes(str(program), str(source), f"{folder}/corpus")
        found = f"curate {curate:.0f}, Ray Data {dataset:.0f} core-seconds, {dataset / curate:.2f}"
        print(f"{MEGABYTES:g} MB, all processes: {found}")


def _curate(batches: list[pa.Table]) -> None:
    config = settings()
    measure = Measure(config, config.filters, Reading(Store(), config.inputs, pa.schema([])))
    for batch in batches:
        text_problems(batch["text"].combine_chunks(), Limits())  # as the reader does it
        decide(measure.attributes("input", batch), config.filters)


def _chained(batches: list[pa.Table]) -> None:
    for batch in batches:
        batch = Normalize()(batch)
        for operator in _OPERATORS:
            batch = operator(batch)


def _alone(batches: list[pa.Table]) -> None:
    for batch in batches:
        for operator in _OPERATORS:
            batch = operator(batch)


def _of_all_processes(*words: str) -> float:
    """Processor seconds of a Python program and of every process that it starts."""
    seconds: dict[int, float] = {}
    ended = threading.Event()
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as program:
        poll = threading.Thread(target=_poll, args=(program.pid, seconds, ended))
        poll.start()
        _, errors = program.communicate()
        ended.set()
        poll.join()
    if program.returncode:
        raise SystemExit(errors.decode()[-2000:])
    return sum(seconds.values())


def _poll(root: int, seconds: dict[int, float], ended: threading.Event) -> None:
    """Keep the processor seconds of a process and its descendants, by their number, until `ended`."""
    ours = {root}
    while not ended.wait(_POLL_S):
        found: dict[int, tuple[int, float]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:  # it ended
                continue
            found[int(stat.parent.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS
        # A process whose parent has ended belongs to another parent, but was seen before.
        while more := {pid for pid, (parent, _) in found.items() if parent in ours} - ours:
            ours |= more
        seconds |= {pid: used for pid, (_, used) in found.items() if pid in ours}
