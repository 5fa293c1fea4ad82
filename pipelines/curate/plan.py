"""What a curation takes, before it runs: `raymill plan` of a config of `kind: curate`."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from cluster.artifact import Artifact
from cluster.formats import plural
from cluster.plan.plan import Subject, sampled_inputs
from cluster.plan.sample import a_unit_for_each_file, draw_sample, planned_input
from cluster.plan.trial import Trial
from cluster.plan.whole import Whole
from cluster.readers.freeze import freeze
from pipelines.curate.config import CurateConfig
from pipelines.curate.job import CurateJob, check_models_and_lists, run_stages
from pipelines.curate.stages.boilerplate import PIECES
from pipelines.curate.stages.decide import VERDICTS
from pipelines.curate.stages.removed_duplicates import DUPLICATES
from pipelines.curate.stages.repeats import ANCHORS, REPEATED
from pipelines.curate.stages.write_corpus import CORPUS, REMOVED
from pipelines.curate.work import machine_of
from pipelines.dedup.cost import CANDIDATES_OF_A_DUPLICATE, LEAST_DUPLICATES, duplicates_among
from pipelines.dedup.earlier import open_runs
from pipelines.dedup.group import GROUPS
from pipelines.kernel_cache import say_if_compiling


def subject(config: CurateConfig, documents: float | None = None, duplicates: float | None = None) -> Subject:
    """The run of a config, to plan it. Lists the inputs, and reads a sample of some 16 MB.

    Args:
        documents: number of documents to plan for; default: those of the input. duplicates: share of duplicates among
            the documents that pass; default: that of the sample, at least LEAST_DUPLICATES.

    Raises:
        UserError: a first check of a run fails, or no document of the sample can be read.
    """
    job = CurateJob(config)
    root, inputs = job.root, job.frozen
    check_models_and_lists(config.filters, config.store)
    earlier = sum(run.attributes.manifest.rows for run in open_runs(config.dedup, config.store))
    say_if_compiling()
    sample = draw_sample(inputs, config.limits)
    inputs, input, is_exact = planned_input(inputs, sample, config.execution.unit_bytes, documents)
    assumed: list[str] = []

    def try_out(trial: Trial, every: int) -> Mapping[str, Artifact]:
        sources = sampled_inputs(config.inputs, sample, trial, every)
        dedup = config.dedup and config.dedup.model_copy(update={"against": ()})
        local = config.model_copy(update={"inputs": sources, "output": trial.root, "dedup": dedup})
        return run_stages(local, a_unit_for_each_file(freeze(trial.store, sources, 1 << 40)), trial.run)

    def run_all(whole: Whole) -> None:
        found, rows = whole.sampled.artifacts, whole.sampled.whole.rows
        seen = _duplicates(found)
        passed = found[VERDICTS].manifest.counters["passed"]
        share = max(seen, LEAST_DUPLICATES) if duplicates is None else duplicates
        whole.assumed["duplicates"] = share
        if earlier:
            whole.assumed["earlier"] = earlier
        if config.dedup and config.dedup.remove:
            stays = (1 - share) / max(1 - seen, 1e-9)
            removed = (rows - passed * (1 - share)) / max(rows - passed * (1 - seen), 1)
            whole.factors |= {CORPUS: stays, PIECES: stays, ANCHORS: stays, REMOVED: removed}
        of_units = np.array(input.weights) / sum(input.weights) * share * passed / rows * input.rows
        whole.rows_of[DUPLICATES] = pa.table({"unit": np.arange(len(of_units)), "documents": of_units})
        run_stages(config, inputs, whole.run)
        origin = (
            "given" if duplicates is not None else "as in the sample" if share > LEAST_DUPLICATES else
            f"a guess; the sample shows {seen:.1%}, and duplicates far apart in the input are not in it"
        )  # fmt: skip
        assumed.append(
            f"{share:.1%} of the documents that pass are duplicates ({origin}), and {CANDIDATES_OF_A_DUPLICATE:g} "
            "times as many have a band key of another document (--duplicates)."
        )
        if config.repeats:
            assumed.append(f"{REPEATED:.0%} of the words that stay are in runs that several documents have.")
        if documents is not None:
            files = plural(input.files, "file")
            assumed.append(f"{input.rows:,} documents are in files of the same sizes as now: {files}.")

    def outcome(found: Mapping[str, Artifact]) -> tuple[str, Mapping[str, float]]:
        passed = found[VERDICTS].manifest.counters["passed"] / sample.documents
        return f"{passed:.1%} pass the rules", {"passed": passed, "duplicates": _duplicates(found)}

    def machine(cores: int) -> int:
        return machine_of(config, cores, input.rows + earlier, max(input.weights)).memory

    return Subject(
        config, root, "document", input, is_exact, sample.numbers, try_out, run_all, outcome, machine, assumed
    )


def _duplicates(found: Mapping[str, Artifact]) -> float:
    """The share of duplicates among the documents of the sample that pass the rules."""
    counters = found[GROUPS].manifest.counters if GROUPS in found else {}
    return duplicates_among(counters, found[VERDICTS].manifest.counters["passed"])
