"""Chains of similar documents: each document is compared with all of the first ones, and chains have one group."""

from itertools import combinations

import numpy as np
import pytest

from raymill.pipelines.dedup.group import KNOWN, Sizes
from raymill.pipelines.dedup.settings import Dedup
from tests.support.grouped import SETTINGS, chain, cliques, copied, grouped, templates
from tests.support.sampled import sampled
from tests.support.sketch_cases import BANDS, COLUMNS, ROWS

CORPORA = [chain, cliques, templates, copied]


def are_similar(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two signatures have an equal band and as many equal columns as the threshold wants."""
    equal = one == other
    return bool(equal.reshape(BANDS, ROWS).all(axis=1).any()) and equal.sum() / COLUMNS >= SETTINGS["threshold"]


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("known", sampled([1, 25, 59], 1))
def test_each_later_document_is_compared_with_all_of_the_first_ones_and_no_other(tmp_path, corpus, known):
    values = np.random.default_rng(7).permutation(corpus())
    wanted = {at for at in range(known, 60) if any(are_similar(values[at], values[first]) for first in range(known))}
    found = None
    for name, sizes, dedup in (
        ("whole", Sizes(), Dedup(**SETTINGS)),
        ("ranges", Sizes(documents=16), Dedup(**SETTINGS)),
        ("blocks", Sizes(documents=16, block=7), Dedup(component_documents=10, **SETTINGS)),
    ):
        groups, _ = grouped(values, tmp_path / name, dedup, sizes, known=known)
        rows = [row for row in groups.to_pylist() if row["partner_run"] == KNOWN]
        assert {row["row"] for row in rows} == wanted
        assert all(are_similar(values[row["row"]], values[row["partner_position"]]) for row in rows)
        partners = {row["row"]: row["partner_position"] for row in rows}
        assert found in (None, partners)
        found = partners


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("documents", [16, 1 << 19])
def test_documents_that_are_similar_over_others_have_one_group(tmp_path, corpus, documents):
    values = np.random.default_rng(8).permutation(corpus())
    label = list(range(60))
    for one, other in combinations(range(60), 2):
        if are_similar(values[one], values[other]) and label[one] != label[other]:
            joined, left = sorted((label[one], label[other]))
            label = [joined if own == left else own for own in label]
    chains = {tuple(at for at in range(60) if label[at] == own) for own in set(label)}
    groups, _ = grouped(values, tmp_path / "run", Dedup(**SETTINGS), Sizes(documents=documents), chained=True)
    by_group: dict[int, list[int]] = {}
    for row in groups.to_pylist():
        by_group.setdefault(row["group_id"], []).append(row["row"])
    assert {tuple(sorted(rows)) for rows in by_group.values()} == {one for one in chains if len(one) > 1}
    stars, _ = grouped(values, tmp_path / "stars", Dedup(**SETTINGS), Sizes(documents=documents))
    removed = {row["row"]: row["partner"] for row in groups.to_pylist() if row["reason"]}
    assert removed == {row["row"]: row["partner"] for row in stars.to_pylist() if row["reason"]}, "as without chains"
