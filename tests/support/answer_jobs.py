"""Tiny trainings on answers that were compared or judged, and the same training as a plain loop."""

import json
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.data.order import Order
from raymill.training.data.packed import JUDGED_EXAMPLES, PackedRows
from raymill.training.pack.packed_run import PackedRun
from raymill.training.records.job import Job, TrainingFolder
from tests.support.fit_jobs import MODEL, VOCABULARY
from tests.support.packed_examples import pack_examples, write_examples

LENGTH = 48
STEPS = 6


def settings(root: str, objective: str, **more: Any) -> TrainConfig:
    plain: dict[str, Any] = {
        "kind": "train",
        "name": "answers",
        "corpus": [{"path": "nowhere", "name": "test"}],
        "model": {"config": MODEL | {"max_position_embeddings": LENGTH}, "tokenizer": "train"},
        "objective": objective,
        "sequence_length": LENGTH,
        "tokens_per_step": 4 * LENGTH,
        "micro_batch": 2,
        "steps": STEPS,
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 2},
        "evaluate": {"every_steps": 3},
        "checkpoint": {"every_steps": 2},
        "track": {"tensorboard": False},
        "output": f"{root}/run",
        "packed": f"{root}/packed-{objective}",
    }
    plain["columns"] = {"prompt": "p", "completion": "c", "label": "l"}
    if objective != "kto":
        plain["columns"] = {"prompt": "p", "chosen": "c", "rejected": "r"}
    return TrainConfig.model_validate(plain | more)


def pack_answers(root: str, objective: str, count: int = 60, validation: int = 12, **more: Any) -> None:
    """Chosen answers count upwards from the question's last token, rejected ones downwards."""
    generator = np.random.default_rng(7)
    rows = []
    for number in range(count):
        question = generator.integers(VOCABULARY, size=int(generator.integers(2, 6))).tolist()
        sides = []
        for step in (1, -1):
            steps = step * (1 + np.arange(int(generator.integers(2, 8))))
            sides.append(((question[-1] + steps) % VOCABULARY).tolist())
        pair, documents = objective != "kto", []
        for answer in sides:
            labels = [False] * len(question) + [True] * len(answer)
            documents.append({"ids": question + answer, "labels": labels, "chosen_tokens": 0})
        for at, one in enumerate(documents):
            one["judgement"] = 1.0 - at
        if pair:
            chosen, rejected = documents
            both = {name: chosen[name] + rejected[name] for name in ("ids", "labels")}
            margin = math.nan if number % 2 else 0.5
            documents = [both | {"chosen_tokens": len(chosen["ids"]), "judgement": margin}]
        for at, one in enumerate(documents):
            place = int(generator.integers(1 << 62))
            about = {"split": int(number < validation), "place": place, "document": f"doc-{number}-{at}", "label": None}
            rows.append(one | about)
    packed = f"{root}/packed-{objective}"
    examples = write_examples(packed, rows, schema=JUDGED_EXAMPLES)
    artifacts = pack_examples(packed, examples, settings(root, objective, **more))
    told = {
        "settings": {"corpora": {"test": {"files": "made here"}}, "tokenizer": {}},
        "tokenizer": "tiny",
        "classes": [],
        "artifacts": {"test": {split: artifacts[split].manifest.digest for split in SPLITS}},
    }
    Store().write_bytes(f"{packed}/pack.json", json.dumps(told).encode())


def answer_job(root: str, objective: str, **more: Any) -> Job:
    config = settings(root, objective, **more)
    assert config.packed
    packed = PackedRun.load(Store(), config.packed)
    parts = {f"settings.{name}": json.dumps(value) for name, value in config.fit_settings().items()}
    parts |= {"data": packed.fingerprint, "model": json.dumps([config.model.config, config.seed])}
    return Job(config, TrainingFolder(config.store, config.output, parts), packed.uri, (), config.steps or 0)


def documents_of_steps(job: Job) -> list[list[dict[str, Any]]]:
    """The documents of each step: ids, trained, judgement, and the row that they are in."""
    packed = PackedRun.load(Store(), job.packed)
    rows = PackedRows(packed.corpora["test"]["train"])
    order = Order.for_training(job.config, packed)
    found = []
    for step in range(job.steps):
        documents = []
        for _, row in order.step(step):
            (table,) = rows.read([row])
            (plain,) = table.to_pylist()
            ends = np.cumsum(plain["lengths"]).tolist()
            for at, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
                ids, trained = plain["ids"][start:end], plain["labels"][start:end]
                one = {"ids": ids, "trained": trained, "judgement": plain["judgements"][at], "row": row}
                documents.append(one | {"first": trained.index(True)})
        found.append(documents)
    return found


def log_probability(model: Any, ids: list[int], first: int) -> torch.Tensor:
    """Of the tokens from `first` on, computed alone, float64."""
    logits = model(torch.tensor([ids])).logits[0, :-1].double()
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[first - 1 :].sum()


def plain_losses(job: Job) -> list[float]:
    """The loss of each step, of a loop with one sequence at a time and the formulas as they are in the papers."""
    from raymill.training.fit.loop import learning_rate
    from raymill.training.models.build import build_objective

    config = job.config
    model = build_objective(config).model.train()
    before = build_objective(config).model.eval().requires_grad_(False)
    how = getattr(config, config.objective)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=config.optimizer.betas, eps=config.optimizer.epsilon, weight_decay=0)
    losses = []
    for step, documents in enumerate(documents_of_steps(job)):
        total = torch.zeros((), dtype=torch.float64)
        scored = [
            (
                log_probability(model, one["ids"], one["first"]),
                log_probability(before, one["ids"], one["first"]),
                len(one["ids"]) - one["first"],
            )
            for one in documents
        ]
        if config.objective == "kto":
            z = _baseline(model, before, documents)
            for one, (logp, reference, _) in zip(documents, scored, strict=True):
                sign = 1 if one["judgement"] else -1
                total = total + 1 - torch.sigmoid(how.beta * sign * (logp - reference - z))
            total = total / len(documents)
        else:
            pairs = list(zip(scored[::2], scored[1::2], strict=True))
            for (c, c0, nc), (r, r0, nr) in pairs:
                match config.objective:
                    case "dpo":
                        loss = -F.logsigmoid(how.beta * (c - c0 - r + r0))
                    case "ipo":
                        loss = ((c - c0) / nc - (r - r0) / nr - 1 / (2 * how.beta)) ** 2
                    case "simpo":
                        loss = -F.logsigmoid(how.beta * (c / nc - r / nr) - how.gamma)
                    case _:
                        odds = [m - torch.log(1 - torch.exp(m)) for m in (c / nc, r / nr)]
                        loss = -c / nc - how.beta * F.logsigmoid(odds[0] - odds[1])
                total = total + loss
            total = total / len(pairs)
            if sft := getattr(how, "sft", 0):
                tokens = sum(n for _, _, n in scored[::2])
                total = total - sft * sum(logp for logp, _, _ in scored[::2]) / tokens
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.optimizer.clip or math.inf)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, step, job.steps)
        optimizer.step()
        losses.append(total.item())
    return losses


def _baseline(model: Any, before: Any, documents: list[dict[str, Any]]) -> float:
    gains = []
    for row in dict.fromkeys(one["row"] for one in documents):
        own = [one for one in documents if one["row"] == row]
        for one, after in zip(own, [*own[1:], own[0]], strict=True):
            question, other = one["ids"][: one["first"]], after["ids"][: after["first"]]
            if question != other:
                ids = question + after["ids"][after["first"] :]
                with torch.no_grad():
                    gains.append(
                        (log_probability(model, ids, one["first"]) - log_probability(before, ids, one["first"])).item()
                    )
    return max(0.0, sum(gains) / len(gains)) if gains else 0.0
