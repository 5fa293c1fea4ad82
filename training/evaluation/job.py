"""After training: how good the weights are on documents that were held back, before and after, left as evaluation.json.

The test split is measured, or the validation split of a run that has no other. One process does it, with memory for the
model, one row group and one micro-batch.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

import cluster
from cluster.artifact import Artifact, fingerprint
from cluster.store import paths
from cluster.store.interface import NotFound
from training.config import TrainConfig
from training.evaluation.trained import at_start, evaluation_device, take_trained
from training.fit.job import Job
from training.fit.records import Answer, Evaluation, Measured, Outcome

if TYPE_CHECKING:
    import torch

    from training.models.objective import Objective
    from training.pack.packed_run import PackedRun

EVALUATION = "evaluation.json"
_MADE_FROM = "made_from"


def evaluate(job: Job, outcome: Outcome, packed: "PackedRun") -> Evaluation:
    """Measure, generate, score and write it down; a finished evaluation of the same weights is returned as it is."""
    if (found := read_evaluation(job, made_from(job, outcome))) is not None:
        return found
    from training.pack.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(job.store, paths.join(packed.uri, "tokenizer"))
    device = evaluation_device(job)
    objective = at_start(job, device)
    split, artifacts = held_out(packed)
    with objective.bare():
        before = _measured(objective, job, artifacts, tokenizer, device)
    take_trained(objective, job, outcome)
    after = _measured(objective, job, artifacts, tokenizer, device)
    generation, answers = _qualities(objective, job, artifacts, tokenizer, device)
    evaluation: Evaluation = {
        "before": {split: before} if before else {},
        "after": {split: after} if after else {},
        "best_step": outcome["best_step"],
        "generation": generation,
        "answers": answers,
        "merged_check": None,
    }
    write_evaluation(job, evaluation, made_from(job, outcome))
    return evaluation


def made_from(job: Job, outcome: Outcome) -> str:
    """Fingerprint of what decides an evaluation."""
    generate = job.config.generate
    identity = {
        "version": cluster.__version__,
        "fit": outcome["fingerprint"],
        "checkpoint": outcome["best_checkpoint"] or outcome["checkpoint"],
        "generate": generate.model_dump() if generate else None,
    }
    return fingerprint(identity)


def read_evaluation(job: Job, made_from: str | None = None) -> Evaluation | None:
    """The evaluation at a job's root; None where there is none, or not of what `made_from` says."""
    try:
        found = json.loads(job.store.read_bytes(paths.join(job.root, EVALUATION)))
    except NotFound:
        return None
    if found.pop(_MADE_FROM, None) != made_from and made_from is not None:
        return None
    return found


def write_evaluation(job: Job, evaluation: Evaluation, made_from: str) -> None:
    data = json.dumps({_MADE_FROM: made_from} | evaluation, indent=1, ensure_ascii=False)
    job.store.write_bytes(paths.join(job.root, EVALUATION), data.encode("utf-8", "backslashreplace"))


def add_merged_check(job: Job, outcome: Outcome, check: dict[str, Any]) -> None:
    """Note in a finished evaluation what the export found of its merged weights."""
    if (found := read_evaluation(job, made_from(job, outcome))) is not None:
        write_evaluation(job, {**found, "merged_check": check}, made_from(job, outcome))


def held_out(packed: "PackedRun") -> tuple[str, dict[str, Artifact]]:
    """The split to measure, and its artifact by corpus: test, or validation where test has no rows at all."""
    found: dict[str, dict[str, Artifact]] = {}
    for split in ("test", "validation"):
        found[split] = {name: splits[split] for name, splits in packed.corpora.items() if splits[split].manifest.rows}
    split = "test" if found["test"] else "validation"
    return split, found[split]


def _tables(artifacts: dict[str, Artifact]) -> Iterator[pa.Table]:
    for artifact in artifacts.values():
        yield from artifact.tables()


def _measured(
    objective: "Objective", job: Job, artifacts: dict[str, Artifact], tokenizer: Any, device: "torch.device"
) -> Measured | None:
    from training.evaluation.measure import measure
    from training.pack.tokenizer import pad_id

    return measure(objective, _tables(artifacts), job.config.micro_batch, pad_id(tokenizer), device)


def _qualities(
    objective: Any, job: Job, artifacts: dict[str, Artifact], tokenizer: Any, device: "torch.device"
) -> tuple[dict[str, float], list[Answer]]:
    """Scores of what the trained model answers: of a probe its classes, else of generated text where asked for."""
    from training.evaluation.measure import predictions
    from training.evaluation.scores import classification, f1_by_class
    from training.pack.tokenizer import pad_id

    config = job.config
    if config.method == "probe":
        wanted, said = predictions(objective, _tables(artifacts), config.micro_batch, pad_id(tokenizer), device)
        if not wanted:
            return {}, []
        by_name = [[job.classes[index] for index in side] for side in (wanted, said)]
        return classification(*by_name) | f1_by_class(wanted, said, job.classes), []
    return generated(objective, config, artifacts, tokenizer) if config.generate else ({}, [])


def generated(
    objective: Any, config: TrainConfig, artifacts: dict[str, Artifact], tokenizer: Any
) -> tuple[dict[str, float], list[Answer]]:
    """Scores and answers of greedy generation on prompts from every corpus."""
    import torch

    from training.evaluation.generate import complete, stop_ids
    from training.evaluation.prompts import Prompt
    from training.evaluation.scores import scores
    from training.pack.tokenizer import pad_id

    assert config.generate is not None
    virtual = getattr(config, config.method).tokens if config.method in ("prefix", "prompt") else 0
    room = _positions(objective.model) - virtual
    new_tokens = min(config.generate.max_new_tokens, room - 1)
    prompts: list[Prompt] = prompts_of(config, artifacts, config.generate.prompts, new_tokens)
    device_type = next(objective.parameters()).device.type
    with torch.autocast(device_type, torch.bfloat16, enabled=config.bf16):
        said = complete(
            objective.model,
            [prompt.ids[-(room - new_tokens) :] for prompt in prompts],
            new_tokens,
            stop_ids(tokenizer),
            pad_id(tokenizer),
            padded=not virtual,
        )
    answers: list[Answer] = [
        {
            "document": prompt.document,
            "prompt": tokenizer.decode(prompt.ids),
            "reference": tokenizer.decode(prompt.reference, skip_special_tokens=True).strip(),
            "generated": tokenizer.decode(ids, skip_special_tokens=True).strip(),
        }
        for prompt, ids in zip(prompts, said, strict=True)
    ]
    pairs = [answer["reference"] for answer in answers], [answer["generated"] for answer in answers]
    return scores(*pairs, config.generate.answer, config.generate.decimal_mark), answers


def prompts_of(config: TrainConfig, artifacts: dict[str, Artifact], count: int, new_tokens: int) -> list[Any]:
    """Held-out prompts, about as many of each corpus. The first corpora have one more where it does not come out."""
    from training.data.packed import PackedRows
    from training.evaluation.prompts import held_out_prompts

    columns = dict(zip(config.corpus_names, config.all_columns, strict=True))
    prompt_tokens = config.generate.prompt_tokens if config.generate else 32
    found = []
    for number, (name, artifact) in enumerate(artifacts.items()):
        share = (count - number + len(artifacts) - 1) // len(artifacts)
        rows = PackedRows(artifact)
        found += held_out_prompts(
            rows, artifact.tables(["documents"]), columns[name].form, share, prompt_tokens, new_tokens,
            config.sequence_length,
        )  # fmt: skip
        rows.close()
    return found


def _positions(model: Any) -> int:
    """Positions the model can tell apart; far more than any prompt has where its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
