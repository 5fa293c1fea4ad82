"""Labels of items from the votes of several annotators, against published values and other programs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from cleanlab.multiannotator import get_label_quality_multiannotator

from raymill.pipelines.annotate.consensus import annotator_skill, crowdlab, dawid_skene, gold_weights, majority
from raymill.pipelines.annotate.votes import Votes
from tests.pipelines.annotate.published import anaesthetists

LABELS_1979 = "142222132243121111222222112111131224233111212"
CONFUSIONS_1979 = {
    0: [[0.889, 0.111, 0, 0], [0.071, 0.876, 0.053, 0], [0, 0.339, 0.661, 0], [0, 0, 0.556, 0.444]],
    1: [[0.834, 0.166, 0, 0], [0.053, 0.633, 0.314, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    2: [[1, 0, 0, 0], [0.106, 0.788, 0.105, 0], [0, 0.404, 0.199, 0.398], [0, 0, 0.667, 0.333]],
    3: [[0.944, 0.056, 0, 0], [0.054, 0.843, 0.104, 0], [0, 0, 0.801, 0.199], [0, 0, 0.333, 0.667]],
    4: [[1, 0, 0, 0], [0.159, 0.735, 0.106, 0], [0, 0.209, 0.791, 0], [0, 0, 0.333, 0.667]],
}


def test_the_patients_of_1979_have_the_published_result():
    found = dawid_skene(anaesthetists())
    assert found.log_likelihood == pytest.approx(-192.8909, abs=5e-5)
    assert found.shares == pytest.approx([0.3996, 0.4220, 0.1118, 0.0667], abs=5e-5)
    assert "".join(str(label + 1) for label in found.label) == LABELS_1979
    for annotator, rows in CONFUSIONS_1979.items():
        assert found.confusion[annotator] == pytest.approx(np.array(rows), abs=6e-4)
    assert found.posterior[6, :2] == pytest.approx([0.981, 0.019], abs=5e-4)
    assert found.posterior[34, 1:3] == pytest.approx([0.948, 0.052], abs=5e-4)
    assert found.posterior[37, 2] == pytest.approx(0.979, abs=5e-4)
    assert found.posterior[29].max() == pytest.approx(0.999, abs=5e-4)
    assert found.posterior[2, 1] == pytest.approx(1.0, abs=5e-5)  # where an early stop gives .9931


def test_majority_of_1979_differs_at_two_patients_and_is_tied_at_another():
    found = majority(anaesthetists())
    assert [item + 1 for item in range(45) if found.label[item] != int(LABELS_1979[item]) - 1] == [2, 12, 36]
    assert found.is_tied()[11]
    assert not found.is_tied()[[1, 35]].any()


def test_ties_are_named():
    found = majority(Votes.of([(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1)], 2, 2, 3))
    assert found.is_tied().tolist() == [True, False]
    assert found.posterior.tolist() == [[0.5, 0.5, 0], [0, 1, 0]]


def test_two_who_always_vote_the_same_mislead_a_majority_alone():
    """Three with one error each in eight items, and two who always vote 1: the majority has 6 of 8, the skills 8."""
    truth = [0, 1, 0, 1, 0, 1, 0, 1]
    wrong = {0: 0, 1: 2, 2: 5}
    rows = [
        (item, who, 1 - label if wrong[who] == item else label) for item, label in enumerate(truth) for who in wrong
    ]
    rows += [(item, who, 1) for item in range(8) for who in (3, 4)]
    votes = Votes.of(rows, 8, 5, 2)
    assert (majority(votes).label == truth).sum() == 6
    assert dawid_skene(votes).label.tolist() == truth


def simulated(items: int, skills: list[float], labels: int, each: int, seed: int) -> tuple[Votes, np.ndarray]:
    """Votes of annotators with these skills, whose wrong votes are uniform, and the true labels."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, labels, items)
    rows = []
    for item in range(items):
        for who in random.choice(len(skills), each, replace=False):
            wrong = (truth[item] + random.integers(1, labels)) % labels
            rows.append((item, who, truth[item] if random.random() < skills[who] else wrong))
    return Votes.of(rows, items, len(skills), labels), truth


@pytest.mark.parametrize("model", ["full", "one_coin"])
def test_skills_of_simulated_annotators_are_found(model):
    skills = [0.95, 0.8, 0.65, 0.5]
    votes, truth = simulated(3000, skills, 3, 3, 0)
    found = dawid_skene(votes, model)
    diagonal = np.einsum("all,l->a", found.confusion, found.shares)
    assert diagonal == pytest.approx(skills, abs=0.03)
    assert (found.label == truth).mean() > (majority(votes).label == truth).mean() + 0.02
    sure = found.posterior.max(axis=1)
    assert (found.label == truth).mean() == pytest.approx(sure.mean(), abs=0.02)  # probabilities are calibrated


def test_known_labels_stay_and_teach():
    votes, truth = simulated(60, [0.9, 0.3, 0.3], 2, 3, 1)
    gold = {item: int(truth[item]) for item in range(30)}
    found = dawid_skene(votes, gold=gold)
    assert found.label[:30].tolist() == truth[:30].tolist()
    assert (found.label == truth)[30:].mean() > (majority(votes).label == truth)[30:].mean()


def test_weights_follow_from_known_labels():
    votes, truth = simulated(400, [0.9, 0.5, 0.5], 2, 3, 2)
    weights = gold_weights(votes, {item: int(truth[item]) for item in range(100)})
    assert weights[0] == pytest.approx(np.log(0.9 / 0.1), abs=0.8)
    assert (weights[1:] < 0.5).all()
    weighted = majority(votes, weights)
    assert (weighted.label == truth).mean() > (majority(votes).label == truth).mean()
    assert gold_weights(votes, {}).tolist() == [1, 1, 1]


def test_items_and_annotators_without_votes_have_the_shares_of_the_labels():
    votes = Votes.of([(0, 0, 0), (0, 1, 0), (1, 0, 1), (1, 1, 1)], 3, 3, 2)
    for found in (majority(votes), dawid_skene(votes), dawid_skene(votes, "one_coin")):
        assert found.posterior[2] == pytest.approx([0.5, 0.5])
        assert np.isfinite(found.posterior).all()
    empty = Votes.of([], 2, 0, 2)
    assert dawid_skene(empty).posterior.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_votes_with_a_model_have_the_probabilities_of_cleanlab():
    random = np.random.default_rng(3)
    votes, truth = simulated(300, [0.95, 0.9, 0.8, 0.6, 0.4], 3, 2, 3)
    kept = random.random(len(votes.item)) < 0.7
    kept |= votes.item < 5
    votes = replace(votes, item=votes.item[kept], annotator=votes.annotator[kept], label=votes.label[kept])
    seen = np.flatnonzero(np.bincount(votes.item, minlength=300))
    probabilities = random.dirichlet(np.ones(3) / 2, 300)
    probabilities[np.arange(300), truth] += 1
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    table = np.full((300, 5), np.nan)
    table[votes.item, votes.annotator] = votes.label
    wanted = get_label_quality_multiannotator(
        pd.DataFrame(table[seen]), probabilities[seen], verbose=False, calibrate_probs=False
    )["label_quality"]
    found = crowdlab(votes, probabilities)
    labels = wanted["consensus_label"].to_numpy(int)
    assert found.label[seen].tolist() == labels.tolist()
    assert found.posterior[seen, labels] == pytest.approx(wanted["consensus_quality_score"].to_numpy(), abs=1e-12)
    assert (found.label == truth)[seen].mean() > (majority(votes).label == truth)[seen].mean()


def test_intervals_of_skills_hold_the_true_ones():
    """Of 4 rounds of 200 tasks with two votes, where a majority would say .85, .83 and .77."""
    skills = np.array([0.95, 0.85, 0.6])
    inside = np.zeros(3)
    for seed in range(4):
        value, low, high = annotator_skill(simulated(200, [*skills], 3, 2, seed)[0])
        assert (low <= value).all() and (value <= high).all()
        inside += (low <= skills) & (skills <= high)
    assert (inside >= 3).all()
    nobody = Votes.of([(0, 0, 0), (1, 0, 1)], 2, 2, 2)
    assert np.isnan(annotator_skill(nobody)[0][1])
