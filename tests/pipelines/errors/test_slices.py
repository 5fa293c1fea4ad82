"""Slices with more errors than the rest: exact tests, corrected p-values, and no false ones beyond the level."""

import numpy as np
import pytest
from scipy.stats import fisher_exact

from raymill.pipelines.agreement import wilson
from raymill.pipelines.errors.slices import ErrorSlice, candidates, compared, deciles, divided, leaves


def features(random, count):
    """Fields, lengths, languages and clusters that have nothing to do with errors."""
    fields = {name: random.choice(list("abcdef"), count).tolist() for name in ("channel", "queue", "customer")}
    lengths = random.integers(10, 400, count)
    return fields, lengths, random.choice(["en", "de"], count).tolist(), random.choice(list("12345678"), count).tolist()


def slices_of(random, given, errors):
    first = random.random(len(errors)) < 0.5
    return compared([*candidates(*given), *leaves(*given, errors, first)], errors)


def test_in_data_without_a_slice_false_ones_are_as_rare_as_stated():
    """200 data sets, level 0.05: by chance at most 18 have a false slice with a probability of 0.995."""
    tested, false = 0, 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        given, errors = features(random, 400), random.random(400) < 0.2
        found = slices_of(random, given, errors)
        tested += len(found)
        false += any(numbers["p_corrected"] <= 0.05 for _, numbers in found)
    assert tested > 200 * 30
    assert false <= 18


def test_leaves_tested_on_the_items_that_chose_them_would_be_false_more_often():
    """What the second half is for: the same leaves on their own half, corrected, are false far beyond the level."""
    false = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        given, errors = features(random, 400), random.random(400) < 0.2
        first = random.random(400) < 0.5
        found = list(leaves(*given, errors, first))
        assert all((one.tested == ~first).all() for one in found)
        own = [ErrorSlice(one.by, one.rule, one.members, first) for one in found]
        false += any(numbers["p_corrected"] <= 0.05 for _, numbers in compared(own, errors))
    assert false > 12


def test_a_planted_slice_of_two_fields_is_a_leaf():
    random = np.random.default_rng(3)
    given = features(random, 3000)
    channel, queue = np.array(given[0]["channel"]), np.array(given[0]["queue"])
    planted = (channel == "a") & (queue == "b")
    errors = random.random(3000) < np.where(planted, 0.9, 0.1)
    trees = [
        one for one, numbers in slices_of(random, given, errors) if one.by == "tree" and numbers["p_corrected"] < 0.01
    ]
    assert any({"channel = a", "queue = b"} <= set(one.rule.split(" and ")) for one in trees)


def test_a_field_may_have_the_name_of_another_feature():
    random = np.random.default_rng(4)
    _, lengths, languages, clusters = features(random, 1000)
    planted = random.choice(["x", "y"], 1000)
    errors = random.random(1000) < np.where(planted == "x", 0.8, 0.1)
    first = random.random(1000) < 0.5
    found = list(leaves({"language": planted.tolist()}, lengths, languages, clusters, errors, first))
    assert all("language = " in one.rule for one in found) and any(one.rule.startswith("not ") for one in found)


def test_p_values_and_intervals_are_the_published_ones():
    inside, wrong = np.arange(60) < 20, np.isin(np.arange(60), [*range(9), *range(20, 26)])
    ((_, found),) = compared([ErrorSlice("field", "a = b", inside, np.ones(60, bool))], wrong)
    assert (found["items"], found["errors"], found["rate"], found["rate_outside"]) == (20, 9, 0.45, 0.15)
    assert found["p"] == pytest.approx(fisher_exact([[9, 11], [6, 34]], "greater").pvalue)
    # Newcombe 1998, method 10, of 9/20 and 6/40.
    (low, high), (rest_low, rest_high) = wilson(9, 20), wilson(6, 40)
    assert found["difference_low"] == pytest.approx(0.3 - np.hypot(0.45 - low, rest_high - 0.15))
    assert found["difference_high"] == pytest.approx(0.3 + np.hypot(high - 0.45, 0.15 - rest_low))


def test_newcombes_own_example():
    """Newcombe 1998, table II (a), method 10: 56/70 and 48/80, difference 0.2, interval 0.0524 to 0.3339."""
    inside, wrong = np.arange(150) < 70, np.concatenate([np.arange(70) < 56, np.arange(80) < 48])
    ((_, found),) = compared([ErrorSlice("field", "a = b", inside, np.ones(150, bool))], wrong)
    assert (found["difference_low"], found["difference_high"]) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_small_slices_and_equal_ones_are_not_tested():
    everything, errors = np.ones(40, bool), np.arange(40) < 20
    few, half = np.arange(40) < 9, np.arange(40) < 20
    made = [
        ErrorSlice("field", "few", few, everything),
        ErrorSlice("field", "a = b", half, everything),
        ErrorSlice("language", "language en", half, everything),
        ErrorSlice("field", "all", everything, everything),
    ]
    assert [one.rule for one, _ in compared(made, errors)] == ["a = b"]


@pytest.mark.parametrize(
    ("lengths", "wanted"),
    [([], []), ([7], [(7, 7)]), ([3] * 30, [(3, 3)]), (list(range(1, 21)), [(n, n + 1) for n in range(1, 21, 2)])],
)
def test_deciles_cover_every_length_once(lengths, wanted):
    assert deciles(np.array(lengths, np.int64)) == wanted


def test_of_many_fields_those_with_the_most_items_have_slices():
    """Fields of others would else hide a slice by their number: of 5,000 fields 100 are left."""
    items = [str(at) for at in range(40)]
    fields = {f"decoy {at:04}": [None] * 10 + ["a", "b", "c"] * 10 for at in range(5000)}
    fields |= {"channel": ["phone", "mail"] * 20, "id": items}
    kept, others = divided(fields)
    assert ("channel" in kept, "id" in kept, len(kept), others) == (True, False, 100, 4901)
    assert divided({"channel": fields["channel"], "id": items}) == ({"channel": fields["channel"]}, 0)
