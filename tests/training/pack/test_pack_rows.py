"""Examples to packed rows: nothing is lost or counted twice, and the result depends on documents and config alone."""

from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.artifact import Artifact
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.training.data.packed import PACKED
from raymill.training.pack.best_fit import best_fit
from raymill.training.pack.packing import KeyRange, ShuffleUnit, in_order, read_examples
from tests.support.packed_examples import config, document, pack_examples, write_examples

SIZES = st.lists(st.integers(1, 60), max_size=40)


def pack(tmp_path, documents: list[dict], units: int = 1, unit_tokens: int = 1 << 20, **settings) -> dict:
    root = str(tmp_path / f"{len(list(tmp_path.iterdir()))}")
    return pack_examples(root, write_examples(root, documents, units, 2000), config(**settings), unit_tokens)


def read_range(examples: Artifact, unit: KeyRange) -> list[dict]:
    """The examples of a range, read from their files."""
    names = tuple(file.path for file in examples.manifest.files)
    return in_order(read_examples(Store(), ShuffleUnit(0, 1, examples.uri, names, None), [unit], 1 << 30)).to_pylist()


def rows_of(artifact: Artifact) -> list[dict]:
    return artifact.table().to_pylist()


def trained(rows: list[dict]) -> Counter:
    """(token before, token) of every token that the loss counts."""
    return Counter(
        (row["ids"][at - 1], token)
        for row in rows
        for at, (token, counts) in enumerate(zip(row["ids"], row["labels"], strict=True))
        if counts
    )


def labelled(documents: list[dict]) -> Counter:
    return trained([row | {"labels": [False, *row["labels"][1:]]} for row in documents if row["ids"]])


# --- best fit


def naive_best_fit(sizes: list[int], length: int) -> list[int]:
    """Rooms left in the rows, by looking at every row for every piece."""
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms[rooms.index(min(fitting))] -= size
        else:
            rooms.append(length - size)
    return sorted(rooms)


@settings(max_examples=200)
@given(st.integers(1, 40), st.data())
def test_best_fit_leaves_the_rooms_that_trying_every_row_leaves(length, data):
    sizes = data.draw(st.lists(st.integers(1, length), max_size=60))
    rows, count = best_fit(np.array(sizes, np.int64), length)
    used = np.bincount(rows, weights=sizes, minlength=count) if sizes else np.empty(0)
    assert sorted(length - used.astype(int)) == naive_best_fit(sizes, length)
    assert count == len(set(rows.tolist()))


# --- rows


@pytest.mark.parametrize("overflow", ["split", "truncate"])
def test_weights_stay_with_their_tokens_and_a_row_whose_label_tokens_all_have_1_has_none(tmp_path, overflow):
    documents = [document(f"d{n}", 3 + n % 30) for n in range(60)]
    for row in documents[::6]:
        row["weights"] = [(at % 5) / 4 for at in range(len(row["ids"]))]
    ones = document("ones", 12, labelled=slice(6, None))
    ones["weights"] = [0.5] * 6 + [1] * 6  # those that are not trained on do not count
    wanted = {
        token: weight
        for row in documents
        if "weights" in row
        for token, weight in zip(row["ids"], row["weights"], strict=True)
    }
    more = {"sequence_length": 16, "packing": {"overflow": overflow}}
    rows = rows_of(pack(tmp_path, [*documents, ones], **more)["train"])
    assert 0 < sum(row["weights"] is None for row in rows) < len(rows)
    for row in rows:
        found = [1] * len(row["ids"]) if row["weights"] is None else row["weights"]
        expected = [wanted.get(token, 1) for token in row["ids"]]
        assert [one for one, trained in zip(found, row["labels"], strict=True) if trained] == [
            one for one, trained in zip(expected, row["labels"], strict=True) if trained
        ]
        assert (row["weights"] is None) == all(
            one == 1 for one, trained in zip(expected, row["labels"], strict=True) if trained
        )
    assert (
        Counter(wanted.get(token, 1) for _, token in trained(rows))
        == Counter(wanted.get(token, 1) for _, token in labelled([*documents, ones]))
        or overflow == "truncate"
    )


@pytest.mark.parametrize("mode", ["best_fit", "none"])
@settings(max_examples=12)
@given(sizes=SIZES, length=st.integers(2, 24))
def test_every_labelled_token_is_trained_on_exactly_once_and_no_row_is_too_long(tmp_path_factory, mode, sizes, length):
    documents = [document(f"d{n}", size, labelled=slice(size // 3, None)) for n, size in enumerate(sizes)]
    tokens = {"sequence_length": length, "tokens_per_step": 4 * length}
    rows = rows_of(pack(tmp_path_factory.mktemp("p"), documents, packing={"mode": mode}, **tokens)["train"])
    assert trained(rows) == labelled(documents)
    assert all(0 < len(row["ids"]) <= length for row in rows)
    assert all(sum(row["lengths"]) == len(row["ids"]) == len(row["labels"]) for row in rows)
    assert all(len(row["lengths"]) == len(row["documents"]) for row in rows)
    if mode == "none":
        assert all(len(row["lengths"]) == 1 for row in rows)


def test_each_document_of_a_row_is_a_run_of_its_own_tokens_whose_first_label_is_false(tmp_path):
    documents = {f"d{n}": document(f"d{n}", 1 + 7 * n % 40, labelled=slice(0, None)) for n in range(60)}
    for row in rows_of(pack(tmp_path, list(documents.values()))["train"]):
        start = 0
        for name, size in zip(row["documents"], row["lengths"], strict=True):
            ids = row["ids"][start : start + size]
            first = documents[name]["ids"].index(ids[0])
            assert ids == documents[name]["ids"][first : first + size]
            assert row["labels"][start] is False
            start += size


def test_splits_are_packed_apart_and_one_without_documents_is_an_empty_artifact(tmp_path):
    documents = [document(f"d{n}", 10, split=n % 2) for n in range(20)]
    packed = pack(tmp_path, documents)
    names = {split: {name for row in rows_of(packed[split]) for name in row["documents"]} for split in SPLITS}
    assert names["train"] == {f"d{n}" for n in range(0, 20, 2)}
    assert names["validation"] == {f"d{n}" for n in range(1, 20, 2)}
    assert packed["test"].manifest.rows == 0 and packed["test"].table().schema == PACKED


def test_the_rows_are_the_same_however_the_examples_lie_in_files(tmp_path):
    documents = [document(f"d{n}", 1 + 5 * n % 33, split=n % 3) for n in range(150)]
    one = pack(tmp_path, documents, units=1, unit_tokens=400)
    five = pack(tmp_path, documents[::-1], units=5, unit_tokens=400)
    assert len(one["train"].manifest.files) > 1
    assert [one[split].manifest.digest for split in SPLITS] == [five[split].manifest.digest for split in SPLITS]


def test_another_seed_is_another_order_of_rows(tmp_path):
    documents = [document(f"d{n}", 16) for n in range(50)]
    orders = [[r["documents"] for r in rows_of(pack(tmp_path, documents, seed=seed)["train"])] for seed in (1, 2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_a_unit_reads_only_row_groups_that_may_hold_its_range(tmp_path, monkeypatch):
    documents = [document(f"d{n}", 20, split=n % 3) for n in range(900)]
    examples = write_examples(str(tmp_path), documents, 2, row_group_bytes=1000)
    read: list[int] = []
    fetch = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *a, **k: read.append(1) or fetch(*a, **k))
    total = sum(pq.read_metadata(uri).num_row_groups for uri in examples.file_uris)
    low, high = 3 << 62, 1 << 64
    found = read_range(examples, {"split": 1, "low": low, "high": high})
    expected = sorted((row["place"], row["document"]) for row in documents if row["split"] == 1 and row["place"] >= low)
    assert [(row["place"], row["document"]) for row in found] == expected
    assert 0 < len(read) < total / 6


@pytest.mark.parametrize("side", ["low", "high"])
def test_a_range_that_begins_or_ends_at_a_place_has_that_document_and_no_further_one(tmp_path, side):
    """The place is every document's in turn, so also of the first and the last of each row group."""
    documents = [document(f"d{n}", 20) | {"place": 1000 + n} for n in range(40)]
    examples = write_examples(str(tmp_path), documents, 2, row_group_bytes=500)
    assert sum(pq.read_metadata(uri).num_row_groups for uri in examples.file_uris) > 4
    for place in range(1000, 1040):
        unit = {"split": 0, "low": 0, "high": 1 << 64} | {side: place}
        found = [row["place"] for row in read_range(examples, unit)]
        assert found == (list(range(place, 1040)) if side == "low" else list(range(1000, place)))


# --- documents longer than a row


def test_a_split_document_continues_from_its_last_token_and_the_counters_say_so(tmp_path):
    packed = pack(tmp_path, [document("long", 40)], packing={"mode": "none"})
    rows = sorted(rows_of(packed["train"]), key=lambda row: row["ids"][0])
    assert [len(row["ids"]) for row in rows] == [16, 16, 10]
    assert rows[0]["ids"][-1] == rows[1]["ids"][0] and rows[1]["labels"][0] is False
    counters = packed["train"].manifest.counters
    assert counters["documents_split"] == 1 and counters["pieces/train"] == 3 and counters["tokens_repeated"] == 2
    assert counters["label_tokens/train"] == 39 and counters["documents/train"] == 1


def test_the_pieces_of_all_rows_are_counted_since_several_share_a_row(tmp_path):
    packed = pack(tmp_path, [document(f"d{number}", 4) for number in range(8)])
    counters = packed["train"].manifest.counters
    assert counters["pieces/train"] == 8 > counters["rows/train"]


def test_a_truncated_document_keeps_its_beginning_and_what_is_cut_is_counted(tmp_path):
    packed = pack(tmp_path, [document("long", 40), document("short", 5)], packing={"overflow": "truncate"})
    assert sorted(len(row["ids"]) for row in rows_of(packed["train"])) == [5, 16]
    counters = packed["train"].manifest.counters
    assert (counters["documents_truncated"], counters["tokens_truncated"]) == (1, 24)


def test_truncation_keeps_each_question_whole_and_leaves_out_one_that_fills_the_row(tmp_path):
    """Turns of 6 tokens, question and answer: the third question begins in the row and is cut off again."""
    chat = document("chat", 40, labelled=slice(0))
    for answer in (slice(3, 6), slice(9, 12), slice(19, 30)):
        chat["labels"][answer] = [True] * (answer.stop - answer.start)
    asked = document("asked", 40, labelled=slice(30, None))
    packed = pack(tmp_path, [chat, asked], packing={"overflow": "truncate"}, columns={"messages": "m"})
    (row,) = rows_of(packed["train"])
    assert (row["documents"], row["ids"]) == (["chat"], chat["ids"][:12])
    counters = packed["train"].manifest.counters
    assert (counters["documents_truncated"], counters["tokens_truncated"]) == (1, 28)
    assert (counters["documents_all_question"], counters["tokens_all_question"]) == (1, 40)
    assert counters["pieces_without_label"] == 0


def test_label_tokens_of_a_split_conversation_that_stand_without_their_question_are_counted(tmp_path):
    chat, text = document("chat", 40, labelled=slice(10, None)), document("text", 40)
    packed = pack(tmp_path, [chat, text], packing={"overflow": "split"}, columns={"messages": "m"})
    # The first piece has labels 10 to 15 of the chat; the others, 16 to 39, have no question. A text asks none.
    assert packed["train"].manifest.counters["label_tokens_apart"] == 24


@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        ({"text": "t"}, ["long", "short"]),
        ({"messages": "m"}, ["short"]),
        ({"prompt": "p", "completion": "c"}, ["short"]),
    ],
)
def test_what_is_too_long_is_split_of_texts_and_dropped_of_chats_and_pairs(tmp_path, columns, kept):
    packed = pack(tmp_path, [document("long", 40), document("short", 5)], columns=columns)
    assert sorted({name for row in rows_of(packed["train"]) for name in row["documents"]}) == kept
    assert packed["train"].manifest.counters.get("documents_dropped", 0) == 2 - len(kept)


def test_a_dropped_document_is_counted(tmp_path):
    packed = pack(tmp_path, [document("long", 40), document("short", 5)], packing={"overflow": "drop"})
    assert [row["documents"] for row in rows_of(packed["train"])] == [["short"]]
    counters = packed["train"].manifest.counters
    assert (counters["documents_dropped"], counters["tokens_dropped"]) == (1, 40)


def test_a_piece_without_a_label_is_left_out_and_counted(tmp_path):
    """A chat whose first 30 tokens are the question: the first row of 16 would teach nothing."""
    whole = {"mode": "none", "overflow": "split"}
    packed = pack(tmp_path, [document("chat", 40, labelled=slice(30, None))], packing=whole)
    assert [sum(row["labels"]) for row in rows_of(packed["train"])] in ([1, 9], [9, 1])
    counters = packed["train"].manifest.counters
    assert (counters["pieces_without_label"], counters["tokens_without_label"]) == (1, 16)
    nothing = pack(tmp_path, [document("chat", 40, labelled=slice(30, None))], packing={"overflow": "truncate"})
    assert nothing["train"].manifest.rows == 0


def test_a_probe_has_one_document_a_row_with_its_class(tmp_path):
    documents = [document(f"d{n}", 3 + 5 * n, labelled=slice(0), label=n % 2) for n in range(8)]
    settings = {
        "method": "probe",
        "packing": {"mode": "none", "overflow": "truncate"},
        "columns": {"text": "t", "label": "l"},
    }
    rows = rows_of(pack(tmp_path, documents, **settings)["train"])
    assert {row["documents"][0]: row["label"] for row in rows} == {f"d{n}": n % 2 for n in range(8)}


def test_the_counters_add_up(tmp_path):
    documents = [document(f"d{n}", 1 + 7 * n % 40) for n in range(100)]
    train = pack(tmp_path, documents, unit_tokens=300)["train"]
    rows, counters = rows_of(train), train.manifest.counters
    assert counters["rows/train"] == len(rows)
    assert counters["tokens/train"] == sum(len(row["ids"]) for row in rows)
    assert counters["padding/train"] == 16 * len(rows) - counters["tokens/train"]
    assert counters["label_tokens/train"] == sum(sum(row["labels"]) for row in rows)
    tokens = sum(len(row["ids"]) for row in documents)
    assert counters["tokens/train"] + counters["tokens_without_label"] == tokens + counters["tokens_repeated"]
