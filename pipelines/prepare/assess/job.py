"""Assesses the splits of a run.

    assess     facts of every record                              -> _work/assess/facts and others
    group      repeated questions; then the same of answers       -> _work/assess/questions, _work/assess/answers
    summary    what the facts add up to                           -> _work/assess/summary

Stages of other settings or splits are made again: nothing else reads them.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from cluster.artifact import Artifact
from cluster.record import json_bytes
from cluster.stage import Stage
from cluster.store import paths
from pipelines.dedup.group import GROUPS, group_stage
from pipelines.dedup.settings import Dedup
from pipelines.prepare.assess.facts import ANSWERS, QUESTIONS, VERDICTS, FactsSettings, facts_stage, units_of
from pipelines.prepare.assess.score import Assessment, assessment_of
from pipelines.prepare.assess.summary import SUMMARY, findings_of, summary_stage
from pipelines.prepare.config import PrepareConfig
from pipelines.prepare.sources import Fields, as_input

ASSESSMENT = "assessment.json"
_FOLDER = "_work/assess"


class RunsStages(Protocol):
    """What `assess` runs its stages with: an Engine."""

    def run(self, stage: Stage) -> dict[str, Artifact]:
        """The artifacts of a stage."""


def assess(
    config: PrepareConfig, root: str, splits: Sequence[Artifact], engine_at: Callable[[str], RunsStages]
) -> Assessment:
    """The assessment of a run's splits, which is also written to ASSESSMENT.

    engine_at: the engine of a folder. It replaces what was made with other settings.
    """
    folder = paths.join(root, _FOLDER)
    dedup = _without_scope(config.dedup or Dedup())
    facts = engine_at(folder).run(facts_stage(_settings(config, dedup), splits, config.limits))
    units = len(units_of(splits))
    inputs, groups = [as_input(one, Fields({}, "text")) for one in config.inputs], {}
    for of in (QUESTIONS, ANSWERS):
        stage = group_stage(dedup, inputs, facts[of], facts[VERDICTS], units)
        groups[of] = engine_at(paths.join(folder, of.partition("/")[0])).run(stage)[GROUPS]
    summary = engine_at(folder).run(summary_stage(config.assess, facts, groups, units))[SUMMARY]
    found = assessment_of(findings_of(summary), config.assess, config.gates, root)
    splits[0].store.write_bytes(paths.join(root, ASSESSMENT), json_bytes(found))
    return found


def _without_scope(dedup: Dedup) -> Dedup:
    """The similarity of these settings, of all records with each other; the first record counts as the original."""
    return dedup.model_copy(update={"scope": "all", "keeper": "position", "sources": ()})


def _settings(config: PrepareConfig, dedup: Dedup) -> FactsSettings:
    allowed, split = config.validation.allowed, config.split
    balanced = split.balance.by if split.balance else ()
    named = ("source", "task_type", *split.stratify, *balanced, *allowed, *config.assess.fields)
    return FactsSettings(
        shape=config.records.shape,
        assess=config.assess,
        dedup=dedup,
        complete=tuple(dict.fromkeys((*config.metadata, *config.validation.require))),
        allowed=allowed,
        fields=tuple(name for name in dict.fromkeys(named) if name in config.known),
    )
