"""From the rates of a sample to what every stage of a preparation takes.

The sample is prepared once to load models and kernels, then an eighth and all of it three times each. The line through
the medians of the processor time gives seconds of a unit and of a row.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from cluster.store import paths
from pipelines.curate.plan.estimate import LEAST_DUPLICATES, REQUEST_CORE_S, StagePlan, grouping_stages
from pipelines.curate.plan.rates import line
from pipelines.curate.plan.sample import Sample
from pipelines.dedup.settings import Dedup
from pipelines.prepare.assess.facts import UNIT_BYTES
from pipelines.prepare.config import PrepareConfig
from pipelines.prepare.plan.trial import Trial, try_out
from pipelines.prepare.stages.collect import CollectSettings

_TIMES = 3
_PART = 8  # the smaller trials have every eighth row

# Stages of one unit, or of a few for each table, whatever the input, also in a folder of the run.
_OF_ONE_UNIT = ("tables", "repeated", "fit", "complexity", "split")


@dataclass(frozen=True)
class RowRates:
    """What one row takes. trial: of the whole sample. unit_s, row_s: processor seconds by stage. read_s: of a byte."""

    trial: Trial
    unit_s: Mapping[str, float]
    row_s: Mapping[str, float]
    read_s: float


def measure_rates(config: PrepareConfig, settings: CollectSettings, sample: Sample) -> RowRates:
    """Prepare the sample on the local disk, several times.

    Raises:
        UserError: as the run.
    """
    with tempfile.TemporaryDirectory(prefix="raymill-plan-") as folder:
        try_out(config, settings, sample, f"{folder}/first")
        parts = [try_out(config, settings, sample, f"{folder}/part-{n}", _PART) for n in range(_TIMES)]
        wholes = [try_out(config, settings, sample, f"{folder}/whole-{n}") for n in range(_TIMES)]
    unit_s, row_s = {}, {}
    for stage, units in wholes[0].units.items():
        few, many = (median(trial.seconds[stage] for trial in trials) for trials in (parts, wholes))
        unit_s[stage], row_s[stage] = line(max(units, 1), (parts[0].rows, few), (wholes[0].rows, many))
    return RowRates(wholes[0], unit_s, row_s, sample.read_s)


def plan_stages(config: PrepareConfig, rates: RowRates, rows: int, units: int, text: float) -> list[StagePlan]:
    """Every stage of a run. rows, units, text: of the input; text in bytes."""
    writes = paths.is_remote(paths.absolute(config.output))
    reads = any(paths.is_remote(one.path or paths.absolute(config.output)) for one in config.inputs)
    scale = rows / rates.trial.rows
    found: list[StagePlan] = []
    for name in rates.trial.units:
        if name in rates.trial.compared:
            found += _grouping(config, name, rates.trial, rows, units, found, writes)
            continue
        written = rates.trial.written[name] * scale
        count = _units(name, units, written, found)
        core_s = count * rates.unit_s[name] + rows * rates.row_s[name]
        if name == "collect":
            core_s += text * rates.read_s
        # A unit reads a file or two of the stages before it, and writes its files and its record.
        gets = 2 * count * (reads if name == "collect" else writes)
        puts = 3 * count * writes
        core_s += REQUEST_CORE_S * (gets + puts)
        found.append(StagePlan(name, count, core_s, 0, written, gets, puts, rates.trial.memory[name]))
    return found


def _grouping(
    config: PrepareConfig, name: str, trial: Trial, rows: int, units: int, before: Sequence[StagePlan], writes: bool
) -> list[StagePlan]:
    """The stages that find duplicates among one kind of texts, as a curation's plan has them."""
    compared = trial.compared[name]
    prefix = name.removesuffix("group")
    texts = round(rows * compared.texts / trial.rows)
    duplicates = max(compared.duplicates / max(1, compared.texts), LEAST_DUPLICATES)
    files = _units("assess.assess", units, 0, before) if name.startswith("assess.") else units
    dedup = config.dedup or Dedup()
    found = grouping_stages(dedup, texts, 0, files, compared.columns, texts, duplicates) if texts else ()
    return [
        replace(
            stage,
            name=f"{prefix}{stage.name}",
            gets=writes * stage.gets,
            puts=writes * stage.puts,
            core_s=stage.core_s + writes * REQUEST_CORE_S * (stage.gets + stage.puts),
        )
        for stage in found
    ]


def _units(name: str, units: int, written: float, before: Sequence[StagePlan]) -> int:
    if name.startswith("assess."):
        if name not in ("assess.assess", "assess.embed"):
            return 1
        splits = next(stage.written for stage in before if stage.name == "write")
        return max(1, math.ceil(splits / UNIT_BYTES))
    return 1 if name.rpartition(".")[2] in _OF_ONE_UNIT else units
