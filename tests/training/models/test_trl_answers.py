"""Losses and gradients of answers beside those of TRL 1.16: one batch in float32, the same model, the same token ids.

All are equal to 1e-6 (gradients to 2e-6 of the largest) on one batch. Where TRL computes something else by default:

    orpo      TRL's cross entropy is over the tokens of prompt and answer of all chosen ones in the micro-batch; ours
              over those of the answer, a mean of each answer and then of the pairs. Equal with prompts of one token and
              chosen answers of one length; else the difference is exactly between both cross entropies.
    simpo     TRL's `simpo_gamma` is our `gamma`. It adds `cpo_alpha` (1) times a cross entropy; here it is 0.
    kto       TRL pairs each question of a batch with the answer before it, ours with the one after it in the row. Here
              our row has the batch in reverse order. TRL's z has the micro-batch, ours the step. TRL counts questions
              with an equal one beside them, ours does not; here all differ.
    dpo       TRL's cross entropy (`sft`) is a mean over the tokens of the micro-batch, ours over those of the step.
    batches   TRL takes the mean of each micro-batch's pairs, and then of the micro-batches; ours is the mean of all
              pairs of the step. Both are equal where each micro-batch has the same number of pairs, as here.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from raymill.training.data.batch import collate, with_answers_of_next
from raymill.training.data.packed import JUDGED_PACKED
from raymill.training.models.answers import AnswerLoss, RewardModel, baseline_of
from raymill.training.objectives import Dpo, Ipo, Kto, Orpo, Simpo

pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

VOCABULARY = 64
PAIRS = 5
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
Documents = list[tuple[list[int], list[int]]]  # (question, answer)


def words() -> PreTrainedTokenizerFast:
    """A tokenizer for which the word wN is the token N."""
    vocabulary = {"<pad>": 0, "<end>": 1} | {f"w{at}": at for at in range(2, VOCABULARY)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>")


def text(generator: np.random.Generator, most: int, least: int = 1) -> str:
    size = int(generator.integers(least, most + 1))
    return "".join(f" w{token}" for token in generator.integers(2, VOCABULARY, size=size))


def model(seed: int, kind: Any = LlamaForCausalLM, scale: float = 3, **more: Any) -> Any:
    torch.manual_seed(seed)
    made = kind(LlamaConfig(**SHAPE, **more))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(scale)  # of 1, all answers are about equally probable
    return made.eval()


def compared(prompt: int = 6, chosen: tuple[int, int] = (9, 1), margin: bool = False) -> Any:
    generator = np.random.default_rng(3)
    rows = []
    for at in range(PAIRS):
        one = {"prompt": text(generator, prompt), "chosen": text(generator, *chosen), "rejected": text(generator, 9)}
        rows.append(one | ({"margin": 0.3 * at - 0.5} if margin else {}))
    return datasets.Dataset.from_list(rows)


def their_settings(kind: Any, folder: Path, **how: Any) -> Any:
    how = {"per_device_train_batch_size": PAIRS, "max_length": None, "bf16": False, "report_to": "none"} | how
    return kind(output_dir=str(folder), use_cpu=True, **how)


def their_loss(trainer: Any, batch: Any) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.model.eval()  # no dropout, but the loss of training
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), gradients(trainer.model)


def gradients(of: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.grad for name, one in of.named_parameters() if one.grad is not None}


def row_of(documents: Documents, judgements: list[float]) -> dict[str, Any]:
    return {
        "ids": [token for question, answer in documents for token in question + answer],
        "labels": [at >= len(q) for q, a in documents for at in range(len(q + a))],
        "lengths": [len(question + answer) for question, answer in documents],
        "documents": [str(at) for at in range(len(documents))],
        "label": None,
        "weights": None,
        "judgements": judgements,
    }


def batch_of(rows: list[dict[str, Any]]) -> Any:
    table = pa.Table.from_pylist(rows, JUDGED_PACKED)
    if "reference" in rows[0]:
        lists = pa.array([row["reference"] for row in rows], pa.list_(pa.float64()))
        table = table.append_column("reference", lists)
    return collate([table], len(rows), max(len(row["ids"]) for row in rows) + 3, 0)


def in_rows(documents: Documents, judgements: list[float], at_once: int = 4) -> list[dict[str, Any]]:
    """Packed rows of two pairs each, the last one shorter."""
    starts = range(0, len(documents), at_once)
    return [row_of(documents[at : at + at_once], judgements[at : at + at_once]) for at in starts]


def with_references(rows: list[dict[str, Any]], reference: Any) -> list[dict[str, Any]]:
    """With the log-probabilities by the reference model."""
    objective = AnswerLoss("dpo", Dpo(), reference, False, 16, lm_head_is_unsharded=True)
    found = []
    for row in rows:
        with torch.no_grad():
            objective(**objective.tensors(batch_of([row | {"reference": [0.0] * len(row["lengths"])}]), "cpu"))
        found.append(row | {"reference": objective.logp.tolist()})
    return found


def our_loss(objective: Any, rows: list[dict[str, Any]]) -> tuple[float, dict[str, torch.Tensor]]:
    batch = batch_of(rows)
    denominator = objective.loss_denominator(batch)
    if isinstance(objective, AnswerLoss):
        objective.begin_step(denominator, objective.step_sum(batch))
    loss, _ = objective(**objective.tensors(batch, "cpu"))
    (loss / denominator).backward()
    return loss.item() / denominator, gradients(objective.model)


def assert_equal(ours: tuple[float, dict[str, torch.Tensor]], theirs: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6, abs=1e-6)
    assert ours[1].keys() == theirs[1].keys()
    largest = max(one.abs().max().item() for one in theirs[1].values())
    assert largest > 1e-3
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(ours[1][name], gradient, rtol=0, atol=2e-6 * max(largest, 1))


def pairs_in(batch: Any) -> Documents:
    """The pairs of a batch of TRL's DPO, which has all chosen answers before the rejected ones; ours alternate."""
    found = []
    for ids, real, answer in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True):
        first, end = int(answer.argmax()), int(real.sum())
        found.append((ids[:first].tolist(), ids[first:end].tolist()))
    half = len(found) // 2
    return [one for both in zip(found[:half], found[half:], strict=True) for one in both]


LOSSES = {
    "sigmoid": ({}, ("dpo", Dpo())),
    "larger beta": ({"loss_type": ["sigmoid"], "beta": 0.5}, ("dpo", Dpo(beta=0.5))),
    "ipo by token means": ({"loss_type": ["ipo"], "beta": 0.2}, ("ipo", Ipo(beta=0.2))),
    "robust": (
        {"loss_type": ["robust"], "label_smoothing": 0.1},
        ("dpo", Dpo(loss="robust", label_smoothing=0.1)),
    ),
    "hinge": ({"loss_type": ["hinge"], "beta": 0.05}, ("dpo", Dpo(loss="hinge", beta=0.05))),
    "by length": ({"loss_type": ["sigmoid_norm"], "beta": 2.0}, ("dpo", Dpo(by_length=True, beta=2.0))),
    "with a cross entropy": (
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]},
        ("dpo", Dpo(sft=0.7)),
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_dpo_and_ipo(tmp_path, loss):
    from trl import DPOConfig, DPOTrainer

    theirs, (name, ours) = LOSSES[loss]
    start, reference = model(1), model(2)
    trainer = DPOTrainer(
        copy.deepcopy(start),
        copy.deepcopy(reference),
        args=their_settings(DPOConfig, tmp_path, **theirs),
        train_dataset=compared(),
        processing_class=words(),
    )
    (batch,) = trainer.get_train_dataloader()
    documents = pairs_in(batch)
    rows = with_references(in_rows(documents, [np.nan] * len(documents)), reference)
    objective = AnswerLoss(name, ours, start, False, 16, lm_head_is_unsharded=True)
    assert_equal(our_loss(objective, rows), their_loss(trainer, batch))


def labelled_pairs(batch: Any) -> Documents:
    """As `pairs_in`, of a batch of TRL's CPO or ORPO."""
    found = []
    for at in range(len(batch["chosen_input_ids"])):
        for side in ("chosen", "rejected"):
            labels, real = batch[f"{side}_labels"][at], batch[f"{side}_attention_mask"][at]
            ids = batch[f"{side}_input_ids"][at][: int(real.sum())].tolist()
            first = int((labels != -100).int().argmax())
            found.append((ids[:first], ids[first:]))
    return found


@pytest.mark.parametrize("gamma", [0.5, 1.6])
def test_simpo(tmp_path, gamma):
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    how = {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": gamma, "cpo_alpha": 0.0}
    start = model(1)
    trainer = CPOTrainer(
        copy.deepcopy(start),
        args=their_settings(CPOConfig, tmp_path, **how),
        train_dataset=compared(),
        processing_class=words(),
    )
    (batch,) = trainer.get_train_dataloader()
    documents = labelled_pairs(batch)
    objective = AnswerLoss("simpo", Simpo(beta=2.0, gamma=gamma), start, False, 16, lm_head_is_unsharded=True)
    assert_equal(our_loss(objective, in_rows(documents, [np.nan] * len(documents))), their_loss(trainer, batch))


def orpo_trainer(start: Any, rows: Any, folder: Path) -> Any:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    settings = their_settings(ORPOConfig, folder, beta=0.3)
    return ORPOTrainer(copy.deepcopy(start), args=settings, train_dataset=rows, processing_class=words())


def test_orpo_with_short_prompts_and_chosen_answers_of_one_length(tmp_path):
    start = model(1)
    trainer = orpo_trainer(start, compared(prompt=1, chosen=(6, 6)), tmp_path)
    (batch,) = trainer.get_train_dataloader()
    documents = labelled_pairs(batch)
    assert {len(question) for question, _ in documents} == {1}
    objective = AnswerLoss("orpo", Orpo(beta=0.3), start, False, 16, lm_head_is_unsharded=True)
    assert_equal(our_loss(objective, in_rows(documents, [np.nan] * len(documents))), their_loss(trainer, batch))


def test_orpo_differs_by_the_cross_entropy_alone(tmp_path):
    start = model(1)
    trainer = orpo_trainer(start, compared(), tmp_path)
    (batch,) = trainer.get_train_dataloader()
    documents = labelled_pairs(batch)
    trainer.model.eval()
    chosen, rejected, _, _, of_all = trainer.concatenated_forward(trainer.model, batch)
    ratio = trainer.odds_ratio_loss(chosen, rejected)[0].mean()
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx((of_all - ratio).item(), rel=1e-6)
    objective = AnswerLoss("orpo", Orpo(beta=0.3), start, False, 16, lm_head_is_unsharded=True)
    ours = our_loss(objective, in_rows(documents, [np.nan] * len(documents)))
    with_answers = -chosen.mean() - ratio
    with_answers.backward()
    assert abs(ours[0] - loss.item()) > 1e-3
    assert_equal(ours, (with_answers.item(), gradients(trainer.model)))


def test_kto(tmp_path):
    from trl import KTOConfig, KTOTrainer

    generator, count = np.random.default_rng(4), 8
    rows = [
        {"prompt": text(generator, 6), "completion": text(generator, 9), "label": bool(at % 3)} for at in range(count)
    ]
    start, reference = model(1, scale=2), model(2, scale=4)  # so that z is not 0
    how = {"desirable_weight": 0.8, "undesirable_weight": 1.1, "per_device_train_batch_size": count, "beta": 0.05}
    trainer = KTOTrainer(
        copy.deepcopy(start),
        copy.deepcopy(reference),
        args=their_settings(KTOConfig, tmp_path, **how),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=words(),
    )
    (batch,) = trainer.get_train_dataloader()
    documents = []
    for ids, real, answer in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True):
        first = int(answer.argmax())
        documents.append((ids[:first].tolist(), ids[first : int(real.sum())].tolist()))
    judgements = [float(label) for label in batch["label"]]
    (row,) = in_rows(documents[::-1], judgements[::-1], count)
    (other,) = with_answers_of_next(pa.Table.from_pylist([row], JUDGED_PACKED)).to_pylist()
    row, other = with_references([row, other], reference)
    how_ours = Kto(beta=0.05, desirable_weight=0.8, undesirable_weight=1.1)
    objective = AnswerLoss("kto", how_ours, start, False, 16, lm_head_is_unsharded=True)
    with torch.no_grad():
        objective(**objective.tensors(mismatched := batch_of([other]), "cpu"))
    objective.baseline = baseline_of([objective.gains(mismatched)])
    theirs = their_loss(trainer, batch)
    assert objective.baseline == pytest.approx(trainer._metrics["eval"]["kl"][0], abs=5e-6)
    assert objective.baseline > 0.1
    assert_equal(our_loss(objective, [row]), theirs)


@pytest.mark.parametrize("centring", [0.0, 0.05])
@pytest.mark.parametrize("margin", [False, True])
def test_reward(tmp_path, centring, margin):
    from trl import RewardConfig, RewardTrainer

    start = model(1)
    objective = RewardModel(centring, start, False, 16)
    classifier = model(3, LlamaForSequenceClassification, num_labels=1)
    classifier.model.load_state_dict(start.model.state_dict())
    classifier.score.load_state_dict(objective.score.state_dict())
    dataset = compared(margin=margin)
    # TRL's reward trainer has no prompts of texts: both are whole ones.
    whole = dataset.map(lambda row: {side: row["prompt"] + row[side] for side in ("chosen", "rejected")})
    trainer = RewardTrainer(
        classifier,
        args=their_settings(RewardConfig, tmp_path, center_rewards_coefficient=centring or None),
        train_dataset=whole.remove_columns("prompt"),
        processing_class=words(),
    )
    (batch,) = trainer.get_train_dataloader()
    lengths = batch["attention_mask"].sum(1).tolist()
    found = [(ids[:1].tolist(), ids[1:end].tolist()) for ids, end in zip(batch["input_ids"], lengths, strict=True)]
    documents = [one for both in zip(found[:PAIRS], found[PAIRS:], strict=True) for one in both]
    margins = batch["margin"].repeat_interleave(2).tolist() if margin else [np.nan] * len(documents)
    theirs = their_loss(trainer, batch)
    ours = our_loss(objective, in_rows(documents, margins))
    named = ours[1] | {"score.weight": objective.score.weight.grad}
    assert_equal((ours[0], named), theirs)
