"""The formulas against values that were computed by hand, and their gradients against differences."""

import math

import pytest
import torch

from raymill.training.models.answer_losses import AnswerScores, bradley_terry, dpo, ipo, kto, log_odds, orpo, simpo
from raymill.training.models.answers import baseline_of
from raymill.training.objectives import Dpo, Ipo, Kto, Orpo, Simpo

# The chosen answer gained 1 over the reference, the rejected one lost 1; 5 and 4 tokens.
A = AnswerScores(
    logp=torch.tensor([-10.0, -14.0]).double(),
    tokens=torch.tensor([5.0, 4.0]).double(),
    reference=torch.tensor([-11.0, -13.0]).double(),
)
# Mean log-probabilities -0.5 and -1.
B = AnswerScores(
    logp=torch.tensor([-2.5, -4.0]).double(),
    tokens=torch.tensor([5.0, 4.0]).double(),
    reference=torch.zeros(2).double(),
)


@pytest.mark.parametrize(
    ("how", "loss"),
    [
        (Dpo(), 0.598139),
        (Dpo(label_smoothing=0.1), 0.618139),
        (Dpo(loss="robust", label_smoothing=0.1), 0.573139),
        (Dpo(loss="hinge"), 0.8),
        (Dpo(by_length=True), 0.670900),
    ],
)
def test_dpo_of_a_pair(how: Dpo, loss: float) -> None:
    losses, rewards = dpo(A, how)
    assert losses.item() == pytest.approx(loss, abs=1e-6)
    assert how.by_length or rewards.tolist() == pytest.approx([0.1, -0.1])


@pytest.mark.parametrize(("how", "loss"), [(Ipo(by_length=False), 9.0), (Ipo(), 20.7025)])
def test_ipo_of_a_pair(how: Ipo, loss: float) -> None:
    assert ipo(A, how)[0].item() == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize(("gamma", "loss"), [(1.0, 0.693147), (0.5, 0.474077)])
def test_simpo_of_a_pair(gamma: float, loss: float) -> None:
    assert simpo(B, Simpo(beta=2, gamma=gamma))[0].item() == pytest.approx(loss, abs=1e-6)


def test_orpo_of_a_pair() -> None:
    assert orpo(B, Orpo())[0].item() == pytest.approx(0.532030, abs=1e-6)


def test_a_pair_beyond_the_margin_of_hinge_has_no_loss() -> None:
    assert dpo(A, Dpo(loss="hinge", beta=0.75))[0].item() == 0


def test_the_baseline_of_kto_is_the_mean_over_all_workers_and_not_negative() -> None:
    assert baseline_of([(3.0, 2.0), (1.0, 2.0)]) == 1
    assert baseline_of([(-3.0, 2.0), (1.0, 2.0)]) == baseline_of([(0.0, 0.0)]) == 0


def test_rewards_are_beta_times_what_the_loss_compares() -> None:
    """Ratios 1 and -1, over 5 and 4 tokens; mean log-probabilities -0.5 and -1."""
    assert ipo(A, Ipo(beta=0.5, by_length=False))[1].tolist() == [0.5, -0.5]
    assert ipo(A, Ipo(beta=0.5))[1].tolist() == [0.1, -0.125]
    assert simpo(B, Simpo(beta=2, gamma=1))[1].tolist() == [-1, -2]
    assert orpo(B, Orpo(beta=0.5))[1].tolist() == [-0.25, -0.5]


def test_kto_of_a_desirable_and_an_undesirable_answer() -> None:
    losses, rewards = kto(A, torch.tensor([True, False]), 0.2, Kto())
    assert losses.tolist() == pytest.approx([0.480011, 0.470036], abs=1e-6)
    assert rewards.tolist() == pytest.approx([0.1, -0.1])
    weighted, _ = kto(A, torch.tensor([True, False]), 0.2, Kto(desirable_weight=2, undesirable_weight=3))
    assert weighted.tolist() == pytest.approx([2 * losses[0].item(), 3 * losses[1].item()])


@pytest.mark.parametrize(("margin", "centring", "loss"), [(0, 0, 0.437488), (0.5, 0, 0.644397), (0, 0.01, 0.457088)])
def test_bradley_terry_of_a_pair(margin: float, centring: float, loss: float) -> None:
    scores = torch.tensor([1.0, 0.4]).double()
    assert bradley_terry(scores, torch.tensor([margin]).double(), centring).item() == pytest.approx(loss, abs=1e-6)


def test_equal_models_have_the_loss_ln_2() -> None:
    equal = AnswerScores(A.logp, A.tokens, A.logp)
    assert dpo(equal, Dpo())[0].item() == math.log(2)


def test_the_gradient_of_dpo() -> None:
    logp = A.logp.clone().requires_grad_()
    dpo(AnswerScores(logp, A.tokens, A.reference), Dpo())[0].sum().backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([-0.0450166, 0.0450166], abs=1e-7)


@pytest.mark.parametrize("m", [-1e-300, -1e-12, -1e-6, -0.1, -math.log(2), -5.0, -700.0])
def test_log_odds_are_exact_everywhere(m: float) -> None:
    values = torch.tensor([m], dtype=torch.float64, requires_grad=True)
    found = log_odds(values)
    assert found.item() == pytest.approx(m - math.log(-math.expm1(m)), rel=1e-12)
    found.sum().backward()
    assert values.grad is not None
    assert values.grad.item() == pytest.approx(-1 / math.expm1(m), rel=1e-9)


@pytest.mark.parametrize("loss", [dpo, ipo, simpo, orpo])
def test_gradients_agree_with_differences(loss: object) -> None:
    how = {dpo: Dpo(), ipo: Ipo(), simpo: Simpo(), orpo: Orpo()}[loss]
    tokens, reference = torch.tensor([5.0, 4.0, 7.0, 2.0]).double(), torch.tensor([-9.0, -8.0, -7.0, -3.0]).double()

    def total(logp: torch.Tensor) -> torch.Tensor:
        return loss(AnswerScores(logp, tokens, reference), how)[0].sum()  # type: ignore[operator]

    logp = torch.tensor([-8.0, -9.0, -6.0, -4.0]).double().requires_grad_()
    assert torch.autograd.gradcheck(total, (logp,))
