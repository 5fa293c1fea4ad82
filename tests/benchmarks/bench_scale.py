"""What a run of 20,000 units and 100 million documents costs the driver: python -m tests.benchmarks scale

First 100,000 Parquet files of one document are listed and frozen, and listed alone, as for a finished run.
5,000 web pages of 3.3 kB are measured as one unit. Its files are linked once for every unit, so that the artifacts of
the whole run stand on the local disk; most of its text does not exist. The driver's work on them is done in full. Of
the work of units, which many cores share, one unit is done, or one of each kind. The duplicates are made-up counts.
Requests are those that an object store would get for the same work.
SCALE_UNITS in the environment: another number of units.
"""

import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.artifact import Artifact, Counters
from cluster.output import Output
from cluster.progress import Silent
from cluster.session import Session
from cluster.stage import Scratch, Stage, committed, publish, run_unit
from cluster.store import paths
from cluster.store.store import Store
from pipelines.all_kernels import compile_kernels
from pipelines.curate.config import CurateConfig
from pipelines.curate.decide import TALLIES, VERDICTS, decide_stage
from pipelines.curate.decide_again import DecideAgain
from pipelines.curate.id_index import ID_INDEX, index_stage, positions_of
from pipelines.curate.measure import ATTRIBUTES, QUARANTINE, measure_stage
from pipelines.curate.removed_duplicates import DUPLICATES, DUPLICATES_SCHEMA, SIMILARITY, SIMILARITY_SCHEMA
from pipelines.curate.report.gather import gather
from pipelines.curate.report.merge import SmallFiles, merge_stage
from pipelines.curate.report.page import render
from pipelines.curate.report.samples import SAMPLES
from pipelines.curate.run_reader import RunReader
from pipelines.curate.what_if import _units
from pipelines.curate.write_corpus import KEPT, select_stage
from pipelines.dedup.compare import EXACT, NEAR
from pipelines.readers.freeze import freeze
from pipelines.readers.inputs import Input
from pipelines.readers.listing import list_inputs
from pipelines.readers.recorded import write_inputs
from pipelines.readers.units import InputManifest
from pipelines.text.texts import Texts
from tests.benchmarks.timing import machine
from tests.benchmarks.web_texts import cut
from tests.support.counted_disk import METHODS, CountedDisk, counted_disk, shown
from tests.support.inline import InlineEngine

UNITS = int(os.environ.get("SCALE_UNITS", 20_000))
DOCUMENTS = 5_000  # of a unit
FILES = 100_000
TRIED = 40  # units of what-if
CHANGES = {"a tighter bound": 60, "a looser bound": 5}  # of gopher_quality.min_words


def run(texts: Texts) -> None:
    print(machine("pyarrow"))
    _many_files()
    print(f"{UNITS:,} units, {UNITS * DOCUMENTS:,} documents, {UNITS * DOCUMENTS * 3.3e-9:.2f} TB of text")
    compile_kernels()
    with tempfile.TemporaryDirectory() as folder, counted_disk() as disk:
        driver = Driver(disk)
        config, inputs = _inputs(Path(folder), texts)
        driver("record the inputs", lambda: write_inputs(config.output, inputs, {}))
        engine = InlineEngine(config.output, Session(), Silent())
        made: dict[str, Artifact] = {}

        def stage(name: str, plan: Callable[[], Stage], **more: Any) -> None:
            planned = driver(f"plan {name}", plan)
            engine.units[name], engine.wall_s[name] = len(planned.units), 0.0
            made.update(_multiplied(planned, config, driver, **more))

        stage("measure", lambda: measure_stage(config.measure_settings, inputs))
        attributes = made[ATTRIBUTES]
        stage("index", lambda: index_stage(attributes))
        covered = len(decide_stage(config.filters, attributes, UNITS).units[0])
        stage("decide", lambda: decide_stage(config.filters, attributes, UNITS), covers={VERDICTS: covered})
        stage("duplicates", _duplicates)
        settings, verdicts, duplicates = config.select_settings, made[VERDICTS], made[DUPLICATES]
        stage("select", lambda: select_stage(settings, inputs, attributes, verdicts, None, duplicates))
        tallies, most = [made[TALLIES], made[KEPT]], config.report.samples
        stage("merge", lambda: merge_stage(tallies, made[SAMPLES], made[QUARANTINE], most), kind=_kind)
        report = driver("report: gather", lambda: gather(config.report_settings, inputs, engine, made))
        driver("report: page", lambda: render(report))
        reader = driver("open the run", lambda: RunReader(Store(), config.output))
        units = driver("plan what-if", lambda: _units(reader, verdicts, None))
        for name, bound in CHANGES.items():
            after = CurateConfig.model_validate(
                config.model_dump() | {"rules": {"gopher_quality": {"min_words": bound}}}
            )
            again = DecideAgain(Store(), config.filters, after.filters, known=True, every=False)
            began = time.process_time()
            again(units[:TRIED])
            _print(f"what-if, {name}", (time.process_time() - began) / TRIED * UNITS, "core-seconds of all units")
        id = next(attributes.tables(["id"]))["id"][7].as_py()
        found = driver("explain: find an id", lambda: positions_of(reader.artifact(ID_INDEX), id))  # type: ignore[arg-type]
        driver("explain: its row", lambda: reader.document_at(found[-1]))


class Driver:
    """Does the driver's work, and prints its seconds, memory and requests. disk: counts the requests, if given."""

    def __init__(self, disk: CountedDisk | None = None) -> None:
        self.disk = disk

    @property
    def requests(self) -> Counter[str]:
        """All requests up to now, by method."""
        return Counter(self.disk.requests if self.disk else ())

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        """Do it. The memory is what it needs at its peak, above what was in use before."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again here
        memory, requests, began, processor = (
            _megabytes("VmRSS"),
            self.requests,
            time.perf_counter(),
            time.process_time(),
        )
        result = work()
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
        more = f", {shown(self.requests - requests)}" if self.disk else ""
        _print(
            name,
            seconds,
            f"s on the driver, {processor:.1f} of the processor, {_megabytes('VmHWM') - memory:,.0f} MB more at its "
            f"peak{more}",
        )
        return result


def _many_files() -> None:
    driver = Driver()
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, "000000.parquet")
        pq.write_table(pa.table({"text": ["A page."]}), first)
        for number in range(1, FILES):
            shutil.copyfile(first, Path(folder, f"{number:06}.parquet"))
        inputs = [Input(path=folder)]
        manifest = driver(f"freeze {FILES:,} files", lambda: freeze(Store(), inputs))
        assert len(manifest.files) == FILES
        listed = driver("list them", lambda: list_inputs(Store(), inputs))
        assert listed.fingerprint == manifest.fingerprint


def _inputs(folder: Path, texts: Texts) -> tuple[CurateConfig, InputManifest]:
    """A config, and the manifest of UNITS units of one and the same file. `select` has as many units as `measure`."""
    pages = [page for seed in (1, 2) for page in cut(texts, "3.3 kB", seed).to_arrow().to_pylist()][:DOCUMENTS]
    assert len(pages) == DOCUMENTS, "the texts are too few"
    lines = (json.dumps({"id": f"page-{at}", "text": page}) for at, page in enumerate(pages))
    (folder / "pages.jsonl").write_text("\n".join(lines))
    config = CurateConfig.model_validate(
        {"kind": "curate", "name": "scale", "inputs": [{"path": f"{folder}/pages.jsonl", "id": "id"}],
         "output": f"{folder}/run", "execution": {"unit_mib": 4096},
         "corpus": {"file_mib": 4}}
    )  # fmt: skip
    inputs = freeze(config.store, config.inputs, config.execution.unit_bytes)
    (unit,) = inputs.units
    inputs = replace(inputs, units=tuple(replace(unit, index=index) for index in range(UNITS)))
    return config, inputs


def _duplicates() -> Stage:
    """A stage of one unit that writes made-up counts: 2 languages and 2 reasons in each unit of input."""

    def work(unit: None, scratch: Scratch) -> Counters:
        units = np.repeat(np.arange(UNITS, dtype=np.int32), 4)
        kinds = {"language": ["en", "en", "de", "de"], "reason": [EXACT, NEAR] * 2}
        columns = {name: pa.array(values * UNITS) for name, values in kinds.items()}
        numbers = {"documents": np.full(len(units), 300), "characters": np.full(len(units), 1_000_000)}
        scratch.write(
            DUPLICATES, pa.table({"unit": units, "source": pa.repeat("input", len(units))} | columns | numbers)
        )
        scratch.write(SIMILARITY, pa.table({"bin": np.arange(32, 40), "documents": np.full(8, UNITS * 75)}))
        return {}

    outputs = (Output(DUPLICATES, DUPLICATES_SCHEMA), Output(SIMILARITY, SIMILARITY_SCHEMA))
    return Stage("duplicates", outputs, [None], work, "0" * 32, Store())


def _kind(unit: SmallFiles) -> str:
    return "tallies" if unit.tallies else "samples" if unit.samples else "quarantine"


def _multiplied(
    stage: Stage,
    config: CurateConfig,
    driver: Driver,
    covers: Mapping[str, int] = {},
    kind: Callable[[Any], str] = lambda unit: "",
) -> dict[str, Artifact]:
    """The artifacts of a stage. One unit of each kind is done; the results of all others are links to its files.

    covers: how many units of `measure` a unit has files of, for outputs with files for each of those.
    """
    root, records = config.output, {}
    first: dict[str, int] = {}
    seconds: dict[str, float] = {}
    requests: dict[str, Counter[str]] = {}
    for index, unit in enumerate(stage.units):
        base = first.setdefault(kind(unit), index)
        if base == index:
            began, before = time.process_time(), driver.requests
            records[index] = run_unit(stage, root, index, unit)
            seconds[kind(unit)] = time.process_time() - began
            requests[kind(unit)] = driver.requests - before
            continue
        files: dict[str, Any] = {}
        for name, written in records[base].files.items():
            files[name] = []
            for old in written:
                unit_of_file = index * covers[name] + old.unit if name in covers else index
                if unit_of_file < UNITS:
                    new = replace(old, unit=unit_of_file, path=f"{unit_of_file:06}-{old.path[7:]}")
                    os.link(f"{root}/{name}/{old.path}", f"{root}/{name}/{new.path}")
                    files[name].append(new)
        records[index] = replace(records[base], unit=index, files=files)
        if stage.key is None:
            uri = paths.join(root, stage.folder, stage.record_name(index, None))
            config.store.write_bytes(uri, records[index].to_json())
    of_units = Counter(map(kind, stage.units))
    total = sum(seconds[name] * count for name, count in of_units.items())
    sent = Counter({m: sum(requests[name][m] * count for name, count in of_units.items()) for m in METHODS})
    _print(f"{stage.name}, {len(stage.units):,} units", total, f"core-seconds of all units, {shown(sent)}")
    if stage.key is None:
        read = driver(f"read the records of {stage.name}", lambda: committed(stage, root))
        assert len(read) == len(stage.units)
    return driver(f"publish {stage.name}", lambda: publish(stage, root, records))


def _megabytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def _print(name: str, seconds: float, what: str) -> None:
    print(f"  {name:<28}{seconds:10.2f} {what}", flush=True)
