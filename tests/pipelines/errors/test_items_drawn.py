"""Items of any number of rows, which may be of others, in bounded memory."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymill.cluster.examples.splits import hash64
from raymill.cluster.store.store import Store
from raymill.pipelines.errors import analyse, sample
from raymill.pipelines.errors.items import READ_SCHEMA, EvaluatedItem
from raymill.pipelines.errors.runs import records_of
from tests.support.errors_inline import write_lines
from tests.support.inline import prepare_inline


def written(path, items: list[EvaluatedItem], times: int = 1) -> list[str]:
    table = pa.Table.from_pylist([one.row for one in items], READ_SCHEMA)
    pq.write_table(table.take(pa.array(np.tile(np.arange(len(items)), times))), path, row_group_size=10_000)
    return [str(path)]


def item(id: str, prompt: str = "a", error: float = 1.0) -> EvaluatedItem:
    return EvaluatedItem(id, "logs", prompt, "b", error=error)


def test_rows_with_one_id_take_the_memory_of_one(tmp_path):
    """Logs with a million equal rows, some kB of Parquet, were a million dicts in one process."""
    uris = written(tmp_path / "a.parquet", [item("same")], 40_000)
    tracemalloc.start()
    items, repeated, drawn_out = analyse._items(Store(), uris)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ([one.id for one in items], repeated, drawn_out) == (["same"], 39_999, 0)
    assert most < 20 << 20


def test_items_have_bounds_on_their_number_and_their_text(tmp_path, monkeypatch):
    made = [item(f"d{n:04}", "x" * 1_000) for n in range(3_000)]
    uris = written(tmp_path / "a.parquet", made)
    by_hash = sorted((one.id for one in made), key=lambda id: hash64(id.encode()))
    monkeypatch.setattr(sample, "MOST", 100)
    items, repeated, drawn_out = analyse._items(Store(), uris)
    assert [one.id for one in items] == sorted(by_hash[:100]) and (repeated, drawn_out) == (0, 2_900)
    monkeypatch.setattr(sample, "MOST_BYTES", 70_000)
    items, _, drawn_out = analyse._items(Store(), uris)
    assert 30 < len(items) < 60 and drawn_out == 3_000 - len(items)
    assert [one.id for one in items] == sorted(by_hash[: len(items)])


def test_of_items_with_one_id_the_first_by_content_stays(tmp_path):
    for at, order in enumerate((("z", "a"), ("a", "z"))):
        uris = written(tmp_path / f"{at}.parquet", [item("same", prompt) for prompt in order])
        assert [one.prompt for one in analyse._items(Store(), uris)[0]] == ["a"]


def test_training_records_have_the_same_bounds(tmp_path, monkeypatch):
    """60,000 records of 100 kB, 16 MB of Parquet, were held whole."""
    rows = [{"id": f"d{n:04}", "text": f"{n} " + "x y " * 5_000, "category": "a"} for n in range(400)]
    write_lines(tmp_path / "a.jsonl", rows)
    columns = {"text": "text", "category": "category"}
    run = prepare_inline(
        {"inputs": [{"path": str(tmp_path / "a.jsonl"), "id": "id", "columns": columns}], "dedup": None,
         "records": {"shape": "text"}, "split": {"train": 1, "validation": 0, "test": 0},
         "output": str(tmp_path / "data")}, monkeypatch,
    )  # fmt: skip
    every = records_of(Store(), run.uri, ("train",), "metadata.category")
    assert [one.id for one in every] == [row["id"] for row in rows]
    by_hash = sorted((one.id for one in every), key=lambda id: hash64(id.encode()))
    monkeypatch.setattr(sample, "MOST_BYTES", 500_000)
    held = []
    put = sample.SmallestHashes.put
    monkeypatch.setattr(sample.SmallestHashes, "put", lambda own, *rest: (put(own, *rest), held.append(own._bytes)))
    some = records_of(Store(), run.uri, ("train",), "metadata.category")
    assert 15 < len(some) < 30 and [one.id for one in some] == sorted(by_hash[: len(some)])
    assert max(held) <= 2 * 500_000
