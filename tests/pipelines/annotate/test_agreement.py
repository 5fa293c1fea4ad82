"""Agreement of several annotators, against published values."""

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from raymill.pipelines.agreement import agreement as pair_agreement
from raymill.pipelines.agreement import cross_table, kappa
from raymill.pipelines.annotate.agreement import (
    ONE_LABEL,
    ONE_VOTE,
    UNEQUAL,
    fleiss_kappa,
    gwet_ac1,
    items_needed,
    krippendorff_alpha,
    observed,
    randolph_kappa,
)
from raymill.pipelines.annotate.annotations import Annotation, Annotations
from raymill.pipelines.annotate.ballots import read_ballots
from raymill.pipelines.annotate.finish import _pairs, _shared_labels
from tests.pipelines.annotate.published import (
    KRIPPENDORFF_B,
    KRIPPENDORFF_C,
    KRIPPENDORFF_E,
    counts_of,
    fleiss_counts,
)
from tests.support.rounds import PEOPLE, round_of


@pytest.mark.parametrize(
    ("level", "wanted"), [("nominal", 0.7434), ("ordinal", 0.8154), ("interval", 0.8491), ("ratio", 0.7974)]
)
def test_krippendorffs_example_has_the_published_alpha(level, wanted):
    found = krippendorff_alpha(counts_of(KRIPPENDORFF_E), level)
    assert found.value == pytest.approx(wanted, abs=5e-5)
    assert found.items == 11  # the last unit has one value
    assert found.low < found.value < found.high


def test_interval_of_krippendorffs_example():
    found = krippendorff_alpha(counts_of(KRIPPENDORFF_E))
    assert found.low == pytest.approx(0.42, abs=0.05)
    assert found.high == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("coders", "wanted"), [(KRIPPENDORFF_B, 0.095), (KRIPPENDORFF_C, 0.692)])
def test_alpha_of_two_coders(coders, wanted):
    assert krippendorff_alpha(counts_of(coders)).value == pytest.approx(wanted, abs=5e-4)


def test_values_are_the_labels_of_interval_and_ratio():
    counts = counts_of(KRIPPENDORFF_E)
    same = krippendorff_alpha(counts, "interval", np.array([10.0, 20, 30, 40, 50]))
    assert same.value == pytest.approx(krippendorff_alpha(counts, "interval").value)
    other = krippendorff_alpha(counts, "interval", np.array([1.0, 2, 3, 4, 50]))
    assert other.value != pytest.approx(same.value, abs=0.01)


def test_fleiss_example_has_the_published_kappa():
    counts = fleiss_counts()
    found = fleiss_kappa(counts)
    assert found.value == pytest.approx(0.4302, abs=5e-5)
    assert observed(counts).value == pytest.approx(0.5556, abs=5e-5)
    assert krippendorff_alpha(counts).value == pytest.approx(0.433, abs=5e-4)
    assert fleiss_kappa(np.array([[7, 1], [3, 5]])).value == pytest.approx(0.161905, abs=5e-7)


def test_randolphs_kappa_has_the_published_value_and_takes_items_with_different_numbers_of_votes():
    assert randolph_kappa(np.array([[7, 1], [3, 5]])).value == pytest.approx(0.214286, abs=5e-7)
    found = randolph_kappa(fleiss_counts())
    assert found.value == pytest.approx((0.5556 - 0.2) / 0.8, abs=1e-4) and found.low < found.value < found.high
    assert randolph_kappa(np.array([[2, 0, 0], [1, 2, 0], [0, 1, 0]])).value == pytest.approx((2 / 3 - 1 / 3) / (2 / 3))
    assert randolph_kappa(np.array([[2], [3]])).problem == ONE_LABEL


def test_fleiss_needs_as_many_votes_on_each_item():
    found = fleiss_kappa(np.array([[2, 0], [1, 2]]))
    assert (found.value, found.problem) == (None, UNEQUAL)


def test_alpha_of_two_annotators_tends_to_cohens_kappa():
    """With many items, alpha and the kappa of two annotators with equal margins differ by less than 1 / items."""
    random = np.random.default_rng(0)
    first = random.integers(0, 3, 5000)
    second = np.where(random.random(5000) < 0.7, first, random.integers(0, 3, 5000))
    counts = np.zeros((5000, 3), np.int64)
    np.add.at(counts, (np.arange(5000), first), 1)
    np.add.at(counts, (np.arange(5000), second), 1)
    wanted = cohen_kappa_score(first, second)
    assert kappa(cross_table(first, second, 3), "nominal") == pytest.approx(wanted)
    assert krippendorff_alpha(counts).value == pytest.approx(wanted, abs=1e-3)


def test_ac1_of_a_table_computed_by_hand():
    """Two raters, 125 items, 118 both yes, 5 and 2 one of them: agreement .944, AC1 .9404, kappa -.0234 (Gwet)."""
    counts = np.array([[2, 0]] * 118 + [[1, 1]] * 7)
    share = (118 * 2 + 7) / 250
    chance = 2 * share * (1 - share)
    assert gwet_ac1(counts).value == pytest.approx((118 / 125 - chance) / (1 - chance))
    assert gwet_ac1(counts).value == pytest.approx(0.9408, abs=1e-3)
    assert krippendorff_alpha(counts).value < 0


def test_what_is_not_defined_has_a_sentence_in_place_of_a_number():
    one_label, one_vote = np.array([[2, 0], [3, 0]]), np.array([[1, 0], [0, 1]])
    assert krippendorff_alpha(one_label).value is None
    assert krippendorff_alpha(one_label).problem == ONE_LABEL
    assert fleiss_kappa(np.array([[2, 0], [2, 0]])).problem == ONE_LABEL
    assert observed(one_label).value == 1.0
    assert gwet_ac1(one_label).value == 1.0
    for measure in (krippendorff_alpha, fleiss_kappa, randolph_kappa, gwet_ac1, observed):
        assert measure(one_vote).problem == ONE_VOTE
        assert measure(np.zeros((0, 3), np.int64)).value is None


def test_interval_holds_the_true_value_in_about_95_of_100_samples():
    """Three annotators with a skill of 0.8 of two labels: the alpha of 100,000 items is the true one."""
    random = np.random.default_rng(1)

    def votes(items: int) -> np.ndarray:
        truth = random.integers(0, 2, items)
        ones = (np.where(random.random((items, 3)) < 0.8, truth[:, None], 1 - truth[:, None])).sum(axis=1)
        return np.stack([3 - ones, ones], axis=1)

    true = krippendorff_alpha(votes(100_000)).value
    covered = sum((one := krippendorff_alpha(votes(100))).low <= true <= one.high for _ in range(40))
    assert covered >= 34


def test_needed_items_follow_from_the_width_of_the_interval():
    found = krippendorff_alpha(fleiss_counts())
    width = found.high - found.low
    assert items_needed(found, width) == 0
    assert items_needed(found, width / 2) == 90  # four times 30, less the 30 there are
    assert items_needed(krippendorff_alpha(np.array([[2, 0]])), 0.1) is None


def test_ordinal_alpha_of_many_items_takes_little_time():
    random = np.random.default_rng(2)
    counts = np.zeros((20_000, 7), np.int64)
    for _ in range(3):
        np.add.at(counts, (np.arange(20_000), random.integers(0, 7, 20_000)), 1)
    assert abs(krippendorff_alpha(counts, "ordinal").value) < 0.02


def test_items_of_one_task_are_drawn_together():
    """Ten tasks of 30 equal items each are ten observations, not 300."""
    random = np.random.default_rng(4)
    of_task = np.where(random.random(10)[:, None] < 0.5, [[2, 0]], [[1, 1]])
    counts, tasks = np.repeat(of_task, 30, axis=0), np.repeat(np.arange(10), 30)
    alone, together = observed(of_task), observed(counts, tasks)
    assert together.value == alone.value
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high), abs=0.11)
    assert observed(counts).high - observed(counts).low < 0.5 * (together.high - together.low)
    assert krippendorff_alpha(counts, tasks=tasks).value == krippendorff_alpha(counts).value


@pytest.mark.parametrize("of", [
    lambda texts: krippendorff_alpha(np.eye(len(texts), 3000, dtype=np.int64) * 2 + np.eye(len(texts), 3000, 1, int)),
    lambda texts: pair_agreement("Ann and Bob", cross_table(texts, texts[::-1], 500), "nominal"),
], ids=["alpha", "kappa"])  # fmt: skip
def test_labels_that_are_any_texts_take_no_matrix_for_each_draw_of_the_bootstrap(of):
    tracemalloc.start()
    of(np.arange(30))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 << 20, "3,000 x 3,000 distances take 72 MB, 2,000 draws of 500 x 500 labels 4 GB"


def test_texts_that_two_annotators_give_alike_take_no_matrix(tmp_path):
    texts = 1500
    round = round_of(tmp_path, {"type": "write", "show": ["prompt"]}, [{"prompt": "Why?"}] * texts)
    Annotations(round.store, round.uri).add(
        [Annotation(f"t{at}", name, "labelled", f"answer {at}") for at in range(1, texts + 1) for name in PEOPLE[:2]]
    )
    ballots = read_ballots(round)
    tracemalloc.start()
    (found,) = _pairs(ballots)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found["documents"] == texts and found["kappa"] == found["kappa_low"] == found["kappa_high"] == 1
    assert peak < 8 << 20, "1,500 x 1,500 pairs of texts take 18 MB"


def test_labels_of_one_annotator_alone_are_one_label_to_kappa():
    first, second = np.array([7, 7, 3, 9, 5, 5]), np.array([7, 3, 3, 8, 6, 5])
    merged, others, labels = _shared_labels(first, second)
    assert merged.tolist() == [2, 2, 0, 3, 1, 1] and others.tolist() == [2, 0, 0, 4, 4, 1] and labels == 5
    wanted = kappa(cross_table(first, second, 10), "nominal")
    # Equal in 3 of 6; by chance of 3, 5 and 7: 1 x 2, 2 x 1 and 2 x 1 of 36.
    assert kappa(cross_table(merged, others, labels), "nominal") == pytest.approx(wanted)
    assert wanted == pytest.approx((3 / 6 - 6 / 36) / (1 - 6 / 36))
