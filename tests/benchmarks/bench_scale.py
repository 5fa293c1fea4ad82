"""What a run of 20,000 units and 100 million documents costs the driver: python -m tests.benchmarks scale

5,000 web pages of 3.3 kB are measured as one unit. Its files are linked once for every unit, so that the artifacts of
the whole run stand on the local disk; most of its text does not exist. The driver's work on them is done in full. Of
the work of units, which many cores share, one unit is done, or one of each kind. The duplicates are made-up counts.
Requests are those that an object store would get for the same work. Records are read again from a disk that answers
after 20 ms, as object stores do.

The same is done for a run of 1 TB, with units as large as `curate` would cut them and its default size of files. From
both follow requests and the driver's memory for 1 TB and 100 TB: requests of a unit of `measure` grow in proportion to
its documents, above a fixed number; the driver's memory and time in proportion to the units, above a fixed size.

SCALE_UNITS in the environment: another number of units. SCALE_TB: another size of the second run.

Predicted 2026-11-24: 20,000 records after 20 ms each by 64 threads 10 s. 1 TB: 3,726 units of 81,000 documents; measure
230,000 GET and 70,000 PUT, index 60,000 and 2,500, decide 90,000 and 16,000, select 250,000 and 210,000, merge 15,000;
the driver at most 30 MB more at its peak. 100 TB: 5,800 units; 80 to 95 times the requests of 1 TB, at most 40 MB.
"""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raymill.cluster.artifact import Artifact, Counters
from raymill.cluster.output import Output
from raymill.cluster.progress import Progress
from raymill.cluster.readers.freeze import bytes_of_unit, freeze
from raymill.cluster.readers.recorded import write_inputs
from raymill.cluster.readers.units import InputManifest
from raymill.cluster.session import Session
from raymill.cluster.stage import Scratch, Stage, committed, publish, run_unit
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.all_kernels import compile_kernels
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.curate.questions.what_if import DecideAgain, _units
from raymill.pipelines.curate.report.gather import gather
from raymill.pipelines.curate.report.page import render
from raymill.pipelines.curate.stages.decide import TALLIES, VERDICTS, decide_stage
from raymill.pipelines.curate.stages.ids import ID_INDEX, index_stage, positions_of
from raymill.pipelines.curate.stages.measure import ATTRIBUTES, QUARANTINE, measure_stage
from raymill.pipelines.curate.stages.samples import SAMPLES
from raymill.pipelines.curate.stages.tallies import (
    DUPLICATES,
    DUPLICATES_SCHEMA,
    SIMILARITY,
    SIMILARITY_SCHEMA,
    merge_stage,
)
from raymill.pipelines.curate.stages.write_corpus import KEPT, select_stage
from raymill.pipelines.dedup.compare import EXACT, NEAR
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine, memory_of_process
from tests.benchmarks.web_texts import cut
from tests.support.counted_disk import METHODS, CountedDisk, counted_disk, shown
from tests.support.inline import InlineEngine

PAGE_BYTES = 3300
CHANGES = {"a tighter bound": 60, "a looser bound": 5}  # of gopher_quality.min_words
TRIED = 200_000  # documents of what-if
ANSWER_S = 0.02  # of a slow store
STAGES = ("measure", "index", "decide", "select", "merge")


@dataclass(frozen=True)
class Size:
    """A run: its units of `measure`, the documents of each, and the approximate MiB of a corpus file."""

    units: int
    documents: int
    file_mib: int = 128

    @classmethod
    def of(cls, text_bytes: float) -> "Size":
        """The size of a run of this much text, in units of the size that `curate` gives them, all of them full."""
        unit = bytes_of_unit(int(text_bytes))
        return cls(max(1, round(text_bytes / unit)), round(unit / PAGE_BYTES))


# The first has units as of a small run, and corpus files so small that `select` has as many units as `measure`.
SIZES = (
    Size(int(os.environ.get("SCALE_UNITS", 20_000)), 5_000, 4),
    Size.of(float(os.environ.get("SCALE_TB", 1)) * 1e12),
)
EXTRAPOLATED = (1e12, 100e12)


@dataclass
class Found:
    """What a simulated run found: requests of all units of each stage, and of the driver without continuing a run.

    memory_mb: of the driver's step with the most. seconds: of all its steps.
    """

    size: Size
    requests: dict[str, Counter[str]] = field(default_factory=dict)
    memory_mb: float = 0.0
    seconds: float = 0.0


def run(texts: Texts) -> None:
    print(machine("pyarrow"))
    compile_kernels()
    found = [_simulated(texts, size) for size in SIZES]
    for text_bytes in EXTRAPOLATED:
        _extrapolated(text_bytes, *found)


def _simulated(texts: Texts, size: Size) -> Found:
    documents = size.units * size.documents
    print(f"{size.units:,} units, {documents:,} documents, {documents * PAGE_BYTES / 1e12:.2f} TB of text")
    with tempfile.TemporaryDirectory() as folder, counted_disk() as disk:
        driver = Driver(disk)
        config, inputs = _inputs(Path(folder), texts, size)
        driver("record the inputs", lambda: write_inputs(config.output, inputs, {}))
        engine = InlineEngine(config.output, Session(), Progress())
        made: dict[str, Artifact] = {}
        found = Found(size)

        def stage(name: str, plan: Callable[[], Stage], **more: Any) -> None:
            planned = driver(f"plan {name}", plan)
            engine.units[name], engine.wall_s[name] = len(planned.units), 0.0
            artifacts, found.requests[name] = _multiplied(planned, config, driver, size, **more)
            made.update(artifacts)

        stage("measure", lambda: measure_stage(config, config.filters, inputs))
        attributes = made[ATTRIBUTES]
        stage("index", lambda: index_stage(attributes))
        covered = len(decide_stage(config.filters, attributes, size.units).units[0])
        stage("decide", lambda: decide_stage(config.filters, attributes, size.units), covers={VERDICTS: covered})
        stage("duplicates", lambda: _duplicates(size.units))
        verdicts, duplicates = made[VERDICTS], made[DUPLICATES]
        stage(
            "select", lambda: select_stage(config, config.filters, (), inputs, attributes, verdicts, None, duplicates)
        )
        tallies, most = [made[TALLIES], made[KEPT]], config.report.samples
        stage("merge", lambda: merge_stage(tallies, made[SAMPLES], made[QUARANTINE], most), kind=_kind)
        report = driver("report: gather", lambda: gather(config, config.filters, (), inputs, engine, made))
        driver("report: page", lambda: render(report))
        found.requests["driver"] = driver.sent
        found.memory_mb, found.seconds = driver.memory_mb, driver.seconds
        reader = driver("open the run", lambda: RunReader(Store(), config.output))
        units = driver("plan what-if", lambda: _units(reader, verdicts, None))
        tried = units[: max(1, TRIED // size.documents)]
        for name, bound in CHANGES.items():
            after = CurateConfig.model_validate(
                config.model_dump() | {"rules": {"gopher_quality": {"min_words": bound}}}
            )
            again = DecideAgain(Store(), config.filters, after.filters, known=True, every=False)
            began = time.process_time()
            again(tried)
            taken = (time.process_time() - began) / len(tried) * len(units)
            _print(f"what-if, {name}", taken, "core-seconds of all units")
        id = next(attributes.tables(["id"]))["id"][7].as_py()
        row = driver("explain: find an id", lambda: positions_of(reader.artifact(ID_INDEX), id))  # type: ignore[arg-type]
        driver("explain: its row", lambda: reader.document_at(row[-1]))
    return found


def _extrapolated(text_bytes: float, one: Found, other: Found) -> None:
    """Print requests of each stage, and the driver's memory and time, for this much text, from two simulated runs."""
    size = Size.of(text_bytes)
    print(f"{text_bytes / 1e12:g} TB, extrapolated: {size.units:,} units of {size.documents:,} documents")
    total: Counter[str] = Counter()
    for stage in STAGES:
        sent = Counter({method: round(_requests(stage, method, size, one, other)) for method in METHODS})
        total += sent
        print(f"  {stage:<28}{shown(sent)}")
    print(f"  {'all units':<28}{shown(total)}")
    memory, seconds = (
        _line(size.units, (one.size.units, getattr(one, name)), (other.size.units, getattr(other, name)))
        for name in ("memory_mb", "seconds")
    )
    of_driver = Counter(
        {m: round(_line(size.units, *((f.size.units, f.requests["driver"][m]) for f in (one, other)))) for m in METHODS}
    )
    print(f"  {'the driver':<28}{memory:,.0f} MB more at its peak, {seconds:.1f} s in all, {shown(of_driver)}")


def _requests(stage: str, method: str, size: Size, one: Found, other: Found) -> float:
    """Requests of all units of a stage: those of a unit of `measure` are on a line over its documents."""
    points = ((found.size.documents, found.requests[stage][method] / found.size.units) for found in (one, other))
    return size.units * _line(size.documents, *points)


def _line(at: float, one: tuple[float, float], other: tuple[float, float]) -> float:
    """The value at `at` of the line through two points, which does not fall: growth is never taken as negative."""
    slope = max(0.0, (one[1] - other[1]) / (one[0] - other[0])) if one[0] != other[0] else 0.0
    highest = max(one, other)
    return max(0.0, highest[1] + slope * (at - highest[0]))


class Driver:
    """Does the driver's work, and prints its seconds, memory and requests. disk: counts the requests, if given."""

    def __init__(self, disk: CountedDisk | None = None) -> None:
        self.disk = disk
        self.memory_mb = self.seconds = 0.0  # of the step with the most; of all steps
        self.sent: Counter[str] = Counter()  # by all steps

    @property
    def requests(self) -> Counter[str]:
        """All requests up to now, by method."""
        return Counter(self.disk.requests if self.disk else ())

    def __call__(self, name: str, work: Callable[[], Any], again: bool = False) -> Any:
        """Do it. The memory is what it needs at its peak, above what was in use before.

        again: only to continue a run, so that it does not count as part of one.
        """
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again here
        memory, requests, began, processor = (
            memory_of_process("VmRSS"),
            self.requests,
            time.perf_counter(),
            time.process_time(),
        )
        result = work()
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
        peak, sent = (memory_of_process("VmHWM") - memory) / 1e6, self.requests - requests
        self.memory_mb = max(self.memory_mb, peak)
        if not again:
            self.seconds, self.sent = self.seconds + seconds, self.sent + sent
        more = f", {shown(sent)}" if self.disk else ""
        what = f"s on the driver, {processor:.1f} of the processor, {peak:,.0f} MB more at its peak{more}"
        _print(name, seconds, what)
        return result


def _inputs(folder: Path, texts: Texts, size: Size) -> tuple[CurateConfig, InputManifest]:
    """A config, and the manifest of as many units of one and the same file. `select` has as many units as `measure`."""
    pages: list[str] = []
    for seed in count(1):
        pages += cut(texts, "3.3 kB", seed).to_arrow().to_pylist()
        if len(pages) >= size.documents:
            break
    lines = (json.dumps({"id": f"page-{at}", "text": page}) for at, page in enumerate(pages[: size.documents]))
    (folder / "pages.jsonl").write_text("\n".join(lines))
    config = CurateConfig.model_validate(
        {"kind": "curate", "name": "scale", "inputs": [{"path": f"{folder}/pages.jsonl", "id": "id"}],
         "output": f"{folder}/run", "execution": {"unit_mib": 4096},
         "corpus": {"file_mib": size.file_mib}}
    )  # fmt: skip
    inputs = freeze(config.store, config.inputs, config.execution.unit_bytes)
    (unit,) = inputs.units
    inputs = replace(inputs, units=tuple(replace(unit, index=index) for index in range(size.units)))
    return config, inputs


def _duplicates(units_of_input: int) -> Stage:
    """A stage of one unit that writes made-up counts: 2 languages and 2 reasons in each unit of input."""

    def work(unit: None, scratch: Scratch) -> Counters:
        units = np.repeat(np.arange(units_of_input, dtype=np.int32), 4)
        kinds = {"language": ["en", "en", "de", "de"], "reason": [EXACT, NEAR] * 2}
        columns = {name: pa.array(values * units_of_input) for name, values in kinds.items()}
        numbers = {"documents": np.full(len(units), 300), "characters": np.full(len(units), 1_000_000)}
        scratch.write(
            DUPLICATES, pa.table({"unit": units, "source": pa.repeat("input", len(units))} | columns | numbers)
        )
        scratch.write(SIMILARITY, pa.table({"bin": np.arange(32, 40), "documents": np.full(8, units_of_input * 75)}))
        return {}

    outputs = (Output(DUPLICATES, DUPLICATES_SCHEMA), Output(SIMILARITY, SIMILARITY_SCHEMA))
    return Stage("duplicates", outputs, [None], work, "0" * 32, Store())


def _kind(unit: tuple[str, Sequence[str]]) -> str:
    return unit[0]


def _multiplied(
    stage: Stage,
    config: CurateConfig,
    driver: Driver,
    size: Size,
    covers: Mapping[str, int] = {},
    kind: Callable[[Any], str] = lambda unit: "",
) -> tuple[dict[str, Artifact], Counter[str]]:
    """(artifacts, requests of all units). One unit of each kind is done; the others' results are links to its files.

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
                if unit_of_file < size.units:
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
        read = driver(f"read the records of {stage.name}", lambda: committed(stage, root), again=True)
        assert len(read) == len(stage.units)
        if driver.disk and len(stage.units) == size.units:
            driver.disk.delay_s = ANSWER_S
            driver(f"  answers after {ANSWER_S * 1000:.0f} ms", lambda: committed(stage, root), again=True)
            driver.disk.delay_s = 0.0
    return driver(f"publish {stage.name}", lambda: publish(stage, root, records)), sent


def _print(name: str, seconds: float, what: str) -> None:
    print(f"  {name:<28}{seconds:10.2f} {what}", flush=True)
