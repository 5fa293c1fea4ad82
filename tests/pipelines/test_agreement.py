"""Kappa, F1 and their intervals, beside published values."""

import numpy as np
import pytest

from raymill.pipelines.agreement import Cells, agreement, agreement_text, cross_table, f1, interval, kappa, wilson

COHEN = np.array([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
SAS = np.array([[0, 4, 1], [0, 8, 0], [0, 1, 5]])


@pytest.mark.parametrize(
    ("table", "weights", "wanted"),
    [
        (COHEN, "nominal", 0.492),  # Cohen 1968, Fleiss, Cohen and Everitt 1969
        (COHEN, np.array([[0, 1, 3], [1, 0, 6], [3, 6, 0]]), 0.348),
        (np.array([[20, 5], [10, 15]]), "nominal", 0.40),
        (np.array([[45, 15], [25, 15]]), "nominal", 0.130),  # equal agreement, other margins
        (np.array([[25, 35], [5, 35]]), "nominal", 0.259),
        (SAS, "nominal", 0.4842),  # of the documentation of SAS
        (SAS, "linear", 0.4701),
        (np.array([[25, 13, 12], [12, 2, 16], [3, 15, 2]]), "nominal", -0.092),  # Cohen 1960
    ],
)
def test_kappa_has_the_published_values(table, weights, wanted):
    assert kappa(table, weights) == pytest.approx(wanted, abs=6e-4)


def test_the_interval_of_kappa_is_near_the_one_of_its_standard_error():
    low, high = interval(COHEN, lambda table: kappa(table, "nominal"))
    assert (low, high) == (pytest.approx(0.391, abs=0.01), pytest.approx(0.592, abs=0.01))


def test_kappa_of_a_single_score_is_not_defined():
    assert kappa(np.array([[9, 0], [0, 0]])) is None and interval(np.array([[9, 0], [0, 0]]), kappa) is None
    assert kappa(np.zeros((2, 2), int)) is None


def test_kappa_is_1_where_all_agree_and_0_where_they_agree_by_chance():
    assert kappa(np.diag([3, 4, 5])) == 1
    assert kappa(np.outer([2, 3, 5], [1, 4, 5])) == pytest.approx(0)


def test_wilsons_interval_has_the_published_values():
    assert wilson(8, 10) == (pytest.approx(0.490, abs=5e-4), pytest.approx(0.943, abs=5e-4))
    assert wilson(0, 0) == (0, 1)


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    table = np.array([[50, 10], [5, 20]])
    precision, recall = 20 / 30, 20 / 25
    assert f1(table) == pytest.approx(2 * precision * recall / (precision + recall))
    low, high = interval(table, f1)
    assert low < f1(table) < high and interval(table * 100, f1)[0] > low
    assert f1(np.array([[9, 0], [0, 0]])) is None


def test_agreement_of_two_raters_is_a_row_with_intervals():
    first, second = np.array([0, 1, 2, 3, 3, 2]), np.array([0, 1, 2, 3, 2, 2])
    table = cross_table(first, second, 4)
    assert table.sum() == 6
    found = agreement("a and b", table)
    assert found["documents"] == 6 and found["equal_share"] == pytest.approx(5 / 6)
    assert found["kappa_low"] <= found["kappa"] <= found["kappa_high"]
    assert found["equal_low"] < 5 / 6 < found["equal_high"]
    assert agreement_text(found).startswith(f"agreement of a and b: kappa {found['kappa']:.3f} (")
    assert "equal 83.3%" in agreement_text(found)
    nominal = agreement("a and b", table, "nominal")
    assert nominal["kappa"] == kappa(table, "nominal") < found["kappa"]
    of_nominal = interval(table, lambda drawn: kappa(drawn, "nominal"))
    assert (nominal["kappa_low"], nominal["kappa_high"]) == of_nominal
    assert agreement_text(agreement("a and b", table * 0)) == (
        "agreement of a and b: not defined, as only one score was given"
    )


@pytest.mark.parametrize("seed", range(1, 9))
def test_nominal_agreement_of_the_cells_with_documents_equals_the_one_of_the_whole_table(seed):
    """A matrix of weights goes through all cells of the table."""
    random, labels = np.random.default_rng(seed), 2 + 3 * seed
    shares = random.dirichlet(np.full(labels, 0.3))
    first = random.choice(labels, 60, p=shares)
    second = np.where(random.random(60) < 0.6, first, random.choice(labels, 60, p=shares))
    table, cells = cross_table(first, second, labels), Cells.of(first, second, labels)
    assert (cells.table(cells.documents) == table).all() and len(cells.first) <= 61
    weights = 1 - np.eye(labels)
    wanted, bounds = kappa(table, weights), interval(table, lambda drawn: kappa(drawn, weights))
    found = agreement("a and b", cells, "nominal")
    assert found["kappa"] == pytest.approx(wanted, abs=1e-12)
    assert (found["kappa_low"], found["kappa_high"]) == pytest.approx(bounds, abs=1e-12)
    assert found["equal_share"] == np.trace(table) / 60 and found["documents"] == 60
    pairs, documents = np.unique(np.stack([first, second]), axis=1, return_counts=True)
    assert agreement("a and b", Cells.of(*pairs, labels, documents), "nominal") == found
    assert agreement("a and b", table, "nominal") == found
