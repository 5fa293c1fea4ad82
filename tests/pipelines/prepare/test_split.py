"""Which records go to which split, and how many of each source and class."""

import json
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.examples.splits import SPLITS
from raymill.pipelines.prepare.job import PrepareRun
from raymill.pipelines.prepare.records.fields import provenance_of
from raymill.pipelines.prepare.stages.split import (
    assign,
    components,
    copies,
    first_by_hash,
    folds,
    most_synthetic,
    numbers_of_variants,
    older_than_training,
    relatives,
    sizes_by_share,
    straddling,
)
from tests.support.inline import prepare_inline
from tests.support.prepared_runs import records
from tests.support.tickets import answer, question

SHARES = (0.8, 0.1, 0.1)


def hashes(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 1 << 63, count).astype(np.uint64)


def none(count: int) -> np.ndarray:
    return np.zeros(count, np.uint64)


def plain_components(count: int, groups) -> list[int]:
    """By looking at all pairs until nothing changes."""
    label = list(range(count))
    changed = True
    while changed:
        changed = False
        for group in groups:
            for a in range(count):
                for b in range(count):
                    if group[a] and group[a] == group[b] and label[a] < label[b]:
                        label[b], changed = label[a], True
    return label


@given(st.integers(1, 12).flatmap(lambda n: st.lists(st.lists(st.integers(0, 5), min_size=n, max_size=n), max_size=3)))
def test_components_are_those_of_looking_at_all_pairs(groups):
    count = len(groups[0]) if groups else 4
    found = components(count, [np.array(group, np.uint64) for group in groups])
    assert found.tolist() == plain_components(count, groups)


def test_a_long_chain_is_one_component():
    count = 2000
    one, other = np.arange(count) // 2 + 1, (np.arange(count) + 1) // 2 + 1
    order = np.random.default_rng(3).permutation(count)
    assert set(components(count, [one[order].astype(np.uint64), other[order].astype(np.uint64)]).tolist()) == {0}


@settings(max_examples=60)
@given(st.integers(10, 300), st.integers(1, 4), st.integers(0, 9))
def test_every_stratum_has_the_shares_to_a_record(count, strata, seed):
    stratum = np.random.default_rng(seed).integers(0, strata, count).astype(np.uint64)
    found = assign(hashes(count, seed), stratum, np.arange(count), SHARES)
    wanted = np.array(SHARES) * count
    assert (abs(np.bincount(found, minlength=3) - wanted) < 1).all(), "over all strata together"
    for one in range(strata):
        here = found[stratum == one]
        assert (abs(np.bincount(here, minlength=3) - np.array(SHARES) * len(here)) <= 2).all()


def test_many_strata_of_one_record_do_not_all_go_to_training():
    found = assign(hashes(100), np.arange(100).astype(np.uint64), np.arange(100), SHARES)
    assert np.bincount(found).tolist() == [80, 10, 10]


@given(st.integers(1, 200), st.integers(1, 30), st.integers(0, 5))
def test_a_component_is_in_one_split_and_one_fold(count, groups, seed):
    group = np.random.default_rng(seed).integers(0, groups, count).astype(np.uint64)
    component = components(count, [group])
    found = assign(hashes(count, seed), none(count), component, SHARES)
    fold = folds(hashes(count, seed), none(count), component, 4)
    by_component = defaultdict(set)
    for one, split, number in zip(component.tolist(), found.tolist(), fold.tolist(), strict=True):
        by_component[one].add((split, number))
    assert all(len(seen) == 1 for seen in by_component.values())
    assert straddling(found, group) == 0
    assert set(fold.tolist()) <= {0, 1, 2, 3}


def test_straddling_counts_values_in_several_splits():
    group = np.array([1, 1, 2, 2, 3, 0, 0], np.uint64)
    assert straddling(np.array([0, 1, 2, 2, 0, 0, 1], np.int8), group) == 1


def test_the_order_of_the_records_makes_no_difference():
    names, stratum = hashes(100), np.arange(100).astype(np.uint64) % np.uint64(3)
    component = np.arange(100)
    order = np.random.default_rng(5).permutation(100)
    found = assign(names, stratum, component, SHARES)
    assert assign(names[order], stratum[order], component, SHARES).tolist() == found[order].tolist()
    fold = folds(names, stratum, component, 4)
    assert folds(names[order], stratum[order], component, 4).tolist() == fold[order].tolist()


def test_old_records_keep_their_split_and_new_ones_fill_up_what_lacks():
    names = hashes(200)
    old = assign(names[:100], none(100), np.arange(100), (0.5, 0.25, 0.25))
    kept = np.concatenate([old, np.full(100, -1, np.int8)])
    found = assign(names, none(200), np.arange(200), SHARES, kept)
    assert found[:100].tolist() == old.tolist()
    assert np.bincount(found).tolist() == [150, 25, 25], "validation and test have more than their share already"
    more = assign(names, none(200), np.arange(200), (0.2, 0.4, 0.4), kept)
    assert more[:100].tolist() == old.tolist()
    assert np.bincount(more[100:], minlength=3).tolist() == [0, 50, 50]


def test_a_new_record_of_an_old_group_goes_where_the_group_is():
    names, component = hashes(6), np.array([0, 0, 2, 2, 2, 5])
    kept = np.array([2, -1, 1, 0, 0, -1], np.int8)
    found = assign(names, none(6), component, SHARES, kept)
    assert found[:5].tolist() == [2, 2, 1, 0, 0]


def test_an_old_record_keeps_its_split_where_its_group_goes_to_another():
    kept = np.array([1, 1, 0, -1, 2, 1, -1], np.int8)
    found = assign(hashes(7), none(7), np.array([0, 0, 0, 0, 4, 4, 4]), SHARES, kept)
    assert found.tolist() == [1, 1, 0, 1, 2, 1, 1], "of equally many, the first split"


def test_records_that_are_older_than_training_are_counted():
    splits, times = np.array([0, 0, 1, 2, 2], np.int8), np.array([5, 9, 9, 8, 10])
    assert older_than_training(splits, times) == 1, "one of the same time is not older"
    assert older_than_training(splits[2:], times[2:]) == 0, "there is no training record"


def test_by_time_records_of_one_time_are_in_the_order_of_their_hashes():
    names, times = np.array([5, 1, 4, 2, 3], np.uint64), np.array([7, 7, 7, 7, 1])
    found = assign(names, none(5), np.arange(5), (0.6, 0.2, 0.2), times=times)
    assert found.tolist() == [2, 0, 1, 0, 0]


@pytest.mark.parametrize(("sizes", "fold"), [([3, 1], [0, 0, 0, 1]), ([1, 3], [0, 1, 1, 1])])
def test_a_component_goes_to_the_fold_where_its_middle_is(sizes, fold):
    component = np.repeat([0, sizes[0]], sizes)
    assert folds(np.array([1, 2, 3, 1 << 63], np.uint64), none(4), component, 2).tolist() == fold


def test_folds_are_of_equal_size():
    fold = folds(hashes(103), none(103), np.arange(103), 5)
    assert sorted(np.bincount(fold).tolist()) == [20, 20, 21, 21, 21]


@settings(max_examples=60)
@given(st.integers(10, 300), st.integers(1, 6), st.integers(2, 7), st.integers(1, 40), st.integers(0, 9))
def test_every_stratum_has_equally_many_records_in_each_fold_to_a_group(count, strata, number, groups, seed):
    chosen = np.random.default_rng(seed)
    of_group = chosen.integers(0, strata, groups).astype(np.uint64)
    group = chosen.integers(0, groups, count)
    component = components(count, [group.astype(np.uint64) + np.uint64(1)])
    fold = folds(hashes(count, seed), of_group[group], component, number)
    largest = np.bincount(group).max()
    for stratum in [*range(strata), None]:
        here = fold if stratum is None else fold[of_group[group] == stratum]
        assert (abs(np.bincount(here, minlength=number) - len(here) / number) <= 2 * largest).all()


@settings(max_examples=100)
@given(st.data())
def test_an_old_record_never_moves(data):
    """Whatever is added: new records alone, of old groups, or of several groups, in any stratum."""
    count, old = data.draw(st.integers(2, 60)), data.draw(st.integers(1, 60))
    seed, k = data.draw(st.integers(0, 99)), data.draw(st.integers(2, 5))
    chosen = np.random.default_rng(seed)
    groups = [chosen.integers(0, count, count).astype(np.uint64) for _ in range(2)]
    names, strata = hashes(count, seed), chosen.integers(0, 3, count).astype(np.uint64)
    first = np.sort(chosen.permutation(count)[: min(old, count)])
    before = components(len(first), [group[first] for group in groups])
    split = assign(names[first], strata[first], before, SHARES)
    fold = folds(names[first], strata[first], before, k)
    kept, kept_folds = np.full((2, count), -1, np.int8)
    kept[first], kept_folds[first] = split, fold
    after = components(count, groups)
    found = assign(names, strata, after, SHARES, kept)
    assert found[first].tolist() == split.tolist()
    for one in set(after[first].tolist()):
        olds = {*kept[after == one].tolist()} - {-1}
        assert {*found[after == one].tolist()} == olds or len(olds) > 1, "new records go where their group is"
    assert folds(names, strata, after, k, kept_folds)[first].tolist() == fold.tolist()


def test_no_records_have_no_splits():
    assert assign(none(0), none(0), np.arange(0), SHARES).tolist() == []
    assert folds(none(0), none(0), np.arange(0), 3).tolist() == [] and components(0, []).tolist() == []
    assert len(SPLITS) == 3


def off(sizes: list[int], chosen: np.ndarray, shares: tuple[float, ...]) -> float:
    """By how many records a split differs from its share at the most."""
    wanted = np.array(shares) * sum(sizes)
    return float(np.abs(np.bincount(chosen, sizes, len(shares)) - wanted).max())


def split_of_groups(sizes: list[int], seed: int, shares: tuple[float, ...], strata=None) -> np.ndarray:
    """The split of each group, of groups with these sizes."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    hashes = np.random.default_rng(seed).integers(1, 1 << 63, len(group)).astype(np.uint64)
    strata = np.zeros(len(group), np.uint64) if strata is None else np.repeat(strata, sizes).astype(np.uint64)
    found = assign(hashes, strata, components(len(group), [group.astype(np.uint64) + np.uint64(1)]), shares)
    firsts = np.cumsum([0, *sizes[:-1]])
    assert (found == np.repeat(found[firsts], sizes)).all(), "a group is in one split"
    return found[firsts]


@pytest.mark.parametrize("seed", range(12))
def test_groups_of_several_records_are_divided_to_a_record(seed):
    """Customers with 1 to 29 records: as near to the shares as whole groups can be."""
    sizes = np.random.default_rng(seed).integers(1, 30, 40).tolist()
    for shares in ((0.8, 0.1, 0.1), (0.34, 0.33, 0.33), (0.9, 0.0, 0.1)):
        assert off(sizes, split_of_groups(sizes, seed, shares), shares) < 1


def test_large_groups_go_where_they_fit_and_the_others_make_up_for_them():
    for seed in range(20):
        sizes = [40, 25, 9, 9, *[1] * 50]
        assert off(sizes, split_of_groups(sizes, seed, (0.8, 0.1, 0.1)), (0.8, 0.1, 0.1)) < 1
    chosen = split_of_groups([300, *[1] * 100], 3, (0.8, 0.1, 0.1))
    assert chosen[0] == 0 and np.bincount(chosen[1:]).tolist() == [20, 40, 40], "it fits nowhere else"


def test_a_stratum_with_large_groups_is_made_up_for_by_the_next_ones():
    """Of the first stratum's two groups of 30 none fits a split of 6; the other stratum has single records."""
    sizes, strata = [30, 30, *[1] * 60], [7, 7, *[9] * 60]
    assert off(sizes, split_of_groups(sizes, 1, (0.8, 0.1, 0.1), np.array(strata)), (0.8, 0.1, 0.1)) < 1


def test_small_groups_are_in_every_split_not_only_in_the_smaller_ones():
    """Groups are in an order without regard to their sizes, and few of them are moved."""
    sizes = np.random.default_rng(5).integers(1, 20, 400).tolist()
    chosen = split_of_groups(sizes, 5, (0.8, 0.1, 0.1))
    means = [np.mean(np.array(sizes)[chosen == split]) for split in range(3)]
    assert max(means) / min(means) < 1.4


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, ()),
        ({"parents": None, "operation": "repeat"}, ()),
        ({"parents": "t1"}, ("t1",)),
        ({"parents": '["t1", 2, null]', "operation": "merge"}, ("t1", "2", "by merge")),
        ({"provenance": '{"parents": ["t1"], "operation": "repeat"}'}, ("t1", "by repeat")),
        ({"provenance": '["t1"]'}, ("t1",)),
        ({"provenance": "found on the web"}, ()),  # a text is no parent, or all records would be relatives
        ({"provenance": '"web"'}, ()),
        ({"provenance": "[" * 100_000}, ()),
        ({"provenance": '{"parents": "t1"}'}, ()),
        ({"provenance": '["t1"]', "parents": "t2"}, ("t2",)),
    ],
)  # fmt: skip
def test_the_provenance_of_a_row(fields, found):
    parents, operation = provenance_of(fields)
    assert (*parents, *(f"by {one}" for one in operation)) == found


def plain_relatives(ids: list[int], parents: list[list[int]]) -> list[frozenset[int]]:
    """Of each record those that share an id or a parent with it, by looking at all until nothing changes."""
    named = {one for some in parents for one in some}
    names = [{*some, *({id} & named)} for id, some in zip(ids, parents, strict=True)]
    groups = [{at} for at in range(len(ids))]
    changed = True
    while changed:
        changed = False
        for a in range(len(ids)):
            for b in range(len(ids)):
                if names[a] & names[b] and groups[a] != groups[b]:
                    both = groups[a] | groups[b]
                    for one in both:
                        groups[one] = both
                    changed = True
    return [frozenset(group) for group in groups]


@given(st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(1, 14), max_size=2)), max_size=8))
def test_relatives_are_those_of_looking_at_all_pairs(records):
    ids, parents = [id for id, _ in records], [some for _, some in records]
    rows = np.repeat(np.arange(len(ids)), [len(some) for some in parents])
    flat = np.array([one for some in parents for one in some], np.uint64)
    found = relatives(np.array(ids, np.uint64), rows, flat).tolist()
    groups = [
        frozenset(np.flatnonzero(np.array(found) == one).tolist()) if one else frozenset({at})
        for at, one in enumerate(found)
    ]
    assert groups == plain_relatives(ids, parents)


def test_children_of_one_record_are_in_its_split(tmp_path, monkeypatch):
    rows = [{"id": f"t{n}", "question": question(n), "answer": answer(n), "parents": []} for n in range(40)]
    for n in range(40, 100):
        made_of = [f"t{n % 20}"] if n < 80 else [f"gone{n % 10}"]  # the latter are no records
        rows.append({"id": f"t{n}", "question": question(n), "answer": answer(n), "parents": made_of})
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(path), "id": "id"}
    run = prepare_inline({"inputs": [source], "dedup": None, "output": str(tmp_path / "out")}, monkeypatch)
    found = {row["id"]: row for split in SPLITS for row in run.split(split).table().to_pylist()}
    assert len(found) == 100 and {row["split"] for row in found.values()} == set(SPLITS)
    families: dict[str, set[str]] = {}
    for id, row in found.items():
        of = row["provenance"]["parents"] if row["provenance"] else [id]
        assert of == ([id] if int(id[1:]) < 40 else rows[int(id[1:])]["parents"])
        families.setdefault(of[0], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in families.values()) and run.report["straddling"]["parents"] == 0
    assert run.report["notes"] == [], "the column of parents is read"
    named = source | {"columns": {"parents": "id", "operation": "answer"}}
    run = prepare_inline({"inputs": [named], "dedup": None, "output": str(tmp_path / "named")}, monkeypatch)
    row = run.split("train").table().to_pylist()[0]
    assert row["provenance"]["parents"] == [row["id"]] and row["metadata"].keys().isdisjoint({"parents", "operation"})


@pytest.mark.parametrize(
    ("counts", "shares", "size", "fill", "taken"),
    [
        ([100, 100], [0.5, 0.5], None, True, [100, 100]),
        ([100, 30], [0.75, 0.25], None, True, [90, 30]),
        ([100, 30], [0.5, 0.5], 100, True, [70, 30]),
        ([100, 30], [0.5, 0.5], 100, False, [50, 30]),
        ([100, 30, 10], [0.2, 0.4, 0.4], 120, True, [80, 30, 10]),
        ([5, 5, 100], [0.3, 0.3, 0.4], 60, True, [5, 5, 50]),
        ([10, 10], [0.5, 0.5], 100, True, [10, 10]),
        ([7, 7, 7], [1 / 3, 1 / 3, 1 / 3], 10, True, [4, 3, 3]),
        ([0, 10], [0.5, 0.5], None, True, [0, 10]),  # a source without records leaves no empty data set
        ([0, 100, 30], [0.2, 0.6, 0.2], None, False, [0, 90, 30]),
        ([0, 0], [0.5, 0.5], None, True, [0, 0]),
        ([57, 43], [0.57, 0.43], None, True, [57, 43]),  # 57 / 0.57 is 99.99999999999999 or 100
        ([29, 71], [0.29, 0.71], None, True, [29, 71]),
        ([58, 42], [0.58, 0.42], None, True, [58, 42]),
        ([5, 5], [0.55, 0.45], 9, True, [5, 4]),
    ],
)
def test_sizes(counts, shares, size, fill, taken):
    assert sizes_by_share(counts, shares, size, fill=fill) == taken


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 9)), min_size=1, max_size=5), st.integers(1, 800))
def test_the_wanted_number_is_taken_if_there_are_enough(sources, size):
    counts, parts = zip(*sources, strict=True)
    shares = [part / sum(parts) for part in parts]
    taken = sizes_by_share(counts, shares, size, fill=True)
    assert sum(taken) == min(size, sum(counts))
    assert all(0 <= one <= count for one, count in zip(taken, counts, strict=True))


def test_the_first_by_hash_are_taken():
    hashes = np.array([5, 3, 9, 1, 7], np.uint64)
    assert first_by_hash(hashes, np.array([0, 0, 0, 1, 1]), {0: 2, 1: 0}).tolist() == [True, True, False, False, False]
    assert first_by_hash(hashes, np.array([0, 0, 0, 1, 1]), {0: 5}).all()
    assert first_by_hash(hashes, np.array([0, 0, 0, 1, 1]), {1: 1}).tolist() == [True, True, True, True, False]


def test_every_class_gets_the_number():
    classes = np.array([1] * 10 + [2] * 3 + [3], np.uint64)
    hashes = np.arange(14)[::-1].astype(np.uint64)
    found = copies(hashes, classes, 5, 4)
    assert found[:10].tolist() == [0] * 5 + [1] * 5, "the last by hash are left out"
    assert found[10:13].tolist() == [1, 2, 2]
    assert found[13:].tolist() == [4], "at most four times"


def test_a_class_with_a_number_of_its_own_gets_it_and_others_stay_as_they_are():
    classes = np.repeat(np.array([7, 8, 9], np.uint64), [4, 6, 2])
    times = copies(np.arange(1, 13).astype(np.uint64), classes, {7: 2, 9: 5, 1: 3}, 5)
    assert times.tolist() == [1, 1, 0, 0] + [1] * 6 + [3, 2]


def variants_of(counts: list[int], each: int, to, most: int | None = None) -> list[list[int]]:
    """The numbers of variants of the records of each class. counts: its records; their order is by hash."""
    classes = np.repeat(np.arange(1, len(counts) + 1, dtype=np.uint64), counts)
    written = np.ones(len(classes), np.int64)
    found = numbers_of_variants(np.arange(1, len(classes) + 1).astype(np.uint64), classes, written, each, to, most)
    return [found[classes == number].tolist() for number in range(1, len(counts) + 1)]


@pytest.mark.parametrize(
    ("each", "to", "found"),
    [
        (2, None, [[2] * 6, [2, 2], [2]]),
        (9, "largest", [[0] * 6, [2, 2], [5]]),
        (3, "largest", [[0] * 6, [2, 2], [3]]),
        (9, 0.5, [[0] * 6, [1, 0], [2]]),
        (9, 7, [[1, 0, 0, 0, 0, 0], [3, 2], [6]]),
        (9, {3: 4, 8: 100}, [[0] * 6, [0, 0], [3]]),
    ],
)
def test_classes_are_filled_up_evenly_with_variants(each, to, found):
    assert variants_of([6, 2, 1], each, to) == found


def test_under_a_limit_rare_classes_and_first_variants_come_first():
    assert variants_of([6, 2, 1], 9, "largest", most=7) == [[0] * 6, [1, 1], [5]]
    assert variants_of([6, 2, 1], 9, "largest", most=4) == [[0] * 6, [0, 0], [4]]
    assert variants_of([4], 2, None, most=5) == [[2, 1, 1, 1]]
    assert variants_of([4], 2, None, most=0) == [[0] * 4]


def test_repeated_records_count_for_their_class():
    classes, hashes = np.array([1, 2, 2], np.uint64), np.array([1, 2, 3], np.uint64)
    assert numbers_of_variants(hashes, classes, np.array([5, 1, 1]), 9, "largest").tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("others", "fraction", "most"),
    [(90, 0.1, 10), (3, 0.7, 7), (3, 0.25, 1), (2, 0.25, 0), (0, 0.5, 0), (5, 0, 0), (5, 1, None)],
)
def test_the_most_synthetic_records_of_a_split(others, fraction, most):
    assert most_synthetic(others, fraction) == most


def with_generated(tmp_path, monkeypatch, of_source: int, made_of: list[str | None], **split) -> PrepareRun:
    """A run of plain tickets, and of another source with generated ones. made_of: the parent of each."""
    plain = [{"id": f"t{n}", "question": question(n), "answer": answer(n)} for n in range(of_source)]
    made = [
        {
            "id": f"g{n}", "question": question(500 + n), "answer": answer(500 + n),
            "provenance": {"parents": [parent or f"gone{n}"], "operation": "generate/paraphrase"},
        }
        for n, parent in enumerate(made_of)
    ]  # fmt: skip
    inputs = []
    for name, rows in (("desk", plain), ("model", made)):
        if rows:
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            inputs.append({"source": name, "path": f"{tmp_path}/{name}.jsonl", "id": "id"})
    settings = {"inputs": inputs, "dedup": None, "output": f"{tmp_path}/out", "split": split}
    return prepare_inline(settings, monkeypatch)


def test_what_a_model_made_is_for_training_alone_unless_asked(tmp_path, monkeypatch):
    run = with_generated(tmp_path, monkeypatch, 50, [None] * 50)
    report, found = run.report, records(run)
    assert {row["split"] for id, row in found.items() if id.startswith("g")} == {"train"} and len(found) == 100
    assert report["splits"] == {"train": 90, "validation": 5, "test": 5}, "the others have the shares"
    assert report["made"] == {"generate/paraphrase": {"train": 50, "validation": 0, "test": 0}}
    assert report["totals"]["synthetic"] == 50 and not any("off" in one for one in report["warnings"])
    (tmp_path / "asked").mkdir()
    run = with_generated(tmp_path / "asked", monkeypatch, 50, [None] * 50, synthetic={"validation": 1, "test": 1})
    assert run.report["splits"] == {"train": 80, "validation": 10, "test": 10}
    assert {row["split"] for id, row in records(run).items() if id.startswith("g")} == set(SPLITS)


def test_what_a_model_made_of_a_record_of_another_source_is_never_in_another_split(tmp_path, monkeypatch):
    run = with_generated(tmp_path, monkeypatch, 50, [f"t{n % 50}" for n in range(100)])
    found = records(run)
    splits = {id: row["split"] for id, row in found.items()}
    made = {id: row["provenance"]["parents"][0] for id, row in found.items() if id.startswith("g")}
    assert all(splits[id] == splits[parent] == "train" for id, parent in made.items())
    held_out = [id for id, split in splits.items() if split != "train"]
    assert len(held_out) >= 8 and run.report["totals"]["left_out"] == 100 - len(made) == 2 * len(held_out)
    assert {one["reason"]: one["records"] for one in run.report["reasons"]} == {"over_synthetic": 2 * len(held_out)}
    assert run.report["straddling"]["generated"] == 0


def test_the_share_of_synthetic_records_of_a_split_is_bounded(tmp_path, monkeypatch):
    run = with_generated(tmp_path, monkeypatch, 50, [None] * 50, synthetic={"train": 0.2})
    assert run.report["made"]["generate/paraphrase"]["train"] == 10
    assert run.report["splits"] == {"train": 50, "validation": 5, "test": 5}


def test_a_data_set_of_synthetic_records_alone_says_what_to_do_about_empty_splits(tmp_path, monkeypatch):
    run = with_generated(tmp_path, monkeypatch, 0, [None] * 20)
    assert run.report["splits"] == {"train": 20, "validation": 0, "test": 0}
    assert run.report["warnings"][0] == (
        "the split validation is empty: all records are synthetic, and split.synthetic.validation is 0. Add records "
        "that no model made, or set it to 1."
    )


def test_a_record_that_balancing_leaves_out_is_in_no_other_split_than_its_group(tmp_path, monkeypatch):
    rows = [
        {
            "id": f"t{n}",
            "question": question(n),
            "answer": answer(n),
            "customer": f"c{n // 4}",
            "queue": f"q{n % 4 > 0}",
        }
        for n in range(80)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": f"{tmp_path}/in.jsonl", "id": "id"}
    split = {"group": ["customer"], "balance": {"by": ["queue"], "to": "smallest"}}
    run = prepare_inline({"inputs": [source], "output": f"{tmp_path}/out", "split": split}, monkeypatch)
    assert run.report["totals"]["left_out"] == 32 and run.report["straddling"]["customer"] == 0
