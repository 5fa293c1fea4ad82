"""Rows become batches: each worker its share, all the shares together the step, and errors where they are asked for."""

import dataclasses
import math
import threading
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError, StorageError
from raymill.cluster.store.paths import RelativePath
from raymill.cluster.store.store import Store
from raymill.training.data import packed
from raymill.training.data.batch import Loader, collate
from raymill.training.data.order import HeldOut, Order, rows_of_worker
from raymill.training.data.packed import NO_TARGET, PackedRows, RowBounds
from tests.support.packed_examples import config, document, pack_examples, write_examples

LENGTH = 16
ROWS = 90


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Artifact:
    """ROWS rows and more in several files of several row groups."""
    root = str(tmp_path_factory.mktemp("packed"))
    documents = [document(f"d{n}", 9 + 5 * n % 8) for n in range(ROWS)]
    packed = pack_examples(root, write_examples(root, documents), config(), unit_tokens=250)["train"]
    assert packed.manifest.rows == ROWS and len(packed.manifest.files) > 2
    return packed


def order() -> Order:
    return Order([ROWS], [ROWS], rows_per_step=10, block_rows=4, seed=1)


def loader(artifact: Artifact, rank: int = 0, world: int = 1, rows: int = 3, **more) -> Loader:
    return Loader(more.pop("order", order()), [PackedRows(artifact)], rank, world, rows, LENGTH, 0, **more)


def ids_of(batches) -> list[list[int]]:
    """Real tokens of each row of some micro-batches."""
    return [
        batch.input_ids[row, : batch.ends[row] + 1].tolist() for batch in batches for row in range(len(batch.documents))
    ]


# --- packed rows


@settings(max_examples=12)
@given(indices=st.lists(st.integers(0, ROWS - 1), max_size=30), cache_bytes=st.sampled_from([0, 1 << 20]))
def test_rows_are_read_by_number_in_the_order_asked_for(artifact, indices, cache_bytes):
    everything = artifact.table()
    tables = PackedRows(artifact, cache_bytes).read(indices)
    assert [table.to_pylist() for table in tables] == [everything.slice(index, 1).to_pylist() for index in indices]


def test_the_rows_of_all_row_groups_add_up(artifact):
    rows = PackedRows(artifact)
    assert sum(rows.group_rows) == len(rows) == ROWS
    assert len(rows.group_rows) >= len(artifact.manifest.files)


def test_files_are_opened_when_they_are_wanted_and_row_groups_kept_while_there_is_room(artifact, monkeypatch):
    opened: list[str] = []
    open_parts = Store.open_parts
    monkeypatch.setattr(Store, "open_parts", lambda self, uri: opened.append(uri) or open_parts(self, uri))
    rows = PackedRows(artifact)
    assert opened == []
    for _ in range(3):
        rows.read([0, 1, 2])
    assert opened == artifact.file_uris[:1] and rows.fetched_groups == 1
    forgetful = PackedRows(artifact, cache_bytes=0)
    forgetful.read([0, ROWS - 1, 0])
    assert forgetful.fetched_groups == 3


def test_the_cache_keeps_the_row_groups_read_last_and_no_more_than_it_may(artifact):
    """Against a list of the groups by the time of their last use."""
    sizes = PackedRows(artifact).group_rows
    first_rows = [sum(sizes[:group]) for group in range(len(sizes))]
    assert len(sizes) >= 3
    group_bytes = max(table.nbytes for table in groups_of(artifact))
    rows = PackedRows(artifact, cache_bytes=2 * group_bytes)
    kept, fetched = [], 0
    for group in [0, 1, 0, 2, 0, 1, 2, 2, 1, 0, 2, 0, 1]:
        rows.read([first_rows[group]])
        fetched += group not in kept
        kept = [*(one for one in kept if one != group), group]
        while sum(groups_of(artifact)[one].nbytes for one in kept) > rows.cache_bytes:
            kept.pop(0)
        assert rows.fetched_groups == fetched
        assert rows._cached_bytes == sum(table.nbytes for table in rows._groups.values()) <= rows.cache_bytes


def test_files_are_kept_open_up_to_a_number_those_read_last(artifact, monkeypatch):
    monkeypatch.setattr(packed, "_OPEN_FILES", 2)
    opened: list[str] = []
    open_parts = Store.open_parts
    monkeypatch.setattr(Store, "open_parts", lambda self, uri: opened.append(uri) or open_parts(self, uri))
    rows, wanted, kept = PackedRows(artifact, cache_bytes=0), [], []
    starts = np.cumsum([0, *(file.rows for file in artifact.manifest.files)])
    everything = artifact.table()
    opened.clear()
    for file in [0, 1, 0, 2, 0, 1, 2, 0]:
        for row in (starts[file], starts[file + 1] - 1):
            assert rows.read([row])[0].to_pylist() == everything.slice(row, 1).to_pylist()
            rows._groups.clear()
        wanted += [] if file in kept else [artifact.file_uris[file]]
        kept = [*(one for one in kept if one != file), file][-2:]
    assert opened == wanted


def groups_of(artifact) -> list:
    """The row groups of all files."""
    files = [pq.ParquetFile(uri) for uri in artifact.file_uris]
    return [file.read_row_group(group) for file in files for group in range(file.num_row_groups)]


def test_documents_of_a_row_are_counted_over_all_splits(artifact):
    counters = {"pieces/train": 30, "pieces/test": 6, "rows/train": 9, "rows/test": 3, "documents/train": 5}
    manifest = dataclasses.replace(artifact.manifest, counters=counters)
    few = PackedRows(Artifact(artifact.store, artifact.uri, manifest))
    assert few.documents_per_row == 3
    ours = Loader(order(), [few, PackedRows(artifact)], 0, 1, 3, LENGTH, 0)
    assert ours.documents_per_row == max(3, PackedRows(artifact).documents_per_row) == 3
    ours.close()


def test_a_file_that_is_gone_or_damaged_is_named(tmp_path):
    root = str(tmp_path)
    packed = pack_examples(root, write_examples(root, [document(f"d{n}", 12) for n in range(40)]), config())["train"]
    uri = packed.file_uris[0]
    data = Store().read_bytes(uri)
    Store().write_bytes(uri, data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :])
    with pytest.raises(DataError, match=uri):
        PackedRows(packed).read([0])
    Store().delete([uri])
    with pytest.raises(DataError, match=f"{uri}: is gone"):
        PackedRows(packed).read([0])


def test_a_file_of_other_rows_than_the_manifest_has_is_named(tmp_path):
    """A whole Parquet file in the place of another: its own checksums are right."""
    root = str(tmp_path)
    packed = pack_examples(root, write_examples(root, [document(f"d{n}", 12) for n in range(40)]), config())["train"]
    (uri,) = packed.file_uris
    pq.write_table(packed.table().slice(1), uri)
    with pytest.raises(DataError, match=rf"^{uri}: has .* bytes, and .* were written\. It was damaged"):
        PackedRows(packed).read([0])


WHOLE = {"ids": [5, 6, 7], "labels": [False, True, True], "lengths": [2, 1], "documents": ["a", "b"], "label": None}
CHANGES = {
    "a length without end": ({"lengths": [2**31 - 1, 1]}, "lengths of documents whose sum is not"),
    "a negative length": ({"lengths": [4, -1]}, "lengths of documents whose sum is not"),
    "an empty document": ({"lengths": [3, 0]}, "lengths of documents whose sum is not"),
    "no lengths": ({"lengths": None}, "null in lengths"),
    "a null within ids": ({"ids": [5, None, 7]}, "null in ids"),
    "a null in place of documents": ({"documents": None}, "null in documents"),
    "fewer labels": ({"labels": [True]}, "labels and ids of other lengths"),
    "nothing to train on": ({"labels": [False] * 3}, "a row without a token to train on"),
    "more weights": ({"weights": [1.0] * 4}, "weights and ids of other lengths"),
    "a weight that is no number": ({"weights": [1.0, math.nan, 1.0]}, "a weight that is not finite"),
    "a negative id": ({"ids": [5, -1, 7]}, "token ids from -1 to 7"),
    "an id beyond the vocabulary": ({"ids": [5, 6, 300]}, "token ids from 5 to 300, of a model that embeds 300"),
    "a class beyond those of the run": ({"label": 2}, "classes from 2 to 2, of 2"),
    "a negative class": ({"label": -1}, "classes from -1 to -1, of 2"),
    "more tokens than a row has": (
        {"ids": [5] * 9, "labels": [True] * 9, "lengths": [9]},
        "a row of 9 tokens, over 8",
    ),
}


@pytest.mark.parametrize(("change", "seen"), CHANGES.values(), ids=CHANGES)
def test_rows_that_pack_does_not_write_are_named_and_not_used(tmp_path, artifact, change, seen):
    for second, is_wrong in ((WHOLE | {"weights": [1.0, 2.0, 0.0]}, False), (WHOLE | change, True)):
        rows = [WHOLE, second]
        pq.write_table(pa.Table.from_pylist(rows, packed.PACKED), path := tmp_path / "part.parquet")
        file = dataclasses.replace(
            artifact.manifest.files[0], path=RelativePath(path.name), rows=2, bytes=path.stat().st_size
        )
        forged = Artifact(Store(), str(tmp_path), dataclasses.replace(artifact.manifest, files=(file,)))
        reader = PackedRows(forged, bounds=RowBounds(8, 300, 2))
        if is_wrong:
            with pytest.raises(DataError, match=f"^{path}: row group 0: {seen}"):
                reader.read([0])
        else:
            assert reader.read([0, 1])[1]["ids"].to_pylist() == [[5, 6, 7]]


TWO = {"ids": [5, 6, 5, 7], "labels": [False, True] * 2, "lengths": [2, 2], "documents": ["a", "a"], "label": None}
JUDGED_CHANGES = {
    "one judgement": ({"judgements": [1.0]}, "pairs", "other numbers of documents"),
    "one name": ({"documents": ["a"]}, "pairs", "other numbers of documents"),
    "no judgement": ({"judgements": None}, "pairs", "null in judgements"),
    "an answer without a label": ({"labels": [False, True, False, False]}, "labelled", "an answer without a token"),
    "an endless margin": ({"judgements": [math.inf, math.inf]}, "pairs", "a margin beyond 1,000"),
    "a large margin": ({"judgements": [1e30, 1e30]}, "pairs", "a margin beyond 1,000"),
    "half a judgement": ({"judgements": [0.5, 1.0]}, "labelled", "a judgement that is neither 0 nor 1"),
    "no number": ({"judgements": [math.nan, 1.0]}, "labelled", "a judgement that is neither 0 nor 1"),
    "one answer": (
        {"ids": [5, 6], "labels": [False, True], "lengths": [2], "documents": ["a"], "judgements": [1.0]},
        "pairs",
        "an answer without the other one",
    ),
}


@pytest.mark.parametrize(("change", "records", "seen"), JUDGED_CHANGES.values(), ids=JUDGED_CHANGES)
def test_rows_of_answers_that_pack_does_not_write_are_refused(change, records, seen):
    whole = TWO | {"judgements": [0.0, 1.0] if records == "labelled" else [math.nan, math.nan]}
    bounds = RowBounds(8, 300, records=records)
    bounds.refuse_wrong(pa.Table.from_pylist([whole], packed.JUDGED_PACKED), "here")
    with pytest.raises(DataError, match=f"^here: {seen}"):
        bounds.refuse_wrong(pa.Table.from_pylist([whole, whole | change], packed.JUDGED_PACKED), "here")
    with pytest.raises(DataError, match=r"^here: answers without judgements"):
        bounds.refuse_wrong(pa.Table.from_pylist([TWO], packed.PACKED), "here")


def test_rows_on_an_object_store_are_fetched_by_ranges(s3_root, s3_store):
    documents = [document(f"d{n}", 12) for n in range(200)]
    examples = write_examples(s3_root, documents, units=3, store=s3_store)
    packed = pack_examples(s3_root, examples, config())["train"]
    ours = loader(packed, order=Order([packed.manifest.rows], [1], 10, 4, 1))
    assert sum(len(batch.documents) for batch in ours.micro_batches(7)) == 10
    ours.close()


# --- batches


def test_a_batch_holds_positions_targets_and_padding_by_place(artifact):
    rows = PackedRows(artifact).read([3, 5])
    batch = collate(rows, 3, LENGTH, pad_id=7)
    for at, table in enumerate(rows):
        row = table.to_pylist()[0]
        size = len(row["ids"])
        positions = [n for length in row["lengths"] for n in range(length)]
        wanted = [
            token if counts else NO_TARGET for token, counts in zip(row["ids"][1:], row["labels"][1:], strict=True)
        ]
        assert batch.input_ids[at].tolist() == row["ids"] + [7] * (LENGTH - size)
        assert batch.position_ids[at].tolist() == positions + list(range(LENGTH - size))
        assert batch.targets[at].tolist() == wanted + [NO_TARGET] * (LENGTH - size + 1)
        assert batch.ends[at] == size - 1 and batch.documents[at] == tuple(row["documents"])
    assert (batch.input_ids[2] == 7).all() and (batch.targets[2] == NO_TARGET).all()
    assert batch.position_ids[2].tolist() == list(range(LENGTH))
    assert batch.tokens == sum(len(table["ids"][0]) for table in rows)
    assert batch.label_tokens == (batch.targets != NO_TARGET).sum()


def test_padding_that_equals_a_token_of_the_text_hides_no_label():
    """The end-of-text token is the padding of many tokenizers; a model that never learns it never stops."""
    import pyarrow as pa

    from raymill.training.data.packed import PACKED

    row = {"ids": [5, 2], "labels": [False, True], "lengths": [2], "documents": ["d"], "label": None}
    batch = collate([pa.Table.from_pylist([row], PACKED)], 1, 4, pad_id=2)
    assert batch.targets.tolist() == [[2, NO_TARGET, NO_TARGET, NO_TARGET]]


def test_a_batch_without_rows_is_all_padding():
    batch = collate([], 2, 4, 9)
    assert batch.tokens == batch.label_tokens == batch.digest == 0 and batch.documents == ()
    assert batch.input_ids.tolist() == [[9] * 4] * 2


# --- loaders


@pytest.mark.parametrize("world", [1, 2, 3, 4, 10, 16])
def test_the_workers_together_read_the_rows_of_the_step_each_once(artifact, world):
    everything = artifact.table()["ids"].to_pylist()
    for step in (0, 5, 8):
        parts = []
        for rank in range(world):
            ours = loader(artifact, rank, world)
            parts.append(ours.micro_batches(step))
            ours.close()
        assert len({len(part) for part in parts}) == 1, "every worker takes part equally often"
        dealt = [ids_of(part) for part in parts]
        rows = order().step(step)
        expected = [everything[row] for _, row in (rows if world == 1 else sorted(rows))]
        assert [ids for part in dealt for ids in part] == expected, "neighbours go to one worker"
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
        digests = sum(batch.digest for part in parts for batch in part) % 2**64
        alone = loader(artifact)
        assert digests == sum(batch.digest for batch in alone.micro_batches(step)) % 2**64
        alone.close()


def test_a_worker_reads_few_row_groups_for_its_rows_of_a_step():
    """1,024 rows a step on 256 workers, in row groups of 32 rows: one group a worker in place of four."""
    groups, world = 32, 256
    every = Order([1 << 15], [1 << 15], rows_per_step=1024, block_rows=groups, seed=1)
    for step in (0, 7):
        rows = every.step(step)
        shares = [rows_of_worker(rows, rank, world) for rank in range(world)]
        assert sorted(row for share in shares for row in share) == sorted(rows)
        near = sum(len({row // groups for _, row in share}) for share in shares)
        strided = sum(len({row // groups for _, row in rows[rank::world]}) for rank in range(world))
        assert near <= 1.3 * world and strided > 3.5 * world


@given(st.integers(0, 40), st.integers(1, 12))
def test_shares_of_a_step_differ_by_one_row_and_are_as_large_as_they_were(count, world):
    rows = [(0, 7 * number % 41) for number in range(count)]
    shares = [rows_of_worker(rows, rank, world) for rank in range(world)]
    assert [len(share) for share in shares] == [len(rows[rank::world]) for rank in range(world)]


def test_begun_at_any_step_the_batches_are_those_of_the_run_that_was_never_stopped(artifact):
    whole = loader(artifact)
    expected = [ids_of(whole.micro_batches(step)) for step in range(12)]
    for first in (1, 7, 11):
        resumed = loader(artifact)
        assert [ids_of(resumed.micro_batches(step)) for step in range(first, 12)] == expected[first:]
        resumed.close()
    assert ids_of(whole.micro_batches(4)) == expected[4], "and going back is allowed"
    whole.close()


def test_two_corpora_are_read_in_the_order_of_the_step(artifact):
    mixed = Order([ROWS, ROWS], [2, 1], 9, 4, 1)
    ours = Loader(mixed, [PackedRows(artifact), PackedRows(artifact)], 0, 1, 3, LENGTH, 0)
    everything = artifact.table()["ids"].to_pylist()
    assert ids_of(ours.micro_batches(1)) == [everything[row] for _, row in mixed.step(1)]
    ours.close()


def test_held_out_rows_are_all_read_once_and_nothing_beyond_them(artifact):
    held_out = HeldOut([ROWS], rows_per_step=40)
    parts = [[], []]
    for rank in range(2):
        ours = loader(artifact, rank, 2, order=held_out, steps=len(held_out))
        parts[rank] = [ours.micro_batches(step) for step in range(len(held_out))]
        ours.close()
    assert [len(step) for step in parts[0]] == [len(step) for step in parts[1]] == [7, 7, 2]
    read = [ids for part in parts for step in part for ids in ids_of(step)]
    assert sorted(read) == sorted(artifact.table()["ids"].to_pylist())


def test_what_goes_wrong_in_the_thread_is_raised_where_the_step_is_asked_for(artifact, monkeypatch):
    ours = loader(artifact)
    failing = lambda self, uri: (_ for _ in ()).throw(StorageError(f"{uri}: no answer."))  # noqa: E731
    monkeypatch.setattr(Store, "open_parts", failing)
    with pytest.raises(StorageError, match=r"\.parquet: no answer"):
        ours.micro_batches(0)
    ours._thread.submit(len, ()).result()  # the steps ahead have been tried too, or given up
    monkeypatch.undo()
    for step in (0, 1):
        assert ids_of(ours.micro_batches(step)), "asked again when the store answers again, it succeeds"
    ours.close()


def test_the_next_steps_are_made_while_one_computes_and_waiting_is_counted(artifact, monkeypatch):
    ours = loader(artifact, ahead=2)
    ours.micro_batches(0)
    made = [ours._pending[step] for step in (1, 2)]
    assert all(batches.result(timeout=30) for batches in made) and sorted(ours._pending) == [1, 2]
    waited = ours.waited_s
    assert waited > 0
    for asked, ahead in ((5, [6, 7]), (1, [2, 3])):
        ours.micro_batches(asked)
        assert sorted(ours._pending) == ahead, "what was made ahead of another step is given up"
    ours.close()
    short = loader(artifact, ahead=2, steps=3)
    for asked, ahead in ((0, [1, 2]), (1, [2]), (2, [])):
        short.micro_batches(asked)
        assert sorted(short._pending) == ahead, "and nothing after the last step"
    short.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rows")]


def test_each_step_is_read_once(artifact):
    asked, steps = [], order()
    counting = SimpleNamespace(
        rows_per_step=steps.rows_per_step, step=lambda step: asked.append(step) or steps.step(step)
    )
    ours = loader(artifact, order=counting, ahead=2, steps=6)
    for step in range(6):
        ours.micro_batches(step)
    ours.close()
    assert asked == [*range(6)]


@pytest.mark.parametrize(
    ("settings", "world", "rows"),
    [
        ({}, 1, 4),
        ({}, 3, 2),
        ({"micro_batch": 3}, 1, 3),
        ({"micro_batch": 30}, 2, 2),
        ({"sequence_length": 4096, "tokens_per_step": 4096 * 9}, 1, 2),
        ({"sequence_length": 4096, "tokens_per_step": 4096 * 9}, 3, 2),
        ({"sequence_length": 16384, "tokens_per_step": 16384 * 4}, 1, 1),
        ({"sequence_length": 1024, "tokens_per_step": 1024 * 9}, 1, 5),
        ({"sequence_length": 1024, "tokens_per_step": 1024 * 17}, 1, 6),
        ({"sequence_length": 1024, "tokens_per_step": 1024 * 9, "micro_batch": 8}, 1, 8),
    ],
)
def test_micro_batches_are_as_large_as_a_worker_has_use_for(settings, world, rows):
    given_ = config(**settings)
    assert given_.micro_rows(world) == rows
    if given_.micro_batch is None:
        share = math.ceil(given_.rows_per_step / world)
        most = max(1, 8192 // given_.sequence_length)
        assert math.ceil(share / rows) == math.ceil(share / most), "no more micro-batches than need be"
        assert rows == 1 or math.ceil(share / (rows - 1)) > math.ceil(share / most), "and none with more rows"
