"""The plan of a run over files whose kind has none of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.artifact import Artifact
from cluster.frame.files import FilesJob
from cluster.frame.kinds import kind_of
from cluster.plan.sample import Sample, a_unit_for_each_file, draw_sample, planned_input
from cluster.plan.subject import Subject
from cluster.plan.trial import Trial
from cluster.plan.whole import Whole
from cluster.readers.freeze import freeze
from cluster.readers.inputs import Input


def subject(config: Any, documents: float | None = None) -> Subject:
    """The run of a config, to plan it. Lists the inputs, and reads a sample of some 16 MB.

    documents: number of documents to plan for; default: those of the input.

    Raises:
        UserError: an input is missing, or no document of the sample can be read.
    """
    job: FilesJob[Any] = kind_of(config.kind).job(config)
    sample = draw_sample(job.frozen, job.document_limits)
    inputs, input, is_exact = planned_input(job.frozen, sample, config.execution.unit_bytes, documents)

    def try_out(trial: Trial, every: int) -> Mapping[str, Artifact]:
        sources = sampled_inputs(config.inputs, sample, trial, every)
        local = type(job)(config.model_copy(update={"inputs": sources, "output": trial.root}))
        local.frozen = a_unit_for_each_file(freeze(trial.store, sources, 1 << 40))
        return local.stages(trial.run)

    def run_all(whole: Whole) -> None:
        planned = type(job)(config)
        planned.frozen = inputs
        planned.stages(whole.run)

    def outcome(found: Mapping[str, Artifact]) -> tuple[str, Mapping[str, float]]:
        return "read", {}

    def machine(cores: int) -> int:
        return job.machines(None).memory

    return Subject(config, job.root, "document", input, is_exact, sample.numbers, try_out, run_all, outcome, machine)


def sampled_inputs(inputs: Sequence[Input], sample: Sample, trial: Trial, every: int) -> tuple[Input, ...]:
    """Inputs that have every `every`-th row of a sample in place of their files."""
    columns = {entry.source: ["id", "text", *entry.columns] for entry in inputs}
    folders = sample.write(trial, every, lambda source, table: table.select(list(dict.fromkeys(columns[source]))))
    return tuple(
        one.model_copy(
            update={"path": folders[one.source], "format": None, "text": "text", "id": one.id and "id",
                    "exclude": (), "storage": None}
        )
        for one in inputs if one.source in folders
    )  # fmt: skip
