"""What a micro-batch finds out on the CPU: where documents begin, and which positions have a target."""

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.training.data.batch import boundary_capacity, collate, document_starts, target_positions
from raymill.training.data.packed import NO_TARGET, PACKED

LENGTH = 12


def rows_of(lengths: list[list[int]]) -> pa.Table:
    """Rows of documents of these lengths; every token but a document's first is a target."""
    rows = [
        {
            "ids": list(range(1, sum(row) + 1)),
            "labels": [place > 0 for length in row for place in range(length)],
            "lengths": row,
            "documents": [str(one) for one in row],
            "label": None,
        }
        for row in lengths
    ]
    return pa.Table.from_pylist(rows, PACKED)


packings = st.lists(
    st.lists(st.integers(1, 5), min_size=1, max_size=LENGTH).filter(lambda row: sum(row) <= LENGTH),
    min_size=1,
    max_size=4,
)


@settings(max_examples=50)
@given(packings, st.integers(0, 2), st.floats(0, 8))
def test_boundaries_cut_the_rows_into_documents_and_paddings_and_then_stay_at_the_end(lengths, blank, per_row):
    batch = collate([rows_of(lengths)], len(lengths) + blank, LENGTH, 0, per_row)
    found = np.diff(batch.starts)
    wanted = [n for row in lengths for n in [*row, LENGTH - sum(row)] if n] + [LENGTH] * blank
    assert batch.starts.dtype == np.int32 and batch.starts[0] == 0
    assert found[: len(wanted)].tolist() == wanted
    assert not found[len(wanted) :].any()


@settings(max_examples=50)
@given(packings)
def test_target_positions_are_those_with_a_target_in_order(lengths):
    batch = collate([rows_of(lengths)], len(lengths), LENGTH, 0)
    assert batch.target_positions.dtype == np.int64 and len(batch.target_positions) == batch.label_tokens
    flat = torch.from_numpy(batch.targets).flatten()
    assert batch.target_positions.tolist() == (flat != NO_TARGET).nonzero().flatten().tolist()
    assert (np.diff(batch.target_positions) > 0).all()


@settings(max_examples=50)
@given(st.integers(1, 64), st.floats(1, 500))
def test_there_is_room_for_half_as_many_documents_again_as_are_expected_and_a_padding_a_row(rows, per_row):
    room = boundary_capacity(rows, per_row)
    assert 1.5 * per_row * rows + rows <= room <= 1.5 * per_row * rows + rows + 9


def test_boundaries_are_of_one_length_for_one_room_and_twice_as_long_where_documents_are_more():
    shapes = {len(collate([rows_of([[3] * n])], 1, LENGTH, 0, 2).starts) for n in range(1, 5)}
    assert shapes == {boundary_capacity(1, 2) + 1}
    assert [len(document_starts(np.zeros((1, n), np.int64), 8)) for n in (7, 8, 9)] == [9, 9, 17]
    assert target_positions(np.full((1, 3), NO_TARGET)).tolist() == []


def test_the_digest_of_a_row_tells_its_tokens_and_their_order_and_not_the_order_of_rows():
    def digest(*rows: list[int]) -> int:
        tables = [rows_of([[len(row)]]).set_column(0, "ids", pa.array([row], pa.list_(pa.int32()))) for row in rows]
        return collate(tables, 2, LENGTH, 0).digest

    first, second = [5, 6, 7], [8, 9]
    whole = digest(first, second)
    assert whole == digest(second, first) == (digest(first) + digest(second)) % 2**64
    assert len({whole, digest([6, 5, 7], second), digest([5, 6, 8], second), digest(first)}) == 4


def test_classes_are_those_of_the_rows_and_rows_without_one_have_no_target():
    table = rows_of([[2], [3], [4]]).set_column(4, "label", pa.array([3, None, 0], pa.int32()))
    assert collate([table], 4, LENGTH, 0).classes.tolist() == [3, NO_TARGET, 0, NO_TARGET]


def test_a_target_has_the_weight_of_its_token_and_rows_without_weights_have_ones():
    first = {"ids": [1, 2, 3, 4], "labels": [False, True, True, True], "lengths": [4], "documents": ["a"]}
    second = first | {"weights": [9, 0.5, 9, 0.25], "labels": [False, True, False, True]}
    batch = collate([pa.Table.from_pylist([first, second], PACKED)], 3, 5, 0)
    assert batch.weights.tolist() == [[1, 1, 1, 0, 0], [0.5, 0, 0.25, 0, 0], [0] * 5]
    assert (batch.label_tokens, batch.loss_weight) == (5, 3.75)
    plain = collate([pa.Table.from_pylist([first], PACKED)], 1, 5, 0)
    assert plain.weights is None and plain.loss_weight == 3
    earlier = pa.Table.from_pylist([first], pa.schema(list(PACKED)[:-1]))  # rows that an earlier version packed
    assert collate([earlier], 1, 5, 0).weights is None


def test_a_part_of_a_batch_has_its_positions_and_the_targets_that_they_predict():
    batch = collate([rows_of([[5, 4], [3]])], 3, LENGTH, 0)
    first, second = (batch.part(number, 2) for number in range(2))
    assert first.input_ids.tolist() == [[1, 2, 3, 4, 5, 6], [1, 2, 3, 0, 0, 0], [0] * 6]
    assert second.input_ids.tolist() == [[7, 8, 9, 0, 0, 0], [0] * 6, [0] * 6]
    assert second.position_ids.tolist() == [[1, 2, 3, 0, 1, 2], [3, 4, 5, 6, 7, 8], [6, 7, 8, 9, 10, 11]]
    none = NO_TARGET
    assert first.targets.tolist() == [[2, 3, 4, 5, none, 7], [2, 3, none, none, none, none], [none] * 6]
    assert second.targets[0].tolist() == [8, 9, none, none, none, none]
    assert first.target_positions.tolist() == [0, 1, 2, 3, 5, 6, 7] and second.target_positions.tolist() == [0, 1]
    assert (first.tokens, first.label_tokens, second.tokens, second.label_tokens) == (9, 7, 3, 2)
    assert (first.real.sum(), second.real.sum()) == (9, 3)
    assert (first.digest, second.digest) == (batch.digest, 0)
    assert np.array_equal(first.starts, batch.starts) and np.array_equal(second.starts, batch.starts)


@settings(max_examples=50)
@given(packings, st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_parts_of_a_batch_are_all_of_it(lengths, parts):
    batch = collate([rows_of(lengths)], len(lengths) + 1, LENGTH, 0)
    cut = [batch.part(number, parts) for number in range(parts)]
    for name in ("input_ids", "position_ids", "targets", "real"):
        assert np.array_equal(np.concatenate([getattr(one, name) for one in cut], 1), getattr(batch, name))
    for name in ("tokens", "label_tokens", "loss_weight", "digest"):
        assert sum(getattr(one, name) for one in cut) == getattr(batch, name)
