"""What a run of 20,000 units and 100 million documents costs: python -m tests.benchmarks scale

5,000 web pages of 3.3 kB are measured as one unit. Its files are linked once for every unit, so that the artifacts of
the whole run stand on the local disk; most of its text does not exist. The driver's work on them is done in full; of
the work of units, which many cores share, a few are done. SCALE_UNITS in the environment: another number of units.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.artifact import Artifact
from cluster.stage import Stage, publish, run_unit
from cluster.store.store import Store
from pipelines.all_kernels import compile_kernels
from pipelines.curate.config import CurateConfig
from pipelines.curate.decide import TALLIES, VERDICTS, decide_stage
from pipelines.curate.decide_again import DecideAgain
from pipelines.curate.id_index import ID_INDEX, index_stage, positions_of
from pipelines.curate.measure import ATTRIBUTES, measure_stage
from pipelines.curate.report.gather import _Tallies
from pipelines.curate.run_reader import RunReader
from pipelines.curate.what_if import _units
from pipelines.curate.write_corpus import KEPT, select_stage
from pipelines.readers.freeze import freeze
from pipelines.readers.recorded import write_inputs
from pipelines.readers.units import InputManifest
from pipelines.text.texts import Texts
from tests.benchmarks.timing import machine
from tests.benchmarks.web_texts import cut

UNITS = int(os.environ.get("SCALE_UNITS", 20_000))
DOCUMENTS = 5_000  # of a unit
TRIED = 40  # units
CHANGES = {"a tighter bound": 60, "a looser bound": 5}  # of gopher_quality.min_words


def run(texts: Texts) -> None:
    print(machine("pyarrow"))
    print(f"{UNITS:,} units, {UNITS * DOCUMENTS:,} documents, {UNITS * DOCUMENTS * 3.3e-9:.2f} TB of text")
    compile_kernels()
    with tempfile.TemporaryDirectory() as folder:
        config, inputs = _inputs(Path(folder), texts)
        artifacts = _driver("plan measure", lambda: _multiplied(measure_stage(config.measure_settings, inputs), config))
        attributes = artifacts[ATTRIBUTES]
        index = _driver("plan index", lambda: index_stage(attributes))
        _units_of(index, config)
        _driver("publish index", lambda: _multiplied(index, config))
        decide = _driver("plan decide", lambda: decide_stage(config.filters, attributes, UNITS))
        _units_of(decide, config)
        artifacts |= _driver("publish decide", lambda: _multiplied(decide, config))
        verdicts, tallies = artifacts[VERDICTS], artifacts[TALLIES]
        _driver("plan select", lambda: select_stage(config.select_settings, inputs, attributes, verdicts, None))
        _driver("report: tallies", lambda: _Tallies(config.filters, None, {TALLIES: tallies, KEPT: tallies}))
        reader = _driver("open the run", lambda: RunReader(Store(), config.output))
        units = _driver("plan what-if", lambda: _units(reader, None))
        for name, bound in CHANGES.items():
            after = CurateConfig.model_validate(
                config.model_dump() | {"rules": {"gopher_quality": {"min_words": bound}}}
            )
            again = DecideAgain(Store(), config.filters, after.filters, known=True, every=False)
            began = time.process_time()
            again(units[:TRIED])
            _print(f"what-if, {name}", (time.process_time() - began) / TRIED * UNITS, "core-seconds of all units")
        id = next(attributes.tables(["id"]))["id"][7].as_py()
        found = _driver("explain: find an id", lambda: positions_of(reader.artifact(ID_INDEX), id))  # type: ignore[arg-type]
        _driver("explain: its row", lambda: reader.document_at(found[-1]))


def _inputs(folder: Path, texts: Texts) -> tuple[CurateConfig, InputManifest]:
    """A config, and the manifest of UNITS units of one and the same file."""
    pages = [page for seed in (1, 2) for page in cut(texts, "3.3 kB", seed).to_arrow().to_pylist()][:DOCUMENTS]
    assert len(pages) == DOCUMENTS, "the texts are too few"
    lines = (json.dumps({"id": f"page-{at}", "text": page}) for at, page in enumerate(pages))
    (folder / "pages.jsonl").write_text("\n".join(lines))
    config = CurateConfig.model_validate(
        {"kind": "curate", "name": "scale", "inputs": [{"path": f"{folder}/pages.jsonl", "id": "id"}],
         "output": f"{folder}/run", "execution": {"unit_mib": 4096}}
    )  # fmt: skip
    inputs = freeze(config.store, config.inputs, config.execution.unit_bytes)
    (unit,) = inputs.units
    inputs = replace(inputs, units=tuple(replace(unit, index=index) for index in range(UNITS)))
    _driver("record the inputs", lambda: write_inputs(config.output, inputs, {}))
    return config, inputs


def _multiplied(stage: Stage, config: CurateConfig) -> dict[str, Artifact]:
    """The artifacts of a stage whose first unit is done, and the results of all others are links to its files."""
    first = run_unit(stage, config.output, 0, stage.units[0])
    records = {0: first}
    for index in range(1, len(stage.units)):
        files: dict[str, Any] = {}
        for name, made in first.files.items():
            files[name] = [replace(file, unit=index, path=f"{index:06}-{file.path[7:]}") for file in made]
            for old, new in zip(made, files[name], strict=True):
                os.link(f"{config.output}/{name}/{old.path}", f"{config.output}/{name}/{new.path}")
        records[index] = replace(first, unit=index, files=files)
    return publish(stage, config.output, records)


def _units_of(stage: Stage, config: CurateConfig) -> None:
    """Do the work of some units, and print the processor time of all of them."""
    tried = min(TRIED, len(stage.units), 1 if stage.name == "index" else TRIED)
    began = time.process_time()
    for index in range(1, tried + 1):
        run_unit(stage, f"{config.output}-tried", index, stage.units[index])
    seconds = (time.process_time() - began) / tried * len(stage.units)
    _print(f"{stage.name}, {len(stage.units):,} units", seconds, "core-seconds of all units")


def _driver(name: str, work: Callable[[], Any]) -> Any:
    """Do it, and print its seconds and the memory that it needs at its peak, above what was in use before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again here
    before, began = _megabytes("VmRSS"), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - began
    _print(name, seconds, f"s on the driver, {_megabytes('VmHWM') - before:,.0f} MB more at its peak")
    return result


def _megabytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def _print(name: str, seconds: float, what: str) -> None:
    print(f"  {name:<28}{seconds:10.2f} {what}", flush=True)
