"""Keys counted over units are those that a plain loop over all documents counts."""

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster.exchange import SlicedFiles
from raymill.cluster.output import write_slices
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.stages import shared_keys
from raymill.pipelines.curate.stages.shared_keys import KeyCounter, find_shared, read_shared

# Keys are spread over the slices; some have two checks, as two texts with the same 64 bits would.
KEYS = [(n << 60 | n % 3, check) for n in range(16) for check in (7, 9)]
# Units of tables of documents of keys.
document = st.lists(st.sampled_from(KEYS), max_size=5)
units = st.lists(st.lists(st.lists(document, max_size=4), max_size=3), min_size=1, max_size=4)


def counted(unit, slices: int) -> list[np.ndarray]:
    counter, number = KeyCounter(), 0
    for table in unit:
        rows = [(key, check, number + at) for at, document in enumerate(table) for key, check in document]
        keys, checks, documents = zip(*rows, strict=True) if rows else ((), (), ())
        counter.add(np.array(keys, np.uint64), np.array(checks, np.uint32), np.array(documents, np.int64))
        number += len(table)
    return counter.slices(slices)


def documents_of(unit) -> list[list[tuple[int, int]]]:
    return [document for table in unit for document in table]


@given(units, st.integers(1, 5), st.integers(1, 3))
def test_the_keys_of_more_documents_than_allowed_come_back_to_the_units_that_have_them(given_units, slices, most):
    firsts = np.cumsum([0] + [len(documents_of(unit)) for unit in given_units])[:-1]
    holders = defaultdict(list)
    for unit, first in zip(given_units, firsts, strict=True):
        for number, document in enumerate(documents_of(unit)):
            for key in set(document):
                holders[key].append(first + number)
    sliced = [counted(unit, slices) for unit in given_units]
    found = [shared_keys.shared_keys([unit[at] for unit in sliced], firsts.tolist(), most) for at in range(slices)]
    for number, unit in enumerate(given_units):
        shared = np.concatenate([of_slice[number] for of_slice in found])
        rows = {(int(row["key"]), int(row["check"])): (int(row["documents"]), int(row["first"])) for row in shared}
        here = {key for document in documents_of(unit) for key in document}
        assert rows == {key: (len(at), at[0]) for key, at in holders.items() if len(at) > most and key in here}
        keys, checks = np.array([k for k, _ in KEYS], np.uint64), np.array([c for _, c in KEYS], np.uint32)
        at = find_shared(shared, keys, checks)
        assert {KEYS[n]: int(shared["first"][a]) for n, a in enumerate(at) if a >= 0} == {
            key: first for key, (_, first) in rows.items()
        }


def test_adding_up_in_between_makes_no_difference(monkeypatch):
    unit = [[[KEYS[(7 * a + b) % 32] for b in range(a % 5)] for a in range(n, n + 9)] for n in range(40)]
    expected = [one.tolist() for one in counted(unit, 3)]
    monkeypatch.setattr(shared_keys, "_WAITING", 4)
    assert [one.tolist() for one in counted(unit, 3)] == expected


def test_the_slices_of_a_unit_are_read_in_order_of_their_keys(tmp_path):
    sliced = [counted([[[key] for key in KEYS]], 3), counted([[KEYS]], 3)]
    uris = []
    for at in range(3):
        uris.append(str(tmp_path / f"{at}.slices"))
        write_slices(tmp_path / f"{at}.slices", shared_keys.shared_keys([one[at] for one in sliced], [0, 32], 1))
    shared = read_shared(Store(), SlicedFiles.of(uris, 2).slice(1))
    assert [(int(one["key"]), int(one["check"])) for one in shared] == sorted(KEYS)
    assert set(shared["documents"].tolist()) == {2}
